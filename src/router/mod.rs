//! The router process: admits clients, decides, dials and copies.
//!
//! Composition only: who may enter is `store`'s knowledge, what may be dialled `policy`'s, whose a port is `routes`', the
//! bytes and packets are `relay`'s. Implements the router's side of `proto-spec/session.md`, `proto-spec/streams.md`,
//! `proto-spec/flows.md` and `proto-spec/reverse.md`.

mod accept;
mod admin;
mod admit;
mod advertise;
mod connect;
mod declare;
mod flows;
mod gate;
#[cfg(unix)]
mod handover;
mod leavings;
mod log_budget;
mod publish;
mod serve;
mod sessions;
mod status;
mod upgrade;
mod visitor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use admin::Admin;
pub use advertise::{Advertised, advertised};
#[cfg(unix)]
pub use handover::{HandoverError, Heritage};
pub use upgrade::UpgradeCall;

use crate::ends::DialSettings;
use crate::identity::Keypair;
use crate::policy::OwnSockets;
use crate::registry::Call;
use crate::session::Event;
use crate::store::{Store, StoreError};
use crate::task::Tasks;
use crate::transport::{EndpointError, RouterEndpoint, Secrets, Sockets};
use crate::tunnel::{HostPort, Identity, TunnelId};
use crate::wire::{Code, GoAway};
use crate::{relay, session, telemetry, transport};
use leavings::Leavings;
use publish::Published;
use sessions::Sessions;
use upgrade::Upgrade;

/// Everything a router needs. Nothing is read from files or the environment here.
#[derive(Debug)]
pub struct Settings {
    /// The id of this process, the first half of its connections' ids.
    pub id: TunnelId,
    /// Where to listen, UDP.
    pub bind: SocketAddr,
    /// What tickets carry.
    pub advertise: Vec<HostPort>,
    /// The router's key.
    pub keypair: Arc<Keypair>,
    /// What makes a restart noticed at once.
    pub secrets: Secrets,
    /// Clients, tickets, tokens.
    pub store: Store,
    /// Folders with sockets that no client reaches, and where it gets none: the router's own.
    pub private: Vec<PathBuf>,
    /// Whether a client needs a token besides its key.
    pub require_token: bool,
    /// Sessions at one time; more are refused.
    pub max_clients: usize,
    /// Connections to targets at one time; more are refused.
    pub max_connections: usize,
    /// Connections.
    pub transport: transport::Settings,
    /// Sessions.
    pub session: session::Settings,
    /// Copying.
    pub relay: relay::Settings,
    /// Dialling.
    pub dial: DialSettings,
    /// How long a published port stays its owner's after the last tunnel there has gone.
    pub lease: Duration,
    /// How long streams of a client whose connection was lost are kept, at most; zero: not at all.
    pub resume: Duration,
    /// Sockets that the service manager has bound.
    pub sockets: Sockets,
    /// What the process has left whose place this one takes.
    #[cfg(unix)]
    pub heritage: Option<Heritage>,
}

/// A router could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// What is remembered of published ports cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the process before has left cannot be used.
    #[cfg(unix)]
    #[error(transparent)]
    Heritage(#[from] HandoverError),
}

/// A router that runs. Dropped, it ends without draining.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    tasks: Tasks,
    calls: mpsc::Sender<Call>,
    local_addr: SocketAddr,
}

/// What the tasks of one router share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    endpoint: RouterEndpoint,
    admin: Admin,
    sessions: Sessions,
    published: Arc<Published>,
    table: relay::Table,
    own: OwnSockets,
    metrics: status::Metrics,
    ended: watch::Sender<Option<bool>>,
    /// What the next process goes on with.
    leavings: Leavings,
    upgrade: Upgrade,
    /// Upgrades that the router has gone through.
    upgrades: u64,
    /// Cancelled when another process goes on.
    leaving: CancellationToken,
    /// Cancelled when flows that pause may end: not when another process goes on with them.
    draining: CancellationToken,
    /// Cancelled when nobody else is wanted.
    accepting: CancellationToken,
    /// Cancelled when open connections are to end.
    connections: CancellationToken,
}

/// Starts a router; the socket is bound when this returns.
pub async fn start(mut settings: Settings) -> Result<Running, StartError> {
    let given = settings.given_sockets()?;
    let endpoint = RouterEndpoint::bind(
        &settings.transport,
        &settings.keypair,
        &settings.secrets,
        settings.bind,
        given,
    )?;
    let local_addr = endpoint.local_addr().map_err(|source| EndpointError::Socket {
        protocol: "UDP",
        addr: settings.bind,
        source,
    })?;
    // With port 0 the real one is known only now.
    for address in settings.advertise.iter_mut().filter(|address| address.port == 0) {
        address.port = local_addr.port();
    }
    #[cfg(unix)]
    let heritage = settings.heritage.take();
    #[cfg(unix)]
    let upgrades = heritage.as_ref().map_or(0, Heritage::upgrades);
    #[cfg(not(unix))]
    let upgrades = 0;
    let tasks = Tasks::new();
    let sessions = Sessions::default();
    let published = Published::remembered(&settings.store, settings.lease, &tasks).await?;
    let published = Arc::new(published);
    let shared = Arc::new(Shared {
        admin: Admin::new(
            settings.store.clone(),
            settings.keypair.identity(),
            settings.advertise.clone(),
            Some((sessions.clone(), Arc::clone(&published))),
        ),
        own: OwnSockets::new(vec![local_addr], advertise::interfaces())
            .with_private(settings.private.iter().map(|folder| followed(folder)).collect()),
        table: relay::Table::default(),
        leavings: Leavings::default(),
        upgrade: Upgrade::default(),
        upgrades,
        leaving: CancellationToken::new(),
        metrics: status::Metrics::new(&telemetry::Metrics::new()),
        ended: watch::channel(None).0,
        accepting: tasks.token().child_token(),
        draining: tasks.token().child_token(),
        connections: tasks.token().child_token(),
        sessions,
        published,
        endpoint,
        settings,
    });
    #[cfg(unix)]
    if let Some(heritage) = heritage {
        handover::take_up(&shared, &tasks, heritage);
    }
    let (calls, received) = mpsc::channel(CALLS);
    let accept = tasks.vital(accept::accept(Arc::clone(&shared), tasks.clone()));
    tasks.spawn("accept", accept);
    let control = tasks.vital(status::answer(Arc::clone(&shared), tasks.clone(), received));
    tasks.spawn_until_cancelled("control", control);
    tracing::info!(bind = %local_addr, identity = %shared.admin.identity(), "router up");
    Ok(Running { shared, tasks, calls, local_addr })
}

impl Settings {
    /// Sockets that are bound already, by the process before or by the service manager.
    fn given_sockets(&mut self) -> Result<Sockets, StartError> {
        #[cfg(unix)]
        if let Some(heritage) = &mut self.heritage {
            return Ok(heritage.sockets()?);
        }
        Ok(std::mem::take(&mut self.sockets))
    }
}

/// The path with every symbolic link followed; a folder that is not there yet is taken as it is written.
fn followed(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

impl Running {
    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its public key.
    pub fn identity(&self) -> Identity {
        self.shared.admin.identity()
    }

    /// Invites, authorizes, revokes.
    pub fn admin(&self) -> &Admin {
        &self.shared.admin
    }

    /// Takes requests of the control socket.
    pub fn calls(&self) -> mpsc::Sender<Call> {
        self.calls.clone()
    }

    /// The metrics as OpenMetrics text.
    pub fn metrics(&self) -> String {
        self.shared.metrics_text()
    }

    /// Ends the router: no new clients, `drain` for open connections, then resets. True when nothing was cut off.
    pub async fn shutdown(&self, drain: Duration) -> bool {
        let drained = self.shared.shutdown(drain).await;
        self.tasks.shutdown(LAST_WORDS).await;
        drained
    }

    /// Waits until a part has panicked without which the router serves nobody. Cancel-safe.
    pub async fn broken(&self) {
        self.tasks.broken().await;
    }

    /// Waits for the end, whoever asked for it. True when nothing was cut off.
    pub async fn ended(&self) -> bool {
        let mut ended = self.shared.ended.subscribe();
        let drained =
            ended.wait_for(Option::is_some).await.is_ok_and(|drained| drained.unwrap_or(false));
        self.tasks.shutdown(LAST_WORDS).await;
        drained
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

impl Shared {
    /// Of every flow here.
    fn scope(&self) -> relay::Scope {
        relay::Scope {
            draining: self.draining.clone(),
            stop: self.connections.clone(),
            leaving: self.leaving.clone(),
        }
    }

    /// The stop, a step at a time: nobody new; clients are told; open connections may finish; the rest is reset;
    /// sessions are closed. [SES-33]
    async fn shutdown(&self, drain: Duration) -> bool {
        self.accepting.cancel();
        self.draining.cancel();
        // All at once: one that does not read must not make the others wait, and is about to hear the close.
        let mut told = JoinSet::new();
        for session in self.sessions.all() {
            let leave = GoAway {
                code: Code::ShuttingDown.number() as u32,
                message: GOOD_BYE.to_owned(),
                ..GoAway::default()
            };
            told.spawn(async move { session.say(Event::GoAway(leave)).await });
        }
        let all_told = async { while told.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, all_told).await;
        if !drain.is_zero() {
            tracing::info!(connections = self.table.active(), limit = ?drain, "draining");
        }
        let drained = self.table.drains_within(drain).await;
        self.connections.cancel();
        self.table.drains_within(LAST_WORDS).await;
        self.endpoint.close(Code::ShuttingDown.number(), GOOD_BYE).await;
        self.ended.send_replace(Some(drained));
        drained
    }
}

/// Seconds since 1970, the store's measure of time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What clients read.
const GOOD_BYE: &str = "the router was stopped";
/// Requests of the control socket that wait.
const CALLS: usize = 32;
/// For resets and good-byes to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);
