//! The client's end of a connection: which carrier it takes, and how it goes on from one to the other.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect_error::ConnectError;
use super::endpoint::{EndpointError, LAST_PACKETS, SERVER_NAME, any_of, endpoint, udp};
use super::junction::Alley;
use super::lane::Lane;
use super::negotiated::Observing;
use super::packets::{Packets, Route};
use super::tls::{self, PinnedKey};
use super::{Carrier, Connection, Settings, ShareCell, tcp};
use crate::identity::Keypair;
use crate::task::Tasks;
use crate::tunnel::{CarrierChoice, Identity};

/// The client's end: one socket for connections to one router, and a new one when it moves.
#[derive(Debug)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
    settings: Settings,
    route: Route,
    remote: SocketAddr,
    over_tls: Mutex<Option<OverTls>>,
}

/// The TLS connection that packets go through.
#[derive(Debug)]
struct OverTls {
    lane: Arc<Lane>,
    ended: CancellationToken,
    /// Dropped, it has the task end that carries, once the last packets have left.
    _leaves: DropGuard,
}

impl ClientEndpoint {
    /// Dials over what [`Settings::carrier`] allows, each carrier within [`Settings::connect_timeout`]. With the choice of
    /// both QUIC begins, TLS joins after a moment or when QUIC has failed, and the first is taken over which the router
    /// has proved its key. Cancel-safe. [CAR-8]
    pub async fn reach(
        settings: Settings,
        remote: SocketAddr,
        keypair: &Keypair,
        pin: Identity,
    ) -> Result<(Self, Connection), ConnectError> {
        match settings.carrier {
            // There is no address to send a packet to.
            _ if settings.proxied_name.is_some() => {
                Self::reach_over_tls(settings, remote, keypair, pin).await
            }
            CarrierChoice::Quic => Self::reach_over_udp(settings, remote, keypair, pin).await,
            CarrierChoice::Tls => Self::reach_over_tls(settings, remote, keypair, pin).await,
            CarrierChoice::Auto => Self::race(settings, remote, keypair, pin).await,
        }
    }

    async fn race(
        settings: Settings,
        remote: SocketAddr,
        keypair: &Keypair,
        pin: Identity,
    ) -> Result<(Self, Connection), ConnectError> {
        let head_start = if settings.tls_at_once { Duration::ZERO } else { HEAD_START };
        let mut udp = pin!(Self::reach_over_udp(settings.clone(), remote, keypair, pin));
        let mut tls = pin!(Self::reach_over_tls(settings, remote, keypair, pin));
        let early = tokio::select! {
            reached = &mut udp => Some(reached),
            () = tokio::time::sleep(head_start) => None,
        };
        let (udp, tls) = match early {
            Some(Err(error)) if !error.is_final() => (error, tls.await),
            Some(reached) => return reached,
            None => tokio::select! {
                reached = &mut udp => match reached {
                    Err(error) if !error.is_final() => (error, tls.await),
                    reached => return reached,
                },
                reached = &mut tls => match reached {
                    Err(error) if !error.is_final() => match udp.await {
                        Err(quic) => (quic, Err(error)),
                        reached => return reached,
                    },
                    reached => return reached,
                },
            },
        };
        match tls {
            Err(tls) if !tls.is_final() && !udp.is_final() => {
                Err(ConnectError::Neither { udp: Box::new(udp), tls: Box::new(tls) })
            }
            Err(_) if udp.is_final() => Err(udp),
            reached => reached,
        }
    }

    /// On loopback silence may mean that no router is there but a relay to one, which drops or cuts large packets: after a
    /// third of the time it is tried as any other path.
    async fn reach_over_udp(
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

    async fn reach_over_tls(
        settings: Settings,
        remote: SocketAddr,
        keypair: &Keypair,
        pin: Identity,
    ) -> Result<(Self, Connection), ConnectError> {
        let after = settings.connect_timeout;
        let silent = ConnectError::Tls { addr: remote, reason: no_reply(&settings, after) };
        let reaching = async {
            let (alley, over_tls) = over_tls(&settings, remote, keypair, pin).await?;
            let route = Route::to(remote, &settings);
            let payload = Packets::on(&route, settings.max_packet).most;
            let config = EndpointConfig::default();
            let endpoint = endpoint(config, None, remote, payload, alley)?;
            let over_tls = Mutex::new(Some(over_tls));
            let endpoint = Self { endpoint, settings, route, remote, over_tls };
            let connection = endpoint.connect(remote, keypair, pin).await?;
            Ok((endpoint, connection))
        };
        tokio::time::timeout(after, reaching).await.unwrap_or(Err(silent))
    }

    /// Binds a free UDP port of the family of `remote`.
    pub fn bind(settings: Settings, remote: SocketAddr) -> Result<Self, EndpointError> {
        let route = Route::to(remote, &settings);
        let payload = Packets::on(&route, settings.max_packet).most;
        let addr = SocketAddr::new(any_of(remote), 0);
        let config = EndpointConfig::default();
        let endpoint = endpoint(config, None, addr, payload, udp(addr, payload)?)?;
        Ok(Self { endpoint, settings, route, remote, over_tls: Mutex::default() })
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
        let crypto = tls::quic_client(crypto).map_err(|error| EndpointError::Tls(error.into()))?;
        let seen = Arc::new(OnceLock::new());
        let crypto = Observing { inner: Arc::new(crypto), seen: Arc::clone(&seen) };
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let share = Arc::new(ShareCell::new(self.settings.priority));
        let transport = self.sending().transport(&self.route, false, &share);
        config.transport_config(Arc::new(transport));
        let failed = |reason: String| ConnectError::Failed { addr: remote, reason };
        let connecting = self
            .endpoint
            .connect_with(config, remote, SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        let after = self.settings.connect_timeout;
        let is_udp = self.carrier() == Carrier::Quic;
        let connection = tokio::select! {
            connected = connecting => connected,
            () = refused_by_host(remote), if is_udp => {
                return Err(ConnectError::NobodyListens { addr: remote });
            }
            () = tokio::time::sleep(after) => return Err(ConnectError::NoReply { addr: remote, after }),
        };
        let connection = connection.map_err(|error| {
            impostor(&verifier, remote, pin).unwrap_or_else(|| failed(error.to_string()))
        })?;
        Connection::new(connection, seen, share)
            .ok_or_else(|| failed("the router showed no key".to_owned()))
    }

    /// How a connection that begins now is to send.
    fn sending(&self) -> Cow<'_, Settings> {
        let may_move = self.settings.carrier == CarrierChoice::Auto && !self.route.loopback;
        if self.carrier() == Carrier::Quic || !may_move {
            return Cow::Borrowed(&self.settings);
        }
        // TLS carries any size, which says nothing of UDP, where this connection may come to. The router's end finds out
        // anew what the way carries when packets come from another address; this one, which moves, does not.
        let most = self.settings.max_packet.unwrap_or(ANYWHERE).min(ANYWHERE);
        Cow::Owned(Settings { max_packet: Some(most), ..self.settings.clone() })
    }

    /// What carries the packets.
    pub fn carrier(&self) -> Carrier {
        if self.over_tls().is_some() { Carrier::Tls } else { Carrier::Quic }
    }

    /// Goes on from a fresh UDP socket, and so from the address that the machine has now: the router hears from it at once,
    /// and checks that it is this client's (RFC 9000, 9.3). When there is no socket to be had, the one before stays.
    pub fn move_to_udp(&self) -> Result<(), EndpointError> {
        let addr = SocketAddr::new(any_of(self.remote), 0);
        let payload = Packets::on(&self.route, self.settings.max_packet).most;
        self.endpoint
            .rebind_abstract(udp(addr, payload)?)
            .map_err(|error| EndpointError::of("UDP", addr, error))?;
        *self.over_tls() = None;
        Ok(())
    }

    /// Goes on over a fresh TLS connection. Until it stands, and when it does not come about, everything stays as it is.
    /// Bounded by [`Settings::connect_timeout`]. Cancel-safe. [CAR-10]
    pub async fn move_to_tls(&self, keypair: &Keypair, pin: Identity) -> Result<(), ConnectError> {
        let (addr, after) = (self.remote, self.settings.connect_timeout);
        let dialling = over_tls(&self.settings, addr, keypair, pin);
        let silent = ConnectError::Tls { addr, reason: no_reply(&self.settings, after) };
        let dialled = tokio::time::timeout(after, dialling).await;
        let (alley, over_tls) = dialled.unwrap_or(Err(silent))?;
        self.endpoint
            .rebind_abstract(alley)
            .map_err(|error| EndpointError::of("TCP", addr, error))?;
        *self.over_tls() = Some(over_tls);
        Ok(())
    }

    /// Whether the router can be had over UDP: by a connection of its own, which ends as soon as it stands. Cancel-safe.
    /// [CAR-9]
    pub async fn is_udp_open(&self, keypair: &Keypair, pin: Identity) -> bool {
        if self.settings.proxied_name.is_some() {
            return false;
        }
        let reached = Self::reach_over_udp(self.settings.clone(), self.remote, keypair, pin).await;
        let Ok((endpoint, connection)) = reached else { return false };
        connection.close(0, "UDP is open");
        endpoint.close(&connection).await;
        true
    }

    /// Waits until the TLS connection that carries the packets ends. Pends for ever when none does. Cancel-safe.
    pub async fn is_cut_off(&self) {
        let ended = self.over_tls().as_ref().map(|over_tls| over_tls.ended.clone());
        match ended {
            Some(ended) => ended.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Whether that has happened.
    pub fn has_been_cut_off(&self) -> bool {
        self.over_tls().as_ref().is_some_and(|over_tls| over_tls.ended.is_cancelled())
    }

    /// Lets the last packets of a connection out that has been closed, and answers what the router sends until it has heard
    /// of that: for one and a half round trips, half a second at most. QUIC would have this go on for three probe timeouts
    /// (RFC 9000, 10.2), for which nobody who waits for the process has a use.
    pub async fn close(&self, closed: &Connection) {
        let lane = self.over_tls().as_ref().map(|over_tls| Arc::clone(&over_tls.lane));
        let patience = closed.path().rtt * 3 / 2 + DRIVER;
        let last_packets = async {
            let _ = tokio::time::timeout(patience, self.endpoint.wait_idle()).await;
            if let Some(lane) = lane {
                lane.flushed().await;
            }
        };
        let _ = tokio::time::timeout(LAST_PACKETS, last_packets).await;
    }

    fn over_tls(&self) -> MutexGuard<'_, Option<OverTls>> {
        self.over_tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials, and begins to carry.
async fn over_tls(
    settings: &Settings,
    remote: SocketAddr,
    keypair: &Keypair,
    pin: Identity,
) -> Result<(Arc<Alley>, OverTls), ConnectError> {
    let (crypto, verifier) = tls::client(settings, keypair, pin).map_err(EndpointError::Tls)?;
    let failed = |error: io::Error| {
        let failed = ConnectError::Tls { addr: remote, reason: error.to_string() };
        impostor(&verifier, remote, pin).unwrap_or(failed)
    };
    let stream = tcp::dial(remote, settings, crypto).await.map_err(failed)?;
    let local = stream.get_ref().0.local_addr().map_err(failed)?;
    let lane = Lane::to(remote);
    let (alley, outlet) = Alley::new(Arc::clone(&lane), local);
    let ended = CancellationToken::new();
    let tasks = Tasks::new();
    let (carried, has_ended) = (Arc::clone(&lane), ended.clone());
    let is_over = tasks.token().clone();
    let leaves = is_over.clone().drop_guard();
    tasks.spawn("tls", async move {
        let last_packets = async {
            is_over.cancelled().await;
            tokio::time::sleep(LAST_PACKETS).await;
        };
        tokio::select! {
            error = carried.carry(stream, &outlet) => {
                tracing::debug!(%error, "the TLS connection ended");
            }
            () = last_packets => {}
        }
        has_ended.cancel();
    });
    Ok((alley, OverTls { lane, ended, _leaves: leaves }))
}

fn impostor(verifier: &PinnedKey, addr: SocketAddr, pinned: Identity) -> Option<ConnectError> {
    verifier.impostor().map(|shown| ConnectError::WrongKey { addr, pinned, shown })
}

fn no_reply(settings: &Settings, after: Duration) -> String {
    let proxy = settings.proxy.as_ref();
    let through = proxy.map(|proxy| format!("proxy {proxy}: ")).unwrap_or_default();
    format!("{through}no reply within {after:?}")
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

/// The UDP payload that every path of IPv6 carries (RFC 8200, 5), and nearly every other one.
const ANYWHERE: u16 = 1_232;
/// Until a packet that is due has been written, where a round trip takes no time.
const DRIVER: Duration = Duration::from_millis(10);
/// How long TLS waits for QUIC, as one address for another (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(300);
