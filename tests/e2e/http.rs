//! HTTP through real `curl` and `nginx`: many requests, large bodies both ways, streams that must not be buffered.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::world::{Nginx, Run, Service, World, figure, noise, sha256_of};

#[test]
fn thousands_of_requests_are_answered_on_kept_and_on_new_connections() {
    let world = World::new();
    let nginx = Nginx::start(world.path());
    let page = noise(1, 4_096);
    std::fs::write(nginx.file("page"), &page).expect("a page");
    let (_router, _client, tunnel) = world.tunnel_to(nginx.addr());
    let requests = figure("requests of each kind", 2_000, 10_000);
    let url = tunnel.url(&format!("/page?n=[1-{requests}]"));
    for (header, connections) in [("Connection: keep-alive", 1), ("Connection: close", requests)] {
        let outcome = Run::program("curl")
            .args(["--silent", "--show-error", "--fail", "--header", header])
            .args([
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code} %{size_download} %{num_connects}\n",
                &url,
            ])
            .succeeds();
        let lines: Vec<_> = outcome.stdout.lines().collect();
        assert_eq!(lines.len(), requests);
        assert!(lines.iter().all(|line| line.starts_with("200 4096 ")), "every answer is whole");
        let opened: usize =
            lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(opened, connections, "{header}");
    }
}

#[test]
fn a_large_body_arrives_with_its_checksum_both_ways() {
    let world = World::new();
    let nginx = Nginx::start(world.path());
    let (_router, _client, tunnel) = world.tunnel_to(nginx.addr());
    let mebibytes = figure("MiB of one body", 256, 1_024);
    let mut file = File::create(nginx.file("large")).expect("a file");
    for block in 0..mebibytes {
        file.write_all(&noise(block as u64, 1 << 20)).expect("a block");
    }
    drop(file);
    let expected = sha256_of(File::open(nginx.file("large")).expect("the file"));

    let copy = world.path().join("copy");
    curl(&["--output", copy.to_str().expect("UTF-8"), &tunnel.url("/large")]);
    assert_eq!(sha256_of(File::open(&copy).expect("the copy")), expected, "down");
    curl(&["--upload-file", copy.to_str().expect("UTF-8"), &tunnel.url("/back")]);
    assert_eq!(sha256_of(File::open(nginx.file("back")).expect("what nginx got")), expected, "up");
}

#[test]
fn events_arrive_one_by_one_as_they_are_sent() {
    let world = World::new();
    let (next, events) = channel::<String>();
    let events = Mutex::new(events);
    let target = Service::start(move |mut stream| {
        // Whoever closes a socket with bytes unread resets it.
        let _ = BufReader::new(&stream).lines().map_while(Result::ok).find(String::is_empty);
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        while let Ok(event) = events.lock().expect("one user").recv() {
            let _ = stream.write_all(format!("data: {event}\n\n").as_bytes());
        }
    });
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let mut curl = Run::program("curl")
        .args(["--silent", "--no-buffer", "--max-time", "50", &tunnel.url("/events")])
        .spawn(Stdio::piped(), Stdio::null());
    let mut lines = BufReader::new(curl.stdout.take().expect("a pipe")).lines();
    let mut slowest = Duration::ZERO;
    // The next event is sent only when this one was read: a buffer anywhere on the way would stop it all.
    for number in 0..50 {
        let sent = Instant::now();
        next.send(format!("{number}")).expect("the target listens");
        let line = lines.find(|line| !line.as_ref().is_ok_and(String::is_empty));
        assert_eq!(line.expect("a line").expect("text"), format!("data: {number}"));
        slowest = slowest.max(sent.elapsed());
    }
    drop(next);
    assert!(
        lines.all(|line| line.is_ok_and(|line| line.is_empty())),
        "the stream ends where the target ends it"
    );
    assert!(curl.wait().expect("curl").success());
    println!("the slowest of 50 events took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[track_caller]
fn curl(arguments: &[&str]) {
    Run::program("curl")
        .args(["--silent", "--show-error", "--fail"])
        .args(arguments)
        .limit(Duration::from_secs(55))
        .succeeds();
}
