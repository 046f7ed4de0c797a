//! The controller `auto`: keeps a few packets in the queue instead of filling it. `docs/congestion.md` describes it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::measure::{BaseRtt, Delivery, LossFloor, Round};
use super::{Config, State};

/// See the head of this file.
pub(super) struct Level {
    config: Arc<Config>,
    mtu: u64,
    window: u64,
    phase: Phase,
    base: BaseRtt,
    delivery: Delivery,
    floor: LossFloor,
    round: Round,
    /// When the newest packet of the batch at hand was sent.
    newest: Option<Instant>,
    /// When the queue was last empty, or a drain began.
    emptied: Instant,
    /// Rounds in a row that found the queue empty.
    empty: u32,
    /// Somebody else's queue, as long as it stands.
    foreign: Option<Foreign>,
    /// Rounds without growth after the path dropped what exceeded it.
    hold: u32,
    /// How long the next hold lasts.
    next_hold: u32,
    /// Rounds whose losses are those of a window that is gone.
    deaf: u32,
    /// The delay that stays when the queue is drained: jitter of the path, scheduling at both ends.
    noise: Duration,
    drained: Instant,
    rates: Recent,
}

#[derive(Debug)]
enum Phase {
    /// Doubles every round until the queue grows, the rate does not, or the path loses.
    Startup(Startup),
    /// Holds a few packets in the queue.
    Level,
    /// Lets the queue run empty, to see the path without it, and goes back to the window before.
    Drain(Drain),
    /// Somebody else fills the queue: takes a share as they do, for some rounds.
    Contend(Contend),
}

#[derive(Clone, Copy, Debug, Default)]
struct Startup {
    /// Samples in a row that found a queue.
    queued: u32,
    /// What the round before delivered, in bytes.
    before: u64,
    /// Rounds in a row that delivered hardly more.
    flat: u32,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Rounds that are left.
    rounds: u32,
    /// The window to go back to, at most.
    resume: u64,
    /// Bytes per second that arrived before it.
    rate: f64,
    /// The shortest round-trip time of it.
    rtt: Duration,
}

struct Contend {
    cubic: Box<dyn Controller>,
    rounds: u32,
    /// The longest queueing delay of this phase.
    longest: Duration,
    /// That of the newest sample.
    latest: Duration,
    /// That of the round before, and for how many rounds it has fallen although nothing was lost.
    before: Duration,
    falling: u32,
}

/// A queue that the window does not explain.
#[derive(Clone, Copy, Debug)]
struct Foreign {
    rounds: u32,
    /// The window when it appeared.
    window: u64,
    /// The queueing delay from which a round counts.
    beyond: Duration,
}

/// Delivery rates of the last rounds, in bytes per second.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    rates: [f64; 8],
    next: usize,
}

impl Recent {
    fn push(&mut self, rate: f64) {
        self.rates[self.next] = rate;
        self.next = (self.next + 1) % self.rates.len();
    }

    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }
}

impl Level {
    pub(super) fn new(config: Arc<Config>, now: Instant, mtu: u16) -> Self {
        Self {
            window: config.initial_window(mtu),
            config,
            mtu: mtu.into(),
            phase: Phase::Startup(Startup::default()),
            base: BaseRtt::new(now),
            delivery: Delivery::default(),
            floor: LossFloor::new(now),
            round: Round::new(now),
            newest: None,
            emptied: now,
            empty: 0,
            foreign: None,
            hold: 0,
            next_hold: FIRST_HOLD,
            deaf: 0,
            noise: NOISE,
            drained: now,
            rates: Recent::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn trace(&self, now: Instant) -> String {
        format!(
            "{:?} w {} base {:?} noise {:?} own {:?} rate {:?} floor {:?}hold {} foreign {:?}",
            self.state(),
            self.window,
            self.base.get(),
            self.noise,
            self.own_delay(),
            self.delivery.rate(now).map(|r| (r * 8.0 / 1e6) as u64),
            self.floor,
            self.hold,
            self.foreign
        )
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Startup(_) => State::Startup,
            Phase::Level => State::Level,
            Phase::Drain(_) => State::Drain,
            Phase::Contend(_) => State::Contend,
        }
    }

    /// Bytes of the queue that are ours to hold. Less than proportional to the window, so that two connections on one
    /// link meet at equal windows, whatever they began with.
    fn share(&self, window: u64) -> u64 {
        let packets =
            (window as f64 / self.mtu as f64).sqrt() * PACKETS_HELD * self.config.weight();
        ((packets.max(LEAST_HELD)) * self.mtu as f64) as u64
    }

    /// What a round-trip time says about the queue, after the scheduling noise of both machines.
    fn queueing(&self, rtt: Duration) -> Duration {
        let base = self.base.get().unwrap_or(rtt);
        rtt.saturating_sub(base).saturating_sub(self.noise)
    }

    /// How long our share of the queue takes at the best of the last rates.
    fn own_delay(&self) -> Duration {
        let seconds = self.share(self.window) as f64 / self.rates.best().max(1.0);
        Duration::from_secs_f64(seconds.min(1.0))
    }

    /// Bytes that the path holds without a queue when so many arrive a second.
    fn pipe(&self, rate: f64) -> u64 {
        let base = self.base.get().unwrap_or_default() + self.noise;
        (rate / (1.0 - self.floor.get()) * base.as_secs_f64()) as u64
    }

    /// The same at the rate at hand; `None` as long as there is none.
    fn pipe_now(&self, now: Instant) -> Option<u64> {
        Some(self.pipe(self.delivery.rate(now)?))
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(MIN_PACKETS * self.mtu, MAX_WINDOW);
    }

    /// A sample of the round-trip time, at once.
    fn sampled(&mut self, now: Instant, rtt: Duration) {
        self.base.sample(now, rtt);
        let base = self.base.get().unwrap_or(rtt);
        self.delivery.mark(now, base.max(SHORTEST_SPAN));
        if rtt <= base + self.noise {
            self.emptied = now;
        }
        let queueing = self.queueing(rtt);
        match &mut self.phase {
            Phase::Startup(startup) => {
                let sign = (base / 8).clamp(SIGN_LEAST, SIGN_MOST);
                startup.queued = if queueing >= sign { startup.queued + 1 } else { 0 };
                if startup.queued >= SIGNS {
                    self.settle(now);
                }
            }
            Phase::Contend(contend) => {
                contend.latest = queueing;
                contend.longest = contend.longest.max(queueing);
            }
            Phase::Drain(drain) => drain.rtt = drain.rtt.min(rtt),
            Phase::Level => {}
        }
    }

    /// Takes the window to what the path holds and no more: the queue that growth has built runs empty.
    fn settle(&mut self, now: Instant) {
        if let Some(pipe) = self.pipe_now(now) {
            let window = pipe.clamp(self.window / 8, self.window);
            self.set_window(window);
        }
        self.phase = Phase::Level;
        self.deaf = DEAF_ROUNDS;
        self.empty = 0;
    }

    /// Begins to look at the path without a queue.
    fn drain(&mut self, now: Instant) {
        (self.emptied, self.drained) = (now, now);
        let rate = self.delivery.rate(now).unwrap_or(0.0);
        self.phase =
            Phase::Drain(Drain { rounds: 3, resume: self.window, rate, rtt: Duration::MAX });
        self.set_window(self.window * 7 / 10);
        self.deaf = 1;
    }

    /// The queue has run empty: what delays and what loses packets now is the path itself.
    fn drained(&mut self, now: Instant, drain: Drain) {
        self.floor.close(now, self.mtu);
        let base = self.base.get().unwrap_or(drain.rtt);
        let residue = drain.rtt.min(base * 2).saturating_sub(base);
        self.noise = if residue > base / 4 { NOISE } else { residue.max(NOISE) };
        self.phase = Phase::Level;
        let pipe = self.pipe(drain.rate) + self.share(drain.resume);
        self.set_window(pipe.clamp(drain.resume * 7 / 10, drain.resume));
    }

    fn end_of_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let heard = self.deaf == 0;
        self.deaf = self.deaf.saturating_sub(1);
        let excess = if heard { self.floor.excess(&round, self.mtu) } else { None };
        if heard {
            self.floor.round(now, &round, self.mtu);
        }
        let queueing = round.rtt.map_or(Duration::ZERO, |rtt| self.queueing(rtt));
        tracing::trace!(
            state = ?self.state(),
            window = self.window,
            base = ?self.base.get(),
            ?queueing,
            noise = ?self.noise,
            limited = round.is_limited(),
            acked = round.acked,
            lost = round.lost,
            floor = self.floor.get(),
            ?excess,
            hold = self.hold,
            "round"
        );
        if round.is_limited() {
            self.rates.push(self.delivery.rate(now).unwrap_or(0.0));
        }
        match &mut self.phase {
            Phase::Startup(startup) => {
                let grown = round.acked as f64 / startup.before.max(1) as f64;
                startup.before = round.acked;
                startup.flat =
                    if grown < FLAT && round.is_limited() { startup.flat + 1 } else { 0 };
                let lossy = excess.is_some() && grown < STILL_GROWING;
                let flat = startup.flat >= FLAT_ROUNDS;
                if lossy || flat {
                    self.settle(now);
                }
                if lossy {
                    self.drain(now);
                }
            }
            Phase::Drain(drain) => {
                drain.rounds -= 1;
                match (drain.rounds, *drain) {
                    // What came before tells of the window before.
                    (2, _) => {
                        drain.rtt = Duration::MAX;
                        self.floor.clear();
                    }
                    (0, drain) => self.drained(now, drain),
                    _ => {}
                }
            }
            Phase::Contend(contend) => {
                contend.rounds -= 1;
                let falls = queueing < contend.before && round.lost == 0;
                contend.falling = if falls { contend.falling + 1 } else { 0 };
                contend.before = queueing;
                if contend.rounds == 0 || contend.falling >= YIELDED {
                    self.phase = Phase::Level;
                    self.foreign = None;
                    self.emptied = now;
                }
            }
            Phase::Level if round.is_limited() => self.level(now, queueing, excess),
            Phase::Level => {}
        }
    }

    /// A round of the level phase in which the window was used.
    fn level(&mut self, now: Instant, queueing: Duration, excess: Option<f64>) {
        if excess.is_some() {
            // The queue is shorter than our share of it, or something drops what comes too fast.
            self.hold = self.next_hold;
            self.next_hold = (self.next_hold * 2).min(LONGEST_HOLD);
            let pipe = self.pipe_now(now).unwrap_or(self.window);
            self.set_window(pipe.clamp(self.window * 7 / 10, self.window * 19 / 20));
            self.deaf = 1;
            self.empty = 0;
            if now.saturating_duration_since(self.drained) > DRAIN_EVERY {
                // How much of that is the path's own?
                self.drain(now);
            }
            return;
        }
        if self.is_foreign(now, queueing) {
            return;
        }
        let base = self.base.get().unwrap_or(SHORTEST_SPAN);
        if queueing < self.own_delay() / 4 {
            self.empty += 1;
        } else {
            if self.empty > FAST_AFTER
                && queueing > self.own_delay() * 2
                && let Some(pipe) = self.pipe_now(now)
            {
                self.set_window((pipe + self.share(pipe)).min(self.window));
            }
            self.empty = 0;
        }
        let held = base.as_secs_f64() / (base + queueing).as_secs_f64() * self.window as f64;
        let aim = held + self.share(self.window) as f64;
        let mut step = (aim - self.window as f64) * GAIN;
        if self.empty > FAST_AFTER {
            step *= f64::from(1u32 << (self.empty - FAST_AFTER).min(10));
        }
        if self.hold > 0 {
            self.hold -= 1;
            self.empty = 0;
            step = step.min(0.0);
        }
        let most = self.window as f64 * MOST_STEP;
        let least = -(self.window as f64) * YIELD;
        let window = (self.window as f64 + step.clamp(least, most)) as u64;
        // Beyond one and a half times what was delivered, the window is not what bounds the rate.
        let used = self.pipe_now(now).map_or(u64::MAX, |pipe| pipe * 3 / 2 + self.share(pipe));
        self.set_window(window.min(used.max(self.window)));
        let stale = self.emptied.min(now);
        let stale = if self.floor.is_lossy() { stale.min(self.drained) } else { stale };
        if now.saturating_duration_since(stale) > DRAIN_EVERY {
            self.drain(now);
        }
    }

    /// Whether the queue is somebody else's: it stands although we make room. Then [`Phase::Contend`] begins.
    fn is_foreign(&mut self, now: Instant, queueing: Duration) -> bool {
        let beyond = match self.foreign {
            Some(foreign) => foreign.beyond,
            None => {
                let most = (self.base.get().unwrap_or_default() / 3).max(FOREIGN_LEAST * 2);
                (self.own_delay() * 5 / 4).min(most) + FOREIGN_LEAST
            }
        };
        if queueing <= beyond || !self.config.contends() {
            self.foreign = None;
            return false;
        }
        let foreign =
            self.foreign.get_or_insert(Foreign { rounds: 0, window: self.window, beyond });
        foreign.rounds += 1;
        if foreign.rounds < FOREIGN_ROUNDS {
            return false;
        }
        let mut cubic = CubicConfig::default();
        cubic.initial_window(foreign.window * 10 / 7);
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let mut cubic = Arc::new(cubic).build(now, mtu);
        // Out of slow start (it goes down to seven tenths), at what we had.
        cubic.on_congestion_event(now, now, false, self.mtu);
        self.phase = Phase::Contend(Contend {
            cubic,
            rounds: CONTEND_ROUNDS + (self.round.acked % 16) as u32,
            longest: queueing,
            latest: queueing,
            before: queueing,
            falling: 0,
        });
        true
    }
}

impl Controller for Level {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.newest = self.newest.max(Some(sent));
        self.delivery.acked(bytes);
        self.round.acked += bytes;
        if !app_limited {
            self.round.acked_limited += bytes;
        }
        match &mut self.phase {
            Phase::Startup(_) if !app_limited => self.set_window(self.window + bytes),
            Phase::Contend(contend) => {
                contend.cubic.on_ack(now, sent, bytes, app_limited, rtt);
                let window = contend.cubic.window();
                self.set_window(window);
            }
            _ => {}
        }
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        let Some(sent) = self.newest.take() else { return };
        let rtt = now.saturating_duration_since(sent);
        self.sampled(now, rtt);
        if self.round.ends_with(sent, rtt) {
            self.end_of_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.round.lost += lost;
        if persistent {
            self.set_window(self.window / 4);
            self.phase = Phase::Startup(Startup::default());
            self.foreign = None;
            return;
        }
        if let Phase::Contend(contend) = &mut self.phase
            // A loss while the queue is short is not the queue's.
            && (lost == 0 || contend.latest * 2 > contend.longest)
        {
            contend.cubic.on_congestion_event(now, sent, false, lost);
            let window = contend.cubic.window();
            self.set_window(window);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        if let Phase::Contend(contend) = &mut self.phase {
            contend.cubic.on_mtu_update(new_mtu);
        }
        self.set_window(self.window);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            config: Arc::clone(&self.config),
            delivery: self.delivery.clone(),
            phase: self.phase.duplicate(),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.config.initial_window(u16::try_from(self.mtu).unwrap_or(u16::MAX))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Phase {
    fn duplicate(&self) -> Self {
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

impl std::fmt::Debug for Contend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contend").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// Packets held in the queue, times the root of the window in packets.
const PACKETS_HELD: f64 = 1.5;
const LEAST_HELD: f64 = 2.0;
/// The part of the way to the aim that one round goes.
const GAIN: f64 = 0.5;
/// No round changes the window by more than this.
const MOST_STEP: f64 = 0.25;
/// While the queue may be somebody else's, this much room is made a round.
const YIELD: f64 = 0.07;
/// Scheduling at both ends, at least.
const NOISE: Duration = Duration::from_millis(1);
/// Empty rounds after which growth doubles.
const FAST_AFTER: u32 = 1;
/// RFC 9406, 4.2: the queueing delay that ends start-up, and the samples that make it certain.
const SIGN_LEAST: Duration = Duration::from_millis(4);
const SIGN_MOST: Duration = Duration::from_millis(16);
const SIGNS: u32 = 8;
/// A round that delivers less than this times the one before is flat.
const FLAT: f64 = 1.15;
const FLAT_ROUNDS: u32 = 3;
/// A start-up that loses goes on while the rate still grows so much.
const STILL_GROWING: f64 = 1.4;
/// How many rounds pass after a drop before the window grows again, at first and at most.
const FIRST_HOLD: u32 = 8;
const LONGEST_HOLD: u32 = 64;
/// A changed window shows in the losses of the round after the next.
const DEAF_ROUNDS: u32 = 2;
/// A queue that was not empty for so long is drained for a round.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
/// What a foreign queue has beyond twice our own, at least, and how long.
const FOREIGN_LEAST: Duration = Duration::from_millis(4);
const FOREIGN_ROUNDS: u32 = 10;
/// Rounds of a falling queue without a loss: whoever filled it makes room, as only our kind does.
const YIELDED: u32 = 4;
/// How long we take a share as the others do before we look whether they are still there.
const CONTEND_ROUNDS: u32 = 56;
/// Rates are measured over a round trip, or this.
const SHORTEST_SPAN: Duration = Duration::from_millis(1);
/// RFC 9002, 7.2, has two; four let acknowledgements come in pairs.
const MIN_PACKETS: u64 = 4;
/// More than any flow control allows.
const MAX_WINDOW: u64 = 1 << 30;
