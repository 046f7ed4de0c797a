//! The tunnel process: sockets on one side, a session that is kept alive on the other.
//!
//! Composition only: it puts `ends`, `session` and `relay` together and owns no bytes; finding and controlling
//! processes is `registry`'s work. Implements `proto-spec/streams.md`, "Forward tunnels", and the client's side of
//! `proto-spec/flows.md` and `proto-spec/reverse.md`.

mod access;
mod comeback;
mod connect;
mod crossing;
mod declare;
mod error;
mod examine;
mod forward;
mod link;
mod mapping;
mod networks;
mod once;
mod outcome;
mod probe;
mod reverse;
mod silence;
mod sources;
mod status;
mod udp;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

pub use access::{Access, Enrolled, enrol};
pub use connect::RouterAddress;
pub use error::{Failure, StartError, TAKEN_OVER};
pub use examine::{Examination, Unreached, examine, reaches};
pub use mapping::{Lifetime, lifetime};
pub use networks::Networks;
pub use once::{Once, once};
pub(crate) use status::{drain_seconds, packets, path_status, refusals, version};

use crate::ends::{DialSettings, ListenError, Listener, Outage, UdpPort};
use crate::registry::Call;
use crate::session::Event;
use crate::task::Tasks;
use crate::transport::Carrier;
use crate::tunnel::{Bind, Direction, Protocol, Span, TunnelId, TunnelSpec, TunnelState};
use crate::wire::{Code, GoAway};
use crate::{relay, session, telemetry};
use connect::{Attempt, retried};
use link::Link;
use outcome::LastOutcome;

/// Everything a tunnel needs. Nothing is read from files or the environment here.
#[derive(Debug)]
pub struct Settings {
    /// The tunnel.
    pub tunnel: TunnelSpec,
    /// The id of this process, the first half of its connections' ids.
    pub id: TunnelId,
    /// One UUID per process start.
    pub instance: Uuid,
    /// The way to the router.
    pub access: Access,
    /// Copying.
    pub relay: relay::Settings,
    /// Users' sockets.
    pub sockets: SocketSettings,
    /// Dialling, for reverse tunnels.
    pub dial: DialSettings,
    /// Connections at one time; more are reset.
    pub max_connections: usize,
    /// How long a new connection waits for a lost session before it is reset.
    pub outage_wait: Duration,
}

/// What can be set about users' sockets.
#[derive(Clone, Copy, Debug)]
pub struct SocketSettings {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// Idle time before keep-alive probes; `None` for none.
    pub keepalive: Option<Duration>,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self { nodelay: true, keepalive: Some(Duration::from_secs(60)) }
    }
}

/// A tunnel that runs. Dropped, it ends without draining.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    tasks: Tasks,
    calls: mpsc::Sender<Call>,
    ready_in: Duration,
}

/// What the tasks of one tunnel share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// Where users connect; of a reverse tunnel it may change with the session.
    bind: Mutex<Span<Bind>>,
    table: relay::Table,
    link: Link,
    last_outcome: LastOutcome,
    /// Of the listeners.
    outages: Vec<Arc<Outage>>,
    state: watch::Sender<TunnelState>,
    ended: watch::Sender<Option<End>>,
    metrics: status::Metrics,
    /// Cancelled when no new connections are wanted.
    accepting: tokio_util::sync::CancellationToken,
    /// Cancelled when open connections are to end.
    connections: tokio_util::sync::CancellationToken,
}

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was asked to.
    Stopped {
        /// Whether connections had to be cut off.
        forced: bool,
    },
    /// For a reason.
    Failed(String),
}

/// Starts a tunnel: returns when the session is up, the tunnel declared and, where this end listens, every port bound.
/// The first connection is tried three times. Dropped before that, nothing stays behind.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let started = Instant::now();
    let sockets = Sockets::bind(&settings.tunnel)?;
    let tasks = Tasks::new();
    let Settings { access, tunnel, instance, .. } = &settings;
    let attempt = |tries| Attempt::first(&tasks, tries);
    let declared =
        retried(|tries| access.declare(tunnel, &tunnel.bind, *instance, attempt(tries))).await;
    let first = match declared {
        Ok(first) => first,
        Err(error) => {
            tasks.shutdown(Duration::ZERO).await;
            return Err(error);
        }
    };
    let ready_in = started.elapsed();
    let real = sockets.first_bind().or(first.binds.first().cloned());
    let asked = &settings.tunnel.bind;
    let bind = real.map_or_else(|| asked.clone(), |first| asked.starting_at(first));
    let (state, _) = watch::channel(TunnelState::Ready);
    let shared = Arc::new(Shared {
        link: Link::new(),
        last_outcome: LastOutcome::default(),
        outages: sockets.outages(),
        table: relay::Table::default(),
        state,
        ended: watch::channel(None).0,
        metrics: status::Metrics::new(&telemetry::Metrics::new()),
        accepting: tasks.token().child_token(),
        connections: tasks.token().child_token(),
        bind: Mutex::new(bind.clone()),
        settings,
    });
    let (calls, received) = mpsc::channel(CALLS);
    let line = link::publish(&shared, &tasks, &first.established);
    let first = (first.established, line);
    let link = tasks.vital(link::keep(Arc::clone(&shared), tasks.clone(), first));
    tasks.spawn_until_cancelled("link", link);
    sockets.serve(&shared, &tasks);
    let control = tasks.vital(status::answer(Arc::clone(&shared), tasks.clone(), received));
    tasks.spawn_until_cancelled("control", control);
    let tunnel = &shared.settings.tunnel;
    tracing::info!(tunnel = %tunnel.name, %bind, source = %tunnel.source, ?ready_in, "tunnel ready");
    Ok(Running { shared, tasks, calls, ready_in })
}

/// What this end listens on: nothing, for a reverse tunnel.
enum Sockets {
    Tcp(Vec<Listener>),
    Udp(Vec<UdpPort>),
}

impl Sockets {
    fn bind(spec: &TunnelSpec) -> Result<Self, ListenError> {
        let binds: Vec<Bind> = match spec.direction {
            Direction::Forward => spec.bind.each().collect(),
            Direction::Reverse => Vec::new(),
        };
        match spec.protocol {
            Protocol::Tcp => {
                let bound = binds.iter().map(|bind| Listener::bind(bind, BACKLOG));
                bound.collect::<Result<_, _>>().map(Self::Tcp)
            }
            Protocol::Udp => {
                binds.iter().map(UdpPort::bind).collect::<Result<_, _>>().map(Self::Udp)
            }
        }
    }

    /// The first one with its real port.
    fn first_bind(&self) -> Option<Bind> {
        match self {
            Self::Tcp(listeners) => listeners.first().map(Listener::local_bind),
            Self::Udp(ports) => ports.first().map(|port| port.local_addr().into()),
        }
    }

    fn outages(&self) -> Vec<Arc<Outage>> {
        match self {
            Self::Tcp(listeners) => listeners.iter().map(Listener::outage).collect(),
            Self::Udp(_) => Vec::new(),
        }
    }

    fn serve(self, shared: &Arc<Shared>, tasks: &Tasks) {
        match self {
            Self::Tcp(listeners) => {
                for (index, listener) in listeners.into_iter().enumerate() {
                    let accept =
                        forward::accept(Arc::clone(shared), tasks.clone(), index, listener);
                    tasks.spawn("accept", tasks.vital(accept));
                }
            }
            Self::Udp(ports) => {
                for (index, port) in ports.into_iter().enumerate() {
                    let packets = udp::serve(Arc::clone(shared), index, port);
                    tasks.spawn("packets", tasks.vital(packets));
                }
            }
        }
    }
}

impl Running {
    /// Where users connect, with the real port; of a reverse tunnel it is the router's.
    pub fn bind(&self) -> Span<Bind> {
        self.shared.bind()
    }

    /// The address of the first port, unless users connect to a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.bind().first().socket_addr()
    }

    /// From the start of [`start`] to ready.
    pub fn ready_in(&self) -> Duration {
        self.ready_in
    }

    /// What carries the session.
    pub fn carrier(&self) -> Carrier {
        self.shared.link.carrier()
    }

    /// Takes requests of the control socket.
    pub fn calls(&self) -> mpsc::Sender<Call> {
        self.calls.clone()
    }

    /// The state, as it changes.
    pub fn state(&self) -> watch::Receiver<TunnelState> {
        self.shared.state.subscribe()
    }

    /// What last went wrong.
    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error()
    }

    /// The metrics as OpenMetrics text.
    pub fn metrics(&self) -> String {
        self.shared.metrics_text()
    }

    /// The path, TLS and the session's ends, while there is a session.
    pub fn session(&self) -> Option<session::Session> {
        self.shared.link.current()
    }

    /// Ends the tunnel: no new connections, `drain` for the open ones, then resets.
    pub async fn shutdown(&self, drain: Duration) {
        self.shared.shutdown(drain).await;
        self.tasks.shutdown(LAST_WORDS).await;
    }

    /// Waits until a part has panicked without which the tunnel serves nobody. Cancel-safe.
    pub async fn broken(&self) {
        self.tasks.broken().await;
    }

    /// Waits for the end, whoever asked for it.
    pub async fn ended(&self) -> End {
        let mut ended = self.shared.ended.subscribe();
        let end = match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone(),
            Err(_) => None,
        };
        self.tasks.shutdown(LAST_WORDS).await;
        end.unwrap_or(End::Stopped { forced: false })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

impl Shared {
    fn bind(&self) -> Span<Bind> {
        self.bind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the router listens from now on, for reverse tunnels: with port 0 it may be another one each time.
    fn set_binds(&self, binds: Vec<Bind>) {
        if self.settings.tunnel.direction == Direction::Reverse
            && let Some(first) = binds.into_iter().next()
        {
            let bind = self.settings.tunnel.bind.starting_at(first);
            *self.bind.lock().unwrap_or_else(PoisonError::into_inner) = bind;
        }
    }

    /// Why there is no session, or why the last connection was not served.
    fn last_error(&self) -> Option<String> {
        self.link.last_error().or_else(|| self.not_served())
    }

    /// Why the last connection was not served, or the last packet.
    fn not_served(&self) -> Option<String> {
        let failed = self.last_outcome.failure();
        let failed = failed.or_else(|| self.outages.iter().find_map(|outage| outage.reason()));
        failed.or_else(|| self.not_answered())
    }

    /// Why the last packet found nobody. Whether a service is there again shows in what comes from it.
    fn not_answered(&self) -> Option<String> {
        let tunnel = &self.settings.tunnel;
        if tunnel.protocol != Protocol::Udp {
            return None;
        }
        let last = self.table.refused().into_iter().max_by_key(|refused| refused.at)?;
        let traffic = self.table.traffic();
        let (then, now) = match tunnel.direction {
            Direction::Forward => (last.packets.1, traffic.received()),
            Direction::Reverse => (last.packets.0, traffic.sent()),
        };
        (then == now).then(|| format!("{}: {}", last.target, last.reason))
    }

    fn set_state(&self, state: TunnelState) {
        self.state.send_if_modified(|current| {
            let settled = matches!(
                *current,
                TunnelState::Draining | TunnelState::Stopped | TunnelState::Failed
            );
            let change = *current != state && (!settled || matches!(state, TunnelState::Stopped));
            if change {
                *current = state;
            }
            change
        });
    }

    /// The stop, a step at a time: no new connections; open ones may finish; the rest is reset; the session says
    /// good-bye.
    async fn shutdown(&self, drain: Duration) {
        self.accepting.cancel();
        self.set_state(TunnelState::Draining);
        if let Some(session) = self.link.current() {
            let (code, message) = (Code::ShuttingDown.number() as u32, GOOD_BYE.to_owned());
            // A router that does not read hears it by the close.
            session.say_now(Event::GoAway(GoAway { code, message, ..GoAway::default() }));
        }
        if !drain.is_zero() {
            tracing::info!(connections = self.table.active(), limit = ?drain, "draining");
        }
        let drained = self.table.drains_within(drain).await;
        self.connections.cancel();
        self.table.drains_within(LAST_WORDS).await;
        self.link.close().await;
        self.set_state(TunnelState::Stopped);
        self.ended.send_replace(Some(End::Stopped { forced: !drained }));
    }
}

/// Users that may wait to be accepted; the system's own limit is below it on most hosts.
const BACKLOG: u32 = 4_096;
/// Requests of the control socket that wait.
const CALLS: usize = 32;
/// What the router reads.
const GOOD_BYE: &str = "the tunnel is stopped";
/// For resets and the good-bye to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);
