//! Why a connection to a router did not come about.

use std::net::SocketAddr;
use std::time::Duration;

use super::EndpointError;
use crate::tunnel::Identity;

/// A connection to a router could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The router's key is not the pinned one. Nothing was sent to it.
    #[error(
        "the router at {addr} has another key than the one that is pinned\n  pinned: {pinned}\n  shown:  {shown}"
    )]
    WrongKey {
        /// Who was dialled.
        addr: SocketAddr,
        /// What was expected.
        pinned: Identity,
        /// What the router showed.
        shown: Identity,
    },
    /// No answer in time.
    #[error("UDP to {addr} gets no reply within {after:?}")]
    NoReply {
        /// Who was dialled.
        addr: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The host says that nobody listens there.
    #[error("nobody listens on UDP {addr}")]
    NobodyListens {
        /// Who was dialled.
        addr: SocketAddr,
    },
    /// TLS over TCP does not come about.
    #[error("TLS over TCP to {addr}: {reason}")]
    Tls {
        /// Who was dialled.
        addr: SocketAddr,
        /// What the system or TLS said.
        reason: String,
    },
    /// Neither carrier reaches the router.
    #[error("{udp}; {tls}")]
    Neither {
        /// What QUIC over UDP met.
        udp: Box<ConnectError>,
        /// What TLS over TCP met.
        tls: Box<ConnectError>,
    },
    /// Something else on the way.
    #[error("connection to {addr}: {reason}")]
    Failed {
        /// Who was dialled.
        addr: SocketAddr,
        /// What QUIC or TLS said.
        reason: String,
    },
    /// No endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl ConnectError {
    /// Whether the other carrier would meet the same.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::WrongKey { .. } | Self::Endpoint(EndpointError::Tls(_)))
    }
}
