//! Ctrl-C and SIGTERM: an orderly end at any moment.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::{Client, Service, World, echo, eventually, kill, within};

#[test]
fn ctrl_c_at_a_tunnel_in_the_foreground_drains_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let world = World::new();
        let target = Service::echo();
        let router = world.router();
        let client = world.client("C");
        let (mut process, bind) = foreground(&world, &client, &router.invite(&[]), target.addr());
        let mut stream = TcpStream::connect(bind).expect("a connection");
        stream.write_all(b"a").expect("a byte");
        stream.read_exact(&mut [0]).expect("its echo");
        kill(process.id(), signal);
        eventually("no new connection is accepted", || TcpStream::connect(bind).is_err());
        assert!(process.try_wait().expect("a child").is_none(), "it waits for what is open");
        echo(&stream, &[7; 100_000]).expect("what is open goes on to its end");
        assert_eq!(ends(&mut process, Duration::from_secs(5)), Some(0));
        leaves_nothing(&client, bind);
    }
}

#[test]
fn a_published_tunnel_that_drains_gets_no_more_visitors_and_serves_those_that_it_has() {
    let world = World::new();
    let target = Service::echo();
    let (_router, _client, tunnel) = world.publication_of(target.addr());
    let mut open = tunnel.connect();
    open.write_all(b"a").expect("a byte");
    open.read_exact(&mut [0]).expect("its echo");
    tunnel.signal(Signal::TERM);
    eventually("visitors are refused at the router", || TcpStream::connect(tunnel.bind).is_err());
    assert!(tunnel.runs(), "it waits for what is open");
    // Who came before the router had heard of it was served.
    open.write_all(b"b").expect("what is open goes on");
    open.read_exact(&mut [0]).expect("its echo");
    let served = target.connects();
    assert!(TcpStream::connect(tunnel.bind).is_err());
    echo(&open, &[7; 1_000_000]).expect("and to its end");
    eventually("it ends", || !tunnel.runs());
    assert_eq!(target.connects(), served);
}

#[test]
fn what_is_waited_for_while_a_tunnel_drains_is_said_wherever_one_looks() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    let killing = client.conduit(&["kill", "--tunnel", &tunnel.name, "--drain", "1m"]);
    let mut killing = killing.spawn(Stdio::null(), Stdio::piped());
    eventually("it drains", || tunnel.listed().is_some_and(|it| it["state"] == "draining"));
    let status = client.conduit(&["status", &tunnel.name]).exits(1);
    status.prints("draining").prints("1 connection may finish within");
    let document = client.conduit(&["status", &tunnel.name, "-o", "json"]).exits(1).json();
    let left = document["tunnels"][0]["drain_seconds"].as_u64().expect("seconds");
    assert!((40..=60).contains(&left), "{document}");
    let waiting = client.conduit(&["wait", &tunnel.name, "--timeout", "1s"]).exits(69);
    waiting.says("1 connection may finish within");
    drop(stream);
    assert_eq!(ends(&mut killing, Duration::from_secs(5)), Some(0));
    let mut said = String::new();
    killing.stderr.take().expect("stderr").read_to_string(&mut said).expect("text");
    assert_eq!(said, "open connections may finish within 1m; --force cuts them off\n");
}

#[test]
fn a_router_that_drains_shows_at_its_clients_and_says_what_it_cut_off() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.publication_of(target.addr());
    let mut visitor = tunnel.connect();
    visitor.write_all(b"a").expect("a byte");
    visitor.read_exact(&mut [0]).expect("its echo");
    let killing = router.home().conduit(&["kill", "--tunnel", "router", "--drain", "3s"]);
    let mut killing = killing.spawn(Stdio::piped(), Stdio::null());
    eventually("visitors are refused", || TcpStream::connect(tunnel.bind).is_err());
    let status = client.conduit(&["status", &tunnel.name]).exits(1);
    status.prints("degraded").prints("the router is about to stop");
    assert_eq!(ends(&mut killing, Duration::from_secs(10)), Some(69));
    let mut said = String::new();
    killing.stdout.take().expect("stdout").read_to_string(&mut said).expect("text");
    assert!(said.contains("open connections were cut off"), "{said}");
}

#[test]
fn a_second_ctrl_c_ends_a_drain_at_once() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let (mut process, bind) = foreground(&world, &client, &router.invite(&[]), target.addr());
    let mut stream = TcpStream::connect(bind).expect("a connection");
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    kill(process.id(), Signal::INT);
    eventually("no new connection is accepted", || TcpStream::connect(bind).is_err());
    kill(process.id(), Signal::INT);
    assert!(ends(&mut process, Duration::from_secs(3)).is_some());
    leaves_nothing(&client, bind);
}

#[test]
fn ctrl_c_at_the_router_ends_it_cleanly_and_the_clients_notice() {
    for signal in [Signal::INT, Signal::TERM] {
        let world = World::new();
        let target = Service::echo();
        let (mut router, _client, tunnel) = world.tunnel_to(target.addr());
        echo(&tunnel.connect(), b"well").expect("the same bytes");
        router.signal(signal);
        let asked = Instant::now();
        assert_eq!(router.ends_within(Duration::from_secs(5)), Some(0));
        println!("the router ended after {:?}", asked.elapsed());
        within(Duration::from_secs(5), "the tunnel notices at once", || {
            (tunnel.listed()?["state"] != "ready").then_some(())
        });
        let record = router.home().record("router").expect("its record");
        assert_eq!(record["status"], "stopped", "{record}");
        router.returns();
        within(Duration::from_secs(20), "the tunnel comes back", || {
            echo(&tunnel.connect(), b"back?").ok()
        });
    }
}

#[test]
fn ctrl_c_while_the_first_connection_is_tried_leaves_nothing() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a router that never answers");
    let addr = silent.local_addr().expect("its address").to_string();
    let mut process = client
        .start("127.0.0.1:9")
        .args(["--router", &addr, "--router-identity", &router.identity()])
        .spawn(Stdio::null(), Stdio::null());
    // It is at it as soon as the first packet comes.
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    silent.recv_from(&mut [0; 2_048]).expect("a first packet");
    kill(process.id(), Signal::INT);
    let code = ends(&mut process, Duration::from_secs(5));
    assert_ne!(code, Some(0));
    within(Duration::from_secs(15), "the tunnel process has ended too", || {
        crate::world::processes_of(client.home().path()).is_empty().then_some(())
    });
    assert!(client.list(&[]).is_empty());
}

/// `conduit start --foreground`, ready.
fn foreground(
    world: &World,
    client: &Client,
    ticket: &str,
    source: SocketAddr,
) -> (Child, SocketAddr) {
    let ticket = world.file("ticket", ticket);
    let output = |name| File::create(world.path().join(name)).expect("a file");
    let mut process = client
        .start(source)
        .args(["--foreground", "--name", "front", "--join"])
        .arg(ticket)
        .spawn(output("front.out"), output("front.err"));
    let bind = within(Duration::from_secs(20), "the tunnel is ready", || {
        assert!(process.try_wait().expect("a child").is_none(), "it ended before it was ready");
        let record = client.home().record("front")?;
        (record["status"] == "ready")
            .then(|| record["config"]["bind"].as_str()?.parse().ok())
            .flatten()
    });
    (process, bind)
}

#[track_caller]
fn ends(process: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    let status = within(limit, "the process ends", || process.try_wait().expect("a child"));
    println!("ended {status} after {:?}", start.elapsed());
    status.code()
}

#[track_caller]
fn leaves_nothing(client: &Client, bind: SocketAddr) {
    TcpListener::bind(bind).expect("the port is free");
    assert!(client.list(&[]).is_empty());
    let left = crate::world::files_below(client.home().path());
    assert!(!left.iter().any(|file| file.extension().is_some_and(|e| e == "sock")), "{left:?}");
    assert!(crate::world::processes_of(client.home().path()).is_empty());
}
