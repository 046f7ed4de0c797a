//! H26, H27 and V14: packets and flows that nobody asked for.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use conduit::tunnel::{Direction, Protocol};
use conduit::wire::{Code, Datagram, Fragment, MAX_PACKET, piece_size, put_fragment};
use tokio::net::UdpSocket;

use crate::raw::{Packets, Raw, User, becomes, dropped, figure, number, packet, resident, udp};
use crate::stage::{Stage, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h26_datagrams_that_nobody_asked_for_are_counted_and_harm_nobody() {
    let stage = Stage::new().await;
    let (theirs, own) = (Packets::echo().await, Packets::echo().await);
    let keypair = known_key(&stage).await;
    let bystander = stage
        .tunnel_with(theirs.addr, |settings| {
            becomes(settings, Direction::Forward, Protocol::Udp);
            settings.access.keypair = keypair;
        })
        .await;
    let user = User::of(bystander.local_addr()).await;
    assert!(user.hears_echo(b"before").await);
    let mut raw = Raw::owner(&stage).await;
    assert_eq!(raw.declares(udp(1, own.addr)).await.code, 0);
    raw.opens(100, 1, b"mine").await;
    assert_eq!(raw.receives().await, packet(100, b"mine"));
    let (before, seen) = (resident(), theirs.count());

    // Of no length: not even a kind. Of a flow that is not open any more, or never was and never will be.
    let rounds: [(&str, Made); 5] = [
        ("malformed", |_| Bytes::new()),
        ("malformed", |number| Bytes::from(vec![2 + (number % 62) as u8, 100])),
        ("unknown_flow", |number| packet(2 + number % 49 * 2, b"")),
        ("unknown_flow", |number| packet(2, &number.to_be_bytes())),
        ("unknown_flow", |number| packet(101 + number % 1_000 * 2, b"a number of the router's")),
    ];
    for (reason, datagram) in rounds {
        flood(&stage, &raw, reason, 100_000, datagram).await;
    }
    let grown = grown(before);
    println!("500,000 datagrams: resident memory rose by {grown:?} KiB");
    assert!(grown.is_none_or(|grown| grown < 16 << 10), "{grown:?} KiB");
    assert_eq!(theirs.count(), seen, "a packet crossed over");
    assert_eq!(own.count(), 1);
    assert!(raw.is_in(), "datagrams are no reason to hang up");
    assert!(user.hears_echo(b"after").await, "the other client's tunnel stands still");
    raw.sends(packet(100, b"still mine")).await;
    assert_eq!(raw.receives().await, packet(100, b"still mine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h26_packets_of_flows_that_may_come_wait_within_bounds_and_are_counted_in_the_end() {
    let stage = Stage::new().await;
    let raw = Raw::owner(&stage).await;
    let before = resident();
    let counted = || dropped(&stage.router, "unknown_flow");
    for number in 0..50_000u64 {
        raw.sends(packet(2 + number * 2, &[7; 200])).await;
        if number % 500 == 499 {
            let most = number + 1;
            // A thousand packets of this size are all that is kept.
            within(Duration::from_secs(5), "the rest is dropped", || counted() + 1_100 >= most)
                .await;
        }
    }
    assert!(counted() < 50_000, "nothing is kept");
    within(Duration::from_secs(9), "what was kept is given up", || counted() == 50_000).await;
    let grown = grown(before);
    assert!(grown.is_none_or(|grown| grown < 16 << 10), "{grown:?} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h26_a_storm_of_pieces_stays_within_bounds_and_is_counted() {
    let stage = Stage::new().await;
    let own = Packets::echo().await;
    let mut raw = Raw::owner(&stage).await;
    assert_eq!(raw.declares(udp(1, own.addr)).await.code, 0);
    raw.opens(2, 1, b"mine").await;
    raw.receives().await;
    let before = resident();
    let counted = || dropped(&stage.router, "incomplete");
    for number in 0..20_000u64 {
        raw.sends(piece(2, number, (number % 64) as u8)).await;
        if number % 100 == 99 {
            // Sixteen of the largest packets are held, the others have made way.
            within(Duration::from_secs(5), "the others make way", || counted() + 17 > number).await;
        }
    }
    // Nothing comes any more: what is held is given up all the same.
    within(Duration::from_secs(3), "the last ones are given up", || counted() == 20_000).await;
    let grown = grown(before);
    println!("20,000 pieces of packets of 65,507 bytes: resident memory rose by {grown:?} KiB");
    assert!(grown.is_none_or(|grown| grown < 16 << 10), "{grown:?} KiB");
    // Pieces that do not fit together, and pieces of flows that are not there.
    let sound = piece(2, 1, 0);
    let mut odd = BytesMut::from(&sound[..]);
    odd.truncate(odd.len() - 1);
    let odd = odd.freeze();
    raw.sends(odd).await;
    within(Duration::from_secs(2), "counted", || dropped(&stage.router, "malformed") == 1).await;
    raw.sends(piece(1, 1, 0)).await;
    within(Duration::from_secs(2), "counted", || dropped(&stage.router, "unknown_flow") == 1).await;
    // A packet whose pieces all come is whole at the target.
    for index in (0..64).rev() {
        raw.sends(piece(2, 70_000, index)).await;
    }
    within(Duration::from_secs(5), "the whole packet", || own.count() == 2).await;
}

#[tokio::test]
async fn flows_with_numbers_that_are_not_the_peers_to_give_open_nothing() {
    let stage = Stage::new().await;
    let own = Packets::echo().await;
    let mut raw = Raw::owner(&stage).await;
    assert_eq!(raw.declares(udp(1, own.addr)).await.code, 0);
    raw.opens(10, 1, b"ten").await;
    assert_eq!(raw.receives().await, packet(10, b"ten"));
    for flow in [0, 2, 8, 10, 11, 13, (1 << 62) - 1, 1 << 62, (1 << 62) + 2, u64::MAX - 1, u64::MAX]
    {
        raw.opens(flow, 1, b"no").await;
    }
    raw.opens(12, 1, b"twelve").await;
    assert_eq!(raw.receives().await, packet(12, b"twelve"));
    assert_eq!(own.count(), 2);
    assert_eq!(figure(&stage.router, "conduit_active_connections"), 2);
    assert_eq!(dropped(&stage.router, "unknown_flow"), 11, "each brought a packet");
    assert!(raw.hears_nothing().await && raw.is_in());
}

#[tokio::test]
async fn flows_of_tunnels_that_are_not_declared_are_refused_one_by_one() {
    let stage = Stage::new().await;
    let own = Packets::echo().await;
    let mut raw = Raw::owner(&stage).await;
    let mut tcp = udp(2, own.addr);
    tcp.protocol = 0;
    assert_eq!(raw.declares(tcp).await.code, 0);
    for (at, tunnel) in [0, 1, 2, 3, u32::MAX].into_iter().enumerate() {
        let flow = 2 + 2 * at as u64;
        raw.opens(flow, tunnel, b"no").await;
        let close = raw.hears_close().await;
        assert_eq!(close.flow, flow);
        assert_eq!(Code::from_number(close.code.into()), Code::Protocol, "{close:?}");
    }
    assert_eq!(own.count(), 0);
    assert!(raw.is_in(), "refusals are no reason to hang up");
}

#[tokio::test]
async fn more_flows_than_a_tunnel_may_have_are_refused_with_limit() {
    let stage = Stage::new().await;
    let (own, other) = (Packets::echo().await, Packets::echo().await);
    let mut raw = Raw::owner(&stage).await;
    for (tunnel, target) in [(1, own.addr), (2, other.addr)] {
        let mut declare = udp(tunnel, target);
        declare.max_flows = 8;
        assert_eq!(raw.declares(declare).await.code, 0);
    }
    raw.opens_all((1..=40).map(|at| at * 2), 1, b"x").await;
    for _ in 0..32 {
        let close = raw.hears_close().await;
        assert_eq!(Code::from_number(close.code.into()), Code::Limit, "{close:?}");
    }
    let mut served = HashSet::new();
    for _ in 0..8 {
        let Ok(Datagram::Whole { flow, .. }) = Datagram::decode(raw.receives().await) else {
            panic!("no packet")
        };
        served.insert(flow);
    }
    assert_eq!((served.len(), own.count()), (8, 8));
    assert_eq!(figure(&stage.router, "conduit_active_connections"), 8);
    assert_eq!(dropped(&stage.router, "table_full"), 32);
    // The other tunnel has a limit of its own.
    raw.opens(100, 2, b"y").await;
    assert_eq!(raw.receives().await, packet(100, b"y"));
    assert!(raw.hears_nothing().await);
}

#[tokio::test]
async fn flows_whose_target_is_still_looked_up_count_too() {
    let stage = Stage::new().await;
    let own = Packets::echo().await;
    let port = own.addr.port();
    let _ipv6 = Packets::canary(&format!("[::1]:{port}")).await;
    let mut raw = Raw::owner(&stage).await;
    let mut declare = udp(1, format!("localhost:{port}"));
    declare.max_flows = 8;
    assert_eq!(raw.declares(declare).await.code, 0);
    raw.opens_all((1..=40).map(|at| at * 2), 1, b"x").await;
    for _ in 0..32 {
        let close = raw.hears_close().await;
        assert_eq!(Code::from_number(close.code.into()), Code::Limit, "{close:?}");
    }
    assert!(raw.hears_nothing().await);
    assert_eq!(figure(&stage.router, "conduit_active_connections"), 8);
}

#[tokio::test]
async fn v14_a_canary_beside_the_allowed_target_hears_nothing_in_whatever_form_it_is_named() {
    let mut stage = Stage::new().await;
    let allowed = Packets::echo().await;
    let canary = Packets::canary("127.0.0.1:0").await.expect("a socket");
    let port = canary.addr.port();
    let ipv6 = Packets::canary(&format!("[::1]:{port}")).await;
    let rule = allowed.addr.to_string().parse().expect("a rule");
    let mut raw = Raw::with(&mut stage, Permissions::targets(vec![rule])).await;
    let forms = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",
        "127.1",
        "127.0.1",
        "0",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.000.000.001",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
    ];
    for (at, host) in forms.into_iter().enumerate() {
        let (tunnel, flow) = (10 + at as u32, 10 + 2 * at as u64);
        let declared = raw.declares(udp(tunnel, format!("{host}:{port}"))).await;
        raw.opens(flow, tunnel, b"canary").await;
        let close = raw.hears_close().await;
        assert_eq!(close.flow, flow, "{host}");
        let code = Code::from_number(close.code.into());
        let expected = if declared.code == 0 {
            [Code::Denied, Code::NotFound]
        } else {
            [Code::Protocol, Code::Protocol]
        };
        assert!(expected.contains(&code), "{host}: {close:?}");
        raw.sends(packet(flow, b"canary")).await;
    }
    for target in [stage.router.local_addr().to_string(), "169.254.169.254:53".into()] {
        assert_ne!(raw.declares(udp(90, target)).await.code, 0);
    }
    assert_ne!(raw.declares(udp(91, "unix:/run/docker.sock")).await.code, 0);
    assert_eq!(raw.declares(udp(1, allowed.addr)).await.code, 0);
    raw.opens(1_000, 1, b"allowed").await;
    assert_eq!(raw.receives().await, packet(1_000, b"allowed"));
    let heard = canary.count() + ipv6.map_or(0, |canary| canary.count());
    assert_eq!(heard, 0, "packets at the canary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h27_a_flood_of_senders_meets_the_cap_and_a_conversation_in_use_survives() {
    let stage = Stage::new().await;
    let target = Packets::answering(|packet| packet != FLOOD).await;
    let tunnel = stage
        .tunnel_with(target.addr, |settings| {
            becomes(settings, Direction::Forward, Protocol::Udp);
            settings.tunnel.options.max_flows = CAP;
        })
        .await;
    let user = User::of(tunnel.local_addr()).await;
    assert!(user.hears_echo(b"hello").await);
    let first = figure(&stage.router, "conduit_connections_total");
    let (start, mut most) = (Instant::now(), (0, 0));
    let mut heard = 0;
    for burst in 0..SENDERS / BURST {
        for number in burst * BURST..(burst + 1) * BURST {
            once(number, tunnel.local_addr()).await;
        }
        heard += usize::from(user.hears_echo(&burst.to_be_bytes()).await);
        let active = |page: &str| number(page, "conduit_active_connections");
        let now = (active(&tunnel.metrics()), active(&stage.router.metrics()));
        most = (now.0.max(most.0), now.1.max(most.1));
    }
    let opened = figure(&stage.router, "conduit_connections_total") - first;
    let full = number(&tunnel.metrics(), FULL);
    println!(
        "{SENDERS} senders in {:?}: {opened} flows, {full} turned away, at most {most:?} at a time",
        start.elapsed()
    );
    assert!(most.0 <= CAP as u64 && most.1 <= CAP as u64, "{most:?} at a time");
    assert!(most.0 == CAP as u64, "the cap was never met");
    assert!(full > 0 && opened >= CAP as u64, "{full} turned away, {opened} opened");
    assert_eq!(heard as u32, SENDERS / BURST, "the conversation was interrupted");
    // Its flow is the one of the beginning: the target would have heard it from another port otherwise.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let evicted = number(&tunnel.metrics(), "conduit_connections_total");
    once(SENDERS, tunnel.local_addr()).await;
    within(Duration::from_secs(2), "a silent one gives way", || {
        number(&tunnel.metrics(), "conduit_connections_total") > evicted
    })
    .await;
    assert!(user.hears_echo(b"still here").await);
}

/// Sends the same kind of datagram again and again, no faster than the router counts.
async fn flood(
    stage: &Stage,
    raw: &Raw,
    reason: &str,
    count: u64,
    datagram: impl Fn(u64) -> Bytes,
) {
    let counted = || dropped(&stage.router, reason);
    let (before, start) = (counted(), Instant::now());
    for number in 0..count {
        raw.sends(datagram(number)).await;
        if number % 1_000 == 999 {
            within(Duration::from_secs(5), reason, || counted() == before + number + 1).await;
        }
    }
    println!("{count} datagrams, {reason}: {:?}", start.elapsed());
}

/// The datagram of a number.
type Made = fn(u64) -> Bytes;

/// A key that the router knows as an owner's.
async fn known_key(stage: &Stage) -> Arc<Keypair> {
    let keypair = Arc::new(Keypair::generate().expect("a key"));
    stage.admits(keypair.identity(), Permissions::owner()).await;
    keypair
}

/// A piece of one of the largest packets.
fn piece(flow: u64, packet: u64, index: u8) -> Bytes {
    let size = piece_size(MAX_PACKET, 64);
    let length = (MAX_PACKET - usize::from(index) * size).min(size);
    let payload = Bytes::from(vec![index; length]);
    let total = MAX_PACKET as u16;
    let mut bytes = BytesMut::new();
    put_fragment(&Fragment { flow, packet, index, count: 64, total, payload }, &mut bytes);
    bytes.freeze()
}

/// One packet of a sender that nobody has seen before: an address of its own where all of 127.0.0.0/8 is this machine's,
/// a port of its own elsewhere.
async fn once(number: u32, to: SocketAddr) {
    let ip = if cfg!(target_os = "linux") {
        Ipv4Addr::from_bits(0x7f01_0001 + number)
    } else {
        Ipv4Addr::LOCALHOST
    };
    let socket = UdpSocket::bind((ip, 0)).await.expect("a socket");
    let _ = socket.send_to(FLOOD, to).await;
}

fn grown(before: Option<u64>) -> Option<u64> {
    resident().zip(before).map(|(now, before)| now.saturating_sub(before))
}

const FLOOD: &[u8] = b"flood";
const CAP: usize = 256;
const SENDERS: u32 = if cfg!(target_os = "linux") { 100_000 } else { 10_000 };
const BURST: u32 = 1_000;
const FULL: &str = "conduit_packets_dropped_total{reason=\"table_full\"}";
