//! Declares the tunnels of this process on a fresh session.

use super::connect::Established;
use super::{Settings, StartError};
use crate::session::Event;
use crate::tunnel::{Bind, Direction, Protocol, ProxyProtocol, Target, TunnelSpec};
use crate::wire::{self, Code, Declare, Declared, VERSION};

/// The first number of the tunnels of this process; a row of ports has one for each. [SES-30]
pub(super) const TUNNEL: u32 = 1;

/// What a tunnel's number stands for here.
pub(super) fn pair(spec: &TunnelSpec, number: u32) -> Option<(Bind, Target)> {
    spec.pairs().nth(number.checked_sub(TUNNEL)? as usize)
}

/// Declares every port of the tunnel and waits for the answers: where the router listens, for reverse tunnels.
/// [SES-30] [SES-31]
pub(super) async fn declare(
    settings: &Settings,
    established: &mut Established,
) -> Result<Vec<Bind>, StartError> {
    let tunnel = &settings.tunnel;
    let addr = established.session.connection().remote_addr();
    let failed = |reason: String| StartError::Handshake { addr, reason };
    let count = tunnel.bind.count();
    let answers = async {
        // All of them before the first answer: a row must not take a round trip for each port.
        for (index, (bind, source)) in tunnel.pairs().enumerate() {
            let message = Event::Declare(message(tunnel, index, &bind, &source));
            let said = established.session.say(message).await;
            said.map_err(|error| failed(error.to_string()))?;
        }
        let mut binds = Vec::with_capacity(count);
        while binds.len() < count {
            match established.events.recv().await {
                Some(Event::Declared(declared)) => {
                    binds.push(judge(tunnel, binds.len(), declared)?);
                }
                Some(event) => tracing::debug!(?event, "unexpected message of the router"),
                None => return Err(failed(established.session.closed().await.reason)),
            }
        }
        Ok(binds)
    };
    let limit = settings.session.message_timeout;
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
    }
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
        Code::Taken | Code::Unavailable | Code::Limit => Err(StartError::Unpublished { end, reason }),
        _ => Err(StartError::Unsupported { reason }),
    }
}
