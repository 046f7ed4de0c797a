//! What a tunnel costs beside no tunnel, on loopback, through the real binary: `cargo bench --bench tunnel`.
//!
//! Compare the ratios of one run, never figures of different runs or machines.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a benchmark prints")]

#[path = "../tests/processes/mod.rs"]
mod processes;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use processes::{Pair, echo, echo_server, noise};

fn main() {
    let target = echo_server();
    let pair = Pair::start(env!("CARGO_BIN_EXE_conduit"), target);
    println!("{:<32}{:>14}{:>14}{:>8}", "", "no tunnel", "conduit", "ratio");
    for (name, measure) in MEASURES {
        // Interleaved, so that a slow moment of the machine meets both; the median of five counts.
        let (mut without, mut with): (Vec<f64>, Vec<f64>) =
            (0..5).map(|_| (measure(target), measure(pair.bind))).unzip();
        let (without, with) = (median(&mut without), median(&mut with));
        println!("{name:<32}{without:>14.1}{with:>14.1}{:>8.2}", with / without);
    }
}

type Measure = fn(SocketAddr) -> f64;

const MEASURES: [(&str, Measure); 4] = [
    ("echo of 256 MiB, MiB/s", bulk),
    ("connections one by one, 1/s", connections),
    ("round trip of 64 bytes p50, µs", |addr| round_trip(addr, 50)),
    ("round trip of 64 bytes p99, µs", |addr| round_trip(addr, 99)),
];

fn bulk(addr: SocketAddr) -> f64 {
    let bytes = noise(1, 256 << 20);
    let start = Instant::now();
    echo(addr, &bytes).expect("the same bytes");
    256.0 / start.elapsed().as_secs_f64()
}

fn connections(addr: SocketAddr) -> f64 {
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < Duration::from_secs(2) {
        echo(addr, b"hello").expect("the same bytes");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

fn round_trip(addr: SocketAddr, percentile: usize) -> f64 {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let mut bytes = [7; 64];
    let mut times: Vec<f64> = (0..5_000)
        .map(|_| {
            let start = Instant::now();
            stream.write_all(&bytes).expect("bytes sent");
            stream.read_exact(&mut bytes).expect("bytes back");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() * percentile / 100]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
