//! Whose a published port is: while its tunnel restarts, while another process takes it over, and when nobody is there.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{
    Client, Run, Service, Tunnel, World, eventually, figure, free_port, in_namespace, said_at,
    said_within, within,
};

/// `start --reverse` on exactly this port.
fn publish_at(client: &Client, name: &str, source: SocketAddr, bind: SocketAddr) -> Run {
    let (source, bind) = (source.to_string(), bind.to_string());
    client.conduit(&["start", "--reverse", "--name", name, "--source", &source, "--bind", &bind])
}

/// An enrolled client of another key.
fn stranger(world: &World, router: &crate::world::Router) -> Client {
    let stranger = world.client("S");
    stranger.enrols(&router.invite(&["--name", "stranger"]));
    stranger
}

#[test]
fn a_tunnel_that_restarts_under_traffic_finds_its_port_every_time() {
    // Nobody else takes the port while it is free, not even a visitor as its own.
    in_namespace(
        "leases::a_tunnel_that_restarts_under_traffic_finds_its_port_every_time",
        restarts_under_traffic,
    );
}

fn restarts_under_traffic() {
    let world = World::new();
    let service = Service::saying("served");
    let (_router, client, _) = world.publication_of(service.addr());
    client.conduit(&["kill", "--tunnel", "published"]).succeeds();
    let bind = SocketAddr::from(([127, 0, 0, 1], 8_080));
    let publish = || publish_at(&client, "published", service.addr(), bind);
    let mut tunnel = client.started(&publish().succeeds());
    let restarts = figure("restarts, half of them by kill -9", 30, 100);
    let (is_over, served, missed) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        let _ending = Ending(&is_over);
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let said = said_within(Duration::from_millis(500), bind);
                    let is_served = said.as_deref() == Some("served");
                    if is_served { &served } else { &missed }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 0..restarts {
            let before = served.load(Ordering::Relaxed);
            eventually("there is traffic", || served.load(Ordering::Relaxed) >= before + 20);
            if number % 2 == 0 {
                tunnel.dies();
            } else {
                client.conduit(&["kill", "--tunnel", &tunnel.name, "--drain", "1s"]).ends();
            }
            let started = publish().succeeds();
            slowest = slowest.max(started.took);
            tunnel = client.started(&started);
            assert_eq!(tunnel.bind, bind, "its own port, restart {number}");
            assert_eq!(said_at(bind).as_deref(), Some("served"), "at once, restart {number}");
        }
    });
    let (served, missed) = (served.into_inner(), missed.into_inner());
    println!(
        "{served} visits were served, {missed} came in between; the slowest start took {slowest:?}"
    );
}

/// Ends the visitors also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_of_the_client_takes_the_tunnel_over_within_a_second() {
    let world = World::new();
    let (old, new) = (Service::saying("old"), Service::saying("new"));
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let copy = client.moves_to(world.home("D"));
    let bind = free_port();
    let output = |name: &str| std::fs::File::create(world.path().join(name)).expect("a file");
    let mut process = publish_at(&client, "web", old.addr(), bind)
        .arg("--foreground")
        .spawn(output("old.out"), output("old.err"));
    eventually("the old one serves", || said_at(bind).as_deref() == Some("old"));

    let asked = Instant::now();
    let taken = copy.started(&publish_at(&copy, "web", new.addr(), bind).succeeds());
    let ready = Instant::now();
    within(Duration::from_secs(1), "the new one serves", || {
        (said_at(bind).as_deref() == Some("new")).then_some(())
    });
    println!(
        "the new process answered {:?} after it said ready, {:?} after it was asked for",
        ready.elapsed(),
        asked.elapsed()
    );
    let status = within(Duration::from_secs(5), "the old one ends by itself", || {
        process.try_wait().expect("a child")
    });
    assert_eq!(status.code(), Some(1));
    let said = std::fs::read_to_string(world.path().join("old.err")).expect("its output");
    assert!(said.contains("took the tunnel over") && said.contains("127.0.0.1:"), "{said}");
    let ended = client.list(&["--all"]).into_iter().find(|tunnel| tunnel["name"] == "web");
    let ended = ended.expect("what ended is listed");
    assert_eq!(ended["state"], "failed", "{ended}");
    let why = ended["last_error"].as_str().expect("a reason");
    assert!(why.contains("another process of this client took the tunnel over"), "{why}");
    assert!(client.list(&[]).is_empty(), "it does not come back");
    eventually("no process of it is left", || {
        crate::world::processes_of(client.home().path()).is_empty()
    });
    assert!((0..20).all(|_| said_at(bind).as_deref() == Some("new")), "the new one only");
    assert!(taken.runs());
}

#[test]
fn a_supervisor_does_not_bring_back_what_was_taken_over() {
    let world = World::new();
    let (old, new) = (Service::saying("old"), Service::saying("new"));
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let copy = client.moves_to(world.home("D"));
    let (bind, other) = (free_port(), free_port());
    let entry = |name: &str, bind: SocketAddr| {
        format!(
            "[[tunnels]]\nname = \"{name}\"\ndirection = \"reverse\"\nsource = \"{}\"\nbind = \"{bind}\"\n",
            old.addr()
        )
    };
    let file =
        world.file("conduit.toml", format!("{}{}", entry("web", bind), entry("other", other)));
    let err = || std::fs::File::create(world.path().join("up.err")).expect("a file");
    let mut supervisor = client
        .conduit(&["up", "--foreground", "-f"])
        .arg(&file)
        .spawn(std::process::Stdio::null(), err());
    eventually("both are served", || {
        [bind, other].iter().all(|bind| said_at(*bind).as_deref() == Some("old"))
    });
    publish_at(&copy, "web", new.addr(), bind).succeeds();
    let said = || std::fs::read_to_string(world.path().join("up.err")).unwrap_or_default();
    eventually("the supervisor says so", || said().contains("web was taken over"));
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(said_at(bind).as_deref(), Some("new"), "nobody takes it back: {}", said());
    }
    assert_eq!(said_at(other).as_deref(), Some("old"), "it keeps the other one");
    assert!(supervisor.try_wait().expect("a child").is_none());
    crate::world::kill(supervisor.id(), rustix::process::Signal::TERM);
    within(Duration::from_secs(10), "the supervisor ends", || {
        supervisor.try_wait().expect("a child")
    });
}

#[test]
fn two_of_one_group_serve_side_by_side_and_one_goes_on_alone() {
    let world = World::new();
    let (one, two) = (Service::saying("one"), Service::saying("two"));
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let copy = client.moves_to(world.home("D"));
    let bind = free_port();
    let start = |client: &Client, source: &Service| {
        let run = publish_at(client, "web", source.addr(), bind).args(["--group", "blue"]);
        client.started(&run.succeeds())
    };
    let (first, second) = (start(&client, &one), start(&copy, &two));
    let visits = || {
        let said: Vec<_> = (0..40).filter_map(|_| said_at(bind)).collect();
        ["one", "two"].map(|word| said.iter().filter(|said| *said == word).count())
    };
    let shares = visits();
    println!("of 40 visits the two had {shares:?}");
    assert_eq!(shares, [20, 20], "each in turn");
    assert!(first.runs() && second.runs());

    client.conduit(&["kill", "--tunnel", "web"]).succeeds();
    assert_eq!(visits(), [0, 40], "the other one goes on alone");
    let first = start(&client, &one);
    assert_eq!(visits(), [20, 20], "and is joined again");
    // Without the group it is one that takes over.
    let alone = publish_at(&client.moves_to(world.home("E")), "web", one.addr(), bind).succeeds();
    assert!(alone.stdout.contains("ready"), "{alone}");
    eventually("both others end", || !first.runs() && !second.runs());
    assert_eq!(visits(), [40, 0]);
}

#[test]
fn another_key_is_refused_a_port_and_not_told_whose_it_is() {
    let world = World::new();
    let service = Service::saying("mine");
    let (router, client, tunnel) = world.publication_of(service.addr());
    let stranger = stranger(&world, &router);
    let refused = |when: &str| {
        for bind in [tunnel.bind.to_string(), format!("0.0.0.0:{}", tunnel.bind.port())] {
            let bind: SocketAddr = bind.parse().expect("an address");
            let outcome = publish_at(&stranger, "grab", service.addr(), bind).exits(1);
            let outcome = outcome.says("is taken").says("cannot publish");
            let owner = [client.identity(), "published".to_owned()];
            let told = owner.iter().any(|word| outcome.stderr.contains(word.as_str()));
            assert!(!told, "whose it is, is nobody's business ({when}): {outcome}");
        }
        assert!(stranger.list(&[]).is_empty());
    };
    refused("served");
    let other = publish_at(&client, "second", service.addr(), tunnel.bind).exits(1);
    other.says("published by your tunnel published already");
    client.conduit(&["kill", "--tunnel", "published"]).succeeds();
    refused("reserved");
    // Nobody serves it: its owner may move it to another name.
    let moved = publish_at(&client, "second", service.addr(), tunnel.bind).succeeds();
    assert_eq!(client.started(&moved).bind, tunnel.bind);
    assert_eq!(said_at(tunnel.bind).as_deref(), Some("mine"));
}

#[test]
fn a_port_that_a_program_of_the_routers_host_has_is_said_to_be_in_use() {
    let world = World::new();
    let service = Service::saying("mine");
    let (router, client, _tunnel) = world.publication_of(service.addr());
    let somebody = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let bind = somebody.local_addr().expect("its address");
    publish_at(&client, "web", service.addr(), bind).exits(1).says("is in use");
    drop(somebody);
    let outcome = publish_at(&stranger(&world, &router), "web", service.addr(), bind).succeeds();
    assert!(outcome.stdout.contains("ready"), "what came to nothing reserves nothing: {outcome}");
}

#[test]
fn a_port_below_1024_takes_a_rule_also_for_an_owner() {
    in_namespace("leases::a_port_below_1024_takes_a_rule_also_for_an_owner", || {
        let world = World::new();
        let service = Service::saying("low");
        let (router, client, _tunnel) = world.publication_of(service.addr());
        let low: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let refused = publish_at(&client, "low", service.addr(), low).exits(77);
        refused.says("does not allow 127.0.0.1:80").says("conduit router authorize");
        router
            .command(&["authorize", &client.identity(), "--name", "edge", "--owner"])
            .args(["--allow-bind", "*:80"])
            .succeeds()
            .prints("80");
        publish_at(&client, "low", service.addr(), low).succeeds();
        assert_eq!(said_at(low).as_deref(), Some("low"));
        let next: SocketAddr = "127.0.0.1:81".parse().expect("an address");
        publish_at(&client, "next", service.addr(), next).exits(77);
    });
}

#[test]
fn a_client_with_binds_only_listens_there_and_nowhere_else() {
    let world = World::new();
    let service = Service::saying("bound");
    let router = world.router();
    let client = world.client("C");
    let (allowed, other) = (free_port(), free_port());
    let ticket = router.invite(&["--allow-bind", &allowed.to_string()]);
    let run = publish_at(&client, "web", service.addr(), allowed).args(["--join", "-"]);
    client.started(&run.input(&ticket).succeeds());
    assert_eq!(said_at(allowed).as_deref(), Some("bound"));
    let denied = publish_at(&client, "other", service.addr(), other).exits(77);
    denied.says(&format!("does not allow {other}"));
    let everywhere: SocketAddr = ([0, 0, 0, 0], allowed.port()).into();
    client.conduit(&["kill", "--tunnel", "web"]).succeeds();
    publish_at(&client, "web", service.addr(), everywhere).exits(77);
    client.start(service.addr()).args(["--name", "forward"]).exits(77);
}

#[test]
fn a_router_that_was_killed_keeps_the_port_for_its_tunnel() {
    let world = World::new();
    let service = Service::saying("kept");
    let (mut router, client, tunnel) = world.publication_of(service.addr());
    let idle = client.publishes("idle", service.addr());
    client.conduit(&["kill", "--tunnel", "idle"]).succeeds();
    let stranger = stranger(&world, &router);
    let is_written =
        |router: &crate::world::Router| router.home().join("router/router.db").exists();
    assert!(is_written(&router));
    router.dies();
    router.returns();
    let returned = Instant::now();
    // The first who asks is not its owner.
    for bind in [tunnel.bind, idle.bind] {
        publish_at(&stranger, "grab", service.addr(), bind).exits(1).says("is taken");
    }
    within(Duration::from_secs(10), "the tunnel is back on its port", || {
        (said_at(tunnel.bind).as_deref() == Some("kept")).then_some(())
    });
    println!("the tunnel served again {:?} after the router was back", returned.elapsed());
    let listed = tunnel.listed().expect("the same process");
    assert_eq!(
        (&listed["bind"], &listed["pid"]),
        (&tunnel.bind.to_string().into(), &tunnel.pid.into())
    );
    let back = publish_at(&client, "idle", service.addr(), idle.bind).succeeds();
    assert_eq!(client.started(&back).bind, idle.bind);
}

#[test]
fn revoking_a_client_frees_its_ports_at_once_and_for_good() {
    let world = World::new();
    let service = Service::saying("freed");
    let (mut router, client, served) = world.publication_of(service.addr());
    let kept = client.publishes("kept", service.addr());
    client.conduit(&["kill", "--tunnel", "kept"]).succeeds();
    let stranger = stranger(&world, &router);
    let name = client_name(&router, &client);
    router.command(&["revoke", &name]).succeeds();
    let mut taken = Vec::new();
    for (name, bind) in [("one", served.bind), ("two", kept.bind)] {
        let outcome = publish_at(&stranger, name, service.addr(), bind).succeeds();
        taken.push(stranger.started(&outcome));
        assert_eq!(said_at(bind).as_deref(), Some("freed"));
    }
    eventually("the revoked one hears it", || {
        let last = served.listed().unwrap_or_default();
        last["state"] == "reconnecting"
    });
    // Nor has the router written it down for later.
    router.dies();
    router.returns();
    let is_served = |tunnel: &Tunnel| said_at(tunnel.bind).as_deref() == Some("freed");
    within(Duration::from_secs(10), "both are back", || taken.iter().all(is_served).then_some(()));
}

/// Under which the router knows it.
fn client_name(router: &crate::world::Router, client: &Client) -> String {
    let clients = router.command(&["clients", "-o", "json"]).succeeds().json();
    let identity = client.identity();
    let found = clients["clients"].as_array().into_iter().flatten();
    let name = found
        .filter(|row| row["identity"] == identity.as_str())
        .find_map(|row| row["name"].as_str());
    name.unwrap_or_else(|| panic!("no {identity}: {clients}")).to_owned()
}
