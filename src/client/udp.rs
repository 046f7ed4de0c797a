//! Forward UDP: every sender at a listening socket is a flow.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::declare::{TUNNEL, pair};
use crate::ends::UdpPort;
use crate::relay::{Destination, FlowRules, Flows, Front, Scope, front};
use crate::session::Past;
use crate::wire::FlowClose;

/// Serves one port of the tunnel until it ends. During an outage packets are lost, as they are on any network that is
/// down.
pub(super) async fn serve(shared: Arc<Shared>, index: usize, port: UdpPort) {
    let options = &shared.settings.tunnel.options;
    let rules = FlowRules::new(TUNNEL + index as u32, options);
    let trusted = options.trusted_proxies.as_slice().into();
    // There is one session, or none.
    let pick = |_: Option<&Past>| {
        let flows = shared.link.flows().filter(|_| !shared.accepting.is_cancelled())?;
        let trusted = Arc::clone(&trusted);
        Some(Destination { flows, rules, max_flows: options.max_flows, trusted })
    };
    let users = Front::new(Arc::new(port), &shared.table);
    front(&users, pick, &shared.scope()).await;
}

impl Shared {
    /// Of every flow of the tunnel.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            draining: self.accepting.clone(),
            stop: self.connections.clone(),
            leaving: CancellationToken::new(),
        }
    }
}

/// The router says that a flow is over. Where nobody could be reached, the operator reads why.
pub(super) fn closed(shared: &Shared, flows: &Flows, close: &FlowClose) {
    let Some((tunnel, reason)) = flows.closed(close) else { return };
    let found = pair(&shared.settings.tunnel, tunnel);
    let target = found.map(|(_, source)| source.to_string()).unwrap_or_default();
    if shared.table.refuse(&target, None, &reason) {
        tracing::warn!(target, reason, "flow refused");
    }
}
