//! `conduit router upgrade`: another program goes on, and what is open stays open.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{
    Answerer, Client, Router, Service, Sshd, Tunnel, World, echo, ends_with_reset, eventually,
    figure, free_port, noise, said_within, sha256_of, user_of, within,
};

#[track_caller]
pub(crate) fn upgrades(router: &Router) -> Value {
    let answer = router.command(&["upgrade", "-o", "json"]).succeeds().json();
    assert_eq!(answer["pid"], router.pid(), "{answer}");
    answer
}

#[test]
fn a_copy_a_login_and_a_flow_outlive_upgrades() {
    outlives_upgrades(&["--carrier", "quic"]);
}

#[test]
fn the_same_over_tls() {
    outlives_upgrades(&["--carrier", "tls"]);
}

fn outlives_upgrades(carrier: &[&str]) {
    let world = World::new();
    let sshd = Sshd::start(world.path());
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let tunnel = client.started(&client.start(sshd.addr()).args(carrier).succeeds());
    let (echoes, sources) = (Answerer::echo(), Answerer::echo());
    let bind = free_port().to_string();
    let flow = client.started(&client.start_udp(echoes.addr(), &bind).args(carrier).succeeds());
    let published = client.start_udp(sources.addr(), "0").args(["--reverse"]).args(carrier);
    let published = client.started(&published.succeeds());
    let (user, visitor) = (user_of(flow.bind), user_of(published.bind));
    let size = figure("MiB", 64, 1_024) << 20;
    let bytes = noise(5, size);
    let (file, copy) = (world.file("file", &bytes), world.path().join("copy"));
    let mut login = sshd.login(tunnel.bind.port());
    login.echoes("before");
    let mut pauses = [Vec::new(), Vec::new()];
    thread::scope(|scope| {
        let copying = scope.spawn(|| {
            // At 160 Mbit/s the small one lasts for more than three seconds.
            let scp = sshd.scp(tunnel.bind.port()).args(["-l", "160000"]).arg(&file);
            scp.arg(format!("127.0.0.1:{}", copy.display())).limit(COPY_LIMIT).succeeds();
        });
        for time in 0..figure("upgrades", 5, 20) {
            thread::sleep(Duration::from_millis(500));
            let asked = Instant::now();
            upgrades(&router);
            login.echoes(&format!("after {time}"));
            pauses[0].push(asked.elapsed());
            answers(&user);
            pauses[1].push(asked.elapsed());
            answers(&visitor);
        }
        copying.join().expect("the copy");
    });
    for (what, pauses) in ["login", "flow"].iter().zip(&mut pauses) {
        pauses.sort();
        let p95 = pauses[pauses.len() * 95 / 100];
        println!(
            "{what} answers after the command: p50 {:?}, p95 {p95:?}",
            pauses[pauses.len() / 2]
        );
    }
    assert!(fs::read(&copy).expect("the copy") == bytes, "the same bytes");
    assert!(tunnel.runs() && flow.runs() && published.runs());
    // [UPG-7]
    assert_eq!((echoes.senders(), sources.senders()), (1, 1), "the same sockets all the time");
}

/// Asks until there is an answer.
pub(crate) fn answers(user: &UdpSocket) {
    user.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
    eventually("the flow goes on", || {
        // Refused while nobody is there, which the socket tells once.
        let _ = user.send(b"are you there?");
        matches!(user.recv(&mut [0; 64]), Ok(14))
    });
}

#[test]
fn streams_in_every_state_go_on_where_they_were() {
    let world = World::new();
    let (target, answers) = (Service::echo(), Service::start(answers_at_the_end));
    let (router, client, forward) = world.tunnel_to(target.addr());
    let at_the_end = client.starts("half", answers.addr());
    let reverse = client.publishes("reverse", target.addr());
    // Here it is the router that has sent the end.
    let visited = client.publishes("visited", answers.addr());
    let idle: Vec<TcpStream> = (0..50).map(|_| forward.connect()).collect();
    thread::scope(|scope| {
        let busy: Vec<_> = [&forward, &reverse]
            .into_iter()
            .flat_map(|tunnel| (0..4).map(move |seed| (tunnel, seed)))
            .map(|(tunnel, seed)| {
                scope.spawn(move || echo(&tunnel.connect(), &noise(seed, 24 << 20)))
            })
            .collect();
        let slow = scope.spawn(|| reads_slowly(&forward));
        let halves = [&at_the_end, &visited].map(|tunnel| scope.spawn(|| half_closed(tunnel)));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(400));
            upgrades(&router);
        }
        for one in busy {
            one.join().expect("ran").expect("the same bytes");
        }
        slow.join().expect("read");
        for half in halves {
            half.join().expect("answered");
        }
    });
    assert_eq!(router.status()["upgrades"], 3);
    eventually("only idle ones are left", || router.status()["active_streams"] == 50);
    for stream in &idle {
        echo(stream, b"still there").expect("the same bytes");
    }
    let connected = target.connects() + answers.connects();
    assert_eq!(connected, 50 + 8 + 1 + 2, "nothing was connected anew");
}

/// Asks for more than all windows hold, and waits; then takes it all.
fn reads_slowly(tunnel: &Tunnel) {
    let mut stream = tunnel.connect();
    let bytes = noise(77, 32 << 20);
    let mut writing = stream.try_clone().expect("a handle");
    let sent = bytes.clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            writing.write_all(&sent).expect("sent");
            writing.shutdown(Shutdown::Write).expect("the end");
        });
        thread::sleep(Duration::from_millis(900));
        let mut read = Vec::new();
        stream.read_to_end(&mut read).expect("everything");
        assert!(read == bytes, "the same bytes");
    });
}

/// Ends its half before the upgrades, and is answered after them.
fn half_closed(tunnel: &Tunnel) {
    let mut stream = tunnel.connect();
    let question = noise(3, 1 << 20);
    stream.write_all(&question).expect("sent");
    stream.shutdown(Shutdown::Write).expect("the end");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer");
    assert_eq!(answer, sha256_of(&question[..]));
}

fn answers_at_the_end(mut stream: TcpStream) {
    let digest = sha256_of(&stream);
    thread::sleep(Duration::from_secs(2));
    let _ = stream.write_all(&digest);
}

#[test]
fn visitors_that_come_in_the_midst_of_an_upgrade_are_served() {
    let world = World::new();
    let source = Service::saying("served");
    let (router, _client, tunnel) = world.publication_of(source.addr());
    let bind = tunnel.bind;
    thread::scope(|scope| {
        let visits = scope.spawn(move || {
            let until = Instant::now() + Duration::from_secs(3);
            let mut count = 0;
            while Instant::now() < until {
                let said = said_within(Duration::from_secs(5), bind);
                assert_eq!(said.as_deref(), Some("served"), "visit {count}");
                count += 1;
                thread::sleep(Duration::from_millis(5));
            }
            count
        });
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            upgrades(&router);
        }
        println!("{} visits, all served", visits.join().expect("ran"));
    });
}

#[test]
fn a_program_that_cannot_go_on_changes_nothing() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router_with("");
    let client = world.client("C");
    let tunnel = client.joins(&router.invite(&[]), target.addr());
    let mut open = tunnel.connect();
    open.write_all(b"a").expect("a byte");
    open.read_exact(&mut [0]).expect("its echo");
    let older = script(&world, "older", "echo '{\"version\": \"0.0.9\"}'");
    let text = script(&world, "text", "echo hello");
    let hangs = script(&world, "hangs", "sleep 60");
    let refuses = "if [ \"$1\" = version ]; then exec CONDUIT version -o json; fi; \
                   echo 'no such key' >&2; exit 78";
    let refuses = refuses.replace("CONDUIT", env!("CARGO_BIN_EXE_conduit"));
    let refuses = script(&world, "refuses", &refuses);
    for (program, word) in [
        ("/bin/false", "failed"),
        ("/dev/null", "failed"),
        (older.as_str(), "conduit 0.0.9 cannot go on"),
        (text.as_str(), "is it Conduit?"),
        (hangs.as_str(), "takes longer than 5 s"),
        (refuses.as_str(), "no such key"),
    ] {
        router.command(&["upgrade", "--program", program]).exits(1).says(word);
    }
    router.command(&["upgrade", "--program", "/nowhere/conduit"]).exits(78).says("cannot find");
    echo(&open, b"after").expect("the same bytes");
    assert_eq!(router.status()["upgrades"], 0);
    assert!(tunnel.log().lines().all(|line| !line.contains("reconnecting")));
}

fn script(world: &World, name: &str, body: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = world.file(name, format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_signal_in_the_midst_of_an_upgrade_ends_the_router() {
    let world = World::new();
    let mut router = world.router();
    let begun = world.path().join("begun");
    let hangs = script(&world, "hangs", &format!("touch {}; exec sleep 60", begun.display()));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            router.command(&["upgrade", "--program", &hangs]).exits(1).says("told to end")
        });
        eventually("it is examined", || begun.exists());
        router.signal(rustix::process::Signal::TERM);
        asking.join().expect("refused");
    });
    assert_eq!(router.ends_within(Duration::from_secs(3)), Some(0));
}

/// What is cut off must not look complete, at neither end.
#[test]
fn a_router_that_drains_says_so_at_once_and_goes_on_draining() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.write_all(b"a").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    router.signal(rustix::process::Signal::TERM);
    let said = || router.home().conduit(&["status"]).ends().stdout;
    eventually("it says so", || said().contains("1 connection may finish within"));
    let refused = router.command(&["upgrade"]).exits(1).took_at_most(Duration::from_secs(5));
    refused.says("the router is draining");
    stream.write_all(b"b").expect("a byte");
    stream.read_exact(&mut [0]).expect("its echo");
    drop(stream);
    assert_eq!(router.ends_within(Duration::from_secs(5)), Some(0));
}

#[test]
fn a_stream_that_does_not_outlive_its_connection_is_reset_at_both_ends() {
    let world = World::new();
    let (ends, ended) = std::sync::mpsc::channel();
    let ends = std::sync::Mutex::new(ends);
    let target = Service::start(move |mut stream| {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
        let _ = ends.lock().expect("one user").send(end);
    });
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let tunnel = client.started(&client.start(target.addr()).args(["--resume", "off"]).succeeds());
    let mut user = tunnel.connect();
    user.write_all(b"half of it").expect("sent");
    eventually("it is connected", || target.connects() == 1);
    upgrades(&router);
    let end = ended.recv_timeout(Duration::from_secs(10)).expect("an end");
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    assert!(ends_with_reset(&user));
}

/// [UPG-8]
#[test]
fn a_visitor_who_waits_for_a_client_that_is_away_waits_on() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let publish = client.publish(target.addr()).env("CONDUIT_PERFORMANCE_IDLE_TIMEOUT", "10s");
    let tunnel = client.started(&publish.succeeds());
    tunnel.signal(rustix::process::Signal::STOP);
    let sessions = || router.status()["sessions"].as_array().map(Vec::len);
    within(Duration::from_secs(20), "its session is lost", || {
        (sessions() == Some(0)).then_some(())
    });
    let mut visitor = tunnel.connect();
    visitor.write_all(b"is anybody there?").expect("sent");
    eventually("it is accepted", || router.status()["active_streams"] == 1);
    upgrades(&router);
    eventually("it waits again", || router.status()["active_streams"] == 1);
    // A second time, by a program that has not seen the client.
    upgrades(&router);
    tunnel.signal(rustix::process::Signal::CONT);
    let mut answer = [0; 17];
    visitor.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    visitor.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"is anybody there?");
    assert_eq!(target.connects(), 1, "it was connected once");
}

#[test]
fn without_a_router_there_is_nothing_to_upgrade() {
    let world = World::new();
    let client: Client = world.client("C");
    client.conduit(&["router", "upgrade"]).exits(1).says("no router runs here");
}

#[test]
fn a_client_that_does_not_come_back_loses_its_streams_and_ports_in_time() {
    let world = World::new();
    let target = Service::start(|mut stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let router = world.router_with("[limits]\nresume = \"2s\"\n");
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let tunnel = client.starts("t", target.addr());
    let _open = tunnel.connect();
    eventually("it is connected", || target.connects() == 1);
    tunnel.signal(rustix::process::Signal::STOP);
    upgrades(&router);
    eventually("the stream is given up", || router.status()["active_streams"] == 0);
    tunnel.signal(rustix::process::Signal::CONT);
}

/// Of a gigabyte.
const COPY_LIMIT: Duration = Duration::from_secs(300);
