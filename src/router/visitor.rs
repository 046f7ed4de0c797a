//! A visitor of a published port: a stream to the client whose tunnel it is. [RVS-3]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Shared;
use super::publish::Server;
use crate::ends::{Peer, Stream, Visitor, introduced};
use crate::relay::{Copying, EndedBy, Entry, Faces, Transferred, first_bytes, pipe};
use crate::routes::Route;
use crate::session::{Receiver, Sender, Session};
use crate::tunnel::Protocol;
use crate::wire::{StreamClass, StreamHeader, VERSION};

/// A visitor's socket that is connected with a stream of the client.
struct Connected {
    copying: Copying,
    /// Says that the client serves it.
    served: oneshot::Receiver<()>,
    visitor: Visitor,
    server: Server,
    entry: Entry,
}

/// Serves one connection from its first byte to its last.
pub(super) async fn serve(shared: Arc<Shared>, place: (Route, Server), stream: Stream, peer: Peer) {
    // Boxed, and so gone when it is over: a task keeps the size of its largest step.
    let connected = Box::pin(connect(&shared, place, stream, peer)).await;
    let Some(connected) = connected else { return };
    let Connected { mut copying, served, visitor, server, entry } = connected;
    let served = Box::pin(until_served(&mut copying, served, &server.session, &entry));
    let transferred = match served.await {
        Some(transferred) => transferred,
        None => copying.await,
    };
    let Transferred { ended_by, halted, .. } = transferred;
    if let Some(halted) = halted {
        return shared.leavings.keep(halted, &entry, format!("for {}", server.client));
    }
    match ended_by {
        EndedBy::Done => {}
        EndedBy::Refused { code, message } => {
            let reason = format!("{message} ({})", code.name());
            note(&shared, &server, &reason);
        }
        ended_by => {
            tracing::debug!(client = server.client, %visitor, %ended_by, "visitor's connection ended")
        }
    }
}

/// The visitor's connection until the client serves it, which is `None`. A client that has died never does: then the
/// visitor waits no longer than for one that is away.
async fn until_served(
    copying: &mut Copying,
    served: oneshot::Receiver<()>,
    session: &Session,
    entry: &Entry,
) -> Option<Transferred> {
    let is_away = async {
        let mut seconds = 0;
        while seconds < OUTAGE_WAIT.as_secs() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            seconds = if session.is_lost() { seconds + 1 } else { 0 };
        }
    };
    tokio::select! {
        transferred = &mut *copying => return Some(transferred),
        // Dropped, it tells of an end, which the copying tells too.
        Ok(()) = served => return None,
        () = is_away => entry.stop.cancel(),
    }
    Some(copying.await)
}

/// Asks the client for its side of the connection; `None` when the visitor was turned away, or is gone.
async fn connect(
    shared: &Shared,
    (route, server): (Route, Server),
    stream: Stream,
    peer: Peer,
) -> Option<Connected> {
    let settings = &shared.settings;
    if shared.table.active() >= settings.max_connections {
        let reason =
            "the router serves as many connections as it may: [performance] max_connections";
        refuse(shared, &server, stream, reason);
        return None;
    }
    // An error means that the visitor is gone already.
    stream.tune(settings.dial.nodelay, settings.dial.keepalive).ok()?;
    let introduced = introduced(stream, peer, &server.trusted).await;
    let (stream, visitor, first) = introduced
        .inspect_err(|error| tracing::debug!(%peer, %error, "visitor turned away"))
        .ok()?;
    let entry =
        shared.table.enter(Protocol::Tcp, Faces::User, visitor.to_string(), &shared.connections);
    let first = if first.is_empty() { first_bytes(&stream, FIRST_PAYLOAD) } else { first };
    entry.counters.count_sent(first.len());
    let opened = tokio::select! {
        opened = open(shared, &route, server, &visitor, first) => opened,
        () = entry.stop.cancelled() => {
            stream.reset();
            return None;
        }
    };
    let (server, sender, mut receiver) = match opened {
        Ok(opened) => opened,
        Err((server, reason)) => {
            refuse(shared, &server, stream, &reason);
            return None;
        }
    };
    let served = receiver.served();
    let copying = pipe(stream, sender, receiver, settings.relay, &entry);
    Some(Connected { copying, served, visitor, server, entry })
}

/// A stream of a client that serves the port; waits for one that was lost and may come back.
async fn open(
    shared: &Shared,
    route: &Route,
    mut server: Server,
    visitor: &Visitor,
    first: Bytes,
) -> Result<(Server, Sender, Receiver), (Server, String)> {
    let limit = Instant::now() + OUTAGE_WAIT;
    loop {
        let header = StreamHeader {
            version: VERSION,
            tunnel: server.rules.tunnel,
            class: StreamClass::Incoming.into(),
            visitor: visitor.to_string(),
            visited: visitor.visited(),
            ..StreamHeader::default()
        };
        let error = match server.session.open(header, first.clone()).await {
            Ok((sender, receiver)) => return Ok((server, sender, receiver)),
            Err(error) => error,
        };
        // Nothing has left: its connection was lost before.
        match successor(shared, route, &server.session, limit).await {
            Some(next) => server = next,
            None => return Err((server, error.to_string())),
        }
    }
}

/// Who serves the port after a session that was lost and may come back; `None` when nobody does until `limit`.
async fn successor(
    shared: &Shared,
    route: &Route,
    lost: &Session,
    limit: Instant,
) -> Option<Server> {
    while lost.outlives() && Instant::now() < limit {
        tokio::time::sleep(LOOK_AGAIN).await;
        let next = shared.published.pick(route)?;
        if !next.session.is(lost) && !next.session.is_lost() {
            return Some(next);
        }
    }
    None
}

/// The visitor sees an RST, the operator a reason.
fn refuse(shared: &Shared, server: &Server, stream: Stream, reason: &str) {
    stream.reset();
    note(shared, server, reason);
}

fn note(shared: &Shared, server: &Server, reason: &str) {
    let target = format!("tunnel {}", server.rules.tunnel);
    if shared.table.refuse(&target, Some(&server.client), reason) {
        tracing::warn!(client = server.client, target, reason, "visitor refused");
    }
}

/// How long a visitor waits for a client that may come back: as long as a user does at the other end.
const OUTAGE_WAIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What leaves together with the header: one read of an ordinary request. [STR-2]
const FIRST_PAYLOAD: usize = 16 << 10;
