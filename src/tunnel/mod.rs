//! The words of the product: what a tunnel *is*.
//!
//! Pure vocabulary: no I/O, no clock, no async. What a tunnel *does* lives in `client` and `router`.
//! Implements the section "Words" of the protocol overview (`proto-spec/overview.md`).

mod addr;
mod end;
mod identity;
mod name;
mod proxy;
mod span;
mod spec;
mod state;
mod unix;

pub use addr::{BindAddr, Host, HostPort, ParseAddrError};
pub use end::{Bind, Target};
pub use identity::{Identity, ParseIdentityError};
pub use name::{Name, NameError, TunnelId};
pub use proxy::{ParseProxyError, Proxy, ProxyKind};
pub use span::{Numbered, Span};
pub use spec::{
    CarrierChoice, Direction, Options, Oversize, Priority, Protocol, ProxyProtocol, SpecError,
    TunnelSpec, parse_networks,
};
pub use state::TunnelState;
pub use unix::{UnixPath, UnixPathError};
