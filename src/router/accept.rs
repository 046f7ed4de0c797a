//! The door: who knocks costs nothing until it has proved an address, and little until it has proved a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Shared, admit, serve};
use crate::session::{HandshakeError, accept as applicant};
use crate::task::Tasks;
use crate::transport::Arrival;

/// Accepts until the router stops. Handshakes run in tasks of their own: a silent peer stalls nobody.
pub(super) async fn accept(shared: Arc<Shared>, tasks: Tasks) {
    let mut gate = Gate::new();
    loop {
        let arrival = tokio::select! {
            arrival = shared.endpoint.accept() => arrival,
            () = shared.accepting.cancelled() => return,
        };
        let Some(arrival) = arrival else { return };
        match gate.judge(arrival.is_validated(), Instant::now()) {
            Verdict::Prove => arrival.ask_for_proof(),
            Verdict::Refuse => arrival.refuse(),
            Verdict::Enter => {
                let seat = gate.seat();
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

/// Decides with arithmetic alone whether somebody may cost cryptography.
#[derive(Debug)]
struct Gate {
    half_open: Arc<AtomicUsize>,
    second: Instant,
    in_second: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Enter,
    Prove,
    Refuse,
}

/// One handshake under way.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    fn new() -> Self {
        Self { half_open: Arc::default(), second: Instant::now(), in_second: 0 }
    }

    fn judge(&mut self, validated: bool, now: Instant) -> Verdict {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.in_second) = (now, 0);
        }
        self.in_second += 1;
        let half_open = self.half_open.load(Ordering::Relaxed);
        if half_open >= HALF_OPEN_MOST {
            Verdict::Refuse
        } else if !validated
            && (half_open >= HALF_OPEN_FREE || self.in_second > NEW_PER_SECOND_FREE)
        {
            Verdict::Prove
        } else {
            Verdict::Enter
        }
    }

    fn seat(&self) -> Seat {
        self.half_open.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(&self.half_open))
    }
}

/// Handshakes at one time; OpenSSH's MaxStartups is 100.
const HALF_OPEN_MOST: usize = 256;
/// Up to here nobody has to prove an address, which saves a round trip.
const HALF_OPEN_FREE: usize = 64;
/// The same for newcomers within a second.
const NEW_PER_SECOND_FREE: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_load_strangers_prove_their_address_and_then_nobody_enters() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let mut seats: Vec<Seat> = (0..HALF_OPEN_FREE).map(|_| gate.seat()).collect();
        assert_eq!(gate.judge(false, now), Verdict::Prove);
        assert_eq!(gate.judge(true, now), Verdict::Enter);
        seats.extend((HALF_OPEN_FREE..HALF_OPEN_MOST).map(|_| gate.seat()));
        assert_eq!(gate.judge(true, now), Verdict::Refuse);
        seats.clear();
        assert_eq!(gate.judge(false, now), Verdict::Enter);
    }

    #[test]
    fn a_rush_within_a_second_is_asked_for_proof() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let verdicts: Vec<_> = (0..=NEW_PER_SECOND_FREE).map(|_| gate.judge(false, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Prove).count(), 1);
        assert_eq!(gate.judge(false, now + Duration::from_secs(2)), Verdict::Enter);
    }
}
