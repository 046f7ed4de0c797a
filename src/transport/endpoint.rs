//! UDP sockets with QUIC on them: the client's, which dials, and the router's, which answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};

use super::negotiated::Observing;
use super::packets::{LARGEST_PACKET, MIN_PACKET, Packets, Route};
use super::tls::{self, TlsError};
use super::{Connection, Secrets, Settings, ShareCell, socket};
use crate::identity::Keypair;
use crate::tunnel::Identity;

/// An endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is taken.
    #[error(
        "UDP {addr} is in use: another router may run here; choose another --bind or stop what holds it"
    )]
    InUse {
        /// What should have been bound.
        addr: SocketAddr,
    },
    /// This machine has no such address.
    #[error("cannot listen on UDP {addr}: this machine does not have that address")]
    NotAvailable {
        /// What should have been bound.
        addr: SocketAddr,
    },
    /// The socket cannot be had.
    #[error("UDP {addr}: {source}")]
    Socket {
        /// What should have been bound.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS settings do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

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

/// The client's end: one UDP socket for connections to one router.
#[derive(Debug)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
    settings: Settings,
    route: Route,
    /// The unspecified address of the router's family.
    any: IpAddr,
}

impl ClientEndpoint {
    /// Binds a free port and dials, within [`Settings::connect_timeout`] in all. On loopback silence may mean that no
    /// router is there but a relay to one, which drops or cuts large packets: after a third of the time it is tried as
    /// any other path. Cancel-safe.
    pub async fn reach(
        mut settings: Settings,
        remote: SocketAddr,
        keypair: &Keypair,
        pin: Identity,
    ) -> Result<(Self, Connection), ConnectError> {
        let after = settings.connect_timeout;
        if settings.trust_loopback && remote.ip().to_canonical().is_loopback() {
            let endpoint =
                Self::bind(Settings { connect_timeout: after / 3, ..settings.clone() }, remote)?;
            match endpoint.connect(remote, keypair, pin).await {
                Ok(connection) => return Ok((endpoint, connection)),
                Err(ConnectError::NoReply { .. }) => {}
                Err(error) => return Err(error),
            }
            settings.trust_loopback = false;
            settings.connect_timeout = after - after / 3;
        }
        let endpoint = Self::bind(settings, remote)?;
        match endpoint.connect(remote, keypair, pin).await {
            Ok(connection) => Ok((endpoint, connection)),
            Err(ConnectError::NoReply { addr, .. }) => Err(ConnectError::NoReply { addr, after }),
            Err(error) => Err(error),
        }
    }

    /// Binds a free UDP port of the family of `remote`.
    pub fn bind(settings: Settings, remote: SocketAddr) -> Result<Self, EndpointError> {
        let any = any_of(remote);
        let route = Route::to(remote, &settings);
        let payload = Packets::on(&route, settings.max_packet).most;
        let addr = SocketAddr::new(any, 0);
        let endpoint = endpoint(EndpointConfig::default(), None, addr, payload)?;
        Ok(Self { endpoint, settings, route, any })
    }

    /// Dials a router whose key is `pin`. Nothing is sent to a router that shows another one. Bounded by
    /// [`Settings::connect_timeout`]. Cancel-safe: dropped, the attempt ends.
    pub async fn connect(
        &self,
        remote: SocketAddr,
        keypair: &Keypair,
        pin: Identity,
    ) -> Result<Connection, ConnectError> {
        let (crypto, verifier) =
            tls::client(&self.settings, keypair, pin).map_err(EndpointError::Tls)?;
        let seen = Arc::new(OnceLock::new());
        let crypto = Observing { inner: Arc::new(crypto), seen: Arc::clone(&seen) };
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let share = Arc::new(ShareCell::new(self.settings.priority));
        let transport = self.settings.transport(&self.route, false, &share);
        config.transport_config(Arc::new(transport));
        let failed = |reason: String| ConnectError::Failed { addr: remote, reason };
        let connecting = self
            .endpoint
            .connect_with(config, remote, SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        let after = self.settings.connect_timeout;
        let connection = tokio::select! {
            connected = connecting => connected,
            () = refused_by_host(remote) => return Err(ConnectError::NobodyListens { addr: remote }),
            () = tokio::time::sleep(after) => return Err(ConnectError::NoReply { addr: remote, after }),
        };
        let connection = connection.map_err(|error| match verifier.impostor() {
            Some(shown) => ConnectError::WrongKey { addr: remote, pinned: pin, shown },
            None => failed(error.to_string()),
        })?;
        Connection::new(connection, seen, share)
            .ok_or_else(|| failed("the router showed no key".to_owned()))
    }

    /// Goes on from a fresh socket, and so from the address that the machine has now: the router hears from it at once, and
    /// checks that it is this client's (RFC 9000, 9.3). When there is no socket to be had, the one before stays.
    pub fn rebind(&self) -> Result<(), EndpointError> {
        let addr = SocketAddr::new(self.any, 0);
        let failed = |source| EndpointError::Socket { addr, source };
        let payload = Packets::on(&self.route, self.settings.max_packet).most;
        let socket = socket::bind(addr, payload, &TokioRuntime).map_err(failed)?;
        self.endpoint.rebind_abstract(socket).map_err(failed)
    }

    /// Lets the last packets out.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(LAST_PACKETS, self.endpoint.wait_idle()).await;
    }
}

/// The unspecified address of the same family.
pub(super) fn any_of(remote: SocketAddr) -> IpAddr {
    match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// QUIC does not hear of a closed port: an ICMP answer reaches connected sockets only. So one is asked beside it, with
/// a datagram that no version of QUIC answers (below 1,200 bytes, RFC 9000, 14.1). Pends for ever when nothing says no.
async fn refused_by_host(remote: SocketAddr) {
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(SocketAddr::new(any_of(remote), 0)).await.ok()?;
        socket.connect(remote).await.ok()?;
        socket.send(&[0]).await.ok()?;
        match socket.recv(&mut [0; 1]).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(()),
            _ => None,
        }
    };
    if probe.await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The router's end.
#[derive(Debug)]
pub struct RouterEndpoint {
    endpoint: Endpoint,
    server: ServerConfig,
    settings: Settings,
}

impl RouterEndpoint {
    /// Binds `addr`. An IPv6 wildcard takes IPv4 too.
    pub fn bind(
        settings: &Settings,
        keypair: &Keypair,
        secrets: &Secrets,
        addr: SocketAddr,
    ) -> Result<Self, EndpointError> {
        let crypto = Arc::new(tls::router(settings, keypair)?);
        let mut server = ServerConfig::new(crypto, secrets.token_key());
        server
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFERS);
        let mut config = secrets.endpoint();
        config.min_reset_interval(MIN_RESET_INTERVAL);
        let payload =
            settings.max_packet.unwrap_or(LARGEST_PACKET).clamp(MIN_PACKET, LARGEST_PACKET);
        let endpoint = endpoint(config, Some(server.clone()), addr, payload)?;
        Ok(Self { endpoint, server, settings: settings.clone() })
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
        self.incoming.remote_address_validated()
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
        let limit = settings.connect_timeout.max(HANDSHAKE_TIMEOUT);
        let connection = tokio::time::timeout(limit, connecting).await.ok()?.ok()?;
        Connection::new(connection, Arc::new(OnceLock::new()), share)
    }
}

fn endpoint(
    mut config: EndpointConfig,
    server: Option<ServerConfig>,
    addr: SocketAddr,
    payload: u16,
) -> Result<Endpoint, EndpointError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => EndpointError::InUse { addr },
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => {
            EndpointError::NotAvailable { addr }
        }
        _ => EndpointError::Socket { addr, source },
    };
    let runtime = Arc::new(TokioRuntime);
    let socket = socket::bind(addr, payload, &*runtime).map_err(failed)?;
    config.max_udp_payload_size(payload).expect("between 1,200 and 65,527");
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).map_err(failed)
}

/// A name for QUIC's interface only: it is never sent (SNI is off), never checked (the key is), and reserved
/// (RFC 6761).
const SERVER_NAME: &str = "conduit.invalid";
/// quinn's defaults are 65,536 strangers with 10 MiB each; a post-quantum ClientHello needs 2.5 KiB.
const MAX_INCOMING: usize = 1_024;
const INCOMING_BUFFER: u64 = 32 << 10;
const INCOMING_BUFFERS: u64 = 16 << 20;
/// quinn allows 50 stateless resets a second for the whole endpoint: a restarted router has more clients than that.
const MIN_RESET_INTERVAL: Duration = Duration::from_millis(1);
/// For who is on a long, lossy link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a close waits for its last packets.
const LAST_PACKETS: Duration = Duration::from_millis(500);
