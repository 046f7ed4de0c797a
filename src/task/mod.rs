//! Owns spawned work: names it, cancels it, waits for it.
//!
//! Not an executor and not a supervisor: what ended, ended. The only file that may call `tokio::spawn`, so that no
//! task is ever leaked; architecture chapter "Types that carry the design".

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A set of tasks with one end: cancelled together, waited for together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end as a task of this set. The future watches [`Tasks::token`] itself: it knows what
    /// it has to put in order first.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tracker.spawn(future.instrument(tracing::trace_span!("task", name))));
    }

    /// Runs `future` and drops it where it stands when the set is cancelled; for work with nothing to put in order.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn_until_cancelled<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(name, async move {
            let _ = token.run_until_cancelled(future).await;
        });
    }

    /// Cancelled when the set is to end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until no task runs, without cancelling any; true when that happened within `grace`.
    pub async fn drained(&self, grace: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }

    /// Cancels every task and waits for their ends; true when all ended within `grace`.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.token.cancel();
        self.drained(grace).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_waits_for_the_last_task() {
        let tasks = Tasks::new();
        let token = tasks.token().clone();
        tasks.spawn("careful", async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert!(!tasks.drained(Duration::from_secs(5)).await, "nobody cancelled it");
        assert!(tasks.shutdown(Duration::from_secs(2)).await);
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn work_with_nothing_to_put_in_order_ends_where_it_stands() {
        let tasks = Tasks::new();
        tasks.spawn_until_cancelled("careless", std::future::pending());
        assert_eq!(tasks.len(), 1);
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
