//! What a modest stream of packets loses: nothing worth mentioning.

use std::net::{IpAddr, Ipv4Addr};

use crate::world::{Iperf, Router, Tunnel, World, on_two_hosts};

#[test]
fn twenty_megabits_lose_next_to_nothing_forward() {
    on_two_hosts("udp_iperf::twenty_megabits_lose_next_to_nothing_forward", |there| {
        let world = World::new();
        let router = there.enter(|| world.router_at("10.7.0.1:9999"));
        let client = world.client("C");
        let _server = there.enter(|| Iperf::serve(world.path(), LOOPBACK));
        // iperf3 speaks TCP about what it does over UDP.
        let ends = ["--source", "127.0.0.1:5201", "--bind", "127.0.0.1:5201"];
        let joins = client.conduit(&["start"]).args(ends).args(["--join", "-"]);
        joins.input(router.invite(&[])).succeeds();
        let tunnel = client.started(&client.start_udp(ends[1], ends[3]).succeeds());
        next_to_nothing_is_lost("forward", &router, &tunnel);
    });
}

#[test]
fn twenty_megabits_lose_next_to_nothing_in_reverse() {
    on_two_hosts("udp_iperf::twenty_megabits_lose_next_to_nothing_in_reverse", |there| {
        let world = World::new();
        let router = there.enter(|| world.router_at("10.7.0.1:9999"));
        let client = world.client("C");
        let _server = Iperf::serve(world.path(), LOOPBACK);
        let ends = ["--source", "127.0.0.1:5201", "--bind", "127.0.0.1:5201"];
        let joins = client.conduit(&["start", "--reverse"]).args(ends).args(["--join", "-"]);
        joins.input(router.invite(&[])).succeeds();
        let publishes = client.start_udp(ends[1], ends[3]).arg("--reverse");
        let tunnel = client.started(&publishes.succeeds());
        there.enter(|| next_to_nothing_is_lost("reverse", &router, &tunnel));
    });
}

/// From the user to the source, and the other way.
fn next_to_nothing_is_lost(direction: &str, router: &Router, tunnel: &Tunnel) {
    for (way, more) in [("up", &[][..]), ("down", &["-R"])] {
        // Its own sockets hold a pause of a busy machine: as much as every Linux grants.
        let options = [&["-u", "-b", "20M", "-l", "1200", "-w", "400K"], more].concat();
        let sum = Iperf::measure(LOOPBACK, 3, &options)["sum"].clone();
        let (lost, packets) = (&sum["lost_packets"], &sum["packets"]);
        println!("{direction}, {way}: {lost} of {packets} lost, jitter {} ms", sum["jitter_ms"]);
        let at_client = tunnel.listed().expect("a tunnel");
        println!("router: {}", router.status()["packets"]);
        println!("client: {}, path loss {} %", at_client["packets"], at_client["loss_percent"]);
        assert!(packets.as_u64().is_some_and(|packets| packets > 5_000), "{sum}");
        assert!(sum["lost_percent"].as_f64().is_some_and(|percent| percent <= 0.1), "{sum}");
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
