//! The ends of a connection: halves that close, and resets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::world::{Run, Service, World, echo, ends_with_reset, noise, resets, sha256_of};

#[test]
fn h40_after_the_users_half_is_closed_100_mib_flow_back() {
    let world = World::new();
    let answer = noise(40, 100 << 20);
    let expected = sha256_of(&answer[..]);
    let target = Service::start(move |mut stream| {
        let mut question = Vec::new();
        // Answers only when the question is over.
        let _ = stream.read_to_end(&mut question);
        assert_eq!(question, b"everything, please\n");
        let _ = stream.write_all(&answer);
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let outcome = Run::program("nc")
        .args(["-N", "127.0.0.1", &tunnel.bind.port().to_string()])
        .input("everything, please\n")
        .succeeds();
    assert_eq!(outcome.raw.len(), 100 << 20);
    assert_eq!(sha256_of(&outcome.raw[..]), expected);
}

#[test]
fn h40_after_the_targets_half_is_closed_100_mib_flow_to_it() {
    let world = World::new();
    let (digests, received) = channel();
    let digests = Mutex::new(digests);
    let target = Service::start(move |stream| {
        stream.shutdown(Shutdown::Write).expect("a half closed");
        let digest = sha256_of(&stream);
        let _ = digests.lock().expect("one user").send(digest);
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    assert_eq!(
        stream.read(&mut [0]).expect("an end"),
        0,
        "the target's end is seen while the other half is open"
    );
    let question = noise(41, 100 << 20);
    stream.write_all(&question).expect("100 MiB");
    stream.shutdown(Shutdown::Write).expect("the other half closed");
    let digest = received.recv_timeout(Duration::from_secs(30)).expect("the target's digest");
    assert_eq!(digest, sha256_of(&question[..]));
}

#[test]
fn h41_a_reset_of_the_target_is_a_reset_for_the_user() {
    let world = World::new();
    let target = Service::start(|mut stream| {
        let _ = stream.write_all(b"so far");
        let _ = stream.read_exact(&mut [0; 4]);
        resets(stream);
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.read_exact(&mut [0; 6]).expect("what came before");
    stream.write_all(b"now!").expect("a word");
    assert!(ends_with_reset(&stream), "a reset, no ordinary end");
}

#[test]
fn h41_a_reset_of_the_user_is_a_reset_for_the_target() {
    let world = World::new();
    let (ends, seen) = channel();
    let ends = Mutex::new(ends);
    let target = Service::start(move |mut stream| {
        let _ = stream.write_all(b"so far");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let _ = ends.lock().expect("one user").send(ends_with_reset(&stream));
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.read_exact(&mut [0; 6]).expect("what came before");
    resets(stream);
    assert!(
        seen.recv_timeout(Duration::from_secs(20)).expect("an end at the target"),
        "a reset, no ordinary end"
    );
}

#[test]
fn h41_a_reset_in_the_middle_of_bulk_reaches_the_other_end() {
    let world = World::new();
    let (ends, seen) = channel();
    let ends = Mutex::new(ends);
    let target = Service::start(move |mut stream| {
        let block = noise(42, 1 << 20);
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let failed = loop {
            if let Err(error) = stream.write_all(&block) {
                break error.kind();
            }
        };
        let _ = ends.lock().expect("one user").send(failed);
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut stream = tunnel.connect();
    stream.read_exact(&mut vec![0; 8 << 20]).expect("the first 8 MiB");
    resets(stream);
    let failed = seen.recv_timeout(Duration::from_secs(20)).expect("an end at the target");
    let reset = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(reset.contains(&failed), "{failed:?}");
    echoes_again(&world);
}

/// The tunnel has not suffered.
fn echoes_again(world: &World) {
    let target = Service::echo();
    let client = world.client("C");
    let tunnel = client.starts("after", target.addr());
    echo(&tunnel.connect(), b"still here").expect("the same bytes");
}
