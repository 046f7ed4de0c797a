//! What a router need not make itself: sockets of the service manager, or all that the program before has left.

use std::net::SocketAddr;

use crate::config::Environment;
use crate::fleet::{Failure, Kind, given_sockets};
use crate::registry::{Claim, Registry};
use crate::router;
#[cfg(unix)]
use crate::router::Heritage;
use crate::transport::Sockets;

/// Most often nothing.
pub(super) enum Inheritance {
    /// This process ran a router before.
    #[cfg(unix)]
    Router(Heritage),
    /// The service manager has bound these, if any.
    Sockets(Sockets),
}

impl Inheritance {
    pub(super) fn of_process(environment: &Environment) -> Result<Self, Failure> {
        #[cfg(not(unix))]
        let _ = environment;
        #[cfg(unix)]
        if let Some(number) = environment.handover() {
            let heritage = Heritage::read(number);
            return Ok(Self::Router(heritage.map_err(router::StartError::from)?));
        }
        let sockets = given_sockets().map_err(|error| {
            Failure::new(Kind::Config, "activation", error.to_string())
                .with_hint("a socket unit has ListenDatagram= and, for TLS, ListenStream=")
        })?;
        if sockets.udp.is_none() && sockets.tcp.is_some() {
            let message = "the service manager gives a TCP socket and none for UDP";
            return Err(Failure::new(Kind::Config, "activation", message)
                .with_hint("a socket unit has ListenDatagram= with the same port"));
        }
        Ok(Self::Sockets(sockets))
    }

    /// The name that the program before has held.
    pub(super) fn claim(&self, registry: &Registry) -> Option<Result<Claim, Failure>> {
        match self {
            #[cfg(unix)]
            Self::Router(heritage) => {
                Some(registry.take_over(&heritage.claim()).map_err(Failure::from))
            }
            Self::Sockets(_) => {
                let _ = registry;
                None
            }
        }
    }

    /// Where a socket is bound already.
    pub(super) fn bind(&self, claim: &Claim) -> Option<SocketAddr> {
        match self {
            #[cfg(unix)]
            Self::Router(_) => claim.record().config.bind.as_ref()?.first().socket_addr(),
            Self::Sockets(sockets) => {
                let _ = claim;
                sockets.udp.as_ref()?.local_addr().ok()
            }
        }
    }

    /// The version that ran before.
    pub(super) fn before(&self) -> Option<String> {
        match self {
            #[cfg(unix)]
            Self::Router(heritage) => Some(heritage.from().to_owned()),
            Self::Sockets(_) => None,
        }
    }

    pub(super) fn given_to(self, settings: router::Settings) -> router::Settings {
        match self {
            #[cfg(unix)]
            Self::Router(heritage) => router::Settings { heritage: Some(heritage), ..settings },
            Self::Sockets(sockets) => router::Settings { sockets, ..settings },
        }
    }
}
