//! The router's sockets with QUIC on them: UDP, and TLS over TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt,
};

use super::junction::{Junction, is_over_tls};
use super::packets::{LARGEST_PACKET, MIN_PACKET, Route};
use super::roaming::Roaming;
use super::tcp::{Caller, TlsListener, listen};
use super::tls::{self, TlsError};
use super::{Connection, Secrets, Settings, ShareCell, socket};
use crate::identity::Keypair;
use crate::tunnel::CarrierChoice;

/// An endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is taken.
    #[error(
        "{protocol} {addr} is in use: another router may run here; choose another --bind or stop what holds it"
    )]
    InUse {
        /// UDP or TCP.
        protocol: &'static str,
        /// What should have been bound.
        addr: SocketAddr,
    },
    /// This machine has no such address.
    #[error("cannot listen on {protocol} {addr}: this machine does not have that address")]
    NotAvailable {
        /// UDP or TCP.
        protocol: &'static str,
        /// What should have been bound.
        addr: SocketAddr,
    },
    /// The socket cannot be had.
    #[error("{protocol} {addr}: {source}")]
    Socket {
        /// UDP or TCP.
        protocol: &'static str,
        /// What should have been bound.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS settings do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl EndpointError {
    pub(super) fn of(protocol: &'static str, addr: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { protocol, addr },
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => {
                Self::NotAvailable { protocol, addr }
            }
            _ => Self::Socket { protocol, addr, source },
        }
    }
}

/// The unspecified address of the same family.
pub(super) fn any_of(remote: SocketAddr) -> IpAddr {
    match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sockets that somebody else has bound: an earlier program, or the service manager. What is missing is bound here.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For QUIC.
    pub udp: Option<UdpSocket>,
    /// For TLS, of the same port.
    pub tcp: Option<TcpListener>,
}

/// The router's end.
#[derive(Debug)]
pub struct RouterEndpoint {
    endpoint: Endpoint,
    /// The same socket as QUIC's, for who goes on with it.
    #[cfg_attr(not(unix), expect(dead_code, reason = "sockets are handed over on Unix"))]
    udp: UdpSocket,
    server: ServerConfig,
    settings: Settings,
    tls: Option<TlsListener>,
}

impl RouterEndpoint {
    /// Binds `addr` for UDP and, where [`Settings::carrier`] has TLS, the same one for TCP, unless `given` has them. An
    /// IPv6 wildcard takes IPv4 too. [CAR-1]
    pub fn bind(
        settings: &Settings,
        keypair: &Keypair,
        secrets: &Secrets,
        addr: SocketAddr,
        given: Sockets,
    ) -> Result<Self, EndpointError> {
        let crypto = tls::router(settings, keypair)?;
        let quic = tls::quic_router(Arc::clone(&crypto)).map_err(TlsError::from)?;
        let mut server = ServerConfig::new(Arc::new(quic), secrets.token_key());
        server
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFERS);
        let mut config = secrets.endpoint();
        config.min_reset_interval(MIN_RESET_INTERVAL);
        let payload =
            settings.max_packet.unwrap_or(LARGEST_PACKET).clamp(MIN_PACKET, LARGEST_PACKET);
        let (udp, tcp) = sockets(addr, settings, given)?;
        let failed = |error| EndpointError::of("UDP", addr, error);
        let own = udp.try_clone().map_err(failed)?;
        let socket = socket::for_quic(udp, payload, &TokioRuntime).map_err(failed)?;
        let mut socket: Arc<dyn AsyncUdpSocket> = Roaming::new(socket, secrets.connection_ids());
        let mut tls = None;
        if let Some(tcp) = tcp {
            let junction = Junction::new(socket);
            let limit = settings.handshake_limit();
            let listener = TlsListener::on(tcp, crypto, Arc::clone(&junction), limit);
            tls = Some(listener.map_err(|error| EndpointError::of("TCP", addr, error))?);
            socket = junction;
        }
        let endpoint = endpoint(config, Some(server.clone()), addr, payload, socket)?;
        Ok(Self { endpoint, udp: own, server, settings: settings.clone(), tls })
    }

    /// The sockets for UDP and TCP, for a program that goes on with them.
    #[cfg(unix)]
    pub fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.udp.as_fd(), self.tls.as_ref().map(TlsListener::descriptor))
    }

    /// Where the router listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next stranger; `None` when the endpoint is closed. Does no cryptography. Cancel-safe.
    pub async fn accept(&self) -> Option<Arrival> {
        let incoming = self.endpoint.accept().await?;
        let (server, settings) = (self.server.clone(), self.settings.clone());
        Some(Arrival { incoming, server, settings })
    }

    /// The next one who calls by TCP; pends for ever when there is no TCP port. Does no cryptography. Cancel-safe.
    pub async fn call(&self) -> Caller {
        match &self.tls {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    }

    /// Closes every connection with a code and lets the last packets out.
    pub async fn close(&self, code: u64, reason: &str) {
        self.endpoint.close(VarInt::from_u64(code).unwrap_or(VarInt::MAX), reason.as_bytes());
        let _ = tokio::time::timeout(LAST_PACKETS, self.endpoint.wait_idle()).await;
    }
}

/// Somebody who knocks: nothing is known of them but an address, which may be forged.
#[derive(Debug)]
pub struct Arrival {
    incoming: Incoming,
    server: ServerConfig,
    settings: Settings,
}

impl Arrival {
    /// Whether the address is proved to be the sender's own.
    pub fn is_validated(&self) -> bool {
        // TCP has shown that too; quinn's proof would not: it forgets the scope, by which such an address is known.
        self.incoming.remote_address_validated() || is_over_tls(self.incoming.remote_address())
    }

    /// The address that knocks.
    pub fn remote_addr(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Asks the sender to prove its address first (Retry, RFC 9000, 8.1.2). Costs no state.
    pub fn ask_for_proof(self) {
        if self.incoming.may_retry() {
            let _ = self.incoming.retry();
        } else {
            self.incoming.refuse();
        }
    }

    /// Says no without any cryptography.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Shakes hands; `None` when that fails or takes too long. TLS has then proved that the peer holds some key, not
    /// that it may enter. Cancel-safe: dropped, the attempt ends.
    pub async fn handshake(self) -> Option<Connection> {
        let Self { incoming, mut server, settings } = self;
        let route = Route::to(incoming.remote_address(), &settings);
        let share = Arc::new(ShareCell::new(settings.priority));
        server.transport_config(Arc::new(settings.transport(&route, true, &share)));
        let connecting = incoming.accept_with(Arc::new(server)).ok()?;
        let limit = settings.handshake_limit();
        let connection = tokio::time::timeout(limit, connecting).await.ok()?.ok()?;
        Connection::new(connection, Arc::new(OnceLock::new()), share)
    }
}

/// The router's sockets. With port 0, one that UDP and TCP both have free.
fn sockets(
    addr: SocketAddr,
    settings: &Settings,
    mut given: Sockets,
) -> Result<(UdpSocket, Option<TcpListener>), EndpointError> {
    let mut tries = if addr.port() == 0 && given.udp.is_none() { FREE_PORTS } else { 1 };
    loop {
        tries -= 1;
        let failed = |error| EndpointError::of("UDP", addr, error);
        let udp = given.udp.take().map_or_else(|| socket::bind(addr), Ok).map_err(failed)?;
        if settings.carrier == CarrierChoice::Quic {
            return Ok((udp, None));
        }
        let local = udp.local_addr().map_err(failed)?;
        match given.tcp.take().map_or_else(|| listen(local), Ok) {
            Ok(tcp) => return Ok((udp, Some(tcp))),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(EndpointError::of("TCP", local, error)),
        }
    }
}

/// A UDP socket for QUIC.
pub(super) fn udp(
    addr: SocketAddr,
    payload: u16,
) -> Result<Arc<dyn AsyncUdpSocket>, EndpointError> {
    socket::bind(addr)
        .and_then(|socket| socket::for_quic(socket, payload, &TokioRuntime))
        .map_err(|error| EndpointError::of("UDP", addr, error))
}

/// QUIC on a socket.
pub(super) fn endpoint(
    mut config: EndpointConfig,
    server: Option<ServerConfig>,
    addr: SocketAddr,
    payload: u16,
    socket: Arc<dyn AsyncUdpSocket>,
) -> Result<Endpoint, EndpointError> {
    config.max_udp_payload_size(payload).expect("between 1,200 and 65,527");
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
        .map_err(|error| EndpointError::of("UDP", addr, error))
}

/// A name for QUIC's interface only: it is never sent (SNI is off), never checked (the key is), and reserved
/// (RFC 6761).
pub(super) const SERVER_NAME: &str = "conduit.invalid";
/// quinn's defaults are 65,536 strangers with 10 MiB each; a post-quantum ClientHello needs 2.5 KiB.
const MAX_INCOMING: usize = 1_024;
const INCOMING_BUFFER: u64 = 32 << 10;
const INCOMING_BUFFERS: u64 = 16 << 20;
/// quinn allows 50 stateless resets a second for the whole endpoint: a restarted router has more clients than that. At one a
/// millisecond of a thousand idle clients some were denied three in a row, and knew of the restart 2.3 s later.
const MIN_RESET_INTERVAL: Duration = Duration::from_micros(50);
/// Attempts to find a port that UDP and TCP both have free.
const FREE_PORTS: u32 = 16;
/// What a close waits for its last packets.
pub(super) const LAST_PACKETS: Duration = Duration::from_millis(500);
