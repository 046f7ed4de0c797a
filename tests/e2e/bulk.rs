//! Many connections at once, each with its own bytes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::world::{Service, World, eventually, noise};

#[test]
fn a_thousand_connections_at_once_keep_their_bytes_apart() {
    let connections = 1_000;
    room_for(connections);
    let world = World::new();
    let target = Service::echo();
    let (router, _client, tunnel) = world.tunnel_to(target.addr());
    let start = Instant::now();
    let streams: Vec<_> = (0..connections).map(|_| tunnel.connect()).collect();
    for (seed, mut stream) in streams.iter().enumerate() {
        stream.write_all(&noise(seed as u64, 5_000)).expect("bytes");
    }
    eventually("all of them reach the target", || target.connects() == connections);
    assert_eq!(tunnel.listed().expect("a tunnel")["active_connections"], connections);
    thread::scope(|scope| {
        for (chunk, streams) in streams.chunks(125).enumerate() {
            scope.spawn(move || {
                for (index, mut stream) in streams.iter().enumerate() {
                    let seed = (chunk * 125 + index) as u64;
                    let more = noise(seed + 7_000, 20_000);
                    stream.write_all(&more).expect("more bytes");
                    stream.shutdown(Shutdown::Write).expect("the half closed");
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).expect("the echo");
                    assert!(
                        back == [noise(seed, 5_000), more].concat(),
                        "connection {seed} got other bytes"
                    );
                }
            });
        }
    });
    println!("{connections} connections took {:?}", start.elapsed());
    eventually("none of them is left", || {
        tunnel.listed().is_some_and(|t| t["active_connections"] == 0)
    });
    assert!(target.connects() == connections && router.pid() > 0);
}

/// This process holds both outer ends of every connection.
fn room_for(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections as u64) * 2 + 200;
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: limit.maximum.map_or(Some(wanted), |most| Some(most.min(65_536))),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).expect("more open files: ulimit -Hn is too low");
    }
}
