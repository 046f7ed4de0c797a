//! Published ports: the router listens, and hands each visitor to the client whose tunnel it is. [RVS-1]

mod attend;
mod notes;
mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Shared, now};
use crate::ends::UdpPort;
use crate::registry::rfc3339;
use crate::relay::{FlowRules, Flows, Front};
#[cfg(unix)]
use crate::relay::{Known, Table};
use crate::routes::{ClaimError, Holder, Lease, Route, Routes, ServerNumber};
use crate::session::{Event, Past, Session};
use crate::store::{Store, StoreError};
use crate::task::Tasks;
use crate::tunnel::{Bind, Identity, Protocol};
#[cfg(unix)]
use crate::wire::handover::Port;
use crate::wire::{Code, Replaced};

use attend::serve;
use notes::{Change, write_down};
pub(super) use socket::Socket;
use socket::listen;

/// The ports that this router listens on for clients.
#[derive(Debug)]
pub(super) struct Published {
    routes: Mutex<Routes<Server>>,
    listening: Mutex<HashMap<Route, Listening>>,
    /// Sockets of the process before, until their tunnels are declared again.
    inherited: Mutex<HashMap<Route, Socket>>,
    /// Flows of visitors there.
    visitors: Mutex<HashMap<Route, Front>>,
    /// What is to be written down, in its order.
    changed: mpsc::Sender<Change>,
}

/// A route that is listened on.
#[derive(Debug)]
struct Listening {
    /// Ends it.
    stop: CancellationToken,
    socket: Weak<Socket>,
}

/// A tunnel of a client that is in: where visitors of a port are handed to.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) session: Session,
    pub(super) flows: Flows,
    pub(super) rules: FlowRules,
    pub(super) max_flows: usize,
    /// Front ends whose word is taken for who a visitor is.
    pub(super) trusted: Arc<[IpNet]>,
    /// The client's name, for lists and logs.
    pub(super) client: String,
}

/// Holds a published port for one tunnel of one session; dropped, the tunnel serves it no longer. [RVS-6]
#[derive(Debug)]
pub(super) struct Publication {
    shared: Arc<Shared>,
    number: ServerNumber,
}

/// Why a port is not published: the code and words for the client.
pub(super) type Refusal = (Code, String);

/// Who asks for a port.
pub(super) struct Claim {
    pub(super) protocol: Protocol,
    pub(super) holder: Holder,
    pub(super) instance: Uuid,
    pub(super) server: Server,
}

impl Published {
    /// What an earlier run of the router has left: every port that was published then is kept for its owner.
    pub(super) async fn remembered(
        store: &Store,
        memory: Duration,
        tasks: &Tasks,
    ) -> Result<Self, StoreError> {
        let now = now();
        store.release_leases(now).await?;
        store.purge_leases(now.saturating_sub(memory.as_secs())).await?;
        let mut routes = Routes::new(memory);
        routes.reserve(store.leases().await?, now);
        let (changed, leases) = mpsc::channel(CHANGES);
        tasks.spawn("leases", write_down(store.clone(), leases, tasks.token().clone()));
        Ok(Self {
            routes: Mutex::new(routes),
            listening: Mutex::default(),
            inherited: Mutex::default(),
            visitors: Mutex::default(),
            changed,
        })
    }

    /// A socket of the process before: visitors wait there until the tunnel is declared again.
    #[cfg(unix)]
    pub(super) fn inherits(&self, socket: Socket) {
        if let Some(route) = Route::new(socket.protocol(), &socket.bound()) {
            lock(&self.inherited).insert(route, socket);
        }
    }

    /// A flow of a visitor of such a socket.
    #[cfg(unix)]
    pub(super) fn inherits_visitor(
        &self,
        bind: &str,
        table: &Table,
        take_up: impl FnOnce(&Arc<UdpPort>) -> std::io::Result<Known>,
    ) -> std::io::Result<()> {
        let route = bind.parse().ok().and_then(|bind| Route::new(Protocol::Udp, &bind));
        let (route, inherited) =
            (route.ok_or(std::io::ErrorKind::NotFound)?, lock(&self.inherited));
        let Some(Socket::Udp(port)) = inherited.get(&route) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let known = take_up(port)?;
        let mut visitors = lock(&self.visitors);
        visitors.entry(route).or_insert_with(|| Front::new(Arc::clone(port), table)).adopt(known);
        Ok(())
    }

    /// Lets go of sockets that nobody has declared a tunnel for.
    #[cfg(unix)]
    pub(super) fn disinherit(&self) {
        lock(&self.visitors).clear();
        lock(&self.inherited).clear();
    }

    /// The sockets that are listened on now, and those that wait for their tunnels.
    #[cfg(unix)]
    pub(super) fn leave(&self) -> std::io::Result<Vec<Port>> {
        let listening = lock(&self.listening);
        let sockets = listening.values().filter_map(|listening| listening.socket.upgrade());
        let mut ports = sockets.map(|socket| socket.left()).collect::<Result<Vec<_>, _>>()?;
        for socket in lock(&self.inherited).values() {
            ports.push(socket.left()?);
        }
        Ok(ports)
    }

    /// That visitors wait somewhere, and why, if they do.
    pub(super) fn outage(&self) -> Option<String> {
        let listening = lock(&self.listening);
        listening.values().find_map(|listening| match &*listening.socket.upgrade()? {
            Socket::Tcp(listener) => listener.outage().reason(),
            Socket::Udp(_) => None,
        })
    }

    /// Nobody waits for the disk: a lease that is not written is lost with the router, and the port with it to whoever
    /// asks first. What ends after the router's own end need not be: the next start takes it for released.
    fn remember(&self, lease: Lease) {
        if let Err(error @ mpsc::error::TrySendError::Full(_)) =
            self.changed.try_send(Change::Held(lease))
        {
            tracing::warn!(%error, "a published port is not written down");
        }
    }

    /// Takes every port from an identity that was revoked, and returns when that is written down. Its sessions are
    /// closed already, or they would publish the ports again.
    pub(super) async fn free(&self, identity: Identity) {
        let served = self.routes().free(identity);
        for route in &served {
            self.silence(route);
        }
        let (written, is_written) = oneshot::channel();
        if self.changed.send(Change::Freed(identity, written)).await.is_ok() {
            let _ = is_written.await;
        }
    }

    pub(super) fn routes(&self) -> MutexGuard<'_, Routes<Server>> {
        lock(&self.routes)
    }

    /// The server for the next visitor: one whose connection was lost only when there is no other.
    pub(super) fn pick(&self, route: &Route) -> Option<Server> {
        let mut routes = self.routes();
        let first = routes.pick(route)?;
        let mut server = first.clone();
        while server.session.is_lost() {
            server = routes.pick(route)?;
            if server.session.is(&first.session) {
                break;
            }
        }
        Some(server)
    }

    /// The server that is of a session.
    fn server_of(&self, route: &Route, session: &Past) -> Option<Server> {
        let routes = self.routes();
        routes.servers(route).find(|server| server.session.past() == *session).cloned()
    }

    /// Ends the listener of a route, if there is one.
    fn silence(&self, route: &Route) {
        if let Some(listening) = lock(&self.listening).remove(route) {
            listening.stop.cancel();
        }
    }
}

/// Publishes a port for a tunnel, or says why not: the bind with its real port. Policy has been asked. [RVS-1] [RVS-2]
pub(super) async fn publish(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    bind: &Bind,
    claim: Claim,
) -> Result<(Bind, Publication), Refusal> {
    let protocol = claim.protocol;
    let is_any = bind.socket_addr().is_some_and(|addr| addr.port() == 0);
    // Which port it is shows only once it is bound.
    let mut socket = if is_any { Some(listen(shared, protocol, bind).await?) } else { None };
    let bound = socket.as_ref().map_or_else(|| bind.clone(), Socket::bound);
    let route = Route::new(protocol, &bound)
        .ok_or_else(|| (Code::Internal, format!("{bound} is no place to listen")))?;
    let Claim { holder, instance, server, .. } = claim;
    let (client, flows) = (server.client.clone(), server.flows.clone());
    let addr = server.session.connection().remote_addr();
    let claimed = {
        let mut routes = shared.published.routes();
        // Who is revoked is closed first and loses its routes then: it must not get one in between.
        if server.session.connection().close_reason().is_some() {
            return Err((Code::Done, "the session is over".to_owned()));
        }
        routes.claim(route.clone(), holder.clone(), instance, server, now())
    };
    let claimed = claimed.map_err(|error| refusal(&error))?;
    let number = claimed.number;
    let publication = Publication { shared: Arc::clone(shared), number };
    for closed in &claimed.closed {
        shared.published.silence(closed);
        let released_at = Some(now());
        shared.published.remember(Lease {
            route: closed.clone(),
            holder: holder.clone(),
            released_at,
        });
    }
    // Before anything can fail: whoever made way serves nothing any more.
    for replaced in claimed.replaced {
        tell_replaced(tasks, replaced, &client, addr);
    }
    for superseded in claimed.superseded {
        superseded.session.close(Code::Done, "the same process has come back");
    }
    if claimed.is_new {
        let listening = match socket.take() {
            Some(socket) => Ok(socket),
            None => listen(shared, protocol, &bound).await,
        };
        match listening {
            Ok(socket) => serve(shared, tasks, route.clone(), socket),
            Err(refusal) => {
                shared.published.routes().undo(number);
                return Err(refusal);
            }
        }
    }
    shared.published.remember(Lease { route, holder, released_at: None });
    flows.announce();
    Ok((bound, publication))
}

impl Drop for Publication {
    fn drop(&mut self) {
        let released = self.shared.published.routes().withdraw(self.number, now());
        if let Some(lease) = released {
            self.shared.published.silence(&lease.route);
            self.shared.published.remember(lease);
        }
    }
}

/// [RVS-4]
fn tell_replaced(tasks: &Tasks, server: Server, by: &str, addr: SocketAddr) {
    let replaced = Replaced {
        tunnel: server.rules.tunnel,
        by: format!("{by} at {addr}"),
        since: rfc3339(SystemTime::now()),
    };
    tracing::info!(client = server.client, by, %addr, "tunnel taken over");
    tasks.spawn_until_cancelled("tell replaced", async move {
        // One that does not read hears it by the end of its session.
        let said = server.session.say(Event::Replaced(replaced));
        let _ = tokio::time::timeout(TELL_LIMIT, said).await;
    });
}

fn refusal(error: &ClaimError) -> Refusal {
    let code = match error {
        ClaimError::Replaced { .. } => Code::Replaced,
        ClaimError::TooMany { .. } => Code::Limit,
        _ => Code::Taken,
    };
    (code, error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes that wait to be written: two for each tunnel that a thousand clients take up at once.
const CHANGES: usize = 4_096;
/// How long a client that does not read its control stream is waited for.
const TELL_LIMIT: Duration = Duration::from_secs(1);
