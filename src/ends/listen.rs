//! Listening for users: errors that say what to do, and accepting that outlives a full descriptor table.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::{Peer, Stream, canonical, files};
use crate::tunnel::Bind;

mod outage;
#[cfg(unix)]
mod unix;

pub use outage::Outage;
use outage::persevere;

/// A socket that listens. The file of a Unix socket goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    local: Bind,
    outage: Arc<Outage>,
    /// A user who waits for files.
    held: Mutex<Option<(Stream, Peer)>>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::UnixSocket),
}

/// Why an end could not be listened on. `end` is its text.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something listens there already.
    #[error("cannot listen on {end}: it is in use; stop what uses it or choose another")]
    InUse {
        /// The end.
        end: String,
    },
    /// The process may not have this port.
    #[error(
        "cannot listen on {end}: a port below 1024 needs CAP_NET_BIND_SERVICE; run \
         `sudo setcap cap_net_bind_service=+ep \"$(command -v conduit)\"` or choose a port from 1024"
    )]
    NotPermitted {
        /// The end.
        end: String,
    },
    /// This machine has no such address.
    #[error("cannot listen on {end}: this machine does not have that address")]
    NotAvailable {
        /// The end.
        end: String,
    },
    /// Something that is no socket is in the socket's place.
    #[error(
        "cannot listen on {end}: {what} is there, and is left alone; remove it or choose another path"
    )]
    Occupied {
        /// The end.
        end: String,
        /// What is there.
        what: &'static str,
    },
    /// There is no folder for the socket.
    #[error("cannot listen on {end}: its folder does not exist; create it or choose another path")]
    NoFolder {
        /// The end.
        end: String,
    },
    /// Anything else.
    #[error("cannot listen on {end}: {source}")]
    Other {
        /// The end.
        end: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Listener {
    /// Binds and listens. `[::]` takes IPv4 users too; a Unix socket takes this user's processes (mode 0600), and
    /// replaces one that nobody listens on. `backlog` is how many may wait to be accepted; the system may allow fewer.
    ///
    /// Has to be called within a tokio runtime.
    pub fn bind(bind: &Bind, backlog: u32) -> Result<Self, ListenError> {
        let (socket, local) = Listening::bind(bind, backlog)?;
        Ok(Self { socket, local, outage: Arc::default(), held: Mutex::default() })
    }

    /// A socket that listens already, of an earlier program or of the service manager. Has to be called within a tokio
    /// runtime.
    pub fn of(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let local = socket.local_addr()?.into();
        let (outage, held) = (Arc::default(), Mutex::default());
        Ok(Self { socket: Listening::Tcp(socket), local, outage, held })
    }

    /// Where it listens, with the real port.
    pub fn local_bind(&self) -> Bind {
        self.local.clone()
    }

    /// Whether users wait because they cannot be accepted, as long as it listens.
    pub fn outage(&self) -> Arc<Outage> {
        Arc::clone(&self.outage)
    }

    /// The next user, and who it is.
    ///
    /// Never fails: without free descriptors or memory it tries again, at most 50 times a second. Cancel-safe.
    pub async fn accept(&self) -> (Stream, Peer) {
        persevere(&self.outage, &self.local, || self.next()).await
    }

    /// Whoever would take one of the last files waits, and those behind it. Cancel-safe.
    async fn next(&self) -> io::Result<(Stream, Peer)> {
        let held = self.held().take();
        let accepted = match held {
            Some(held) => held,
            None => self.socket.accept().await?,
        };
        if files::are_scarce(&accepted.0) {
            *self.held() = Some(accepted);
            return Err(files::scarce());
        }
        Ok(accepted)
    }

    fn held(&self) -> MutexGuard<'_, Option<(Stream, Peer)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(socket) => socket.as_fd(),
            Listening::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listening {
    fn bind(bind: &Bind, backlog: u32) -> Result<(Self, Bind), ListenError> {
        match bind {
            Bind::Addr(addr) => {
                let open = || {
                    let socket = TcpListener::from_std(tcp(addr.socket_addr(), backlog)?.into())?;
                    let local = socket.local_addr()?;
                    Ok((Self::Tcp(socket), local.into()))
                };
                open().map_err(|source| ListenError::new(bind, source))
            }
            #[cfg(unix)]
            Bind::Unix(path) => {
                Ok((Self::Unix(unix::UnixSocket::bind(path, backlog)?), bind.clone()))
            }
            #[cfg(not(unix))]
            Bind::Unix(_) => Err(ListenError::new(bind, super::no_unix_sockets())),
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((stream.into(), Peer::Addr(canonical(peer))))
            }
            #[cfg(unix)]
            Self::Unix(socket) => socket.accept().await,
        }
    }

    /// As the system counts.
    fn backlog(backlog: u32) -> i32 {
        i32::try_from(backlog).unwrap_or(i32::MAX)
    }
}

fn tcp(addr: SocketAddr, backlog: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart finds connections of the last run in TIME_WAIT. On Windows the option would share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // The default differs between systems.
        socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(Listening::backlog(backlog))?;
    Ok(socket)
}

impl ListenError {
    pub(super) fn new(bind: &Bind, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let end = bind.to_string();
        let is_low = bind.socket_addr().is_some_and(|addr| addr.port() < 1024);
        match source.kind() {
            Kind::AddrInUse => Self::InUse { end },
            Kind::PermissionDenied if is_low => Self::NotPermitted { end },
            // A link-local address without its interface is nobody's.
            Kind::AddrNotAvailable | Kind::InvalidInput => Self::NotAvailable { end },
            // Of a file that is about to be made, only the folder can be missing.
            Kind::NotFound => Self::NoFolder { end },
            _ => Self::Other { end, source },
        }
    }
}

#[cfg(test)]
mod tests {

    use tokio::net::TcpStream;

    use super::*;

    fn bind(text: &str) -> Result<Listener, ListenError> {
        Listener::bind(&text.parse().expect(text), 16)
    }

    fn addr(listener: &Listener) -> SocketAddr {
        listener.local_bind().socket_addr().expect("TCP")
    }

    #[tokio::test]
    async fn a_bound_socket_accepts_and_knows_its_port() {
        let listener = bind("127.0.0.1:0").expect("bind");
        assert_ne!(addr(&listener).port(), 0);
        let user = TcpStream::connect(addr(&listener)).await.expect("connect");
        let (_stream, peer) = listener.accept().await;
        assert_eq!(peer, Peer::Addr(user.local_addr().expect("an address")));
    }

    #[tokio::test]
    async fn the_ipv6_wildcard_takes_ipv4_users_too() {
        let listener = bind("[::]:0").expect("bind");
        let port = addr(&listener).port();
        let user = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        let (_stream, peer) = listener.accept().await;
        assert_eq!(peer, Peer::Addr(user.local_addr().expect("an IPv4 address")));
    }

    #[tokio::test]
    async fn a_port_in_use_and_a_foreign_address_say_so() {
        let first = bind("127.0.0.1:0").expect("bind");
        let addr = addr(&first);
        let error = bind(&addr.to_string()).expect_err("in use");
        assert!(
            matches!(&error, ListenError::InUse { end } if *end == addr.to_string()),
            "{error}"
        );
        let error = bind("192.0.2.1:0").expect_err("not ours");
        assert!(matches!(error, ListenError::NotAvailable { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_port_is_free_again_as_soon_as_the_listener_is_gone() {
        let listener = bind("127.0.0.1:0").expect("bind");
        let addr = addr(&listener);
        let user = TcpStream::connect(addr).await.expect("connect");
        drop(listener.accept().await);
        drop(listener);
        drop(user);
        bind(&addr.to_string()).expect("bind again");
    }

    #[test]
    fn a_low_port_without_the_right_names_the_capability() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let low = ListenError::new(&SocketAddr::from(([0; 4], 80)).into(), denied());
        assert!(low.to_string().contains("CAP_NET_BIND_SERVICE"), "{low}");
        let high = ListenError::new(&SocketAddr::from(([0; 4], 8080)).into(), denied());
        assert!(matches!(high, ListenError::Other { .. }), "{high}");
    }
}
