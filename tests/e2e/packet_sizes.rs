//! What a cable carries, and what is left when it carries less.

use std::time::{Duration, Instant};

use crate::world::{Host, Service, Tunnel, World, echo, ip, noise, on_two_hosts, within};

#[test]
fn packets_become_as_large_as_the_cable_carries() {
    on_two_hosts("packet_sizes::packets_become_as_large_as_the_cable_carries", |there| {
        for (mtu, least) in [(9_000, 8_940), (1_280, 1_230), (1_500, 1_450)] {
            both_ends(mtu);
            with_tunnel(there, |tunnel| {
                let payload = within(Duration::from_secs(15), "the MTU is found out", || {
                    echo(&tunnel.connect(), &noise(1, 100_000)).expect("the same bytes");
                    path_mtu(tunnel).filter(|payload| *payload >= least)
                });
                println!("a cable of {mtu}: {payload} bytes");
                assert!(payload <= mtu - 28, "{payload} on a cable of {mtu}");
            });
        }
    });
}

#[test]
fn h55_a_cable_that_carries_less_all_at_once_holds_up_a_transfer_for_seconds_at_most() {
    let name = "h55_a_cable_that_carries_less_all_at_once_holds_up_a_transfer_for_seconds_at_most";
    on_two_hosts(&format!("packet_sizes::{name}"), |there| {
        // Trains are taken apart before the cable, which would not look at their length.
        ip("link set cable gso_max_segs 1");
        with_tunnel(there, |tunnel| {
            within(Duration::from_secs(15), "the MTU is found out", || {
                echo(&tunnel.connect(), &noise(1, 100_000)).expect("the same bytes");
                path_mtu(tunnel).filter(|payload| *payload >= 1_450)
            });
            let open = tunnel.connect();
            // This end still believes in 1,500: the other one drops what is larger.
            ip("-n there link set cable mtu 1280");
            let start = Instant::now();
            echo(&open, &noise(2, 3_000_000)).expect("the same bytes");
            let took = start.elapsed();
            println!("3 MB after the fall took {took:?}, {:?} bytes now", path_mtu(tunnel));
            assert!(took < Duration::from_secs(10), "{took:?}");
            within(Duration::from_secs(5), "packets fit", || {
                path_mtu(tunnel).filter(|payload| *payload <= 1_252)
            });
        });
    });
}

fn both_ends(mtu: u64) {
    ip(&format!("link set cable mtu {mtu}"));
    ip(&format!("-n there link set cable mtu {mtu}"));
}

/// A tunnel from this host to a target on the other one, where the router is.
fn with_tunnel(there: &Host, body: impl FnOnce(&Tunnel)) {
    let world = World::new();
    let target = there.enter(Service::echo);
    let router = there.enter(|| world.router_at("10.7.0.1:9999"));
    let client = world.client("C");
    body(&client.joins(&router.invite(&[]), target.addr()));
}

fn path_mtu(tunnel: &Tunnel) -> Option<u64> {
    tunnel.listed()?["mtu"].as_u64()
}
