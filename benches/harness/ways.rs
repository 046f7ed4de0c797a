//! The ways to a target, each with the processes that make it.

use std::net::SocketAddr;

use super::processes::Pair;
use super::relay::Relay;
use crate::record::Way;

/// A way that works; its processes end when this is dropped.
pub(crate) struct Running {
    pub(crate) way: Way,
    /// Where users connect.
    pub(crate) addr: SocketAddr,
    /// Both processes of a relay or a tunnel; none without a tunnel.
    pub(crate) pids: Vec<u32>,
    _processes: Processes,
}

enum Processes {
    None,
    Relay { _relay: Relay },
    Pair { _pair: Pair },
}

impl Running {
    /// Returns when users may connect. `settings` are keys such as `performance.max_packet`, for router and tunnel.
    pub(crate) fn start(way: Way, target: SocketAddr, settings: &[(String, String)]) -> Self {
        let (addr, pids, processes) = match way {
            Way::NoTunnel => (target, Vec::new(), Processes::None),
            Way::TcpRelay | Way::TlsRelay => {
                let relay = Relay::start(target, way == Way::TlsRelay);
                (relay.addr, relay.pids().to_vec(), Processes::Relay { _relay: relay })
            }
            _ => {
                let pair = Pair::start_with(BINARY, target, &environment(way, settings));
                let tunnel = pair.tunnel_pid().expect("the tunnel runs");
                (pair.bind, vec![pair.router_pid(), tunnel], Processes::Pair { _pair: pair })
            }
        };
        Self { way, addr, pids, _processes: processes }
    }
}

/// The variables that carry settings into Conduit's processes.
pub(crate) fn environment(way: Way, settings: &[(String, String)]) -> Vec<(String, String)> {
    let own = match way {
        Way::ConduitThroughput => Some("throughput"),
        Way::ConduitLatency => Some("latency"),
        _ => None,
    };
    let own = own.map(|value| ("performance.optimize_for".to_owned(), value.to_owned()));
    let all = settings.iter().cloned().chain(own);
    all.map(|(key, value)| (format!("CONDUIT_{}", key.replace('.', "_").to_uppercase()), value))
        .collect()
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_conduit");
