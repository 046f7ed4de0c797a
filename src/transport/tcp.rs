//! TLS over TCP, for networks that carry no UDP: how a client dials it and how a router answers. Implements
//! `proto-spec/carriers.md`, chapter "Connection".

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::endpoint::SERVER_NAME;
use super::junction::{Junction, Opened};
use super::{Settings, proxy};

/// A router's TCP port.
#[derive(Debug)]
pub(super) struct TlsListener {
    listener: TcpListener,
    crypto: Arc<rustls::ServerConfig>,
    junction: Arc<Junction>,
    /// How long a handshake may take.
    limit: Duration,
    /// When to accept again after the system had no file left.
    not_before: Mutex<Option<Instant>>,
}

/// Somebody who has connected: nothing is known of them but an address, which is their own.
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    remote: SocketAddr,
    crypto: Arc<rustls::ServerConfig>,
    junction: Arc<Junction>,
    limit: Duration,
}

/// A TLS connection with somebody who holds some key.
#[derive(Debug)]
pub struct TlsLane {
    stream: server::TlsStream<TcpStream>,
    opened: Opened,
}

impl TlsListener {
    /// Serves TLS on a socket that [`listen`] has made, or another program. A handshake takes `limit` at most.
    pub(super) fn on(
        socket: std::net::TcpListener,
        crypto: Arc<rustls::ServerConfig>,
        junction: Arc<Junction>,
        limit: Duration,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        Ok(Self { listener, crypto, junction, limit, not_before: Mutex::default() })
    }

    /// The socket.
    #[cfg(unix)]
    pub(super) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.listener)
    }

    /// The next caller. Does no cryptography. Cancel-safe.
    pub(super) async fn accept(&self) -> Caller {
        loop {
            let not_before = *lock(&self.not_before);
            if let Some(not_before) = not_before {
                tokio::time::sleep_until(not_before).await;
            }
            match self.listener.accept().await {
                Ok((stream, remote)) => {
                    *lock(&self.not_before) = None;
                    let (crypto, junction) = (Arc::clone(&self.crypto), Arc::clone(&self.junction));
                    return Caller { stream, remote, crypto, junction, limit: self.limit };
                }
                // Who called has hung up.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of files, most likely: some become free.
                    let was = lock(&self.not_before).replace(Instant::now() + NO_FILES);
                    if was.is_none() {
                        tracing::warn!(%error, "no TCP connection can be accepted for the moment");
                    }
                }
            }
        }
    }
}

/// Listens on `addr`. An IPv6 wildcard takes IPv4 too. [CAR-1]
pub(super) fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of a router before this one may still be closing.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Caller {
    /// The address that calls.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Shakes hands; `None` when that fails or takes too long, or when the first byte is none of TLS.
    /// TLS has then proved that the peer holds some key, not that it may enter. Cancel-safe: dropped, the attempt
    /// ends. [CAR-2] [CAR-7]
    pub async fn handshake(self) -> Option<TlsLane> {
        let Self { stream, remote, crypto, junction, limit } = self;
        let handshake = async {
            let mut first = [0];
            let is_tls = stream.peek(&mut first).await.ok()? == 1 && first == [HANDSHAKE];
            if !is_tls {
                return None;
            }
            tune(&stream);
            TlsAcceptor::from(crypto).accept(stream).await.ok()
        };
        let stream = tokio::time::timeout(limit, handshake).await.ok()??;
        Some(TlsLane { stream, opened: junction.open(remote)? })
    }
}

impl TlsLane {
    /// Moves packets until the TLS connection ends; the reason is returned as an error. Not cancel-safe: dropped, it ends.
    pub async fn carry(self) -> io::Error {
        self.opened.lane().carry(self.stream, self.opened.outlet()).await
    }
}

/// Dials a router, through the proxy where there is one. The error of a handshake is that of TLS. Cancel-safe: dropped,
/// the attempt ends. [CAR-2] [CAR-11]
pub(super) async fn dial(
    remote: SocketAddr,
    settings: &Settings,
    crypto: Arc<rustls::ClientConfig>,
) -> io::Result<client::TlsStream<TcpStream>> {
    let stream = match (&settings.proxy, &settings.proxied_name) {
        (None, _) => TcpStream::connect(remote).await?,
        (Some(proxy), Some(name)) => proxy::connect(proxy, name).await?,
        (Some(proxy), None) => proxy::connect(proxy, &remote.into()).await?,
    };
    tune(&stream);
    let name = ServerName::try_from(SERVER_NAME).expect("a legal name");
    TlsConnector::from(crypto).connect(name, stream).await
}

/// Packets leave at once, and wait where QUIC sees them rather than in the system's buffer. What cannot be set is left as
/// it is.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

fn lock(not_before: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    not_before.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The type of a record that begins a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;
const BACKLOG: i32 = 1_024;
const NO_FILES: Duration = Duration::from_millis(100);
/// Bytes that the system takes of a stream beyond what is on its way.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 << 10;
