//! The sending direction of a stream, which stays within its window.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Ended;
use super::ledger::Ledger;
use super::strand::Strand;
use super::urgency::Pulse;
use super::window::Growth;
use crate::transport::{ConnectionError, SendStream, StoppedError, VarInt, WriteError};
use crate::wire::{Code, encode};

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

/// The sending direction. At most a window of undelivered bytes leaves; see [`Sender::room`]. Dropped before it was
/// finished, it is reset: what is cut off must not look complete.
#[derive(Debug)]
pub struct Sender {
    /// `None` when another process has left the stream, and no connection carries it on yet.
    stream: Option<SendStream>,
    ledger: Arc<Ledger>,
    strand: Arc<Strand>,
    sent: u64,
    growth: Growth,
    pulse: Pulse,
    /// Whether the session's budget, not this stream's window, is what bounds it.
    shared: bool,
    /// Whether the peer has been told how the direction ends.
    ended: bool,
    /// What is being sent again: up to where, and what is left of the piece before that.
    replay: Option<Box<(u64, [Bytes; 1])>>,
}

/// What one direction has sent and the far socket has not taken.
#[derive(Clone, Debug)]
pub struct InFlight {
    strand: Arc<Strand>,
    ledger: Arc<Ledger>,
}

impl InFlight {
    /// Bytes under way, or in the far end's queue.
    pub fn bytes(&self) -> u64 {
        let delivered = self.strand.delivered.load(Ordering::Relaxed);
        self.strand.sent.load(Ordering::Relaxed).saturating_sub(delivered)
    }

    /// Whether there is no connection at the moment, and so nothing can move.
    pub fn is_held_up(&self) -> bool {
        self.ledger.continuity.is_lost()
    }
}

impl Sender {
    pub(super) fn new(stream: SendStream, ledger: &Arc<Ledger>, strand: Arc<Strand>) -> Self {
        Self::on(Some(stream), ledger, strand, false)
    }

    /// The sending direction of a stream that another process has left; `finished` as its [`Sender::is_finished`].
    pub(super) fn taken_up(ledger: &Arc<Ledger>, strand: Arc<Strand>, finished: bool) -> Self {
        Self::on(None, ledger, strand, finished)
    }

    fn on(
        stream: Option<SendStream>,
        ledger: &Arc<Ledger>,
        strand: Arc<Strand>,
        finished: bool,
    ) -> Self {
        Self {
            stream,
            sent: strand.sent.load(Ordering::Relaxed),
            growth: Growth::new(ledger.window_initial, ledger.window_max),
            ledger: Arc::clone(ledger),
            strand,
            pulse: Pulse::new(),
            shared: false,
            ended: finished,
            replay: None,
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
        self.leaves(&payload, Instant::now());
        let written = match &mut self.stream {
            None => Err(WriteError::ConnectionLost(ConnectionError::LocallyClosed)),
            Some(stream) if payload.len() <= SMALL => {
                head.extend_from_slice(&payload);
                stream.write_chunk(head.freeze()).await
            }
            Some(stream) => stream.write_all_chunks(&mut [head.freeze(), payload]).await,
        };
        match written {
            // The next connection carries what matters of it.
            Err(WriteError::ConnectionLost(_)) if self.ledger.may_carry_on(&self.strand) => Ok(()),
            written => Ok(written?),
        }
    }

    /// A view of what is under way, for who has lent the sender to somebody else.
    pub fn in_flight(&self) -> InFlight {
        InFlight { strand: Arc::clone(&self.strand), ledger: Arc::clone(&self.ledger) }
    }

    /// How many bytes may be sent right now. Zero: wait for [`Sender::more_room`].
    pub fn room(&mut self) -> usize {
        let delivered = self.strand.delivered.load(Ordering::Relaxed);
        if self.growth.is_due(delivered) {
            self.growth.delivered(delivered, Instant::now(), self.ledger.rtt());
        }
        self.ledger.look_at_path();
        let own = self.sent - delivered;
        let allowance = self.ledger.allowance(self.growth.window(), own);
        self.shared = allowance < self.growth.window();
        usize::try_from(allowance.saturating_sub(own)).unwrap_or(usize::MAX)
    }

    /// Waits until the far socket has taken some bytes, or the session is gone. Cancel-safe.
    pub async fn more_room(&mut self) -> Result<(), SendError> {
        self.growth.held_back();
        let changed = self.strand.changed.notified();
        if self.shared {
            // What holds this stream back is the others' use of the budget, of which nobody reports here.
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        } else {
            changed.await;
        }
        self.check()
    }

    /// Sends bytes; waits while QUIC's own windows are full. The caller keeps within [`Sender::room`]. Not
    /// cancel-safe.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), SendError> {
        let now = Instant::now();
        self.leaves(&bytes, now);
        self.growth.sent(self.sent, now);
        // Polled by hand: futures in a row would each keep the bytes, as long as the connection is open.
        let (mut rest, mut is_lost) = ([bytes], false);
        poll_fn(|cx| {
            if !is_lost {
                match ready!(self.poll_write(&mut rest, cx)) {
                    // They are kept, and follow as all that the peer lacks.
                    Err(WriteError::ConnectionLost(_))
                        if self.ledger.may_carry_on(&self.strand) =>
                    {
                        is_lost = true;
                    }
                    written => return Poll::Ready(Ok(written?)),
                }
            }
            self.poll_carry_on(cx)
        })
        .await
    }

    fn poll_write(
        &mut self,
        rest: &mut [Bytes; 1],
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(WriteError::ConnectionLost(ConnectionError::LocallyClosed)));
        };
        while !rest[0].is_empty() {
            ready!(pin!(stream.write_chunks(rest)).poll(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the stream to go on with another connection, and sends what it lacks there. [RSM-6]
    fn poll_carry_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let mut replay = match self.replay.take() {
                Some(replay) => replay,
                None => {
                    let half = self.strand.poll_sending(cx);
                    let (stream, offset) = ready!(half_of(&self.ledger, &self.strand, half))?;
                    // An error means that the stream has ended, which the write tells.
                    let _ = stream.set_priority(self.pulse.urgency() as i32);
                    self.stream = Some(stream);
                    Box::new((offset, [Bytes::new()]))
                }
            };
            let (offset, rest) = &mut *replay;
            match self.poll_write(rest, cx) {
                Poll::Ready(Ok(())) => match self.strand.kept_after(*offset) {
                    Some(bytes) => {
                        *offset += bytes.len() as u64;
                        *rest = [bytes];
                        self.replay = Some(replay);
                    }
                    None => return Poll::Ready(Ok(())),
                },
                Poll::Ready(Err(WriteError::ConnectionLost(_))) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    self.replay = Some(replay);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Books bytes that are about to leave, and lets them wait for livelier streams when they are many. [STR-24]
    fn leaves(&mut self, payload: &Bytes, now: Instant) {
        let bytes = payload.len() as u64;
        let waiting = self.sent - self.strand.delivered.load(Ordering::Relaxed);
        if let Some(urgency) = self.pulse.sends(bytes, waiting, now, &self.ledger.favours)
            && let Some(stream) = &self.stream
        {
            // An error means that the stream has ended, which the write tells.
            let _ = stream.set_priority(urgency as i32);
        }
        // In this order: whoever sends it again must not do so before it counts.
        self.ledger.sent(&self.strand, bytes);
        self.strand.keep(payload);
        self.sent += bytes;
    }

    /// Says that no more bytes follow; once. [STR-5]
    pub fn finish(&mut self) {
        self.ended = true;
        if self.strand.kind.lasts {
            // Whether the far socket has heard of the end is reported, too. [RSM-11]
            self.ledger.sent(&self.strand, 1);
            self.strand.finish();
            self.sent += 1;
        }
        if let Some(stream) = &mut self.stream {
            // An error means that the peer has stopped the stream, which its reader hears of.
            let _ = stream.finish();
        }
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Whether it was said that no more bytes follow.
    pub fn is_finished(&self) -> bool {
        self.ended
    }

    /// Breaks the direction off. [STR-6]
    pub fn reset(&mut self, code: Code) {
        self.ended = true;
        if let Some(stream) = &mut self.stream {
            // An error means that the peer has stopped it already.
            let _ = stream.reset(number(code));
        }
        self.strand.break_off(code);
    }

    /// Waits until the far socket has taken every byte, or the peer wants no more.
    pub async fn settled(&mut self) -> Result<(), SendError> {
        let stopped = self.stopping();
        let mut stopped = pin!(stopped);
        let mut acknowledged = false;
        loop {
            let delivered = self.strand.delivered.load(Ordering::Relaxed);
            if delivered >= self.sent {
                return Ok(());
            }
            self.check()?;
            tokio::select! {
                () = self.strand.changed.notified() => {}
                end = &mut stopped, if !acknowledged => match end {
                    Ok(Some(code)) => return Err(SendError::Stopped(Code::from_number(code.into_inner()))),
                    // Everything is acknowledged, which is not yet delivered.
                    Ok(None) => acknowledged = true,
                    // What the peer lacks is sent again without this end's doing.
                    Err(_) if self.ledger.may_carry_on(&self.strand) => acknowledged = true,
                    Err(_) => return Err(lost(&self.ledger)),
                },
            }
        }
    }

    /// For who has nothing to send and must notice that the peer wants no more. Pends for ever on a direction that was
    /// finished and acknowledged.
    pub fn stopped(&self) -> impl Future<Output = SendError> + use<> {
        let (strand, ledger) = (Arc::clone(&self.strand), Arc::clone(&self.ledger));
        let stopping = self.stopping();
        async move {
            let mut end = stopping.await;
            loop {
                match end {
                    Ok(Some(code)) => {
                        return SendError::Stopped(Code::from_number(code.into_inner()));
                    }
                    Ok(None) => std::future::pending().await,
                    Err(_) if ledger.may_carry_on(&strand) => {
                        let next =
                            poll_fn(|cx| half_of(&ledger, &strand, strand.poll_stopping(cx)));
                        match next.await {
                            Ok(stopping) => end = stopping.await,
                            Err(error) => return error,
                        }
                    }
                    Err(_) => return lost(&ledger),
                }
            }
        }
    }

    /// Resolves when the peer wants no more bytes of the stream that carries the direction now.
    fn stopping(
        &self,
    ) -> impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + use<> {
        let stopped = self.stream.as_ref().map(SendStream::stopped);
        async move {
            match stopped {
                Some(stopped) => stopped.await,
                None => Err(StoppedError::ConnectionLost(ConnectionError::LocallyClosed)),
            }
        }
    }

    /// Whether bytes may still arrive.
    fn check(&self) -> Result<(), SendError> {
        match self.strand.broken() {
            Some(code) => Err(SendError::Stopped(code)),
            None if self.ledger.is_over_for(&self.strand) => Err(lost(&self.ledger)),
            None => Ok(()),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.ended {
            // quinn would finish it.
            self.reset(Code::Internal);
        }
        self.pulse.ends(&self.ledger.favours);
        self.ledger.leave(&self.strand);
    }
}

/// A half of the stream on another connection, as long as there may be one.
fn half_of<T>(
    ledger: &Ledger,
    strand: &Strand,
    half: Poll<Result<T, Code>>,
) -> Poll<Result<T, SendError>> {
    match half {
        Poll::Pending if !ledger.may_carry_on(strand) => Poll::Ready(Err(lost(ledger))),
        half => half.map_err(SendError::Stopped),
    }
}

fn lost(ledger: &Ledger) -> SendError {
    SendError::Lost(ledger.end_reason())
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

/// A code as QUIC carries it.
pub(super) fn number(code: Code) -> VarInt {
    VarInt::from_u64(code.number()).unwrap_or(VarInt::MAX)
}

/// Up to here a copy is cheaper than a second chunk.
const SMALL: usize = 4 << 10;
/// Another stream's bytes were delivered: room here that nobody reports here.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
