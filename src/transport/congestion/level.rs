//! The controller `auto`: keeps a few packets in the queue instead of filling it. `docs/congestion.md` describes it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::Config;
use super::measure::{Path, Round};
use super::phase::{Contend, Drain, Draining, Foreign, Found, Phase, Startup};

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Level {
    config: Arc<Config>,
    mtu: u64,
    window: u64,
    phase: Phase,
    path: Path,
    round: Round,
    /// When the newest packet of the batch at hand was sent.
    newest: Option<Instant>,
    /// Rounds whose losses are those of a window that is gone.
    deaf: u32,
    /// When the last drain began.
    drained: Instant,
    /// Rounds in a row that found the queue empty, and the window before them.
    empty: u32,
    before: u64,
    /// Rounds without growth after the path dropped what exceeded it, and how many the next time.
    hold: u32,
    next_hold: u32,
    /// Somebody else's queue, as long as it stands.
    foreign: Option<Foreign>,
}

impl Level {
    pub(super) fn new(config: Arc<Config>, now: Instant, mtu: u16) -> Self {
        Self {
            window: config.initial_window(mtu),
            config,
            mtu: mtu.into(),
            phase: Phase::Startup(Startup::default()),
            path: Path::new(now),
            round: Round::new(now),
            newest: None,
            deaf: 0,
            drained: now,
            empty: 0,
            before: 0,
            hold: 0,
            next_hold: FIRST_HOLD,
            foreign: None,
        }
    }

    /// A word for people.
    pub(super) fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Startup(_) => "startup",
            Phase::Level => "level",
            Phase::Drain(_) => "drain",
            Phase::Contend(_) => "contend",
        }
    }

    /// Bytes of the queue that are ours to hold with this window. Less than proportional to it, so that two connections
    /// on one link meet at equal windows, whatever they began with.
    fn share(&self, window: u64) -> u64 {
        let packets = (window as f64 / self.mtu as f64).sqrt() * PACKETS_HELD;
        ((packets * self.config.weight()).max(LEAST_HELD) * self.mtu as f64) as u64
    }

    /// How long our share of the queue takes.
    fn own_delay(&self) -> Duration {
        self.path.delay_of(self.share(self.window))
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(LEAST_PACKETS * self.mtu, MAX_WINDOW);
    }

    fn sampled(&mut self, now: Instant, rtt: Duration, app_limited: bool) {
        let queueing = self.path.sampled(now, rtt);
        match &mut self.phase {
            Phase::Startup(startup) => {
                // Sparse packets are acknowledged late, which is no queue; and so few make none that lasts: theirs is
                // that of the other direction, whose acknowledgements and credits they are.
                let few = self.window < FEW_PACKETS * self.mtu;
                let queueing = if app_limited || few { Duration::ZERO } else { queueing };
                if startup.sampled(queueing, self.path.base_rtt()) {
                    self.settle(now);
                }
            }
            Phase::Drain(drain) => drain.sampled(rtt),
            Phase::Contend(contend) => contend.sampled(queueing),
            Phase::Level => {}
        }
    }

    fn end_of_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let heard = self.deaf == 0;
        self.deaf = self.deaf.saturating_sub(1);
        let exceeds = heard && (self.path.lost(now, &round, self.mtu) || round.marked);
        let queueing = self.path.queueing_in(&round);
        tracing::trace!(
            phase = ?self.phase,
            window = self.window,
            base = ?self.path.base_rtt(),
            ?queueing,
            ?round,
            exceeds,
            "round"
        );
        if round.is_limited() {
            self.path.carried(now);
        }
        match &mut self.phase {
            Phase::Startup(startup) => match startup.round(&round, exceeds) {
                Found::Nothing => {}
                Found::Limit => self.settle(now),
                Found::Losses => {
                    self.settle(now);
                    self.drain(now);
                }
            },
            Phase::Drain(drain) => match drain.round() {
                Draining::TakesEffect => self.path.drains(),
                Draining::Lasts => {}
                Draining::Over => {
                    let drain = *drain;
                    self.resume(now, drain);
                }
            },
            Phase::Contend(contend) => {
                if contend.round(&round, queueing) {
                    self.phase = Phase::Level;
                    self.foreign = None;
                    self.drained = now;
                }
            }
            Phase::Level if !round.is_limited() => {}
            Phase::Level if exceeds => self.give_way(now),
            Phase::Level => self.level(now, queueing),
        }
    }

    /// Ends start-up: takes the window to what the path holds and no more, so that the queue runs empty that doubling
    /// has built.
    fn settle(&mut self, now: Instant) {
        let pipe = self.path.pipe(self.path.rate(now));
        self.set_window(pipe.clamp(self.window / 8, self.window));
        self.phase = Phase::Level;
        self.deaf = 2;
        self.met_the_limit();
    }

    /// The path holds no more than the window.
    fn met_the_limit(&mut self) {
        (self.empty, self.before) = (0, self.window);
    }

    /// Begins to look at the path without a queue.
    fn drain(&mut self, now: Instant) {
        self.drained = now;
        let drain = Drain::new(self.window, self.path.rate(now));
        self.set_window(drain.window());
        self.phase = Phase::Drain(drain);
        self.deaf = 1;
    }

    /// The queue has run empty: what delays and what loses packets now is the path itself.
    fn resume(&mut self, now: Instant, drain: Drain) {
        self.path.drained(now, drain.rtt, self.mtu);
        let pipe = self.path.pipe(drain.rate) + self.share(drain.resume);
        self.set_window(pipe.clamp(drain.resume * 7 / 10, drain.resume));
        self.phase = Phase::Level;
    }

    /// The path drops what exceeds it: its queue is shorter than our share of it, or it polices.
    fn give_way(&mut self, now: Instant) {
        let pipe = self.path.pipe(self.path.rate(now));
        let window = pipe.clamp(self.window * 7 / 10, self.window * 19 / 20);
        // So few are no burden, and fewer would not tell what the path loses.
        self.set_window(window.max(self.window.min(FEW_PACKETS * self.mtu)));
        self.deaf = 1;
        self.met_the_limit();
        if self.hold > 0 {
            // Room was made a few rounds ago and made no difference: the loss may be the path's own.
            (self.hold, self.next_hold) = (0, FIRST_HOLD);
            self.drain(now);
            return;
        }
        self.hold = self.next_hold;
        self.next_hold = (self.next_hold * 2).min(LONGEST_HOLD);
        if self.drain_is_due(now) {
            self.drain(now);
        }
    }

    /// A round in which the window was used: moves it towards the one that keeps our share in the queue.
    fn level(&mut self, now: Instant, queueing: Duration) {
        if self.is_foreign(now, queueing) {
            return;
        }
        let pipe = self.path.pipe(self.path.rate(now));
        if queueing < self.own_delay() / 4 {
            self.empty += 1;
        } else {
            if self.empty > FAST_AFTER && queueing > self.own_delay() * 2 {
                // Growth by doubling has gone too far.
                self.set_window((pipe + self.share(pipe)).min(self.window));
            }
            self.met_the_limit();
        }
        if self.window / 2 >= self.before && self.empty > FAST_AFTER {
            // What we took for the path's limit was none, or is none any more.
            self.phase = Phase::Startup(Startup::default());
            return;
        }
        let window = self.window as f64;
        let base = self.path.base_rtt();
        // FAST TCP's step: what the path holds at this queueing delay, and our share.
        let held = window * base.as_secs_f64() / (base + queueing).as_secs_f64();
        let mut step = (held + self.share(self.window) as f64 - window) * GAIN;
        if self.hold > 0 {
            self.hold -= 1;
            self.met_the_limit();
            step = step.min(0.0);
        }
        if self.empty > FAST_AFTER {
            step *= f64::from(1_u32 << (self.empty - FAST_AFTER).min(10));
        }
        let next = (window + step.clamp(-window * MOST_LOSS, window * MOST_GAIN)) as u64;
        // Beyond one and a half times what arrives, the window is not what bounds the rate.
        let used = pipe * 3 / 2 + self.share(pipe);
        self.set_window(next.min(used.max(self.window)));
        if self.drain_is_due(now) {
            self.drain(now);
        }
    }

    fn drain_is_due(&self, now: Instant) -> bool {
        let every = DRAIN_EVERY.max(self.path.base_rtt() * DRAIN_ROUNDS);
        now.saturating_duration_since(self.drained) > every
    }

    /// Whether the queue is somebody else's: it stands although we make room. Then [`Phase::Contend`] begins.
    fn is_foreign(&mut self, now: Instant, queueing: Duration) -> bool {
        let beyond = self.foreign.map_or_else(|| self.foreign_from(), |foreign| foreign.beyond);
        if queueing <= beyond || !self.config.contends() {
            self.foreign = None;
            return false;
        }
        let begins = Foreign::new(queueing, self.window, beyond);
        let foreign = self.foreign.get_or_insert(begins);
        if !foreign.round(queueing) {
            return false;
        }
        let window = foreign.window;
        let salt = self.window / self.mtu;
        self.phase = Phase::Contend(Contend::new(window, queueing, now, self.mtu, salt));
        self.set_window(window);
        true
    }

    /// The queueing delay that is more than connections like ours would leave: each of them holds about what we do.
    fn foreign_from(&self) -> Duration {
        let most = (self.path.base_rtt() / 3).max(FOREIGN_LEAST * 2);
        (self.own_delay() * 5 / 2).min(most) + FOREIGN_LEAST
    }
}

impl Controller for Level {
    fn on_sent(&mut self, _: Instant, _: u64, _: u64) {
        self.config.share.sent();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.newest = self.newest.max(Some(sent));
        self.path.acked(bytes);
        self.round.acked(bytes, app_limited);
        match &mut self.phase {
            Phase::Startup(_) if !app_limited => self.set_window(self.window + bytes),
            Phase::Contend(contend) => {
                contend.cubic().on_ack(now, sent, bytes, app_limited, rtt);
                let window = contend.cubic().window();
                self.set_window(window);
            }
            _ => {}
        }
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, app_limited: bool, _: Option<u64>) {
        let Some(sent) = self.newest.take() else { return };
        let rtt = now.saturating_duration_since(sent);
        self.sampled(now, rtt, app_limited);
        if self.round.sampled(sent, rtt) {
            self.end_of_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.round.lost += lost;
        self.round.marked |= lost == 0;
        if persistent {
            self.set_window(self.window / 4);
            self.phase = Phase::Startup(Startup::default());
            self.foreign = None;
            return;
        }
        if let Phase::Contend(contend) = &mut self.phase
            && (lost == 0 || contend.is_full())
        {
            contend.cubic().on_congestion_event(now, sent, false, lost);
            let window = contend.cubic().window();
            self.set_window(window);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        if let Phase::Contend(contend) = &mut self.phase {
            contend.cubic().on_mtu_update(new_mtu);
        }
        self.set_window(self.window);
    }

    fn window(&self) -> u64 {
        if self.config.share.lets_one_through() { UNBOUNDED } else { self.window }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.config.initial_window(u16::try_from(self.mtu).unwrap_or(u16::MAX))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Packets held in the queue, times the root of the window in packets: 3 ms at 200 Mbit/s and 80 ms, 8 ms at 20 Mbit/s
/// and 40 ms.
const PACKETS_HELD: f64 = 1.5;
/// At least so many, or a burst of the pacer looks like a queue.
const LEAST_HELD: f64 = 2.0;
/// The part of the way to the aim that one round goes.
const GAIN: f64 = 0.5;
/// No round changes the window by more than these.
const MOST_GAIN: f64 = 0.25;
const MOST_LOSS: f64 = 0.07;
/// Empty rounds after which growth doubles every round.
const FAST_AFTER: u32 = 4;
/// How many rounds pass after a drop before the window grows again, at first and at most.
const FIRST_HOLD: u32 = 8;
const LONGEST_HOLD: u32 = 64;
/// How often the queue is drained, at most, and in rounds. What seems empty may be the queue that was there when we came,
/// and what the path loses without a queue may change.
const DRAIN_EVERY: Duration = Duration::from_secs(8);
const DRAIN_ROUNDS: u32 = 60;
/// What a foreign queue has beyond our own, at least.
const FOREIGN_LEAST: Duration = Duration::from_millis(4);
/// RFC 9002, 7.2, has two; four let acknowledgements come in pairs.
const LEAST_PACKETS: u64 = 4;
/// Losses make the window no smaller than this, though delay may; delay is no sign before it is as large (HyStart).
const FEW_PACKETS: u64 = 16;
/// More than any flow control allows.
const MAX_WINDOW: u64 = 1 << 30;
/// quinn does not pace what has such a window.
const UNBOUNDED: u64 = u64::MAX;
