//! The life of a flow: how it begins, what ends it, and what comes after.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::{Answerer, World, asks, eventually, in_namespace, user_of, within};

#[test]
fn a_flow_that_was_idle_is_over_and_the_next_packet_opens_another() {
    for options in [&["--flow-idle", "1s"][..], &["--flow-idle", "1s", "--reverse"]] {
        let world = World::new();
        let target = Answerer::echo();
        let (_router, _client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        let user = user_of(tunnel.bind);
        assert_eq!(asks(&user, b"one").expect("an answer"), b"one");
        assert_eq!(asks(&user, b"two").expect("an answer"), b"two");
        assert_eq!(target.senders(), 1, "one flow for one sender");
        let connections = tunnel.connections();
        let [flow] = &connections[..] else { panic!("one flow was expected: {connections:?}") };
        assert_eq!(flow["protocol"], "udp", "{flow}");
        assert_eq!(flow["peer"], user.local_addr().expect("an address").to_string(), "{flow}");
        let idle = eventually("the flow is over", || tunnel.connections().is_empty());
        println!("{options:?}: over after {idle:?}");
        assert_eq!(tunnel.listed().expect("a tunnel")["active_connections"], 0);
        assert_eq!(asks(&user, b"three").expect("an answer"), b"three");
        assert_eq!(target.senders(), 2, "another flow");
    }
}

#[test]
fn a_flow_can_be_ended_alone_and_the_next_packet_opens_another() {
    for options in [&[][..], &["--reverse"]] {
        let world = World::new();
        let target = Answerer::echo();
        let (_router, client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        let (doomed, spared) = (user_of(tunnel.bind), user_of(tunnel.bind));
        for user in [&doomed, &spared] {
            assert_eq!(asks(user, b"one").expect("an answer"), b"one");
        }
        let peer = doomed.local_addr().expect("an address").to_string();
        let connections = tunnel.connections();
        assert_eq!(connections.len(), 2, "{connections:?}");
        let found = connections.iter().find(|flow| flow["peer"] == peer.as_str());
        let id = found.expect("the doomed flow")["id"].as_str().expect("an id").to_owned();
        client.conduit(&["kill", "--connection", &id]).succeeds();
        eventually("the flow is over, and only that", || tunnel.connections().len() == 1);
        assert_eq!(target.senders(), 2);
        assert_eq!(asks(&spared, b"two").expect("an answer"), b"two");
        assert_eq!(target.senders(), 2, "the other flow goes on");
        assert_eq!(asks(&doomed, b"two").expect("an answer"), b"two");
        assert_eq!(target.senders(), 3, "a new flow");
        assert!(tunnel.connections().iter().all(|flow| flow["id"] != id.as_str()));
    }
}

#[test]
fn kill_ends_the_tunnel_with_its_flows_and_the_port_is_free() {
    for options in [&[][..], &["--reverse"]] {
        let world = World::new();
        let target = Answerer::echo();
        let (_router, client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        assert_eq!(asks(&user_of(tunnel.bind), b"one").expect("an answer"), b"one");
        let outcome = client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
        println!("{options:?}: killed within {:?}", outcome.took);
        let outcome = outcome.took_at_most(Duration::from_secs(10));
        assert!(!tunnel.runs(), "{outcome}");
        eventually("the port is free", || UdpSocket::bind(tunnel.bind).is_ok());
        assert!(client.list(&[]).is_empty());
    }
}

#[test]
fn a_target_that_does_not_listen_is_told_to_the_user_and_works_once_it_does() {
    in_namespace(
        "udp_flows::a_target_that_does_not_listen_is_told_to_the_user_and_works_once_it_does",
        || {
            nobody_listens("127.0.0.1:4001", &[]);
            nobody_listens("127.0.0.1:4002", &["--reverse"]);
        },
    );
}

fn nobody_listens(source: &str, options: &[&str]) {
    let world = World::new();
    let (router, client, tunnel) = world.udp_tunnel_to(source, options);
    let user = user_of(tunnel.bind);
    let error = asks(&user, b"anybody?").expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let reason = within(Duration::from_secs(10), "the reason is shown", || {
        let listed = tunnel.listed().expect("a tunnel");
        let reason = listed["refusals"][0]["reason"].as_str()?.to_owned();
        assert_eq!(listed["refusals"][0]["target"], source, "{listed}");
        Some(reason)
    });
    assert!(reason.contains("refused"), "{reason}");
    client.conduit(&["status"]).exits(1).prints(&reason);
    assert_eq!(tunnel.listed().expect("a tunnel")["state"], "degraded");
    let count = match options.is_empty() {
        true => tunnel.dropped("unreachable"),
        false => router.status()["packets"]["dropped"]["unreachable"].as_u64().unwrap_or(0),
    };
    assert!(count >= 1, "where the user is, the packet is counted");
    println!("{options:?}: {reason}; {count} counted");

    let socket = UdpSocket::bind(source).expect("the port");
    let target = Answerer::on(socket, |packet, _| packet.to_vec());
    let answered = answered_within(&user, Duration::from_secs(5));
    println!("{options:?}: answered {answered:?} after the service appeared");
    assert_eq!(asks(&user, b"there").expect("an answer"), b"there");
    assert!(target.senders() >= 1);
    client.conduit(&["status"]).succeeds();
    assert_eq!(tunnel.listed().expect("a tunnel")["state"], "ready");
}

#[test]
fn what_comes_while_nobody_reads_is_counted_while_the_flow_goes_on() {
    let world = World::new();
    let target = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let source = target.local_addr().expect("its address");
    let (router, _client, tunnel) = world.udp_tunnel_to(source, &["--flow-idle", "0"]);
    let user = user_of(tunnel.bind);
    user.send(b"more than you can take").expect("sent");
    let (_, flow) = target.recv_from(&mut [0; 100]).expect("a packet");
    router.signal(Signal::STOP);
    for _ in 0..FLOOD {
        target.send_to(&[7; 1_200], flow).expect("sent");
    }
    router.signal(Signal::CONT);
    let dropped = || router.status()["packets"]["dropped"]["overflow"].as_u64().unwrap_or(0);
    eventually("it is counted", || dropped() > 0);
    println!("{} of {FLOOD} packets did not fit into the flow's socket", dropped());
    assert_eq!(tunnel.connections().len(), 1, "the flow goes on");
}

#[test]
fn after_kill_9_of_the_router_flows_work_again_by_themselves() {
    for options in [&[][..], &["--reverse"]] {
        let world = World::new();
        let target = Answerer::echo();
        let (mut router, _client, tunnel) = world.udp_tunnel_to(target.addr(), options);
        let user = user_of(tunnel.bind);
        for round in 0..2 {
            assert_eq!(asks(&user, b"before").expect("an answer"), b"before");
            router.dies();
            router.returns();
            let works = answered_within(&user, Duration::from_secs(10));
            println!("{options:?}, round {round}: flows work {works:?} after the router is back");
        }
        assert!(tunnel.runs(), "it is the same process");
        let bind = tunnel.listed().expect("a tunnel")["bind"].clone();
        assert_eq!(bind, tunnel.bind.to_string(), "and the same port");
    }
}

#[test]
fn each_port_of_a_row_leads_to_a_source_of_its_own() {
    in_namespace("udp_flows::each_port_of_a_row_leads_to_a_source_of_its_own", || {
        let world = World::new();
        let router = world.router();
        let client = world.client("C");
        let targets: Vec<_> = (0..3).map(|index| answerer(5001 + index)).collect();
        let ticket = router.invite(&[]);
        let joins = client.start_udp("127.0.0.1:5001-5003", "127.0.0.1:4001-4003");
        let outcome = joins.args(["--join", "-", "--name", "row"]).input(ticket).succeeds();
        outcome.prints("127.0.0.1:4001-4003 → 127.0.0.1:5001-5003");
        let reverse = client.start_udp("127.0.0.1:5001-5003", "127.0.0.1:6001-6003");
        reverse.args(["--reverse", "--name", "published"]).succeeds();
        for first in [4001, 6001] {
            for index in 0..3 {
                let addr = SocketAddr::from(([127, 0, 0, 1], first + index));
                let answer = asks(&user_of(addr), b"who?").expect("an answer");
                assert_eq!(answer, (5001 + index).to_string().as_bytes(), "{addr}");
            }
        }
        assert!(targets.iter().all(|target| target.senders() == 2));
    });
}

/// A service that answers with its own port.
fn answerer(port: u16) -> Answerer {
    let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the port");
    Answerer::on(socket, move |_, _| port.to_string().into_bytes())
}

/// How long it takes until a packet of the user is answered again; what was lost before is asked again.
#[track_caller]
fn answered_within(user: &UdpSocket, limit: Duration) -> Duration {
    let start = Instant::now();
    user.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    within(limit, "an answer", || {
        let answer = asks(user, b"back?").ok()?;
        assert_eq!(answer, b"back?");
        Some(())
    });
    let took = start.elapsed();
    user.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    // Answers to what was asked in vain before may still come.
    while user.recv(&mut [0; 16]).is_ok() {}
    user.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    took
}

/// Ten times what a socket holds that got what it asked for.
const FLOOD: usize = 10_000;
