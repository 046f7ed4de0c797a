//! Keeps one session alive: connects, notices its end, comes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::access::Declared;
use super::connect::{Established, jitter};
use super::{End, Settings, Shared, StartError, reverse, udp};
use crate::relay::{Flows, Scope, Side};
use crate::session::{Event, Session};
use crate::task::Tasks;
use crate::transport::ClientEndpoint;
use crate::tunnel::TunnelState;
use crate::wire::Code;

/// The session of the moment. Whoever needs one waits for it here.
#[derive(Debug)]
pub(super) struct Link {
    line: watch::Sender<Option<Line>>,
    endpoint: Mutex<Option<Arc<ClientEndpoint>>>,
    last_error: Mutex<Option<String>>,
}

/// A session that is up, and what runs on it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) session: Session,
    pub(super) flows: Flows,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            line: watch::channel(None).0,
            endpoint: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// The session, if there is one right now.
    pub(super) fn current(&self) -> Option<Session> {
        self.line.borrow().as_ref().map(|line| line.session.clone())
    }

    /// Its flows.
    pub(super) fn flows(&self) -> Option<Flows> {
        self.line.borrow().as_ref().map(|line| line.flows.clone())
    }

    /// The session; waits for one at most `limit`. Cancel-safe.
    pub(super) async fn session(&self, limit: Duration) -> Option<Session> {
        if let Some(session) = self.current() {
            return Some(session);
        }
        let mut lines = self.line.subscribe();
        let found = tokio::time::timeout(limit, lines.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.as_ref().map(|line| line.session.clone())
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Says good-bye.
    pub(super) async fn close(&self) {
        if let Some(session) = self.current() {
            session.close(Code::Done, "the tunnel was stopped");
        }
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close().await;
        }
    }
}

/// From here on whoever needs a session gets this one, and what the router opens on it is served.
pub(super) fn publish(shared: &Arc<Shared>, tasks: &Tasks, established: &Established) -> Line {
    let link = &shared.link;
    *link.endpoint.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Arc::clone(&established.endpoint));
    let session = established.session.clone();
    let scope = Scope { draining: shared.accepting.clone(), stop: shared.connections.clone() };
    let flows = Flows::start(&session, Side::Client, &shared.table, tasks, scope);
    let line = Line { session, flows };
    tasks.spawn_until_cancelled(
        "streams",
        reverse::streams(Arc::clone(shared), tasks.clone(), line.clone()),
    );
    link.line.send_replace(Some(line.clone()));
    line
}

/// Serves `first` until it ends, then comes back with a new session, until the tunnel is to end.
pub(super) async fn keep(shared: Arc<Shared>, tasks: Tasks, first: (Established, Line)) {
    let (mut established, mut line) = first;
    loop {
        let version = established.session.terms().peer_version.clone();
        let Established { events, early, addr, .. } = established;
        tracing::info!(router = %addr, version, carrier = super::CARRIER, "session up");
        shared.set_state(TunnelState::Ready);
        let reason = match until_end(&shared, &tasks, &line, (early, events)).await {
            Ending::Replaced(by) if !shared.accepting.is_cancelled() => {
                return shared.give_up(StartError::Replaced { by }, &line.session).await;
            }
            Ending::Replaced(reason) | Ending::Lost(reason) => reason,
        };
        shared.link.line.send_replace(None);
        if shared.accepting.is_cancelled() {
            return;
        }
        shared.set_state(TunnelState::Reconnecting);
        shared.link.note(Some(reason.clone()));
        tracing::warn!(router = %addr, reason, "session lost, reconnecting");
        let back = shared.connections.run_until_cancelled(come_back(&shared, &tasks));
        let back = match back.await {
            Some(Ok(back)) => back,
            Some(Err(error)) => return shared.fail(error).await,
            None => return,
        };
        shared.set_binds(back.binds);
        established = back.established;
        line = publish(&shared, &tasks, &established);
        shared.link.note(None);
    }
}

/// How a session ended.
enum Ending {
    Lost(String),
    /// Another process has the tunnel: coming back would take it away again, and so on for ever.
    Replaced(String),
}

/// Waits for the session's end and does meanwhile what the router says. [SES-33] [RVS-4]
async fn until_end(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    line: &Line,
    (early, mut events): (Vec<Event>, mpsc::Receiver<Event>),
) -> Ending {
    let mut early = early.into_iter();
    loop {
        let next = async {
            match early.next() {
                Some(event) => Some(event),
                None => events.recv().await,
            }
        };
        let event = tokio::select! {
            ended = line.session.closed() => return Ending::Lost(ended.reason),
            event = next => event,
        };
        match event {
            Some(Event::GoAway(leave)) => {
                tracing::info!(reason = leave.message, "the router is about to leave");
                if leave.reconnect_now {
                    return Ending::Lost(leave.message);
                }
            }
            Some(Event::FlowOpen(open)) => reverse::flow(shared, tasks, &line.flows, open),
            Some(Event::FlowClose(close)) => udp::closed(shared, &line.flows, &close),
            Some(Event::Replaced(replaced)) => {
                return Ending::Replaced(format!("{}, since {}", replaced.by, replaced.since));
            }
            Some(event) => tracing::debug!(?event, "unexpected message of the router"),
            None => return Ending::Lost(line.session.closed().await.reason),
        }
    }
}

/// Tries until a session is up. Refusals are not network trouble: they are asked about once a minute. An error says that
/// another process has the tunnel now.
async fn come_back(shared: &Shared, tasks: &Tasks) -> Result<Declared, StartError> {
    let mut wait = Duration::ZERO;
    // Visitors know the port that it came to, where any would have done.
    let mut binds = shared.bind();
    let Settings { access, tunnel, instance, .. } = &shared.settings;
    loop {
        tokio::time::sleep(jitter(wait)).await;
        match access.declare(tunnel, &binds, *instance, tasks, 1).await {
            Ok(declared) => return Ok(declared),
            Err(error @ StartError::Replaced { .. }) => return Err(error),
            Err(StartError::Unpublished { .. }) if binds != tunnel.bind => {
                binds = tunnel.bind.clone();
            }
            Err(error) => {
                let reason = error.to_string();
                if shared.link.last_error().as_deref() != Some(&reason) {
                    tracing::warn!(reason, "the router cannot be had");
                    shared.link.note(Some(reason));
                }
                wait = if error.may_pass() {
                    (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
                } else {
                    REFUSED_WAIT
                };
            }
        }
    }
}

impl Shared {
    /// Ends a tunnel that another process has now: whoever is here already is served to the end. [RVS-4]
    async fn give_up(&self, error: StartError, session: &Session) {
        tracing::info!(reason = %error, "draining");
        self.link.note(Some(error.to_string()));
        self.set_state(TunnelState::Draining);
        // The router hands nobody over any more; those of the last moment are still on their way.
        let late = LATE_VISITORS + session.path().rtt * 2;
        if self.accepting.run_until_cancelled(tokio::time::sleep(late)).await.is_none() {
            return; // Somebody ends it anyway.
        }
        self.accepting.cancel();
        let _ = tokio::time::timeout(LAST_VISITS, self.table.drained()).await;
        self.fail(error).await;
    }

    /// Ends the tunnel for a reason that trying again would not mend.
    async fn fail(&self, error: StartError) {
        let reason = error.to_string();
        tracing::error!(reason, "the tunnel ends");
        self.link.note(Some(reason.clone()));
        self.accepting.cancel();
        self.connections.cancel();
        self.link.close().await;
        self.set_state(TunnelState::Failed);
        self.ended.send_replace(Some(End::Failed(reason)));
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A router that is busy takes so long from accepting a visitor to opening its stream.
const LATE_VISITORS: Duration = Duration::from_millis(250);
/// What is open when the tunnel is taken over may go on for as long as at any other end of a process.
const LAST_VISITS: Duration = Duration::from_secs(30);
/// Who was refused asks again rarely: the router's log is not ours to fill.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
