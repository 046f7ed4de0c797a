//! The way back to a session: attempts, the pauses between them, and what they remember.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::access::Declared;
use super::connect::{Attempt, jitter};
use super::{Settings, Shared, StartError};
use crate::session::Session;
use crate::task::Tasks;
use crate::transport::{Carrier, Whereabouts};
use crate::tunnel::{Bind, Span};

/// Attempts at a session that carries on one before it, as long as that may be.
pub(super) struct Comeback {
    shared: Arc<Shared>,
    tasks: Tasks,
    past: Session,
    /// Visitors know the port that it came to, where any would have done.
    binds: Span<Bind>,
    wait: Duration,
    /// Whether TLS carried the session, in the network where this machine still is.
    tls_at_once: bool,
    whereabouts: Whereabouts,
}

impl Comeback {
    pub(super) fn of(shared: &Arc<Shared>, tasks: &Tasks, past: &Session) -> Self {
        Self {
            shared: Arc::clone(shared),
            tasks: tasks.clone(),
            past: past.clone(),
            binds: shared.bind(),
            wait: Duration::ZERO,
            tls_at_once: shared.link.carrier() == Carrier::Tls,
            whereabouts: Whereabouts::towards(past.connection().remote_addr()),
        }
    }

    /// The first attempt comes at some time within `spread`: who has many clients asks them for that. [SES-33]
    pub(super) fn within(self, spread: Duration) -> Self {
        Self { wait: spread, ..self }
    }

    /// Tries until a session is up. An error says that another process has the tunnel now.
    pub(super) async fn succeeds(&mut self) -> Result<Declared, StartError> {
        loop {
            self.pause().await;
            if let Some(outcome) = self.attempt().await {
                return outcome;
            }
        }
    }

    /// Lets some time pass before the next attempt; less when somebody waits for it, and none when the network changes,
    /// which may have been the reason for the last one's failure. Cancel-safe.
    async fn pause(&mut self) {
        let link = &self.shared.link;
        let hurries = self.wait <= LONGEST_WAIT;
        let wait = match hurries {
            true if link.is_awaited() => self.wait.min(FIRST_WAIT),
            // What is open waits, too.
            true if self.shared.is_used(&self.past) => self.wait.min(BUSY_WAIT),
            _ => self.wait,
        };
        tokio::select! {
            () = tokio::time::sleep(jitter(wait)) => {}
            () = link.wanted(), if hurries => tokio::time::sleep(jitter(self.wait.min(FIRST_WAIT))).await,
            change = self.whereabouts.changed() => {
                tracing::info!(%change, "the network changed");
                (self.wait, self.tls_at_once) = (Duration::ZERO, false);
            }
        }
    }

    /// `None` when there is reason to try again. Refusals are not network trouble: they are asked about once a minute.
    async fn attempt(&mut self) -> Option<Result<Declared, StartError>> {
        let Settings { access, tunnel, instance, .. } = &self.shared.settings;
        let (past, tls_at_once) = (self.past.past(), self.tls_at_once);
        let attempt = Attempt { tasks: &self.tasks, tries: 1, past: Some(&past), tls_at_once };
        match access.declare(tunnel, &self.binds, *instance, attempt).await {
            Err(StartError::Unpublished { .. }) if self.binds != tunnel.bind => {
                self.binds = tunnel.bind.clone();
                None
            }
            Err(error) if !matches!(error, StartError::Replaced { .. }) => {
                let (link, reason) = (&self.shared.link, error.to_string());
                if link.last_error().as_deref() != Some(&reason) {
                    tracing::warn!(reason, "the router cannot be had");
                    link.note(Some(reason));
                }
                self.wait = if error.may_pass() {
                    (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
                } else {
                    REFUSED_WAIT
                };
                None
            }
            outcome => Some(outcome),
        }
    }
}

/// Another connection for a session whose own is silent: the old one goes on until the new one stands. An attempt that has
/// begun is brought to its end, because the router gives the old connection up as soon as it has admitted the new one.
#[derive(Default)]
pub(super) struct Renewal {
    coming: Option<Coming>,
    needless: CancellationToken,
}

/// `None` when it was not needed after all.
type Coming = Pin<Box<dyn Future<Output = Option<Result<Declared, StartError>>> + Send>>;

impl Renewal {
    pub(super) fn begin(&mut self, mut comeback: Comeback) {
        if self.coming.is_some() {
            return;
        }
        let needless = CancellationToken::new();
        self.needless = needless.clone();
        self.coming = Some(Box::pin(async move {
            loop {
                needless.run_until_cancelled(comeback.pause()).await?;
                if let Some(outcome) = comeback.attempt().await {
                    return Some(outcome);
                }
            }
        }));
    }

    /// The router is heard again: the attempt that is under way, if any, is the last one.
    pub(super) fn is_needless(&self) {
        self.needless.cancel();
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.coming.is_some()
    }

    /// Waits for the other connection: `None` when it was not needed. Pends for ever when none was begun. Cancel-safe.
    pub(super) async fn done(&mut self) -> Option<Result<Declared, StartError>> {
        let Some(coming) = &mut self.coming else { return std::future::pending().await };
        let outcome = coming.await;
        self.coming = None;
        outcome
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Attempts take up to three seconds themselves where nothing answers.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Who waits for a router that is away for long finds it within seconds of its return.
const LONGEST_WAIT: Duration = Duration::from_secs(6);
/// Who was refused asks again rarely: the router's log is not ours to fill.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
