//! A service behind the client, published on the router: real visitors, and who learns what.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use crate::world::{
    Nginx, Router, Run, Service, Tunnel, World, echo, ends_with_reset, eventually, figure,
    free_port, noise, open_files, resets, said_at, sha256_of,
};

#[test]
fn a_storm_of_short_visits_is_answered_whole_and_leaves_nothing_behind() {
    let world = World::new();
    let nginx = Nginx::start(world.path());
    std::fs::write(nginx.file("page"), noise(1, 4_096)).expect("a page");
    let (router, _client, tunnel) = world.publication_of(nginx.addr());
    // What a process opens once and keeps is open after this.
    visit(&tunnel, 64);
    eventually("the first visits are over", || active(&tunnel) == 0);
    let before = (open_files(router.pid()), open_files(tunnel.pid));

    let visits = figure("visits, 16 at a time", 2_000, 20_000);
    let took = visit(&tunnel, visits);
    println!("{visits} visits took {took:?}, {:.0} a second", visits as f64 / took.as_secs_f64());
    let settled = eventually("no descriptor is left behind", || {
        let (of_router, of_tunnel) = (open_files(router.pid()), open_files(tunnel.pid));
        of_router <= before.0 && of_tunnel <= before.1
    });
    println!("descriptors were back at {before:?} after {settled:?}");
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!(listed["connections_total"].as_u64(), Some(64 + visits as u64), "{listed}");
    assert_eq!((&listed["active_connections"], &listed["refusals"]), (&0.into(), &Value::Null));
}

/// So many requests, each on a connection of its own; every one has to be answered whole.
fn visit(tunnel: &Tunnel, visits: usize) -> Duration {
    let outcome = Run::program("curl")
        .args(["--silent", "--show-error", "--fail", "--header", "Connection: close"])
        .args([
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "16",
            "--output",
            "/dev/null",
        ])
        .args(["--write-out", "%{http_code} %{size_download} %{num_connects}\n"])
        .arg(tunnel.url(&format!("/page?n=[1-{visits}]")))
        .limit(Duration::from_secs(300))
        .succeeds();
    let whole = outcome.stdout.lines().filter(|line| *line == "200 4096 1").count();
    assert_eq!(whole, visits, "every answer is whole: {outcome}");
    outcome.took
}

fn active(tunnel: &Tunnel) -> u64 {
    let listed = tunnel.listed().unwrap_or_default();
    listed["active_connections"].as_u64().unwrap_or(u64::MAX)
}

#[test]
fn the_halves_of_a_visit_close_each_by_itself() {
    let world = World::new();
    let answer = noise(2, 16 << 20);
    let expected = sha256_of(&answer[..]);
    let service = Service::start(move |mut stream| {
        let mut question = Vec::new();
        // Answers only when the question is over.
        let _ = stream.read_to_end(&mut question);
        assert_eq!(question, b"everything, please\n");
        let _ = stream.write_all(&answer);
    });
    let (_router, client, tunnel) = world.publication_of(service.addr());
    let outcome = Run::program("nc")
        .args(["-N", "127.0.0.1", &tunnel.bind.port().to_string()])
        .input("everything, please\n")
        .succeeds();
    assert_eq!(sha256_of(&outcome.raw[..]), expected, "after the visitor's half is closed");

    let (digests, received) = channel();
    let digests = Mutex::new(digests);
    let listener = Service::start(move |stream| {
        stream.shutdown(Shutdown::Write).expect("a half closed");
        let _ = digests.lock().expect("one user").send(sha256_of(&stream));
    });
    let mut stream = client.publishes("listener", listener.addr()).connect();
    assert_eq!(stream.read(&mut [0]).expect("an end"), 0, "the service's end is seen first");
    let question = noise(3, 16 << 20);
    stream.write_all(&question).expect("16 MiB");
    stream.shutdown(Shutdown::Write).expect("the other half closed");
    let digest = received.recv_timeout(Duration::from_secs(30)).expect("the service's digest");
    assert_eq!(digest, sha256_of(&question[..]), "after the service's half is closed");
}

#[test]
fn a_reset_of_either_side_is_a_reset_for_the_other() {
    let world = World::new();
    let resetting = Service::start(|mut stream| {
        let _ = stream.write_all(b"so far");
        let _ = stream.read_exact(&mut [0; 4]);
        resets(stream);
    });
    let (_router, client, tunnel) = world.publication_of(resetting.addr());
    let mut stream = tunnel.connect();
    stream.read_exact(&mut [0; 6]).expect("what came before");
    stream.write_all(b"now!").expect("a word");
    assert!(ends_with_reset(&stream), "a reset, no ordinary end");

    let (ends, seen) = channel();
    let ends = Mutex::new(ends);
    let watching = Service::start(move |mut stream| {
        let _ = stream.write_all(b"so far");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let _ = ends.lock().expect("one user").send(ends_with_reset(&stream));
    });
    let mut stream = client.publishes("watching", watching.addr()).connect();
    stream.read_exact(&mut [0; 6]).expect("what came before");
    resets(stream);
    let reset = seen.recv_timeout(Duration::from_secs(20)).expect("an end at the service");
    assert!(reset, "a reset, no ordinary end");
}

#[test]
fn the_client_dials_its_own_source_and_the_router_never_learns_it() {
    let world = World::new();
    let (service, other) = (Service::echo(), Service::echo());
    let router = world.router();
    // It may reach nothing through the router; what it dials by itself is its own business.
    let client = world.client("C");
    let ticket = router.invite(&["--allow-bind", "127.0.0.1:1024-65535"]);
    let publish = |name: &str, source: SocketAddr| {
        let run = client.conduit(&["start", "--reverse", "--name", name]);
        run.args(["--source", &source.to_string(), "--bind", &free_port().to_string()])
    };
    let first = publish("web", service.addr()).args(["--join", "-"]).input(&ticket);
    let tunnel = client.started(&first.succeeds());
    echo(&tunnel.connect(), &noise(4, 1_000_001)).expect("the same bytes");
    assert_eq!((service.connects(), other.connects()), (1, 0));

    let closed = free_port();
    let dead = client.started(&publish("dead", closed).succeeds());
    assert!(ends_with_reset(&dead.connect()), "nobody serves it");
    eventually("the client says why", || {
        let reason = dead.listed().unwrap_or_default()["last_error"].clone();
        reason.as_str().is_some_and(|reason| reason.contains("is the service running?"))
    });
    client.conduit(&["logs", "dead"]).succeeds().prints(&closed.to_string());
    let told = format!("{}{}", router.log(), status_of(&router));
    assert!(told.contains("the service does not answer"), "{told}");
    for secret in [service.addr(), closed] {
        assert!(!told.contains(&secret.to_string()), "{secret} is none of its business: {told}");
    }
    client.start(other.addr()).args(["--name", "forward"]).exits(77).says("does not allow");
    assert_eq!(other.connects(), 0);
}

#[test]
fn list_shows_the_routers_bind_and_the_routers_status_what_it_publishes() {
    let world = World::new();
    let service = Service::saying("hello");
    let (router, client, tunnel) = world.publication_of(service.addr());
    assert_ne!(tunnel.bind.port(), 0, "the real port");
    assert_eq!(said_at(tunnel.bind).as_deref(), Some("hello"));
    let listed = tunnel.listed().expect("a tunnel");
    assert_eq!((&listed["direction"], &listed["protocol"]), (&"reverse".into(), &"tcp".into()));
    assert_eq!(listed["bind"], tunnel.bind.to_string());
    assert_eq!(listed["source"], service.addr().to_string());
    let ends = format!("{} (router) → {}", tunnel.bind, service.addr());
    client.conduit(&["list"]).succeeds().prints(&ends);
    client.conduit(&["status"]).succeeds().prints(&ends);

    let asked = free_port();
    let second = client.conduit(&["start", "-R"]).arg(format!("{asked}:{}", service.addr()));
    let second = client.started(&second.succeeds());
    assert_eq!((second.bind, second.name), (asked, format!("tcp-{}", asked.port())));
    let published = published(&router);
    let of = |name: &str| {
        let found = published.iter().find(|port| port["tunnel"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {published:?}"))
    };
    assert_eq!(of("published")["bind"], tunnel.bind.to_string());
    assert_eq!(
        (&of("published")["protocol"], &of("published")["servers"]),
        (&"tcp".into(), &1.into())
    );
    assert_eq!(of("published")["identity"], client.identity());
    assert_eq!(published.len(), 2, "{published:?}");
    router.home().conduit(&["status"]).succeeds().prints("2 ports published");

    client.conduit(&["kill", "--tunnel", "published"]).succeeds();
    eventually("nobody serves it, and it stays reserved", || {
        let found = self::published(&router);
        found.iter().any(|port| port["tunnel"] == "published" && port["servers"] == 0)
    });
    TcpListener::bind(tunnel.bind).expect("the router listens there no longer");
}

fn published(router: &Router) -> Vec<Value> {
    let status = router.home().conduit(&["status", "-o", "json"]).succeeds();
    status.json()["router"]["published"].as_array().cloned().unwrap_or_default()
}

fn status_of(router: &Router) -> String {
    router.home().conduit(&["status", "-o", "json"]).succeeds().stdout
}
