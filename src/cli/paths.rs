//! The table of paths below `status`: what the connection of each tunnel, or of each of a router's clients, does.

use super::output::{Table, bytes, milliseconds};
use crate::registry::{PathStatus, SessionStatus, TunnelStatus};

/// The paths of what was asked, each seen from the end that was asked.
pub(super) struct Paths(Table);

impl Paths {
    pub(super) fn new() -> Self {
        Self(Table::new([
            "PATH", "FROM", "RTT", "SENT", "LOST", "WINDOW", "CONTROL", "MTU", "PRIORITY",
        ]))
    }

    /// Of a tunnel, while it has a session.
    pub(super) fn tunnel(&mut self, status: &TunnelStatus) {
        if let Some(path) = &status.path {
            self.row(format!("{} → router", status.id), "here".to_owned(), path);
        }
    }

    /// Of a client of a router.
    pub(super) fn client(&mut self, session: &SessionStatus) {
        self.row(format!("router → {}", session.client), session.addr.clone(), &session.path);
    }

    fn row(&mut self, path: String, from: String, status: &PathStatus) {
        self.0.row([
            path,
            from,
            milliseconds(status.rtt_ms),
            format!("{} packets", status.packets_sent),
            lost(status),
            bytes(status.congestion_window),
            control(status),
            status.mtu.to_string(),
            status.priority.to_string(),
        ]);
    }

    /// The table; `None` when nothing is connected.
    pub(super) fn table(self) -> Option<Table> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

/// `0.9 % (12.1 KiB)`
fn lost(status: &PathStatus) -> String {
    format!("{:.1} % ({})", status.loss_percent, bytes(status.bytes_lost))
}

/// `auto (level)`
fn control(status: &PathStatus) -> String {
    match &status.controller_phase {
        Some(phase) => format!("{} ({phase})", status.controller),
        None => status.controller.clone(),
    }
}
