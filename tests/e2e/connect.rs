//! `conduit connect`: one connection on stdin and stdout.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{
    CONDUIT, Client, Redis, Router, Run, Service, Sshd, World, figure, free_port, noise, sha256_of,
    within,
};

/// A router and an enrolled owner without tunnels.
fn cast(world: &World) -> (Router, Client) {
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    (router, client)
}

fn connect(client: &Client, target: impl ToString) -> Run {
    client.conduit(&["connect", &target.to_string()])
}

#[test]
fn ssh_and_scp_come_through_as_a_proxy_command() {
    let world = World::new();
    let sshd = Sshd::start(world.path());
    let (_router, client) = cast(&world);
    let user = Run::program("id").arg("-un").succeeds().stdout.trim().to_owned();
    let through = |program: &str| {
        sshd.client(program)
            .args(["-o", &format!("ProxyCommand={CONDUIT} connect %h:%p")])
            .args(["-o", &format!("Port={}", sshd.addr().port())])
            .env("CONDUIT_HOME", client.home().path())
    };
    let host = format!("{user}@127.0.0.1");
    let login =
        through("ssh").arg(&host).arg("cat; echo through; exit 7").input("typed\n").exits(7);
    assert_eq!(login.stdout, "typed\nthrough\n");

    let content = noise(7, 6 << 20);
    let here = world.file("here", &content);
    let (there, back) = (world.path().join("there"), world.path().join("back"));
    let remote = format!("{host}:{}", there.display());
    let up = through("scp").arg("-q").arg(&here).arg(&remote).succeeds();
    let down = through("scp").arg("-q").arg(&remote).arg(&back).succeeds();
    println!("6 MiB went up in {:?} and down in {:?}", up.took, down.took);
    for copy in [there, back] {
        let copied = fs::File::open(copy).expect("a copy");
        assert_eq!(sha256_of(copied), sha256_of(&content[..]));
    }
    assert!(client.list(&[]).is_empty(), "no tunnel was needed");
}

#[test]
fn a_question_on_stdin_is_answered_on_stdout() {
    let world = World::new();
    let redis = Redis::start(world.path());
    let (_router, client) = cast(&world);
    for target in [redis.addr().to_string(), format!("unix:{}", redis.socket().display())] {
        let answer = connect(&client, target).input("PING\r\n").succeeds();
        assert_eq!(answer.stdout, "+PONG\r\n");
        assert_eq!(answer.stderr, "");
    }
}

#[test]
fn the_exit_code_says_what_went_wrong() {
    let world = World::new();
    let (router, client) = cast(&world);
    let closed = free_port();
    connect(&client, closed).exits(69).says("refused the connection").says(&closed.to_string());
    connect(&client, "no-such-host.invalid:80").exits(69).says("no-such-host.invalid");
    connect(&client, "nonsense").exits(2).says("HOST:PORT");
    connect(&client, "169.254.169.254:80").exits(77).says("does not allow 169.254.169.254:80");
    let nothing = format!("unix:{}", world.path().join("nothing.sock").display());
    connect(&client, &nothing).exits(69).says(&nothing);

    let guest = world.client("G");
    let service = Service::saying("allowed");
    let rule = service.addr().to_string();
    guest.joins(&router.invite(&["--allow-target", &rule, "--name", "guest"]), service.addr());
    connect(&guest, service.addr()).succeeds().prints("allowed");
    let denied = connect(&guest, closed).exits(77);
    denied.says(&format!("does not allow {closed}"));
    drop(router);
    connect(&client, service.addr())
        .limit(Duration::from_secs(60))
        .exits(69)
        .says("cannot be reached");
}

#[test]
fn a_service_that_answers_only_when_the_question_is_over_is_heard() {
    let world = World::new();
    let service = Service::start(|mut stream| {
        let mut question = Vec::new();
        let _ = stream.read_to_end(&mut question);
        let _ = stream.write_all(format!("{} bytes\n", question.len()).as_bytes());
    });
    let (_router, client) = cast(&world);
    let answer = connect(&client, service.addr()).input(noise(8, 3_000_001)).succeeds();
    assert_eq!(answer.stdout, "3000001 bytes\n");
}

#[test]
fn a_large_download_arrives_with_its_checksum() {
    let world = World::new();
    let mebibytes = figure("MiB of the download", 64, 512);
    let service = Service::start(move |mut stream| {
        for block in 0..mebibytes {
            if stream.write_all(&noise(block as u64, 1 << 20)).is_err() {
                return;
            }
        }
    });
    let (_router, client) = cast(&world);
    let mut expected = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    (0..mebibytes).for_each(|block| expected.update(&noise(block as u64, 1 << 20)));
    let expected = data_encoding::HEXLOWER.encode(expected.finish().as_ref());
    let command = format!("{CONDUIT} connect {} | sha256sum", service.addr());
    let piped = Run::program("sh").args(["-c", &command]).env("CONDUIT_HOME", client.home().path());
    let outcome = piped.limit(Duration::from_secs(120)).succeeds();
    println!("{mebibytes} MiB took {:?}", outcome.took);
    outcome.prints(&expected);
}

#[test]
fn a_reader_that_has_enough_ends_it() {
    let world = World::new();
    let service = Service::start(|mut stream| while stream.write_all(&[b'y'; 4_096]).is_ok() {});
    let (_router, client) = cast(&world);
    let command = format!("{CONDUIT} connect {} | head -c 10", service.addr());
    let piped = Run::program("sh").args(["-c", &command]).env("CONDUIT_HOME", client.home().path());
    let outcome = piped.succeeds().took_at_most(Duration::from_secs(10));
    assert_eq!(outcome.stdout, "yyyyyyyyyy");

    // The same while stdin stays open, as it does in a script.
    let mut process = connect(&client, service.addr()).spawn_reading(
        Stdio::piped(),
        Stdio::piped(),
        Stdio::inherit(),
    );
    let stdin = process.stdin.take();
    let mut stdout = process.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 10]).expect("ten bytes");
    drop(stdout);
    let start = Instant::now();
    let status = within(Duration::from_secs(10), "it ends although stdin is open", || {
        process.try_wait().expect("a child")
    });
    println!("it ended {:?} after its reader", start.elapsed());
    assert_eq!(status.code(), Some(0));
    drop(stdin);
}
