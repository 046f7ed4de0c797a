//! UDP packets through a tunnel beside no tunnel, on loopback, through the real binary: `cargo bench --bench packets`.
//!
//! A batched generator sends at a fixed rate for a second, from 50,000 packets a second up to 800,000; the highest rate
//! at which at most one packet in a thousand is lost counts. Compare the ratios of one run, never figures of different
//! runs or machines.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a benchmark prints")]

#[path = "../tests/processes/mod.rs"]
mod processes;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conduit::ends::UdpPort;
use processes::Pair;

fn main() {
    let sink = Sink::start();
    let pair = Pair::start(env!("CARGO_BIN_EXE_conduit"), sink.addr);
    let ways = [
        ("no tunnel", sink.addr),
        ("forward", tunnel(&pair, sink.addr, "forward", &[])),
        ("reverse", tunnel(&pair, sink.addr, "reverse", &["--reverse"])),
    ];
    println!("{:<12}{:<12}{:>12}{:>10}{:>16}", "size", "", "packets/s", "ratio", "µs of CPU each");
    for size in [64, 1_400] {
        let mut best = [0.0_f64; 3];
        let mut cost = [f64::NAN; 3];
        // Interleaved, so that a slow moment of the machine meets all of them.
        for _ in 0..3 {
            for (at, (_, addr)) in ways.iter().enumerate() {
                let (rate, micros) = highest_rate(*addr, size, &sink, &pair);
                if rate > best[at] {
                    (best[at], cost[at]) = (rate, micros);
                }
            }
        }
        for (at, (name, _)) in ways.iter().enumerate() {
            let ratio = best[at] / best[0];
            println!("{size:<12}{name:<12}{:>12.0}{ratio:>10.2}{:>16.2}", best[at], cost[at]);
        }
    }
}

/// Starts a UDP tunnel to the sink; where to send to.
fn tunnel(pair: &Pair, source: SocketAddr, name: &str, more: &[&str]) -> SocketAddr {
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port");
    let (source, bind) = (source.to_string(), free.to_string());
    let mut arguments = vec!["start", "--protocol", "udp", "--name", name];
    arguments.extend(["--source", &source, "--bind", &bind]);
    arguments.extend(more);
    pair.run("C", &arguments, "");
    free
}

/// The highest rate with a loss of at most 0.1 %, in packets a second, and what a packet then costs both processes.
fn highest_rate(addr: SocketAddr, size: usize, sink: &Sink, pair: &Pair) -> (f64, f64) {
    let mut best = (0.0, f64::NAN);
    for step in 1..=STEPS {
        let rate = STEP * step;
        let before = (sink.count(), processor_time(pair));
        let sent = send(addr, size, rate);
        let arrived = sink.settled() - before.0;
        let lost = 1.0 - arrived as f64 / sent as f64;
        if lost > 0.001 {
            break;
        }
        let micros = (processor_time(pair) - before.1).as_secs_f64() * 1e6 / arrived as f64;
        best = (arrived as f64 / SECOND.as_secs_f64(), micros);
    }
    best
}

/// Sends at a rate for a second, in trains that leave each half millisecond; how many packets left.
fn send(addr: SocketAddr, size: usize, rate: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _within = runtime.enter();
    let port = UdpPort::connect(addr).expect("a socket");
    let most = port.train_length(size).max(1);
    let bytes = vec![7; most * size];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < SECOND {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            let train = most.min((due - sent) as usize);
            // A full socket loses the train, as any sender's would: it counts as sent.
            let _ = port.send(None, &bytes[..train * size], size);
            sent += train as u64;
        }
        thread::park_timeout(Duration::from_micros(500));
    }
    sent
}

/// Counts what arrives.
struct Sink {
    addr: SocketAddr,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Sink {
    fn start() -> Self {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (tell, told) = std::sync::mpsc::channel();
        let (counted, ends) = (Arc::clone(&count), Arc::clone(&stop));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let port =
                    UdpPort::bind(&"127.0.0.1:0".parse().expect("a bind")).expect("a socket");
                tell.send(port.local_addr()).expect("somebody waits");
                while !ends.load(Ordering::Relaxed) {
                    let received = port.receive(|arrived| {
                        counted.fetch_add(arrived.packets().count() as u64, Ordering::Relaxed);
                    });
                    received.await.expect("packets");
                }
            });
        });
        Self { addr: told.recv().expect("an address"), count, stop }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The count once nothing comes any more.
    fn settled(&self) -> u64 {
        loop {
            let before = self.count();
            thread::park_timeout(Duration::from_millis(100));
            if self.count() == before {
                return before;
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What router and tunnels have used of the processors so far.
fn processor_time(pair: &Pair) -> Duration {
    let output = pair.run("C", &["list", "-o", "json"], "");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let tunnels = list["tunnels"].as_array().expect("tunnels").iter();
    let pids =
        tunnels.filter_map(|tunnel| tunnel["pid"].as_u64()).chain([pair.router_pid().into()]);
    let ticks = |pid: u64| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        // utime and stime are the 14th and 15th field, the 12th and 13th after the name.
        after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum()
    };
    // Linux counts a hundred ticks a second in this file, on every architecture.
    Duration::from_millis(pids.map(ticks).sum::<u64>() * 10)
}

/// Packets a second that one try adds to the last.
const STEP: u64 = 50_000;
const STEPS: u64 = 16;
const SECOND: Duration = Duration::from_secs(1);
