//! UDP flows: packets of many senders through one session, each with a number instead of an address.
//!
//! [`front`] is the users' side (a listening socket, a table of senders), [`Opening`] the targets' side (a socket
//! for each flow), and [`Flows`] what a session knows of both. Neither resolves nor decides: the roles do. Implements
//! `proto-spec/flows.md`.

mod counts;
mod early;
mod flow;
mod front;
mod home;
#[cfg(unix)]
mod legacy;
mod lineages;
mod opening;
mod reassembly;
mod receive;
mod spill;
mod table;
mod traffic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use flow::FlowRules;
pub use front::{Destination, Front, front};
#[cfg(unix)]
pub use legacy::Bequest;
pub(super) use lineages::Lineages;
pub use opening::{Known, Opening};
pub use reassembly::Reassembly;
pub use table::{Aging, CONVERSATION_PATIENCE, FlowTable, PATIENCE, TableFull};
pub use traffic::{Loss, Traffic, TrafficMetrics};

use super::{Faces, Table};
use crate::ends::{UdpPort, Way};
use crate::identity::random_bytes;
use crate::session::{DatagramRoom, Event, Incoming, SendDatagramError, Session};
use crate::task::Tasks;
use crate::tunnel::Protocol;
use crate::wire::{Code, FlowClose, FlowOpen};
use counts::Counts;
use early::Early;
use flow::{Flow, FlowIdentity};
use home::Home;

/// The flows of one connection of a session; a clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Flows(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    session: Session,
    table: Table,
    tasks: Tasks,
    scope: Scope,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Flow>>>,
    /// Set when the session's reader has ended: what comes too late is over at once.
    is_over: AtomicBool,
    counts: Counts,
    early: Mutex<Early>,
    /// A flow of the peer has got a socket, or never will.
    settled: Notify,
    /// Datagrams that were queued.
    pushed: AtomicU64,
}

/// Which numbers an end gives to its flows. [FLW-6]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Even ones.
    Client,
    /// Odd ones.
    Router,
}

/// When flows have to end that would not by themselves.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Cancelled when a pause is enough to end a flow.
    pub draining: CancellationToken,
    /// Cancelled when all of them end.
    pub stop: CancellationToken,
    /// Cancelled when another process goes on with a listening socket: what comes waits there for it. [UPG-7]
    pub leaving: CancellationToken,
}

impl Flows {
    /// The flows of a connection that has just begun to carry a session. Its datagrams are read from here on, until it
    /// ends; what it leaves waits for the next one. [FLW-15]
    pub fn start(
        session: &Session,
        side: Side,
        table: &Table,
        tasks: &Tasks,
        scope: Scope,
    ) -> Self {
        let first = match side {
            Side::Client => 2,
            Side::Router => 1,
        };
        let flows = Self(Arc::new(Inner {
            session: session.clone(),
            table: table.clone(),
            tasks: tasks.clone(),
            scope,
            next: AtomicU64::new(first),
            open: Mutex::default(),
            is_over: AtomicBool::new(false),
            counts: Counts::default(),
            early: Mutex::new(Early::new((first + 1) % 2)),
            settled: Notify::new(),
            pushed: AtomicU64::new(0),
        }));
        table.lineages().succeed(&flows);
        tasks.spawn_until_cancelled("datagrams", receive::receive(flows.clone()));
        tasks.spawn_until_cancelled("flows", receive::sweep(flows.clone()));
        flows
    }

    /// The session below.
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// Whether the connection is no more.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    /// Whoever has flows of the session looks for them here: from now on they are found.
    pub fn announce(&self) {
        self.0.table.lineages().announce();
    }

    pub(super) fn traffic(&self) -> &Traffic {
        self.0.table.traffic()
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Opens a flow for a user: tells the peer, with the first packet where it fits into the message. [FLW-6]
    pub(super) async fn open_for(
        &self,
        rules: FlowRules,
        (port, way): (&Arc<UdpPort>, Way),
        (visitor, visited): (SocketAddr, SocketAddr),
        first: Option<Bytes>,
    ) -> Result<Arc<Flow>, Loss> {
        let id = self.0.next.fetch_add(2, Ordering::Relaxed);
        let entry =
            self.0.table.enter(Protocol::Udp, Faces::User, visitor.to_string(), &self.0.scope.stop);
        let way = (Arc::clone(port), Some(way));
        let identity = FlowIdentity {
            session: self.session().past(),
            token: next_token(),
            introduced: Some(Box::new((visitor, visited))),
            name: None,
        };
        let home = Some(Home::new(self, id, rules));
        let table = (self.0.table.clone(), entry);
        let flow = Arc::new(Flow::new(home, identity, way, table, None));
        self.0.counts.add(rules.tunnel);
        self.open().insert(id, Arc::clone(&flow));
        self.unless_over(id);
        let length = first.as_ref().map(Bytes::len);
        let message = FlowOpen { payload: first, ..flow.opening(id, rules.tunnel) };
        match self.says_open(message).await {
            Ok(()) => {
                if let Some(length) = length {
                    flow.count_sent(length);
                }
                Ok(flow)
            }
            Err(loss) => {
                self.forget(id);
                flow.end();
                Err(loss)
            }
        }
    }

    /// Opens a flow again that an earlier connection has carried. False when the peer cannot be told right now: it waits
    /// as before, and others would too. [FLW-15]
    pub(super) async fn open_again(&self, flow: &Arc<Flow>, rules: FlowRules) -> bool {
        let id = self.0.next.fetch_add(2, Ordering::Relaxed);
        if !flow.moves_to(self, id, rules) {
            return true;
        }
        self.0.counts.add(rules.tunnel);
        self.open().insert(id, Arc::clone(flow));
        self.unless_over(id);
        let said = self.says_open(flow.opening(id, rules.tunnel)).await;
        if let Err(loss) = said {
            tracing::debug!(flow = id, ?loss, "a flow is not open again yet");
            self.leaves(id);
        }
        said.is_ok()
    }

    async fn says_open(&self, open: FlowOpen) -> Result<(), Loss> {
        match tokio::time::timeout(SAY_LIMIT, self.0.session.say(Event::FlowOpen(open))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Loss::NoSession),
            Err(_) => Err(Loss::QueueFull),
        }
    }

    /// The peer says that a flow is over. When it was opened here and could not be served: the tunnel's number, and
    /// why.
    pub fn closed(&self, close: &FlowClose) -> Option<(u32, String)> {
        let Some(flow) = self.forget(close.flow) else {
            // Its target may still be looked up, for nobody now.
            let waiting = self.give_up(close.flow).unwrap_or_default();
            self.traffic().count_lost(Loss::UnknownFlow, waiting.len() as u64);
            return None;
        };
        let code = Code::from_number(close.code.into());
        let loss = match code {
            Code::Denied => Loss::Denied,
            Code::NotFound | Code::ConnectionRefused | Code::Unreachable | Code::TimedOut => {
                Loss::Unreachable
            }
            _ => return None,
        };
        self.traffic().count_lost(loss, 1);
        // The user's program hears of it as it would without a tunnel. [FLW-9]
        flow.port.tell_unreachable(flow.way?);
        let said = Some(close.message.clone()).filter(|message| !message.is_empty());
        let tunnel = flow.home.load().as_ref()?.rules.tunnel;
        Some((tunnel, said.unwrap_or_else(|| code.to_string())))
    }

    /// Ends a flow and tells the peer. [FLW-10]
    pub(super) fn close(&self, id: u64, code: Code, message: &str) {
        if self.forget(id).is_some() {
            self.say_closed(id, code, message);
        }
    }

    /// Large packets of a flow, on a stream of the peer. [FLW-8]
    pub async fn spilled(&self, incoming: Incoming) {
        let Some(flow) = self.awaited(incoming.header.flow).await else {
            return incoming.refuse(Code::Protocol, "no such flow is open").await;
        };
        let Ok((mut sender, receiver, _seat)) = incoming.admit().await else { return };
        sender.finish();
        let stop = flow.stop().clone();
        let _ = stop.run_until_cancelled(spill::read(flow, receiver)).await;
    }

    /// The flow; a stream, like a datagram, may overtake the message that opens it. [FLW-7]
    async fn awaited(&self, id: u64) -> Option<Arc<Flow>> {
        let found = async {
            loop {
                let mut settled = pin!(self.0.settled.notified());
                settled.as_mut().enable();
                match self.get(id) {
                    None if self.knows(id) => settled.await,
                    found => return found,
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(early::PATIENCE), found).await.ok().flatten()
    }

    fn say_closed(&self, flow: u64, code: Code, message: &str) {
        let close = FlowClose { flow, code: code.number() as u32, message: message.to_owned() };
        if self.0.session.say_now(Event::FlowClose(close.clone())) {
            return;
        }
        // The peer's end of the flow would live on until it is idle: worth waiting for.
        let session = self.0.session.clone();
        self.0.tasks.spawn_until_cancelled("close flow", async move {
            let said = session.say(Event::FlowClose(close));
            let _ = tokio::time::timeout(SAY_LIMIT, said).await;
        });
    }

    /// Queues a datagram.
    fn push(&self, datagram: Bytes, room: &mut DatagramRoom) -> Result<(), SendDatagramError> {
        self.0.session.send_datagram(datagram, room)?;
        self.0.pushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn get(&self, id: u64) -> Option<Arc<Flow>> {
        self.open().get(&id).cloned()
    }

    /// A flow that came after the end of all leaves at once.
    fn unless_over(&self, id: u64) {
        if self.is_over() {
            self.leaves(id);
        }
    }

    /// The connection is no more: its flows, which wait for the next one of the session now. Those that end with their
    /// connection are over. [FLW-15]
    fn part(&self) {
        self.0.is_over.store(true, Ordering::Release);
        let open: Vec<_> = self.open().keys().copied().collect();
        open.into_iter().for_each(|id| self.leaves(id));
        self.announce();
    }

    /// The same of one flow.
    fn leaves(&self, id: u64) {
        let Some(flow) = self.take(id) else { return };
        if !flow.lasts() {
            return flow.end();
        }
        flow.parts();
        if flow.way.is_none() {
            self.0.table.lineages().keep(flow);
        }
    }

    /// Takes a flow out, which ends it; `None` when there is none.
    fn forget(&self, id: u64) -> Option<Arc<Flow>> {
        let flow = self.take(id)?;
        flow.end();
        Some(flow)
    }

    fn take(&self, id: u64) -> Option<Arc<Flow>> {
        let flow = self.open().remove(&id)?;
        if let Some(home) = &*flow.home.load() {
            self.0.counts.take(home.rules.tunnel);
        }
        Some(flow)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Flow>>> {
        lock(&self.0.open)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens of flows: of one process, none twice; of the next one, others.
fn next_token() -> u64 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(random_bytes().map_or(1, u64::from_ne_bytes)));
    next.fetch_add(1, Ordering::Relaxed).max(1)
}

/// How long a peer that does not read its control stream is waited for.
const SAY_LIMIT: Duration = Duration::from_secs(1);
