//! Forward TCP: a user's socket becomes a stream.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;

use super::Shared;
use super::link::TUNNEL;
use crate::ends::{Listener, reset, tune};
use crate::relay::{EndedBy, Entry, first_bytes, pipe};
use crate::session::{Receiver, Sender, Session};
use crate::task::Tasks;
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};

/// Accepts until no new connections are wanted; each gets a task.
pub(super) async fn accept(shared: Arc<Shared>, tasks: Tasks, listener: Listener) {
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.accepting.cancelled() => return,
        };
        if shared.table.active() >= shared.settings.max_connections {
            refuse(
                &shared,
                socket,
                "too many connections: [performance] max_connections is reached",
            );
            continue;
        }
        let entry = shared.table.enter(peer, &shared.connections);
        tasks.spawn("connection", serve(Arc::clone(&shared), socket, peer, entry));
    }
}

async fn serve(shared: Arc<Shared>, socket: TcpStream, peer: SocketAddr, entry: Entry) {
    let settings = &shared.settings;
    if tune(&socket, settings.sockets.nodelay, settings.sockets.keepalive).is_err() {
        return; // The user is gone already.
    }
    let (_session, sender, mut receiver) =
        match entry.stop.run_until_cancelled(open(&shared, &socket, &entry)).await {
            Some(Ok(opened)) => opened,
            Some(Err(reason)) => return refuse(&shared, socket, &reason),
            None => return reset(socket),
        };
    let mut served = receiver.served();
    let moved = {
        let piping = pipe(socket, sender, receiver, &settings.relay, &entry.counters, &entry.stop);
        let mut piping = pin!(piping);
        tokio::select! {
            moved = &mut piping => moved,
            Ok(()) = &mut served => {
                shared.last_outcome.served();
                piping.await
            }
        }
    };
    // Both at once: it was served and is over already.
    if served.try_recv().is_ok() {
        shared.last_outcome.served();
    }
    match moved.ended_by {
        EndedBy::Refused { code, message } => {
            if code != Code::Killed {
                let target = settings.tunnel.source.to_string();
                shared.last_outcome.not_served(&target, &message);
            }
            if note(&shared, &message) {
                tracing::warn!(%peer, code = code.name(), reason = message, "connection refused");
            }
        }
        EndedBy::Lost(reason) => {
            note(&shared, &reason);
            tracing::debug!(%peer, reason, "connection lost");
        }
        ended_by => {
            tracing::debug!(%peer, sent = moved.sent, received = moved.received, %ended_by, "connection ended")
        }
    }
}

/// A stream for the connection, and the session that it needs; waits for one during an outage. Says why not.
async fn open(
    shared: &Shared,
    socket: &TcpStream,
    entry: &Entry,
) -> Result<(Session, Sender, Receiver), String> {
    let Some(session) = shared.link.session(shared.settings.outage_wait).await else {
        let reason = shared.link.last_error().unwrap_or_else(|| "no session".to_owned());
        return Err(format!("no session with the router: {reason}"));
    };
    let header = StreamHeader {
        version: VERSION,
        tunnel: TUNNEL,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    };
    let first = first_bytes(socket, FIRST_PAYLOAD);
    entry.counters.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
    let stream = session.open(header, first).await;
    let (sender, receiver) = stream.map_err(|error| error.to_string())?;
    Ok((session, sender, receiver))
}

/// The user sees an RST, the operator a reason.
fn refuse(shared: &Shared, socket: TcpStream, reason: &str) {
    reset(socket);
    if note(shared, reason) {
        tracing::warn!(reason, "connection refused");
    }
}

fn note(shared: &Shared, reason: &str) -> bool {
    shared.table.refuse(&shared.settings.tunnel.source.to_string(), None, reason)
}

/// What leaves together with the header: one read of an ordinary request. [STR-2]
const FIRST_PAYLOAD: usize = 16 << 10;
