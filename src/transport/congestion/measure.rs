//! What acknowledgements tell about a path: round-trip times, delivered bytes, losses, one round at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One round: what came back between two moments that are a round trip apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// When it began.
    began: Instant,
    /// The shortest round-trip time in it: the queue that stood all the time, not the sender's own bursts.
    pub(super) rtt: Option<Duration>,
    /// Bytes acknowledged.
    pub(super) acked: u64,
    /// Bytes declared lost.
    pub(super) lost: u64,
    /// Of those, bytes of packets that were acknowledged while the window held the sender back.
    pub(super) acked_limited: u64,
}

impl Round {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, rtt: None, acked: 0, lost: 0, acked_limited: 0 }
    }

    /// Books a batch of acknowledgements whose newest packet left at `sent`. True: the round is over.
    pub(super) fn ends_with(&mut self, sent: Instant, rtt: Duration) -> bool {
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
        sent >= self.began
    }

    /// Whether the window, and not the sender's own pace or the receiver, was what bounded the round.
    pub(super) fn is_limited(&self) -> bool {
        self.acked_limited * 2 > self.acked
    }
}

/// The shortest round-trip time of the last ten to twenty seconds: what the path takes without a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseRtt {
    older: Duration,
    newer: Duration,
    since: Instant,
}

impl BaseRtt {
    pub(super) fn new(now: Instant) -> Self {
        Self { older: Duration::MAX, newer: Duration::MAX, since: now }
    }

    /// `None` before the first sample.
    pub(super) fn get(&self) -> Option<Duration> {
        Some(self.older.min(self.newer)).filter(|rtt| *rtt != Duration::MAX)
    }

    pub(super) fn sample(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.since) > BASE_KEPT {
            (self.older, self.newer, self.since) = (self.newer, Duration::MAX, now);
        }
        self.newer = self.newer.min(rtt);
    }
}

/// How fast bytes arrive, measured over one round trip.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivery {
    marks: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Delivery {
    pub(super) fn acked(&mut self, bytes: u64) {
        self.total += bytes;
    }

    /// Remembers how much had arrived by now; `span` is how far back [`Delivery::rate`] looks.
    pub(super) fn mark(&mut self, now: Instant, span: Duration) {
        let fresh = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= span / MARKS;
        if self.marks.back().is_none_or(fresh) {
            self.marks.push_back((now, self.total));
        }
        while self.marks.len() > 2 && now.saturating_duration_since(self.marks[1].0) >= span {
            self.marks.pop_front();
        }
    }

    /// Bytes per second over at least the last `span` that was marked.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        let (at, total) = self.marks.front()?;
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        (seconds > 0.0).then(|| (self.total - total) as f64 / seconds)
    }
}

/// The share of bytes that this path loses at any load, as far as the last ten to twenty seconds show.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossFloor {
    older: f64,
    newer: f64,
    since: Instant,
    acked: u64,
    lost: u64,
}

impl LossFloor {
    pub(super) fn new(now: Instant) -> Self {
        Self { older: UNKNOWN, newer: UNKNOWN, since: now, acked: 0, lost: 0 }
    }

    /// Books a round. `mtu` turns bytes into packets: few packets say nothing.
    pub(super) fn round(&mut self, now: Instant, round: &Round, mtu: u64) {
        self.acked += round.acked;
        self.lost += round.lost;
        if self.acked + self.lost >= SAMPLE_PACKETS * mtu {
            self.close(now, mtu);
        }
    }

    /// Forgets what makes no sample yet.
    pub(super) fn clear(&mut self) {
        (self.acked, self.lost) = (0, 0);
    }

    /// Takes what there is for a sample, unless it is next to nothing.
    pub(super) fn close(&mut self, now: Instant, mtu: u64) {
        let (acked, lost) = (std::mem::take(&mut self.acked), std::mem::take(&mut self.lost));
        if acked + lost < LEAST_PACKETS * mtu {
            return;
        }
        if now.saturating_duration_since(self.since) > FLOOR_KEPT {
            (self.older, self.newer, self.since) = (self.newer, UNKNOWN, now);
        }
        self.newer = self.newer.min(lost as f64 / (acked + lost) as f64);
    }

    /// Whether the path seems to lose packets at any load.
    pub(super) fn is_lossy(&self) -> bool {
        self.get() > 0.005
    }

    /// The share that is lost at any load; 0 while unknown.
    pub(super) fn get(&self) -> f64 {
        let floor = self.older.min(self.newer);
        if floor < UNKNOWN { floor } else { 0.0 }
    }

    /// The loss of `round` that the path's own losses do not explain, as a share of its bytes. [`SAMPLE_PACKETS`]
    /// of a path that loses a tenth vary by two per cent either way: three times that, and two per cent, are chance.
    pub(super) fn excess(&self, round: &Round, mtu: u64) -> Option<f64> {
        let bytes = round.acked + round.lost;
        let share = round.lost as f64 / bytes.max(1) as f64;
        let floor = self.older.min(self.newer);
        let packets = (bytes / mtu).max(1) as f64;
        let chance = 3.0 * (floor * (1.0 - floor) / packets).sqrt();
        let tolerated = CHANCE + 1.5 * floor + chance;
        (share > tolerated && round.lost >= FEW_PACKETS * mtu).then_some(share - floor)
    }
}

/// A tenth more than the interval between two drains, twice.
const BASE_KEPT: Duration = Duration::from_secs(30);
const FLOOR_KEPT: Duration = Duration::from_secs(10);
/// Marks per round trip.
const MARKS: u32 = 16;
/// Before the first sample, a quarter is taken for the path's own.
const UNKNOWN: f64 = 0.25;
/// So many packets make a sample.
const SAMPLE_PACKETS: u64 = 400;
const LEAST_PACKETS: u64 = 40;
/// Losses that are always tolerated, as a share.
const CHANCE: f64 = 0.03;
/// A round with fewer lost packets than this tells nothing.
const FEW_PACKETS: u64 = 4;
