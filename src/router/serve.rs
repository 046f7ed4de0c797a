//! Serves one client: declarations and streams.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::{Arc, RwLock};

use super::Shared;
use super::admit::Admitted;
use super::sessions::Seat;
use crate::ends::{DialError, dial};
use crate::policy::Decision;
use crate::relay::{EndedBy, echo, pipe};
use crate::session::{Event, Incoming, Knock, Session};
use crate::task::Tasks;
use crate::tunnel::{HostPort, Name};
use crate::wire::{
    Code, Declare, Declared, Direction, Protocol, StreamClass, StreamHeader, check_version,
};

/// A client and the tunnels that it has declared.
struct Client {
    shared: Arc<Shared>,
    session: Session,
    seat: Seat,
    name: Name,
    tunnels: RwLock<HashMap<u32, HostPort>>,
}

/// Serves until the session ends.
pub(super) async fn serve(shared: Arc<Shared>, tasks: Tasks, admitted: Admitted) {
    let Admitted { session, mut events, seat, name } = admitted;
    let client = Arc::new(Client { shared, session, seat, name, tunnels: RwLock::default() });
    loop {
        tokio::select! {
            knock = client.session.accept() => match knock {
                Ok(knock) => tasks.spawn("stream", stream(Arc::clone(&client), knock)),
                Err(_) => break,
            },
            Some(event) = events.recv() => {
                if client.hear(event).await.is_none() {
                    break;
                }
            }
        }
    }
    let ended = client.session.closed().await;
    tracing::info!(client = %client.name, reason = ended.reason, "session ended");
}

impl Client {
    /// `None` when the session is over.
    async fn hear(&self, event: Event) -> Option<()> {
        match event {
            Event::Declare(declare) => {
                let declared = self.declare(declare);
                self.session.say(Event::Declared(declared)).await.ok()
            }
            // [SES-32]
            Event::Withdraw(withdraw) => {
                self.tunnels
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&withdraw.tunnel);
                Some(())
            }
            Event::GoAway(leave) => {
                tracing::debug!(client = %self.name, reason = leave.message, "the client is about to leave");
                Some(())
            }
            Event::Declared(_) | Event::Replaced(_) | Event::FlowOpen(_) | Event::FlowClose(_) => {
                self.session.close(Code::Protocol, "only a router answers declarations");
                None
            }
        }
    }

    /// Judges what can be judged before anybody connects. [SES-30] [SES-31]
    fn declare(&self, declare: Declare) -> Declared {
        let tunnel = declare.tunnel;
        let name = shortened(&declare.name);
        let refuse = |code: Code, message: String| {
            if let Some(suppressed) = self.seat.log.line() {
                tracing::warn!(client = %self.name, tunnel = name, reason = message, suppressed, "tunnel refused");
            }
            Declared {
                tunnel,
                code: code.number() as u32,
                message: shortened(&message),
                ..Declared::default()
            }
        };
        if let Err(error) = check_version(declare.version, &declare.requires) {
            return refuse(Code::Unsupported, error.to_string());
        }
        // Compared as numbers: a kind that this version does not know must not pass for a known one.
        let known = declare.direction == Direction::Forward as i32
            && declare.protocol == Protocol::Tcp as i32;
        let [source] = declare.sources.as_slice() else {
            return refuse(
                Code::Unsupported,
                "a tunnel has exactly one source in this version".to_owned(),
            );
        };
        if !known || tunnel == 0 {
            return refuse(
                Code::Unsupported,
                "this router serves forward TCP tunnels only".to_owned(),
            );
        }
        let source = match source.parse::<HostPort>() {
            Ok(source) => source,
            Err(error) => return refuse(Code::Denied, error.to_string()),
        };
        if let Decision::Denied(denial) = self.seat.permissions().may_ever(&source) {
            return refuse(Code::Denied, denial.to_string());
        }
        let mut tunnels = self.tunnels.write().unwrap_or_else(PoisonError::into_inner);
        if tunnels.len() >= MOST_TUNNELS {
            return refuse(Code::Limit, format!("a session has at most {MOST_TUNNELS} tunnels"));
        }
        if let Some(suppressed) = self.seat.log.line() {
            tracing::info!(client = %self.name, tunnel = name, %source, suppressed, "tunnel declared");
        }
        tunnels.insert(tunnel, source);
        Declared { tunnel, bind: shortened(&declare.bind), ..Declared::default() }
    }

    /// What a stream wants dialled.
    fn target(&self, header: &StreamHeader) -> Result<HostPort, String> {
        let tunnels = self.tunnels.read().unwrap_or_else(PoisonError::into_inner);
        let source = tunnels
            .get(&header.tunnel)
            .ok_or_else(|| format!("tunnel {} is not declared", header.tunnel))?;
        match header.target.as_str() {
            "" => Ok(source.clone()),
            target => {
                target.parse().map_err(|error: crate::tunnel::ParseAddrError| error.to_string())
            }
        }
    }
}

async fn stream(client: Arc<Client>, knock: Knock) {
    let limit = client.shared.settings.session.message_timeout;
    let incoming = match knock.header(limit).await {
        Ok(incoming) => incoming,
        Err(error) => return tracing::debug!(client = %client.name, %error, "stream dropped"),
    };
    match StreamClass::try_from(incoming.header.class) {
        Ok(StreamClass::Connect) => connect(&client, incoming).await,
        Ok(StreamClass::Probe) => {
            if let Ok((sender, receiver, _seat)) = incoming.admit().await {
                echo(sender, receiver, PROBE_MOST).await;
            }
        }
        Ok(StreamClass::Incoming | StreamClass::Flow) | Err(_) => {
            incoming
                .refuse(Code::Unsupported, "this router does not know streams of this class")
                .await;
        }
    }
}

/// Decides, dials, decides again on the address, connects exactly that, copies. [STR-12]
async fn connect(client: &Client, incoming: Incoming) {
    let shared = &client.shared;
    let target = match client.target(&incoming.header) {
        Ok(target) => target,
        Err(reason) => return refuse(client, incoming, "?", Code::Protocol, &reason).await,
    };
    if shared.table.active() >= shared.settings.max_connections {
        let reason =
            "the router serves as many connections as it may: [performance] max_connections";
        return refuse(client, incoming, &target.to_string(), Code::Limit, reason).await;
    }
    let permissions = client.seat.permissions();
    let decide = |resolved| permissions.decide(&target, resolved, &shared.own);
    let entry = shared.table.enter_named(client.name.to_string(), &shared.connections);
    let dialled = tokio::select! {
        dialled = dial(&target, decide, &shared.settings.dial) => dialled,
        () = entry.stop.cancelled() => return incoming.refuse(Code::Killed, "ended by an operator").await,
        // Nobody is left to be told.
        _ = client.session.closed() => return,
    };
    let socket = match dialled {
        Ok(socket) => socket,
        Err(error) => {
            return refuse(client, incoming, &target.to_string(), code(&error), &error.to_string())
                .await;
        }
    };
    let Ok((sender, receiver, _seat)) = incoming.admit().await else { return };
    let moved =
        pipe(socket, sender, receiver, &shared.settings.relay, &entry.counters, &entry.stop).await;
    if moved.ended_by != EndedBy::Done {
        tracing::debug!(client = %client.name, %target, ended_by = %moved.ended_by, "connection ended");
    }
}

async fn refuse(client: &Client, incoming: Incoming, target: &str, code: Code, reason: &str) {
    if client.shared.table.refuse(target, Some(client.name.as_str()), reason)
        && let Some(suppressed) = client.seat.log.line()
    {
        tracing::warn!(client = %client.name, target, code = code.name(), reason, suppressed, "connection refused");
    }
    incoming.refuse(code, &shortened(reason)).await;
}

/// What the client is told of a dial that failed. [STR-13]
fn code(error: &DialError) -> Code {
    match error {
        DialError::NotFound { .. } | DialError::ResolveTimeout { .. } => Code::NotFound,
        DialError::Denied { .. } => Code::Denied,
        DialError::Refused { .. } => Code::ConnectionRefused,
        DialError::Unreachable { .. } => Code::Unreachable,
        DialError::TimedOut { .. } => Code::TimedOut,
        DialError::Other { source, .. } if source.raw_os_error().is_some_and(is_exhaustion) => {
            Code::Exhausted
        }
        DialError::Other { .. } => Code::Unreachable,
    }
}

/// EMFILE and ENFILE: the same numbers on every Unix.
fn is_exhaustion(error: i32) -> bool {
    cfg!(unix) && matches!(error, 23 | 24)
}

/// What is repeated of a peer's own words, to the log or to the peer: a message has its limit.
fn shortened(message: &str) -> String {
    message.chars().take(REASON_MOST).collect()
}

/// Characters of a reason, a name or a bind.
const REASON_MOST: usize = 200;
/// Bytes that a probe may carry.
const PROBE_MOST: usize = 64 << 10;
/// Tunnels of one session.
const MOST_TUNNELS: usize = 1_024;
