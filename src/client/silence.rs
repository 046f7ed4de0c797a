//! Notices that a router is not heard of any more, or does not hear, long before QUIC gives the connection up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::Session;
use crate::transport::Activity;

/// When the router was last heard, as far as somebody who looks once a second can tell.
#[derive(Clone, Debug)]
pub(super) struct Heard(Arc<Mutex<Last>>);

#[derive(Debug)]
struct Last {
    at: Instant,
    /// How much had been heard when a probe came back to nobody: that says nothing any more.
    doubted: Option<u64>,
}

impl Heard {
    /// Just now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Last { at: Instant::now(), doubted: None })))
    }

    /// On a new session.
    fn begins(&self) {
        *self.lock() = Last { at: Instant::now(), doubted: None };
    }

    /// So many datagrams have come by now.
    fn hears(&self, heard: u64) {
        let mut last = self.lock();
        if last.doubted.is_none_or(|doubted| heard > doubted) {
            *last = Last { at: Instant::now(), doubted: None };
        }
    }

    /// A probe was not answered, after so many datagrams.
    pub(super) fn doubts(&self, heard: u64) {
        self.lock().doubted = Some(heard);
    }

    /// Whether it may be gone without anybody having noticed.
    pub(super) fn is_long_ago(&self) -> bool {
        let last = self.lock();
        last.doubted.is_some() || last.at.elapsed() > LOOK_EVERY * 2
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a session once a second.
#[derive(Debug)]
pub(super) struct Silence {
    session: Session,
    heard: Heard,
    seen: Activity,
    /// When the first question left after which nothing was heard.
    since: Option<Instant>,
    /// Looks in a row at which the router was heard and had acknowledged nothing of what was asked.
    deaf: u32,
    /// So many of them are silence, too.
    most_deaf: u32,
    is_silent: bool,
    patience: Duration,
    /// When to look next.
    due: Instant,
}

impl Silence {
    /// A router is silent that has said nothing for `patience`.
    pub(super) fn of(session: &Session, heard: &Heard, patience: Duration) -> Self {
        let (session, seen) = (session.clone(), session.connection().activity());
        let (heard, due) = (heard.clone(), Instant::now() + LOOK_EVERY);
        heard.begins();
        Self {
            session,
            heard,
            seen,
            since: None,
            deaf: 0,
            most_deaf: u32::MAX,
            is_silent: false,
            patience,
            due,
        }
    }

    /// One is silent, too, that says something time and again and acknowledges nothing: both ends' packets have become too
    /// large for the path, and acknowledgements travel in those.
    pub(super) fn or_deaf(self) -> Self {
        Self { most_deaf: DEAF, ..self }
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
        let is_asked = seen.asked != self.seen.asked;
        if seen.answered != self.seen.answered {
            self.heard.hears(seen.heard);
            (self.seen, self.since, self.deaf, self.is_silent) = (seen, None, 0, false);
        } else if seen.heard != self.seen.heard {
            self.heard.hears(seen.heard);
            (self.seen.heard, self.since) = (seen.heard, None);
            self.deaf += u32::from(is_asked);
            self.is_silent = self.deaf >= self.most_deaf;
        } else if is_asked {
            let since = *self.since.get_or_insert(now);
            self.is_silent |= now.duration_since(since) >= self.patience;
        }
        before != self.is_silent
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks at which a router that hears would have acknowledged something: after an outage, or on a path of satellites, it does
/// by the second.
const DEAF: u32 = 3;
