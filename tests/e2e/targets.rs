//! Targets that cannot be reached, and what the user hears of it.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{
    BlackHole, Client, Router, Service, Tunnel, World, echo, ends_with_reset, in_namespace, within,
};

#[test]
fn h61_a_target_that_refuses_is_a_reset_at_once_and_a_reason_everywhere() {
    let world = World::new();
    let closed =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (router, client, tunnel) = world.tunnel_to(closed);
    is_reset_within(&tunnel, Duration::from_secs(1));
    says_why(&router, &client, &tunnel, "refused the connection");
    assert!(
        router.log().contains(&closed.to_string()),
        "the router's log names the target: {}",
        router.log()
    );
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!(listed["state"], "degraded", "what it is for does not work");
    let reason = listed["last_error"].as_str().expect("a reason");
    assert_eq!(reason.matches(&closed.to_string()).count(), 1, "{reason}");
}

#[test]
fn h61_a_target_that_was_down_is_reached_once_it_is_up() {
    let world = World::new();
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (_router, _client, tunnel) = world.tunnel_to(addr);
    is_reset_within(&tunnel, Duration::from_secs(1));
    let listener = TcpListener::bind(addr).expect("the port is still free");
    let _up = Service::on(listener, |stream| drop(std::io::copy(&mut &stream, &mut &stream)));
    let open = tunnel.connect();
    echo(&open, b"up now").expect("the same bytes");
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!((&listed["state"], &listed["last_error"]), (&"ready".into(), &Value::Null));
}

#[test]
fn h62_a_target_that_swallows_everything_is_given_up_after_the_limit() {
    let world = World::new();
    let hole = BlackHole::dig("127.0.0.1:0");
    let router = world.router_with("[limits]\ndial_timeout = \"1s\"\n");
    let client = world.client("C");
    let tunnel = client.joins(&router.invite(&[]), hole.addr());
    let start = Instant::now();
    is_reset_within(&tunnel, Duration::from_secs(4));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    says_why(&router, &client, &tunnel, "did not answer within");
}

#[test]
fn h62_a_black_hole_slows_no_other_dial() {
    let world = World::new();
    let hole = BlackHole::dig("127.0.0.1:0");
    let target = Service::echo();
    let (_router, client, into_the_hole) = world.tunnel_to(hole.addr());
    let _waiting: Vec<_> = (0..50).map(|_| into_the_hole.connect()).collect();
    let beside = client.starts("beside", target.addr());
    let start = Instant::now();
    echo(&beside.connect(), b"quick").expect("the same bytes");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn h63_names_that_fail_are_bounded_and_said() {
    in_namespace("targets::h63_names_that_fail_are_bounded_and_said", || {
        let world = World::new();
        let target = Service::echo();
        name_server(world.path());
        let router = world.router();
        let client = world.client("C");
        let first =
            client.joins(&router.invite(&[]), format!("nowhere.example:{}", target.addr().port()));
        is_reset_within(&first, Duration::from_secs(5));
        says_why(&router, &client, &first, "nowhere.example");

        let slow = client.starts("slow", "silent.example:80");
        let start = Instant::now();
        let waiting = slow.connect();
        let beside = client.starts("beside", target.addr());
        echo(&beside.connect(), b"quick").expect("other dials are not affected");
        assert!(ends_with_reset(&waiting));
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        says_why(&router, &client, &slow, "silent.example");

        // 100 addresses where nobody answers, of which a few are tried.
        let many = client.starts("many", format!("many.example:{}", free_port()));
        is_reset_within(&many, Duration::from_secs(12));
        let known = client.starts("known", format!("known.example:{}", target.addr().port()));
        echo(&known.connect(), b"resolved").expect("the same bytes");
    });
}

#[test]
fn a_target_that_can_never_be_allowed_fails_the_start() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let ticket = router.invite(&["--allow-target", "10.2.0.0/16:80,443", "--name", "ci"]);
    client
        .join(&ticket, target.addr())
        .exits(77)
        .says("does not allow")
        .says(&target.addr().to_string());
    assert!(client.list(&[]).is_empty());
    assert_eq!(target.connects(), 0);
    client.started(&client.start("10.2.0.2:80").succeeds());
    client.start("10.2.0.2:81").args(["--name", "port"]).exits(77).says("does not allow");
    assert!(router.log().contains("tunnel refused"), "{}", router.log());
}

#[test]
fn what_is_listed_is_reached_and_nothing_beside_it() {
    let world = World::new();
    let (allowed, other) = (Service::echo(), Service::echo());
    let router = world.router();
    let client = world.client("C");
    let rule = format!("127.0.0.0/8:{}", allowed.addr().port());
    let tunnel = client.joins(&router.invite(&["--allow-target", &rule]), allowed.addr());
    echo(&tunnel.connect(), b"listed").expect("the same bytes");
    client.start(other.addr()).args(["--name", "other"]).exits(77);
    assert_eq!(other.connects(), 0);
}

/// Answers on 127.0.0.1:53 of this namespace: `known.example` is 127.0.0.1, `many.example` is 100 addresses,
/// `nowhere.example` does not exist, `silent.example` gets no answer.
fn name_server(folder: &std::path::Path) {
    let conf = folder.join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\noptions timeout:10 attempts:1\n")
        .expect("resolv.conf");
    let target = std::fs::canonicalize("/etc/resolv.conf").expect("/etc/resolv.conf");
    crate::world::Run::program("mount").arg("--bind").arg(&conf).arg(target).succeeds();
    let socket = UdpSocket::bind("127.0.0.1:53").expect("port 53 of this namespace");
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0)? + 1;
    let first = &query[13..13 + usize::from(query[12])];
    let a_record = query[end..end + 2] == [0, 1];
    let addresses: Vec<[u8; 4]> = match first {
        b"silent" => return None,
        b"known" if a_record => vec![[127, 0, 0, 1]],
        b"many" if a_record => (0..100).map(|n| [127, 9, 9, n]).collect(),
        _ => Vec::new(),
    };
    let found: u8 = if first == b"known" || first == b"many" { 0 } else { 3 };
    let mut packet = query[..2].to_vec();
    packet.extend([0x81, 0x80 | found, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    packet.extend(&query[12..end + 4]);
    for address in addresses {
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        packet.extend(address);
    }
    Some(packet)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

#[track_caller]
fn is_reset_within(tunnel: &Tunnel, limit: Duration) {
    let start = Instant::now();
    let stream = tunnel.connect();
    // It may be reset before that, which is told once.
    let said = (&stream).write_all(b"hello?");
    let is_reset = said.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(is_reset || ends_with_reset(&stream), "a reset, no ordinary end");
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
}

/// In `status`, `logs` and the router's log.
#[track_caller]
fn says_why(router: &Router, client: &Client, tunnel: &Tunnel, reason: &str) {
    within(Duration::from_secs(5), &format!("{reason:?} everywhere"), || {
        let status = client.conduit(&["status", "-o", "json"]).ends();
        let logs = client.conduit(&["logs", &tunnel.name]).succeeds();
        let seen = status.stdout.contains(reason)
            && logs.stdout.contains(reason)
            && router.log().contains(reason);
        seen.then_some(())
    });
}
