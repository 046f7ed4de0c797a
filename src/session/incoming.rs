//! Streams of the peer: from a knock to a header to an answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frames::{FrameReader, ReceiveFrameError};
use super::intake::Intake;
use super::ledger::NotEntered;
use super::receiver::Receiver;
use super::sender::{SendError, Sender, number};
use super::strand::{Kind, Strand};
use super::{Ended, Session, resume};
use crate::transport::{ConnectionError, RecvStream, SendStream};
use crate::wire::{Code, StreamAnswer, StreamClass, StreamHeader, Unsupported, check_version};

/// A stream could not be opened or accepted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The session is gone.
    #[error("the session was lost: {reason}")]
    Lost {
        /// For people.
        reason: String,
    },
    /// The header did not come in time.
    #[error("the stream's header did not come in time")]
    TooSlow,
    /// The header is not one.
    #[error("malformed stream header: {0}")]
    Malformed(String),
    /// The header asks for what is not known here.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

impl OpenError {
    /// Of a connection whose session goes on with another one.
    pub(super) fn outdated() -> Self {
        Self::Lost { reason: "the session goes on with another connection".to_owned() }
    }
}

/// A stream of the peer whose header is still unread.
#[derive(Debug)]
pub struct Knock {
    send: SendStream,
    receive: RecvStream,
    session: Session,
    seat: Seat,
}

/// A stream of the peer, header read, answer owed.
#[derive(Debug)]
pub struct Incoming {
    /// What the peer wants.
    pub header: StreamHeader,
    sender: Sender,
    receiver: Receiver,
    seat: Seat,
}

/// Counts a stream of the peer while it lives.
#[derive(Debug)]
pub struct Seat(Session);

impl Seat {
    /// Counts a stream in, and lets the peer open more when it uses what it has; `None` when there are too many.
    pub(super) fn take(session: &Session) -> Option<Self> {
        let admitted = session.0.credit.admits();
        let seat = Self(session.clone());
        if !admitted {
            return None;
        }
        if let Some(more) = session.0.credit.raised() {
            session.0.connection.allow_streams(more);
        }
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.credit.leave();
    }
}

impl Knock {
    pub(super) fn new(send: SendStream, receive: RecvStream, session: Session, seat: Seat) -> Self {
        Self { send, receive, session, seat }
    }

    /// Reads the header; a stream that is too slow or makes no sense is reset and gone. `None` when it was there to go on
    /// with one of a connection that was lost, which is then done. [STR-1] [STR-3] [RSM-6]
    pub async fn header(self, limit: Duration) -> Result<Option<Incoming>, OpenError> {
        let mut frames = FrameReader::new(self.receive, HEADER_LIMIT);
        let read = tokio::time::timeout(limit, frames.next::<StreamHeader>()).await;
        let header = match read {
            Ok(Ok(header)) if header.class == i32::from(StreamClass::Resume) => {
                let Self { send, session, seat, .. } = self;
                // Few come again, and those that wait for a header need not have room for this.
                Box::pin(resume::answer(session, seat, send, frames, &header)).await;
                return Ok(None);
            }
            Ok(Ok(header)) => open_account(&self.session, header),
            Ok(Err(ReceiveFrameError::Stream(error))) => {
                Err(OpenError::Lost { reason: error.to_string() })
            }
            Ok(Err(error)) => Err(OpenError::Malformed(error.to_string())),
            Err(_) => Err(OpenError::TooSlow),
        };
        let (receive, read, payload) = frames.into_parts();
        let (header, strand) = match header {
            Ok(opened) => opened,
            Err(error) => {
                let code = match error {
                    OpenError::TooSlow => Code::TooSlow,
                    OpenError::Unsupported(_) => Code::Unsupported,
                    _ => Code::Protocol,
                };
                turn_away(self.send, receive, code);
                return Err(error);
            }
        };
        let ledger = &self.session.0.ledger;
        let sender = Sender::new(self.send, ledger, Arc::clone(&strand));
        let intake = Intake::new(receive, read);
        let receiver = Receiver::with_payload(intake, ledger, strand, payload);
        Ok(Some(Incoming { header, sender, receiver, seat: self.seat }))
    }
}

impl Incoming {
    /// Says yes; the payload follows. [STR-4]
    pub async fn admit(mut self) -> Result<(Sender, Receiver, Seat), SendError> {
        let yes = StreamAnswer::default();
        let answer = self.sender.send_header(&yes, Bytes::new());
        let lost = |_| SendError::Lost("the answer does not leave".to_owned());
        tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(lost)??;
        Ok((self.sender, self.receiver, self.seat))
    }

    /// Says no, and why; the peer's payload is not wanted. [STR-4]
    pub async fn refuse(mut self, code: Code, message: &str) {
        let (code_number, message) = (code.number() as u32, message.to_owned());
        let answer = StreamAnswer { code: code_number, message, ..StreamAnswer::default() };
        let answered = self.sender.send_header(&answer, Bytes::new());
        if matches!(tokio::time::timeout(ANSWER_LIMIT, answered).await, Ok(Ok(()))) {
            self.sender.finish();
        }
        self.receiver.stop(code);
    }
}

impl From<ConnectionError> for OpenError {
    fn from(error: ConnectionError) -> Self {
        Self::Lost { reason: Ended::from(&error).reason }
    }
}

impl From<SendError> for OpenError {
    fn from(error: SendError) -> Self {
        Self::Lost { reason: error.to_string() }
    }
}

/// Ends both directions. An error means that one has ended already.
pub(super) fn turn_away(mut send: SendStream, mut receive: RecvStream, code: Code) {
    let _ = send.reset(number(code));
    let _ = receive.stop(number(code));
}

/// Judges a header that was read. [STR-1]
fn open_account(
    session: &Session,
    header: StreamHeader,
) -> Result<(StreamHeader, Arc<Strand>), OpenError> {
    check_version(header.version, &header.requires)?;
    let ledger = &session.0.ledger;
    let kind = Kind { lasts: ledger.lasts(header.class), opened_here: false };
    let strand = ledger.enter(header.token, kind, session.0.generation);
    let strand = strand.map_err(|error| match error {
        NotEntered::Taken => {
            OpenError::Malformed("the token names a stream that is open".to_owned())
        }
        NotEntered::Outdated => OpenError::outdated(),
    })?;
    Ok((header, strand))
}

/// A stream header or answer. [SES-2]
pub(super) const HEADER_LIMIT: usize = 1 << 10;
/// A peer that gives an answer no room holds a socket for nothing. Longer than thousands of streams that all begin to send
/// at once keep the first ones waiting: quinn wakes those last that have waited longest for room in its send buffer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
