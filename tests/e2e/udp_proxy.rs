//! Who a visitor is, in front of a flow's first packet: PROXY protocol version 2.

use std::net::{IpAddr, SocketAddr};

use crate::world::{Answerer, World, asks, eventually, user_of};

#[test]
fn the_source_is_told_the_senders_address_once_for_each_flow() {
    for options in [&["--proxy-protocol", "v2"][..], &["--proxy-protocol", "v2", "--reverse"]] {
        let world = World::new();
        // The user sees what the source was sent.
        let target = Answerer::echo();
        let (_router, _client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        for _ in 0..2 {
            let user = user_of(tunnel.bind);
            let visitor = user.local_addr().expect("an address");
            let first = asks(&user, b"first").expect("an answer");
            let expected = [header(visitor, tunnel.bind), b"first".to_vec()].concat();
            assert_eq!(first, expected, "{options:?}: the header and the packet in one");
            for _ in 0..3 {
                let later = asks(&user, b"later").expect("an answer");
                assert_eq!(later, b"later", "{options:?}: no header any more");
            }
        }
        assert_eq!(target.senders(), 2);
    }
}

#[test]
fn an_empty_first_packet_has_its_header_too() {
    let world = World::new();
    let target = Answerer::echo();
    let (_router, _client, tunnel) =
        world.udp_tunnel_to(target.addr(), &["--proxy-protocol", "v2"]);
    let user = user_of(tunnel.bind);
    let visitor = user.local_addr().expect("an address");
    assert_eq!(asks(&user, b"").expect("an answer"), header(visitor, tunnel.bind));
    assert_eq!(asks(&user, b"").expect("an answer"), b"");
}

#[test]
fn a_front_end_that_is_trusted_says_who_the_visitor_is() {
    let trust = ["--proxy-protocol", "v2", "--trusted-proxy", "127.0.0.0/8"];
    let reverse = [&trust[..], &["--reverse"]].concat();
    for options in [&trust[..], &reverse] {
        let world = World::new();
        let target = Answerer::echo();
        let (_router, _client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        let (front_end, said) = (user_of(tunnel.bind), header(named(), visited()));
        let first = asks(&front_end, &[&said[..], b"first"].concat()).expect("an answer");
        assert_eq!(first, [&said[..], b"first"].concat(), "{options:?}: its word, and once");
        assert_eq!(asks(&front_end, b"later").expect("an answer"), b"later");
        let flows = tunnel.connections();
        assert_eq!(flows[0]["peer"], named().to_string(), "{options:?}: {flows:?}");
    }
}

#[test]
fn the_header_of_a_trusted_front_end_is_taken_off_and_one_without_a_header_is_not_heard() {
    let world = World::new();
    let target = Answerer::echo();
    let (_router, _client, tunnel) =
        world.udp_tunnel_to(target.addr(), &["--trusted-proxy", "127.0.0.0/8"]);
    let silent = user_of(tunnel.bind);
    silent.send(b"no header").expect("sent");
    eventually("the packet is counted", || tunnel.dropped("malformed") == 1);
    assert_eq!((target.senders(), tunnel.connections().len()), (0, 0), "nothing was opened");
    let front_end = user_of(tunnel.bind);
    let first = [header(named(), visited()), b"first".to_vec()].concat();
    assert_eq!(asks(&front_end, &first).expect("an answer"), b"first");
    assert_eq!(asks(&front_end, &first).expect("an answer"), first, "a later one is payload");
    // What was refused before is heard with a header.
    assert_eq!(asks(&silent, &first).expect("an answer"), b"first");
}

#[test]
fn a_header_of_somebody_who_is_not_trusted_is_payload() {
    let world = World::new();
    let target = Answerer::echo();
    let (_router, _client, tunnel) =
        world.udp_tunnel_to(target.addr(), &["--trusted-proxy", "192.0.2.0/24"]);
    let packet = [header(named(), visited()), b"first".to_vec()].concat();
    assert_eq!(asks(&user_of(tunnel.bind), &packet).expect("an answer"), packet);
}

/// As HAProxy's `proxy-protocol.txt` has it: version 2, PROXY, and UDP over IPv4.
fn header(visitor: SocketAddr, visited: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c".to_vec();
    for addr in [visitor, visited] {
        let IpAddr::V4(ip) = addr.ip() else { panic!("IPv4 was expected: {addr}") };
        header.extend(ip.octets());
    }
    for addr in [visitor, visited] {
        header.extend(addr.port().to_be_bytes());
    }
    header
}

fn named() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 9], 4711))
}

fn visited() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 1], 53))
}
