//! `conduit wait`: scripts go on when tunnels are ready, and hear why they are not.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::world::{BlackHole, Client, Service, Tunnel, World, ends_with_reset, free_port};

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

#[test]
fn whether_a_source_is_there_is_found_out_without_a_user() {
    let world = World::new();
    let (_router, client, forward) = world.tunnel_to(free_port());
    finds_out(&client, &forward);
    finds_out(&client, &client.publishes("published", free_port()));
    let udp = client.start(free_port()).args(["--protocol", "udp", "--name", "dns"]).succeeds();
    drop(client.started(&udp));
    let said = client.conduit(&["status", "dns", "--dial-source", "-o", "json"]).succeeds().json();
    assert_eq!(said["tunnels"][0].get("source_probe"), None, "nobody knows");
}

fn finds_out(client: &Client, tunnel: &Tunnel) {
    let name = tunnel.name.as_str();
    client.conduit(&["status", name]).succeeds();
    client.conduit(&["status", name, "--dial-source"]).exits(1).prints("refused");
    let said = client.conduit(&["status", name, "--dial-source", "-o", "json"]).exits(1).json();
    let status = &said["tunnels"][0];
    assert_eq!(
        (&status["probe"]["ok"], &status["source_probe"]["ok"]),
        (&true.into(), &false.into())
    );
    assert_eq!(status["state"], "degraded", "as if a user had met it");
    client.conduit(&["wait", name, "--dial-source", "--timeout", "1s"]).exits(69).says("refused");
    client.conduit(&["doctor"]).exits(1).prints(name).prints("refused");
    let source = tunnel.listed().expect("the tunnel")["source"].clone();
    let _service = TcpListener::bind(source.as_str().expect("an address")).expect("its port");
    client.conduit(&["wait", name, "--dial-source"]).succeeds();
    let said = client.conduit(&["status", name, "--dial-source", "-o", "json"]).succeeds().json();
    let probe = &said["tunnels"][0]["source_probe"];
    assert!(probe["rtt_ms"].as_f64().is_some_and(|took| took > 0.0), "{probe}");
}

#[test]
fn who_waits_for_a_source_that_does_not_answer_waits_no_longer_than_asked() {
    let world = World::new();
    let hole = BlackHole::dig("127.0.0.1:0");
    let (_router, client, tunnel) = world.tunnel_to(hole.addr());
    let wait = ["wait", &tunnel.name, "--dial-source", "--timeout", "2s"];
    let waited = client.conduit(&wait).exits(69);
    waited.says("a source does not answer").took_at_most(Duration::from_secs(5));
    let status = client.conduit(&["status", "--dial-source"]).exits(1);
    status.prints("did not answer within 10 s").took_at_most(Duration::from_secs(15));
    client.conduit(&["list"]).succeeds().prints("degraded");
}
