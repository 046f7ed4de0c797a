//! The receiving direction of a stream, which keeps accounts of what a socket took.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::Ended;
use super::incoming::HEADER_LIMIT;
use super::intake::Intake;
use super::ledger::Ledger;
use super::sender::number;
use super::strand::{Receiving, Strand};
use super::window::may_take;
use crate::transport::{ConnectionError, ReadError, RecvStream};
use crate::wire::{Code, Framed, StreamAnswer, decode, split_frame};

/// Bytes cannot be received any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// The peer broke the stream off, and says why.
    #[error("{0}")]
    Reset(Code),
    /// The peer did not serve the stream. [STR-4]
    #[error("{message}")]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// The peer broke the rules.
    #[error("the other end broke the protocol: {0}")]
    Protocol(String),
    /// The session is gone.
    #[error("the session was lost: {0}")]
    Lost(String),
}

/// The receiving direction. The bytes' way ends at a socket: [`Receiver::delivered`] tells how far they got.
#[derive(Debug)]
pub struct Receiver {
    /// `None` when another process has left the stream, and no connection carries it on yet.
    intake: Option<Intake>,
    ledger: Arc<Ledger>,
    pub(super) strand: Arc<Strand>,
    head: Head,
    /// Who wants to hear that the peer serves the stream.
    served: Option<oneshot::Sender<()>>,
    /// Payload bytes that have left QUIC and that the socket has yet to take.
    held: u64,
    /// What came behind a hole, as the session counts it.
    behind: u64,
    delivered: u64,
}

#[derive(Debug)]
enum Head {
    /// The peer's answer has yet to come; what has come of it.
    Answer(BytesMut),
    /// Payload that came with the header.
    Payload(Bytes),
    /// Everything else is payload.
    Passed,
}

impl Receiver {
    pub(super) fn expecting_answer(
        stream: RecvStream,
        ledger: &Arc<Ledger>,
        strand: Arc<Strand>,
    ) -> Self {
        Self::new(Intake::new(stream, 0), ledger, strand, Head::Answer(BytesMut::new()))
    }

    pub(super) fn with_payload(
        intake: Intake,
        ledger: &Arc<Ledger>,
        strand: Arc<Strand>,
        payload: Bytes,
    ) -> Self {
        Self::new(intake, ledger, strand, Head::Payload(payload))
    }

    fn new(intake: Intake, ledger: &Arc<Ledger>, strand: Arc<Strand>, head: Head) -> Self {
        let ledger = Arc::clone(ledger);
        let intake = Some(intake);
        Self { intake, strand, ledger, head, served: None, held: 0, behind: 0, delivered: 0 }
    }

    /// The receiving direction of a stream that another process has left: `waiting` bytes of it wait for the socket.
    pub(super) fn taken_up(ledger: &Arc<Ledger>, strand: Arc<Strand>, waiting: u64) -> Self {
        ledger.hold(waiting);
        Self {
            intake: None,
            ledger: Arc::clone(ledger),
            delivered: strand.taken.load(Ordering::Relaxed),
            strand,
            head: Head::Passed,
            served: None,
            held: waiting,
            behind: 0,
        }
    }

    /// Resolves when the peer has said that it serves the stream, and fails when it never will. Asked for before anything
    /// is received. [STR-4]
    pub fn served(&mut self) -> oneshot::Receiver<()> {
        let (served, hears) = oneshot::channel();
        self.served = Some(served);
        hears
    }

    /// Takes what has come out of QUIC and appends it to `queue`: the number of bytes, or `None` at the end of the
    /// direction. The peer's answer is read on the way and is no payload. [STR-20]
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<Option<usize>, ReceiveError>> {
        loop {
            if let Head::Payload(first) = &mut self.head {
                let first = std::mem::take(first);
                self.head = Head::Passed;
                if !first.is_empty() && self.strand.advance(first.len()) {
                    let length = first.len();
                    queue.push_back(first);
                    return Poll::Ready(Ok(Some(self.hold(length))));
                }
            }
            if self.behind > 0 && !self.has_room() {
                return Poll::Ready(Err(ReceiveError::Protocol(BEHIND_MOST.to_owned())));
            }
            // An idle stream pins no buffers.
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let read = match &mut self.intake {
                Some(intake) => intake.poll_read(cx, &mut chunks),
                None => Poll::Ready(Err(ReadError::ConnectionLost(ConnectionError::LocallyClosed))),
            };
            self.count_behind();
            let count = match ready!(read) {
                Ok(Some(count)) => count,
                Ok(None) if matches!(self.head, Head::Answer(_)) => {
                    let early = "the stream ended before its answer".to_owned();
                    return Poll::Ready(Err(ReceiveError::Protocol(early)));
                }
                Ok(None) if self.strand.end() => return Poll::Ready(Ok(None)),
                // The connection has been given up, and this end with it.
                Ok(None) => {
                    ready!(self.poll_carried_on(cx))?;
                    continue;
                }
                Err(ReadError::ConnectionLost(_)) if self.ledger.may_carry_on(&self.strand) => {
                    ready!(self.poll_carried_on(cx))?;
                    continue;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            let (before, mut length) = (queue.len(), 0);
            for chunk in chunks.into_iter().take(count) {
                let payload = self.after_answer(chunk)?;
                if !payload.is_empty() {
                    length += payload.len();
                    queue.push_back(payload);
                }
            }
            if length == 0 {
                continue;
            }
            if self.strand.advance(length) {
                return Poll::Ready(Ok(Some(self.hold(length))));
            }
            // They come once more.
            queue.truncate(before);
            ready!(self.poll_carried_on(cx))?;
        }
    }

    /// Waits for the stream to go on with another connection. [RSM-6]
    fn poll_carried_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReceiveError>> {
        let half = self.strand.poll_receiving(cx);
        if half.is_pending() && !self.ledger.may_carry_on(&self.strand) {
            return Poll::Ready(Err(ReceiveError::Lost(self.ledger.end_reason())));
        }
        let Receiving { intake, payload } = ready!(half).map_err(ReceiveError::Reset)?;
        self.intake = Some(intake);
        self.count_behind();
        match payload {
            Some(payload) => {
                self.head = Head::Payload(payload);
                self.is_served();
            }
            None => self.head = Head::Answer(BytesMut::new()),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether to take more out of QUIC now. When not, then what has been taken waits for the socket, and after the
    /// next [`Receiver::delivered`] it is time to ask again. [STR-20]
    pub fn has_room(&self) -> bool {
        let own = self.held + self.intake.as_ref().map_or(0, Intake::bytes_behind);
        may_take(own, self.held + self.behind, self.ledger.held())
    }

    fn count_behind(&mut self) {
        let cost = self.intake.as_ref().map_or(0, Intake::cost_behind);
        if cost > self.behind {
            self.ledger.hold(cost - self.behind);
        } else if cost < self.behind {
            self.ledger.release(self.behind - cost);
        }
        self.behind = cost;
    }

    fn hold(&mut self, length: usize) -> usize {
        self.held += length as u64;
        self.ledger.hold(length as u64);
        length
    }

    /// What of a chunk is payload.
    fn after_answer(&mut self, chunk: Bytes) -> Result<Bytes, ReceiveError> {
        let Head::Answer(buffer) = &mut self.head else { return Ok(chunk) };
        buffer.extend_from_slice(&chunk);
        let malformed = |error: crate::wire::FrameError| ReceiveError::Protocol(error.to_string());
        let Framed::Whole(frame) = split_frame(buffer, HEADER_LIMIT).map_err(malformed)? else {
            return Ok(Bytes::new());
        };
        let answer: StreamAnswer = decode(frame).map_err(malformed)?;
        if answer.code != 0 {
            let code = Code::from_number(answer.code.into());
            return Err(ReceiveError::Refused { code, message: answer.message });
        }
        let rest = std::mem::take(buffer).freeze();
        self.head = Head::Passed;
        self.is_served();
        Ok(rest)
    }

    fn is_served(&mut self) {
        self.strand.is_open();
        if let Some(served) = self.served.take() {
            // Nobody need care.
            let _ = served.send(());
        }
    }

    /// The socket took the payload up to `offset`, counted from the stream's start; `caught_up` when nothing that has
    /// come waits for it. [STR-20]
    pub fn delivered(&mut self, offset: u64, caught_up: bool) {
        let taken = offset.saturating_sub(self.delivered).min(self.held);
        self.delivered = offset;
        self.held -= taken;
        self.ledger.release(taken);
        self.ledger.delivered(&self.strand, offset, caught_up);
    }

    /// The socket has been told that no more bytes follow, the last of which it took before. [RSM-11]
    pub fn finished(&mut self) {
        if self.strand.kind.lasts {
            self.delivered(self.delivered + 1, true);
        }
    }

    /// Whether everything has come, the end included.
    pub fn has_ended(&self) -> bool {
        self.strand.has_ended()
    }

    /// Whether the socket has been told that no more bytes follow, and this was counted.
    pub fn is_finished(&self) -> bool {
        self.strand.has_taken_all()
    }

    /// Wants no more bytes. [STR-6]
    pub fn stop(&mut self, code: Code) {
        if let Some(intake) = &mut self.intake {
            // An error means that the direction has ended already.
            let _ = intake.stream().stop(number(code));
        }
        self.strand.break_off(code);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ledger.release(self.held + self.behind);
    }
}

impl From<ReadError> for ReceiveError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(Code::from_number(code.into_inner())),
            ReadError::ConnectionLost(error) => Self::Lost(Ended::from(&error).reason),
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// Chunks of one read, a packet's payload each; an array on the stack, 2 KiB.
const CHUNKS: usize = 64;
/// Of who sends what comes behind a hole, and never what fills it.
const BEHIND_MOST: &str = "more than its window came behind a hole";
