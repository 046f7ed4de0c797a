//! Declares the tunnels of this process on a fresh session.

use std::time::Duration;

use super::StartError;
use super::connect::Established;
use crate::session::Event;
use crate::tunnel::{Bind, Direction, Priority, Protocol, ProxyProtocol, Span, Target, TunnelSpec};
use crate::wire::{self, Code, Declare, Declared, FlowClose, VERSION};

/// The first number of the tunnels of this process; a row of ports has one for each. [SES-30]
pub(super) const TUNNEL: u32 = 1;

/// What a tunnel's number stands for here.
pub(super) fn pair(spec: &TunnelSpec, number: u32) -> Option<(Bind, Target)> {
    spec.pairs().nth(number.checked_sub(TUNNEL)? as usize)
}

/// Declares every port of the tunnel and waits for the answers: where the router listens, for reverse tunnels.
/// [SES-30] [SES-31]
///
/// `binds` is where the router is asked to listen: what the tunnel says, or what it came to the last time.
pub(super) async fn declare(
    tunnel: &TunnelSpec,
    binds: &Span<Bind>,
    limit: Duration,
    established: &mut Established,
) -> Result<Vec<Bind>, StartError> {
    let addr = established.session.connection().remote_addr();
    let failed = |reason: String| StartError::Handshake { addr, reason };
    let answers = async {
        // All of them before the first answer: a row must not take a round trip for each port.
        for (index, (bind, source)) in binds.each().zip(tunnel.source.each()).enumerate() {
            let message = Event::Declare(message(tunnel, index, &bind, &source));
            let said = established.session.say(message).await;
            said.map_err(|error| failed(error.to_string()))?;
        }
        let mut bound = Vec::with_capacity(binds.count());
        while bound.len() < binds.count() {
            match established.events.recv().await {
                Some(Event::Declared(declared)) => {
                    // A router that says more than it was asked for keeps it to itself. [RSM-1]
                    let resume = declared.resume_ms.min(resume_ms(tunnel));
                    established.session.outlive(Duration::from_millis(resume.into()));
                    bound.push(judge(tunnel, bound.len(), declared)?);
                }
                // The first ports of a row have visitors while the last ones are not published yet.
                Some(event) if established.early.len() < EARLY_MOST => {
                    established.early.push(event)
                }
                Some(Event::FlowOpen(open)) => {
                    let code = Code::Limit.number() as u32;
                    let close = FlowClose { flow: open.flow, code, ..FlowClose::default() };
                    let said = established.session.say(Event::FlowClose(close)).await;
                    said.map_err(|error| failed(error.to_string()))?;
                }
                Some(event) => tracing::debug!(?event, "one message too many of the router"),
                None => return Err(failed(established.session.closed().await.reason)),
            }
        }
        Ok(bound)
    };
    tokio::time::timeout(limit, answers).await.unwrap_or_else(|_| {
        Err(failed(format!("no answer to the tunnel's declaration within {limit:?}")))
    })
}

fn message(tunnel: &TunnelSpec, index: usize, bind: &Bind, source: &Target) -> Declare {
    let options = &tunnel.options;
    let is_reverse = tunnel.direction == Direction::Reverse;
    Declare {
        version: VERSION,
        requires: Vec::new(),
        tunnel: TUNNEL + index as u32,
        name: tunnel.name.to_string(),
        direction: match tunnel.direction {
            Direction::Forward => wire::Direction::Forward,
            Direction::Reverse => wire::Direction::Reverse,
        }
        .into(),
        protocol: match tunnel.protocol {
            Protocol::Tcp => wire::Protocol::Tcp,
            Protocol::Udp => wire::Protocol::Udp,
        }
        .into(),
        bind: bind.to_string(),
        // What a reverse tunnel leads to is nobody's business but this process's.
        sources: if is_reverse { Vec::new() } else { vec![source.to_string()] },
        group: options.group.as_ref().map(ToString::to_string).unwrap_or_default(),
        proxy_protocol: match options.proxy_protocol {
            ProxyProtocol::Off => wire::ProxyProtocol::Off,
            ProxyProtocol::V1 => wire::ProxyProtocol::V1,
            ProxyProtocol::V2 => wire::ProxyProtocol::V2,
        }
        .into(),
        flow_idle_ms: options.flow_idle.map_or(0, |idle| idle.as_millis() as u64),
        max_flows: u32::try_from(options.max_flows).unwrap_or(u32::MAX),
        oversize: match options.oversize {
            crate::tunnel::Oversize::Fragment => wire::Oversize::Fragment,
            crate::tunnel::Oversize::Stream => wire::Oversize::Stream,
            crate::tunnel::Oversize::Drop => wire::Oversize::Drop,
        }
        .into(),
        trusted_proxies: options.trusted_proxies.iter().map(ToString::to_string).collect(),
        priority: match options.priority {
            Priority::Normal => wire::Priority::Normal,
            Priority::Interactive => wire::Priority::Interactive,
            Priority::Bulk => wire::Priority::Bulk,
        }
        .into(),
        resume_ms: resume_ms(tunnel),
    }
}

/// How long connections and flows outlive the connection that carries them, in the form of the wire; 0: they do not.
fn resume_ms(tunnel: &TunnelSpec) -> u32 {
    tunnel.options.resume.map_or(0, |resume| u32::try_from(resume.as_millis()).unwrap_or(u32::MAX))
}

/// Where users of the port connect, or why there will be none.
fn judge(tunnel: &TunnelSpec, index: usize, declared: Declared) -> Result<Bind, StartError> {
    let pair = tunnel.pairs().nth(index).filter(|_| declared.tunnel == TUNNEL + index as u32);
    let Some((bind, source)) = pair else {
        let reason = "the router answered a declaration that was not made".to_owned();
        return Err(StartError::Unsupported { reason });
    };
    let end = match tunnel.direction {
        Direction::Forward => source.to_string(),
        Direction::Reverse => bind.to_string(),
    };
    let reason = declared.message;
    match Code::from_number(declared.code.into()) {
        Code::Done if tunnel.direction == Direction::Forward => Ok(bind),
        Code::Done => declared.bind.parse().map_err(|_| StartError::Unsupported {
            reason: format!("the router listens on {:?}, which is no address", declared.bind),
        }),
        Code::Denied => Err(StartError::Denied { end, reason }),
        Code::Replaced => Err(StartError::Replaced { by: reason }),
        Code::Taken | Code::Unavailable | Code::Limit => {
            Err(StartError::Unpublished { end, reason })
        }
        _ => Err(StartError::Unsupported { reason }),
    }
}

/// Messages that are kept until the tunnel is declared: as many flows as may be about to open.
const EARLY_MOST: usize = 1_024;
