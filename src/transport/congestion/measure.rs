//! What acknowledgements tell of a path: round-trip times, bytes that arrive, and losses, one round at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One round: what comes back between two moments that are a round trip apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    began: Instant,
    /// The shortest round-trip time of it: the queue that stood all the time, not the sender's own bursts.
    rtt: Option<Duration>,
    /// Bytes acknowledged.
    pub(super) acked: u64,
    /// Of those, bytes that were acknowledged while the window held the sender back.
    acked_limited: u64,
    /// Bytes declared lost.
    pub(super) lost: u64,
    /// Whether a router on the path marked packets instead of dropping them (RFC 3168).
    pub(super) marked: bool,
}

impl Round {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, rtt: None, acked: 0, acked_limited: 0, lost: 0, marked: false }
    }

    /// Books an acknowledged packet.
    pub(super) fn acked(&mut self, bytes: u64, app_limited: bool) {
        self.acked += bytes;
        if !app_limited {
            self.acked_limited += bytes;
        }
    }

    /// Books the end of a batch of acknowledgements, whose newest packet left at `sent`. True: the round is over.
    pub(super) fn sampled(&mut self, sent: Instant, rtt: Duration) -> bool {
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
        sent >= self.began
    }

    /// Whether the window, and not the sender's own pace or the receiver's, was what bounded the round.
    pub(super) fn is_limited(&self) -> bool {
        self.acked_limited * 2 > self.acked
    }
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    base: BaseRtt,
    /// The delay that stays when the queue is drained: jitter of the path, scheduling at both ends.
    noise: Duration,
    delivery: Delivery,
    floor: LossFloor,
}

impl Path {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: BaseRtt::new(now),
            noise: LEAST_NOISE,
            delivery: Delivery::default(),
            floor: LossFloor::new(now),
        }
    }

    /// Books an acknowledged packet.
    pub(super) fn acked(&mut self, bytes: u64) {
        self.delivery.total += bytes;
    }

    /// Books a round-trip time. Returns the queueing delay in it.
    pub(super) fn sampled(&mut self, now: Instant, rtt: Duration) -> Duration {
        self.base.sample(now, rtt);
        self.delivery.mark(now, self.base_rtt().max(SHORTEST_SPAN));
        self.queueing(rtt)
    }

    /// Books the losses of a round. True: they are more than the path's own.
    pub(super) fn lost(&mut self, now: Instant, round: &Round, mtu: u64) -> bool {
        let excess = self.floor.excess(round, mtu);
        self.floor.book(now, round, mtu);
        excess
    }

    /// Books how fast bytes arrived in a round that the window bounded.
    pub(super) fn carried(&mut self, now: Instant) {
        let rate = self.rate(now);
        self.delivery.remember(rate);
    }

    /// The round-trip time without a queue; zero before the first sample.
    pub(super) fn base_rtt(&self) -> Duration {
        self.base.get().unwrap_or_default()
    }

    /// The queueing delay in a round, beyond what is noise.
    pub(super) fn queueing_in(&self, round: &Round) -> Duration {
        round.rtt.map_or(Duration::ZERO, |rtt| self.queueing(rtt))
    }

    fn queueing(&self, rtt: Duration) -> Duration {
        rtt.saturating_sub(self.base_rtt()).saturating_sub(self.noise)
    }

    /// Bytes that arrive a second, over the last round trip; zero before that is known.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        self.delivery.rate(now)
    }

    /// How long so many bytes take at the best of the last rates; at most a second.
    pub(super) fn delay_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64((bytes as f64 / self.delivery.best().max(1.0)).min(1.0))
    }

    /// Bytes that the path holds without a queue when `rate` bytes arrive a second.
    pub(super) fn pipe(&self, rate: f64) -> u64 {
        (rate / (1.0 - self.floor.get()) * (self.base_rtt() + self.noise).as_secs_f64()) as u64
    }

    /// A drain has taken effect: what is lost from now on is lost without a queue.
    pub(super) fn drains(&mut self) {
        self.floor.clear();
    }

    /// A drain is over, the shortest round-trip time of which was `rtt`.
    pub(super) fn drained(&mut self, now: Instant, rtt: Duration, mtu: u64) {
        self.floor.measured(now, mtu);
        let residue = rtt.saturating_sub(self.base_rtt());
        // More than that is a queue that others fill.
        let most = (self.base_rtt() / 4).max(RADIO_NOISE);
        self.noise = if residue > most { LEAST_NOISE } else { residue.max(LEAST_NOISE) };
    }
}

/// The shortest round-trip time of the last 30 to 60 seconds.
#[derive(Clone, Copy, Debug)]
struct BaseRtt {
    older: Duration,
    newer: Duration,
    since: Instant,
}

impl BaseRtt {
    fn new(now: Instant) -> Self {
        Self { older: Duration::MAX, newer: Duration::MAX, since: now }
    }

    fn get(&self) -> Option<Duration> {
        Some(self.older.min(self.newer)).filter(|rtt| *rtt != Duration::MAX)
    }

    fn sample(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.since) > BASE_KEPT {
            (self.older, self.newer, self.since) = (self.newer, Duration::MAX, now);
        }
        self.newer = self.newer.min(rtt);
    }
}

/// How fast bytes arrive.
#[derive(Clone, Debug, Default)]
struct Delivery {
    total: u64,
    marks: VecDeque<(Instant, u64)>,
    rounds: [f64; 8],
    next: usize,
}

impl Delivery {
    /// Remembers how much had arrived by now; `span` is how far back [`Delivery::rate`] looks.
    fn mark(&mut self, now: Instant, span: Duration) {
        let due = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= span / MARKS;
        if self.marks.back().is_none_or(due) {
            self.marks.push_back((now, self.total));
        }
        while self.marks.len() > 2 && now.saturating_duration_since(self.marks[1].0) >= span {
            self.marks.pop_front();
        }
    }

    fn rate(&self, now: Instant) -> f64 {
        let Some((at, total)) = self.marks.front() else { return 0.0 };
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        if seconds > 0.0 { (self.total - total) as f64 / seconds } else { 0.0 }
    }

    fn remember(&mut self, rate: f64) {
        self.rounds[self.next] = rate;
        self.next = (self.next + 1) % self.rounds.len();
    }

    fn best(&self) -> f64 {
        self.rounds.iter().copied().fold(0.0, f64::max)
    }
}

/// The share of bytes that a path loses at any load, as far as the last ten to twenty seconds show.
#[derive(Clone, Copy, Debug)]
struct LossFloor {
    older: f64,
    newer: f64,
    since: Instant,
    acked: u64,
    lost: u64,
}

impl LossFloor {
    fn new(now: Instant) -> Self {
        Self { older: f64::INFINITY, newer: f64::INFINITY, since: now, acked: 0, lost: 0 }
    }

    fn book(&mut self, now: Instant, round: &Round, mtu: u64) {
        self.acked += round.acked;
        self.lost += round.lost;
        if self.acked + self.lost >= SAMPLE_PACKETS * mtu {
            self.close(now, mtu);
        }
    }

    /// Forgets what makes no sample yet.
    fn clear(&mut self) {
        (self.acked, self.lost) = (0, 0);
    }

    /// Takes what there is for a sample, unless it is next to nothing.
    fn close(&mut self, now: Instant, mtu: u64) {
        let (acked, lost) = (std::mem::take(&mut self.acked), std::mem::take(&mut self.lost));
        if acked + lost < LEAST_PACKETS * mtu {
            return;
        }
        if now.saturating_duration_since(self.since) > FLOOR_KEPT {
            (self.older, self.newer, self.since) = (self.newer, f64::INFINITY, now);
        }
        self.newer = self.newer.min(lost as f64 / (acked + lost) as f64);
    }

    /// What there is was sent without a queue: the floor is this, whatever it was.
    fn measured(&mut self, now: Instant, mtu: u64) {
        if self.acked + self.lost >= LEAST_PACKETS * mtu {
            (self.older, self.newer, self.since) = (f64::INFINITY, f64::INFINITY, now);
            self.close(now, mtu);
        }
    }

    fn known(&self) -> Option<f64> {
        Some(self.older.min(self.newer)).filter(|floor| floor.is_finite())
    }

    /// Zero while unknown; what arrives of little is not believed.
    fn get(&self) -> f64 {
        self.known().unwrap_or(0.0).min(MOST)
    }

    /// Whether `round` lost more than the floor and chance explain.
    fn excess(&self, round: &Round, mtu: u64) -> bool {
        let bytes = round.acked + round.lost;
        let share = round.lost as f64 / bytes.max(1) as f64;
        let floor = self.known().unwrap_or(UNKNOWN);
        let packets = (bytes / mtu).max(1) as f64;
        let deviation = (floor * (1.0 - floor) / packets).sqrt();
        // The floor is the least of some samples, so the mean lies above it.
        let tolerated = TOLERATED + 1.5 * floor + 3.0 * deviation;
        share > tolerated && round.lost >= FEW_PACKETS * mtu
    }
}

/// Scheduling at both ends, at least.
const LEAST_NOISE: Duration = Duration::from_millis(1);
/// What a radio link adds at random, however near the other end is.
const RADIO_NOISE: Duration = Duration::from_millis(10);
/// Rates are measured over a round trip, or this.
const SHORTEST_SPAN: Duration = Duration::from_millis(1);
/// A competitor that fills the queue hides the path's own round-trip time for long; a path that has become longer is
/// believed after twice this.
const BASE_KEPT: Duration = Duration::from_secs(30);
/// Marks per round trip.
const MARKS: u32 = 16;
const FLOOR_KEPT: Duration = Duration::from_secs(10);
/// Before the first sample, a quarter is taken for the path's own.
const UNKNOWN: f64 = 0.25;
/// The pipe is not taken for more than twice of what arrives.
const MOST: f64 = 0.5;
/// So many packets make a sample, and the end of a drain makes one from so many.
const SAMPLE_PACKETS: u64 = 400;
const LEAST_PACKETS: u64 = 10;
/// Losses that are always tolerated, as a share.
const TOLERATED: f64 = 0.03;
/// A round with fewer lost packets than this tells nothing.
const FEW_PACKETS: u64 = 4;
