//! Packets as large as the way carries them, and ends that do not agree about it.

use std::time::{Duration, Instant};

use conduit::tunnel::{Direction, Protocol};

use crate::link::{Conditions, Link, Way};
use crate::raw::{Packets, becomes};
use crate::stage::{Stage, Target, Tunnel, echo, noise};

fn mtu(tunnel: &Tunnel) -> u16 {
    tunnel.session().expect("a session").path().mtu
}

#[tokio::test]
async fn on_loopback_packets_are_large_from_the_beginning() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    echo(tunnel.local_addr(), &noise(1, 20_000_000)).await;
    let expected = if cfg!(target_os = "linux") { 13_000 } else { 6_550 };
    assert_eq!(mtu(&tunnel), expected, "bursts make them no smaller");
}

#[tokio::test]
async fn the_smaller_of_two_limits_holds_on_loopback_too() {
    for (of_router, of_client, expected) in
        [(Some(1_300), None, 1_300), (None, Some(1_300), 1_300), (Some(2_000), Some(4_000), 2_000)]
    {
        let stage = Stage::with(|settings| settings.transport.max_packet = of_router).await;
        let target = Target::echo().await;
        let link = Link::to(stage.router.local_addr(), 1, Conditions::default());
        let tunnel = stage
            .tunnel_with(target.addr, |settings| {
                settings.access.transport.max_packet = of_client;
                settings.access.router.addresses = vec![link.addr().into()];
            })
            .await;
        echo(tunnel.local_addr(), &noise(2, 3_000_000)).await;
        assert_eq!(mtu(&tunnel), expected, "{of_router:?} {of_client:?}");
        // What is between them carries nothing larger any more, and nobody notices.
        link.becomes(|path| path.mtu = usize::from(expected) + 28);
        echo(tunnel.local_addr(), &noise(3, 3_000_000)).await;
        let (up, down) = (link.count(Way::Up), link.count(Way::Down));
        assert_eq!((up.too_large, down.too_large), (0, 0), "{of_router:?} {of_client:?}");
    }
}

#[tokio::test]
async fn a_relay_on_loopback_that_carries_no_large_packets_is_found_out() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let narrow = Conditions { mtu: 1_500, ..Conditions::default() };
    let link = Link::to(stage.router.local_addr(), 1, narrow);
    let start = Instant::now();
    let tunnel = stage
        .tunnel_with(target.addr, |settings| {
            settings.access.router.addresses = vec![link.addr().into()];
        })
        .await;
    println!("connected after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    echo(tunnel.local_addr(), &noise(4, 3_000_000)).await;
    assert!(link.count(Way::Up).too_large > 0);
    assert_eq!(link.count(Way::Down).too_large, 0, "the router is told, too");
}

#[tokio::test]
async fn large_packets_of_users_arrive_whole_on_loopback() {
    let (stage, packets) = (Stage::new().await, Packets::echo().await);
    let tunnel = stage
        .tunnel_with(packets.addr, |settings| {
            becomes(settings, Direction::Forward, Protocol::Udp);
        })
        .await;
    let user = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    user.connect(tunnel.local_addr()).await.expect("an address");
    let mut buffer = vec![0; 65_536];
    for size in [0, 1, 1_472, 9_000, 12_900, 13_000, 40_000, 65_507] {
        let packet = noise(size as u64, size);
        user.send(&packet).await.expect("sent");
        let answer = tokio::time::timeout(Duration::from_secs(5), user.recv(&mut buffer)).await;
        let length = answer.unwrap_or_else(|_| panic!("{size} bytes: no answer")).expect("one");
        assert!(buffer[..length] == packet, "{size} bytes: {length} other ones came back");
    }
    let largest = tunnel.session().expect("a session").connection().datagram_limit();
    let expected = if cfg!(target_os = "linux") { 12_900 } else { 6_450 };
    assert!(largest.is_some_and(|largest| largest > expected), "{largest:?}");
}
