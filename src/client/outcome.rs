//! What became of the last connection: whether the tunnel does what it is for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outcome of the last attempt to reach the target. Before the first one nothing is wrong.
#[derive(Debug, Default)]
pub(super) struct LastOutcome(Mutex<Option<String>>);

impl LastOutcome {
    /// The target was reached.
    pub(super) fn served(&self) {
        *self.lock() = None;
    }

    /// It was not; most reasons name the target already.
    pub(super) fn not_served(&self, target: &str, reason: &str) {
        let names_it = reason.contains(target);
        *self.lock() =
            Some(if names_it { reason.to_owned() } else { format!("{target}: {reason}") });
    }

    /// Why the last attempt failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_stays_until_the_next_success_and_names_the_target_once() {
        let outcome = LastOutcome::default();
        assert_eq!(outcome.failure(), None);
        outcome.not_served("a:1", "a:1 refused the connection");
        assert_eq!(outcome.failure().as_deref(), Some("a:1 refused the connection"));
        outcome.not_served("a:1", "the router has no descriptors left");
        assert_eq!(outcome.failure().as_deref(), Some("a:1: the router has no descriptors left"));
        outcome.served();
        assert_eq!(outcome.failure(), None);
    }
}
