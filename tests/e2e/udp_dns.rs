//! DNS through a tunnel: a real server, asked by a real resolver.

use std::net::SocketAddr;

use crate::world::{Dnsmasq, Outcome, Run, World};

#[test]
fn a_name_server_behind_the_router_answers_at_the_client() {
    let world = World::new();
    let server = name_server(&world);
    let (_router, _client, tunnel) = world.udp_tunnel_to(server.addr(), &[]);
    assert_eq!(tunnel.name, format!("udp-{}", server.addr().port()), "no port was asked for");
    answers(tunnel.bind);
}

#[test]
fn a_name_server_behind_a_client_is_published_by_the_router() {
    let world = World::new();
    let server = name_server(&world);
    let (_router, _client, tunnel) = world.udp_tunnel_to(server.addr(), &["--reverse"]);
    answers(tunnel.bind);
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!((&listed["protocol"], &listed["direction"]), (&"udp".into(), &"reverse".into()));
}

#[test]
fn a_name_server_is_published_for_both_families_at_once() {
    let world = World::new();
    let server = name_server(&world);
    let router = world.router();
    let client = world.client("C");
    let ticket = router.invite(&[]);
    let tunnel = client.joins_udp(&ticket, server.addr(), "[::]:0", &["--reverse"]);
    for host in ["127.0.0.1", "::1"] {
        answers(SocketAddr::new(host.parse().expect("an address"), tunnel.bind.port()));
    }
}

/// Short answers, one larger than any datagram of the tunnel, and one for a name that does not exist.
#[track_caller]
fn answers(addr: SocketAddr) {
    dig(addr, &["+short", "host.test", "A"]).prints("192.0.2.7\n");
    dig(addr, &["+short", "host.test", "AAAA"]).prints("2001:db8::7\n");
    dig(addr, &["missing.test", "A"]).prints("NXDOMAIN");
    let outcome = dig(addr, &["+bufsize=4096", "+notcp", "+ignore", "large.test", "TXT"]);
    for number in 0..TEXTS {
        assert!(outcome.stdout.contains(&text(number)), "text {number}: {outcome}");
    }
    let size = outcome.stdout.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "));
    let size: usize = size.and_then(|size| size.parse().ok()).expect("a size");
    assert!(size > 3_000, "{outcome}");
    println!("one answer of {size} bytes from {addr}");
}

#[track_caller]
fn dig(addr: SocketAddr, question: &[&str]) -> Outcome {
    let (host, port) = (format!("@{}", addr.ip()), addr.port().to_string());
    // One try: what is lost on loopback would be lost by the tunnel.
    let run = Run::program("dig").args([&host, "-p", &port, "+tries=1", "+time=10"]);
    run.args(question).succeeds()
}

fn name_server(world: &World) -> Dnsmasq {
    let names = "--address=/host.test/192.0.2.7 --address=/host.test/2001:db8::7 --local=/test/";
    let texts = (0..TEXTS).map(|number| format!("--txt-record=large.test,{}", text(number)));
    let records: Vec<String> = names.split(' ').map(str::to_owned).chain(texts).collect();
    Dnsmasq::start(world.path(), &records)
}

fn text(number: usize) -> String {
    format!("text-{number}-{}", "x".repeat(180))
}

/// About 3,500 bytes of answer: more than the path's 1,232, less than what the resolver takes.
const TEXTS: usize = 17;
