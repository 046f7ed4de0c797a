//! `conduit wait`: scripts go on when tunnels are ready, and hear why they are not.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::world::{Service, World, ends_with_reset, free_port};

#[test]
fn wait_returns_when_every_tunnel_passes_a_probe_and_says_what_does_not() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    client.conduit(&["wait", "--ready"]).succeeds();
    client.conduit(&["wait", &tunnel.name, "--timeout", "5s"]).succeeds();
    let missing = client.conduit(&["wait", "nobody", "--timeout", "300ms"]).exits(69);
    missing.says("nothing here is called nobody");
    router.signal(rustix::process::Signal::STOP);
    let silent = client.conduit(&["wait", &tunnel.name, "--timeout", "2s"]).exits(69);
    silent.says(&tunnel.name).says("conduit status");
    router.signal(rustix::process::Signal::CONT);
    client.conduit(&["wait", &tunnel.name]).succeeds();
    router.dies();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.conduit(&["wait", "--timeout", "60s"]).succeeds());
        router.returns();
        waiting.join().expect("ready again");
    });
}

#[test]
fn wait_ended_returns_when_a_tunnel_is_gone_and_ready_fails_at_once_for_one_that_has_failed() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    client.conduit(&["wait", "--ended", "--timeout", "300ms"]).exits(69).says("runs");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.conduit(&["wait", "--ended", &tunnel.name]).succeeds());
        client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
        waiting.join().expect("it has ended");
    });
    let stopped = client.conduit(&["wait", &tunnel.name, "--timeout", "300ms"]).exits(69);
    stopped.says("was stopped");
    let both = client.conduit(&["kill", "--tunnel", &tunnel.name, "nobody"]).exits(1);
    both.says("nothing was ended");
    let tunnel = client.starts("doomed", target.addr());
    tunnel.dies();
    let failed = client.conduit(&["wait", "doomed"]).exits(1);
    failed.says("failed").says("conduit logs doomed").took_at_most(Duration::from_secs(5));
}

#[test]
fn wait_finds_out_that_a_source_is_back_which_nobody_has_used_since() {
    let world = World::new();
    let (_router, client, forward) = world.tunnel_to(free_port());
    let reverse = client.publishes("published", free_port());
    for tunnel in [forward, reverse] {
        assert!(ends_with_reset(&tunnel.connect()), "nobody listens there");
        client.conduit(&["wait", &tunnel.name, "--timeout", "1s"]).exits(69).says("refused");
        let source = tunnel.listed().expect("the tunnel")["source"].clone();
        let _service = TcpListener::bind(source.as_str().expect("an address")).expect("its port");
        client.conduit(&["wait", &tunnel.name]).succeeds();
        client.conduit(&["status", &tunnel.name]).succeeds();
    }
}
