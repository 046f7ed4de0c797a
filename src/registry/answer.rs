//! What processes answer: the shapes of `list -o json` and `status -o json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::Record;
use crate::tunnel::{
    Bind, BindAddr, Direction, HostPort, Identity, Name, Priority, Protocol, Span, Target,
    TunnelId, TunnelState,
};

/// A tunnel: one element of `tunnels` in `conduit.list/1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The id.
    pub id: TunnelId,
    /// The name.
    pub name: Name,
    /// The state now.
    pub state: TunnelState,
    /// The process.
    pub pid: u32,
    /// The router that it goes to.
    pub router: Option<HostPort>,
    /// What gets dialled.
    pub source: Option<Span<Target>>,
    /// Where users connect, with the real port; of a reverse tunnel that is at the router.
    pub bind: Option<Span<Bind>>,
    /// What is carried.
    pub protocol: Option<Protocol>,
    /// Which end listens.
    pub direction: Option<Direction>,
    /// `quic`, or nothing while there is no session.
    pub carrier: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// Connections open now.
    pub active_connections: u64,
    /// Connections accepted since it started.
    pub connections_total: u64,
    /// Bytes from the user to the target.
    pub bytes_up: u64,
    /// Bytes from the target to the user.
    pub bytes_down: u64,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Packets lost, per cent of those sent.
    pub loss_percent: Option<f64>,
    /// The path's MTU in use, bytes.
    pub mtu: Option<u16>,
    /// What the session's path does, of what this end sends; nothing while there is no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathStatus>,
    /// What protects the session.
    pub tls: Option<TlsStatus>,
    /// While it drains: the seconds after which open connections are cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    /// Why it failed, or what last went wrong.
    pub last_error: Option<String>,
    /// The probe's result, when one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What became of connecting to the source, when that was asked for; of a TCP tunnel only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_probe: Option<Probe>,
    /// What the router says of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_view: Option<RouterView>,
    /// What became of UDP packets; of a UDP tunnel only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketStatus>,
    /// The last reasons for which connections were refused, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// What became of UDP packets since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketStatus {
    /// From sockets here into sessions.
    pub sent: u64,
    /// From sessions to sockets here.
    pub received: u64,
    /// Not carried on, by reason; reasons that have not occurred are left out.
    pub dropped: BTreeMap<String, u64>,
}

/// What a session's path does, as one of its ends sees it: what that end sends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathStatus {
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: f64,
    /// Packets sent since the session began.
    pub packets_sent: u64,
    /// Of those, declared lost.
    pub packets_lost: u64,
    /// Packets lost, per cent of those sent.
    pub loss_percent: f64,
    /// Bytes of the packets that were lost.
    pub bytes_lost: u64,
    /// Bytes that may be in flight.
    pub congestion_window: u64,
    /// Who decides that: `auto`, `bbr` or `cubic`.
    pub controller: String,
    /// What the controller is doing; null where it does not tell.
    pub controller_phase: Option<String>,
    /// The largest UDP payload in use, bytes.
    pub mtu: u16,
    /// The share of the path that the session is to have.
    pub priority: Priority,
}

/// What protects a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// `TLS 1.3`.
    pub version: String,
    /// As `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: String,
    /// As `X25519MLKEM768`.
    pub key_exchange: String,
}

/// A stream to the router and back, or connections to every source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether it came back, or all were reached.
    pub ok: bool,
    /// How long it took, at most where there are many, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Why it did not, or one was not.
    pub error: Option<String>,
}

/// What the router says of a tunnel's session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterView {
    /// The session's id.
    pub session: Option<String>,
    /// The name under which the router knows this client.
    pub client: Option<Name>,
    /// What the client may reach, in words.
    pub permissions: Option<String>,
    /// The router's version of Conduit.
    pub version: Option<String>,
}

/// A reason for which a connection was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// RFC 3339, the last time.
    pub at: String,
    /// What was to be dialled.
    pub target: Option<String>,
    /// Who asked, on a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Name>,
    /// Why not.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// One live connection of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// `<tunnel id>/<n>`.
    pub id: String,
    /// `tcp`, or `udp` for a flow.
    pub protocol: Protocol,
    /// Who connected.
    pub peer: String,
    /// Seconds since it was accepted.
    pub age_seconds: u64,
    /// Bytes from the user to the target.
    pub bytes_up: u64,
    /// Bytes from the target to the user.
    pub bytes_down: u64,
    /// `opening`, `open`, `half-closed` …
    pub state: String,
}

/// A router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The id.
    pub id: TunnelId,
    /// The name in the registry.
    pub name: Name,
    /// The state now.
    pub state: TunnelState,
    /// The process.
    pub pid: u32,
    /// The version of Conduit that it runs.
    pub version: String,
    /// Its public key.
    pub identity: Identity,
    /// Where it listens, with the real port.
    pub bind: BindAddr,
    /// What tickets carry.
    pub advertise: Vec<HostPort>,
    /// RFC 3339.
    pub created_at: String,
    /// How often another program has gone on in its place since then.
    #[serde(default)]
    pub upgrades: u64,
    /// Sessions open now.
    pub sessions: Vec<SessionStatus>,
    /// Streams open now.
    pub active_streams: u64,
    /// Streams opened since it started.
    pub streams_total: u64,
    /// Bytes from clients to targets.
    pub bytes_up: u64,
    /// Bytes from targets to clients.
    pub bytes_down: u64,
    /// What became of UDP packets.
    #[serde(default)]
    pub packets: PacketStatus,
    /// The ports that are published, or kept for their owners.
    #[serde(default)]
    pub published: Vec<PublishedStatus>,
    /// While it drains: the seconds after which open connections are cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// The last reasons for which streams or clients were refused, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// A public port of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedStatus {
    /// Where visitors connect.
    pub bind: Bind,
    /// What is carried.
    pub protocol: Protocol,
    /// The tunnel's name.
    pub tunnel: Name,
    /// The client's key.
    pub identity: Identity,
    /// Tunnel processes that serve it; 0: it is only kept.
    pub servers: usize,
}

/// One session of a router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The client's name.
    pub client: Name,
    /// Its key.
    pub identity: Identity,
    /// Its process.
    pub instance: Uuid,
    /// Where it comes from.
    pub addr: String,
    /// RFC 3339.
    pub since: String,
    /// Streams open now.
    pub active_streams: u64,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: Option<f64>,
    /// What its path does, of what the router sends.
    #[serde(default)]
    pub path: PathStatus,
}

impl TunnelStatus {
    /// What the record alone says: for processes that ended or do not answer, and to start from in those that do.
    pub fn from_record(record: &Record) -> Self {
        let config = record.config.clone();
        Self {
            id: record.tunnel_id.clone(),
            name: record.name.clone(),
            state: record.status,
            pid: record.pid,
            router: config.router,
            source: config.source,
            bind: config.bind,
            protocol: config.protocol,
            direction: config.direction,
            carrier: None,
            created_at: record.created_at.clone(),
            active_connections: 0,
            connections_total: 0,
            bytes_up: 0,
            bytes_down: 0,
            rtt_ms: None,
            loss_percent: None,
            mtu: None,
            path: None,
            tls: None,
            drain_seconds: None,
            last_error: record.last_error.clone(),
            probe: None,
            source_probe: None,
            router_view: None,
            packets: None,
            refusals: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_reads_as_the_list_promises() {
        let record = serde_json::json!({
            "schema": "conduit.record/1", "tunnel_id": "web-00ab", "kind": "tunnel", "name": "web",
            "pid": 1, "instance": Uuid::nil(), "created_at": "2025-11-20T00:00:00Z",
            "control_socket": "/x", "status": "ready", "config_hash": "", "version": "0.1.0",
            "config": {"router": "r.example:9999", "source": "10.2.0.2:8080", "bind": "127.0.0.1:8080",
                "protocol": "tcp", "direction": "forward"},
        });
        let record: Record = serde_json::from_value(record).expect("a record");
        let status = serde_json::to_value(TunnelStatus::from_record(&record)).expect("JSON");
        let mut names: Vec<_> = status.as_object().expect("an object").keys().cloned().collect();
        let mut promised = [
            "id",
            "name",
            "state",
            "pid",
            "router",
            "source",
            "bind",
            "protocol",
            "direction",
            "carrier",
            "created_at",
            "active_connections",
            "connections_total",
            "bytes_up",
            "bytes_down",
            "rtt_ms",
            "loss_percent",
            "mtu",
            "tls",
            "last_error",
        ];
        names.sort();
        promised.sort_unstable();
        assert_eq!(names, promised);
        assert_eq!(status["source"], "10.2.0.2:8080");
        assert_eq!(status["state"], "ready");
    }
}
