//! Dialling a target: resolve once, ask about each address, connect to exactly what was allowed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::race::{interleave, race};
use super::socket::tune;
use crate::policy::{Decision, Denial};
use crate::tunnel::{Host, HostPort};

/// How targets are dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSettings {
    /// For everything together, name resolution included. Default 10 s.
    pub timeout: Duration,
    /// The head start of one address before the next. Default 250 ms (RFC 8305, section 5).
    pub attempt_delay: Duration,
    /// For name resolution alone. Default 5 s.
    pub resolve_timeout: Duration,
    /// Addresses of one name that are tried at most, which bounds what one dial costs. Default 8.
    pub max_addresses: usize,
    /// `TCP_NODELAY` on the connected socket. Default on.
    pub nodelay: bool,
    /// Idle time before keep-alive probes. Default none.
    pub keepalive: Option<Duration>,
}

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot find {host}: {source}; is the name right, seen from the host that dials it?")]
    NotFound {
        /// The name.
        host: Host,
        /// What the resolver said.
        source: io::Error,
    },
    /// The resolver did not answer in time.
    #[error("the name server did not answer for {host} in time")]
    ResolveTimeout {
        /// The name.
        host: Host,
    },
    /// No address of the target may be dialled; nothing was sent anywhere.
    #[error("{target} is denied: {denial}")]
    Denied {
        /// The target.
        target: HostPort,
        /// Why.
        denial: Denial,
    },
    /// The host is there, and nothing listens on the port.
    #[error("{target} refused the connection: is the service running?")]
    Refused {
        /// The target.
        target: HostPort,
    },
    /// There is no way to the host.
    #[error("{target} is unreachable: there is no route, or the host is down")]
    Unreachable {
        /// The target.
        target: HostPort,
    },
    /// Nothing came back.
    #[error("{target} did not answer within {} s: a firewall may drop the packets", after.as_secs_f32())]
    TimedOut {
        /// The target.
        target: HostPort,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else.
    #[error("cannot connect to {target}: {source}")]
    Other {
        /// The target.
        target: HostPort,
        /// What the system said.
        source: io::Error,
    },
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempt_delay: Duration::from_millis(250),
            resolve_timeout: Duration::from_secs(5),
            max_addresses: 8,
            nodelay: true,
            keepalive: None,
        }
    }
}

/// Connects to `target`. `decide` is asked about every address that the target resolves to, in canonical form; an
/// address that it denies is not connected to, and an allowed one is connected to as it was shown. [STR-12]
///
/// Dropping the future closes every attempt.
pub async fn dial(
    target: &HostPort,
    decide: impl Fn(SocketAddr) -> Decision,
    settings: &DialSettings,
) -> Result<TcpStream, DialError> {
    dial_with(target, decide, settings, |name, port| async move {
        Ok(tokio::net::lookup_host((name.as_str(), port)).await?.collect())
    })
    .await
}

/// [`dial`] with the resolver as an argument.
async fn dial_with<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    target: &HostPort,
    decide: impl Fn(SocketAddr) -> Decision,
    settings: &DialSettings,
    resolve: impl FnOnce(String, u16) -> F,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + settings.timeout;
    let resolved = match &target.host {
        Host::Addr(addr) => vec![SocketAddr::new(*addr, target.port)],
        Host::Name(name) => {
            let limit = settings.resolve_timeout.min(settings.timeout);
            resolved(target, timeout(limit, resolve(name.clone(), target.port)).await)?
        }
    };
    let mut addrs = interleave(allowed(target, resolved, decide)?);
    addrs.truncate(settings.max_addresses.max(1));

    let connecting = race(addrs, settings.attempt_delay, connect);
    let timed_out = || DialError::TimedOut { target: target.clone(), after: settings.timeout };
    let stream = timeout_at(deadline, connecting)
        .await
        .map_err(|_| timed_out())?
        .map_err(|errors| most_telling(target, settings, errors))?;
    tune(&stream, settings.nodelay, settings.keepalive)
        .map_err(|source| DialError::new(target, settings, source))?;
    Ok(stream)
}

fn resolved(
    target: &HostPort,
    answer: Result<io::Result<Vec<SocketAddr>>, tokio::time::error::Elapsed>,
) -> Result<Vec<SocketAddr>, DialError> {
    let host = target.host.clone();
    match answer {
        Err(_) => Err(DialError::ResolveTimeout { host }),
        Ok(Err(source)) => Err(DialError::NotFound { host, source }),
        Ok(Ok(addrs)) if addrs.is_empty() => {
            let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            Err(DialError::NotFound { host, source })
        }
        Ok(Ok(addrs)) => Ok(addrs),
    }
}

/// The addresses that may be dialled, each once; when there is none, the first denial.
fn allowed(
    target: &HostPort,
    resolved: Vec<SocketAddr>,
    decide: impl Fn(SocketAddr) -> Decision,
) -> Result<Vec<SocketAddr>, DialError> {
    let mut addrs = Vec::new();
    let mut first_denial = None;
    for addr in resolved {
        // The port is the target's, whatever a resolver made of it; scope and flow label are dropped.
        let addr = SocketAddr::new(addr.ip().to_canonical(), target.port);
        match decide(addr) {
            Decision::Denied(denial) => first_denial = first_denial.or(Some(denial)),
            Decision::Allowed if addrs.contains(&addr) => {}
            Decision::Allowed => addrs.push(addr),
        }
    }
    match first_denial {
        Some(denial) if addrs.is_empty() => {
            Err(DialError::Denied { target: target.clone(), denial })
        }
        _ => Ok(addrs),
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    // The system may pick the dialled port as the local one, on loopback, and connect the socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Of several failures the one that tells most: a host that refused is there, whatever the others did.
fn most_telling(target: &HostPort, settings: &DialSettings, errors: Vec<io::Error>) -> DialError {
    let rank = |error: &DialError| match error {
        DialError::Refused { .. } => 0,
        DialError::TimedOut { .. } => 1,
        DialError::Unreachable { .. } => 2,
        _ => 3,
    };
    errors
        .into_iter()
        .map(|source| DialError::new(target, settings, source))
        .min_by_key(rank)
        .unwrap_or_else(|| DialError::Unreachable { target: target.clone() })
}

impl DialError {
    fn new(target: &HostPort, settings: &DialSettings, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let target = target.clone();
        match source.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset => Self::Refused { target },
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Self::Unreachable { target }
            }
            // No local address of that family: IPv6 on a host without it.
            Kind::AddrNotAvailable => Self::Unreachable { target },
            Kind::TimedOut => Self::TimedOut { target, after: settings.timeout },
            _ => Self::Other { target, source },
        }
    }
}

#[cfg(test)]
mod tests;
