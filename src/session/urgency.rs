//! Which streams of a session go first: those that say little. Pure arithmetic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How urgent a stream's bytes are. The numbers are QUIC's priorities: a packet is filled from the highest that has
/// something to send, in turns within one. [STR-24]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It moves much: what it sends can wait for a page.
    Bulk = -2,
    /// It moves something: that can wait for a keystroke.
    Lively = -1,
    /// It is new, or says a word now and then; quinn gives this one to every stream.
    Terse = 0,
    /// Reports of what was delivered: without them every stream stands still.
    Control = 1,
}

/// What one direction of a stream has been like lately.
#[derive(Debug)]
pub(super) struct Pulse {
    at: Option<Instant>,
    terse: Measure,
    lively: Measure,
    urgency: Urgency,
}

impl Pulse {
    /// Of a stream that is new.
    pub(super) fn new() -> Self {
        let new = Measure { recent: 0, is_above: false };
        Self { at: None, terse: new, lively: new, urgency: Urgency::Terse }
    }

    /// The urgency of late.
    pub(super) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// `bytes` are about to leave while `waiting` of the bytes before are undelivered. The urgency from now on, when it
    /// is another one than before.
    pub(super) fn sends(
        &mut self,
        bytes: u64,
        waiting: u64,
        now: Instant,
        favours: &Favours,
    ) -> Option<Urgency> {
        let past =
            self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.terse.sends(bytes, waiting, past, TERSE, &favours.terse);
        self.lively.sends(bytes, waiting, past, LIVELY, &favours.lively);
        let urgency = if self.lively.is_above || !favours.lively.grant(bytes) {
            Urgency::Bulk
        } else if self.terse.is_above || !favours.terse.grant(bytes) {
            Urgency::Lively
        } else {
            Urgency::Terse
        };
        if urgency < Urgency::Terse {
            favours.terse.earn(bytes);
        }
        if urgency < Urgency::Lively {
            favours.lively.earn(bytes);
        }
        let changed = urgency != self.urgency;
        self.urgency = urgency;
        changed.then_some(urgency)
    }

    /// The stream sends no more.
    pub(super) fn ends(&mut self, favours: &Favours) {
        for (measure, queue) in
            [(&mut self.terse, &favours.terse), (&mut self.lively, &favours.lively)]
        {
            if std::mem::take(&mut measure.is_above) {
                queue.count(false);
            }
        }
    }
}

/// What a stream may send and still go in front.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Bytes sent of late, or undelivered.
    most: u64,
    /// Bytes forgotten in a second.
    forgotten: u64,
}

/// How a stream stands to one limit.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// Bytes sent, less what has been forgotten since.
    recent: u64,
    is_above: bool,
}

impl Measure {
    fn sends(&mut self, bytes: u64, waiting: u64, past: Duration, limit: Limit, queue: &Queue) {
        let forgotten = past.as_micros().min(u128::from(u64::MAX / limit.forgotten)) as u64
            * limit.forgotten
            / 1_000_000;
        self.recent = (self.recent.saturating_sub(forgotten) + bytes).min(2 * limit.most);
        // A path may be so slow that it alone keeps a transfer from sending much: then bytes wait.
        let much = self.recent.max(waiting + bytes);
        let is_above = much > if self.is_above { limit.most / 2 } else { limit.most };
        if is_above != self.is_above {
            self.is_above = is_above;
            queue.count(is_above);
        }
    }
}

/// Who may go in front of whom in a session.
#[derive(Debug)]
pub(super) struct Favours {
    /// Terse streams in front of all others.
    terse: Queue,
    /// Lively ones in front of bulk.
    lively: Queue,
}

impl Favours {
    pub(super) fn new() -> Self {
        Self { terse: Queue::new(), lively: Queue::new() }
    }
}

/// How many bytes may still go in front of those who wait: as many as they themselves have sent, so that any number of
/// favoured streams leaves them half of the path.
#[derive(Debug)]
struct Queue {
    left: AtomicU64,
    /// Streams that are above the limit; while there is none, nobody is in front of anybody.
    above: AtomicU64,
}

impl Queue {
    fn new() -> Self {
        Self { left: AtomicU64::new(FAVOURS_MOST), above: AtomicU64::new(0) }
    }

    fn count(&self, is_above: bool) {
        if is_above {
            self.above.fetch_add(1, Ordering::Relaxed);
        } else {
            self.above.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn grant(&self, bytes: u64) -> bool {
        let spend = |left: u64| left.checked_sub(bytes);
        self.above.load(Ordering::Relaxed) == 0
            || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    fn earn(&self, bytes: u64) {
        let earn = |left: u64| (left < FAVOURS_MOST).then(|| (left + bytes).min(FAVOURS_MOST));
        // An error means that there are as many as there may be.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }
}

/// A question, an answer, some lines of text; and ten keystrokes a second, for ever. Sixty-four transfers that share a
/// megabit send twice as much each.
const TERSE: Limit = Limit { most: 4 << 10, forgotten: 1 << 10 };
/// A page, a directory listing, a screen of text. Half a second after its last byte a transfer is as good as new, and a
/// stream of 1 Mbit/s, a screen that is shared, stays lively.
const LIVELY: Limit = Limit { most: 64 << 10, forgotten: 128 << 10 };
/// What may be sent at once in front of others: four lively streams all that they may.
const FAVOURS_MOST: u64 = 4 * LIVELY.most;

#[cfg(test)]
mod tests {
    use super::*;

    const KEYSTROKE: u64 = 64;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stream_that_sends_much_falls_and_rises_again_when_it_is_quiet() {
        let (favours, mut pulse, start) = (Favours::new(), Pulse::new(), Instant::now());
        assert_eq!(pulse.sends(4 << 10, 0, start, &favours), None, "new streams are terse");
        assert_eq!(pulse.sends(16 << 10, 4 << 10, start, &favours), Some(Urgency::Lively));
        assert_eq!(pulse.sends(64 << 10, 20 << 10, start, &favours), Some(Urgency::Bulk));
        assert_eq!(pulse.sends(256 << 10, 84 << 10, start + ms(1), &favours), None);
        assert_eq!(pulse.sends(KEYSTROKE, 0, start + ms(500), &favours), None, "not yet");
        let risen = pulse.sends(KEYSTROKE, 0, start + ms(1_000), &favours);
        assert_eq!(risen, Some(Urgency::Lively));
        let risen = pulse.sends(KEYSTROKE, 0, start + ms(10_000), &favours);
        assert_eq!(risen, Some(Urgency::Terse));
    }

    #[test]
    fn keystrokes_stay_terse_and_a_megabit_of_screen_lively() {
        let (favours, start) = (Favours::new(), Instant::now());
        let (mut typing, mut screen, mut backup) = (Pulse::new(), Pulse::new(), Pulse::new());
        backup.sends(1 << 20, 0, start, &favours);
        assert_eq!(screen.sends(6_000, 0, start, &favours), Some(Urgency::Lively));
        for n in 0..1_000 {
            backup.sends(256 << 10, 1 << 20, start + ms(n * 50), &favours);
            assert_eq!(screen.sends(6_000, 6_000, start + ms(n * 50), &favours), None, "{n}");
            if n % 2 == 0 {
                assert_eq!(typing.sends(KEYSTROKE, 0, start + ms(n * 50), &favours), None, "{n}");
            }
        }
    }

    #[test]
    fn many_that_share_a_slow_path_wait_for_who_types() {
        let (favours, start) = (Favours::new(), Instant::now());
        let mut pulse = Pulse::new();
        // A sixty-fourth of a megabit, taken as soon as it comes.
        let changes: Vec<_> =
            (0..100).filter_map(|n| pulse.sends(1_400, 0, start + ms(n * 700), &favours)).collect();
        assert_eq!(changes, [Urgency::Lively]);
    }

    #[test]
    fn a_transfer_that_only_the_path_slows_down_is_no_conversation() {
        let (favours, mut pulse, start) = (Favours::new(), Pulse::new(), Instant::now());
        // 40 KB/s: forgotten faster than sent, and never delivered as fast as it could be sent.
        let changes: Vec<_> = (0..100)
            .filter_map(|n| pulse.sends(4_000, 200 << 10, start + ms(n * 100), &favours))
            .collect();
        assert_eq!(changes, [Urgency::Bulk]);
    }

    #[test]
    fn any_number_of_lively_streams_leaves_bulk_half_of_the_path() {
        let (favours, start) = (Favours::new(), Instant::now());
        let mut backup = Pulse::new();
        backup.sends(1 << 20, 0, start, &favours);
        let (mut first, mut behind) = (0_u64, 0_u64);
        for n in 0..10_000_u64 {
            let mut fresh = Pulse::new();
            match fresh.sends(8 << 10, 0, start, &favours) {
                Some(Urgency::Bulk) => behind += 8 << 10,
                _ => first += 8 << 10,
            }
            fresh.ends(&favours);
            // The path has room for bulk only now and then.
            if n % 16 == 0 {
                backup.sends(16 << 10, 1 << 20, start, &favours);
                behind += 16 << 10;
            }
        }
        assert!(first <= behind + FAVOURS_MOST, "{first} before {behind}");
        assert!(first > behind / 2, "the favours that there are, are given: {first}, {behind}");
    }

    #[test]
    fn without_bulk_nobody_needs_a_favour_and_a_keystroke_beside_it_gets_one() {
        let (favours, start) = (Favours::new(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(Pulse::new().sends(4 << 10, 0, start, &favours), None);
        }
        let mut backup = Pulse::new();
        assert_eq!(backup.sends(1 << 20, 0, start, &favours), Some(Urgency::Bulk));
        assert_eq!(Pulse::new().sends(KEYSTROKE, 0, start, &favours), None);
        backup.ends(&favours);
        assert_eq!(favours.lively.above.load(Ordering::Relaxed), 0);
        assert_eq!(favours.terse.above.load(Ordering::Relaxed), 0);
    }
}
