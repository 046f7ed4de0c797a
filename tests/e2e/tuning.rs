//! The keys of `[performance]` that change a process or its sockets, seen from outside: in `/proc`, and in the sockets
//! themselves.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockRef, Type};

use crate::world::{Service, World, eventually};

#[test]
fn threads_and_processors_are_those_of_the_configuration() {
    let processor = first_processor(std::process::id());
    let tuned = |threads: u32| {
        format!("[performance]\nthreads = {threads}\ncpu_affinity = [{processor}]\n")
    };
    let world = World::new();
    let router = world.router_with(&tuned(4));
    let client = world.client("C");
    let plain = client.joins(&router.invite(&[]), "127.0.0.1:9");
    let file = world.file("three.toml", tuned(3)).display().to_string();
    let start = client.start("127.0.0.1:9").args(["--name", "tuned", "-f", &file]);
    let tuned = client.started(&start.succeeds());
    for (pid, threads) in [(router.pid(), 4), (tuned.pid, 3)] {
        assert!(word(pid, "Threads:").parse::<u32>().expect("a number") > threads, "{pid}");
        assert_eq!(word(pid, "Cpus_allowed_list:"), processor.to_string());
    }
    // Two of them at most wait for files or names, and leave after ten seconds.
    let threads: u32 = word(plain.pid, "Threads:").parse().expect("a number");
    assert!(threads <= 3, "{threads} threads where one is to do the work");
    assert_eq!(first_processor(plain.pid), first_processor(std::process::id()));
}

#[test]
fn as_many_files_as_the_system_allows_may_be_open() {
    let world = World::new();
    let (router, _, tunnel) = world.tunnel_to("127.0.0.1:9");
    for pid in [router.pid(), tunnel.pid] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = files.expect("a limit of files").split_whitespace().collect();
        assert_eq!(words[3], words[4], "soft and hard");
    }
}

#[test]
fn sockets_at_both_ends_are_tuned_as_the_configuration_says() {
    let service = Service::echo();
    let world = World::new();
    let router = world.router_with("[performance]\ntcp_nodelay = false\ntcp_keepalive = \"7s\"\n");
    let client = world.client("C");
    let plain = client.joins(&router.invite(&[]), service.addr());
    let off = "[performance]\ntcp_nodelay = false\ntcp_keepalive = \"off\"\n";
    let file = world.file("off.toml", off).display().to_string();
    let start = client.start(service.addr()).args(["--name", "off", "-f", &file]);
    let tuned = client.started(&start.succeeds());
    let _users = [plain.connect(), tuned.connect()];
    eventually("both users are served", || service.connects() == 2);
    let minute = Some(Duration::from_secs(60));
    assert_eq!(connected(plain.pid), [(true, minute)], "accepted, with the defaults");
    assert_eq!(connected(tuned.pid), [(false, None)], "accepted");
    // A target may have accepted before the router has come to tune its end.
    let dialled = (false, Some(Duration::from_secs(7)));
    eventually("the dialled ones are tuned", || connected(router.pid()) == [dialled, dialled]);
}

/// [SES-35]
#[test]
fn both_ends_of_a_session_know_the_tunnels_priority() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let start = client.start("127.0.0.1:9").args(["--name", "backup", "--priority", "bulk"]);
    let backup = client.started(&start.succeeds());
    let file = "[[tunnels]]\nname = \"shell\"\nsource = \"127.0.0.1:9\"\nbind = \"127.0.0.1:0\"\n\
                priority = \"interactive\"\n";
    let file = world.file("shell.toml", file).display().to_string();
    client.conduit(&["up", "-f", &file]).succeeds();
    client
        .conduit(&["start", "--source", "127.0.0.1:9", "--bind", "0", "--priority", "high"])
        .exits(2)
        .says("interactive, normal, bulk");
    let of = |name: &str| {
        let listed = client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == name);
        listed.expect("a tunnel")["path"]["priority"].clone()
    };
    assert_eq!((of("backup"), of("shell")), ("bulk".into(), "interactive".into()));
    let status = router.status();
    let sessions = status["sessions"].as_array().expect("sessions");
    let mut known: Vec<_> =
        sessions.iter().map(|session| session["path"]["priority"].as_str().expect("one")).collect();
    known.sort_unstable();
    assert_eq!(known, ["bulk", "interactive"]);
    let shown = router.home().conduit(&["status"]).succeeds();
    assert!(shown.stdout.contains("PRIORITY") && shown.stdout.contains("bulk"), "{shown}");
    drop(backup);
}

/// `TCP_NODELAY` and the idle time before probes of every TCP socket of a process that has a peer.
fn connected(pid: u32) -> Vec<(bool, Option<Duration>)> {
    let sockets = sockets(pid);
    let sockets = sockets.iter().map(SockRef::from).filter(|socket| {
        let is_tcp = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
        is_tcp && socket.peer_addr().is_ok_and(|peer| peer.as_socket().is_some())
    });
    let tuned = sockets.map(|socket| {
        let probes = socket.keepalive().expect("SO_KEEPALIVE");
        let idle = probes.then(|| socket.tcp_keepalive_time().expect("TCP_KEEPIDLE"));
        (socket.tcp_nodelay().expect("TCP_NODELAY"), idle)
    });
    tuned.collect()
}

/// A second handle to each socket of another process.
fn sockets(pid: u32) -> Vec<OwnedFd> {
    let process = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("a running process");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files");
    let open = open.filter_map(|file| {
        let file = file.ok()?;
        let leads_to = fs::read_link(file.path()).ok()?;
        let is_socket = leads_to.to_str()?.starts_with("socket:");
        is_socket.then(|| file.file_name().to_str()?.parse().ok())?
    });
    open.map(|number: i32| {
        pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("a handle to a socket")
    })
    .collect()
}

/// The first processor that a process may run on.
fn first_processor(pid: u32) -> u32 {
    let list = word(pid, "Cpus_allowed_list:");
    list.split(['-', ',']).next().expect("one").parse().expect("a number")
}

/// What follows a word in `/proc/PID/status`.
fn word(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}
