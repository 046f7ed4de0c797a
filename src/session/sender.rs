//! The sending direction of a stream, which stays within its window.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Ended;
use super::ledger::{Ledger, Outgoing};
use super::urgency::Pulse;
use super::window::Growth;
use crate::transport::{SendStream, StoppedError, VarInt, WriteError};
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
    stream: SendStream,
    ledger: Arc<Ledger>,
    account: Arc<Outgoing>,
    token: u64,
    sent: u64,
    growth: Growth,
    pulse: Pulse,
    /// Whether the session's budget, not this stream's window, is what bounds it.
    shared: bool,
    /// Whether the peer has been told how the direction ends.
    ended: bool,
}

/// What one direction has sent and the far socket has not taken.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<Outgoing>);

impl InFlight {
    /// Bytes under way, or in the far end's queue.
    pub fn bytes(&self) -> u64 {
        let delivered = self.0.delivered.load(Ordering::Relaxed);
        self.0.sent.load(Ordering::Relaxed).saturating_sub(delivered)
    }
}

/// The peer's wish that a stream ends, still unheard.
#[derive(Debug)]
pub struct Stopped<F> {
    stream: F,
    ledger: Arc<Ledger>,
}

impl<F: Future<Output = Result<Option<VarInt>, StoppedError>>> Stopped<F> {
    /// Waits until the peer wants no more bytes, and tells why. Pends for ever on a direction that was finished and
    /// acknowledged.
    pub async fn error(self) -> SendError {
        match self.stream.await {
            Ok(Some(code)) => SendError::Stopped(Code::from_number(code.into_inner())),
            Ok(None) => std::future::pending().await,
            Err(_) => lost(&self.ledger),
        }
    }
}

impl Sender {
    pub(super) fn new(
        stream: SendStream,
        ledger: &Arc<Ledger>,
        token: u64,
        account: Arc<Outgoing>,
    ) -> Self {
        let growth = Growth::new(ledger.window_initial, ledger.window_max);
        let ledger = Arc::clone(ledger);
        let (sent, pulse) = (0, Pulse::new());
        Self { stream, ledger, account, token, sent, growth, pulse, shared: false, ended: false }
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
        self.leaves(payload.len() as u64, Instant::now());
        if payload.len() <= SMALL {
            head.extend_from_slice(&payload);
            return Ok(self.stream.write_chunk(head.freeze()).await?);
        }
        Ok(self.stream.write_all_chunks(&mut [head.freeze(), payload]).await?)
    }

    /// A view of what is under way, for who has lent the sender to somebody else.
    pub fn in_flight(&self) -> InFlight {
        InFlight(Arc::clone(&self.account))
    }

    /// How many bytes may be sent right now. Zero: wait for [`Sender::more_room`].
    pub fn room(&mut self) -> usize {
        let delivered = self.account.delivered.load(Ordering::Relaxed);
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
        let now = Instant::now();
        self.leaves(bytes.len() as u64, now);
        self.growth.sent(self.sent, now);
        let mut rest = [bytes];
        // Not `write_chunk`, whose future keeps its arguments several times over as long as the connection is open.
        poll_fn(|cx| {
            while !rest[0].is_empty() {
                ready!(pin!(self.stream.write_chunks(&mut rest)).poll(cx))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Books bytes that are about to leave, and lets them wait for livelier streams when they are many. [STR-24]
    fn leaves(&mut self, bytes: u64, now: Instant) {
        let waiting = self.sent - self.account.delivered.load(Ordering::Relaxed);
        if let Some(urgency) = self.pulse.sends(bytes, waiting, now, &self.ledger.favours) {
            // An error means that the stream has ended, which the write tells.
            let _ = self.stream.set_priority(urgency as i32);
        }
        self.ledger.sent(&self.account, bytes);
        self.sent += bytes;
    }

    /// Says that no more bytes follow. [STR-5]
    pub fn finish(&mut self) {
        self.ended = true;
        // An error means that the peer has stopped the stream, which its reader hears of.
        let _ = self.stream.finish();
    }

    /// Breaks the direction off. [STR-6]
    pub fn reset(&mut self, code: Code) {
        self.ended = true;
        let _ = self.stream.reset(number(code));
    }

    /// Waits until the far socket has taken every byte, or the peer wants no more.
    pub async fn settled(&mut self) -> Result<(), SendError> {
        let stopped = self.stream.stopped();
        let mut stopped = pin!(stopped);
        let mut acknowledged = false;
        loop {
            let delivered = self.account.delivered.load(Ordering::Relaxed);
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

    /// For who has nothing to send and must notice that the peer wants no more.
    pub fn stopped(
        &self,
    ) -> Stopped<impl Future<Output = Result<Option<VarInt>, StoppedError>> + 'static> {
        Stopped { stream: self.stream.stopped(), ledger: Arc::clone(&self.ledger) }
    }

    fn lost(&self) -> SendError {
        lost(&self.ledger)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.ended {
            // quinn would finish it.
            self.reset(Code::Internal);
        }
        self.pulse.ends(&self.ledger.favours);
        self.ledger.leave(self.token);
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
