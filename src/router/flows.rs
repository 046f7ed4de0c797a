//! Forward UDP: a flow of a client becomes a socket of its own towards the target. [FLW-6]

use std::net::SocketAddr;
use std::sync::Arc;

use super::connect::decide;
use super::serve::{Client, shortened};
use crate::ends::{self, Candidate, Transport};
use crate::policy::Decision;
use crate::relay::{Faces, FlowRules, Known, Opening};
use crate::tunnel::{Host, Protocol, ProxyProtocol, Target};
use crate::wire::{Code, FlowClose, FlowOpen};

/// What a flow's message asks for.
struct Wanted {
    target: Target,
    rules: FlowRules,
    proxy_protocol: ProxyProtocol,
}

/// Serves a flow or says why not. Resolving takes a task, so that others need not wait for it.
pub(super) fn open(client: &Arc<Client>, message: FlowOpen) {
    let Some(opening) = client.flows.announced(message) else {
        return tracing::debug!(client = %client.name, "a flow's number is none that may come now");
    };
    let mut known = opening.known();
    let wanted = match wanted(client, &opening, known.is_some()) {
        Ok(wanted) => wanted,
        Err((code, reason)) => return refuse(client, opening, "?", code, &reason),
    };
    // A tunnel that was declared with another target since has flows that lead nowhere near it.
    known.take_if(|known| {
        !known.target().is_some_and(|addr| leads_to(&wanted.target, addr, known.name()))
    });
    if let Some(known) = known {
        return carry_on(client, opening, &wanted, known);
    }
    let client = Arc::clone(client);
    let tasks = client.tasks.clone();
    tasks.spawn_until_cancelled("open flow", async move { dial(&client, opening, wanted).await });
}

fn wanted(client: &Client, opening: &Opening, is_known: bool) -> Result<Wanted, (Code, String)> {
    let open = &opening.open;
    let settings = &client.shared.settings;
    // One that goes on is among them already.
    if !is_known && client.shared.table.active() >= settings.max_connections {
        let reason =
            "the router serves as many connections as it may: [performance] max_connections";
        return Err((Code::Limit, reason.to_owned()));
    }
    let tunnels = client.tunnels();
    let found = tunnels.get(&open.tunnel).filter(|tunnel| tunnel.protocol == Protocol::Udp);
    let tunnel = found.and_then(|tunnel| Some((tunnel, tunnel.dials()?)));
    let Some((tunnel, target)) = tunnel else {
        return Err((Code::Protocol, format!("UDP tunnel {} is not declared", open.tunnel)));
    };
    if opening.exceeds(tunnel.max_flows) {
        return Err((Code::Limit, "the tunnel has as many flows as it may".to_owned()));
    }
    let (rules, proxy_protocol) = (tunnel.rules, tunnel.proxy_protocol);
    Ok(Wanted { target: target.clone(), rules, proxy_protocol })
}

/// Whether a target is at this address, or was when its name was resolved, which was `name`.
fn leads_to(target: &Target, addr: SocketAddr, name: Option<&str>) -> bool {
    target.host_port().is_some_and(|target| {
        let is_there = match &target.host {
            Host::Addr(ip) => *ip == addr.ip().to_canonical(),
            Host::Name(current) => name == Some(current.as_str()),
        };
        is_there && target.port == addr.port()
    })
}

/// A flow goes on with the socket that it has, if its client may still reach that. [FLW-15] [STR-12]
fn carry_on(client: &Client, opening: Opening, wanted: &Wanted, known: Known) {
    let permissions = client.seat.permissions();
    let judge =
        |addr| decide(&permissions, &wanted.target, Candidate::Addr(addr), &client.shared.own);
    match known.target().map(judge) {
        Some(Decision::Allowed) => opening.carry_on(wanted.rules, known),
        Some(Decision::Denied(denial)) => {
            let target = wanted.target.to_string();
            refuse(client, opening, &target, Code::Denied, &denial.to_string());
        }
        None => refuse(client, opening, "?", Code::Internal, "the flow has no target any more"),
    }
}

/// Decides, resolves, decides again on the address, connects exactly that. [STR-12]
async fn dial(client: &Client, opening: Opening, wanted: Wanted) {
    let shared = &client.shared;
    let Wanted { target, rules, proxy_protocol } = wanted;
    let permissions = client.seat.permissions();
    let judge = |candidate: Candidate<'_>| decide(&permissions, &target, candidate, &shared.own);
    match ends::dial_udp(&target, judge, &shared.settings.dial).await {
        Ok(port) => {
            let entry = shared.table.enter(
                Protocol::Udp,
                Faces::Target,
                client.name.to_string(),
                &shared.connections,
            );
            let open = &opening.open;
            let preface = match proxy_protocol {
                ProxyProtocol::Off => None,
                version => {
                    let (visitor, visited) = (open.visitor.parse().ok(), open.visited.parse().ok());
                    Some(ends::header(version, Transport::Datagram, visitor, visited).into())
                }
            };
            let name = match target.host_port().map(|target| &target.host) {
                Some(Host::Name(name)) => Some(name.as_str().into()),
                _ => None,
            };
            opening.serve(rules, (port, name), entry, preface);
        }
        Err(error) => {
            let (target, reason) = (target.to_string(), error.to_string());
            refuse(client, opening, &target, error.code(), &reason);
        }
    }
}

/// The client says that a flow is over. Where a visitor's could not be served, the operator reads why.
pub(super) fn closed(client: &Client, close: &FlowClose) {
    let Some((tunnel, reason)) = client.flows.closed(close) else { return };
    let (target, shared) = (format!("tunnel {tunnel}"), &client.shared);
    if shared.table.refuse(&target, Some(client.name.as_str()), &reason)
        && let Some(suppressed) = client.seat.log.line()
    {
        tracing::warn!(client = %client.name, target, reason, suppressed, "visitor's flow refused");
    }
}

fn refuse(client: &Client, opening: Opening, target: &str, code: Code, reason: &str) {
    if client.shared.table.refuse(target, Some(client.name.as_str()), reason)
        && let Some(suppressed) = client.seat.log.line()
    {
        tracing::warn!(client = %client.name, target, code = code.name(), reason, suppressed, "flow refused");
    }
    opening.refuse(code, &shortened(reason));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [FLW-15]
    #[test]
    fn a_flow_goes_on_only_towards_what_its_tunnel_leads_to_now() {
        let addr = "10.0.0.7:53".parse().expect("an address");
        let leads = |target: &str, name| leads_to(&target.parse().expect("a target"), addr, name);
        let name = Some("dns.internal");
        assert!(leads("10.0.0.7:53", None) && leads("dns.internal:53", name));
        assert!(leads("10.0.0.7:53", name), "where it is all the same");
        assert!(!leads("10.0.0.8:53", None) && !leads("10.0.0.7:54", None));
        assert!(!leads("dns.internal:54", name) && !leads("other.internal:53", name));
        assert!(!leads("dns.internal:53", None), "nobody has looked this name up");
    }
}
