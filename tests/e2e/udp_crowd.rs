//! Ten thousand users at one UDP port at once.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::world::{Answerer, World, in_namespace};

#[test]
fn ten_thousand_flows_at_once_are_not_confused_and_cost_little() {
    in_namespace("udp_crowd::ten_thousand_flows_at_once_are_not_confused_and_cost_little", || {
        raise_descriptors();
        let world = World::new();
        let target = Answerer::start(|packet, _| answer_to(packet));
        let (router, _client, tunnel) = world.udp_tunnel_to(target.addr(), &[]);
        // What a process takes once for all flows is taken before.
        let first = [user(FLOWS, tunnel.bind)];
        (0..WARM_UP).for_each(|round| everybody_is_answered(&first, round));
        let before = [resident(router.pid()), resident(tunnel.pid)];
        let users: Vec<_> = (0..FLOWS).map(|number| user(number, tunnel.bind)).collect();
        for round in 0..2 {
            let start = Instant::now();
            everybody_is_answered(&users, round);
            println!("round {round}: {FLOWS} users answered within {:?}", start.elapsed());
        }
        assert_eq!(target.senders(), FLOWS + 1, "a flow for each user, and one only");
        assert_eq!(tunnel.listed().expect("a tunnel")["active_connections"], FLOWS + 1);
        let flows = tunnel.connections();
        let listed: HashSet<_> =
            flows.iter().map(|flow| flow["peer"].as_str().expect("a peer").to_owned()).collect();
        let expected = first.iter().chain(&users).map(local).collect();
        assert!(listed == expected, "{} are listed", flows.len());
        for (who, pid, before) in
            [("router", router.pid(), before[0]), ("tunnel", tunnel.pid, before[1])]
        {
            costs_little(who, before, resident(pid));
        }
    });
}

/// Asks in groups, so that no socket's buffer has to hold a crowd: what is lost would be lost by the tunnel.
fn everybody_is_answered(users: &[UdpSocket], round: usize) {
    for (group, users) in users.chunks(GROUP).enumerate() {
        let question = |index: usize| {
            format!("user {} in round {round}: {}", group * GROUP + index, "x".repeat(100))
        };
        for (index, user) in users.iter().enumerate() {
            user.send(question(index).as_bytes()).expect("sent");
        }
        for (index, user) in users.iter().enumerate() {
            let mut packet = [0; 1_000];
            let length = user.recv(&mut packet).unwrap_or_else(|error| {
                panic!("no answer to {:?} of {}: {error}", question(index), local(user))
            });
            let expected = answer_to(question(index).as_bytes());
            assert_eq!(packet[..length], expected, "somebody else's answer");
        }
    }
    for user in users {
        user.set_nonblocking(true).expect("a socket");
        let more = user.recv(&mut [0]).expect_err("one answer each");
        assert_eq!(more.kind(), ErrorKind::WouldBlock);
        user.set_nonblocking(false).expect("a socket");
    }
}

/// In a debug build memory says nothing about the product.
fn costs_little(who: &str, before: u64, after: u64) {
    if cfg!(debug_assertions) {
        return;
    }
    println!("{who}: {before} KiB resident before, {after} KiB with {FLOWS} flows");
    assert!(after.saturating_sub(before) <= 20 << 10, "{who}: {before} KiB, then {after} KiB");
}

/// Each from an address of its own.
fn user(number: usize, addr: SocketAddr) -> UdpSocket {
    let source = [127, 1, (number / 250) as u8, (number % 250) as u8 + 1];
    let socket = UdpSocket::bind(SocketAddr::from((source, 0))).expect("a socket");
    socket.connect(addr).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}

fn local(user: &UdpSocket) -> String {
    user.local_addr().expect("an address").to_string()
}

fn answer_to(packet: &[u8]) -> Vec<u8> {
    packet.iter().rev().copied().collect()
}

/// `VmRSS`, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The test's own sockets; the router sees to its own.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let needed = FLOWS as u64 + 1_000;
    assert!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{needed} descriptors are needed, {maximum:?} allowed: raise the hard limit (ulimit -Hn)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit");
}

const FLOWS: usize = 10_000;
const WARM_UP: usize = 1_000;
/// At 2 KiB for each packet that waits, no more than the system gives a socket that did not ask for more.
const GROUP: usize = 50;
