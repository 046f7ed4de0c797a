//! Owns spawned work: names it, cancels it, waits for it, and tells when it has panicked.
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
    broken: CancellationToken,
}

/// Does something when a panic drops it, and nothing when it is dropped otherwise: for what others rely on and a panic
/// would leave behind half-dead.
#[derive(Debug)]
pub struct OnPanic<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnPanic<F> {
    /// `work` must not panic itself: that ends the process.
    pub fn new(work: F) -> Self {
        Self(Some(work))
    }
}

impl<F: FnOnce()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take().filter(|_| std::thread::panicking()) {
            work();
        }
    }
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

    /// `future`, which the rest of the set is of no use without: [`Tasks::broken`] tells when it has panicked.
    pub fn vital<F>(&self, future: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let broken = self.broken.clone();
        async move {
            let _telling = OnPanic::new(move || broken.cancel());
            future.await;
        }
    }

    /// Waits until vital work has panicked. Cancel-safe.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
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

    #[tokio::test]
    async fn h82_only_a_panic_of_vital_work_breaks_a_set_and_nothing_else_ends() {
        let tasks = Tasks::new();
        let token = tasks.token().clone();
        tasks.spawn("bystander", async move { token.cancelled().await });
        tasks.spawn("unlucky", async { panic!("this is part of the test") });
        tasks.spawn("done", tasks.vital(async {}));
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.broken.is_cancelled());
        tasks.spawn("vital", tasks.vital(async { panic!("this is part of the test") }));
        tasks.broken().await;
        assert_eq!(tasks.len(), 1, "the bystander");
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn work_with_nothing_to_put_in_order_ends_where_it_stands() {
        let tasks = Tasks::new();
        tasks.spawn_until_cancelled("careless", std::future::pending());
        assert_eq!(tasks.len(), 1);
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
