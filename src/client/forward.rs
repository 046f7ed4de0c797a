//! Forward TCP: a user's socket becomes a stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;

use super::Shared;
use super::link::TUNNEL;
use crate::ends::{Listener, reset, tune};
use crate::relay::{EndedBy, Entry, first_bytes, pipe};
use crate::task::Tasks;
use crate::wire::{StreamClass, StreamHeader, VERSION};

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
    let Some(session) = shared.link.session(settings.outage_wait).await else {
        let reason = shared.link.last_error().unwrap_or_else(|| "no session".to_owned());
        return refuse(&shared, socket, &format!("no session with the router: {reason}"));
    };
    let header = StreamHeader {
        version: VERSION,
        tunnel: TUNNEL,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    };
    let first = first_bytes(&socket, FIRST_PAYLOAD);
    entry.counters.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
    let (sender, receiver) = match session.open(header, first).await {
        Ok(stream) => stream,
        Err(error) => return refuse(&shared, socket, &error.to_string()),
    };
    let moved = pipe(socket, sender, receiver, &settings.relay, &entry.counters, &entry.stop).await;
    match moved.ended_by {
        EndedBy::Refused { code, message } => {
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
