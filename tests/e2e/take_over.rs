//! Another process of the same client takes a published tunnel over, and visitors do not notice.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::world::{
    Client, Router, Run, Service, Tunnel, World, echo, eventually, figure, free_port, in_namespace,
    noise, said_at, within,
};

/// The same client in two homes.
fn twins(world: &World) -> (Router, [Client; 2]) {
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let twin = client.moves_to(world.home("D"));
    (router, [client, twin])
}

fn publish(client: &Client, source: &Service, bind: SocketAddr) -> Run {
    let (source, bind) = (source.addr().to_string(), bind.to_string());
    client.conduit(&["start", "--reverse", "--name", "web", "--source", &source, "--bind", &bind])
}

#[test]
fn what_is_open_at_a_take_over_goes_on_to_its_end() {
    let world = World::new();
    let (old, new) = (Service::echo(), Service::saying("new"));
    let (_router, [client, twin]) = twins(&world);
    let bind = free_port();
    let first = client.started(&publish(&client, &old, bind).succeeds());
    let mut open = first.connect();
    open.write_all(b"a").expect("a byte");
    open.read_exact(&mut [0]).expect("its echo");

    publish(&twin, &new, bind).succeeds();
    assert_eq!(said_at(bind).as_deref(), Some("new"));
    let listed = within(Duration::from_secs(5), "the old one gives up", || {
        first.listed().filter(|tunnel| tunnel["state"] == "draining")
    });
    println!("it is {} with {} open", listed["state"], listed["active_connections"]);
    echo(&open, &noise(9, 1_000_000)).expect("the same bytes");
    drop(open);
    let ended = eventually("the old one ends after its last visitor", || !first.runs());
    println!("it ended {ended:?} after its last visitor");
    let all = client.list(&["--all"]);
    let ended = all.iter().find(|tunnel| tunnel["name"] == "web").expect("what ended");
    assert_eq!(ended["state"], "failed", "{ended}");
    let why = ended["last_error"].as_str().unwrap_or_default();
    assert!(why.contains("took the tunnel over"), "{why}");
}

#[test]
fn no_visit_is_lost_while_two_take_the_tunnel_from_each_other() {
    // Visitors have thousands of ports, and none of them is to be the one that they visit.
    in_namespace(
        "take_over::no_visit_is_lost_while_two_take_the_tunnel_from_each_other",
        take_overs_under_traffic,
    );
}

fn take_overs_under_traffic() {
    let world = World::new();
    let service = Service::saying("served");
    let (_router, clients) = twins(&world);
    let bind = SocketAddr::from(([127, 0, 0, 1], 8_080));
    let times = figure("take-overs", 10, 50);
    let mut last: Tunnel = clients[0].started(&publish(&clients[0], &service, bind).succeeds());
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let is_served = said_at(bind).as_deref() == Some("served");
                    if is_served { &served } else { &lost }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _ending = Ending(&is_over);
        for time in 0..times {
            let before = served.load(Ordering::Relaxed);
            eventually("there is traffic", || served.load(Ordering::Relaxed) >= before + 50);
            let client = &clients[(time + 1) % 2];
            let next = client.started(&publish(client, &service, bind).succeeds());
            eventually("the one before ends", || !last.runs());
            last = next;
        }
    });
    println!(
        "{} visits were served, {} lost",
        served.load(Ordering::Relaxed),
        lost.load(Ordering::Relaxed)
    );
    assert_eq!(lost.into_inner(), 0, "of {}", served.into_inner());
}

/// Ends the visitors also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
