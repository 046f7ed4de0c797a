//! Whether a session outlives its connection, for how long, and what it remembers for the next one.
//! `proto-spec/resumption.md`.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ledger::Ledger;
use super::strand::Strand;
use crate::transport::{Connection, ConnectionError};
use crate::wire::{Code, StreamClass, handover};

/// A session's life across its connections.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    life: Mutex<Life>,
    /// Milliseconds that the session waits for another connection.
    window: AtomicU64,
    changed: Notify,
    past: Mutex<Past>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    /// The number of the connection that carries the session.
    generation: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// A connection carries the session.
    #[default]
    Up,
    /// None does; another one may come.
    Lost,
    /// None ever will.
    Over,
}

/// A stream that has ended here.
#[derive(Clone, Copy, Debug)]
struct Departure {
    token: u64,
    /// Bytes that the socket here has taken.
    taken: u64,
    is_complete: bool,
}

/// Streams that have ended here.
#[derive(Debug, Default)]
struct Past {
    /// The last ones: the peer may have missed their end.
    ended: VecDeque<Departure>,
    /// Those that this end opened and that broke while there was no connection to say so.
    departed: Vec<Arc<Strand>>,
}

impl Continuity {
    /// Of a session that another process has left.
    pub(super) fn taken_up(left: &handover::Past) -> Self {
        let ended = left.departures.iter().map(|it| Departure {
            token: it.token,
            taken: it.taken,
            is_complete: it.is_complete,
        });
        Self {
            life: Mutex::new(Life { generation: left.generation, phase: Phase::Lost }),
            window: left.window_ms.into(),
            changed: Notify::new(),
            past: Mutex::new(Past { ended: ended.collect(), departed: Vec::new() }),
        }
    }

    /// The streams that have ended here, for who takes the session up.
    pub(super) fn departures(&self) -> Vec<handover::Departure> {
        let past = lock(&self.past);
        let left = past.ended.iter().map(|it| handover::Departure {
            token: it.token,
            taken: it.taken,
            is_complete: it.is_complete,
        });
        left.collect()
    }

    /// A stream broke of which the peer has yet to hear.
    pub(super) fn departs(&self, strand: Arc<Strand>) {
        lock(&self.past).departed.push(strand);
    }

    pub(super) fn generation(&self) -> u32 {
        lock(&self.life).generation
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.life).phase == Phase::Over
    }

    pub(super) fn is_lost(&self) -> bool {
        lock(&self.life).phase == Phase::Lost
    }

    /// The next phase of connection number `generation`; false when another one carries the session, or it is over.
    fn enter(&self, generation: u32, phase: Phase) -> bool {
        let mut life = lock(&self.life);
        let is_due = life.generation == generation && life.phase != Phase::Over;
        if is_due {
            life.phase = phase;
        }
        is_due
    }

    /// The number of a connection that carries the session from here on, unless it is over.
    pub(super) fn next(&self) -> Option<u32> {
        let mut life = lock(&self.life);
        if life.phase == Phase::Over {
            return None;
        }
        *life = Life { generation: life.generation + 1, phase: Phase::Up };
        Some(life.generation)
    }

    /// How long the session waits for another connection; zero: it ends with the one that it has.
    pub(super) fn window(&self) -> Duration {
        Duration::from_millis(self.window.load(Ordering::Relaxed))
    }

    pub(super) fn set_window(&self, window: Duration) {
        let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self.window.fetch_max(millis, Ordering::Relaxed);
    }

    /// A stream has ended here. [RSM-9] [RSM-10]
    pub(super) fn left(&self, strand: &Arc<Strand>) {
        if !strand.kind.lasts {
            return;
        }
        strand.release();
        let (token, is_complete) = (strand.token, strand.is_complete());
        let departs = !is_complete && strand.kind.opened_here && self.is_lost();
        let past = &mut *lock(&self.past);
        if departs {
            past.departed.push(Arc::clone(strand));
        }
        let taken = strand.taken.load(Ordering::Relaxed);
        past.ended.push_back(Departure { token, taken, is_complete });
        if past.ended.len() > ENDED_MOST {
            past.ended.pop_front();
        }
    }

    /// Streams that were complete, with the bytes that the socket here has taken.
    pub(super) fn complete(&self) -> Vec<(u64, u64)> {
        let past = lock(&self.past);
        let complete = past.ended.iter().filter(|it| it.is_complete);
        complete.map(|it| (it.token, it.taken)).collect()
    }

    /// Why a stream that the token names, and that is not open, does not go on. [RSM-7]
    pub(super) fn verdict(&self, token: u64) -> Code {
        match lock(&self.past).ended.iter().find(|it| it.token == token) {
            Some(it) if it.is_complete => Code::Complete,
            None if self.generation() > 0 => Code::Unseen,
            Some(_) | None => Code::Gone,
        }
    }

    /// Streams of which the peer has yet to hear that they broke.
    pub(super) fn departed(&self) -> Vec<Arc<Strand>> {
        lock(&self.past).departed.clone()
    }

    /// The peer has heard of it.
    pub(super) fn has_departed(&self, token: u64) {
        lock(&self.past).departed.retain(|strand| strand.token != token);
    }
}

impl Ledger {
    pub(super) fn is_over(&self) -> bool {
        self.continuity.is_over()
    }

    /// Whether streams of a class outlive their connection. [RSM-1]
    pub(super) fn lasts(&self, class: i32) -> bool {
        let is_users =
            [StreamClass::Connect, StreamClass::Incoming].map(i32::from).contains(&class);
        is_users && !self.continuity.window().is_zero()
    }

    /// Whether a stream waits for another connection when it has lost its own.
    pub(super) fn may_carry_on(&self, strand: &Strand) -> bool {
        strand.kind.lasts && !self.is_over()
    }

    /// Whether a stream of this kind can go on no more, because its session is over or it ends with its connection.
    pub(super) fn is_over_for(&self, strand: &Strand) -> bool {
        self.is_over() || !strand.kind.lasts && self.continuity.is_lost()
    }

    /// Another connection carries the session from here on: its number. `None` when it is too late. [RSM-4]
    pub(super) fn carry_on(&self, connection: &Connection) -> Option<u32> {
        // The number first: the end of the connection before must not be taken for the session's loss.
        let generation = self.next_generation()?;
        self.carried_by(connection.clone());
        self.continuity.changed.notify_waiters();
        self.wake(|strand| !strand.kind.lasts);
        Some(generation)
    }

    /// Connection number `generation` has ended. When another one may carry on, waits for it as long as was agreed; else
    /// the session is over. [RSM-2] [RSM-3]
    pub(super) async fn ended(&self, generation: u32, end: &ConnectionError) {
        let is_lost = is_accident(end) || self.continuity.is_lost();
        if is_lost && self.interrupted(generation) {
            self.waits(generation).await;
        } else {
            self.close(generation);
        }
    }

    /// Waits for another connection than number `generation`, which is no more, as long as was agreed; else the session is
    /// over. [RSM-3]
    pub(super) async fn waits(&self, generation: u32) {
        let window = self.continuity.window();
        let _ = tokio::time::timeout(window, self.moved_on(generation)).await;
        self.close(generation);
    }

    /// Connection number `generation` is no more; false when the session does not wait for another one.
    pub(super) fn interrupted(&self, generation: u32) -> bool {
        let waits =
            !self.continuity.window().is_zero() && self.continuity.enter(generation, Phase::Lost);
        if waits {
            self.wake(|strand| !strand.kind.lasts);
        }
        waits
    }

    /// Waits until the session is over, whatever connections carry it until then. Cancel-safe.
    pub(super) async fn over(&self) {
        loop {
            let mut changed = pin!(self.continuity.changed.notified());
            changed.as_mut().enable();
            if self.is_over() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until another connection than number `generation` carries the session, or it is over. Cancel-safe.
    pub(super) async fn moved_on(&self, generation: u32) {
        let continuity = &self.continuity;
        loop {
            let mut changed = pin!(continuity.changed.notified());
            changed.as_mut().enable();
            if continuity.generation() != generation || continuity.is_over() {
                return;
            }
            changed.await;
        }
    }

    /// The session is over, unless another connection than number `generation` carries it.
    pub(super) fn close(&self, generation: u32) {
        if self.continuity.enter(generation, Phase::Over) {
            self.continuity.changed.notify_waiters();
            self.wake(|_| true);
            lock(&self.continuity.past).departed.clear();
        }
    }

    /// Wakes whoever waits for what will never come.
    fn wake(&self, is_meant: impl Fn(&Strand) -> bool) {
        for strand in self.strands().iter().filter(|strand| is_meant(strand)) {
            strand.wake();
        }
    }
}

/// Nobody has ended the connection: it may be made again.
fn is_accident(end: &ConnectionError) -> bool {
    match end {
        ConnectionError::ApplicationClosed(close) => {
            close.error_code.into_inner() == Code::Moved.number()
        }
        end => *end != ConnectionError::LocallyClosed,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Streams that are remembered: those of the last round trip at ten thousand a second.
const ENDED_MOST: usize = 1_024;
