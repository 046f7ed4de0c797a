//! What a user does every day: two commands, a tunnel, a look at it, its end.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::world::{Service, World, echo, eventually, noise};

#[test]
fn two_commands_make_a_tunnel_that_carries_bytes_both_ways() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    eventually("nobody is at a terminal: the way to a ticket is named", || {
        format!("{}{}", router.printed(), router.log()).contains("conduit router invite")
    });
    let printed = format!("{}{}", router.printed(), router.log());
    assert!(printed.contains(&router.identity()), "the identity is printed: {printed}");
    assert!(!printed.contains("cdt1_"), "nobody is at a terminal: no ticket is printed: {printed}");
    let tunnel = world.client("C").joins(&router.invite(&[]), target.addr());
    assert_eq!(tunnel.name, format!("tcp-{}", target.addr().port()), "no port was asked for");
    echo(&tunnel.connect(), &noise(1, 3_000_001)).expect("the same bytes");
    assert_eq!(target.connects(), 1);
}

#[test]
fn the_second_tunnel_needs_no_ticket_and_no_address() {
    let world = World::new();
    let (one, two) = (Service::greeting("one"), Service::greeting("two"));
    let (_router, client, first) = world.tunnel_to(one.addr());
    let second = client.starts("second", two.addr());
    for (tunnel, greeting) in [(&first, "one"), (&second, "two")] {
        let mut said = [0; 3];
        tunnel.connect().read_exact(&mut said).expect("a greeting");
        assert_eq!(said, *greeting.as_bytes());
    }
    assert_eq!(client.list(&[]).len(), 2);
}

#[test]
fn a_server_that_speaks_first_is_heard_before_the_user_says_anything() {
    let world = World::new();
    let target = Service::greeting("220 ready\r\n");
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    let mut said = [0; 11];
    stream.read_exact(&mut said).expect("a greeting");
    assert_eq!(&said, b"220 ready\r\n");
    stream.write_all(b"EHLO").expect("a word");
    let mut back = [0; 4];
    stream.read_exact(&mut back).expect("an answer");
    assert_eq!(&back, b"EHLO");
}

#[test]
fn list_and_status_show_what_runs_and_what_it_carried() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    echo(&tunnel.connect(), &noise(2, 10_000)).expect("the same bytes");
    eventually("the connection is counted", || {
        let listed = tunnel.listed().expect("a tunnel");
        listed["connections_total"] == 1 && listed["active_connections"] == 0
    });
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!(listed["state"], "ready");
    assert_eq!(listed["pid"], tunnel.pid);
    assert_eq!(listed["carrier"], "quic");
    assert_eq!(listed["bind"], tunnel.bind.to_string());
    assert_eq!(listed["source"], target.addr().to_string());
    assert_eq!(listed["router"], router.addr().to_string());
    assert_eq!((&listed["protocol"], &listed["direction"]), (&"tcp".into(), &"forward".into()));
    assert_eq!(
        (listed["bytes_up"].as_u64(), listed["bytes_down"].as_u64()),
        (Some(10_000), Some(10_000))
    );
    assert_eq!(listed["tls"]["key_exchange"], "X25519MLKEM768");
    assert!(listed["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 1_000.0), "{listed}");

    let status = client.status().exits(0);
    let json = status.json();
    assert_eq!(json["schema"], "conduit.status/1", "{status}");
    assert!(
        status.stdout.contains("\"ok\": true") || status.stdout.contains("\"ok\":true"),
        "a probe: {status}"
    );
    router.home().conduit(&["status"]).succeeds().prints("router");
    client.conduit(&["ps"]).succeeds().prints(&tunnel.name);
    client.conduit(&["list", "--quiet"]).succeeds().prints(listed["id"].as_str().expect("an id"));
}

#[test]
fn kill_returns_when_the_process_is_gone_and_the_port_is_free() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    assert!(!tunnel.runs());
    TcpListener::bind(tunnel.bind).expect("the port is free");
    assert!(client.list(&[]).is_empty());
    let ended = client.list(&["--all"]);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0]["state"], "stopped");
    client.conduit(&["logs", &tunnel.name]).succeeds();
}

#[test]
fn kill_drains_first_and_lets_a_connection_finish() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    std::thread::scope(|scope| {
        let killing = scope
            .spawn(|| client.conduit(&["kill", "--tunnel", &tunnel.name, "--drain", "20s"]).ends());
        eventually("no new connection is accepted", || {
            std::net::TcpStream::connect(tunnel.bind).is_err()
        });
        echo(&stream, &noise(3, 100_000)).expect("what was open goes on to its end");
        let outcome = killing.join().expect("no panic").exits(0);
        outcome.took_at_most(Duration::from_secs(15));
    });
    assert!(!tunnel.runs());
}

#[test]
fn kill_cuts_off_what_is_still_open_after_the_drain_and_says_when_it_had_to_force() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    let kill = ["kill", "--tunnel", &tunnel.name, "--drain", "200ms"];
    let outcome = client.conduit(&kill).ends().took_at_most(Duration::from_secs(5));
    assert!(matches!(outcome.code, Some(0 | 69)), "{outcome}");
    assert!(crate::world::ends_with_reset(&stream));
    assert!(!tunnel.runs());

    let second = client.starts("second", target.addr());
    let _open = second.connect();
    client
        .conduit(&["kill", "--tunnel", "second", "--force"])
        .ends()
        .took_at_most(Duration::from_secs(5));
    assert!(!second.runs());

    let hanging = client.starts("hanging", target.addr());
    hanging.signal(rustix::process::Signal::STOP);
    client
        .conduit(&["kill", "--tunnel", "hanging", "--force"])
        .exits(69)
        .took_at_most(Duration::from_secs(10));
    assert!(!hanging.runs());
}

#[test]
fn one_connection_can_be_ended_alone() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let (mut doomed, mut spared) = (tunnel.connect(), tunnel.connect());
    for stream in [&mut doomed, &mut spared] {
        stream.write_all(b"a").expect("a byte");
        stream.read_exact(&mut [0]).expect("its echo");
    }
    let outcome = client.conduit(&["list", "--connections", "-o", "json"]).succeeds();
    let peer = doomed.local_addr().expect("an address").to_string();
    let json = outcome.json();
    let connections = connections_in(&json);
    assert_eq!(connections.len(), 2, "{outcome}");
    let found = connections.iter().find(|connection| connection["peer"] == peer.as_str());
    let id = found.unwrap_or_else(|| panic!("no {peer}: {outcome}"))["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    client.conduit(&["kill", "--connection", &id]).succeeds();
    assert!(crate::world::ends_with_reset(&doomed));
    spared.write_all(b"b").expect("a byte");
    spared.read_exact(&mut [0]).expect("its echo");
}

/// Wherever `list --connections` puts them: objects with a `peer`.
fn connections_in(value: &serde_json::Value) -> Vec<&serde_json::Value> {
    match value {
        serde_json::Value::Object(map) if map.contains_key("peer") => vec![value],
        serde_json::Value::Object(map) => map.values().flat_map(connections_in).collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(connections_in).collect(),
        _ => Vec::new(),
    }
}
