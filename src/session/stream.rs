//! One stream of a session: a sending direction that stays within its window, a receiving one that keeps accounts.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::frames::{FrameReader, ReceiveFrameError};
use super::ledger::{Ledger, Mark, Outgoing};
use super::window::Growth;
use super::{Ended, Session};
use crate::transport::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use crate::wire::{
    Code, Framed, StreamAnswer, StreamHeader, Unsupported, check_version, decode, encode,
    split_frame,
};

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

/// Bytes cannot be sent any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer wants no more, and says why.
    #[error("{0}")]
    Stopped(Code),
    /// The session is gone.
    #[error("the session was lost: {0}")]
    Lost(String),
}

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

/// The sending direction. At most a window of undelivered bytes leaves; see [`Sender::room`].
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    ledger: Arc<Ledger>,
    account: Arc<Outgoing>,
    token: u64,
    sent: u64,
    growth: Growth,
    /// Whether the session's budget, not this stream's window, is what bounds it.
    shared: bool,
}

impl Sender {
    pub(super) fn new(stream: SendStream, ledger: &Arc<Ledger>, token: u64) -> Self {
        let growth = Growth::new(ledger.window_initial, ledger.window_max);
        Self {
            stream,
            ledger: Arc::clone(ledger),
            account: ledger.enter(token),
            token,
            sent: 0,
            growth,
            shared: false,
        }
    }

    /// Header and first payload in one piece, so that they share a packet. [STR-2]
    pub(super) async fn send_header(
        &mut self,
        header: &impl prost::Message,
        payload: Bytes,
    ) -> Result<(), SendError> {
        let mut head =
            BytesMut::with_capacity(64 + if payload.len() <= SMALL { payload.len() } else { 0 });
        encode(header, &mut head);
        self.ledger.sent(&self.account, payload.len() as u64);
        self.sent += payload.len() as u64;
        if payload.len() <= SMALL {
            head.extend_from_slice(&payload);
            return Ok(self.stream.write_chunk(head.freeze()).await?);
        }
        Ok(self.stream.write_all_chunks(&mut [head.freeze(), payload]).await?)
    }

    /// How many bytes may be sent right now. Zero: wait for [`Sender::more_room`].
    pub fn room(&mut self) -> usize {
        let delivered = self.account.delivered.load(std::sync::atomic::Ordering::Relaxed);
        if self.growth.is_due(delivered) {
            self.growth.delivered(delivered, Instant::now(), self.ledger.rtt());
        }
        let own = self.sent - delivered;
        let allowance = self.ledger.allowance(self.growth.window(), own);
        self.shared = allowance < self.growth.window();
        usize::try_from(allowance.saturating_sub(own)).unwrap_or(usize::MAX)
    }

    /// Waits until the far socket has taken some bytes, or the session is gone. Cancel-safe.
    pub async fn more_room(&mut self) -> Result<(), SendError> {
        self.growth.held_back();
        let changed = self.account.changed.notified();
        if self.shared {
            // What holds this stream back is the others' use of the budget, of which nobody reports here.
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        } else {
            changed.await;
        }
        if self.ledger.is_closed() { Err(self.lost()) } else { Ok(()) }
    }

    /// Sends bytes; waits while QUIC's own windows are full. The caller keeps within [`Sender::room`]. Not
    /// cancel-safe.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), SendError> {
        let length = bytes.len() as u64;
        self.ledger.sent(&self.account, length);
        self.sent += length;
        self.growth.sent(self.sent, Instant::now());
        Ok(self.stream.write_chunk(bytes).await?)
    }

    /// Says that no more bytes follow. [STR-5]
    pub fn finish(&mut self) {
        // An error means that the peer has stopped the stream, which its reader hears of.
        let _ = self.stream.finish();
    }

    /// Breaks the direction off. [STR-6]
    pub fn reset(&mut self, code: Code) {
        let _ = self.stream.reset(number(code));
    }

    /// Waits until the far socket has taken every byte, or the peer wants no more.
    pub async fn settled(&mut self) -> Result<(), SendError> {
        let stopped = self.stream.stopped();
        let mut stopped = pin!(stopped);
        let mut acknowledged = false;
        loop {
            let delivered = self.account.delivered.load(std::sync::atomic::Ordering::Relaxed);
            if delivered >= self.sent {
                return Ok(());
            }
            if self.ledger.is_closed() {
                return Err(self.lost());
            }
            tokio::select! {
                () = self.account.changed.notified() => {}
                end = &mut stopped, if !acknowledged => match end {
                    Ok(Some(code)) => return Err(SendError::Stopped(Code::from_number(code.into_inner()))),
                    // Everything is acknowledged, which is not yet delivered.
                    Ok(None) => acknowledged = true,
                    Err(_) => return Err(self.lost()),
                },
            }
        }
    }

    /// Waits until the peer wants no more bytes, and tells why; for who has nothing to send and must notice.
    /// Pends for ever on a direction that was finished and acknowledged. Cancel-safe.
    pub fn stopped(&self) -> impl Future<Output = SendError> + 'static {
        let stopped = self.stream.stopped();
        let ledger = Arc::clone(&self.ledger);
        async move {
            match stopped.await {
                Ok(Some(code)) => SendError::Stopped(Code::from_number(code.into_inner())),
                Ok(None) => std::future::pending().await,
                Err(_) => lost(&ledger),
            }
        }
    }

    fn lost(&self) -> SendError {
        lost(&self.ledger)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.ledger.leave(self.token);
    }
}

fn lost(ledger: &Ledger) -> SendError {
    SendError::Lost(ledger.end_reason())
}

/// The receiving direction. The bytes' way ends at a socket: [`Receiver::delivered`] tells how far they got.
#[derive(Debug)]
pub struct Receiver {
    stream: RecvStream,
    ledger: Arc<Ledger>,
    mark: Arc<Mark>,
    head: Head,
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
    pub(super) fn expecting_answer(stream: RecvStream, ledger: &Arc<Ledger>, token: u64) -> Self {
        Self::new(stream, ledger, token, Head::Answer(BytesMut::new()))
    }

    fn new(stream: RecvStream, ledger: &Arc<Ledger>, token: u64, head: Head) -> Self {
        Self { stream, mark: ledger.mark(token), ledger: Arc::clone(ledger), head }
    }

    /// Takes what has come out of QUIC and appends it to `queue`: the number of bytes, or `None` at the end of the
    /// direction. The peer's answer is read on the way and is no payload. [STR-20]
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<Option<usize>, ReceiveError>> {
        if let Head::Payload(first) = &mut self.head {
            let first = std::mem::take(first);
            self.head = Head::Passed;
            if !first.is_empty() {
                let length = first.len();
                queue.push_back(first);
                return Poll::Ready(Ok(Some(length)));
            }
        }
        loop {
            // The future holds nothing between polls: quinn keeps the waker by stream. An idle stream pins no buffers.
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let read = ready!(pin!(self.stream.read_chunks(&mut chunks)).poll(cx))?;
            let Some(count) = read else {
                return Poll::Ready(match self.head {
                    Head::Answer(_) => {
                        Err(ReceiveError::Protocol("the stream ended before its answer".to_owned()))
                    }
                    _ => Ok(None),
                });
            };
            let mut length = 0;
            for chunk in chunks.into_iter().take(count) {
                let payload = self.after_answer(chunk)?;
                if !payload.is_empty() {
                    length += payload.len();
                    queue.push_back(payload);
                }
            }
            if length > 0 {
                return Poll::Ready(Ok(Some(length)));
            }
        }
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
        Ok(rest)
    }

    /// The socket took the payload up to `offset`, counted from the stream's start. [STR-20]
    pub fn delivered(&self, offset: u64) {
        self.ledger.delivered(&self.mark, offset);
    }

    /// Wants no more bytes. [STR-6]
    pub fn stop(&mut self, code: Code) {
        // An error means that the direction has ended already.
        let _ = self.stream.stop(number(code));
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

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.credit.leave();
    }
}

impl Knock {
    pub(super) fn new(send: SendStream, receive: RecvStream, session: Session) -> Self {
        if let Some(more) = session.0.credit.enter() {
            session.0.connection.allow_streams(more);
        }
        Self { send, receive, seat: Seat(session.clone()), session }
    }

    /// Reads the header; a stream that is too slow or makes no sense is reset and gone. [STR-1] [STR-3]
    pub async fn header(mut self, limit: Duration) -> Result<Incoming, OpenError> {
        let mut frames = FrameReader::new(self.receive, HEADER_LIMIT);
        let read = tokio::time::timeout(limit, frames.next::<StreamHeader>()).await;
        let header = match read {
            Ok(Ok(header)) => {
                check_version(header.version, &header.requires).map(|()| header).map_err(Into::into)
            }
            Ok(Err(ReceiveFrameError::Stream(error))) => {
                Err(OpenError::Lost { reason: error.to_string() })
            }
            Ok(Err(error)) => Err(OpenError::Malformed(error.to_string())),
            Err(_) => Err(OpenError::TooSlow),
        };
        let (mut receive, payload) = frames.into_parts();
        let header = header.inspect_err(|error| {
            let code = number(match error {
                OpenError::TooSlow => Code::TooSlow,
                OpenError::Unsupported(_) => Code::Unsupported,
                _ => Code::Protocol,
            });
            let _ = self.send.reset(code);
            let _ = receive.stop(code);
        })?;
        let ledger = &self.session.0.ledger;
        let sender = Sender::new(self.send, ledger, header.token);
        let receiver = Receiver::new(receive, ledger, header.token, Head::Payload(payload));
        Ok(Incoming { header, sender, receiver, seat: self.seat })
    }
}

impl Incoming {
    /// Says yes; the payload follows. [STR-4]
    pub async fn admit(mut self) -> Result<(Sender, Receiver, Seat), SendError> {
        self.sender.send_header(&StreamAnswer::default(), Bytes::new()).await?;
        Ok((self.sender, self.receiver, self.seat))
    }

    /// Says no, and why; the peer's payload is not wanted. [STR-4]
    pub async fn refuse(mut self, code: Code, message: &str) {
        let answer = StreamAnswer { code: code.number() as u32, message: message.to_owned() };
        if self.sender.send_header(&answer, Bytes::new()).await.is_ok() {
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

impl From<WriteError> for SendError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(Code::from_number(code.into_inner())),
            WriteError::ConnectionLost(error) => Self::Lost(Ended::from(&error).reason),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Stopped(Code::Done),
        }
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

fn number(code: Code) -> VarInt {
    VarInt::from_u64(code.number()).unwrap_or(VarInt::MAX)
}

/// A stream header or answer. [SES-2]
const HEADER_LIMIT: usize = 1 << 10;
/// Chunks of one read, a packet's payload each; an array on the stack, 2 KiB.
const CHUNKS: usize = 64;
/// Up to here a copy is cheaper than a second chunk.
const SMALL: usize = 4 << 10;
/// Another stream's bytes were delivered: room here that nobody reports here.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
