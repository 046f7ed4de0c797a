//! Ends of every kind: Unix sockets, rows of ports, every address at once, names with several addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::world::{
    BlackHole, Client, Redis, Run, Service, World, eventually, in_namespace, noise, runs, said_at,
};

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// `start` with both ends, whatever they are.
fn start(client: &Client, name: &str, source: &str, bind: &str) -> Run {
    client.conduit(&["start", "--name", name, "--source", source, "--bind", bind])
}

#[track_caller]
fn redis_answers_at(socket: &Path, value: &str) {
    let cli = |arguments: &[&str]| {
        Run::program("redis-cli").arg("-s").arg(socket).args(arguments).succeeds()
    };
    cli(&["SET", "word", value]).prints("OK");
    cli(&["GET", "word"]).prints(value);
}

#[test]
fn redis_is_reached_from_socket_to_socket_both_ways() {
    let world = World::new();
    let redis = Redis::start(world.path());
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let (near, far) = (world.path().join("near.sock"), world.path().join("far.sock"));
    let started = start(&client, "near", &unix(&redis.socket()), &unix(&near)).succeeds();
    let line = Client::line(&started);
    assert_eq!((line.bind, line.source), (unix(&near), unix(&redis.socket())), "{started}");
    redis_answers_at(&near, "forward");

    // The router's files are nobody's without a rule.
    let publish = || start(&client, "far", &unix(&redis.socket()), &unix(&far)).arg("--reverse");
    publish().exits(77).says("does not allow");
    let authorize = ["authorize", &client.identity(), "--name", "edge", "--owner", "--allow-bind"];
    router.command(&authorize).arg(unix(&far)).succeeds();
    publish().succeeds();
    redis_answers_at(&far, "reverse");
    let listed = client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == "far");
    assert_eq!(listed.expect("a tunnel")["bind"], unix(&far));
    client.conduit(&["kill", "--all"]).succeeds();
    assert!(!near.exists(), "the file goes with its tunnel");
    eventually("so does the router's", || !far.exists());
}

#[test]
fn a_source_that_is_a_unix_socket_is_served_at_a_port() {
    let world = World::new();
    let redis = Redis::start(world.path());
    let (_router, _client, tunnel) = world.tunnel_to(unix(&redis.socket()));
    let port = tunnel.bind.port().to_string();
    let ping = Run::program("redis-cli").args(["-h", "127.0.0.1", "-p", &port, "PING"]);
    ping.succeeds().prints("PONG");
}

#[test]
fn a_socket_is_its_owners_and_a_stale_one_makes_way() {
    let world = World::new();
    let service = Service::saying("hello");
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let bind = world.path().join("bind.sock");
    let begin = |name: &str| start(&client, name, &service.addr().to_string(), &unix(&bind));
    let line = Client::line(&begin("first").succeeds());
    let mode = fs::symlink_metadata(&bind).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert_eq!(said_by(&bind), "hello");
    begin("second").exits(1).says("it is in use");

    crate::world::kill(line.pid, rustix::process::Signal::KILL);
    eventually("the process is gone", || !runs(line.pid));
    assert!(fs::symlink_metadata(&bind).is_ok(), "its socket is left behind");
    begin("first").succeeds();
    assert_eq!(said_by(&bind), "hello");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let place = world.path().join("place");
    let refused = |what: &str| {
        let outcome = start(&client, "web", "127.0.0.1:9", &unix(&place)).exits(1);
        outcome.says(what).says("left alone").says(&unix(&place));
    };
    fs::write(&place, "precious").expect("a file");
    refused("a file that is no socket");
    assert_eq!(fs::read_to_string(&place).expect("the file"), "precious");
    fs::remove_file(&place).expect("removed");
    fs::create_dir(&place).expect("a folder");
    refused("a folder");
    fs::remove_dir(&place).expect("removed");
    let _elsewhere = UnixListener::bind(world.path().join("elsewhere")).expect("a socket");
    std::os::unix::fs::symlink(world.path().join("elsewhere"), &place).expect("a link");
    refused("a symbolic link");
    let kind = fs::symlink_metadata(world.path().join("elsewhere")).expect("it").file_type();
    assert!(kind.is_socket());
    let nowhere = unix(&world.path().join("no/folder/here.sock"));
    start(&client, "web", "127.0.0.1:9", &nowhere).exits(1).says("its folder does not exist");
}

fn said_by(socket: &Path) -> String {
    let stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    std::io::read_to_string(stream).expect("words")
}

#[test]
fn a_row_of_ports_leads_to_a_row_of_sources_both_ways() {
    in_namespace("ends::a_row_of_ports_leads_to_a_row_of_sources_both_ways", || {
        let world = World::new();
        let words = ["one", "two", "three", "four"];
        let at = |index: usize| SocketAddr::from(([127, 0, 0, 1], 4_000 + index as u16));
        let on = |index: usize| TcpListener::bind(at(index)).expect("a port of this namespace");
        let mut services: Vec<_> = words
            .iter()
            .enumerate()
            .map(|(index, word)| {
                let said = word.as_bytes();
                Service::on(on(index), move |stream| {
                    drop(std::io::Write::write_all(&mut &stream, said))
                })
            })
            .collect();
        let router = world.router();
        let client = world.client("C");
        client.enrols(&router.invite(&[]));
        for (name, first, way) in [("there", 5_000, None), ("back", 6_000, Some("--reverse"))] {
            let bind = format!("127.0.0.1:{first}-{}", first + 3);
            let run = start(&client, name, "127.0.0.1:4000-4003", &bind).args(way);
            assert_eq!(Client::line(&run.succeeds()).bind, bind);
            for (index, word) in words.iter().enumerate() {
                let port = SocketAddr::from(([127, 0, 0, 1], first + index as u16));
                assert_eq!(said_at(port).as_deref(), Some(*word), "{name}, port {port}");
            }
            let listed = client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == name);
            let listed = listed.expect("a tunnel");
            assert_eq!(
                (&listed["bind"], &listed["source"]),
                (&bind.into(), &"127.0.0.1:4000-4003".into())
            );
        }

        client.conduit(&["wait", "there", "back", "--dial-source"]).succeeds();
        services.pop();
        for name in ["there", "back"] {
            client.conduit(&["status", name, "--dial-source"]).exits(1).prints("127.0.0.1:4003");
        }

        // All or nothing: the ports before one that is taken are free again.
        let _somebody = TcpListener::bind("127.0.0.1:7002").expect("a port");
        for way in [None, Some("--reverse")] {
            let run = start(&client, "half", "127.0.0.1:4000-4003", "127.0.0.1:7000-7003");
            run.args(way).exits(1).says("127.0.0.1:7002").says("in use");
            eventually("the others are free", || TcpListener::bind("127.0.0.1:7000").is_ok());
        }
    });
}

#[test]
fn every_address_means_both_families() {
    in_namespace("ends::every_address_means_both_families", || {
        let world = World::new();
        let service = Service::saying("hello");
        let router = world.router();
        let client = world.client("C");
        client.enrols(&router.invite(&[]));
        let source = service.addr().to_string();
        for (name, bind, way) in [
            ("forward", "[::]:5000", None),
            ("star", "*:5001", None),
            ("reverse", "[::]:5002", Some("--reverse")),
        ] {
            let line = Client::line(&start(&client, name, &source, bind).args(way).succeeds());
            let bind: SocketAddr = line.bind.parse().expect("an address");
            assert!(bind.ip() == Ipv6Addr::UNSPECIFIED, "{bind}");
            for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let visited = SocketAddr::new(ip, bind.port());
                assert_eq!(said_at(visited).as_deref(), Some("hello"), "{name} at {visited}");
            }
        }
        // And one family only, where one was asked for.
        start(&client, "four", &source, "0.0.0.0:5003").succeeds();
        assert_eq!(
            said_at("127.0.0.1:5003".parse().expect("an address")).as_deref(),
            Some("hello")
        );
        assert_eq!(said_at("[::1]:5003".parse().expect("an address")), None);
    });
}

#[test]
fn a_name_with_a_dead_address_in_front_is_reached_quickly() {
    in_namespace("ends::a_name_with_a_dead_address_in_front_is_reached_quickly", || {
        let world = World::new();
        let hosts = "127.0.0.1 localhost\n::1 twins.example\n127.0.0.1 twins.example\n";
        let hosts = world.file("hosts", hosts);
        Run::program("mount").arg("--bind").arg(hosts).arg("/etc/hosts").succeeds();
        let listener = TcpListener::bind("127.0.0.1:4000").expect("a port of this namespace");
        let _service =
            Service::on(listener, |stream| drop(std::io::Write::write_all(&mut &stream, b"here")));
        let order = Run::program("getent").args(["ahosts", "twins.example"]).succeeds();
        assert!(order.stdout.starts_with("::1"), "the dead one is the first: {order}");
        let router = world.router();
        let client = world.client("C");
        client.enrols(&router.invite(&[]));
        let forward = client.starts("forward", "twins.example:4000");
        let reverse = client.publishes("reverse", "twins.example:4000");
        let ways = [(&forward, "forward"), (&reverse, "reverse")];
        for (kind, most) in [("refuses", 500), ("is silent", 1_000)] {
            let _hole = (kind == "is silent").then(|| BlackHole::dig("[::1]:4000"));
            for (tunnel, way) in ways {
                let start = Instant::now();
                assert_eq!(said_at(tunnel.bind).as_deref(), Some("here"), "{way}, {kind}");
                let took = start.elapsed();
                println!("{way}, the first address {kind}: {took:?}");
                assert!(took < Duration::from_millis(most), "{way}, {kind}: {took:?}");
            }
        }
    });
}

#[test]
fn large_bodies_go_through_sockets_whole() {
    let world = World::new();
    let service = Service::echo();
    let (_router, client, _tunnel) = world.tunnel_to(service.addr());
    let bind = world.path().join("bulk.sock");
    start(&client, "bulk", &service.addr().to_string(), &unix(&bind)).succeeds();
    let content = noise(6, 8 << 20);
    let back = Run::program("nc").arg("-NU").arg(&bind).input(&content).succeeds();
    assert!(back.raw == content, "the same bytes");
}
