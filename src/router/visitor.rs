//! A visitor of a published port: a stream to the client whose tunnel it is. [RVS-3]

#[cfg(unix)]
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Shared;
use super::publish::Server;
#[cfg(unix)]
use crate::ends;
use crate::ends::{Peer, Stream, introduced};
use crate::relay::{Copying, EndedBy, Entry, Faces, Transferred, first_bytes, pipe};
use crate::routes::Route;
use crate::session::{Receiver, Sender, Session};
use crate::tunnel::Protocol;
#[cfg(unix)]
use crate::wire::handover;
use crate::wire::{StreamClass, StreamHeader, VERSION};

/// A visitor's socket that is connected with a stream of the client.
struct Connected {
    copying: Copying,
    /// Says that the client serves it.
    served: oneshot::Receiver<()>,
    visitor: String,
    server: Server,
    entry: Entry,
}

/// Ends with a visitor's connection to the client, if there is one.
type Connecting = Pin<Box<dyn Future<Output = Option<Connected>> + Send>>;

/// Serves one connection from its first byte to its last.
pub(super) fn serve(
    shared: Arc<Shared>,
    place: (Route, Server),
    stream: Stream,
    peer: Peer,
) -> impl Future<Output = ()> + Send {
    let at = Arc::clone(&shared);
    let connecting = async move { connect(&at, place, stream, peer).await };
    carry(shared, Box::pin(connecting))
}

/// What connects is boxed, and so gone when it is over: a task keeps the size of its largest step.
async fn carry(shared: Arc<Shared>, connecting: Connecting) {
    let Some(connected) = connecting.await else { return };
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
            tracing::debug!(client = server.client, visitor, %ended_by, "visitor's connection ended")
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

/// A visitor that is not connected with the client yet.
#[derive(Debug)]
pub(super) struct Guest {
    stream: Stream,
    /// Who it is, and where it has come to, as the client is told.
    visitor: String,
    visited: String,
    /// What has been read of it.
    first: Bytes,
    route: Route,
    /// When it is turned away.
    until: Instant,
}

/// Why a visitor has no stream.
enum Unserved {
    Refused(Server, String),
    /// Another process goes on.
    Left,
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
    let first = if first.is_empty() { first_bytes(&stream, FIRST_PAYLOAD) } else { first };
    let (visitor, visited) = (visitor.to_string(), visitor.visited());
    let until = Instant::now() + OUTAGE_WAIT;
    let guest = Guest { stream, visitor, visited, first, route, until };
    let entry = guest.enters(shared);
    guest.connects(shared, server, entry).await
}

impl Guest {
    fn enters(&self, shared: &Shared) -> Entry {
        let visitor = self.visitor.clone();
        let entry = shared.table.enter(Protocol::Tcp, Faces::User, visitor, &shared.connections);
        entry.counters.count_sent(self.first.len());
        entry
    }

    async fn connects(self, shared: &Shared, server: Server, entry: Entry) -> Option<Connected> {
        let opened = tokio::select! {
            opened = self.open(shared, server) => opened,
            () = entry.stop.cancelled() => {
                self.stream.reset();
                return None;
            }
        };
        let (server, sender, mut receiver) = match opened {
            Ok(opened) => opened,
            Err(Unserved::Refused(server, reason)) => {
                refuse(shared, &server, self.stream, &reason);
                return None;
            }
            Err(Unserved::Left) => {
                shared.leavings.keep_guest(self);
                return None;
            }
        };
        let served = receiver.served();
        let copying = pipe(self.stream, sender, receiver, shared.settings.relay, &entry);
        Some(Connected { copying, served, visitor: self.visitor, server, entry })
    }

    /// A stream of a client that serves the port; waits for one that was lost and may come back.
    async fn open(
        &self,
        shared: &Shared,
        mut server: Server,
    ) -> Result<(Server, Sender, Receiver), Unserved> {
        loop {
            let header = StreamHeader {
                version: VERSION,
                tunnel: server.rules.tunnel,
                class: StreamClass::Incoming.into(),
                visitor: self.visitor.clone(),
                visited: self.visited.clone(),
                ..StreamHeader::default()
            };
            let error = match server.session.open(header, self.first.clone()).await {
                Ok((sender, receiver)) => return Ok((server, sender, receiver)),
                Err(error) => error,
            };
            // Nothing has left: its connection was lost before.
            match self.successor(shared, &server.session).await? {
                Some(next) => server = next,
                None => return Err(Unserved::Refused(server, error.to_string())),
            }
        }
    }

    /// Who serves the port after a session that was lost and may come back; `None` when nobody does in time.
    async fn successor(&self, shared: &Shared, lost: &Session) -> Result<Option<Server>, Unserved> {
        while lost.outlives() && Instant::now() < self.until {
            shared.looks_again().await?;
            let Some(next) = shared.published.pick(&self.route) else { return Ok(None) };
            if !next.session.is(lost) && !next.session.is_lost() {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }
}

impl Shared {
    /// A moment passes.
    async fn looks_again(&self) -> Result<(), Unserved> {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(()),
            () = self.leaving.cancelled() => Err(Unserved::Left),
        }
    }
}

/// What one process leaves to the next. [UPG-8]
#[cfg(unix)]
impl Guest {
    pub(super) fn left(&self) -> io::Result<handover::Visitor> {
        let left = self.until.saturating_duration_since(Instant::now());
        Ok(handover::Visitor {
            socket: ends::leave_open(&self.stream)?,
            is_unix: self.stream.is_unix(),
            bind: self.route.bind().to_string(),
            visitor: self.visitor.clone(),
            visited: self.visited.clone(),
            first: self.first.clone(),
            patience_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// One that the process before has left.
    pub(super) fn adopted(left: &handover::Visitor) -> io::Result<Self> {
        let stream = Stream::adopted(ends::adopt(left.socket)?, left.is_unix)?;
        let route = left.bind.parse().ok().and_then(|bind| Route::new(Protocol::Tcp, &bind));
        let Some(route) = route else {
            stream.reset();
            return Err(io::Error::other(format!("{:?} is no place to listen", left.bind)));
        };
        Ok(Self {
            stream,
            visitor: left.visitor.clone(),
            visited: left.visited.clone(),
            first: left.first.clone(),
            route,
            until: Instant::now() + Duration::from_millis(left.patience_ms).min(OUTAGE_WAIT),
        })
    }

    /// Waits for the client whose port it has come to, and is served.
    pub(super) fn goes_on(self, shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
        let at = Arc::clone(&shared);
        carry(shared, Box::pin(async move { self.waits(&at).await }))
    }

    async fn waits(self, shared: &Shared) -> Option<Connected> {
        let entry = self.enters(shared);
        let server = tokio::select! {
            server = self.first_server(shared) => server,
            () = entry.stop.cancelled() => {
                self.stream.reset();
                return None;
            }
        };
        match server {
            Ok(Some(server)) => return self.connects(shared, server, entry).await,
            Ok(None) => {
                self.stream.reset();
                let reason = "its client has not come back";
                shared.table.refuse(&self.route.to_string(), None, reason);
            }
            Err(_) => shared.leavings.keep_guest(self),
        }
        None
    }

    async fn first_server(&self, shared: &Shared) -> Result<Option<Server>, Unserved> {
        while Instant::now() < self.until {
            let server = shared.published.pick(&self.route);
            if let Some(server) = server.filter(|server| !server.session.is_lost()) {
                return Ok(Some(server));
            }
            shared.looks_again().await?;
        }
        Ok(None)
    }
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A connection that was left to this process, and the other end of it.
    fn left() -> (std::net::TcpStream, handover::Visitor) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let user = std::net::TcpStream::connect(addr).expect("connected");
        let (stream, _) = listener.accept().expect("accepted");
        stream.set_nonblocking(true).expect("set");
        let visitor = handover::Visitor {
            socket: ends::leave(&stream).expect("left"),
            is_unix: false,
            bind: addr.to_string(),
            visitor: "192.0.2.1:5".to_owned(),
            visited: addr.to_string(),
            first: Bytes::from_static(b"hello"),
            patience_ms: 3_600_000,
        };
        (user, visitor)
    }

    /// [UPG-8]
    #[tokio::test]
    async fn what_one_process_leaves_of_a_visitor_the_next_one_leaves_too() {
        let (_user, visitor) = left();
        let guest = Guest::adopted(&visitor).expect("adopted");
        let again = guest.left().expect("left");
        assert!(again.patience_ms <= OUTAGE_WAIT.as_millis() as u64, "{again:?}");
        let (socket, patience_ms) = (again.socket, again.patience_ms);
        assert_eq!(again, handover::Visitor { socket, patience_ms, ..visitor });
    }

    #[tokio::test]
    async fn a_visitor_that_contradicts_itself_is_reset_or_none() {
        let (user, visitor) = left();
        let nowhere = handover::Visitor { bind: "nowhere".to_owned(), ..visitor };
        assert!(Guest::adopted(&nowhere).is_err());
        let end = std::io::Read::read(&mut &user, &mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
        for socket in [0, u32::MAX] {
            assert!(Guest::adopted(&handover::Visitor { socket, ..nowhere.clone() }).is_err());
        }
    }
}
