//! Reverse tunnels: the router says which tunnel a visitor or a flow is for, and this process dials what its own
//! configuration says, nothing else. [RVS-3]

use std::sync::Arc;

use super::Shared;
use super::declare::pair;
use super::link::Line;
use crate::ends::{self, DialError, Stream, Transport, UdpPort};
use crate::policy::Decision;
use crate::relay::{Copying, EndedBy, Entry, Faces, FlowRules, Flows, Opening, pipe};
use crate::session::{Incoming, Knock, Seat};
use crate::task::Tasks;
use crate::tunnel::{Direction, Protocol, ProxyProtocol, Target};
use crate::wire::{Code, FlowOpen, StreamClass, StreamHeader};

/// Serves the streams that the router opens, until the session ends. A tunnel that has no use for any allows none. [RVS-7]
pub(super) async fn streams(shared: Arc<Shared>, tasks: Tasks, line: Line) {
    let spec = &shared.settings.tunnel;
    if (spec.direction, spec.protocol) != (Direction::Forward, Protocol::Tcp) {
        line.session.welcome_streams();
    }
    while let Ok(knock) = line.session.accept().await {
        tasks.spawn("stream", stream(Arc::clone(&shared), line.flows.clone(), knock));
    }
}

/// Serves a stream from its header to its last byte.
fn stream(shared: Arc<Shared>, flows: Flows, knock: Knock) -> impl Future<Output = ()> {
    // Boxed, and so gone when it is over: a task keeps the size of its largest step.
    let connecting = Box::pin(answer(shared, flows, knock));
    async move {
        let Some(mut connected) = connecting.await else { return };
        let ended_by = (&mut connected.copying).await.ended_by;
        if ended_by != EndedBy::Done {
            tracing::debug!(target = connected.target, %ended_by, "connection ended");
        }
    }
}

/// A stream that is connected with the source's socket.
struct Connected {
    copying: Copying,
    target: String,
    _entry: Entry,
    _seat: Seat,
}

/// Does what a stream is for; `Some` when bytes are to be copied as long as there are any.
async fn answer(shared: Arc<Shared>, flows: Flows, knock: Knock) -> Option<Connected> {
    let incoming = match knock.header(shared.settings.access.session.message_timeout).await {
        Ok(Some(incoming)) => incoming,
        Ok(None) => return None,
        Err(error) => {
            tracing::debug!(%error, "stream dropped");
            return None;
        }
    };
    // Boxed: thousands may wait for their headers, and need not have room for what comes after.
    Box::pin(by_class(&shared, &flows, incoming)).await
}

async fn by_class(shared: &Arc<Shared>, flows: &Flows, incoming: Incoming) -> Option<Connected> {
    match StreamClass::try_from(incoming.header.class) {
        Ok(StreamClass::Incoming) => return visitor(shared, incoming).await,
        Ok(StreamClass::Flow) => flows.spilled(incoming).await,
        _ => {
            let message = "a client does not know streams of this class";
            incoming.refuse(Code::Unsupported, message).await;
        }
    }
    None
}

/// What a number of the router's stands for: a reverse tunnel of this process, or nothing at all. [RVS-3]
fn own_source(shared: &Shared, protocol: Protocol, number: u32) -> Result<Target, String> {
    let spec = &shared.settings.tunnel;
    let declared = (spec.direction, spec.protocol) == (Direction::Reverse, protocol);
    let found = pair(spec, number).filter(|_| declared);
    found.map(|(_, source)| source).ok_or_else(|| {
        let what =
            format!("the router asks for {protocol} tunnel {number}, which is not declared here");
        if note(shared, "?", &what) {
            tracing::warn!("{what}");
        }
        what
    })
}

/// Connects a visitor with the source; `None` when the router was told why not, or is gone.
async fn visitor(shared: &Shared, incoming: Incoming) -> Option<Connected> {
    let (socket, target, entry) = match dialled(shared, &incoming.header).await {
        Ok(dialled) => dialled,
        Err((code, reason)) => {
            incoming.refuse(code, &reason).await;
            return None;
        }
    };
    let (sender, receiver, _seat) = incoming.admit().await.ok()?;
    let settings = shared.settings.relay;
    let copying = pipe(socket, sender, receiver, settings, &entry);
    Some(Connected { copying, target, _entry: entry, _seat })
}

/// A socket of the source, and what the source is called. An error is what the router is told.
async fn dialled(
    shared: &Shared,
    header: &StreamHeader,
) -> Result<(Stream, String, Entry), (Code, String)> {
    let source = own_source(shared, Protocol::Tcp, header.tunnel)
        .map_err(|reason| (Code::Denied, reason))?;
    // An address of the router's choice is none of ours, and a sign of what it is up to.
    if !header.target.is_empty() {
        return Err((Code::Denied, "a client dials no address of a router".to_owned()));
    }
    let target = source.to_string();
    if shared.table.active() >= shared.settings.max_connections {
        let reason = "too many connections: [performance] max_connections is reached";
        note(shared, &target, reason);
        return Err((Code::Limit, reason.to_owned()));
    }
    if shared.accepting.is_cancelled() {
        return Err((Code::ShuttingDown, "the tunnel is about to end".to_owned()));
    }
    let entry = shared.table.enter(
        Protocol::Tcp,
        Faces::Target,
        header.visitor.clone(),
        &shared.connections,
    );
    let dialled = tokio::select! {
        dialled = ends::dial(&source, |_| Decision::Allowed, &shared.settings.dial) => dialled,
        () = entry.stop.cancelled() => return Err((Code::Killed, "ended by an operator".to_owned())),
    };
    let mut socket = dialled.map_err(|error| {
        // The router is told the code and not why, which is nobody's business but this side's. [STR-13]
        let reason = error.to_string();
        shared.last_outcome.not_served(header.tunnel, &target, &reason);
        if note(shared, &target, &reason) {
            tracing::warn!(target, reason, "visitor refused");
        }
        (error.code(), "the service does not answer".to_owned())
    })?;
    shared.last_outcome.served();
    let preface = preface(shared, Transport::Stream, &header.visitor, &header.visited);
    let first = socket.write_first(&preface).await;
    first.map_err(|error| (Code::Reset, error.to_string()))?;
    Ok((socket, target, entry))
}

/// A flow of a visitor: a socket of its own towards the source. A name is looked up in a task, so that others need not
/// wait for it.
pub(super) fn flow(shared: &Arc<Shared>, tasks: &Tasks, flows: &Flows, open: FlowOpen) {
    let Some(opening) = flows.announced(open) else {
        return tracing::debug!("the router numbers its flows wrongly");
    };
    let source = match own_source(shared, Protocol::Udp, opening.open.tunnel) {
        Ok(source) => source,
        Err(reason) => return opening.refuse(Code::Denied, &reason),
    };
    let (shared, tunnel) = (Arc::clone(shared), opening.open.tunnel);
    if let Some(known) = opening.known() {
        let rules = FlowRules::new(tunnel, &shared.settings.tunnel.options);
        return opening.carry_on(rules, known);
    }
    let is_full = shared.table.active() >= shared.settings.max_connections
        || opening.exceeds(shared.settings.tunnel.options.max_flows);
    if is_full || shared.accepting.is_cancelled() {
        return opening.refuse(Code::Limit, "as many connections as there may be");
    }
    tasks.spawn_until_cancelled("open flow", async move {
        match connected(&shared, &source).await {
            Ok(port) => {
                shared.last_outcome.served();
                serve(&shared, opening, port, tunnel);
            }
            Err(error) => {
                let (target, reason) = (source.to_string(), error.to_string());
                shared.last_outcome.not_served(tunnel, &target, &reason);
                if note(&shared, &target, &reason) {
                    tracing::warn!(target, reason, "flow refused");
                }
                opening.refuse(error.code(), "the service cannot be reached");
            }
        }
    });
}

async fn connected(shared: &Shared, source: &Target) -> Result<UdpPort, DialError> {
    ends::dial_udp(source, |_| Decision::Allowed, &shared.settings.dial).await
}

fn serve(shared: &Shared, opening: Opening, port: UdpPort, tunnel: u32) {
    let options = &shared.settings.tunnel.options;
    let open = &opening.open;
    let preface = preface(shared, Transport::Datagram, &open.visitor, &open.visited);
    let entry =
        shared.table.enter(Protocol::Udp, Faces::Target, open.visitor.clone(), &shared.connections);
    let preface = (!preface.is_empty()).then(|| preface.into());
    opening.serve(FlowRules::new(tunnel, options), (port, None), entry, preface);
}

/// What the source is told of a visitor before the first byte.
fn preface(shared: &Shared, transport: Transport, visitor: &str, visited: &str) -> Vec<u8> {
    match shared.settings.tunnel.options.proxy_protocol {
        ProxyProtocol::Off => Vec::new(),
        version => ends::header(version, transport, visitor.parse().ok(), visited.parse().ok()),
    }
}

fn note(shared: &Shared, target: &str, reason: &str) -> bool {
    shared.table.refuse(target, None, reason)
}

#[cfg(test)]
mod tests {
    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// A peer may have 16,384 of them.
    #[test]
    fn a_stream_that_waits_for_its_header_takes_less_than_a_kibibyte() {
        let size = size(super::answer);
        assert!(size < 1_024, "{size} bytes");
    }
}
