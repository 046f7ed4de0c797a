//! The states of a tunnel process.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a tunnel process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelState {
    /// Not ready yet: the first session or the bind is still missing.
    Starting,
    /// The session is up and the bind is bound.
    Ready,
    /// Ready, but what is carried suffers (the last probe failed, say).
    Degraded,
    /// The session is lost; a new one is being tried for.
    Reconnecting,
    /// No new connections; the open ones may finish.
    Draining,
    /// Ended as it was asked to.
    Stopped,
    /// Ended, or never came up, for a reason that the record keeps.
    Failed,
}

impl TunnelState {
    /// Whether new connections are served in this state.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Reconnecting => "reconnecting",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}
