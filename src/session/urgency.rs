//! Which streams of a session go first: those that say little. Pure arithmetic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How urgent a stream's bytes are. The numbers are QUIC's priorities: a packet is filled from the highest that has
/// something to send, in turns within one. [STR-24]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It moves much: what it sends can wait for a keystroke.
    Bulk = -1,
    /// It is new, or has been quiet; quinn gives this one to every stream.
    Lively = 0,
    /// Reports of what was delivered: without them every stream stands still.
    Control = 1,
}

/// What one direction of a stream has been like lately.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Bytes sent, less what has been forgotten since.
    recent: u64,
    at: Option<Instant>,
    urgency: Urgency,
    /// Whether it is among the session's bulk.
    is_bulk: bool,
}

impl Pulse {
    /// Of a stream that is new.
    pub(super) fn new() -> Self {
        Self { recent: 0, at: None, urgency: Urgency::Lively, is_bulk: false }
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
        let forgotten =
            past.as_micros().min(u128::from(u64::MAX / FORGOTTEN)) as u64 * FORGOTTEN / 1_000_000;
        self.recent = (self.recent.saturating_sub(forgotten) + bytes).min(2 * LIVELY_MOST);
        // A path may be so slow that it alone keeps a transfer from sending much: then bytes wait.
        let much = self.recent.max(waiting + bytes);
        let is_bulk = much > if self.is_bulk { LIVELY_MOST / 2 } else { LIVELY_MOST };
        if is_bulk != self.is_bulk {
            self.is_bulk = is_bulk;
            favours.count(is_bulk);
        }
        let urgency =
            if !is_bulk && favours.grant(bytes) { Urgency::Lively } else { Urgency::Bulk };
        if urgency == Urgency::Bulk {
            favours.earn(bytes);
        }
        let changed = urgency != self.urgency;
        self.urgency = urgency;
        changed.then_some(urgency)
    }

    /// The stream sends no more.
    pub(super) fn ends(&mut self, favours: &Favours) {
        if std::mem::take(&mut self.is_bulk) {
            favours.count(false);
        }
    }
}

/// How many bytes may still go in front of the session's bulk: as many as the bulk itself has sent, so that any number
/// of lively streams leaves it half of the path.
#[derive(Debug)]
pub(super) struct Favours {
    left: AtomicU64,
    /// Streams that are bulk; while there is none, nobody is in front of anybody.
    bulk: AtomicU64,
}

impl Favours {
    pub(super) fn new() -> Self {
        Self { left: AtomicU64::new(FAVOURS_MOST), bulk: AtomicU64::new(0) }
    }

    fn count(&self, is_bulk: bool) {
        if is_bulk {
            self.bulk.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn grant(&self, bytes: u64) -> bool {
        let spend = |left: u64| left.checked_sub(bytes);
        self.bulk.load(Ordering::Relaxed) == 0
            || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    fn earn(&self, bytes: u64) {
        let earn = |left: u64| (left < FAVOURS_MOST).then(|| (left + bytes).min(FAVOURS_MOST));
        // An error means that there are as many as there may be.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }
}

/// What a stream may send, or have undelivered, and still go first: a page, a directory listing, a screen of text.
const LIVELY_MOST: u64 = 64 << 10;
/// Bytes forgotten in a second: half a second after its last byte a transfer is as good as new, and a stream of
/// 1 Mbit/s, a screen that is shared, stays lively.
const FORGOTTEN: u64 = 128 << 10;
/// What lively streams may send at once beside bulk: four of them all that they may.
const FAVOURS_MOST: u64 = 4 * LIVELY_MOST;

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
        assert_eq!(pulse.sends(16 << 10, 0, start, &favours), None, "new streams are lively");
        assert_eq!(pulse.sends(64 << 10, 16 << 10, start, &favours), Some(Urgency::Bulk));
        assert_eq!(pulse.sends(256 << 10, 80 << 10, start + ms(1), &favours), None);
        assert_eq!(pulse.sends(KEYSTROKE, 0, start + ms(500), &favours), None, "not yet");
        let risen = pulse.sends(KEYSTROKE, 0, start + ms(1_000), &favours);
        assert_eq!(risen, Some(Urgency::Lively));
    }

    #[test]
    fn keystrokes_and_a_megabit_of_screen_stay_lively() {
        let (favours, mut pulse, start) = (Favours::new(), Pulse::new(), Instant::now());
        let mut backup = Pulse::new();
        backup.sends(1 << 20, 0, start, &favours);
        for n in 0..1_000 {
            backup.sends(256 << 10, 1 << 20, start + ms(n * 50), &favours);
            assert_eq!(pulse.sends(6_000, 6_000, start + ms(n * 50), &favours), None, "{n}");
        }
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
                None => first += 8 << 10,
                Some(_) => behind += 8 << 10,
            }
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
            assert_eq!(Pulse::new().sends(32 << 10, 0, start, &favours), None);
        }
        let mut backup = Pulse::new();
        assert_eq!(backup.sends(1 << 20, 0, start, &favours), Some(Urgency::Bulk));
        assert_eq!(Pulse::new().sends(KEYSTROKE, 0, start, &favours), None);
        backup.ends(&favours);
        assert_eq!(favours.bulk.load(Ordering::Relaxed), 0);
    }
}
