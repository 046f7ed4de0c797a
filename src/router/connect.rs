//! Forward TCP: a stream of a client becomes a connection to the target.

use super::serve::{Client, shortened};
use crate::ends::{self, Candidate, Transport};
use crate::policy::{Decision, Denial, OwnSockets, Permissions};
use crate::relay::{Copying, EndedBy, Entry, Faces, Transferred, pipe};
use crate::session::{Incoming, Seat};
use crate::tunnel::{Protocol, ProxyProtocol, Target};
use crate::wire::{Code, StreamHeader};

/// A stream that is connected with the target's socket.
pub(super) struct Connected {
    copying: Copying,
    target: Target,
    entry: Entry,
    _seat: Seat,
}

impl Connected {
    /// To the last byte.
    pub(super) async fn copied(&mut self, client: &Client) {
        let Transferred { ended_by, halted, .. } = (&mut self.copying).await;
        if let Some(halted) = halted {
            client.shared.leavings.keep(halted, &self.entry, format!("to {}", self.target));
        } else if ended_by != EndedBy::Done {
            tracing::debug!(client = %client.name, target = %self.target, %ended_by, "connection ended");
        }
    }
}

/// Decides, dials, decides again on the address, connects exactly that. `None` when the peer was told why not, or is
/// gone. [STR-12]
pub(super) async fn connect(client: &Client, incoming: Incoming) -> Option<Connected> {
    let shared = &client.shared;
    let (target, preface) = match wanted(client, &incoming.header) {
        Ok(wanted) => wanted,
        Err(reason) => {
            refuse(client, incoming, "?", Code::Protocol, &reason).await;
            return None;
        }
    };
    if shared.table.active() >= shared.settings.max_connections {
        let reason =
            "the router serves as many connections as it may: [performance] max_connections";
        refuse(client, incoming, &target.to_string(), Code::Limit, reason).await;
        return None;
    }
    let permissions = client.seat.permissions();
    let judge = |candidate: Candidate<'_>| decide(&permissions, &target, candidate, &shared.own);
    let entry = shared.table.enter(
        Protocol::Tcp,
        Faces::Target,
        client.name.to_string(),
        &shared.connections,
    );
    let dialled = tokio::select! {
        dialled = ends::dial(&target, judge, &shared.settings.dial) => dialled,
        () = entry.stop.cancelled() => {
            if entry.is_halted() {
                drop(entry);
                // The client hears nothing, and asks the next process. [UPG-3]
                std::future::pending::<()>().await;
                return None;
            }
            incoming.refuse(Code::Killed, "ended by an operator").await;
            return None;
        }
        // Nobody is left to be told.
        () = client.session.over() => return None,
    };
    let mut socket = match dialled {
        Ok(socket) => socket,
        Err(error) => {
            let (target, reason) = (target.to_string(), error.to_string());
            refuse(client, incoming, &target, error.code(), &reason).await;
            return None;
        }
    };
    if let Err(error) = socket.write_first(&preface).await {
        let (target, reason) = (target.to_string(), error.to_string());
        refuse(client, incoming, &target, Code::Reset, &reason).await;
        return None;
    }
    let (sender, receiver, _seat) = incoming.admit().await.ok()?;
    let settings = shared.settings.relay;
    let copying = pipe(socket, sender, receiver, settings, &entry);
    Some(Connected { copying, target, entry, _seat })
}

/// Whether a client that asked for `target` may have what that turned out to be.
pub(super) fn decide(
    permissions: &Permissions,
    target: &Target,
    candidate: Candidate<'_>,
    own: &OwnSockets,
) -> Decision {
    match (candidate, target.host_port()) {
        (Candidate::Addr(addr), Some(target)) => permissions.decide(target, addr, own),
        (Candidate::Unix(path), None) => permissions.decide_unix(path, own),
        // A name does not turn into a path, nor a path into an address.
        _ => Decision::Denied(Denial::NotListed),
    }
}

/// What a stream wants dialled, and what goes in front of its first byte. [RVS-9]
fn wanted(client: &Client, header: &StreamHeader) -> Result<(Target, Vec<u8>), String> {
    let tunnels = client.tunnels();
    let found = tunnels.get(&header.tunnel).filter(|tunnel| tunnel.protocol == Protocol::Tcp);
    let tunnel = found.and_then(|tunnel| Some((tunnel, tunnel.dials()?)));
    let (tunnel, source) =
        tunnel.ok_or_else(|| format!("tunnel {} is not declared", header.tunnel))?;
    let target = match header.target.as_str() {
        "" => source.clone(),
        target => {
            target.parse().map_err(|error: crate::tunnel::ParseAddrError| error.to_string())?
        }
    };
    let preface = match tunnel.proxy_protocol {
        ProxyProtocol::Off => Vec::new(),
        version => {
            let (visitor, visited) = (header.visitor.parse().ok(), header.visited.parse().ok());
            ends::header(version, Transport::Stream, visitor, visited)
        }
    };
    Ok((target, preface))
}

async fn refuse(client: &Client, incoming: Incoming, target: &str, code: Code, reason: &str) {
    if client.shared.table.refuse(target, Some(client.name.as_str()), reason)
        && let Some(suppressed) = client.seat.log.line()
    {
        tracing::warn!(client = %client.name, target, code = code.name(), reason, suppressed, "connection refused");
    }
    incoming.refuse(code, &shortened(reason)).await;
}
