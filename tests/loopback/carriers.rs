//! Networks that carry no UDP, from the start or from some moment on: TLS takes over, and gives back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use conduit::client::{self, StartError};
use conduit::transport::Carrier;
use conduit::tunnel::{CarrierChoice, TunnelState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::firewall::Firewall;
use crate::stage::{Stage, Target, Tunnel, noise, within};

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

/// What the router sends to a client that has come from TLS to UDP is as large as UDP carries.
#[tokio::test]
async fn packets_grow_after_a_connection_that_began_over_tls_has_come_to_udp() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    firewall.udp.becomes(|path| path.down = true);
    let tunnel = firewall.tunnel(&target, CarrierChoice::Auto).await.expect("a tunnel over TLS");
    let mut talk = Talk::with(&tunnel).await;
    firewall.udp.becomes(|path| path.down = false);
    within(Duration::from_secs(40), "QUIC", || tunnel.carrier() == Carrier::Quic).await;
    let mut sizes = Vec::new();
    for seed in 0..100 {
        talk.echo(seed).await;
        sizes.push(
            firewall.stage.status().await["sessions"][0]["path"]["mtu"].as_u64().expect("a size"),
        );
        if sizes.last() > Some(&1_400) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the router's packets stay small: {sizes:?}");
}

/// Who comes after does not wait for QUIC first, until QUIC was there again. [CAR-8]
#[tokio::test]
async fn a_network_without_udp_is_remembered_by_those_who_come_after() {
    let (firewall, target) = (Firewall::new().await, Target::echo().await);
    let home = tempfile::tempdir().expect("a folder");
    let remembered = || std::fs::read_dir(home.path().join("networks")).map_or(0, Iterator::count);
    let tunnel = || {
        firewall.stage.try_tunnel(target.addr, |settings| {
            settings.access.router.addresses = vec![firewall.udp.addr().into()];
            settings.access.networks = client::Networks::of_home(home.path());
        })
    };
    firewall.udp.becomes(|path| path.down = true);
    let first = tunnel().await.expect("a tunnel over TLS");
    assert_eq!((first.carrier(), remembered()), (Carrier::Tls, 1));
    drop(first);
    // TCP may be dialled, and leads nowhere.
    firewall.tcp.is_open.store(false, Ordering::Relaxed);
    firewall.udp.becomes(|path| path.down = false);
    let before = firewall.tcp.calls();
    let second = tunnel().await.expect("a tunnel over QUIC");
    assert_eq!((second.carrier(), remembered()), (Carrier::Quic, 0));
    within(Duration::from_secs(5), "TCP was dialled", || firewall.tcp.calls() == before + 1).await;
    let _third = tunnel().await.expect("a tunnel over QUIC");
    assert_eq!(firewall.tcp.calls(), before + 1, "nothing made it dial TCP");
}

/// What is asked, not what is sent, shows that nobody answers: an idle end sends acknowledgements, and probes for larger
/// packets that a good path drops.
#[tokio::test]
async fn idle_tunnels_stay_on_quic() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        tunnels.push(stage.tunnel_to(target.addr).await);
    }
    for second in 0..6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(tunnels.iter().all(|it| it.carrier() == Carrier::Quic), "second {second}");
    }
    for tunnel in &tunnels {
        assert!(
            tunnel.metrics().contains("conduit_carrier_changes_total 0"),
            "{}",
            tunnel.metrics()
        );
    }
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
