//! The words of the product: what a tunnel *is*.
//!
//! Pure vocabulary: no I/O, no clock, no async. What a tunnel *does* lives in `client` and `router`.
//! Implements the section "Words" of the protocol overview (`proto-spec/overview.md`).

mod addr;
mod identity;
mod name;
mod spec;
mod state;

pub use addr::{BindAddr, Host, HostPort, ParseAddrError};
pub use identity::{Identity, ParseIdentityError};
pub use name::{Name, NameError, TunnelId};
pub use spec::{Direction, Protocol, TunnelSpec};
pub use state::TunnelState;
