//! Pure yes or no: may this client have this target dialled, or have the router listen there?
//!
//! It resolves nothing, opens nothing and reads no clock: `ends` resolves a name and asks about each address that
//! came out, and connects to exactly the address that was allowed.
//! Implements the section "Security" of the protocol overview (`proto-spec/overview.md`): default deny, and a list
//! of addresses that nobody reaches, owner or not.

mod bind_rule;
mod decide;
mod denial;
mod embedded;
#[cfg(test)]
pub(crate) mod forms;
mod own;
mod permissions;
mod ports;
mod rule;
mod target_rule;

pub use bind_rule::BindRule;
pub use denial::{Decision, Denial};
pub use own::OwnSockets;
pub use permissions::{Permissions, Targets};
pub use ports::{ParsePortsError, Ports};
pub use rule::ParseRuleError;
pub use target_rule::TargetRule;
