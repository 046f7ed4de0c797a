//! Networks that carry no UDP, from the start or from some moment on: TLS takes over, and gives back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conduit::client::{self, StartError};
use conduit::transport::Carrier;
use conduit::tunnel::{CarrierChoice, TunnelState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::link::{Conditions, Link};
use crate::stage::{Stage, Target, Tunnel, noise, within};

/// A router behind a path for UDP and one for TCP on the same port number, each of which may be closed.
pub(crate) struct Firewall {
    pub(crate) stage: Stage,
    pub(crate) udp: Link,
    tcp: TcpPath,
}

/// Relays TCP.
struct TcpPath {
    /// Callers so far.
    calls: Arc<AtomicUsize>,
    is_open: Arc<AtomicBool>,
    relays: Arc<std::sync::Mutex<Vec<AbortHandle>>>,
    _accepting: tokio_util::task::AbortOnDropHandle<()>,
}

impl Firewall {
    pub(crate) async fn new() -> Self {
        let stage = Stage::with(|settings| settings.transport.trust_loopback = false).await;
        loop {
            let path = Conditions::rtt(Duration::from_millis(10)).rate(200, 1 << 20);
            let udp = Link::to(stage.router.local_addr(), 7, path);
            if let Ok(listener) = TcpListener::bind(udp.addr()).await {
                let tcp = TcpPath::new(listener, stage.router.local_addr());
                return Self { stage, udp, tcp };
            }
        }
    }

    async fn tunnel(&self, target: &Target, choice: CarrierChoice) -> Result<Tunnel, StartError> {
        self.stage
            .try_tunnel(target.addr, |settings: &mut client::Settings| {
                settings.access.router.addresses = vec![self.udp.addr().into()];
                settings.access.transport.carrier = choice;
            })
            .await
    }
}

impl TcpPath {
    fn new(listener: TcpListener, router: std::net::SocketAddr) -> Self {
        let (calls, is_open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let relays = Arc::new(std::sync::Mutex::new(Vec::new()));
        let accepting = {
            let (calls, is_open, relays) =
                (Arc::clone(&calls), Arc::clone(&is_open), Arc::clone(&relays));
            tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let is_open = is_open.load(Ordering::Relaxed);
                    let relay = tokio::spawn(async move {
                        if !is_open {
                            // Lets the handshake of TCP through, and nothing else.
                            std::future::pending::<()>().await;
                        }
                        let Ok(mut far) = TcpStream::connect(router).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                    relays.lock().expect("no panic").push(relay.abort_handle());
                }
            })
        };
        let _accepting = tokio_util::task::AbortOnDropHandle::new(accepting);
        Self { calls, is_open, relays, _accepting }
    }

    /// Cuts every connection off.
    fn cuts(&self) {
        for relay in self.relays.lock().expect("no panic").drain(..) {
            relay.abort();
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// A user's connection to an echo.
struct Talk(TcpStream);

impl Talk {
    async fn with(tunnel: &Tunnel) -> Self {
        Self(TcpStream::connect(tunnel.local_addr()).await.expect("a connection"))
    }

    /// How long it takes until something said is heard.
    async fn echo(&mut self, seed: u64) -> Duration {
        let (said, start) = (noise(seed, 10_000), Instant::now());
        self.0.write_all(&said).await.expect("said");
        let mut heard = vec![0; said.len()];
        let reading = self.0.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("soon").expect("heard");
        assert!(heard == said, "the same bytes");
        start.elapsed()
    }
}

#[tokio::test]
async fn where_there_is_no_udp_tls_carries_the_tunnel_until_there_is() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    firewall.udp.becomes(|path| path.down = true);
    let tunnel = firewall.tunnel(&target, CarrierChoice::Auto).await.expect("a tunnel over TLS");
    assert_eq!(tunnel.carrier(), Carrier::Tls);
    let mut talk = Talk::with(&tunnel).await;
    talk.echo(1).await;
    let session = tunnel.session().expect("a session").terms().session_id;
    firewall.udp.becomes(|path| path.down = false);
    let open = Instant::now();
    within(Duration::from_secs(40), "QUIC", || tunnel.carrier() == Carrier::Quic).await;
    println!("back on QUIC {:?} after UDP was open", open.elapsed());
    firewall.tcp.cuts();
    println!("an echo after the change took {:?}", talk.echo(2).await);
    assert_eq!(tunnel.session().expect("a session").terms().session_id, session);
    assert_eq!(*tunnel.state().borrow(), TunnelState::Ready);
    assert!(tunnel.metrics().contains("conduit_carrier_changes_total 1"), "{}", tunnel.metrics());
}

#[tokio::test]
async fn where_udp_is_blocked_in_the_middle_tls_goes_on_with_what_is_open() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    let tunnel = firewall.tunnel(&target, CarrierChoice::Auto).await.expect("a tunnel");
    assert_eq!(tunnel.carrier(), Carrier::Quic);
    let mut talk = Talk::with(&tunnel).await;
    talk.echo(1).await;
    let session = tunnel.session().expect("a session").terms().session_id;
    firewall.udp.becomes(|path| path.down = true);
    let stall = talk.echo(2).await;
    println!("an echo while UDP was blocked took {stall:?}");
    assert_eq!(tunnel.carrier(), Carrier::Tls);
    assert_eq!(tunnel.session().expect("a session").terms().session_id, session);
    talk.echo(3).await;

    // And the TLS connection may end: by a middlebox that forgets it, by a restart of one.
    firewall.tcp.cuts();
    println!("an echo after TLS was cut off took {:?}", talk.echo(4).await);
    assert_eq!(firewall.tcp.calls(), 2);
    assert_eq!(target.connects(), 1, "nothing was connected anew");
}

#[tokio::test]
async fn one_carrier_alone_is_used_alone() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    let tunnel = firewall.tunnel(&target, CarrierChoice::Tls).await.expect("a tunnel over TLS");
    assert_eq!(tunnel.carrier(), Carrier::Tls);
    Talk::with(&tunnel).await.echo(1).await;
    tunnel.shutdown(Duration::from_secs(1)).await;
    let calls = firewall.tcp.calls();
    firewall.udp.becomes(|path| path.down = true);
    let error = firewall.tunnel(&target, CarrierChoice::Quic).await.expect_err("no UDP");
    assert!(error.to_string().contains("UDP to"), "{error}");
    assert!(!error.to_string().contains("TLS"), "{error}");
    assert_eq!(firewall.tcp.calls(), calls, "TCP was not even tried");
}

#[tokio::test]
async fn what_lets_the_handshake_of_tcp_through_and_nothing_else_is_named() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    firewall.udp.becomes(|path| path.down = true);
    firewall.tcp.is_open.store(false, Ordering::Relaxed);
    let start = Instant::now();
    let error = firewall.tunnel(&target, CarrierChoice::Auto).await.expect_err("no way");
    let text = error.to_string();
    assert!(text.contains("UDP to") && text.contains("TLS over TCP to"), "{text}");
    assert!(text.contains("no reply within 3s"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[tokio::test]
async fn another_key_at_the_tcp_port_gets_nothing() {
    let (firewall, other, target) =
        (Firewall::new().await, Stage::new().await, Target::echo().await);
    let failed = firewall.stage.try_tunnel(target.addr, |settings: &mut client::Settings| {
        settings.access.router.addresses = vec![other.router.local_addr().into()];
        settings.access.transport.carrier = CarrierChoice::Tls;
    });
    let error = failed.await.expect_err("another router");
    assert!(matches!(error, StartError::WrongKey { .. }), "{error}");
    assert!(error.to_string().contains(&other.router.identity().to_string()), "{error}");
}
