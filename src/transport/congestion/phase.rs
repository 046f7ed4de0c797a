//! The phases of the controller `auto`, each with what it alone remembers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};

use super::measure::Round;

#[derive(Debug)]
pub(super) enum Phase {
    /// Doubles every round until the queue grows, the rate does not, or the path loses.
    Startup(Startup),
    /// Holds a few packets in the queue.
    Level,
    /// Lets the queue run empty, to see the path without it, and goes back to the window before.
    Drain(Drain),
    /// Somebody else fills the queue: takes a share as they do, for some rounds.
    Contend(Contend),
}

impl Clone for Phase {
    fn clone(&self) -> Self {
        match self {
            Self::Startup(startup) => Self::Startup(*startup),
            Self::Level => Self::Level,
            Self::Drain(drain) => Self::Drain(*drain),
            Self::Contend(contend) => {
                Self::Contend(Contend { cubic: contend.cubic.clone_box(), ..*contend })
            }
        }
    }
}

/// Looking for the rate that a path carries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Startup {
    /// Samples in a row that found a queue.
    queued: u32,
    /// What the round before delivered, in bytes.
    before: u64,
    /// Rounds in a row that delivered hardly more.
    flat: u32,
}

/// What a round of start-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More is possible.
    Nothing,
    /// Doubling brings no more.
    Limit,
    /// Doubling brings losses instead.
    Losses,
}

impl Startup {
    /// Books a sample of the queueing delay. True: the queue grows. One sample, or a few, may be jitter.
    pub(super) fn sampled(&mut self, queueing: Duration, base: Duration) -> bool {
        let sign = (base / 8).clamp(SIGN_LEAST, SIGN_MOST);
        self.queued = if queueing >= sign { self.queued + 1 } else { 0 };
        self.queued >= SIGNS
    }

    /// Books a round, and whether it lost more than the path does by itself.
    pub(super) fn round(&mut self, round: &Round, lossy: bool) -> Found {
        let grown = round.acked as f64 / self.before.max(1) as f64;
        self.before = round.acked;
        self.flat = if grown < FLAT && round.is_limited() { self.flat + 1 } else { 0 };
        if lossy && grown < STILL_GROWING {
            Found::Losses
        } else if self.flat >= FLAT_ROUNDS {
            Found::Limit
        } else {
            Found::Nothing
        }
    }
}

/// Looking at a path without its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    rounds: u32,
    /// The window to go back to, at most.
    pub(super) resume: u64,
    /// Bytes that arrived a second before it.
    pub(super) rate: f64,
    /// The shortest round-trip time since it took effect.
    pub(super) rtt: Duration,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draining {
    /// What came so far tells of the window before; what comes now does not.
    TakesEffect,
    /// It goes on.
    Lasts,
    /// It is over.
    Over,
}

impl Drain {
    pub(super) fn new(resume: u64, rate: f64) -> Self {
        Self { rounds: DRAIN_ROUNDS, resume, rate, rtt: Duration::MAX }
    }

    /// The window while it lasts: room enough for our own queue and most of our neighbour's.
    pub(super) fn window(&self) -> u64 {
        self.resume / 2
    }

    pub(super) fn sampled(&mut self, rtt: Duration) {
        self.rtt = self.rtt.min(rtt);
    }

    pub(super) fn round(&mut self) -> Draining {
        self.rounds -= 1;
        if self.rounds + 1 == DRAIN_ROUNDS {
            self.rtt = Duration::MAX;
            return Draining::TakesEffect;
        }
        if self.rounds == 0 { Draining::Over } else { Draining::Lasts }
    }
}

/// A queue that our window does not explain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    /// Half rounds: one in which the queue fell counts half.
    stood: u32,
    /// The queueing delay in the round before.
    before: Duration,
    /// The window when it appeared.
    pub(super) window: u64,
    /// The queueing delay from which a round counts.
    pub(super) beyond: Duration,
}

impl Foreign {
    pub(super) fn new(queueing: Duration, window: u64, beyond: Duration) -> Self {
        Self { stood: 0, before: queueing, window, beyond }
    }

    /// Books a round in which it stood. True: for so long, although we made room, that it is somebody else's.
    pub(super) fn round(&mut self, queueing: Duration) -> bool {
        self.stood += if queueing < self.before { 1 } else { 2 };
        self.before = queueing;
        self.stood >= FOREIGN_ROUNDS * 2
    }
}

/// Taking a share beside traffic that fills the queue: quinn's CUBIC, which hears of those losses only that a full queue
/// explains.
pub(super) struct Contend {
    cubic: Box<dyn Controller>,
    rounds: u32,
    /// The longest queueing delay of this phase, and that of the newest sample.
    longest: Duration,
    latest: Duration,
    /// That of the round before, and for how many rounds it has fallen although nothing was lost.
    before: Duration,
    falling: u32,
}

impl Contend {
    /// Begins with `window`; `salt` makes connections that began together end apart.
    pub(super) fn new(window: u64, queueing: Duration, now: Instant, mtu: u64, salt: u64) -> Self {
        let mut config = CubicConfig::default();
        config.initial_window(window * 10 / 7);
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let mut cubic = Arc::new(config).build(now, mtu);
        // Out of slow start, which takes it down to seven tenths: to what we had.
        cubic.on_congestion_event(now, now, false, mtu.into());
        let rounds = CONTEND_ROUNDS + (salt % 16) as u32;
        Self { cubic, rounds, longest: queueing, latest: queueing, before: queueing, falling: 0 }
    }

    pub(super) fn cubic(&mut self) -> &mut dyn Controller {
        &mut *self.cubic
    }

    pub(super) fn sampled(&mut self, queueing: Duration) {
        self.latest = queueing;
        self.longest = self.longest.max(queueing);
    }

    /// Whether the queue explains a loss right now.
    pub(super) fn is_full(&self) -> bool {
        self.latest * 2 > self.longest
    }

    /// Books a round. True: it is time to see whether the others are still there. A queue that falls and falls although
    /// nothing was lost is one of our kind that looks too: whoever fills queues gives way to losses only.
    pub(super) fn round(&mut self, round: &Round, queueing: Duration) -> bool {
        self.rounds -= 1;
        let falls = queueing < self.before && round.lost == 0;
        self.falling = if falls { self.falling + 1 } else { 0 };
        self.before = queueing;
        self.rounds == 0 || self.falling >= YIELDED
    }
}

impl fmt::Debug for Contend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contend").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// RFC 9406, 4.2: the queueing delay that ends start-up, and the samples that make it certain.
const SIGN_LEAST: Duration = Duration::from_millis(4);
const SIGN_MOST: Duration = Duration::from_millis(16);
const SIGNS: u32 = 8;
/// A round that delivers less than this times the one before is flat.
const FLAT: f64 = 1.15;
const FLAT_ROUNDS: u32 = 3;
/// A start-up that loses goes on while the rate still grows so much.
const STILL_GROWING: f64 = 1.4;
/// One until it takes effect, and two whose losses are heard of.
const DRAIN_ROUNDS: u32 = 3;
/// How long a queue that is not ours has to stand while we make room.
const FOREIGN_ROUNDS: u32 = 10;
/// How long a share is taken as the others do before a look whether they are still there.
const CONTEND_ROUNDS: u32 = 56;
/// Rounds of a falling queue without a loss.
const YIELDED: u32 = 3;
