//! Forward TCP: a user's socket becomes a stream.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Shared;
use super::declare::{TUNNEL, pair};
use crate::ends::{Listener, Peer, Stream, Visitor, introduced};
use crate::relay::{Copying, EndedBy, Entry, Faces, first_bytes, pipe};
use crate::session::{Receiver, Sender, Session};
use crate::task::Tasks;
use crate::tunnel::{Protocol, ProxyProtocol};
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};

/// One port of the tunnel, as its users need it.
struct Port {
    shared: Arc<Shared>,
    tunnel: u32,
}

/// Accepts until no new connections are wanted; each gets a task.
pub(super) async fn accept(shared: Arc<Shared>, tasks: Tasks, index: usize, listener: Listener) {
    let port = Arc::new(Port { tunnel: TUNNEL + index as u32, shared: Arc::clone(&shared) });
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.accepting.cancelled() => return,
        };
        if shared.table.active() >= shared.settings.max_connections {
            port.refuse(socket, "too many connections: [performance] max_connections is reached");
            continue;
        }
        tasks.spawn("connection", Arc::clone(&port).serve(socket, peer));
    }
}

/// A user's socket that is connected with a stream.
struct Connected {
    copying: Copying,
    /// Heard when the target answers for the first time.
    served: oneshot::Receiver<()>,
    visitor: Visitor,
    _entry: Entry,
    /// A session ends when nobody has a handle to it.
    _session: Session,
}

impl Port {
    /// Serves one connection from its first byte to its last.
    fn serve(self: Arc<Self>, socket: Stream, peer: Peer) -> impl Future<Output = ()> {
        // What comes before the copying is boxed, and so gone when it is over: a task keeps the size of its largest step
        // as long as it lives, and a connection that is idle should cost little.
        let connecting = Box::pin(Arc::clone(&self).connect(socket, peer));
        async move {
            let Some(mut connected) = connecting.await else { return };
            let moved = tokio::select! {
                moved = &mut connected.copying => moved,
                Ok(()) = &mut connected.served => {
                    self.shared.last_outcome.served();
                    (&mut connected.copying).await
                }
            };
            // Both at once: it was served and is over already.
            if connected.served.try_recv().is_ok() {
                self.shared.last_outcome.served();
            }
            self.ended(&connected.visitor, moved.ended_by);
        }
    }

    /// Asks the router for its side of the connection; `None` when the user was turned away, or is gone.
    async fn connect(self: Arc<Self>, socket: Stream, peer: Peer) -> Option<Connected> {
        let settings = &self.shared.settings;
        let entry = self.shared.table.enter(
            Protocol::Tcp,
            Faces::User,
            peer.to_string(),
            &self.shared.connections,
        );
        // An error means that the user is gone already.
        socket.tune(settings.sockets.nodelay, settings.sockets.keepalive).ok()?;
        let introduced = introduced(socket, peer, &settings.tunnel.options.trusted_proxies).await;
        let (socket, visitor, first) = introduced
            .inspect_err(|error| tracing::debug!(%peer, %error, "user turned away"))
            .ok()?;
        let opening = self.open(&socket, &visitor, first, &entry);
        let (_session, sender, mut receiver) = match entry.stop.run_until_cancelled(opening).await {
            Some(Ok(opened)) => opened,
            Some(Err(reason)) => {
                self.refuse(socket, &reason);
                return None;
            }
            None => {
                socket.reset();
                return None;
            }
        };
        let served = receiver.served();
        let copying = pipe(socket, sender, receiver, settings.relay, &entry);
        Some(Connected { copying, served, visitor, _entry: entry, _session })
    }

    /// A stream for the connection, and the session that it needs; waits for one during an outage. Says why not.
    async fn open(
        &self,
        socket: &Stream,
        visitor: &Visitor,
        first: Bytes,
        entry: &Entry,
    ) -> Result<(Session, Sender, Receiver), String> {
        let settings = &self.shared.settings;
        let link = &self.shared.link;
        let Some(mut session) = link.session(settings.outage_wait).await else {
            let reason = link.last_error().unwrap_or_else(|| "no session".to_owned());
            return Err(format!("no session with the router: {reason}"));
        };
        let mut header = StreamHeader {
            version: VERSION,
            tunnel: self.tunnel,
            class: StreamClass::Connect.into(),
            ..StreamHeader::default()
        };
        // Who uses the tunnel is told to nobody who was not meant to hear it. [RVS-9]
        if settings.tunnel.options.proxy_protocol != ProxyProtocol::Off {
            (header.visitor, header.visited) = (visitor.to_string(), visitor.visited());
        }
        let first = if first.is_empty() { first_bytes(socket, FIRST_PAYLOAD) } else { first };
        entry.counters.count_sent(first.len());
        loop {
            let error = match session.open(header.clone(), first.clone()).await {
                Ok((sender, receiver)) => return Ok((session, sender, receiver)),
                Err(error) => error,
            };
            // Nothing has left: its connection was lost before.
            let next = link.session_after(&session, settings.outage_wait).await;
            session = next.ok_or_else(|| error.to_string())?;
        }
    }

    fn ended(&self, visitor: &Visitor, ended_by: EndedBy) {
        match ended_by {
            EndedBy::Refused { code, message } => {
                if code != Code::Killed {
                    self.shared.last_outcome.not_served(self.tunnel, &self.source(), &message);
                }
                if self.note(&message) {
                    tracing::warn!(%visitor, code = code.name(), reason = message, "connection refused");
                }
            }
            EndedBy::Lost(reason) => {
                self.note(&reason);
                tracing::debug!(%visitor, reason, "connection lost");
            }
            ended_by => tracing::debug!(%visitor, %ended_by, "connection ended"),
        }
    }

    /// The user sees an RST, the operator a reason.
    fn refuse(&self, socket: Stream, reason: &str) {
        socket.reset();
        if self.note(reason) {
            tracing::warn!(reason, "connection refused");
        }
    }

    fn note(&self, reason: &str) -> bool {
        self.shared.table.refuse(&self.source(), None, reason)
    }

    fn source(&self) -> String {
        let found = pair(&self.shared.settings.tunnel, self.tunnel);
        found.map(|(_, source)| source.to_string()).unwrap_or_default()
    }
}

/// What leaves together with the header: one read of an ordinary request. [STR-2]
const FIRST_PAYLOAD: usize = 16 << 10;
