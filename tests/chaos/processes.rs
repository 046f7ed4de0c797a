//! Rows of processes, names and clocks, with the real binary.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::table::{row, told};
use crate::world::{
    Router, Run, Service, World, echo, ends_with_reset, figure, in_namespace, noise, within,
};

/// Somebody sends ICMP that says the router is out of reach, and that packets have to be tiny.
#[test]
fn h57_forged_icmp_is_not_believed() {
    in_namespace("processes::h57_forged_icmp_is_not_believed", || {
        let world = World::new();
        let target = Service::echo();
        let (router, _client, tunnel) = world.tunnel_to(target.addr());
        let session = tunnel.session();
        let status = router.status();
        let client: SocketAddr = status["sessions"][0]["addr"]
            .as_str()
            .and_then(|addr| addr.parse().ok())
            .expect("its address");
        let raw = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::ICMPV4),
        )
        .expect("a raw socket");
        let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        thread::scope(|scope| {
            let busy = scope.spawn(|| echo(&tunnel.connect(), &noise(57, 32 << 20)));
            for number in 0..2_000_u32 {
                // Port and host unreachable, fragmentation needed; to either end.
                let code = [3, 1, 4][number as usize % 3];
                let (from, to) = match number % 2 {
                    0 => (client, router.addr()),
                    _ => (router.addr(), client),
                };
                raw.send_to(&forged(code, from, to), &loopback.into()).expect("sent");
            }
            busy.join().expect("ran").expect("the same bytes");
        });
        let listed = tunnel.listed().expect("the tunnel");
        assert_eq!(tunnel.session(), session, "it is the same session");
        let mtu = listed["mtu"].as_u64().expect("a size");
        assert!(mtu >= 1_200, "{listed}");
        told(
            "H57",
            "2,000 forged messages",
            &format!("32 MiB exact, same session, packets of {mtu}"),
        );
    });
}

/// ICMP "unreachable" about a UDP packet that `from` seems to have sent to `to`; the next hop takes 576 bytes.
fn forged(code: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let octets = |addr: SocketAddr| match addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => [127, 0, 0, 1],
    };
    let mut message = vec![3, code, 0, 0, 0, 0, 2, 64];
    let mut header = vec![0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    header.extend(octets(from));
    header.extend(octets(to));
    message.extend(header);
    message.extend(from.port().to_be_bytes());
    message.extend(to.port().to_be_bytes());
    message.extend([4, 200, 0, 0]);
    let sum =
        message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The router moves, and its name with it.
#[test]
fn h58_a_name_that_changes_its_address_is_asked_again() {
    in_namespace("processes::h58_a_name_that_changes_its_address_is_asked_again", || {
        let world = World::new();
        let target = Service::echo();
        let hosts = world.file("hosts", "127.0.0.1 localhost\n127.0.0.2 router.test\n");
        Run::program("mount").arg("--bind").arg(&hosts).arg("/etc/hosts").succeeds();
        let mut router = world.router_at("127.0.0.2:9999");
        let client = world.client("C");
        let tunnel =
            client.joins(&router.invite(&["--advertise", "router.test:9999"]), target.addr());
        echo(&tunnel.connect(), b"before").expect("the same bytes");
        router.dies();
        fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.3 router.test\n").expect("written");
        router.returns_at("127.0.0.3:9999");
        let back = Instant::now();
        let elapsed = until_it_works(tunnel.bind, back);
        row("H58", "another address", &[("new connection", vec![elapsed])]);
        assert!(elapsed < Duration::from_secs(45), "{elapsed:?}");
    });
}

/// From `since` until a new connection works.
pub(crate) fn until_it_works(bind: SocketAddr, since: Instant) -> Duration {
    within(Duration::from_secs(60), "a new connection works", || {
        let stream = TcpStream::connect(bind).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        echo(&stream, b"well").ok()
    });
    since.elapsed()
}

/// `kill -9` of the router in the midst of transfers, and of tunnels (H71 for what comes back).
#[test]
fn h70_kills_at_any_moment_cost_what_was_open_and_nothing_else() {
    let rounds = figure("kills", 4, 100);
    kills(rounds);
}

fn kills(rounds: usize) {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, first) = world.tunnel_to(target.addr());
    let published = client.publishes("published", target.addr());
    let place = published.bind;
    let (mut resets, mut news, mut visits) = (Vec::new(), Vec::new(), Vec::new());
    let mut tunnel = first;
    for round in 0..rounds {
        let mut idle = tunnel.connect();
        idle.write_all(b"a").expect("a byte");
        idle.read_exact(&mut [0]).expect("its echo");
        let busy = thread::spawn({
            let stream = tunnel.connect();
            move || echo(&stream, &noise(round as u64, 64 << 20)).is_ok()
        });
        // Some time within the transfer: the same in every run.
        thread::sleep(Duration::from_millis(20 + (round as u64 * 7_919) % 180));
        router.dies();
        router.returns();
        let back = Instant::now();
        // It says something, as a user would, who hears of the reset then at the latest.
        let _ = idle.write_all(b"b");
        idle.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        assert!(ends_with_reset(&idle), "round {round}: a reset");
        resets.push(back.elapsed());
        news.push(until_it_works(tunnel.bind, back));
        assert!(!busy.join().expect("ran"), "round {round}: a transfer cannot have survived");
        within(Duration::from_secs(20), "the published port is back", || {
            let stream = TcpStream::connect(place).ok()?;
            stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
            echo(&stream, b"well").ok()
        });
        visits.push(back.elapsed());
        // Now the tunnel, in the midst of another transfer.
        let (name, bind) = (format!("t{round}"), tunnel.bind.to_string());
        let busy = thread::spawn({
            let stream = tunnel.connect();
            move || echo(&stream, &noise(round as u64, 64 << 20)).is_ok()
        });
        thread::sleep(Duration::from_millis(5 + (round as u64 * 104_729) % 95));
        tunnel.dies();
        assert!(!busy.join().expect("ran"), "round {round}: a transfer cannot have survived");
        let source = target.addr().to_string();
        let arguments = ["start", "--name", &name, "--source", &source, "--bind", &bind];
        tunnel = client.started(&client.conduit(&arguments).succeeds());
        echo(&tunnel.connect(), &noise(round as u64, 100_000)).expect("the same bytes");
        assert_eq!(client.list(&[]).len(), 2, "round {round}: no ghosts");
    }
    let what = format!("{rounds} kills of the router and as many of a tunnel");
    row(
        "H70",
        &what,
        &[("reset after its return", resets), ("new connection", news), ("published port", visits)],
    );
}

/// A process that may have few files turns users away, does not spin, answers its operator, and recovers.
#[test]
fn h72_without_files_nothing_spins_and_the_operator_is_answered() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    for pid in [tunnel.pid, router.pid()] {
        let limit = Run::program("prlimit").args(["--pid", &pid.to_string(), "--nofile=64:64"]);
        limit.succeeds();
    }
    let crowd: Vec<TcpStream> =
        (0..200).filter_map(|_| TcpStream::connect(tunnel.bind).ok()).collect();
    assert!(crowd.len() >= 100, "{} connected", crowd.len());
    thread::sleep(Duration::from_secs(1));
    let before = [tunnel.pid, router.pid()].map(processor_time);
    thread::sleep(Duration::from_secs(4));
    let after = [tunnel.pid, router.pid()].map(processor_time);
    let shares = [0, 1].map(|which| (after[which] - before[which]).as_secs_f64() / 4.0 * 100.0);
    assert!(shares.iter().all(|share| *share <= 5.0), "{shares:?} % of a processor");
    let asked = Instant::now();
    let listed = client.list(&[]);
    let answered = asked.elapsed();
    // It says that it turned users away.
    assert!(["ready", "degraded"].iter().any(|state| listed[0]["state"] == *state), "{listed:?}");
    assert_eq!(router.status()["state"], "ready");
    // A status asks twice at once, and more than one may look.
    for _ in 0..5 {
        let status = client.conduit(&["status", &tunnel.name]).ends();
        // At whichever end the last user met it.
        assert!(status.stdout.contains("Too many open files"), "{status}");
        client.list(&["--connections"]);
    }
    let lines = tunnel.log().matches("cannot accept connections").count();
    assert_eq!(lines, 1, "an outage is one line");
    drop(crowd);
    let back = until_it_works(tunnel.bind, Instant::now());
    told(
        "H72",
        "64 files, 200 users",
        &format!(
            "{:.1} and {:.1} % of a processor, list in {answered:?}, well {back:?} after they left",
            shares[0], shares[1]
        ),
    );
}

/// User and system time that a process has used.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<u64> = rest.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    // 100 ticks a second, on every Linux that there is.
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

/// The clock of both hosts jumps by days, forth and back: no connection breaks, and what expires does so by the clock.
#[test]
fn clocks_that_jump_break_nothing() {
    let world = World::new();
    let target = Service::echo();
    let offset = world.file("offset", "+0\n");
    let library =
        format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(fs::metadata(&library).is_ok(), "{library} is missing: apt-get install libfaketime");
    let offset_file = offset.to_str().expect("UTF-8").to_owned();
    let fake = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", offset_file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let router = Router::start(world.home("R"), &["--bind", "127.0.0.1:0"], &fake);
    let client = world.client("C");
    let ticket = router.invite(&["--uses", "2", "--expires", "1h"]);
    let start = client.join(&ticket, target.addr());
    let start = fake.iter().fold(start, |start, (name, value)| start.env(name, value));
    let tunnel = client.started(&start.succeeds());
    let session = tunnel.session();
    let mut open = tunnel.connect();
    for jump in ["+2d", "-3d", "+400d", "+0"] {
        fs::write(&offset, format!("{jump}\n")).expect("written");
        thread::sleep(Duration::from_millis(300));
        open.write_all(jump.as_bytes()).expect("said");
        let mut heard = vec![0; jump.len()];
        open.read_exact(&mut heard).expect("heard");
        assert_eq!(heard, jump.as_bytes());
        echo(&tunnel.connect(), &noise(3, 1 << 20)).expect("the same bytes");
        if jump.starts_with("+4") {
            // A year later the ticket is of no use any more.
            world.client("D").join(&ticket, target.addr()).exits(77).says("expired");
            let doctor = client.conduit(&["doctor"]).succeeds();
            assert!(doctor.stdout.contains("ahead of this one"), "{doctor}");
        }
    }
    assert_eq!(tunnel.session(), session, "it is the same session");
    told(
        "H70",
        "clocks that jump by 2, 3 and 400 days",
        "same session, tickets expire by the clock",
    );
}

mod chaos {
    use super::*;

    #[test]
    fn h73_a_router_that_is_stopped_for_a_minute_loses_no_stream() {
        let world = World::new();
        let target = Service::echo();
        let (router, _client, tunnel) = world.tunnel_to(target.addr());
        let mut open = tunnel.connect();
        open.write_all(b"a").expect("a byte");
        open.read_exact(&mut [0]).expect("its echo");
        router.signal(Signal::STOP);
        thread::sleep(Duration::from_secs(60));
        router.signal(Signal::CONT);
        let back = Instant::now();
        open.write_all(b"b").expect("a byte");
        open.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        open.read_exact(&mut [0]).expect("its echo");
        row("H73", "SIGSTOP for 60 s", &[("an open connection", vec![back.elapsed()])]);
    }
}
