//! How much a client may make the router log: who is in is not thereby allowed to fill the disk.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of one key: a burst, then one a second. What is left out is counted.
#[derive(Debug, Default)]
pub(super) struct LogBudget(Mutex<Option<Spent>>);

#[derive(Debug)]
struct Spent {
    left: f64,
    at: Instant,
    suppressed: u64,
}

impl LogBudget {
    /// Whether a line may be logged now; if so, how many were left out since the last one.
    pub(super) fn line(&self) -> Option<u64> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<u64> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent.get_or_insert(Spent { left: BURST, at: now, suppressed: 0 });
        let gained = now.saturating_duration_since(spent.at).as_secs_f64() * PER_SECOND;
        spent.left = (spent.left + gained).min(BURST);
        spent.at = now;
        if spent.left < 1.0 {
            spent.suppressed += 1;
            return None;
        }
        spent.left -= 1.0;
        Some(std::mem::take(&mut spent.suppressed))
    }
}

/// Enough to tell what is wrong with a client that does many things at once.
const BURST: f64 = 10.0;
const PER_SECOND: f64 = 1.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn after_a_burst_one_line_a_second_tells_how_many_were_left_out() {
        let (budget, now) = (LogBudget::default(), Instant::now());
        let lines = (0..100).filter(|_| budget.line_at(now) == Some(0)).count();
        assert_eq!(lines, 10);
        let later = now + Duration::from_millis(1_001);
        assert_eq!(budget.line_at(later), Some(90));
        assert_eq!(budget.line_at(later), None);
        assert_eq!(budget.line_at(later + Duration::from_secs(1_000)), Some(1));
    }
}
