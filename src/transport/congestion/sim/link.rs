//! One direction of a simulated path.

use std::time::{Duration, Instant};

/// What a link does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// Bytes per second; infinite without a bottleneck.
    pub(super) rate: f64,
    /// Bytes that may wait.
    pub(super) queue: u64,
    /// The share of packets lost at random, before the queue.
    pub(super) loss: f64,
    /// Up to this is added to the delay of each packet, in order.
    pub(super) jitter: Duration,
    /// The share of packets that others overtake.
    pub(super) reorder: f64,
    /// Drops what exceeds the rate instead of queueing it, after a burst of `queue` bytes.
    pub(super) policer: bool,
    /// Drops everything.
    pub(super) down: bool,
}

impl Link {
    /// `mbit` per second, `rtt` both ways together, a queue of `bdp` bandwidth-delay products.
    pub(super) fn new(mbit: f64, rtt: Duration, bdp: f64) -> Self {
        let rate = mbit * 1e6 / 8.0;
        let queue = (rate * rtt.as_secs_f64() * bdp) as u64;
        Self {
            delay: rtt / 2,
            rate,
            queue,
            loss: 0.0,
            jitter: Duration::ZERO,
            reorder: 0.0,
            policer: false,
            down: false,
        }
    }

    /// The way back: as long, as lossy, and wide.
    pub(super) fn back(self) -> Self {
        Self { rate: f64::INFINITY, ..self }
    }
}

/// A link at work.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) link: Link,
    busy_until: Instant,
    last_arrival: Instant,
    /// Queueing delays of the packets that passed.
    pub(super) waits: Vec<f32>,
    /// Packets: passed, lost at random, dropped by the queue.
    pub(super) passed: u64,
    pub(super) lost: u64,
    pub(super) dropped: u64,
}

impl Line {
    pub(super) fn new(link: Link, now: Instant) -> Self {
        Self {
            link,
            busy_until: now,
            last_arrival: now,
            waits: Vec::new(),
            passed: 0,
            lost: 0,
            dropped: 0,
        }
    }

    /// When a packet that is sent now arrives, if it does.
    pub(super) fn send(
        &mut self,
        now: Instant,
        bytes: usize,
        random: &mut Random,
    ) -> Option<Instant> {
        let link = self.link;
        if link.down || random.below(link.loss) {
            self.lost += 1;
            return None;
        }
        let mut leaves = now;
        if link.rate.is_finite() {
            let wait = self.busy_until.saturating_duration_since(now);
            if wait.as_secs_f64() * link.rate > link.queue as f64 {
                self.dropped += 1;
                return None;
            }
            let sending = Duration::from_secs_f64(bytes as f64 / link.rate);
            self.busy_until = self.busy_until.max(now) + sending;
            if !link.policer {
                leaves = self.busy_until;
                self.waits.push(wait.as_secs_f32());
            }
        }
        self.passed += 1;
        let arrival = leaves + link.delay + link.jitter.mul_f64(random.unit());
        if random.below(link.reorder) {
            return Some(
                arrival
                    + Duration::from_millis(1)
                    + Duration::from_millis(19).mul_f64(random.unit()),
            );
        }
        self.last_arrival = self.last_arrival.max(arrival);
        Some(self.last_arrival)
    }

    /// The queueing delay that this share of the packets stayed below.
    pub(super) fn wait(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        if waits.is_empty() {
            return Duration::ZERO;
        }
        waits.sort_by(f32::total_cmp);
        Duration::from_secs_f32(waits[((waits.len() - 1) as f64 * share) as usize])
    }
}

/// splitmix64: repeatable for a seed.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }
}
