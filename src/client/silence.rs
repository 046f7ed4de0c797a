//! Notices that a router is not heard of any more, long before QUIC gives the connection up.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::Session;
use crate::transport::Activity;

/// Looks at a session once a second.
#[derive(Debug)]
pub(super) struct Silence {
    session: Session,
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
    pub(super) fn of(session: &Session, patience: Duration) -> Self {
        let (session, seen) = (session.clone(), session.connection().activity());
        let due = Instant::now() + LOOK_EVERY;
        Self { session, seen, since: None, is_silent: false, patience, due }
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
            (self.seen, self.since, self.is_silent) = (seen, None, false);
        } else if seen.asked != self.seen.asked {
            let since = *self.since.get_or_insert(now);
            self.is_silent = now.duration_since(since) >= self.patience;
        }
        before != self.is_silent
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
