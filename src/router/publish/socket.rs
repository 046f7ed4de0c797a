//! The sockets of published ports: bound here, or left by the process before.

use std::sync::Arc;
use std::time::Duration;

use super::{Refusal, lock};
use crate::ends::{ListenError, Listener, UdpPort};
#[cfg(unix)]
use crate::ends::{adopt, leave};
use crate::router::Shared;
use crate::routes::Route;
use crate::tunnel::{Bind, Protocol};
use crate::wire::Code;
#[cfg(unix)]
use crate::wire::handover::Port;

/// A socket that listens for visitors.
#[derive(Debug)]
pub(in crate::router) enum Socket {
    Tcp(Listener),
    Udp(Arc<UdpPort>),
}

impl Socket {
    fn bind(protocol: Protocol, bind: &Bind) -> Result<Self, ListenError> {
        match protocol {
            Protocol::Tcp => Listener::bind(bind, BACKLOG).map(Self::Tcp),
            Protocol::Udp => UdpPort::bind(bind).map(|port| Self::Udp(Arc::new(port))),
        }
    }

    /// What the process before has left.
    #[cfg(unix)]
    pub(in crate::router) fn adopted(port: &Port) -> std::io::Result<Self> {
        let socket = adopt(port.socket)?;
        Ok(match port.udp {
            true => Self::Udp(Arc::new(UdpPort::of(socket.into())?)),
            false => Self::Tcp(Listener::of(socket.into())?),
        })
    }

    #[cfg(unix)]
    pub(super) fn left(&self) -> std::io::Result<Port> {
        let (udp, socket) = match self {
            Self::Tcp(listener) => (false, leave(listener)?),
            Self::Udp(port) => (true, leave(port)?),
        };
        Ok(Port { udp, bind: self.bound().to_string(), socket })
    }

    #[cfg(unix)]
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
        }
    }

    /// The bind with its real port.
    pub(super) fn bound(&self) -> Bind {
        match self {
            Self::Tcp(listener) => listener.local_bind(),
            Self::Udp(port) => port.local_addr().into(),
        }
    }
}

/// Binds; a listener of the same port that is just about to end is waited for.
pub(super) async fn listen(
    shared: &Shared,
    protocol: Protocol,
    bind: &Bind,
) -> Result<Socket, Refusal> {
    let inherited = Route::new(protocol, bind)
        .and_then(|route| lock(&shared.published.inherited).remove(&route));
    if let Some(socket) = inherited {
        return Ok(socket);
    }
    let mut tries = 0;
    loop {
        match Socket::bind(protocol, bind) {
            Err(ListenError::InUse { .. }) if tries < LISTEN_TRIES => {
                tries += 1;
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Ok(socket) => return Ok(socket),
            Err(error) => {
                let reason = error.to_string();
                if shared.table.refuse(&bind.to_string(), None, &reason) {
                    tracing::warn!(%bind, reason, "port not published");
                }
                return Err((Code::Unavailable, reason));
            }
        }
    }
}

/// Visitors that may wait to be accepted; the system's own limit is below it on most hosts.
const BACKLOG: u32 = 4_096;
/// A listener that was told to end has ended within a fraction of this second.
const LISTEN_TRIES: u32 = 50;
const LISTEN_PAUSE: Duration = Duration::from_millis(20);
