//! Why a tunnel did not start, in words that say what to try.

use std::net::SocketAddr;

use crate::ends::ListenError;
use crate::identity::RandomError;
use crate::policy::Denial;
use crate::session::{HandshakeError, REVOKED};
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
    #[error("the router does not allow {end}: {reason}")]
    Denied {
        /// What should have been dialled, or published.
        end: String,
        /// The router's words.
        reason: String,
    },
    /// The router cannot publish the port.
    #[error("the router cannot publish {end}: {reason}")]
    Unpublished {
        /// The bind that was asked for.
        end: String,
        /// The router's words.
        reason: String,
    },
    /// Another process of this client has the tunnel now.
    #[error("{TAKEN_OVER}: {by}")]
    Replaced {
        /// Who and when.
        by: String,
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

/// What the reason of a tunnel starts with that another process has now: whoever starts it again takes it back, and so
/// would the other.
pub const TAKEN_OVER: &str = "another process of this client took the tunnel over";

impl StartError {
    /// What kind of failure it is.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Listen(_) | Self::Unpublished { .. } | Self::Replaced { .. } => Failure::Tunnel,
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
            Self::Unpublished { .. } => {
                "choose another --bind, or ask the router's operator who has the port"
            }
            Self::Replaced { .. } => {
                "end the other one, or give both the same --group to serve side by side"
            }
            Self::Resolve { .. } => "check the router's name, and the name server of this host",
            Self::Unreachable { reason } if reason.contains("proxy ") => {
                "look at the proxy: is it there, does it know this user, and does it let CONNECT to that port through?"
            }
            // One of the carriers alone was allowed.
            Self::Unreachable { reason } if reason.contains("TCP") && !reason.contains("UDP") => {
                "is the router running, does it listen on TCP, and is its TCP port open in every firewall on the way? \
                 With --carrier auto UDP is tried too"
            }
            Self::Unreachable { reason } if reason.contains("UDP") && !reason.contains("TCP") => {
                "is the router running, is its UDP port open in every firewall on the way, and is the port right? \
                 With --carrier auto TLS over TCP is tried too"
            }
            Self::Unreachable { .. } => {
                "is the router running, is its UDP port open in every firewall on the way, and is the port right?"
            }
            Self::WrongKey { .. } => {
                "either this is not your router, or it was set up anew. If it was: ask its operator for a new ticket \
                 (conduit router invite) and use it with --join, or give the new identity with --router HOST:PORT and --router-identity"
            }
            Self::Refused { .. } => {
                "the key is unknown there, was revoked, or a token is missing or no longer valid. Ask the router's \
                 operator for a ticket (conduit router invite) and use it with --join, or for conduit router authorize; \
                 where the router demands a token, give it with [security] token_file or CONDUIT_SECURITY_TOKEN"
            }
            Self::TicketRefused { reason } if reason == REVOKED => {
                "no ticket brings a revoked key back: ask the router's operator for conduit router authorize"
            }
            Self::TicketRefused { .. } => {
                "ask the router's operator for a new ticket (conduit router invite)"
            }
            Self::Denied { reason, .. } if no_rule_lifts(reason) => {
                "no rule can allow this: name another address"
            }
            Self::Denied { .. } => {
                "ask the router's operator to allow it (conduit router authorize)"
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

    /// What a try has met that was the last of `tries`.
    pub(super) fn from_connect(error: ConnectError, tries: u32) -> Self {
        match error {
            ConnectError::WrongKey { addr, pinned, shown } => {
                Self::WrongKey { addr, pinned, shown }
            }
            ConnectError::Endpoint(error) => error.into(),
            other => Self::Unreachable { reason: reason_of(&other, tries) },
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

/// Why one way to the router failed.
pub(super) fn reason_of(error: &ConnectError, tries: u32) -> String {
    match error {
        ConnectError::NoReply { addr, after } if tries > 1 => {
            format!("UDP to {addr} gets no reply in {tries} tries of {} s", after.as_secs_f32())
        }
        error => error.to_string(),
    }
}

/// Whether a target or a place to listen is denied to everybody, whatever the operator allows.
fn no_rule_lifts(reason: &str) -> bool {
    let denials = [
        Denial::Unspecified,
        Denial::Multicast,
        Denial::Broadcast,
        Denial::LinkLocal,
        Denial::Metadata,
        Denial::Embedded,
        Denial::PortZero,
        Denial::OwnSocket,
        Denial::Private,
        Denial::OwnPort,
    ];
    denials.iter().any(|denial| reason == denial.to_string())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hint(error: &StartError) -> String {
        error.hint().expect("a hint")
    }

    #[test]
    fn advice_is_given_only_where_it_can_help() {
        let denied =
            |reason: String| StartError::Denied { end: "169.254.169.254:80".to_owned(), reason };
        for denial in [Denial::Metadata, Denial::LinkLocal, Denial::Unspecified, Denial::Embedded] {
            let hint = hint(&denied(denial.to_string()));
            assert!(hint.contains("another address") && !hint.contains("operator"), "{hint}");
        }
        assert!(hint(&denied(Denial::NotListed.to_string())).contains("operator"));
        let revoked = StartError::TicketRefused { reason: REVOKED.to_owned() };
        assert!(hint(&revoked).contains("authorize") && !hint(&revoked).contains("invite"));
        let unreachable =
            |reason: &str| hint(&StartError::Unreachable { reason: reason.to_owned() });
        let over_tls = unreachable("TLS over TCP to 192.0.2.1:9999: refused");
        assert!(over_tls.contains("TCP port") && over_tls.contains("--carrier auto"), "{over_tls}");
        let over_udp = unreachable("UDP to 192.0.2.1:9999 gets no reply");
        assert!(over_udp.contains("UDP port") && over_udp.contains("--carrier auto"), "{over_udp}");
        let both = unreachable("UDP gets no reply; TLS over TCP: refused");
        assert!(!both.contains("--carrier"), "{both}");
        let refused = hint(&StartError::Refused { reason: String::new() });
        assert!(refused.contains("token_file") && refused.contains("CONDUIT_SECURITY_TOKEN"));
    }

    #[test]
    fn a_router_that_cannot_decide_is_trouble_that_may_pass() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 9999));
        for (code, may_pass) in
            [(Code::Internal, true), (Code::Limit, true), (Code::Refused, false)]
        {
            let error = HandshakeError::Refused { code, reason: "words".to_owned() };
            assert_eq!(StartError::from_handshake(error, addr).may_pass(), may_pass, "{code}");
        }
    }

    #[test]
    fn silence_is_said_with_the_number_of_tries() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 9999));
        let silent = |tries| {
            let error = ConnectError::NoReply { addr, after: Duration::from_secs(3) };
            StartError::from_connect(error, tries).to_string()
        };
        assert!(silent(1).contains("no reply within 3s"), "{}", silent(1));
        assert!(silent(3).contains("no reply in 3 tries of 3 s"), "{}", silent(3));
    }
}
