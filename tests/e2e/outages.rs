//! Routers that are not there, vanish, come back, or move.

use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{Service, Tunnel, World, echo, ends_with_reset, within};

#[test]
fn a_router_that_is_not_there_is_said_within_ten_seconds() {
    let world = World::new();
    let router = world.router();
    let identity = router.identity();
    let free = UdpSocket::bind("127.0.0.1:0")
        .and_then(|s| s.local_addr())
        .expect("a free port")
        .to_string();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket that never answers");
    let silent_addr = silent.local_addr().expect("its address").to_string();
    let client = world.client("C");
    for addr in [free, silent_addr] {
        client
            .start("127.0.0.1:9")
            .args(["--router", &addr, "--router-identity", &identity])
            .exits(69)
            .says(&addr)
            .took_at_most(Duration::from_secs(12));
    }
    assert!(client.list(&[]).is_empty());
    assert!(
        crate::world::processes_of(client.home().path()).is_empty(),
        "nothing is left half done"
    );
}

#[test]
fn a_port_where_something_else_answers_is_no_router() {
    let world = World::new();
    let router = world.router();
    let chatter = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    chatter.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    let addr = chatter.local_addr().expect("its address").to_string();
    thread::spawn(move || {
        let mut packet = [0; 65_535];
        while let Ok((length, from)) = chatter.recv_from(&mut packet) {
            let _ = chatter.send_to(b"HTTP/1.1 400 Bad Request\r\n\r\n", from);
            let _ = chatter.send_to(&packet[..length], from);
        }
    });
    let client = world.client("C");
    client
        .start("127.0.0.1:9")
        .args(["--router", &addr, "--router-identity", &router.identity()])
        .exits(69)
        .took_at_most(Duration::from_secs(12));
}

#[test]
fn a_router_name_that_does_not_exist_is_said() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    let pin = router.identity();
    let run = client.start("127.0.0.1:9").args([
        "--router",
        "no-such-host.invalid:9999",
        "--router-identity",
        &pin,
    ]);
    run.exits(69).says("no-such-host.invalid").took_at_most(Duration::from_secs(25));
}

#[test]
fn a_router_that_nobody_vouches_for_is_refused_with_the_two_ways_to_trust_it() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    let outcome = client.start("127.0.0.1:9").args(["--router", &router.addr().to_string()]).ends();
    assert!(matches!(outcome.code, Some(2 | 77 | 78)), "{outcome}");
    outcome.says("--join").says("--router-identity");
    let outcome = client.start("127.0.0.1:9").ends();
    assert!(matches!(outcome.code, Some(2 | 77 | 78)), "no router at all: {outcome}");
}

#[test]
fn ports_that_are_taken_are_said() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    world
        .home("R2")
        .conduit(&["router", "--bind", &router.addr().to_string()])
        .exits(1)
        .says("in use")
        .says(&router.addr().to_string());
    let bind = tunnel.bind.to_string();
    let source = target.addr().to_string();
    client
        .conduit(&["start", "--source", &source, "--bind", &bind, "--name", "late"])
        .exits(1)
        .says("in use")
        .says(&bind)
        .says(&format!("conduit kill --tunnel {}-", tunnel.name));
    let again = ["start", "--source", &source, "--bind", "127.0.0.1:0", "--name", &tunnel.name];
    client.conduit(&again).exits(1).says(&tunnel.pid.to_string()).says(&bind);
    assert_eq!(client.list(&[]).len(), 1, "the first one is untouched");
    echo(&tunnel.connect(), b"untouched").expect("the same bytes");
}

#[test]
fn a_second_router_in_one_home_is_refused() {
    let world = World::new();
    let router = world.router();
    let outcome = router.command(&["--bind", "127.0.0.1:0"]).exits(1);
    outcome.says(&router.pid().to_string());
}

#[test]
fn after_kill_9_of_the_router_the_tunnel_comes_back_by_itself() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, _client, tunnel) = world.tunnel_to(target.addr());
    for round in 0..3 {
        let mut open = tunnel.connect();
        open.write_all(b"a").expect("a byte");
        open.read_exact(&mut [0]).expect("its echo");
        router.dies();
        router.returns();
        let back = Instant::now();
        // The reset may be there before the byte is.
        let reset = match open.write_all(b"b") {
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
            Ok(()) => ends_with_reset(&open),
        };
        assert!(reset, "what was open is reset, not left hanging");
        let reset_after = back.elapsed();
        let works = until_it_works(&tunnel);
        println!(
            "round {round}: open connections reset after {reset_after:?}, new ones work after {works:?}"
        );
        assert!(
            reset_after < Duration::from_secs(8) && works < Duration::from_secs(8),
            "{reset_after:?} {works:?}"
        );
    }
    assert!(tunnel.runs(), "it is the same process");
}

#[test]
fn during_an_outage_new_connections_wait_and_are_served_when_the_router_is_back() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    router.dies();
    // Something has to be sent for the client to notice.
    let waiting = tunnel.connect();
    (&waiting).write_all(b"patience").expect("bytes");
    // It is "degraded" while nobody answers, and that before the tunnel itself has given its connection up.
    within(Duration::from_secs(40), "the state says so", || {
        (tunnel.listed()?["state"] == "reconnecting").then_some(())
    });
    assert_eq!(client.status().code, Some(1), "status is not healthy");
    let patient = tunnel.connect();
    router.returns();
    echo(&patient, b"it was worth the wait").expect("the same bytes");
    within(Duration::from_secs(20), "healthy again", || {
        (client.status().code == Some(0)).then_some(())
    });
}

/// The pauses between attempts grow to six seconds; nobody who comes waits for that.
#[test]
fn who_comes_after_a_long_outage_does_not_wait_for_the_next_attempt() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, _client, tunnel) = world.tunnel_to(target.addr());
    for round in 0..2 {
        router.dies();
        // Something has to be sent for the client to notice.
        let waiting = tunnel.connect();
        (&waiting).write_all(b"patience").expect("bytes");
        within(Duration::from_secs(40), "attempts fail", || {
            let error = tunnel.listed()?["last_error"].as_str()?.to_owned();
            error.contains("cannot be reached").then_some(())
        });
        drop(waiting);
        thread::sleep(Duration::from_secs(15));
        router.returns();
        let works = until_it_works(&tunnel);
        println!("round {round}: works after {works:?}");
        assert!(works < Duration::from_secs(3), "round {round}: {works:?}");
    }
}

#[test]
fn status_blames_a_silent_router_and_not_the_tunnel() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, _tunnel) = world.tunnel_to(target.addr());
    router.signal(rustix::process::Signal::STOP);
    let outcome = client.conduit(&["status", "-o", "json"]).exits(1);
    router.signal(rustix::process::Signal::CONT);
    let said = format!("the router {} does not answer the probe within", router.addr());
    outcome.prints(&said).took_at_most(Duration::from_secs(2));
}

/// Nothing is sent by an idle tunnel for seconds, so that it cannot know.
#[test]
fn list_asks_before_it_says_ready_of_a_tunnel_that_is_idle() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let listed = || tunnel.listed().expect("the tunnel");
    assert_eq!(listed()["state"], "ready");
    router.dies();
    // What was said in the last two seconds is believed.
    thread::sleep(Duration::from_secs(3));
    let row = listed();
    assert!(row["state"] == "degraded" || row["state"] == "reconnecting", "{row}");
    assert!(row["last_error"].as_str().is_some_and(|error| error.contains("router")), "{row}");
    client.conduit(&["list"]).succeeds().took_at_most(Duration::from_secs(2));
    router.returns();
    within(Duration::from_secs(20), "ready again", || (listed()["state"] == "ready").then_some(()));
}

#[test]
fn a_router_that_moved_is_found_by_its_known_key() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let before = router.addr();
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    router.dies();
    router.returns_at("127.0.0.1:0");
    let now = router.addr().to_string();
    assert_ne!(router.addr(), before);
    let moved = || client.start(target.addr()).args(["--name", "moved", "--router", &now]);
    // An address alone tells nothing from an impostor, and the key to add is named.
    moved().exits(77).says(&router.identity());
    let outcome = moved().args(["--router-identity", &router.identity()]).succeeds();
    echo(&client.started(&outcome).connect(), b"found").expect("the same bytes");
    let remembered = client.starts("later", target.addr());
    echo(&remembered.connect(), b"remembered").expect("the same bytes");
}

#[track_caller]
fn until_it_works(tunnel: &Tunnel) -> Duration {
    let start = Instant::now();
    within(Duration::from_secs(40), "a new connection works", || {
        echo(&tunnel.connect(), b"back?").ok()
    });
    start.elapsed()
}
