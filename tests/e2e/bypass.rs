//! H60: spellings and addresses by which a client might get past the rules, with a canary that counts what arrives.

use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::Value;

use crate::world::{Client, Router, Service, World, ends_with_reset, eventually};

/// Denied to everybody, owners too. `P` is the canary's port.
const DENIED: &[&str] = &[
    "0.0.0.0:P",
    "0.1.2.3:P",
    "[::]:P",
    "[::ffff:0:0]:P",
    "[::ffff:0.0.0.0]:P",
    "169.254.1.1:P",
    "169.254.169.254:P",
    "100.100.100.200:P",
    "[fd00:ec2::254]:P",
    "[fe80::1]:P",
    "[::ffff:169.254.169.254]:P",
    "[::169.254.169.254]:P",
    "[64:ff9b::a9fe:a9fe]:P",
    "[64:ff9b:1::a9fe:a9fe]:P",
    "[2002:a9fe:a9fe::1]:P",
    "[2001:0:4136:e378:8000:63bf:5601:5601]:P",
    "[2001:db8::5efe:a9fe:a9fe]:P",
    "224.0.0.1:P",
    "[ff02::1]:P",
    "255.255.255.255:P",
];

/// Not even a target.
const UNREADABLE: &[&str] = &[
    "0:P",
    "127.1:P",
    "2130706433:P",
    "0x7f.1:P",
    "0x7f000001:P",
    "0177.0.0.1:P",
    "127.0.0.1.:P",
    "１２７.0.0.1:P",
    "[fe80::1%lo]:P",
    "user@127.0.0.1:P",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "../run/docker.sock:P",
    "unix:run/docker.sock",
    "unix:./docker.sock",
    "unix:/run/../run/docker.sock",
    "unix:/run/./docker.sock",
    "unix://run/docker.sock",
    "unix:/run/docker.sock/",
    "unix:/",
    "unix:",
    "10.2.0.1#@127.0.0.1:P",
];

/// What an owner may reach, and who has one other network may not.
const OWNERS_ONLY: &[&str] = &[
    "127.0.0.1:P",
    "127.255.255.254:P",
    "[::1]:P",
    "[::ffff:127.0.0.1]:P",
    "[::127.0.0.1]:P",
    "[64:ff9b::7f00:1]:P",
    "[2002:7f00:1::]:P",
    "unix:/run/docker.sock",
    "unix:/run/docker.sock:P",
];

/// Names: what counts is where they lead, which is known only when they are dialled.
const NAMES: &[&str] = &["localhost:P", "localhost.:P", "LOCALHOST:P"];

#[test]
fn h60_an_owner_reaches_none_of_the_denied_forms() {
    let world = World::new();
    let canary = Canary::new();
    let router = world.router();
    let client = world.client("C");
    client.joins(&router.invite(&[]), canary.addr());
    for form in DENIED {
        client.is_denied_at_start(&spelled(form, canary.port()));
    }
    for form in UNREADABLE {
        client.is_unreadable(&spelled(form, canary.port()));
    }
    // Its own sockets: which these are is known only where the router dials.
    let own = client.starts("own", router.addr());
    assert!(ends_with_reset(&own.connect()));
    says_denied(&client, "own");
    assert_eq!(canary.connects(), 0);
}

/// Whoever speaks on it invites clients, and to it the router is its own user.
#[test]
fn h60_nobody_reaches_the_routers_control_socket() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.joins(&router.invite(&[]), "127.0.0.1:9");
    let control = control_socket(&router);
    let link = world.path().join("link.sock");
    std::os::unix::fs::symlink(&control, &link).expect("a link");
    let folder = world.path().join("folder");
    std::os::unix::fs::symlink(control.parent().expect("a folder"), &folder).expect("a link");
    let file = control.file_name().expect("a file");
    for (name, path) in [("plain", control.clone()), ("link", link), ("folder", folder.join(file))]
    {
        let tunnel = client.starts(name, format!("unix:{}", path.display()));
        assert!(ends_with_reset(&tunnel.connect()), "{name}");
        says_denied(&client, name);
    }
}

/// Where the record says that it is.
fn control_socket(router: &Router) -> PathBuf {
    let records = std::fs::read_dir(router.home().join("tunnels")).expect("the records");
    let texts = records.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok());
    let mut records = texts.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
    let record = records.find(|record| record["kind"] == "router").expect("the router's record");
    record["control_socket"].as_str().expect("a path").into()
}

#[test]
fn h60_with_one_network_allowed_every_form_is_denied() {
    let world = World::new();
    let canary = Canary::new();
    let router = world.router();
    let client = world.client("C");
    let ticket = router.invite(&["--allow-target", &format!("10.2.0.0/16:{}", canary.port())]);
    client.joins(&ticket, format!("10.2.0.1:{}", canary.port()));
    for form in DENIED.iter().chain(OWNERS_ONLY) {
        client.is_denied_at_start(&spelled(form, canary.port()));
    }
    for form in UNREADABLE {
        client.is_unreadable(&spelled(form, canary.port()));
    }
    for (number, form) in NAMES.iter().enumerate() {
        let target = spelled(form, canary.port());
        let outcome = client.start(&target).args(["--name", &format!("name{number}")]).ends();
        if outcome.code == Some(77) {
            continue;
        }
        let tunnel = client.started(&outcome.exits(0));
        assert!(ends_with_reset(&tunnel.connect()), "{target}");
        says_denied(&client, &tunnel.name);
    }
    assert_eq!(canary.connects(), 0);
    assert!(router.log().contains("denied"));
}

/// Listens on the port where every form would end up if it got through.
struct Canary {
    over_ipv4: Service,
    over_ipv6: Option<Service>,
}

impl Canary {
    fn new() -> Self {
        let over_ipv4 = Service::start(drop);
        let over_ipv6 = TcpListener::bind(("::1", over_ipv4.addr().port())).ok();
        Self { over_ipv4, over_ipv6: over_ipv6.map(|listener| Service::on(listener, drop)) }
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.over_ipv4.addr()
    }

    fn port(&self) -> u16 {
        self.addr().port()
    }

    fn connects(&self) -> usize {
        self.over_ipv4.connects() + self.over_ipv6.as_ref().map_or(0, Service::connects)
    }
}

impl Client {
    #[track_caller]
    fn is_denied_at_start(&self, target: &str) {
        self.start(target).args(["--name", "denied"]).exits(77).says_one_of(DENIED_WORDS);
    }

    #[track_caller]
    fn is_unreadable(&self, target: &str) {
        self.start(target).args(["--name", "unreadable"]).exits(2);
    }
}

/// At the start, and once a stream was refused.
const DENIED_WORDS: &[&str] = &["does not allow", "denied"];

/// The reason comes to the log just after the user's reset.
#[track_caller]
fn says_denied(client: &Client, tunnel: &str) {
    eventually("the denial is logged", || {
        client.conduit(&["logs", tunnel]).succeeds().stdout.contains("denied")
    });
}

fn spelled(form: &str, canary: u16) -> String {
    if let Some(host) = form.strip_suffix(":P") {
        return format!("{host}:{canary}");
    }
    form.to_owned()
}
