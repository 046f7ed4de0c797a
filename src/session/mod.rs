//! Proves who the peer is and yields an authenticated [`Session`].
//!
//! A session carries streams and one control stream; it neither dials nor decides who may enter (the router asks
//! `store` and `policy` between [`accept`] and [`Applicant::admit`]). Implements `proto-spec/session.md` and
//! `proto-spec/streams.md`.

mod applicant;
mod continuity;
mod control;
mod datagrams;
mod frames;
mod handover;
mod handshake;
mod incoming;
mod intake;
mod kept;
mod ledger;
mod pulse;
mod receiver;
mod resume;
mod sender;
mod strand;
mod urgency;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use applicant::{Admission, Applicant, REFUSAL, REVOKED, TicketProof, TokenProof, accept};
pub use datagrams::{DatagramRoom, SendDatagramError};
pub use frames::ReceiveFrameError;
pub use handover::{Halted, Past, TakenUp};
pub use handshake::{HandshakeError, Introduction, initiate};
pub use incoming::{Incoming, Knock, OpenError, Seat};
pub use receiver::{ReceiveError, Receiver};
pub use sender::{InFlight, SendError, Sender};

use crate::transport::{Connection, PathStats};
use crate::tunnel::Identity;
use crate::wire::{
    Code, Control, Declare, Declared, FlowClose, FlowOpen, GoAway, Replaced, StreamHeader,
    Withdraw, control::Message,
};
use ledger::{Ledger, NotEntered};
use strand::Kind;

/// An authenticated connection: a clone is another handle to the same one, and the last one that is dropped closes it.
/// Made by [`initiate`] and [`Applicant::admit`] alone, so no unauthenticated session can exist.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// The connection's number among those that have carried the session.
    generation: u32,
    ledger: Arc<Ledger>,
    outbox: mpsc::Sender<Control>,
    terms: Terms,
    next_token: AtomicU64,
    credit: StreamCredit,
    datagrams: datagrams::Limits,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Does nothing when it is closed already.
        self.connection.close(Code::Done.number(), "nobody needs the session any more");
        if !self.ledger.continuity.is_lost() {
            self.ledger.close(self.generation);
        }
    }
}

/// What router and client agreed on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// 16 random bytes, the router's choice.
    pub session_id: [u8; 16],
    /// The router's clock when it admitted the client; the epoch when it did not say.
    pub router_time: SystemTime,
    /// The name under which the router knows the client.
    pub name: String,
    /// Version of the peer's program.
    pub peer_version: String,
    /// Whether the client may reach any target.
    pub owner: bool,
    /// The rules, when it is no owner.
    pub targets: Vec<String>,
    /// The rules for where it may have the router listen.
    pub binds: Vec<String>,
    /// Whether the client was unknown until now, and has used its ticket.
    pub enrolled: bool,
}

/// What can be set about a session; both ends have their own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a peer may take for Hello, Authenticate and Accepted, and for a stream's header.
    pub message_timeout: Duration,
    /// Undelivered bytes of one direction of one stream at the start.
    pub window_initial: u64,
    /// The same, at most.
    pub window_max: u64,
    /// Undelivered bytes of all streams together. Worst-case memory for stalled readers at the far end.
    pub budget: u64,
    /// Streams that the peer may have open at one time, at most.
    pub max_streams: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            message_timeout: Duration::from_secs(5),
            window_initial: 256 << 10,
            window_max: 32 << 20,
            budget: 64 << 20,
            max_streams: 16_384,
        }
    }
}

/// What the peer says on the control stream, once `Delivered` is taken out.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A client declares a tunnel.
    Declare(Declare),
    /// The router's answer.
    Declared(Declared),
    /// A client takes a tunnel back.
    Withdraw(Withdraw),
    /// The peer is about to leave.
    GoAway(GoAway),
    /// Another process of this client has taken a tunnel over.
    Replaced(Replaced),
    /// A flow begins.
    FlowOpen(FlowOpen),
    /// A flow is over.
    FlowClose(FlowClose),
}

impl Session {
    /// Who the peer is.
    pub fn peer(&self) -> Identity {
        self.0.connection.peer()
    }

    /// What was agreed on.
    pub fn terms(&self) -> &Terms {
        &self.0.terms
    }

    /// Whether this is another handle to the same one, and on the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The connection below, for what it knows of the path.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// The state of the path.
    pub fn path(&self) -> PathStats {
        self.0.connection.path()
    }

    /// Bytes that were sent and are not known to have reached a socket at the far end.
    pub fn undelivered(&self) -> u64 {
        self.0.ledger.undelivered()
    }

    /// Opens a stream. Header and `payload` leave together; nothing waits for the far dial, whose outcome comes as
    /// the [`Receiver`]'s first word. Waits while the peer's limit of streams is used up. Cancel-safe until then. What is
    /// lost on its way is opened again on the next connection. [STR-1] [STR-2] [RSM-7]
    pub async fn open(
        &self,
        mut header: StreamHeader,
        payload: Bytes,
    ) -> Result<(Sender, Receiver), OpenError> {
        let (send, receive) = self.0.connection.open().await?;
        let ledger = &self.0.ledger;
        let kind = Kind { lasts: ledger.lasts(header.class), opened_here: true };
        let strand = loop {
            header.token = self.0.next_token.fetch_add(1, Ordering::Relaxed);
            match ledger.enter(header.token, kind, self.0.generation) {
                Ok(strand) => break strand,
                Err(NotEntered::Taken) => {}
                Err(NotEntered::Outdated) => return Err(OpenError::outdated()),
            }
        };
        strand.opens_with(&header);
        let mut sender = Sender::new(send, ledger, Arc::clone(&strand));
        sender.send_header(&header, payload).await?;
        Ok((sender, Receiver::expecting_answer(receive, ledger, strand)))
    }

    /// The peer's next stream, its header still unread; one too many is reset. Cancel-safe. [STR-10]
    pub async fn accept(&self) -> Result<Knock, OpenError> {
        loop {
            let (send, receive) = self.0.connection.accept().await?;
            match Seat::take(self) {
                Some(seat) => return Ok(Knock::new(send, receive, self.clone(), seat)),
                None => incoming::turn_away(send, receive, Code::Limit),
            }
        }
    }

    /// Says something on the control stream; waits while the peer does not read. Cancel-safe.
    pub async fn say(&self, event: Event) -> Result<(), OpenError> {
        let sent = self.0.outbox.send(event.into()).await;
        sent.map_err(|_| OpenError::Lost { reason: "the control stream is closed".to_owned() })
    }

    /// The same without waiting; false when the peer does not read fast enough, or the session is gone.
    pub fn say_now(&self, event: Event) -> bool {
        self.0.outbox.try_send(event.into()).is_ok()
    }

    /// Lets the peer open streams; a client's session takes none before. [RVS-7]
    pub fn welcome_streams(&self) {
        self.0.connection.allow_streams(self.0.credit.first());
    }

    /// From here on streams that are opened outlive their connection by `window`, for which the session waits for another
    /// one. Zero changes nothing. [RSM-1]
    pub fn outlive(&self, window: Duration) {
        self.0.ledger.continuity.set_window(window);
    }

    /// Whether streams outlive their connection.
    pub fn outlives(&self) -> bool {
        !self.0.ledger.continuity.window().is_zero()
    }

    /// Whether the connection was lost and another one may carry the session on.
    pub fn is_lost(&self) -> bool {
        self.0.ledger.continuity.is_lost()
    }

    /// Gives the connection up, and not the session, which another one may carry on. [RSM-2]
    pub fn interrupt(&self, reason: &str) {
        self.0.ledger.interrupted(self.0.generation);
        self.0.connection.close(Code::Moved.number(), reason);
    }

    /// Waits until another connection carries the session, which is false, or it is over. Cancel-safe.
    pub async fn ends_here(&self) -> bool {
        self.0.ledger.moved_on(self.0.generation).await;
        self.0.ledger.is_over()
    }

    /// Ends the session. Streams that are open are lost.
    pub fn close(&self, code: Code, reason: &str) {
        self.0.connection.close(code.number(), reason);
        self.0.ledger.close(self.0.generation);
    }

    /// Waits until the session is over, whatever connections carry it until then. Cancel-safe.
    pub async fn over(&self) {
        self.0.ledger.over().await;
    }

    /// Waits for the end of the session's connection and tells why, in words. Cancel-safe.
    pub async fn closed(&self) -> Ended {
        Ended::from(&self.0.connection.closed().await)
    }

    /// Whether no stream is open, in either direction.
    pub fn is_idle(&self) -> bool {
        self.0.ledger.is_empty()
    }

    /// Streams of the peer that are open.
    pub fn incoming_streams(&self) -> u32 {
        self.0.credit.open.load(Ordering::Relaxed)
    }
}

impl From<Event> for Control {
    fn from(event: Event) -> Self {
        let message = match event {
            Event::Declare(declare) => Message::Declare(declare),
            Event::Declared(declared) => Message::Declared(declared),
            Event::Withdraw(withdraw) => Message::Withdraw(withdraw),
            Event::GoAway(leave) => Message::GoAway(leave),
            Event::Replaced(replaced) => Message::Replaced(replaced),
            Event::FlowOpen(open) => Message::FlowOpen(open),
            Event::FlowClose(close) => Message::FlowClose(close),
        };
        Self { message: Some(message) }
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The peer's code, when it said one.
    pub code: Option<Code>,
    /// For people.
    pub reason: String,
}

impl From<&crate::transport::ConnectionError> for Ended {
    fn from(error: &crate::transport::ConnectionError) -> Self {
        use crate::transport::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => {
                let code = Code::from_number(close.error_code.into_inner());
                let text = String::from_utf8_lossy(&close.reason);
                let reason = if text.is_empty() { code.to_string() } else { text.into_owned() };
                Self { code: Some(code), reason }
            }
            E::LocallyClosed => {
                Self { code: Some(Code::Done), reason: "closed by this end".to_owned() }
            }
            E::TimedOut => Self {
                code: None,
                reason: "the other end was not heard of for too long".to_owned(),
            },
            E::Reset => Self { code: None, reason: "the other end was restarted".to_owned() },
            other => Self { code: None, reason: other.to_string() },
        }
    }
}

/// How many streams the peer may open: grows with use, because quinn pays for the limit and not for the use.
/// [STR-10]
#[derive(Debug)]
struct StreamCredit {
    open: AtomicU32,
    allowed: AtomicU32,
    most: u32,
}

impl StreamCredit {
    fn new(most: u32) -> Self {
        Self { open: AtomicU32::new(0), allowed: AtomicU32::new(FIRST_STREAMS.min(most)), most }
    }

    fn first(&self) -> u32 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Counts a stream in, whatever becomes of it; false when there are too many. QUIC counts a stream only until both
    /// directions are acknowledged, and here it lasts until they are delivered, which the peer may never say.
    fn admits(&self) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed) < self.most
    }

    /// The new limit of QUIC's streams, when it is time to raise it.
    fn raised(&self) -> Option<u32> {
        let open = self.open.load(Ordering::Relaxed);
        let allowed = self.allowed.load(Ordering::Relaxed);
        if open < allowed / 4 * 3 || allowed >= self.most {
            return None;
        }
        let more = allowed.saturating_mul(2).min(self.most);
        self.allowed.store(more, Ordering::Relaxed);
        Some(more)
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Enough for most tunnels for ever; quinn allocates for the limit at once.
const FIRST_STREAMS: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_streams_doubles_at_three_quarters_up_to_the_most() {
        let credit = StreamCredit::new(1_000);
        assert_eq!(credit.first(), 256);
        let raised: Vec<_> = (1..=1_000)
            .filter_map(|n| (credit.admits(), credit.raised()).1.map(|limit| (n, limit)))
            .collect();
        assert_eq!(raised, [(192, 512), (384, 1_000)]);
        assert!(!credit.admits(), "one too many");
        credit.leave();
        credit.leave();
        assert_eq!(credit.open.load(Ordering::Relaxed), 999);
    }
}
