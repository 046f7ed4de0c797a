//! WireGuard through a tunnel: a private network whose packets travel as flows.

use std::net::IpAddr;
use std::time::Duration;

use crate::world::{
    Files, Host, Iperf, Router, Run, Tunnel, WireGuard, WireGuardKey, World, eventually, figure,
    noise, on_two_hosts, sha256_of,
};

#[test]
fn a_wireguard_server_behind_a_client_is_reached_from_the_routers_side() {
    on_two_hosts(
        "udp_wireguard::a_wireguard_server_behind_a_client_is_reached_from_the_routers_side",
        |there| {
            let world = World::new();
            let router = there.enter(|| world.router_at("10.7.0.1:9999"));
            let client = world.client("C");
            let (source, bind) = ("127.0.0.1:51820", "10.7.0.1:51820");
            let tunnel = client.joins_udp(&router.invite(&[]), source, bind, &["--reverse"]);
            let keys = keys(&world);
            let _server = server(&world, &keys);
            there.enter(|| use_network(&world, &keys, (1_420, bind), &router, &tunnel));
        },
    );
}

#[test]
fn a_wireguard_server_behind_the_router_is_reached_from_the_clients_side() {
    on_two_hosts(
        "udp_wireguard::a_wireguard_server_behind_the_router_is_reached_from_the_clients_side",
        |there| {
            let world = World::new();
            let router = there.enter(|| world.router_at("10.7.0.1:9999"));
            let client = world.client("C");
            let (source, bind) = ("127.0.0.1:51820", "127.0.0.1:51821");
            let tunnel = client.joins_udp(&router.invite(&[]), source, bind, &[]);
            let keys = keys(&world);
            let _server = there.enter(|| server(&world, &keys));
            // Small enough that a packet of WireGuard's fits into one of the tunnel's.
            use_network(&world, &keys, (1_280, bind), &router, &tunnel);
        },
    );
}

/// The server's key, and the peer's.
type Keys = (WireGuardKey, WireGuardKey);

fn keys(world: &World) -> Keys {
    (WireGuardKey::new(world.path(), "server.key"), WireGuardKey::new(world.path(), "peer.key"))
}

/// A server with the usual MTU, and what it offers in the private network.
fn server(world: &World, (own, peer): &Keys) -> (WireGuard, Iperf, Files) {
    let interface = ("wg-server", SERVER, 1_420);
    let wireguard = WireGuard::start(world.path(), interface, own, peer, ("listen-port 51820", ""));
    let folder = world.home("files");
    std::fs::write(folder.join("file"), noise(51, FILE)).expect("a file");
    let iperf = Iperf::serve(world.path(), SERVER);
    (wireguard, iperf, Files::serve(folder.path(), SERVER, 8_000))
}

/// What a peer does whose server's endpoint is an end of the tunnel.
fn use_network(
    world: &World,
    (server, own): &Keys,
    (mtu, endpoint): (u16, &str),
    router: &Router,
    tunnel: &Tunnel,
) {
    let interface = ("wg-peer", PEER, mtu);
    let endpoint = format!("endpoint {endpoint} persistent-keepalive 5");
    let peer = WireGuard::start(world.path(), interface, own, server, ("", &endpoint));
    let took = eventually("the handshake succeeds", || peer.has_shaken_hands());
    println!("MTU {mtu}: handshake after {took:?}");
    let ping = ["-c", "5", "-i", "0.2", "-W", "5", &SERVER.to_string()];
    let outcome = Run::program("ping").args(ping).succeeds().prints(" 0% packet loss");
    println!("{}", outcome.stdout.lines().last().unwrap_or_default());

    let url = format!("http://{SERVER}:8000/file");
    let file = Run::program("curl").args(["-sS", "--max-time", "60", &url]);
    let file = file.limit(Duration::from_secs(70)).succeeds();
    assert_eq!(file.raw.len(), FILE);
    assert!(sha256_of(&file.raw[..]) == sha256_of(&noise(51, FILE)[..]), "another file came");
    println!("{FILE} bytes with the right checksum within {:?}", file.took);

    let seconds = figure("seconds of iperf3", 5, 60);
    let measured = Iperf::measure(SERVER, seconds, &[]);
    let rate = measured["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 1e6;
    println!("TCP inside: {rate:.0} Mbit/s, {} sent again", measured["sum_sent"]["retransmits"]);
    assert!(rate > 1.0, "{measured}");

    let flows = tunnel.connections();
    let [flow] = &flows[..] else { panic!("one flow was expected: {flows:?}") };
    assert_eq!(flow["protocol"], "udp", "{flow}");
    println!("client: {}", tunnel.listed().expect("a tunnel")["packets"]);
    println!("router: {}", router.status()["packets"]);
    assert!(flow["bytes_up"].as_u64().is_some_and(|bytes| bytes > FILE as u64 / 100), "{flow}");
}

const SERVER: IpAddr = Host::private(1);
const PEER: IpAddr = Host::private(2);
const FILE: usize = 16 << 20;
