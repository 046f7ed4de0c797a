//! The door: who knocks costs nothing until it has proved an address, and little until it has proved a key.

use std::sync::Arc;
use std::time::Instant;

use super::gate::{Gate, Seat, Verdict};
use super::{Shared, admit, serve};
use crate::session::{HandshakeError, accept as applicant};
use crate::task::Tasks;
use crate::transport::Arrival;

/// Accepts until the router stops. Handshakes run in tasks of their own: a silent peer stalls nobody.
pub(super) async fn accept(shared: Arc<Shared>, tasks: Tasks) {
    let (mut gate, mut is_draining) = (Gate::new(), false);
    loop {
        let arrival = tokio::select! {
            arrival = shared.endpoint.accept(), if !is_draining => arrival,
            caller = shared.endpoint.call() => {
                gate.call(caller, &tasks);
                continue;
            }
            // Who is here may still have to change the carrier.
            () = shared.accepting.cancelled(), if !is_draining => {
                is_draining = true;
                continue;
            }
            // Whoever calls from here on is the next process's.
            () = shared.leaving.cancelled() => return,
            () = tasks.token().cancelled() => return,
        };
        let Some(arrival) = arrival else { return };
        match gate.judge(arrival.remote_addr(), arrival.is_validated(), Instant::now()) {
            Verdict::Prove => arrival.ask_for_proof(),
            Verdict::Refuse => arrival.refuse(),
            Verdict::Enter => {
                let seat = gate.seat(arrival.remote_addr());
                tasks.spawn_until_cancelled(
                    "client",
                    client(Arc::clone(&shared), tasks.clone(), arrival, seat),
                );
            }
        }
    }
}

async fn client(shared: Arc<Shared>, tasks: Tasks, arrival: Arrival, seat: Seat) {
    let addr = arrival.remote_addr();
    let Some(connection) = arrival.handshake().await else {
        return tracing::debug!(%addr, "handshake failed");
    };
    let applicant = match applicant(connection, &shared.settings.session).await {
        Ok(applicant) => applicant,
        Err(HandshakeError::Lost(reason) | HandshakeError::Refused { reason, .. }) => {
            return tracing::debug!(%addr, reason, "gone before it said who it is");
        }
        Err(error) => {
            let reason = error.to_string();
            // Once for each reason: the log is not a stranger's to fill.
            if shared.table.refuse("a session", None, &reason) {
                tracing::warn!(%addr, reason, "client refused");
            }
            return;
        }
    };
    let Some(admitted) = admit::admit(&shared, applicant, &tasks).await else { return };
    drop(seat);
    serve::serve(shared, tasks, admitted).await;
}
