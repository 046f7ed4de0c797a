//! Notices that a router is not heard of any more, long before QUIC gives the connection up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::Session;
use crate::transport::Activity;

/// When the router was last heard, as far as somebody who looks once a second can tell.
#[derive(Clone, Debug)]
pub(super) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    /// Just now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether it may be gone without anybody having noticed.
    pub(super) fn is_long_ago(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > LOOK_EVERY * 2
    }
}

/// Looks at a session once a second.
#[derive(Debug)]
pub(super) struct Silence {
    session: Session,
    heard: Heard,
    seen: Activity,
    /// When the first question left that nothing has answered since.
    since: Option<Instant>,
    is_silent: bool,
    patience: Duration,
    /// When to look next.
    due: Instant,
}

impl Silence {
    /// A router is silent that has not answered for `patience`.
    pub(super) fn of(session: &Session, heard: &Heard, patience: Duration) -> Self {
        let (session, seen) = (session.clone(), session.connection().activity());
        let (heard, due) = (heard.clone(), Instant::now() + LOOK_EVERY);
        heard.now();
        Self { session, heard, seen, since: None, is_silent: false, patience, due }
    }

    /// Waits until the router falls silent, which is true, or is heard again. Cancel-safe.
    pub(super) async fn turns(&mut self) -> bool {
        loop {
            tokio::time::sleep_until(self.due).await;
            self.due = Instant::now() + LOOK_EVERY;
            let now = self.session.connection().activity();
            if self.looks(now, Instant::now()) {
                return self.is_silent;
            }
        }
    }

    /// Whether it is another one than before.
    fn looks(&mut self, seen: Activity, now: Instant) -> bool {
        let before = self.is_silent;
        if seen.heard != self.seen.heard {
            self.heard.now();
            (self.seen, self.since, self.is_silent) = (seen, None, false);
        } else if seen.asked != self.seen.asked {
            let since = *self.since.get_or_insert(now);
            self.is_silent = now.duration_since(since) >= self.patience;
        }
        before != self.is_silent
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
