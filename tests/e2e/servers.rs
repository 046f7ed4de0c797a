//! Real servers that speak other protocols.

use std::fs;
use std::io::Read;

use crate::world::{Redis, Run, Sshd, World, noise};

#[test]
fn redis_answers_its_client_and_its_benchmark() {
    let world = World::new();
    let redis = Redis::start(world.path());
    let (_router, _client, tunnel) = world.tunnel_to(redis.addr());
    let port = tunnel.bind.port().to_string();
    let cli = |arguments: &[&str]| {
        Run::program("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(arguments).succeeds()
    };
    cli(&["SET", "word", "through the tunnel"]).prints("OK");
    cli(&["GET", "word"]).prints("through the tunnel");
    let outcome = Run::program("redis-benchmark")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-t",
            "set,get",
            "-n",
            "20000",
            "-c",
            "50",
            "-P",
            "8",
            "-q",
        ])
        .succeeds();
    assert_eq!(outcome.stdout.matches("requests per second").count(), 2, "{outcome}");
    cli(&["INFO", "commandstats"]).prints("cmdstat_set:calls=20001");
}

#[test]
fn ssh_says_its_banner_first_and_scp_copies_both_ways() {
    let world = World::new();
    let sshd = Sshd::start(world.path());
    let (_router, _client, tunnel) = world.tunnel_to(sshd.addr());
    let mut banner = [0; 8];
    tunnel.connect().read_exact(&mut banner).expect("a banner");
    assert_eq!(&banner, b"SSH-2.0-");

    let content = noise(5, 24 << 20);
    let here = world.file("here", &content);
    let (there, back) = (world.path().join("there"), world.path().join("back"));
    let user = Run::program("id").arg("-un").succeeds().stdout.trim().to_owned();
    let remote = format!("{user}@127.0.0.1:{}", there.display());
    let port = tunnel.bind.port();
    sshd.scp(port).arg(&here).arg(&remote).succeeds();
    assert!(fs::read(&there).expect("the copy there") == content);
    sshd.scp(port).arg(&remote).arg(&back).succeeds();
    assert!(fs::read(&back).expect("the copy back") == content);
}
