//! Keeps one session alive: connects, notices its end, comes back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::access::Declared;
use super::comeback::{Comeback, Renewal};
use super::connect::Established;
use super::crossing::{Crossed, Crossing};
use super::silence::{Heard, Silence};
use super::{End, Shared, StartError, reverse, udp};
use crate::relay::{Flows, Side};
use crate::session::{Event, Session};
use crate::task::Tasks;
use crate::transport::{Carrier, ClientEndpoint, Whereabouts};
use crate::tunnel::TunnelState;
use crate::wire::Code;

/// The session of the moment. Whoever needs one waits for it here.
#[derive(Debug)]
pub(super) struct Link {
    line: watch::Sender<Option<Line>>,
    pub(super) heard: Heard,
    /// Somebody has come while there was none.
    wanted: Notify,
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
            heard: Heard::new(),
            wanted: Notify::new(),
            endpoint: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// The session, if there is one right now.
    pub(super) fn current(&self) -> Option<Session> {
        self.line.borrow().as_ref().map(|line| line.session.clone())
    }

    /// Its flows. Where there are none, the way back is hurried.
    pub(super) fn flows(&self) -> Option<Flows> {
        let flows = self.line.borrow().as_ref().map(|line| line.flows.clone());
        if flows.is_none() {
            self.wanted.notify_one();
        }
        flows
    }

    /// Waits until somebody needs a session that is not there; at once when that was since the last time. Cancel-safe.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether somebody waits for a session.
    pub(super) fn is_awaited(&self) -> bool {
        self.line.receiver_count() > 0
    }

    /// The session; waits for one at most `limit`. Cancel-safe.
    pub(super) async fn session(&self, limit: Duration) -> Option<Session> {
        if let Some(session) = self.current() {
            return Some(session);
        }
        self.next(limit, Option::is_some).await
    }

    /// The session after `lost`; waits for it at most `limit`. Cancel-safe.
    pub(super) async fn session_after(&self, lost: &Session, limit: Duration) -> Option<Session> {
        let is_next = |line: &Option<Line>| line.as_ref().is_some_and(|it| !it.session.is(lost));
        self.next(limit, is_next).await
    }

    async fn next(
        &self,
        limit: Duration,
        is_it: impl Fn(&Option<Line>) -> bool,
    ) -> Option<Session> {
        let mut lines = self.line.subscribe();
        self.wanted.notify_one();
        let found = tokio::time::timeout(limit, lines.wait_for(is_it)).await;
        found.ok()?.ok()?.as_ref().map(|line| line.session.clone())
    }

    /// What carries the session, or has carried the last one.
    pub(super) fn carrier(&self) -> Carrier {
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        endpoint.as_ref().map_or(Carrier::Quic, |endpoint| endpoint.carrier())
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Says good-bye.
    pub(super) async fn close(&self) {
        let Some(session) = self.current() else { return };
        session.close(Code::Done, "the tunnel was stopped");
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close(session.connection()).await;
        }
    }
}

/// From here on whoever needs a session gets this one, and what the router opens on it is served.
pub(super) fn publish(shared: &Arc<Shared>, tasks: &Tasks, established: &Established) -> Line {
    let link = &shared.link;
    *link.endpoint.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Arc::clone(&established.endpoint));
    let session = established.session.clone();
    let flows = Flows::start(&session, Side::Client, &shared.table, tasks, shared.scope());
    let line = Line { session, flows };
    tasks.spawn_until_cancelled(
        "streams",
        reverse::streams(Arc::clone(shared), tasks.clone(), line.clone()),
    );
    link.line.send_replace(Some(line.clone()));
    line.flows.announce();
    line
}

/// Serves `first` until it ends, then comes back with a new session, until the tunnel is to end.
pub(super) async fn keep(shared: Arc<Shared>, tasks: Tasks, first: (Established, Line)) {
    let (mut established, mut line) = first;
    loop {
        let version = established.session.terms().peer_version.clone();
        let Established { events, early, addr, endpoint, .. } = established;
        tracing::info!(router = %addr, version, carrier = %endpoint.carrier(), "session up");
        shared.set_state(TunnelState::Ready);
        let ending = until_end(&shared, &tasks, (&line, &endpoint), (early, events)).await;
        let back = match ending {
            Ending::Renewed(back) => back,
            Ending::Replaced(reason) | Ending::Lost { reason, .. }
                if shared.accepting.is_cancelled() =>
            {
                tracing::debug!(reason, "not coming back");
                shared.link.line.send_replace(None);
                return;
            }
            Ending::Replaced(by) => {
                return shared.give_up(StartError::Replaced { by }, &line.session).await;
            }
            Ending::Lost { reason, spread } => {
                shared.link.line.send_replace(None);
                shared.set_state(TunnelState::Reconnecting);
                shared.link.note(Some(reason.clone()));
                tracing::warn!(router = %addr, reason, "session lost, reconnecting");
                let mut comeback = Comeback::of(&shared, &tasks, &line.session).within(spread);
                match shared.connections.run_until_cancelled(comeback.succeeds()).await {
                    Some(back) => back,
                    None => return,
                }
            }
        };
        let back = match back {
            Ok(back) => back,
            Err(error) => return shared.fail(error).await,
        };
        shared.set_binds(back.binds);
        established = back.established;
        line = publish(&shared, &tasks, &established);
        let connections = line.session.resume_streams(&tasks);
        shared.metrics.resumed.inc_by(connections as u64);
        if connections > 0 {
            tracing::info!(connections, "asking the router to go on with what was open");
        }
        shared.link.note(None);
    }
}

/// How a session ended.
enum Ending {
    Lost {
        reason: String,
        /// Within how much time it comes back, because others do too.
        spread: Duration,
    },
    /// Another process has the tunnel: coming back would take it away again, and so on for ever.
    Replaced(String),
    /// Another connection has taken the place of one that was silent, or something forbids it.
    Renewed(Result<Declared, StartError>),
}

impl Ending {
    /// Nobody waits for a tunnel on which nothing was open: it leaves the first moments to those of the router's clients
    /// that are in use.
    fn lost(reason: String, shared: &Shared, session: &Session) -> Self {
        let is_idle = !shared.is_used(session);
        Self::Lost { reason, spread: if is_idle { IDLE_SPREAD } else { Duration::ZERO } }
    }
}

/// Waits for the session's end and does meanwhile what the router says and what the network asks for. [SES-33] [RVS-4]
async fn until_end(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    (line, endpoint): (&Line, &Arc<ClientEndpoint>),
    (early, mut events): (Vec<Event>, mpsc::Receiver<Event>),
) -> Ending {
    let mut early = early.into_iter();
    let mut whereabouts = Whereabouts::towards(line.session.connection().remote_addr());
    let mut silence = Silence::of(&line.session, &shared.link.heard, PATIENCE).or_deaf();
    let mut crossing = Crossing::of(shared, line, endpoint);
    let mut renewal = Renewal::default();
    let mut lost = None;
    loop {
        let next = async {
            match early.next() {
                Some(event) => Some(event),
                None => events.recv().await,
            }
        };
        tokio::select! {
            renewed = renewal.done() => match (renewed, lost.take()) {
                (Some(back), _) => return Ending::Renewed(back),
                (None, Some(reason)) => return Ending::lost(reason, shared, &line.session),
                (None, None) => {}
            },
            ended = line.session.closed(), if lost.is_none() => {
                if !renewal.is_under_way() {
                    return Ending::lost(ended.reason, shared, &line.session);
                }
                // It may be lost because it is renewed.
                shared.link.line.send_replace(None);
                lost = Some(ended.reason);
            }
            change = whereabouts.changed() => crossing.moves(&change),
            crossed = crossing.turns() => shared.crosses(crossed, line.session.connection().remote_addr()),
            is_silent = silence.turns() => {
                shared.heard(is_silent);
                if is_silent && line.session.outlives() {
                    // Whoever comes now waits for the one or the other.
                    shared.link.line.send_replace(None);
                    renewal.begin(Comeback::of(shared, tasks, &line.session));
                } else if lost.is_none() {
                    shared.link.line.send_replace(Some(line.clone()));
                    renewal.is_needless();
                }
            }
            Some(event) = next => {
                if let Some(ending) = hear(shared, tasks, line, event) {
                    return ending;
                }
            }
        }
    }
}

/// Does what the router says; `Some` when that is the session's end.
fn hear(shared: &Arc<Shared>, tasks: &Tasks, line: &Line, event: Event) -> Option<Ending> {
    match event {
        Event::GoAway(leave) => {
            tracing::info!(reason = leave.message, "the router is about to leave");
            if !leave.reconnect_now {
                shared.link.note(Some("the router is about to stop".to_owned()));
            }
            return leave.reconnect_now.then(|| Ending::Lost {
                reason: leave.message,
                spread: Duration::from_millis(leave.spread_ms.into()).min(LONGEST_SPREAD),
            });
        }
        Event::FlowOpen(open) => reverse::flow(shared, tasks, &line.flows, open),
        Event::FlowClose(close) => udp::closed(shared, &line.flows, &close),
        Event::Replaced(replaced) => {
            let by = format!("{}, since {}", replaced.by, replaced.since);
            return Some(Ending::Replaced(by));
        }
        event => tracing::debug!(?event, "unexpected message of the router"),
    }
    None
}

impl Shared {
    /// Whether anything is open: what waits for the next connection of the session, too.
    pub(super) fn is_used(&self, session: &Session) -> bool {
        !session.is_idle() || self.table.active() > 0
    }

    /// The router is silent, or is heard again: that shows in the state.
    fn heard(&self, is_silent: bool) {
        let (state, note) = match is_silent {
            true => (TunnelState::Reconnecting, Some(SILENT.to_owned())),
            false => (TunnelState::Ready, None),
        };
        self.set_state(state);
        self.link.note(note);
        tracing::info!("the router {}", if is_silent { "is silent" } else { "is heard again" });
    }

    /// Something else carries the session.
    fn crosses(&self, Crossed(carrier): Crossed, remote: SocketAddr) {
        self.metrics.crossings.inc();
        let access = &self.settings.access;
        if let Some(networks) = access.networks() {
            networks.note(access.router.identity, remote, carrier);
        }
        tracing::info!(%carrier, "the session goes on over another carrier");
    }

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
        self.table.drains_within(LAST_VISITS).await;
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

/// A path that is back within this time needs no other connection: QUIC and its pulse are quicker.
const PATIENCE: Duration = Duration::from_secs(6);
/// Of a thousand idle tunnels whose router was killed at most 200 come back in one second, and 95 of a hundred within seven.
const IDLE_SPREAD: Duration = Duration::from_millis(1_500);
/// What a router may ask for: its clients are thousands at most.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);
/// What `status` says while a connection passes nothing.
const SILENT: &str = "the router has not been heard of for some seconds";
/// A router that is busy takes so long from accepting a visitor to opening its stream.
const LATE_VISITORS: Duration = Duration::from_millis(250);
/// What is open when the tunnel is taken over may go on for as long as at any other end of a process.
const LAST_VISITS: Duration = Duration::from_secs(30);
