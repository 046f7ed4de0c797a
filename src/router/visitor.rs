//! A visitor of a published port: a stream to the client whose tunnel it is. [RVS-3]

use std::sync::Arc;

use super::Shared;
use super::publish::Server;
use crate::ends::{Peer, Stream, Visitor, introduced};
use crate::relay::{Copying, EndedBy, Entry, Faces, first_bytes, pipe};
use crate::tunnel::Protocol;
use crate::wire::{StreamClass, StreamHeader, VERSION};

/// A visitor's socket that is connected with a stream of the client.
struct Connected {
    copying: Copying,
    visitor: Visitor,
    _entry: Entry,
}

/// Serves one connection from its first byte to its last.
pub(super) async fn serve(shared: Arc<Shared>, server: Server, stream: Stream, peer: Peer) {
    // Boxed, and so gone when it is over: a task keeps the size of its largest step.
    let connected = Box::pin(connect(&shared, &server, stream, peer)).await;
    let Some(Connected { copying, visitor, _entry }) = connected else { return };
    match copying.await.ended_by {
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

/// Asks the client for its side of the connection; `None` when the visitor was turned away, or is gone.
async fn connect(
    shared: &Shared,
    server: &Server,
    stream: Stream,
    peer: Peer,
) -> Option<Connected> {
    let settings = &shared.settings;
    if shared.table.active() >= settings.max_connections {
        let reason =
            "the router serves as many connections as it may: [performance] max_connections";
        refuse(shared, server, stream, reason);
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
    let header = StreamHeader {
        version: VERSION,
        tunnel: server.rules.tunnel,
        class: StreamClass::Incoming.into(),
        visitor: visitor.to_string(),
        visited: visitor.visited(),
        ..StreamHeader::default()
    };
    let first = if first.is_empty() { first_bytes(&stream, FIRST_PAYLOAD) } else { first };
    entry.counters.count_sent(first.len());
    let opened = tokio::select! {
        opened = server.session.open(header, first) => opened,
        () = entry.stop.cancelled() => {
            stream.reset();
            return None;
        }
    };
    let (sender, receiver) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            refuse(shared, server, stream, &error.to_string());
            return None;
        }
    };
    let copying = pipe(stream, sender, receiver, settings.relay, &entry.counters, &entry.stop);
    Some(Connected { copying, visitor, _entry: entry })
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

/// What leaves together with the header: one read of an ordinary request. [STR-2]
const FIRST_PAYLOAD: usize = 16 << 10;
