//! Many tunnels from one file: `up`, `down`, `up --foreground`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{Client, Router, Service, World, echo, eventually, kill, within};

/// A router, an enrolled client without tunnels, and a target.
fn cast(world: &World) -> (Router, Client, Service) {
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    (router, client, target)
}

fn file(world: &World, tunnels: &[(&str, SocketAddr)]) -> String {
    let tunnels = tunnels.iter().map(|(name, source)| {
        format!("[[tunnels]]\nname = \"{name}\"\nsource = \"{source}\"\nbind = \"127.0.0.1:0\"\n\n")
    });
    world.file("conduit.toml", tunnels.collect::<String>()).display().to_string()
}

fn bind_of(client: &Client, name: &str) -> SocketAddr {
    let listed = client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == name);
    let listed = listed.unwrap_or_else(|| panic!("{name} does not run"));
    listed["bind"].as_str().expect("an address").parse().expect("an address")
}

fn pid_of(client: &Client, name: &str) -> Option<u64> {
    client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == name)?["pid"].as_u64()
}

/// What drains is about to be gone, and is no tunnel that runs.
#[test]
fn up_starts_anew_what_is_ending() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr())]);
    client.conduit(&["up", "-f", &path]).succeeds();
    let mut open = TcpStream::connect(bind_of(&client, "a")).expect("a connection");
    open.write_all(b"a").expect("a byte");
    open.read_exact(&mut [0]).expect("its echo");
    let before = pid_of(&client, "a");
    let killing = client.conduit(&["kill", "--tunnel", "a", "--drain", "1m"]);
    let mut killing = killing.spawn(Stdio::null(), Stdio::null());
    let is_ending = || client.list(&[]).iter().any(|tunnel| tunnel["state"] == "draining");
    eventually("it drains", is_ending);
    let source = target.addr().to_string();
    let same = ["start", "--source", &source, "--bind", "0", "--name", "a"];
    client.conduit(&same).exits(1).says("is ending").says("--force");
    thread::scope(|scope| {
        let up = scope.spawn(|| client.conduit(&["up", "-f", &path]).succeeds().prints("started"));
        // It waits for the one that goes.
        thread::sleep(Duration::from_millis(500));
        drop(open);
        up.join().expect("up");
    });
    assert!(killing.wait().expect("a child").success());
    assert_ne!(pid_of(&client, "a").expect("it runs"), before.expect("it ran"));
    echo(&TcpStream::connect(bind_of(&client, "a")).expect("a connection"), b"anew")
        .expect("bytes");
}

#[test]
fn up_and_down_are_idempotent_and_what_changed_is_restarted() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let other = Service::greeting("other");
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let said = |outcome: &crate::world::Outcome, name: &str, word: &str| {
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        let found = all.lines().any(|line| line.contains(name) && line.contains(word));
        assert!(found, "no line with {name:?} and {word:?}: {outcome}");
    };
    let up = client.conduit(&["up", "-f", &path]).succeeds();
    said(&up, "a", "started");
    let (a, b) = (pid_of(&client, "a"), pid_of(&client, "b"));
    let again = client.conduit(&["up", "-f", &path]).succeeds();
    said(&again, "a", "already running");
    assert_eq!((pid_of(&client, "a"), pid_of(&client, "b")), (a, b), "nothing was restarted");

    file(&world, &[("a", target.addr()), ("b", other.addr())]);
    let changed = client.conduit(&["up", "-f", &path]).succeeds();
    said(&changed, "a", "already running");
    said(&changed, "b", "changed");
    assert_eq!(pid_of(&client, "a"), a);
    assert_ne!(pid_of(&client, "b"), b);
    let mut greeting = [0; 5];
    let mut stream = std::net::TcpStream::connect(bind_of(&client, "b")).expect("a connection");
    std::io::Read::read_exact(&mut stream, &mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"other");
    drop(stream);

    // What this file started ends, also when it is no longer in it.
    file(&world, &[("a", target.addr())]);
    client.conduit(&["down", "-f", &path]).succeeds();
    assert!(client.list(&[]).is_empty());
    client.conduit(&["down", "-f", &path]).succeeds();
}

#[test]
fn down_leaves_alone_what_others_started() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr())]);
    client.conduit(&["up", "-f", &path]).succeeds();
    let own = client.starts("mine", target.addr());
    client.conduit(&["down", "-f", &path]).succeeds();
    echo(&own.connect(), b"untouched").expect("the same bytes");
}

#[test]
fn up_in_the_foreground_replaces_what_dies_and_drains_on_sigterm() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let err = std::fs::File::create(world.path().join("up.err")).expect("a file");
    let mut supervisor =
        client.conduit(&["up", "--foreground", "-f", &path]).spawn(Stdio::null(), err);
    let first = within(Duration::from_secs(20), "both run", || {
        assert!(supervisor.try_wait().expect("a child").is_none(), "it ended");
        Some((pid_of(&client, "a")?, pid_of(&client, "b")?))
    });
    kill(u32::try_from(first.0).expect("a pid"), Signal::KILL);
    within(Duration::from_secs(20), "the dead one is replaced", || {
        pid_of(&client, "a").is_some_and(|pid| pid != first.0).then_some(())
    });
    assert_eq!(pid_of(&client, "b"), Some(first.1), "the other one is untouched");
    within(Duration::from_secs(10), "it works", || {
        let stream = std::net::TcpStream::connect(bind_of(&client, "a")).ok()?;
        echo(&stream, b"replaced").ok()
    });
    kill(supervisor.id(), Signal::TERM);
    let status = within(Duration::from_secs(10), "the supervisor ends", || {
        supervisor.try_wait().expect("a child")
    });
    assert_eq!(status.code(), Some(0));
    assert!(client.list(&[]).is_empty());
    eventually("no process is left", || {
        crate::world::processes_of(client.home().path()).is_empty()
    });
}

#[test]
fn up_in_the_foreground_ends_with_an_error_when_a_tunnel_can_never_be_kept() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let tunnel =
        client.joins(&router.invite(&["--allow-target", "127.0.0.0/8:1-65535"]), target.addr());
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    let path = file(
        &world,
        &[("good", target.addr()), ("denied", "10.1.1.1:80".parse().expect("an address"))],
    );
    let outcome =
        client.conduit(&["up", "--foreground", "-f", &path]).limit(Duration::from_secs(50)).ends();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    outcome.says("denied");
    eventually("no process is left", || {
        crate::world::processes_of(client.home().path()).is_empty()
    });
}

#[test]
fn a_tunnel_that_fails_does_not_stop_the_others_and_up_says_which() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let tunnel =
        client.joins(&router.invite(&["--allow-target", "127.0.0.0/8:1-65535"]), target.addr());
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    let path = file(
        &world,
        &[("good", target.addr()), ("bad", "10.1.1.1:80".parse().expect("an address"))],
    );
    let outcome = client.conduit(&["up", "-f", &path]).ends();
    assert!(matches!(outcome.code, Some(1 | 77)), "{outcome}");
    assert!(format!("{}{}", outcome.stdout, outcome.stderr).contains("bad"), "{outcome}");
    let stream = std::net::TcpStream::connect(bind_of(&client, "good")).expect("a connection");
    echo(&stream, b"good").expect("the same bytes");
}

#[test]
fn start_reads_the_settings_of_a_file_but_not_its_tunnels() {
    let world = World::new();
    let (router, client, target) = cast(&world);
    let path = client.home().join("conduit.toml");
    let text = format!(
        "[router]\nhost = \"127.0.0.1\"\nport = {}\n\n[logging]\nformat = \"json\"\n\n\
         [[tunnels]]\nname = \"of-the-file\"\nsource = \"10.0.0.1:1\"\nbind = \"127.0.0.1:0\"\n",
        router.addr().port()
    );
    std::fs::write(path, text).expect("a file");
    let tunnel = client.starts("adhoc", target.addr());
    echo(&tunnel.connect(), b"adhoc").expect("the same bytes");
    assert_eq!(client.list(&[]).len(), 1);
    let log = tunnel.log();
    let first = log.lines().next().expect("a line");
    assert!(
        serde_json::from_str::<serde_json::Value>(first).is_ok(),
        "JSON, as the file says: {first}"
    );
}

/// Tunnels end with the one who keeps them, and say whether that was in order.
#[test]
fn tunnels_say_that_their_supervisor_was_killed() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    for (signal, reason) in [
        (Signal::TERM, serde_json::Value::Null),
        (Signal::KILL, "the process that kept it running is gone".into()),
    ] {
        let mut supervisor = supervisor(&world, &client, &path);
        let pid = pid_of(&client, "a");
        kill(supervisor.id(), signal);
        supervisor.wait().expect("a child");
        within(Duration::from_secs(10), "both end", || client.list(&[]).is_empty().then_some(()));
        let ended = client.list(&["--all"]);
        let ended = ended.iter().find(|tunnel| tunnel["pid"].as_u64() == pid).expect("a record");
        assert_eq!((&ended["state"], &ended["last_error"]), (&"stopped".into(), &reason));
    }
}

/// `conduit up --foreground`, with both tunnels ready.
fn supervisor(world: &World, client: &Client, path: &str) -> std::process::Child {
    let err = std::fs::File::create(world.path().join("up.err")).expect("a file");
    let mut supervisor =
        client.conduit(&["up", "--foreground", "-f", path]).spawn(Stdio::null(), err);
    within(Duration::from_secs(20), "both run", || {
        assert!(supervisor.try_wait().expect("a child").is_none(), "it ended");
        let ready = client.list(&[]).iter().filter(|tunnel| tunnel["state"] == "ready").count();
        (ready == 2).then_some(())
    });
    supervisor
}

#[test]
fn up_finds_what_a_supervisor_keeps_and_a_second_supervisor_is_refused() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let mut supervisor = supervisor(&world, &client, &path);
    let (a, b) = (pid_of(&client, "a"), pid_of(&client, "b"));
    let by = format!("already running (supervised by pid {})", supervisor.id());
    client.conduit(&["up", "-f", &path]).succeeds().prints(&by);
    let document = client.conduit(&["up", "-f", &path, "-o", "json"]).succeeds().json();
    assert_eq!(document["tunnels"][0]["supervisor"], supervisor.id());
    let second = client.conduit(&["up", "--foreground", "-f", &path]).exits(1);
    second.says(&format!("pid {}", supervisor.id())).took_at_most(Duration::from_secs(3));
    assert_eq!((pid_of(&client, "a"), pid_of(&client, "b")), (a, b), "nothing was restarted");

    let other = Service::greeting("other");
    file(&world, &[("a", target.addr()), ("b", other.addr())]);
    client.conduit(&["up", "-f", &path]).exits(1).prints("supervised by pid");
    assert_eq!(pid_of(&client, "b"), b, "it is the supervisor's to restart");

    client.conduit(&["down", "-f", &path]).succeeds();
    assert!(client.list(&[]).is_empty());
    let status = within(Duration::from_secs(10), "the supervisor ends", || {
        supervisor.try_wait().expect("a child")
    });
    assert_eq!(status.code(), Some(0));
    client.conduit(&["up", "-f", &path]).succeeds().prints("started");
}

#[test]
fn what_an_operator_ended_is_not_brought_back_by_the_supervisor() {
    let world = World::new();
    let (_router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let mut supervisor = supervisor(&world, &client, &path);
    let b = pid_of(&client, "b");
    client.conduit(&["kill", "--tunnel", "a"]).succeeds();
    let said = || std::fs::read_to_string(world.path().join("up.err")).unwrap_or_default();
    eventually("the supervisor lets go of it", || said().contains("a was ended"));
    assert_eq!((pid_of(&client, "a"), pid_of(&client, "b")), (None, b));
    assert!(supervisor.try_wait().expect("a child").is_none(), "it keeps the other one");

    // One that hangs is killed, and stays ended too.
    kill(u32::try_from(b.expect("a pid")).expect("a pid"), Signal::STOP);
    client.conduit(&["kill", "--force", "--tunnel", "b"]).exits(69);
    let status = within(Duration::from_secs(10), "nothing is left to keep", || {
        supervisor.try_wait().expect("a child")
    });
    assert_eq!(status.code(), Some(0));
    assert!(client.list(&[]).is_empty());
}

#[test]
fn what_an_operator_kills_before_it_is_ready_is_not_brought_back_either() {
    let world = World::new();
    let (router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let mut supervisor = supervisor(&world, &client, &path);
    let addr = router.addr();
    drop(router);
    let _silent = within(Duration::from_secs(5), "somebody who never answers is there", || {
        std::net::UdpSocket::bind(addr).ok()
    });
    let first = pid_of(&client, "a").expect("a pid");
    kill(u32::try_from(first).expect("a pid"), Signal::KILL);
    within(Duration::from_secs(20), "a new one tries to reach the router", || {
        pid_of(&client, "a").is_some_and(|pid| pid != first).then_some(())
    });
    client.conduit(&["kill", "--force", "--tunnel", "a"]).exits(69);
    let said = || std::fs::read_to_string(world.path().join("up.err")).unwrap_or_default();
    eventually("the supervisor lets go of it", || said().contains("a was ended"));
    assert!(supervisor.try_wait().expect("a child").is_none(), "it keeps the other one");
}

#[test]
fn down_ends_a_supervisor_that_is_about_to_start_a_tunnel_again() {
    let world = World::new();
    let (router, client, target) = cast(&world);
    let path = file(&world, &[("a", target.addr()), ("b", target.addr())]);
    let mut supervisor = supervisor(&world, &client, &path);
    drop(router);
    for name in ["a", "b"] {
        let pid = pid_of(&client, name).expect("a pid");
        kill(u32::try_from(pid).expect("a pid"), Signal::KILL);
    }
    client.conduit(&["down", "--force", "-f", &path]).ends();
    within(Duration::from_secs(3), "the supervisor ends", || {
        supervisor.try_wait().expect("a child")
    });
    eventually("no process is left", || {
        crate::world::processes_of(client.home().path()).is_empty()
    });
}
