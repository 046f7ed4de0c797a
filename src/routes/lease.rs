//! Whose a route is.

use std::time::Duration;

use super::Route;
use crate::tunnel::{Identity, Name};

/// Who holds a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The client's key.
    pub identity: Identity,
    /// The name of its tunnel.
    pub name: Name,
    /// Servers of one group serve side by side; without one the newer takes the older one's place.
    pub group: Option<Name>,
}

/// A route and its holder, who keeps it for a while after the last server has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is held.
    pub route: Route,
    /// Who holds it.
    pub holder: Holder,
    /// When the last server went, in Unix seconds; `None` while the route is served.
    pub released_at: Option<u64>,
}

impl Holder {
    /// Whether both serve side by side. [RVS-5]
    pub(super) fn joins(&self, other: &Self) -> bool {
        let same_tunnel = self.identity == other.identity && self.name == other.name;
        same_tunnel && self.group.is_some() && self.group == other.group
    }
}

impl Lease {
    /// For so long a route stays its holder's: a night and a broken machine, not a forgotten one.
    pub const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
}
