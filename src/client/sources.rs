//! Whether the sources are there, for who asks: no user comes along for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::Shared;
use super::declare::{TUNNEL, pair};
use super::examine::Unreached;
use super::probe::failed;
use crate::ends;
use crate::policy::Decision;
use crate::registry::Probe;
use crate::session::{ReceiveError, Receiver, Session};
use crate::tunnel::{Direction, Target};
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};

impl Shared {
    /// Connects once more to a source that the last user did not find; does nothing when the last one was served. Over
    /// TCP, as for all here: of UDP a connection says nothing. Bounded by [`AGAIN`], within which nothing new may be found
    /// out.
    pub(super) async fn redial(&self, session: &Session) {
        let Some(tunnel) = self.last_outcome.not_served_by() else { return };
        let Some((_, source)) = pair(&self.settings.tunnel, tunnel) else { return };
        // What takes longer stays as it was known.
        if let Ok(reached) = tokio::time::timeout(AGAIN, self.reach(session, tunnel, &source)).await
        {
            self.note(tunnel, &source, &reached);
        }
    }

    /// Connects to the source of every port, [`AT_ONCE`] at a time, and hangs up: how long the slowest took, or why one
    /// was not reached. Bounded by [`LIMIT`].
    pub(super) async fn reach_all(self: &Arc<Self>, session: &Session) -> Probe {
        let all = self.each_reached(session);
        match tokio::time::timeout(LIMIT, all).await {
            Ok(Ok(slowest)) => {
                Probe { ok: true, rtt_ms: Some(slowest.as_secs_f64() * 1e3), error: None }
            }
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => {
                failed(format!("{}: no answer within {LIMIT:?}", self.settings.tunnel.source))
            }
        }
    }

    async fn each_reached(self: &Arc<Self>, session: &Session) -> Result<Duration, Unreached> {
        let sources: Vec<Target> = self.settings.tunnel.pairs().map(|(_, source)| source).collect();
        let (mut sources, mut dials) = ((TUNNEL..).zip(sources), JoinSet::new());
        let mut slowest = Duration::ZERO;
        loop {
            while dials.len() < AT_ONCE
                && let Some((tunnel, source)) = sources.next()
            {
                let (shared, session) = (Arc::clone(self), session.clone());
                dials.spawn(async move {
                    let reached = shared.reach(&session, tunnel, &source).await;
                    (tunnel, source, reached)
                });
            }
            let Some(dialled) = dials.join_next().await else { return Ok(slowest) };
            let (tunnel, source, reached) =
                dialled.map_err(|error| Unreached::Failed(error.to_string()))?;
            self.note(tunnel, &source, &reached);
            slowest = slowest.max(reached?);
        }
    }

    /// Connects to one source, and hangs up.
    async fn reach(
        &self,
        session: &Session,
        tunnel: u32,
        source: &Target,
    ) -> Result<Duration, Unreached> {
        let start = Instant::now();
        match self.settings.tunnel.direction {
            Direction::Forward => by_router(session, tunnel).await?,
            Direction::Reverse => {
                let dialled = ends::dial(source, |_| Decision::Allowed, &self.settings.dial).await;
                dialled.map(drop).map_err(|error| Unreached::Refused {
                    code: error.code(),
                    message: error.to_string(),
                })?;
            }
        }
        Ok(start.elapsed())
    }

    /// As if a user had come along. That the session was lost says nothing of the source.
    fn note(&self, tunnel: u32, source: &Target, reached: &Result<Duration, Unreached>) {
        match reached {
            Ok(_) => self.last_outcome.served(),
            Err(Unreached::Refused { message, .. }) => {
                self.last_outcome.not_served(tunnel, &source.to_string(), message);
            }
            Err(_) => {}
        }
    }
}

/// The router connects to the source, and is told at once that it was only a question.
async fn by_router(session: &Session, tunnel: u32) -> Result<(), Unreached> {
    let header = StreamHeader {
        version: VERSION,
        tunnel,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    };
    let opened = session.open(header, Bytes::new()).await;
    let (mut sender, mut receiver) =
        opened.map_err(|error| Unreached::Failed(error.to_string()))?;
    let answer = served(&mut receiver).await;
    sender.reset(Code::Done);
    receiver.stop(Code::Done);
    answer
}

/// Waits until the router has reached the target of a stream, or says why not. Cancel-safe.
pub(super) async fn served(receiver: &mut Receiver) -> Result<(), Unreached> {
    let (mut served, mut queue) = (receiver.served(), Default::default());
    let answer = tokio::select! {
        _ = &mut served => Ok(()),
        received = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)) => received.map(|_| ()),
    };
    answer.map_err(|error| match error {
        ReceiveError::Refused { code, message } => Unreached::Refused { code, message },
        error => Unreached::Failed(error.to_string()),
    })
}

/// Whoever asked waits for the probe, too.
const AGAIN: Duration = Duration::from_secs(2);
/// Longer than a router tries a source where it is not told otherwise.
const LIMIT: Duration = Duration::from_secs(12);
/// Of a row of ports.
const AT_ONCE: usize = 16;
