//! Rows of panics. Nothing in the binary is there for them: strace has the kernel answer one system call with nonsense,
//! which code that trusts the kernel does not survive.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::processes::until_it_works;
use crate::table::{row, told};
use crate::world::{
    Answerer, Router, Run, Service, World, asks, echo, ends_with_reset, kill, runs, user_of, within,
};

/// The next `call` of the process returns `answer` without having happened; `work` makes it call.
fn lied_to(world: &World, pid: u32, call: &str, answer: u32, work: impl FnOnce()) {
    let told = world.path().join(format!("lie-to-{pid}"));
    let inject = format!("inject={call}:retval={answer}:when=1");
    // Raw: to spell out what the kernel has not filled in would take gigabytes. The limit is for the disk's sake, too.
    let strace = Run::program("prlimit").args(["--fsize=1048576", "strace", "-e", "raw=all", "-e"]);
    let strace = strace.arg(format!("trace={call}")).args(["-e", &inject, "-p", &pid.to_string()]);
    let mut strace = strace.arg("-o").arg(&told).spawn(Stdio::null(), Stdio::null());
    within(LIMIT, "strace is attached", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        (tracer.trim() != "0").then_some(())
    });
    work();
    within(LIMIT, "the lie is told", || {
        fs::read_to_string(&told).ok().filter(|text| text.contains("(INJECTED)"))
    });
    kill(strace.id(), rustix::process::Signal::TERM);
    strace.wait().expect("its end");
}

/// A byte there and back.
fn answers(mut stream: &TcpStream) {
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
}

#[test]
fn h82_a_panic_on_one_connection_ends_that_connection_only() {
    let world = World::new();
    let target = Service::echo();
    let (router, _client, tunnel) = world.tunnel_to(target.addr());
    let session = tunnel.session();
    let others: Vec<_> = (0..8).map(|_| tunnel.connect()).collect();
    others.iter().for_each(answers);
    for pid in [router.pid(), tunnel.pid] {
        let victim = tunnel.connect();
        answers(&victim);
        lied_to(&world, pid, "recvfrom", 1 << 20, || (&victim).write_all(b"b").expect("a byte"));
        assert!(ends_with_reset(&victim), "what is cut off must not look complete");
        others.iter().for_each(answers);
        echo(&tunnel.connect(), &[7; 1 << 20]).expect("the same bytes");
    }
    for log in [router.log(), tunnel.log()] {
        assert_eq!(log.matches("panicked at").count(), 1, "{log}");
    }
    assert_eq!(tunnel.session(), session, "it is the same session");
    told(
        "H82",
        "panic in the task of a connection, in the router and in a tunnel",
        "that one is reset, 8 others go on",
    );
}

#[test]
fn h82_a_panic_at_a_published_port_ends_its_flows_and_not_the_port() {
    let world = World::new();
    let service = Answerer::echo();
    let (router, _client, tunnel) = world.udp_tunnel_to(service.addr(), &["--reverse"]);
    let visitor = user_of(tunnel.bind);
    let is_served = || asks(&visitor, b"a").ok().filter(|answer| answer == b"a").map(drop);
    within(LIMIT, "the port is served", is_served);
    let session = tunnel.session();
    lied_to(&world, router.pid(), "recvmmsg", TOO_MANY, || {
        visitor.send(b"b").expect("a packet");
    });
    within(LIMIT, "the port is served again", is_served);
    assert_eq!(router.log().matches("panicked at").count(), 1, "{}", router.log());
    assert_eq!(tunnel.session(), session, "it is the same session");
    told("H82", "panic in the task of a published UDP port", "the port is served on");
}

#[test]
fn h82_a_panic_of_the_endpoint_ends_the_process_which_a_supervisor_replaces() {
    let world = World::new();
    let target = Service::echo();
    // A trace of a binary with all its symbols takes seconds, and nobody asks for it in daily use.
    let quick = ("RUST_BACKTRACE", "0");
    let mut router = Router::start(world.home("R"), &["--bind", "127.0.0.1:0"], &[quick]);
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let source = target.addr();
    let bind = crate::world::free_port();
    let file = world.file(
        "conduit.toml",
        format!("[[tunnels]]\nname = \"kept\"\nsource = \"{source}\"\nbind = \"{bind}\"\n"),
    );
    let err = fs::File::create(world.path().join("up.err")).expect("a file");
    let mut fleet = client
        .conduit(&["up", "--foreground", "-f", file.to_str().expect("UTF-8")])
        .env(quick.0, quick.1)
        .spawn(Stdio::null(), err);
    let ready = || {
        let found = client.list(&[]).into_iter().find(|it| it["state"] == "ready")?;
        u32::try_from(found["pid"].as_u64()?).ok()
    };
    let first = within(LIMIT, "the tunnel is ready", ready);
    let connect = || TcpStream::connect(bind).expect("a connection");
    answers(&connect());

    lied_to(&world, first, "recvmmsg", TOO_MANY, || drop(connect()));
    let gone = Instant::now();
    within(LIMIT, "the process is gone", || (!runs(first)).then_some(()));
    let tunnel_back = until_it_works(bind, gone);
    assert_ne!(within(LIMIT, "another process", ready), first);
    assert!(tunnel_back < Duration::from_secs(5), "{tunnel_back:?}");

    // The service manager of a router waits for two seconds, and is not part of this.
    lied_to(&world, router.pid(), "recvmmsg", TOO_MANY, || drop(connect()));
    let gone = Instant::now();
    assert_ne!(router.ends_within(Duration::from_secs(2)), Some(0));
    let ended = gone.elapsed();
    router.returns();
    let router_back = until_it_works(bind, Instant::now());
    row(
        "H82",
        "panic of the endpoint in a tunnel that is supervised",
        &[("works again", vec![tunnel_back])],
    );
    row(
        "H82",
        "panic of the endpoint in the router",
        &[("has ended", vec![ended]), ("works after a restart", vec![router_back])],
    );
    kill(fleet.id(), rustix::process::Signal::TERM);
    assert!(fleet.wait().expect("its end").success());
}

/// More packets than there was room for.
const TOO_MANY: u32 = 1_000;
/// For strace to come, and for what it does.
const LIMIT: Duration = Duration::from_secs(10);
