//! Serves one client: declarations, streams and flows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::admit::{Admitted, most_of_one_key};
use super::connect::{Connected, connect};
use super::declare::{Declaration, Role};
use super::sessions::Seat;
use super::{Shared, flows};
use crate::relay::{Flows, Side, echo, echo_after};
use crate::session::{Event, Incoming, Knock, Session};
use crate::task::{OnPanic, Tasks};
use crate::tunnel::{Name, Protocol, Target};
use crate::wire::{Code, StreamClass};

/// A client and the tunnels that it has declared.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Tasks,
    pub(super) session: Session,
    pub(super) flows: Flows,
    pub(super) seat: Seat,
    pub(super) name: Name,
    pub(super) instance: Uuid,
    tunnels: RwLock<HashMap<u32, Declaration>>,
    /// Places for probes that are answered later.
    later: Semaphore,
}

/// Serves until the session ends.
pub(super) async fn serve(shared: Arc<Shared>, tasks: Tasks, admitted: Admitted) {
    let Admitted { session, mut events, seat, name, instance } = admitted;
    let flows = Flows::start(&session, Side::Router, &shared.table, &tasks, shared.scope());
    let (tunnels, later) = (RwLock::default(), Semaphore::new(MOST_LATER));
    let tasks_of = tasks.clone();
    let client =
        Client { shared, tasks: tasks_of, session, flows, seat, name, instance, tunnels, later };
    let client = Arc::new(client);
    // A session that nobody serves any more would look alive to the client for ever.
    let session = client.session.clone();
    let _closing =
        OnPanic::new(move || session.close(Code::Internal, "the router has failed here"));
    client.session.resume_streams(&tasks);
    loop {
        tokio::select! {
            knock = client.session.accept() => match knock {
                Ok(knock) => tasks.spawn("stream", stream(Arc::clone(&client), knock)),
                Err(_) => break,
            },
            // What comes now is the next process's. [UPG-3]
            () = client.shared.leaving.cancelled() => std::future::pending().await,
            Some(event) = events.recv() => {
                if client.hear(event).await.is_none() {
                    break;
                }
            }
        }
    }
    let ended = client.session.closed().await;
    if client.seat.leave() > most_of_one_key(client.shared.settings.max_clients) {
        client.session.close(Code::Limit, "the key has as many sessions as one may");
    }
    tracing::info!(client = %client.name, reason = ended.reason, "session ended");
    // As long as the client may come back for what is open it is found by its seat, and visitors wait for it. [RSM-3]
    client.retain(|_| client.session.outlives());
    let successor = async {
        if !client.session.ends_here().await {
            // It is about to declare them again: a port that stays has no gap.
            tokio::time::sleep(client.shared.settings.session.message_timeout).await;
        }
    };
    client.shared.connections.run_until_cancelled(successor).await;
    // What it published is published no longer, whoever still holds on to the client.
    client.retain(|_| false);
}

impl Client {
    /// `None` when the session is over.
    async fn hear(self: &Arc<Self>, event: Event) -> Option<()> {
        match event {
            Event::Declare(declare) => {
                let declared = self.declare(declare).await;
                return self.session.say(Event::Declared(declared)).await.ok();
            }
            // [SES-32]
            Event::Withdraw(withdraw) => {
                self.change(|tunnels| drop(tunnels.remove(&withdraw.tunnel)));
            }
            Event::GoAway(leave) => {
                tracing::debug!(client = %self.name, reason = leave.message, "the client is about to leave");
                // New visitors are for others, or turned away; who is here is served to the end. [SES-33]
                self.retain(|declared| {
                    declared.dials().is_some() || declared.protocol == Protocol::Udp
                });
            }
            Event::FlowOpen(open) => flows::open(self, open),
            Event::FlowClose(close) => flows::closed(self, &close),
            Event::Declared(_) | Event::Replaced(_) => {
                self.session.close(Code::Protocol, "only a router says that");
                return None;
            }
        }
        Some(())
    }

    /// Whether one more tunnel of this number may be declared. [SES-31]
    pub(super) fn has_room(&self, tunnel: u32) -> Result<(), (Code, String)> {
        let tunnels = self.tunnels();
        if tunnels.len() >= MOST_TUNNELS {
            return Err((Code::Limit, format!("a session has at most {MOST_TUNNELS} tunnels")));
        }
        if tunnels.contains_key(&tunnel) {
            return Err((Code::Protocol, format!("tunnel {tunnel} is declared already")));
        }
        Ok(())
    }

    pub(super) fn keep(&self, tunnel: u32, declaration: Declaration) {
        self.change(|tunnels| drop(tunnels.insert(tunnel, declaration)));
    }

    fn retain(&self, stays: impl Fn(&Declaration) -> bool) {
        let mut tunnels = self.tunnels.write().unwrap_or_else(PoisonError::into_inner);
        tunnels.retain(|_, declared| stays(declared));
    }

    /// What is declared decides about the session's share of its path: the most urgent tunnel does. [SES-35]
    fn change(&self, change: impl FnOnce(&mut HashMap<u32, Declaration>)) {
        let mut tunnels = self.tunnels.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut tunnels);
        let most_urgent = tunnels.values().map(|declared| declared.priority).min();
        self.session.connection().set_priority(most_urgent.unwrap_or_default());
    }

    pub(super) fn tunnels(&self) -> RwLockReadGuard<'_, HashMap<u32, Declaration>> {
        self.tunnels.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Declaration {
    /// What is dialled for a forward tunnel.
    pub(super) fn dials(&self) -> Option<&Target> {
        match &self.role {
            Role::Dials(target) => Some(target),
            Role::Listens(_) => None,
        }
    }
}

/// Serves a stream from its header to its last byte.
fn stream(client: Arc<Client>, knock: Knock) -> impl Future<Output = ()> {
    // What comes before the copying is boxed, and so gone when it is over: a task keeps the size of its largest step as
    // long as it lives, and a connection that is idle should cost little.
    let connecting = Box::pin(answer(Arc::clone(&client), knock));
    async move {
        if let Some(mut connected) = connecting.await {
            connected.copied(&client).await;
        }
    }
}

/// Does what a stream is for; `Some` when bytes are to be copied as long as there are any.
async fn answer(client: Arc<Client>, knock: Knock) -> Option<Connected> {
    let limit = client.shared.settings.session.message_timeout;
    let incoming = match knock.header(limit).await {
        Ok(Some(incoming)) => incoming,
        Ok(None) => return None,
        Err(error) => {
            tracing::debug!(client = %client.name, %error, "stream dropped");
            return None;
        }
    };
    // Boxed: thousands may wait for their headers, and need not have room for what comes after.
    Box::pin(by_class(&client, incoming)).await
}

async fn by_class(client: &Arc<Client>, incoming: Incoming) -> Option<Connected> {
    match StreamClass::try_from(incoming.header.class) {
        Ok(StreamClass::Connect) => return connect(client, incoming).await,
        Ok(StreamClass::Probe) => probe(client, incoming).await,
        Ok(StreamClass::Flow) => client.flows.spilled(incoming).await,
        Ok(StreamClass::Incoming | StreamClass::Resume) | Err(_) => {
            let unknown = "this router does not know streams of this class";
            incoming.refuse(Code::Unsupported, unknown).await;
        }
    }
    None
}

/// Sends a probe back, at once or after the silence that it asks for. [STR-11] [STR-14]
async fn probe(client: &Client, incoming: Incoming) {
    let delay = Duration::from_millis(incoming.header.delay_ms.into());
    if delay.is_zero() {
        if let Ok((sender, receiver, _seat)) = incoming.admit().await {
            echo(sender, receiver, PROBE_MOST).await;
        }
        return;
    }
    if delay > LONGEST_DELAY {
        return incoming.refuse(Code::Limit, "a probe waits for 25 s at most").await;
    }
    let Ok(place) = client.later.try_acquire() else {
        return incoming.refuse(Code::Limit, "as many probes wait as may").await;
    };
    if let Ok((sender, receiver, _seat)) = incoming.admit().await {
        echo_after(delay, (sender, receiver), PROBE_MOST, place).await;
    }
}

/// What is repeated of a peer's own words, to the log or to the peer: a message has its limit.
pub(super) fn shortened(message: &str) -> String {
    message.chars().take(REASON_MOST).collect()
}

/// Characters of a reason, a name or a bind.
const REASON_MOST: usize = 200;
/// Bytes that a probe may carry.
const PROBE_MOST: usize = 64 << 10;
/// Below the idle limit, so that the answer finds a connection.
const LONGEST_DELAY: Duration = Duration::from_secs(25);
/// Probes of one session that wait: half a megabyte at most.
const MOST_LATER: usize = 8;
/// Tunnels of one session.
const MOST_TUNNELS: usize = 1_024;

#[cfg(test)]
mod tests {
    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// A peer may have 16,384 of them.
    #[test]
    fn a_stream_that_waits_for_its_header_takes_less_than_a_kibibyte() {
        let size = size(super::answer);
        assert!(size < 1_024, "{size} bytes");
    }
}
