//! The accounts of a session: what was sent and not yet delivered, and what was delivered and not yet reported.
//!
//! QUIC's connection window is shared by all streams, so a tunnel that leaned on it alone would let a few stalled
//! readers freeze everybody. Reading ends therefore take bytes out of QUIC at once and report separately how far the
//! sockets took them; writing ends stay within a window of undelivered bytes. `proto-spec/streams.md`, "Delivered".

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::continuity::Continuity;
use super::strand::{Kind, Strand};
use super::urgency::Favours;
use super::window::{PathCap, Traffic};
use super::{Ended, Settings};
use crate::transport::Connection;
use crate::wire::{Code, Delivered};

/// The accounts of one session, shared by its streams and its control stream. They outlive the session's connection when
/// another one carries on.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None` until a session that another process has left is taken up.
    connection: ArcSwapOption<Connection>,
    pub(super) continuity: Continuity,
    pub(super) window_initial: u64,
    pub(super) window_max: u64,
    budget: u64,
    undelivered: AtomicU64,
    /// Bytes of datagrams since the session began.
    datagrams: AtomicU64,
    /// Streams whose sending direction has an account.
    open: AtomicU64,
    /// Bytes that left QUIC and that sockets here have yet to take.
    held: AtomicU64,
    strands: Mutex<HashMap<u64, Arc<Strand>>>,
    unreported: Mutex<Vec<Arc<Strand>>>,
    pub(super) reports: Notify,
    urgent: AtomicBool,
    cap: AtomicU64,
    pub(super) favours: Favours,
    path: Mutex<(PathCap, Instant)>,
}

/// A stream has no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotEntered {
    /// The token names one that is open.
    Taken,
    /// Another connection carries the session.
    Outdated,
}

/// The peer reports more than was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overstated;

impl Ledger {
    pub(super) fn new(connection: Connection, settings: &Settings) -> Arc<Self> {
        Self::with(Some(connection), Continuity::default(), settings)
    }

    /// The accounts of a session that waits for a connection.
    pub(super) fn waiting(continuity: Continuity, settings: &Settings) -> Arc<Self> {
        Self::with(None, continuity, settings)
    }

    fn with(
        connection: Option<Connection>,
        continuity: Continuity,
        settings: &Settings,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection: ArcSwapOption::from_pointee(connection),
            continuity,
            window_initial: settings.window_initial,
            window_max: settings.window_max,
            budget: settings.budget,
            undelivered: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            open: AtomicU64::new(0),
            held: AtomicU64::new(0),
            strands: Mutex::default(),
            unreported: Mutex::default(),
            reports: Notify::new(),
            urgent: AtomicBool::new(false),
            cap: AtomicU64::new(u64::MAX),
            favours: Favours::new(),
            path: Mutex::new((PathCap::new(), Instant::now())),
        })
    }

    pub(super) fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    /// Of the connection that carries the session.
    pub(super) fn rtt(&self) -> Duration {
        self.connection.load().as_ref().map_or(INITIAL_RTT, |connection| connection.rtt())
    }

    /// Why the session ended, in words.
    pub(super) fn end_reason(&self) -> String {
        let connection = self.connection.load();
        match connection.as_ref().map(|connection| connection.close_reason()) {
            Some(Some(error)) => Ended::from(&error).reason,
            Some(None) => "closed by this end".to_owned(),
            None => "the client has not come back".to_owned(),
        }
    }

    /// From here on `connection` is what carries the session; the one before is closed.
    pub(super) fn carried_by(&self, connection: Connection) {
        if let Some(before) = self.connection.swap(Some(Arc::new(connection))) {
            before.close(Code::Moved.number(), "the session goes on with another connection");
        }
        // They count what one connection did.
        self.datagrams.store(0, Ordering::Relaxed);
        lock(&self.path).0 = PathCap::new();
    }

    /// Whether no stream is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// The streams that are open.
    pub(super) fn strands(&self) -> Vec<Arc<Strand>> {
        lock(&self.strands).values().cloned().collect()
    }

    /// The stream that a token names.
    pub(super) fn strand(&self, token: u64) -> Option<Arc<Strand>> {
        lock(&self.strands).get(&token).cloned()
    }

    /// Opens the account of a stream of connection number `generation`.
    pub(super) fn enter(
        &self,
        token: u64,
        kind: Kind,
        generation: u32,
    ) -> Result<Arc<Strand>, NotEntered> {
        let mut strands = lock(&self.strands);
        // Under the lock: who takes the session on must find the stream, or hear that it never came.
        if self.continuity.generation() != generation {
            return Err(NotEntered::Outdated);
        }
        match strands.entry(token) {
            Entry::Occupied(_) => Err(NotEntered::Taken),
            Entry::Vacant(vacant) => {
                self.open.fetch_add(1, Ordering::Relaxed);
                let strand = Arc::new(Strand::new(token, kind, generation));
                Ok(Arc::clone(vacant.insert(strand)))
            }
        }
    }

    /// Opens the account of a stream that another process has left; `None` when its token is taken.
    pub(super) fn enter_again(&self, strand: Strand) -> Option<Arc<Strand>> {
        let mut strands = lock(&self.strands);
        let Entry::Vacant(vacant) = strands.entry(strand.token) else { return None };
        let sent = strand.sent.load(Ordering::Relaxed);
        let undelivered = sent - strand.delivered.load(Ordering::Relaxed);
        self.undelivered.fetch_add(undelivered, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(vacant.insert(Arc::new(strand))))
    }

    /// The number of the connection that carries the session from here on, unless it is over.
    pub(super) fn next_generation(&self) -> Option<u32> {
        let _entering = lock(&self.strands);
        self.continuity.next()
    }

    /// Closes it: what is undelivered is so no longer.
    pub(super) fn leave(&self, strand: &Arc<Strand>) {
        if lock(&self.strands).remove(&strand.token).is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.continuity.left(strand);
            let sent = strand.sent.load(Ordering::Relaxed);
            let open = sent - strand.delivered.swap(sent, Ordering::Relaxed);
            self.undelivered.fetch_sub(open, Ordering::Relaxed);
        }
    }

    /// Bytes of a stream left for the far end.
    pub(super) fn sent(&self, strand: &Strand, bytes: u64) {
        // In this order: a report must not find bytes of the stream that the session does not count yet.
        self.undelivered.fetch_add(bytes, Ordering::Relaxed);
        strand.sent.fetch_add(bytes, Ordering::Release);
    }

    /// A datagram left.
    pub(super) fn sent_datagram(&self, bytes: u64) {
        self.datagrams.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many undelivered bytes a stream with the window `window` may have, `own` of which it has: bounded by the
    /// path and by its share of what is left of the budget. [STR-22] [STR-23]
    pub(super) fn allowance(&self, window: u64, own: u64) -> u64 {
        let reserve = self.budget / RESERVE;
        let open = self.open.load(Ordering::Relaxed).max(1);
        let floor = (reserve / open).clamp(FLOOR, self.window_initial.max(FLOOR));
        let left = (self.budget - reserve).saturating_sub(self.undelivered());
        let share = (own + left / SHARE).max(floor);
        window.min(self.cap.load(Ordering::Relaxed)).min(share)
    }

    /// Books a report of the peer. An entry for a stream that is gone is late, not wrong. [STR-21]
    pub(super) fn book(&self, report: &Delivered) -> Result<(), Overstated> {
        {
            let strands = lock(&self.strands);
            for (token, &offset) in report.tokens.iter().zip(&report.offsets) {
                let Some(strand) = strands.get(token) else { continue };
                if offset > strand.sent.load(Ordering::Acquire) {
                    return Err(Overstated);
                }
                self.book_one(strand, offset);
            }
        }
        self.look_at_path();
        Ok(())
    }

    /// The far socket has taken a stream's bytes up to `offset`.
    pub(super) fn book_one(&self, strand: &Strand, offset: u64) {
        let before = strand.delivered.fetch_max(offset, Ordering::Relaxed);
        if offset > before {
            self.undelivered.fetch_sub(offset - before, Ordering::Relaxed);
            strand.let_go(offset);
            strand.changed.notify_one();
        }
    }

    /// Bounds the windows by what the path does right now. Asked by who sends, and when reports come: where a hole holds
    /// everything up, there are none.
    pub(super) fn look_at_path(&self) {
        let mut path = lock(&self.path);
        let now = Instant::now();
        if now < path.1 {
            return;
        }
        path.1 = now + LOOK_EVERY;
        let connection = self.connection.load();
        let Some(connection) = connection.as_ref() else { return };
        let stats = connection.path();
        let traffic = Traffic {
            packets: stats.sent,
            lost: stats.lost,
            bytes: stats.udp_bytes.0.saturating_sub(self.datagrams.load(Ordering::Relaxed)),
            frames: connection.stream_frames(),
        };
        self.cap.store(path.0.update(traffic, stats.mtu, now), Ordering::Relaxed);
    }

    /// The socket took the stream's bytes up to `offset`: reported within 10 ms, or at once when it is much. When the
    /// socket has caught up with everything that came, less is much: the sender may be waiting for just this.
    pub(super) fn delivered(&self, strand: &Arc<Strand>, offset: u64, caught_up: bool) {
        strand.taken.store(offset, Ordering::Relaxed);
        self.report(strand);
        let pending = offset - strand.reported.load(Ordering::Relaxed);
        let much = if caught_up {
            REPORT_CAUGHT_UP
        } else {
            (offset / 16).clamp(REPORT_LEAST, REPORT_MOST)
        };
        if pending >= much && !self.urgent.swap(true, Ordering::AcqRel) {
            self.reports.notify_one();
        }
    }

    /// How far the stream has come is to be reported.
    pub(super) fn report(&self, strand: &Arc<Strand>) {
        if !strand.listed.swap(true, Ordering::AcqRel) {
            lock(&self.unreported).push(Arc::clone(strand));
            self.reports.notify_one();
        }
    }

    /// Bytes of all streams that sockets here have yet to take.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes left QUIC and wait for a socket.
    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They wait no longer.
    pub(super) fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether anything is to be reported.
    pub(super) fn has_reports(&self) -> bool {
        !lock(&self.unreported).is_empty()
    }

    /// Whether a report should not wait for more.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Everything that is to be reported, in messages of a bounded size.
    pub(super) fn take_reports(&self) -> Vec<Delivered> {
        self.urgent.store(false, Ordering::Release);
        let strands = std::mem::take(&mut *lock(&self.unreported));
        let reports = strands.chunks(ENTRIES).map(|strands| {
            let mut report = Delivered::default();
            for strand in strands {
                // A swap and not a store: whoever still found it listed has left an offset that is seen here.
                strand.listed.swap(false, Ordering::AcqRel);
                let offset = strand.taken.load(Ordering::Relaxed);
                strand.reported.store(offset, Ordering::Relaxed);
                report.tokens.push(strand.token);
                report.offsets.push(offset);
            }
            report
        });
        reports.collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before there is a connection to ask; what QUIC is told too.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// One stream may take a quarter of what is left, so a latecomer always finds something.
const SHARE: u64 = 4;
/// A quarter of the budget is for streams that come, or start again, when others hold the rest and do not move: all
/// open ones have an equal part of it.
const RESERVE: u64 = 4;
/// What a stream may have at the very least: none ever stands still for the others' sake.
const FLOOR: u64 = 4 << 10;
/// How often the path is looked at while something is sent.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A report leaves at once from so many bytes: a sixteenth of what the stream has carried, between these two. The
/// first window, 256 KiB, then sees four reports, and a stream at 10 Gbit/s makes a thousand a second.
const REPORT_LEAST: u64 = 64 << 10;
/// Below a request or an answer nobody waits for the report.
const REPORT_CAUGHT_UP: u64 = 32 << 10;
const REPORT_MOST: u64 = 1 << 20;
/// 18 bytes at most each: a message stays below 64 KiB.
const ENTRIES: usize = 3_000;
