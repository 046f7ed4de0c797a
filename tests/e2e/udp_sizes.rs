//! Packets of every size on a path of MTU 1,500.

use std::net::UdpSocket;
use std::time::Duration;

use crate::world::{
    Answerer, Client, Host, Router, Tunnel, World, asks, eventually, noise, on_two_hosts, user_of,
    within,
};

#[test]
fn packets_of_every_size_arrive_whole_in_pieces() {
    on_two_hosts("udp_sizes::packets_of_every_size_arrive_whole_in_pieces", |there| {
        every_size_arrives(there, "fragment");
    });
}

#[test]
fn packets_of_every_size_arrive_whole_on_a_stream() {
    on_two_hosts("udp_sizes::packets_of_every_size_arrive_whole_on_a_stream", |there| {
        every_size_arrives(there, "stream");
    });
}

#[test]
fn large_packets_are_dropped_and_counted_where_that_was_asked_for() {
    on_two_hosts(
        "udp_sizes::large_packets_are_dropped_and_counted_where_that_was_asked_for",
        |there| {
            let world = World::new();
            let (_router, client, ticket) = router_and_client(&world, there);
            let target = there.enter(Answerer::echo);
            let options = ["--oversize", "drop"];
            let tunnel = client.joins_udp(&ticket, target.addr(), "127.0.0.1:0", &options);
            path_is_known(&tunnel);
            let user = user_of(tunnel.bind);
            for size in [0, 1, 1_200] {
                arrives(&user, size);
            }
            for (count, size) in [1_472, 9_000, 65_507].into_iter().enumerate() {
                user.send(&noise(size as u64, size)).expect("sent");
                eventually("the packet is counted", || {
                    tunnel.dropped("too_large") == count as u64 + 1
                });
            }
            arrives(&user, 1_200);
            println!("too_large: {}", tunnel.dropped("too_large"));
        },
    );
}

/// Both ways of a forward and a reverse tunnel: the answer is as large as the question.
fn every_size_arrives(there: &Host, oversize: &str) {
    let world = World::new();
    let (_router, client, ticket) = router_and_client(&world, there);
    let (far, near) = (there.enter(Answerer::echo), Answerer::echo());
    let options = ["--oversize", oversize];
    let tunnel = client.joins_udp(&ticket, far.addr(), "127.0.0.1:0", &options);
    let reverse = client.start_udp(near.addr(), "10.7.0.1:7000").args(options).arg("--reverse");
    let published = client.started(&reverse.succeeds());
    let visitor = there.enter(|| user_of(published.bind));
    for user in [user_of(tunnel.bind), visitor] {
        for size in SIZES {
            arrives(&user, size);
        }
        // Large ones among small ones, in whatever order they come back.
        for size in SIZES.into_iter().rev() {
            arrives(&user, size);
        }
    }
    for (tunnel, name) in [(&tunnel, "forward"), (&published, "reverse")] {
        let mtu = path_is_known(tunnel);
        println!("{oversize}, {name}: {SIZES:?} there and back, path MTU {mtu}");
        for reason in ["too_large", "queue_full", "incomplete", "malformed"] {
            assert_eq!(tunnel.dropped(reason), 0, "{name}: {reason}");
        }
    }
}

#[track_caller]
fn arrives(user: &UdpSocket, size: usize) {
    let packet = noise(size as u64, size);
    let answer = asks(user, &packet).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    assert!(answer == packet, "{size} bytes were sent, {} other ones came back", answer.len());
}

fn router_and_client(world: &World, there: &Host) -> (Router, Client, String) {
    let router = there.enter(|| world.router_at("10.7.0.1:9999"));
    let ticket = router.invite(&[]);
    (router, world.client("C"), ticket)
}

/// The path's MTU, once it has been found out: more than what every path has, less than the cable's.
#[track_caller]
fn path_is_known(tunnel: &Tunnel) -> u64 {
    within(Duration::from_secs(20), "the path's MTU is found out", || {
        let mtu = tunnel.listed()?["mtu"].as_u64()?;
        assert!(mtu <= 1_472, "{mtu} on a cable of 1,500");
        (mtu > 1_300).then_some(mtu)
    })
}

const SIZES: [usize; 6] = [0, 1, 1_200, 1_472, 9_000, 65_507];
