//! What a tunnel says of itself: answers to the control socket, and metrics.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Shared;
use super::probe::probe;
use crate::registry::{
    Call, ConnectionStatus, Depth, PacketStatus, PathStatus, Refusal, Request, RouterView,
    RpcError, TlsStatus, TunnelStatus, rfc3339,
};
use crate::relay::{Loss, Traffic, TrafficMetrics};
use crate::session::{Session, Terms};
use crate::task::Tasks;
use crate::telemetry;
use crate::tunnel::{Protocol, TunnelState};

/// Answers the control socket until the tunnel ends. A probe takes a task of its own: nobody waits for it.
pub(super) async fn answer(shared: Arc<Shared>, tasks: Tasks, mut calls: mpsc::Receiver<Call>) {
    let created_at = rfc3339(std::time::SystemTime::now());
    while let Some(Call { request, reply }) = calls.recv().await {
        let (shared, created_at) = (Arc::clone(&shared), created_at.clone());
        tasks.spawn("answer", async move {
            let answer = match request {
                Request::Shutdown { drain_ms } => {
                    let drain = Duration::from_millis(drain_ms);
                    shared.accepting.cancel();
                    let _ = reply.send(Ok(json!({})));
                    return shared.shutdown(drain).await;
                }
                Request::Status(depth) => shared.status(created_at, depth).await,
                Request::Connections => Ok(json!({"connections": shared.connections()})),
                Request::Metrics => Ok(json!({"text": shared.metrics_text()})),
                Request::KillConnection { id } => shared.kill(&id),
                Request::Version => Ok(version()),
                other => Err(unsupported(&other)),
            };
            // Who asked may have gone; the answer has no other use.
            let _ = reply.send(answer);
        });
    }
}

/// The program's version and the protocol's.
pub(crate) fn version() -> Value {
    json!({"version": env!("CARGO_PKG_VERSION"), "protocol": crate::wire::VERSION})
}

fn unsupported(request: &Request) -> RpcError {
    let message = format!("a tunnel has no method {}: ask a router", request.method());
    RpcError::new(RpcError::UNSUPPORTED, message)
}

impl Shared {
    async fn status(self: &Arc<Self>, created_at: String, depth: Depth) -> Result<Value, RpcError> {
        let session = self.link.current();
        // Nobody is told "ready" of a router that has had no reason to answer for a while.
        let is_doubtful = self.link.heard.is_long_ago();
        let with_probe = depth >= Depth::Probe;
        let probe = match with_probe || session.is_some() && is_doubtful {
            true => Some(probe(session.clone(), PROBE_LIMIT).await),
            false => None,
        };
        // Where the router does not answer, nothing is found out beyond it.
        let is_answered = probe.as_ref().is_some_and(|probe| probe.ok);
        let dials = is_answered && self.settings.tunnel.protocol == Protocol::Tcp;
        let source_probe = match (&session, depth) {
            (Some(session), Depth::Source) if dials => Some(self.reach_all(session).await),
            (Some(session), Depth::Probe) if dials => {
                self.redial(session).await;
                None
            }
            _ => None,
        };
        let unanswered = probe.as_ref().and_then(|probe| probe.error.clone());
        if let Some(session) = session.as_ref().filter(|_| unanswered.is_some()) {
            // Nor is it taken for ready at the next question, before something is heard.
            self.link.heard.doubts(session.connection().activity().heard);
        }
        let mut state = *self.state.borrow();
        // While there is a session, its router says what is wrong with it.
        let suffers = self.last_error().is_some() || unanswered.is_some();
        if state == TunnelState::Ready && suffers {
            state = TunnelState::Degraded;
        }
        let totals = self.table.totals();
        let path = session.as_ref().map(|session| session.path());
        let tunnel = &self.settings.tunnel;
        let status = TunnelStatus {
            id: self.settings.id.clone(),
            name: tunnel.name.clone(),
            state,
            pid: std::process::id(),
            router: self.settings.access.router.addresses.first().cloned(),
            source: Some(tunnel.source.clone()),
            bind: Some(self.bind()),
            protocol: Some(tunnel.protocol),
            direction: Some(tunnel.direction),
            carrier: session.as_ref().map(|_| self.link.carrier().to_string()),
            created_at,
            active_connections: totals.active,
            connections_total: totals.opened,
            bytes_up: totals.up,
            bytes_down: totals.down,
            rtt_ms: path.map(|path| path.rtt.as_secs_f64() * 1e3),
            loss_percent: path.map(|path| path.loss_percent()),
            mtu: path.map(|path| path.mtu),
            path: session.as_ref().map(path_status),
            tls: session.as_ref().and_then(|session| session.connection().negotiated()).map(
                |tls| TlsStatus {
                    version: "TLS 1.3".to_owned(),
                    cipher_suite: tls.cipher_suite.clone(),
                    key_exchange: tls.key_exchange.clone(),
                },
            ),
            drain_seconds: drain_seconds(&totals),
            last_error: self.last_error().or(unanswered),
            probe: probe.filter(|_| with_probe),
            source_probe,
            router_view: session.as_ref().map(|session| {
                let terms = session.terms();
                RouterView {
                    session: Some(hex(&terms.session_id)),
                    client: terms.name.parse().ok(),
                    permissions: Some(in_words(terms)),
                    version: Some(terms.peer_version.clone()),
                }
            }),
            packets: (tunnel.protocol == Protocol::Udp).then(|| packets(self.table.traffic())),
            refusals: refusals(&self.table),
        };
        Ok(json!(status))
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        let state = if self.link.current().is_some() { "open" } else { "waiting" };
        let live = self.table.live().into_iter();
        live.map(|live| ConnectionStatus {
            id: format!("{}/{}", self.settings.id, live.number),
            protocol: live.protocol,
            peer: live.peer,
            age_seconds: live.since.elapsed().as_secs(),
            bytes_up: live.faces.moved(&live.counters).0,
            bytes_down: live.faces.moved(&live.counters).1,
            state: state.to_owned(),
        })
        .collect()
    }

    fn kill(&self, id: &str) -> Result<Value, RpcError> {
        let number = id.rsplit_once('/').and_then(|(tunnel, number)| {
            (tunnel == self.settings.id.as_str()).then(|| number.parse::<u64>().ok()).flatten()
        });
        match number {
            Some(number) if self.table.kill(number) => Ok(json!({})),
            _ => Err(RpcError::new(RpcError::NOT_FOUND, format!("there is no connection {id}"))),
        }
    }

    pub(super) fn metrics_text(&self) -> String {
        let path = self.link.current().map(|session| session.path());
        self.metrics.update(&self.table.totals(), path);
        self.metrics.packets.update(self.table.traffic());
        self.metrics.registry.encode()
    }
}

/// What the router lets this client do.
fn in_words(terms: &Terms) -> String {
    let targets = if terms.owner { "any target".to_owned() } else { terms.targets.join(", ") };
    match terms.binds.is_empty() {
        true => targets,
        false => format!("{targets}; may listen at {}", terms.binds.join(", ")),
    }
}

/// The last reasons of a table, in the registry's words.
pub(crate) fn refusals(table: &crate::relay::Table) -> Vec<Refusal> {
    let refused = table.refused().into_iter();
    refused
        .map(|one| Refusal {
            at: rfc3339(one.at),
            target: Some(one.target),
            client: one.client.and_then(|client| client.parse().ok()),
            reason: one.reason,
            count: one.count,
        })
        .collect()
}

/// What a session's path does, in the registry's words.
pub(crate) fn path_status(session: &Session) -> PathStatus {
    let path = session.path();
    let steering = session.connection().steering();
    PathStatus {
        rtt_ms: path.rtt.as_secs_f64() * 1e3,
        packets_sent: path.sent,
        packets_lost: path.lost,
        loss_percent: path.loss_percent(),
        bytes_lost: path.lost_bytes,
        congestion_window: path.congestion_window,
        controller: steering.controller.to_owned(),
        controller_phase: steering.phase.map(str::to_owned),
        mtu: path.mtu,
        priority: session.connection().priority(),
    }
}

/// What is left of a drain.
pub(crate) fn drain_seconds(totals: &crate::relay::Totals) -> Option<u64> {
    totals.drains_for.map(|left| left.as_secs_f64().ceil() as u64)
}

/// Packets, in the registry's words.
pub(crate) fn packets(traffic: &Traffic) -> PacketStatus {
    let occurred = Loss::ALL.iter().filter(|loss| traffic.lost(**loss) > 0);
    PacketStatus {
        sent: traffic.sent(),
        received: traffic.received(),
        dropped: occurred.map(|loss| (loss.to_string(), traffic.lost(*loss))).collect(),
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The tunnel's metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: telemetry::Metrics,
    connections: Counter,
    active: Gauge,
    up: Counter,
    down: Counter,
    refusals: Counter,
    rtt_microseconds: Gauge,
    mtu: Gauge,
    window: Gauge,
    lost: Counter,
    lost_bytes: Counter,
    session: Gauge,
    /// Connections that were taken up on another session, whether or not the router still had them.
    pub(super) resumed: Counter,
    pub(super) crossings: Counter,
    packets: TrafficMetrics,
}

impl Metrics {
    pub(super) fn new(registry: &telemetry::Metrics) -> Self {
        Self {
            connections: registry.register_counter("connections", "Connections accepted"),
            active: registry.register_gauge("active_connections", "Connections open now"),
            up: registry.register_counter("bytes_sent", "Bytes from users to targets"),
            down: registry.register_counter("bytes_received", "Bytes from targets to users"),
            refusals: registry
                .register_counter("refused_connections", "Connections that were not served"),
            rtt_microseconds: registry
                .register_gauge("path_rtt_microseconds", "Smoothed round-trip time"),
            mtu: registry.register_gauge("path_mtu_bytes", "Largest UDP payload in use"),
            window: registry
                .register_gauge("path_congestion_window_bytes", "Bytes that may be in flight"),
            lost: registry
                .register_counter("path_lost_packets", "Packets lost on the present session"),
            lost_bytes: registry
                .register_counter("path_lost_bytes", "Bytes lost on the present session"),
            session: registry.register_gauge("session_up", "1 while there is a session"),
            resumed: registry.register_counter(
                "resumed_connections",
                "Connections taken up again after their session was lost",
            ),
            crossings: registry.register_counter(
                "carrier_changes",
                "Times that the session went on over another carrier",
            ),
            packets: TrafficMetrics::new(registry),
            registry: registry.clone(),
        }
    }

    fn update(&self, totals: &crate::relay::Totals, path: Option<crate::transport::PathStats>) {
        use std::sync::atomic::Ordering::Relaxed;
        self.connections.inner().store(totals.opened, Relaxed);
        self.active.set(totals.active as i64);
        self.up.inner().store(totals.up, Relaxed);
        self.down.inner().store(totals.down, Relaxed);
        self.refusals.inner().store(totals.refusals, Relaxed);
        self.session.set(i64::from(path.is_some()));
        if let Some(path) = path {
            self.rtt_microseconds.set(path.rtt.as_micros() as i64);
            self.mtu.set(path.mtu.into());
            self.window.set(path.congestion_window as i64);
            self.lost.inner().store(path.lost, Relaxed);
            self.lost_bytes.inner().store(path.lost_bytes, Relaxed);
        }
    }
}

/// Twice the round trip of a path to the other side of the world, and less than the 800 ms that `status` waits: it has to
/// hear that the router is silent, not that the tunnel is.
const PROBE_LIMIT: Duration = Duration::from_millis(600);
