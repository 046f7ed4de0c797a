//! Why a tunnel did not start, in words that say what to try.

use std::net::SocketAddr;

use crate::ends::ListenError;
use crate::identity::RandomError;
use crate::session::HandshakeError;
use crate::transport::{ConnectError, EndpointError};
use crate::tunnel::{HostPort, Identity};
use crate::wire::Code;

/// What kind of failure it is; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The router cannot be reached.
    Network,
    /// The router is not who it should be.
    Tls,
    /// The router does not admit this client.
    Authentication,
    /// The router will never allow this tunnel.
    Policy,
    /// The tunnel's own end cannot be had.
    Tunnel,
    /// The machine.
    System,
}

/// Why a tunnel did not start, or a client was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bind cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The router's name does not resolve.
    #[error("the router's name {router} cannot be resolved: {reason}")]
    Resolve {
        /// As it was given.
        router: HostPort,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody answered.
    #[error("the router cannot be reached: {reason}")]
    Unreachable {
        /// Per address.
        reason: String,
    },
    /// Somebody else answered.
    #[error(
        "the router at {addr} has another key than the one that is pinned; nothing was sent to it\n  pinned: {pinned}\n  \
         shown:  {shown}"
    )]
    WrongKey {
        /// Who was dialled.
        addr: SocketAddr,
        /// What was expected.
        pinned: Identity,
        /// What was shown.
        shown: Identity,
    },
    /// The router does not admit this key.
    #[error("{reason}")]
    Refused {
        /// The router's words.
        reason: String,
    },
    /// The router does not take this ticket.
    #[error("the router does not take the ticket: {reason}")]
    TicketRefused {
        /// The router's words.
        reason: String,
    },
    /// Policy can never allow the tunnel.
    #[error("the router does not allow {source_addr}: {reason}")]
    Denied {
        /// What should have been dialled.
        source_addr: HostPort,
        /// The router's words.
        reason: String,
    },
    /// The two programs do not understand each other.
    #[error("{reason}")]
    Unsupported {
        /// Both versions.
        reason: String,
    },
    /// The router broke the protocol, or was lost in the middle.
    #[error("the router at {addr} did not finish the handshake: {reason}")]
    Handshake {
        /// Who.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The machine.
    #[error("{reason}")]
    System {
        /// What failed.
        reason: String,
    },
}

impl StartError {
    /// What kind of failure it is.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Listen(_) => Failure::Tunnel,
            Self::Resolve { .. } | Self::Unreachable { .. } | Self::Handshake { .. } => {
                Failure::Network
            }
            Self::WrongKey { .. } => Failure::Tls,
            Self::Refused { .. } | Self::TicketRefused { .. } | Self::Unsupported { .. } => {
                Failure::Authentication
            }
            Self::Denied { .. } => Failure::Policy,
            Self::System { .. } => Failure::System,
        }
    }

    /// What to try.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Listen(_) | Self::System { .. } | Self::Unsupported { .. } => return None,
            Self::Resolve { .. } => "check the router's name, and the name server of this host",
            Self::Unreachable { .. } => {
                "is the router running, is its UDP port open in every firewall on the way, and is the port right?"
            }
            Self::WrongKey { .. } => {
                "either this is not your router, or it was set up anew. If it was: ask its operator for a new ticket \
                 (conduit router invite) and use it with --join, or give the new identity with --router-identity"
            }
            Self::Refused { .. } => {
                "the key is unknown there, was revoked, or a token is missing. Ask the router's operator for a ticket \
                 (conduit router invite) and use it with --join, or for conduit router authorize"
            }
            Self::TicketRefused { .. } => {
                "ask the router's operator for a new ticket (conduit router invite)"
            }
            Self::Denied { .. } => {
                "ask the router's operator to allow it (conduit router authorize or a new invite)"
            }
            Self::Handshake { .. } => {
                "try again; if it stays, compare `conduit version` on both hosts"
            }
        };
        Some(hint.to_owned())
    }

    /// Whether trying again soon can help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.failure(), Failure::Network)
    }

    pub(super) fn from_connect(error: ConnectError) -> Self {
        match error {
            ConnectError::WrongKey { addr, pinned, shown } => {
                Self::WrongKey { addr, pinned, shown }
            }
            ConnectError::Endpoint(error) => error.into(),
            other => Self::Unreachable { reason: other.to_string() },
        }
    }

    pub(super) fn from_handshake(error: HandshakeError, addr: SocketAddr) -> Self {
        match error {
            HandshakeError::Refused { code: Code::Refused, reason } => Self::Refused { reason },
            HandshakeError::Refused { code: Code::TicketSpent, reason } => {
                Self::TicketRefused { reason }
            }
            HandshakeError::Refused { code: Code::Unsupported, reason } => {
                Self::Unsupported { reason }
            }
            HandshakeError::Refused { code: Code::Limit, reason } => Self::Unreachable { reason },
            HandshakeError::Unsupported(error) => Self::Unsupported { reason: error.to_string() },
            HandshakeError::Random(error) => error.into(),
            other => Self::Handshake { addr, reason: other.to_string() },
        }
    }
}

impl From<EndpointError> for StartError {
    fn from(error: EndpointError) -> Self {
        Self::System { reason: error.to_string() }
    }
}

impl From<RandomError> for StartError {
    fn from(error: RandomError) -> Self {
        Self::System { reason: error.to_string() }
    }
}
