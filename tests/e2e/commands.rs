//! Commands that need no tunnel, and what every command has in common.

use std::time::Duration;

use serde_json::Value;

use crate::world::{Service, World, echo};

#[test]
fn init_makes_a_key_and_a_file_and_never_overwrites() {
    let world = World::new();
    let client = world.client("C");
    let outcome = client.conduit(&["init"]).succeeds().prints("cdk1_");
    let key = std::fs::read(client.home().join("client.key")).expect("a key");
    let public = std::fs::read_to_string(client.home().join("client.pub")).expect("an identity");
    assert!(outcome.stdout.contains(public.trim()), "{outcome}");
    client
        .conduit(&[
            "config",
            "validate",
            "-f",
            client.home().join("conduit.toml").to_str().expect("UTF-8"),
        ])
        .succeeds();
    assert_ne!(client.conduit(&["init"]).ends().code, Some(0));
    assert_eq!(std::fs::read(client.home().join("client.key")).expect("a key"), key);
    client.conduit(&["init", "--force"]).succeeds();
    assert_ne!(std::fs::read(client.home().join("client.key")).expect("a key"), key);
    let folder = world.path().join("router-home");
    client
        .conduit(&["init", "--router", "--dir", folder.to_str().expect("UTF-8")])
        .succeeds()
        .prints("cdk1_");
}

#[test]
fn version_and_help_need_no_home() {
    let world = World::new();
    let client = world.client("C");
    client.conduit(&["version"]).succeeds().prints(env!("CARGO_PKG_VERSION"));
    let json = client.conduit(&["version", "-o", "json"]).succeeds().json();
    assert_eq!(json["schema"], "conduit.version/1");
    for command in [
        "init", "start", "up", "down", "router", "list", "kill", "status", "logs", "config",
        "version", "demo", "connect",
    ] {
        client.conduit(&[command, "--help"]).succeeds().prints("Usage");
    }
    for shell in ["bash", "zsh", "fish"] {
        client.conduit(&["completions", shell]).succeeds().prints("conduit");
    }
}

#[test]
fn a_wrong_command_line_is_2_and_an_error_in_json_has_its_schema() {
    let world = World::new();
    let client = world.client("C");
    client.conduit(&["no-such-command"]).exits(2);
    client.conduit(&["start"]).exits(2).says("--source");
    for (source, bind, protocol, words) in [
        ("a:1", "127.0.0.1:0", "sctp", "tcp, udp"),
        ("unix:/run/dns", "127.0.0.1:0", "udp", "Unix socket"),
        ("a:1", "unix:/run/dns", "udp", "Unix socket"),
        ("a:1-2", "4001-4003", "udp", "3 ports"),
    ] {
        let ends = ["start", "--source", source, "--bind", bind, "--protocol", protocol];
        client.conduit(&ends).exits(2).says(words);
    }
    client.conduit(&["kill"]).exits(2);
    let outcome = client.conduit(&["kill", "--tunnel", "nobody", "-o", "json"]).exits(1);
    let error = outcome.error_json();
    assert_eq!(error["schema"], "conduit.error/1", "{outcome}");
    for field in ["kind", "code", "message", "hint"] {
        assert!(error.get(field).is_some(), "{field}: {outcome}");
    }
    assert!(
        error["message"].as_str().is_some_and(|message| message.contains("nobody")),
        "{outcome}"
    );
    let silent = std::net::UdpSocket::bind("127.0.0.1:0")
        .expect("a socket")
        .local_addr()
        .expect("its address");
    let pin = "cdk1_mfxcazlymfwxa3dffqqg433cn5shsidimfzsa5dinfzsa23fpexjlwgjni";
    let run = client.start("a:1").args([
        "--router",
        &silent.to_string(),
        "--router-identity",
        pin,
        "-o",
        "json",
    ]);
    let outcome = run.exits(69);
    assert_eq!(outcome.error_json()["kind"], "network", "{outcome}");
}

#[test]
fn an_empty_home_has_nothing_to_list_and_nothing_to_end() {
    let world = World::new();
    let client = world.client("C");
    assert!(client.list(&["--all"]).is_empty());
    client.conduit(&["list"]).succeeds();
    client.conduit(&["kill", "--all"]).succeeds();
    client.conduit(&["kill", "--tunnel", "nobody"]).exits(1).says("nobody");
    client.conduit(&["logs", "nobody"]).exits(1).says("nobody");
}

#[test]
fn demo_shows_a_request_and_ends_by_itself_without_a_terminal() {
    let world = World::new();
    let outcome = world.client("C").conduit(&["demo"]).limit(Duration::from_secs(30)).succeeds();
    assert!(outcome.stdout.contains("ms"), "with its timing: {outcome}");
    assert!(crate::world::processes_of(world.path()).is_empty());
}

#[test]
fn a_dead_tunnels_log_and_reason_are_still_there() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    echo(&tunnel.connect(), b"work").expect("the same bytes");
    tunnel.dies();
    let ended = client.list(&["--all"]);
    assert!(
        ended[0]["last_error"].as_str().is_some_and(|error| error.contains("died")),
        "{}",
        ended[0]
    );
    let log = client.conduit(&["logs", &tunnel.name]).succeeds();
    assert!(!log.stdout.trim().is_empty(), "{log}");
    assert!(!log.stdout.contains('\u{1b}'), "no colour in a file: {log}");
}

#[test]
fn logs_follow_what_happens() {
    use std::io::{BufRead, BufReader};
    let world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port");
    let (_router, client, tunnel) = world.tunnel_to(closed);
    let mut follower = client
        .conduit(&["logs", "-f", &tunnel.name])
        .spawn(std::process::Stdio::piped(), std::process::Stdio::null());
    let lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let (seen, found) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = seen.send(line);
        }
    });
    let first = found.recv_timeout(Duration::from_secs(10)).expect("what was logged before");
    assert!(!first.is_empty());
    let _ = crate::world::ends_with_reset(&tunnel.connect());
    crate::world::within(Duration::from_secs(10), "the refusal is followed", || {
        let line = found.recv_timeout(Duration::from_secs(5)).ok()?;
        line.contains("refused").then_some(())
    });
    follower.kill().expect("the end of the follower");
    follower.wait().expect("its end");
}

#[test]
fn what_prints_data_prints_json_with_a_schema() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, _tunnel) = world.tunnel_to(target.addr());
    let schema = |json: Value| json["schema"].as_str().unwrap_or_default().to_owned();
    for command in [&["list"][..], &["status"], &["version"], &["config", "show"]] {
        let outcome = client.conduit(command).args(["-o", "json"]).succeeds();
        let name = schema(outcome.json());
        assert!(name.starts_with("conduit.") && name.ends_with("/1"), "{name}: {outcome}");
    }
    for command in [&["clients"][..], &["token", "list"], &["invite"]] {
        let outcome = router.command(command).args(["-o", "json"]).succeeds();
        let name = schema(outcome.json());
        assert!(name.starts_with("conduit.") && name.ends_with("/1"), "{name}: {outcome}");
    }
}
