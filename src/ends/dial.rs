//! Dialling a target: resolve once, ask about each candidate, connect to exactly what was allowed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::race::{interleave, race};
use super::socket::tune;
use super::{Stream, UdpPort, files};
use crate::policy::{Decision, Denial};
use crate::tunnel::{Host, HostPort, Target, UnixPath};
use crate::wire::Code;

#[cfg(unix)]
mod unix;

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

/// What a target has turned out to be, and what is connected to if it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate<'a> {
    /// An address that the target resolves to, in canonical form.
    Addr(SocketAddr),
    /// The socket that the target's path leads to, without symbolic links.
    Unix(&'a UnixPath),
}

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or there is nothing at the path.
    #[error("cannot find {name}: {source}; is the name right, seen from the host that dials it?")]
    NotFound {
        /// The host's name, or the socket.
        name: String,
        /// What the resolver said, or the system.
        source: io::Error,
    },
    /// The resolver did not answer in time.
    #[error("the name server did not answer for {host} in time")]
    ResolveTimeout {
        /// The name.
        host: Host,
    },
    /// Nothing that the target stands for may be dialled; nothing was sent anywhere.
    #[error("{target} is denied: {denial}")]
    Denied {
        /// The target.
        target: Target,
        /// Why.
        denial: Denial,
    },
    /// The host is there, and nothing listens on the port; or nobody does on the socket.
    #[error("{target} refused the connection: is the service running?")]
    Refused {
        /// The target.
        target: Target,
    },
    /// There is no way to the host.
    #[error("{target} is unreachable: there is no route, or the host is down")]
    Unreachable {
        /// The target.
        target: Target,
    },
    /// Nothing came back.
    #[error("{target} did not answer within {} s: a firewall may drop the packets", after.as_secs_f32())]
    TimedOut {
        /// The target.
        target: Target,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else.
    #[error("cannot connect to {target}: {source}")]
    Other {
        /// The target.
        target: Target,
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

/// Connects to `target`. `decide` is asked about every address that the target resolves to, in canonical form, or about
/// the Unix socket that it leads to; a candidate that it denies is not connected to, and an allowed one is connected to
/// as it was shown. [STR-12]
///
/// Dropping the future closes every attempt.
pub async fn dial(
    target: &Target,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
) -> Result<Stream, DialError> {
    let stream = match target {
        Target::Host(target) => Stream::from(dial_with(target, decide, settings, lookup).await?),
        #[cfg(unix)]
        Target::Unix(path) => Stream::from(unix::dial(path, decide, settings).await?),
        #[cfg(not(unix))]
        Target::Unix(_) => {
            return Err(DialError::new(target.clone(), settings, super::no_unix_sockets()));
        }
    };
    if files::are_scarce(&stream) {
        return Err(DialError::new(target.clone(), settings, files::scarce()));
    }
    Ok(stream)
}

/// A UDP socket for packets to and from `target`: the first allowed address that there is a route to. [FLW-6]
pub async fn dial_udp(
    target: &Target,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
) -> Result<UdpPort, DialError> {
    let Target::Host(target) = target else {
        return Err(DialError::new(target.clone(), settings, super::no_packets()));
    };
    let mut errors = Vec::new();
    for addr in resolve(target, decide, settings).await? {
        match UdpPort::connect(addr) {
            Ok(port) if files::are_scarce(&port) => errors.push(files::scarce()),
            Ok(port) => return Ok(port),
            Err(error) => errors.push(error),
        }
    }
    Err(most_telling(target, settings, errors))
}

/// The addresses of `target` that may be dialled, in the order in which to try them: the first half of [`dial`], for who
/// connects by itself. Never empty.
pub async fn resolve(
    target: &HostPort,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
) -> Result<Vec<SocketAddr>, DialError> {
    resolve_with(target, decide, settings, lookup).await
}

async fn lookup(name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name, port)).await?.collect())
}

/// [`dial`] with the resolver as an argument.
async fn dial_with<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    target: &HostPort,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
    lookup: impl FnOnce(String, u16) -> F,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + settings.timeout;
    let addrs = resolve_with(target, decide, settings, lookup).await?;
    let connecting = race(addrs, settings.attempt_delay, |addr| connect(addr, settings));
    let timed_out =
        || DialError::TimedOut { target: target.clone().into(), after: settings.timeout };
    timeout_at(deadline, connecting)
        .await
        .map_err(|_| timed_out())?
        .map_err(|errors| most_telling(target, settings, errors))
}

/// [`resolve`] with the resolver as an argument.
async fn resolve_with<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    target: &HostPort,
    decide: impl Fn(Candidate<'_>) -> Decision,
    settings: &DialSettings,
    lookup: impl FnOnce(String, u16) -> F,
) -> Result<Vec<SocketAddr>, DialError> {
    let resolved = match &target.host {
        Host::Addr(addr) => vec![SocketAddr::new(*addr, target.port)],
        Host::Name(name) => {
            let limit = settings.resolve_timeout.min(settings.timeout);
            resolved(target, timeout(limit, lookup(name.clone(), target.port)).await)?
        }
    };
    let mut addrs = interleave(allowed(target, resolved, decide)?);
    addrs.truncate(settings.max_addresses.max(1));
    Ok(addrs)
}

fn resolved(
    target: &HostPort,
    answer: Result<io::Result<Vec<SocketAddr>>, tokio::time::error::Elapsed>,
) -> Result<Vec<SocketAddr>, DialError> {
    let host = target.host.clone();
    match answer {
        Err(_) => Err(DialError::ResolveTimeout { host }),
        Ok(Err(source)) => Err(DialError::NotFound { name: host.to_string(), source }),
        Ok(Ok(addrs)) if addrs.is_empty() => {
            let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            Err(DialError::NotFound { name: host.to_string(), source })
        }
        Ok(Ok(addrs)) => Ok(addrs),
    }
}

/// The addresses that may be dialled, each once; when there is none, the first denial.
fn allowed(
    target: &HostPort,
    resolved: Vec<SocketAddr>,
    decide: impl Fn(Candidate<'_>) -> Decision,
) -> Result<Vec<SocketAddr>, DialError> {
    let mut addrs = Vec::new();
    let mut first_denial = None;
    for addr in resolved {
        // The port is the target's, whatever a resolver made of it; scope and flow label are dropped.
        let addr = SocketAddr::new(addr.ip().to_canonical(), target.port);
        match decide(Candidate::Addr(addr)) {
            Decision::Denied(denial) => first_denial = first_denial.or(Some(denial)),
            Decision::Allowed if addrs.contains(&addr) => {}
            Decision::Allowed => addrs.push(addr),
        }
    }
    match first_denial {
        Some(denial) if addrs.is_empty() => {
            Err(DialError::Denied { target: target.clone().into(), denial })
        }
        _ => Ok(addrs),
    }
}

async fn connect(addr: SocketAddr, settings: &DialSettings) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    // The system may pick the dialled port as the local one, on loopback, and connect the socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tune(&stream, settings.nodelay, settings.keepalive)?;
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
        .map(|source| DialError::new(target.clone().into(), settings, source))
        .min_by_key(rank)
        .unwrap_or_else(|| DialError::Unreachable { target: target.clone().into() })
}

impl DialError {
    fn new(target: Target, settings: &DialSettings, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match source.kind() {
            // Only a path can be missing here: a name that is has not come this far.
            Kind::NotFound => Self::NotFound { name: target.to_string(), source },
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

    /// What the other end of the session is told. [STR-13]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::ResolveTimeout { .. } => Code::NotFound,
            Self::Denied { .. } => Code::Denied,
            Self::Refused { .. } => Code::ConnectionRefused,
            Self::Unreachable { .. } => Code::Unreachable,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::Other { source, .. } if source.raw_os_error().is_some_and(is_exhaustion) => {
                Code::Exhausted
            }
            Self::Other { .. } => Code::Unreachable,
        }
    }
}

/// EMFILE and ENFILE: the same numbers on every Unix.
fn is_exhaustion(error: i32) -> bool {
    cfg!(unix) && matches!(error, 23 | 24)
}

impl fmt::Display for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
