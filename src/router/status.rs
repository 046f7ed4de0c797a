//! What a router says of itself: answers to the control socket, and metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Shared;
use super::upgrade::UpgradeCall;
use crate::registry::{
    Call, ConnectionStatus, PublishedStatus, Request, RouterStatus, RpcError, SessionStatus,
    rfc3339,
};
use crate::relay::TrafficMetrics;
use crate::task::Tasks;
use crate::telemetry;
use crate::tunnel::{BindAddr, Name, TunnelState};

/// Answers the control socket until the router ends.
pub(super) async fn answer(shared: Arc<Shared>, tasks: Tasks, mut calls: mpsc::Receiver<Call>) {
    let created_at = rfc3339(SystemTime::now());
    while let Some(Call { request, reply }) = calls.recv().await {
        let (shared, created_at) = (Arc::clone(&shared), created_at.clone());
        tasks.spawn("answer", async move {
            let answer = match request {
                Request::Shutdown { drain_ms } => {
                    shared.accepting.cancel();
                    let _ = reply.send(Ok(json!({})));
                    shared.shutdown(Duration::from_millis(drain_ms)).await;
                    return;
                }
                Request::Status(_) => shared.status(created_at),
                Request::Connections => Ok(json!({"connections": shared.connections()})),
                Request::Metrics => Ok(json!({"text": shared.metrics_text()})),
                Request::KillConnection { id } => shared.kill(&id),
                Request::Version => Ok(crate::client::version()),
                Request::Upgrade { program } => {
                    return shared.upgrade.ask(UpgradeCall { program: program.into(), reply });
                }
                other => shared.admin.handle(other).await,
            };
            // Who asked may have gone; the answer has no other use.
            let _ = reply.send(answer);
        });
    }
}

impl Shared {
    fn status(&self, created_at: String) -> Result<Value, RpcError> {
        let totals = self.table.totals();
        let bind = self.endpoint.local_addr().unwrap_or(self.settings.bind);
        let stopping = self.accepting.is_cancelled();
        let name: Name = "router".parse().map_err(|error: crate::tunnel::NameError| {
            RpcError::new(RpcError::INTERNAL, error.to_string())
        })?;
        let sessions = self.sessions.present().into_iter().map(|present| SessionStatus {
            active_streams: present.session.incoming_streams().into(),
            rtt_ms: Some(present.session.path().rtt.as_secs_f64() * 1e3),
            path: crate::client::path_status(&present.session),
            addr: present.session.connection().remote_addr().to_string(),
            client: present.name,
            identity: present.identity,
            instance: present.instance,
            since: rfc3339(present.since),
        });
        Ok(json!(RouterStatus {
            id: self.settings.id.clone(),
            name,
            state: if stopping { TunnelState::Draining } else { TunnelState::Ready },
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.admin.identity(),
            bind: BindAddr::from(bind),
            advertise: self.settings.advertise.clone(),
            created_at,
            upgrades: self.upgrades,
            sessions: sessions.collect(),
            active_streams: totals.active,
            streams_total: totals.opened,
            bytes_up: totals.up,
            bytes_down: totals.down,
            packets: crate::client::packets(self.table.traffic()),
            published: self.published(),
            drain_seconds: crate::client::drain_seconds(&totals),
            last_error: self.published.outage(),
            refusals: crate::client::refusals(&self.table),
        }))
    }

    /// The public ports, served or kept.
    fn published(&self) -> Vec<PublishedStatus> {
        let routes = self.published.routes();
        let all = routes.list().map(|(route, holder, servers)| PublishedStatus {
            bind: route.bind(),
            protocol: route.protocol(),
            tunnel: holder.name.clone(),
            identity: holder.identity,
            servers,
        });
        all.collect()
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        let live = self.table.live().into_iter();
        live.map(|live| ConnectionStatus {
            id: format!("{}/{}", self.settings.id, live.number),
            protocol: live.protocol,
            peer: live.peer,
            age_seconds: live.since.elapsed().as_secs(),
            bytes_up: live.faces.moved(&live.counters).0,
            bytes_down: live.faces.moved(&live.counters).1,
            state: "open".to_owned(),
        })
        .collect()
    }

    fn kill(&self, id: &str) -> Result<Value, RpcError> {
        let number = id
            .strip_prefix(self.settings.id.as_str())
            .and_then(|rest| rest.strip_prefix('/')?.parse().ok());
        match number {
            Some(number) if self.table.kill(number) => Ok(json!({})),
            _ => Err(RpcError::new(RpcError::NOT_FOUND, format!("there is no connection {id}"))),
        }
    }

    pub(super) fn metrics_text(&self) -> String {
        let totals = self.table.totals();
        let metrics = &self.metrics;
        metrics.sessions.set(self.sessions.len() as i64);
        metrics.connections.inner().store(totals.opened, Ordering::Relaxed);
        metrics.active.set(totals.active as i64);
        metrics.up.inner().store(totals.up, Ordering::Relaxed);
        metrics.down.inner().store(totals.down, Ordering::Relaxed);
        metrics.refusals.inner().store(totals.refusals, Ordering::Relaxed);
        metrics.published.set(self.published.routes().list().count() as i64);
        metrics.packets.update(self.table.traffic());
        metrics.registry.encode()
    }
}

/// The router's metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: telemetry::Metrics,
    sessions: Gauge,
    connections: Counter,
    active: Gauge,
    up: Counter,
    down: Counter,
    refusals: Counter,
    published: Gauge,
    packets: TrafficMetrics,
}

impl Metrics {
    pub(super) fn new(registry: &telemetry::Metrics) -> Self {
        Self {
            sessions: registry.register_gauge("sessions", "Clients that are in now"),
            connections: registry.register_counter("connections", "Connections to targets"),
            active: registry.register_gauge("active_connections", "Connections open now"),
            up: registry.register_counter("bytes_sent", "Bytes from users to targets"),
            down: registry.register_counter("bytes_received", "Bytes from targets to users"),
            refusals: registry.register_counter(
                "refused_connections",
                "Clients and connections that were not served",
            ),
            published: registry.register_gauge(
                "published_ports",
                "Ports that are published, or kept for their owners",
            ),
            packets: TrafficMetrics::new(registry),
            registry: registry.clone(),
        }
    }
}
