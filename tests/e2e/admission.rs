//! Who gets in: unknown keys, wrong pins, broken key files, keys that were handed out, keys that were taken back.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::world::{Service, World, echo, within};

#[test]
fn h10_an_unknown_key_is_refused_at_once_and_the_answer_tells_what_to_do() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.conduit(&["init"]).succeeds();
    for _ in 0..10 {
        let outcome = client.pin(&router, "127.0.0.1:9").exits(77);
        outcome.took_at_most(Duration::from_secs(5)).says("does not admit this key").says("invite");
    }
    assert!(client.list(&[]).is_empty());
}

#[test]
fn h11_a_revoked_key_loses_its_sessions_within_a_second_and_stays_out() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let ticket = router.invite(&["--name", "laptop"]);
    let tunnel = client.joins(&ticket, target.addr());
    let mut open = tunnel.connect();
    open.write_all(b"a").expect("a byte");
    open.read_exact(&mut [0]).expect("its echo");

    let asked = Instant::now();
    router.command(&["revoke", "laptop"]).succeeds();
    assert!(open.read(&mut [0]).is_err(), "the connection is reset");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}, the command included",
        asked.elapsed()
    );
    within(Duration::from_secs(10), "the tunnel says why", || {
        let tunnel =
            client.list(&["--all"]).into_iter().find(|t| t["name"] == tunnel.name.as_str())?;
        tunnel["last_error"].as_str()?.contains("does not admit").then_some(())
    });
    client.start(target.addr()).args(["--name", "again"]).exits(77);
    let ticket = router.invite(&[]);
    let outcome = client.join(&ticket, target.addr()).args(["--name", "again"]).exits(77);
    outcome.says("revoked here").says("router authorize");
    world.client("D").joins(&ticket, target.addr());
    let clients = router.command(&["clients", "-o", "json"]).succeeds();
    assert!(clients.stdout.contains("revoked") && clients.stdout.contains("laptop"), "{clients}");
}

#[test]
fn an_unknown_and_a_revoked_key_get_the_same_answer() {
    let world = World::new();
    let router = world.router();
    let (unknown, revoked) = (world.client("U"), world.client("V"));
    unknown.conduit(&["init"]).succeeds();
    let identity = revoked.conduit(&["init"]).succeeds();
    let identity = identity
        .stdout
        .split_whitespace()
        .find(|w| w.starts_with("cdk1_"))
        .expect("an identity")
        .to_owned();
    router.command(&["authorize", &identity, "--name", "gone"]).succeeds();
    router.command(&["revoke", "gone"]).succeeds();
    let answers =
        [&unknown, &revoked].map(|client| client.pin(&router, "127.0.0.1:9").exits(77).stderr);
    assert_eq!(answers[0].replace("/U/", "/V/"), answers[1]);
}

#[test]
fn h12_a_router_with_another_key_than_the_pinned_one_is_refused_and_both_are_shown() {
    let world = World::new();
    let router = world.router();
    let stranger = world.client("S").conduit(&["init"]).succeeds();
    let stranger = stranger
        .stdout
        .split_whitespace()
        .find(|w| w.starts_with("cdk1_"))
        .expect("an identity")
        .to_owned();
    let client = world.client("C");
    let addr = router.addr().to_string();
    let run = client.start("127.0.0.1:9").args(["--router", &addr, "--router-identity", &stranger]);
    let outcome = run.exits(77).took_at_most(Duration::from_secs(5));
    let outcome = outcome.says(&stranger).says(&router.identity());
    assert!(!outcome.stderr.contains("[y/N]"), "{outcome}");
    assert!(!router.log().contains("panicked"));
}

#[test]
fn h12_a_router_that_changed_its_key_is_refused_by_who_enrolled_before() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let pinned = router.identity();
    client.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    router.dies();
    for file in ["router.key", "router.pub"] {
        fs::remove_file(router.home().join("router").join(file)).expect("the old key");
    }
    router.returns();
    assert_ne!(router.identity(), pinned);
    client.start(target.addr()).exits(77).says(&pinned).says(&router.identity());
}

#[test]
fn h16_a_key_file_that_is_none_is_named_with_the_reason_and_left_alone() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    let pem = |label: &str, body: &[u8]| {
        let body = data_encoding::BASE64.encode(body);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    };
    let head = data_encoding::HEXLOWER.decode(b"302e020100300506032b657004220420").expect("hex");
    let zero = [&head[..], &[0; 32]].concat();
    let pair = data_encoding::HEXLOWER.decode(b"3051020101300506032b657004220420").expect("hex");
    let mismatch = [&pair[..], &[7; 32], &[0x81, 0x21, 0x00], &[9; 32]].concat();
    let cases: [(&str, Vec<u8>); 8] = [
        ("empty", Vec::new()),
        ("31 bytes", vec![7; 31]),
        ("33 bytes", vec![7; 33]),
        ("another PEM", pem("CERTIFICATE", &zero)),
        ("RSA", pem("RSA PRIVATE KEY", &[0x30, 3, 2, 1, 0])),
        ("a zero seed", pem("PRIVATE KEY", &zero)),
        ("a public key of another", pem("PRIVATE KEY", &mismatch)),
        ("text", b"ssh-ed25519 AAAA\n".to_vec()),
    ];
    let path = client.home().join("client.key");
    for (what, content) in cases {
        fs::write(&path, &content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        let outcome = client.pin(&router, "127.0.0.1:9").ends();
        assert!(matches!(outcome.code, Some(1 | 77 | 78)), "{what}: {outcome}");
        outcome.says("client.key");
        assert_eq!(fs::read(&path).expect("the file"), content, "{what}: left as it was");
        let outcome = client.conduit(&["init"]).ends();
        assert_ne!(outcome.code, Some(0), "{what}: init never overwrites: {outcome}");
        assert_eq!(fs::read(&path).expect("the file"), content, "{what}: left as it was by init");
    }
}

#[test]
fn a_key_that_was_handed_out_by_other_means_is_admitted_by_authorize() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let identity = client.conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    let rule = target.addr().to_string();
    router
        .command(&["authorize", &identity, "--name", "fleet-7", "--allow-target", &rule])
        .succeeds();
    let tunnel = client.started(&client.pin(&router, target.addr()).succeeds());
    echo(&tunnel.connect(), b"handed out").expect("the same bytes");
    router.command(&["clients"]).succeeds().prints("fleet-7");
}

#[test]
fn authorize_widens_nobody_who_is_known_unless_it_is_told_to() {
    let world = World::new();
    let router = world.router();
    let identity =
        world.client("C").conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    let authorize = |options: &[&str]| {
        router.command(&["authorize", &identity]).args(options).succeeds().stdout
    };
    authorize(&["--name", "ci", "--allow-target", "10.2.0.0/16:80"]);
    let renamed = authorize(&["--name", "build"]);
    assert!(renamed.contains("was: ci, 10.2.0.0/16:80"), "{renamed}");
    assert!(!renamed.contains("owner"), "{renamed}");
    let widened = authorize(&["--name", "build", "--owner"]);
    assert!(
        widened.contains("owner") && widened.contains("was: build, 10.2.0.0/16:80"),
        "{widened}"
    );
    let both = ["--name", "build", "--owner", "--allow-target", "10.2.0.0/16:80"];
    router.command(&["authorize", &identity]).args(both).exits(2);
    let other = world.client("D").conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    router.command(&["authorize", &other, "--name", "new"]).succeeds().says("is an owner");
}

#[test]
fn without_a_running_router_clients_are_managed_in_the_store_and_revoke_says_so() {
    let world = World::new();
    let mut router = world.router();
    let client = world.client("C");
    let identity = client.conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    router.dies();
    router.command(&["authorize", &identity, "--name", "offline"]).succeeds();
    router.command(&["clients"]).succeeds().prints("offline");
    let outcome = router.command(&["revoke", "offline"]).ends();
    assert!(
        format!("{}{}", outcome.stdout, outcome.stderr).contains("no router runs"),
        "{outcome}"
    );
}
