//! A stream as its end knows it, whichever connection carries it: how far each direction has come, what has yet to be
//! delivered, and the halves on which it goes on when a connection was lost.

mod handover;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Session;
use super::incoming::Seat;
use super::intake::Intake;
use super::kept::Kept;
use super::sender::number;
use crate::transport::{SendStream, StoppedError, VarInt};
use crate::wire::{Code, StreamHeader};

/// What a stream is to this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Whether it outlives its connection. [RSM-1]
    pub(super) lasts: bool,
    /// Whether this end has opened it, and so resumes it.
    pub(super) opened_here: bool,
}

/// One stream, across the connections that carry it.
#[derive(Debug)]
pub(super) struct Strand {
    pub(super) token: u64,
    pub(super) kind: Kind,
    /// Payload bytes that left for the far end, and that its socket is known to have taken.
    pub(super) sent: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) changed: Notify,
    /// Payload bytes that came out of QUIC in order, with [`FROZEN`] and [`ENDED`].
    received: AtomicU64,
    /// Payload bytes that the socket here has taken, and that were reported.
    pub(super) taken: AtomicU64,
    pub(super) reported: AtomicU64,
    pub(super) listed: AtomicBool,
    carriage: Mutex<Carriage>,
}

/// What carries a stream.
#[derive(Debug)]
struct Carriage {
    /// The number of its connection within the session.
    generation: u32,
    kept: Kept,
    /// Whether no more bytes follow.
    finished: bool,
    /// What this end has opened it with, until there is an answer.
    opening: Option<Box<StreamHeader>>,
    passage: Option<Box<Passage>>,
}

/// From one connection to the next: halves that nobody has fetched yet, and who waits for them.
#[derive(Default)]
struct Passage {
    sending: Option<(SendStream, u64)>,
    receiving: Option<Receiving>,
    stopped: Option<Stopping>,
    /// How this end broke the stream off, or why the peer does not go on with it.
    broken: Option<Code>,
    wakers: [Option<Waker>; 3],
    /// Keeps the connection, and the peer's seat on it.
    hold: Option<(Session, Option<Seat>)>,
}

impl std::fmt::Debug for Passage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passage").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// The receiving half of a stream that goes on.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) intake: Intake,
    /// What came together with the message before it; `None` when that has yet to come: the answer to a header.
    pub(super) payload: Option<Bytes>,
}

/// Resolves when the peer wants no more bytes.
type Stopping = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// Who waits for a half.
#[derive(Clone, Copy)]
enum Waiter {
    Sender = 0,
    Receiver = 1,
    Stopped = 2,
}

/// How far the receiving direction had come when a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) received: u64,
    /// Whether its end has come, too.
    pub(super) ended: bool,
}

/// What the sending direction needs next on a connection that goes on.
pub(super) enum Replay {
    Bytes(Bytes),
    /// All that was sent is sent again; more may have come meanwhile.
    CaughtUp,
    /// A newer connection carries it.
    Outdated,
}

impl Strand {
    pub(super) fn new(token: u64, kind: Kind, generation: u32) -> Self {
        let kept = Kept::default();
        Self {
            token,
            kind,
            sent: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            changed: Notify::new(),
            received: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            carriage: Mutex::new(Carriage {
                generation,
                kept,
                finished: false,
                opening: None,
                passage: None,
            }),
        }
    }

    /// Keeps what it is about to be opened with until there is an answer.
    pub(super) fn opens_with(&self, header: &StreamHeader) {
        if self.kind.lasts {
            self.lock().opening = Some(Box::new(header.clone()));
        }
    }

    /// There is an answer.
    pub(super) fn is_open(&self) {
        if self.kind.lasts {
            self.lock().opening = None;
        }
    }

    /// What it was opened with, unless there was an answer.
    pub(super) fn opening(&self) -> Option<StreamHeader> {
        self.lock().opening.as_deref().cloned()
    }

    /// Keeps bytes that are about to leave until they are delivered.
    pub(super) fn keep(&self, bytes: &Bytes) {
        if self.kind.lasts {
            self.lock().kept.push(bytes.clone());
        }
    }

    /// The far socket has taken everything up to `offset`.
    pub(super) fn let_go(&self, offset: u64) {
        if self.kind.lasts {
            self.lock().kept.delivered(offset);
        }
    }

    /// What follows `offset`, up to the end of its piece; `None` at the end of all that was sent.
    pub(super) fn kept_after(&self, offset: u64) -> Option<Bytes> {
        self.lock().kept.after(offset)
    }

    /// `length` payload bytes came out of QUIC, in order. False when the connection that brought them was given up: they
    /// come once more.
    pub(super) fn advance(&self, length: usize) -> bool {
        self.step(|received| received + length as u64)
    }

    /// The direction's end came. False as above.
    pub(super) fn end(&self) -> bool {
        self.step(|received| received | ENDED)
    }

    fn step(&self, next: impl Fn(u64) -> u64) -> bool {
        let step = |received| (received & FROZEN == 0).then(|| next(received));
        self.received.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }

    /// No more bytes follow. A half that nobody has fetched yet is told.
    pub(super) fn finish(&self) {
        let mut carriage = self.lock();
        carriage.finished = true;
        if let Some(Passage { sending: Some((send, _)), .. }) = carriage.passage.as_deref_mut() {
            // An error means that the peer has stopped it, which shows elsewhere.
            let _ = send.finish();
        }
    }

    /// Whether every byte is delivered both ways, the ends included.
    pub(super) fn is_complete(&self) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        let ended = self.received.load(Ordering::Acquire) & ENDED != 0;
        ended && self.lock().finished && self.delivered.load(Ordering::Relaxed) >= sent
    }

    /// Breaks off whatever carries it on, now or later.
    pub(super) fn break_off(&self, code: Code) {
        if !self.kind.lasts {
            return;
        }
        let mut carriage = self.lock();
        let passage = carriage.passage.get_or_insert_default();
        passage.broken.get_or_insert(code);
        if let Some((mut send, _)) = passage.sending.take() {
            let _ = send.reset(number(code));
        }
        if let Some(mut receiving) = passage.receiving.take() {
            let _ = receiving.intake.stream().stop(number(code));
        }
    }

    /// The peer does not go on with it: both directions hear why. [RSM-7]
    pub(super) fn fail(&self, code: Code) {
        self.break_off(code);
        self.wake();
    }

    /// Why it was broken off.
    pub(super) fn broken(&self) -> Option<Code> {
        if !self.kind.lasts {
            return None;
        }
        self.lock().passage.as_ref().and_then(|passage| passage.broken)
    }

    /// Nobody here has a use for what carries it any more.
    pub(super) fn release(&self) {
        let mut carriage = self.lock();
        let Some(passage) = &mut carriage.passage else { return };
        (passage.sending, passage.receiving, passage.stopped) = (None, None, None);
        let hold = passage.hold.take();
        // It may be the last handle to a session, whose end is told to every stream.
        drop(carriage);
        drop(hold);
    }

    /// Whoever waits looks again.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
        let wakers = self.lock().passage.as_mut().map(|it| std::mem::take(&mut it.wakers));
        for waker in wakers.into_iter().flatten().flatten() {
            waker.wake();
        }
    }

    /// Whether the peer may have received so much, going by what it has reported. [RSM-8]
    pub(super) fn could_have_received(&self, offset: u64) -> bool {
        let delivered = self.delivered.load(Ordering::Relaxed);
        // The end counts in both, and is no byte that could be sent again. [RSM-11]
        let payload = self.sent.load(Ordering::Acquire) - u64::from(self.lock().finished);
        (delivered.min(payload)..=payload).contains(&offset)
    }

    /// Gives up the connection before: nothing that it still brings counts. `None` when connection number `generation`, or a
    /// newer one, carries the stream already.
    pub(super) fn freeze(&self, generation: u32) -> Option<Standing> {
        let mut carriage = self.lock();
        if carriage.generation >= generation {
            return None;
        }
        carriage.generation = generation;
        if let Some(passage) = &mut carriage.passage {
            (passage.sending, passage.receiving, passage.stopped) = (None, None, None);
        }
        let received = self.received.fetch_or(FROZEN, Ordering::AcqRel);
        Some(Standing { received: received & !(FROZEN | ENDED), ended: received & ENDED != 0 })
    }

    /// Leaves the receiving half for who reads; `hold` lives as long as the connection carries the stream. The half comes
    /// back when a newer connection has it, or it was broken off.
    pub(super) fn place_receiving(
        &self,
        generation: u32,
        receiving: Option<Receiving>,
        hold: (Session, Option<Seat>),
    ) -> Result<(), Option<Receiving>> {
        let mut carriage = self.lock();
        if carriage.generation != generation {
            return Err(receiving);
        }
        let passage = carriage.passage.get_or_insert_default();
        if passage.broken.is_some() {
            return Err(receiving);
        }
        let before = passage.hold.replace(hold);
        passage.receiving = receiving;
        let waker = passage.wakers[Waiter::Receiver as usize].take();
        drop(carriage);
        drop(before);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// What has to be sent again from `offset`.
    pub(super) fn replay(&self, generation: u32, offset: u64) -> Replay {
        let carriage = self.lock();
        if carriage.generation != generation {
            return Replay::Outdated;
        }
        carriage.kept.after(offset).map_or(Replay::CaughtUp, Replay::Bytes)
    }

    /// Leaves the sending half, on which everything before `offset` was sent, for who writes. It comes back when more has
    /// to be sent first, or there is nobody to have it.
    pub(super) fn place_sending(
        &self,
        generation: u32,
        mut send: SendStream,
        offset: u64,
    ) -> Result<(), SendStream> {
        let mut carriage = self.lock();
        let is_current = carriage.generation == generation;
        let is_all = carriage.kept.after(offset).is_none();
        let finished = carriage.finished;
        let passage = carriage.passage.get_or_insert_default();
        if !is_current || !is_all || passage.broken.is_some() {
            return Err(send);
        }
        if finished {
            // An error means that the peer has stopped it, which `stopped` tells.
            let _ = send.finish();
        }
        passage.stopped = Some(Box::pin(send.stopped()));
        passage.sending = Some((send, offset));
        let wakers = [Waiter::Sender, Waiter::Stopped].map(|it| passage.wakers[it as usize].take());
        drop(carriage);
        wakers.into_iter().flatten().for_each(Waker::wake);
        Ok(())
    }

    /// Fetches the sending half and how far it has come.
    pub(super) fn poll_sending(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, u64), Code>> {
        self.poll_half(Waiter::Sender, cx, |passage| passage.sending.take())
    }

    /// Fetches the receiving half. From here on what it brings counts.
    pub(super) fn poll_receiving(&self, cx: &mut Context<'_>) -> Poll<Result<Receiving, Code>> {
        self.poll_half(Waiter::Receiver, cx, |passage| {
            let receiving = passage.receiving.take()?;
            self.received.fetch_and(!FROZEN, Ordering::AcqRel);
            Some(receiving)
        })
    }

    /// Fetches what tells when the peer wants no more bytes.
    pub(super) fn poll_stopping(&self, cx: &mut Context<'_>) -> Poll<Result<Stopping, Code>> {
        self.poll_half(Waiter::Stopped, cx, |passage| passage.stopped.take())
    }

    fn poll_half<T>(
        &self,
        waiter: Waiter,
        cx: &mut Context<'_>,
        fetch: impl FnOnce(&mut Passage) -> Option<T>,
    ) -> Poll<Result<T, Code>> {
        let mut carriage = self.lock();
        let passage = carriage.passage.get_or_insert_default();
        if let Some(code) = passage.broken {
            return Poll::Ready(Err(code));
        }
        match fetch(passage) {
            Some(half) => Poll::Ready(Ok(half)),
            None => {
                passage.wakers[waiter as usize] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Carriage> {
        self.carriage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection was given up: nothing more counts until the next one is there.
const FROZEN: u64 = 1 << 63;
/// The direction's end has come.
const ENDED: u64 = 1 << 62;
