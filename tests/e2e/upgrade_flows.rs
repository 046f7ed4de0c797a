//! `conduit router upgrade` and flows: another program goes on with their sockets.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::upgrade::{answers, upgrades};
use crate::world::{Answerer, Router, Tunnel, World, eventually, free_port, user_of};

/// [UPG-7]
#[test]
fn flows_that_are_silent_outlive_an_upgrade() {
    let (_world, router, tunnels) = flows_both_ways();
    for tunnel in &tunnels {
        answers(&tunnel.user);
    }
    // Longer than a router that drains waits for more.
    thread::sleep(Duration::from_secs(2));
    upgrades(&router);
    for Flowing { user, service, .. } in &tunnels {
        answers(user);
        assert_eq!(service.senders(), 1, "the same socket all the time");
    }
}

/// [UPG-7]
#[test]
fn flows_outlive_upgrades_while_their_clients_are_away() {
    let (_world, router, tunnels) = flows_both_ways();
    for Flowing { user, tunnel, .. } in &tunnels {
        answers(user);
        tunnel.signal(rustix::process::Signal::STOP);
    }
    for _ in 0..2 {
        upgrades(&router);
        thread::sleep(Duration::from_secs(2));
    }
    for Flowing { user, service, tunnel } in &tunnels {
        tunnel.signal(rustix::process::Signal::CONT);
        answers(user);
        assert_eq!(service.senders(), 1, "the same socket all the time");
    }
}

/// [UPG-7]
#[test]
fn what_visitors_send_meanwhile_waits_in_the_published_socket() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let come: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let seen = Arc::clone(&come);
    let service = Answerer::start(move |packet, _| {
        let number = packet.try_into().map(u32::from_be_bytes).expect("a number");
        seen.lock().expect("not poisoned").insert(number);
        packet.to_vec()
    });
    let published = client.start_udp(service.addr(), "0").arg("--reverse").succeeds();
    let visitor = user_of(client.started(&published).bind);
    let upgraded = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let visiting = scope.spawn(|| {
            let mut left = 300;
            (0..).find(|number: &u32| {
                visitor.send(&number.to_be_bytes()).expect("sent");
                thread::sleep(Duration::from_millis(1));
                left -= u32::from(upgraded.load(Ordering::Relaxed));
                left == 0
            })
        });
        thread::sleep(Duration::from_millis(300));
        upgrades(&router);
        upgraded.store(true, Ordering::Relaxed);
        visiting.join().expect("sent").expect("a last number")
    });
    eventually("the last one has come", || come.lock().expect("not poisoned").contains(&sent));
    let come = come.lock().expect("not poisoned");
    let lost: Vec<u32> = (0..=sent).filter(|number| !come.contains(number)).collect();
    println!("{} of {} lost: {lost:?}", lost.len(), sent + 1);
    // What was on its way through the connection that ended: far less than came while nobody read.
    assert!(lost.len() <= 10, "of {}: {lost:?}", sent + 1);
    assert_eq!(service.senders(), 1, "the same socket all the time");
}

/// A tunnel of one direction, its service and its user.
struct Flowing {
    tunnel: Tunnel,
    service: Answerer,
    user: UdpSocket,
}

fn flows_both_ways() -> (World, Router, [Flowing; 2]) {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let tunnels = [(free_port().to_string(), None), ("0".to_owned(), Some("--reverse"))];
    let tunnels = tunnels.map(|(bind, reverse)| {
        let service = Answerer::echo();
        let started = client.start_udp(service.addr(), &bind).args(reverse.as_slice()).succeeds();
        let tunnel = client.started(&started);
        let user = user_of(tunnel.bind);
        Flowing { tunnel, service, user }
    });
    (world, router, tunnels)
}
