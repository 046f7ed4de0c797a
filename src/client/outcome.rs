//! What became of the last connection: whether the tunnel does what it is for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outcome of the last attempt to reach the target. Before the first one nothing is wrong.
#[derive(Debug, Default)]
pub(super) struct LastOutcome(Mutex<Option<Failed>>);

/// Which tunnel number, and why.
type Failed = (u32, String);

impl LastOutcome {
    /// The target was reached.
    pub(super) fn served(&self) {
        *self.lock() = None;
    }

    /// The target of a tunnel number was not; most reasons name it already.
    pub(super) fn not_served(&self, tunnel: u32, target: &str, reason: &str) {
        let names_it = reason.contains(target);
        let reason = if names_it { reason.to_owned() } else { format!("{target}: {reason}") };
        *self.lock() = Some((tunnel, reason));
    }

    /// Why the last attempt failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().as_ref().map(|(_, reason)| reason.clone())
    }

    /// The tunnel number whose last attempt failed, if it did.
    pub(super) fn not_served_by(&self) -> Option<u32> {
        self.lock().as_ref().map(|(tunnel, _)| *tunnel)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failed>> {
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
        outcome.not_served(1, "a:1", "a:1 refused the connection");
        assert_eq!(outcome.failure().as_deref(), Some("a:1 refused the connection"));
        outcome.not_served(2, "a:1", "the router has no descriptors left");
        assert_eq!(outcome.failure().as_deref(), Some("a:1: the router has no descriptors left"));
        assert_eq!(outcome.not_served_by(), Some(2));
        outcome.served();
        assert_eq!(outcome.failure(), None);
    }
}
