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

use tokio::sync::Notify;

use super::urgency::Favours;
use super::window::{PathCap, Traffic};
use super::{Ended, Settings};
use crate::transport::Connection;
use crate::wire::Delivered;

/// The accounts of one session, shared by its streams and its control stream.
#[derive(Debug)]
pub(super) struct Ledger {
    connection: Connection,
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
    closed: AtomicBool,
    outgoing: Mutex<HashMap<u64, Arc<Outgoing>>>,
    unreported: Mutex<Vec<Arc<Mark>>>,
    pub(super) reports: Notify,
    urgent: AtomicBool,
    cap: AtomicU64,
    pub(super) favours: Favours,
    path: Mutex<(PathCap, Instant)>,
}

/// One stream's sending direction.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) sent: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) changed: Notify,
}

/// One stream's receiving direction.
#[derive(Debug)]
pub(super) struct Mark {
    token: u64,
    delivered: AtomicU64,
    reported: AtomicU64,
    listed: AtomicBool,
}

/// The peer reports more than was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overstated;

impl Ledger {
    pub(super) fn new(connection: Connection, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            connection,
            window_initial: settings.window_initial,
            window_max: settings.window_max,
            budget: settings.budget,
            undelivered: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            open: AtomicU64::new(0),
            held: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            outgoing: Mutex::default(),
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

    pub(super) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why the session ended, in words.
    pub(super) fn end_reason(&self) -> String {
        match self.connection.close_reason() {
            Some(error) => Ended::from(&error).reason,
            None => "closed by this end".to_owned(),
        }
    }

    /// Wakes whoever waits for room that will never come.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for outgoing in lock(&self.outgoing).values() {
            outgoing.changed.notify_one();
        }
    }

    /// Opens the account of a stream's sending direction; `None` when the token names a stream that is open.
    pub(super) fn enter(&self, token: u64) -> Option<Arc<Outgoing>> {
        match lock(&self.outgoing).entry(token) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                self.open.fetch_add(1, Ordering::Relaxed);
                Some(Arc::clone(vacant.insert(Arc::default())))
            }
        }
    }

    /// Closes it: what is undelivered is so no longer.
    pub(super) fn leave(&self, token: u64) {
        if let Some(outgoing) = lock(&self.outgoing).remove(&token) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            let sent = outgoing.sent.load(Ordering::Relaxed);
            let open = sent - outgoing.delivered.swap(sent, Ordering::Relaxed);
            self.undelivered.fetch_sub(open, Ordering::Relaxed);
        }
    }

    /// Bytes of a stream left for the far end.
    pub(super) fn sent(&self, outgoing: &Outgoing, bytes: u64) {
        // In this order: a report must not find bytes of the stream that the session does not count yet.
        self.undelivered.fetch_add(bytes, Ordering::Relaxed);
        outgoing.sent.fetch_add(bytes, Ordering::Release);
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
            let accounts = lock(&self.outgoing);
            for (token, &offset) in report.tokens.iter().zip(&report.offsets) {
                let Some(outgoing) = accounts.get(token) else { continue };
                if offset > outgoing.sent.load(Ordering::Acquire) {
                    return Err(Overstated);
                }
                let before = outgoing.delivered.fetch_max(offset, Ordering::Relaxed);
                if offset > before {
                    self.undelivered.fetch_sub(offset - before, Ordering::Relaxed);
                    outgoing.changed.notify_one();
                }
            }
        }
        self.look_at_path();
        Ok(())
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
        let stats = self.connection.path();
        let traffic = Traffic {
            packets: stats.sent,
            lost: stats.lost,
            bytes: stats.udp_bytes.0.saturating_sub(self.datagrams.load(Ordering::Relaxed)),
            frames: self.connection.stream_frames(),
        };
        self.cap.store(path.0.update(traffic, stats.mtu, now), Ordering::Relaxed);
    }

    /// Opens the account of a stream's receiving direction.
    pub(super) fn mark(&self, token: u64) -> Arc<Mark> {
        Arc::new(Mark {
            token,
            delivered: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            listed: AtomicBool::new(false),
        })
    }

    /// The socket took the stream's bytes up to `offset`: reported within 10 ms, or at once when it is much. When the
    /// socket has caught up with everything that came, less is much: the sender may be waiting for just this.
    pub(super) fn delivered(&self, mark: &Arc<Mark>, offset: u64, caught_up: bool) {
        mark.delivered.store(offset, Ordering::Relaxed);
        if !mark.listed.swap(true, Ordering::AcqRel) {
            lock(&self.unreported).push(Arc::clone(mark));
            self.reports.notify_one();
        }
        let pending = offset - mark.reported.load(Ordering::Relaxed);
        let much = if caught_up {
            REPORT_CAUGHT_UP
        } else {
            (offset / 16).clamp(REPORT_LEAST, REPORT_MOST)
        };
        if pending >= much && !self.urgent.swap(true, Ordering::AcqRel) {
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
        let marks = std::mem::take(&mut *lock(&self.unreported));
        let reports = marks.chunks(ENTRIES).map(|marks| {
            let mut report = Delivered::default();
            for mark in marks {
                // A swap and not a store: whoever still found it listed has left an offset that is seen here.
                mark.listed.swap(false, Ordering::AcqRel);
                let offset = mark.delivered.load(Ordering::Relaxed);
                mark.reported.store(offset, Ordering::Relaxed);
                report.tokens.push(mark.token);
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
