//! Waiting for what another process does: bounded, and with words for the failure.

use std::thread;
use std::time::{Duration, Instant};

/// Asks again until there is an answer; fails after `limit`.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(PAUSE);
    }
}

/// Asks again until the answer is yes; fails after 10 seconds. Returns how long it took.
#[track_caller]
pub(crate) fn eventually(what: &str, mut yes: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    within(Duration::from_secs(10), what, || yes().then_some(()));
    start.elapsed()
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);
