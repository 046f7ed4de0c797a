//! UDP packets one way: a generator that sends in trains at a fixed rate, and a sink that counts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conduit::ends::UdpPort;

use super::processes::Pair;
use super::ways::{BINARY, environment};
use super::{runtime, usage};
use crate::record::Way;

/// A router with a forward and a reverse tunnel to a sink.
pub(crate) struct Lanes {
    pair: Pair,
    sink: Sink,
    forward: SocketAddr,
    reverse: SocketAddr,
}

/// A forward tunnel to a socket that sends every packet back.
pub(crate) struct EchoLane {
    _pair: Pair,
    /// The socket itself.
    pub(crate) direct: SocketAddr,
    /// The tunnel's end.
    pub(crate) tunnel: SocketAddr,
}

impl EchoLane {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let direct = socket.local_addr().expect("its address");
        thread::spawn(move || {
            let mut packet = [0; 2_048];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                // A sender that is gone takes nothing back.
                let _ = socket.send_to(&packet[..length], from);
            }
        });
        let pair = Pair::start(BINARY, direct);
        let tunnel = tunnel(&pair, direct, "echo", &[]);
        Self { _pair: pair, direct, tunnel }
    }
}

/// What a way can carry.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    /// Packets a second.
    pub(crate) rate: f64,
    /// Microseconds of the processors for each, the way's processes together; none when there are none.
    pub(crate) cpu: Option<f64>,
}

impl Lanes {
    pub(crate) fn start(settings: &[(String, String)]) -> Self {
        let sink = Sink::start();
        let pair = Pair::start_with(BINARY, sink.addr, &environment(Way::Conduit, settings));
        let forward = tunnel(&pair, sink.addr, "forward", &[]);
        let reverse = tunnel(&pair, sink.addr, "reverse", &["--reverse"]);
        Self { pair, sink, forward, reverse }
    }

    /// The highest rate at which at most one packet in a thousand is lost, to a step. A rate has two tries: a moment of
    /// another program's is no limit of the tunnel's.
    pub(crate) fn highest_rate(&self, way: Way, size: usize, window: Duration) -> Carried {
        let (mut best, mut low, mut high) = (Carried { rate: 0.0, cpu: None }, 0, STEPS + 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            let rate = FIRST * 2_f64.powf(f64::from(middle - 1) / STEPS_OF_AN_OCTAVE);
            match (0..2).find_map(|_| self.carried(way, size, rate, window)) {
                Some(carried) => (best, low) = (carried, middle),
                None => high = middle,
            }
        }
        best
    }

    /// `None` when more was lost.
    fn carried(&self, way: Way, size: usize, rate: f64, window: Duration) -> Option<Carried> {
        let pids = self.pids(way);
        let used = || usage::processor_time(&pids).filter(|_| !pids.is_empty());
        let (before, used_before) = (self.sink.count(), used());
        let sent = send(self.addr(way), size, rate, window);
        let arrived = (self.sink.settled() - before) as f64;
        let cpu = used_before.zip(used()).map(|(before, after)| after - before);
        let cpu = cpu.map(|time| time.as_secs_f64() * 1e6 / arrived);
        let lost = 1.0 - arrived / sent as f64;
        (lost <= 0.001).then(|| Carried { rate: arrived / window.as_secs_f64(), cpu })
    }

    fn addr(&self, way: Way) -> SocketAddr {
        match way {
            Way::NoTunnel => self.sink.addr,
            Way::ConduitReverse => self.reverse,
            _ => self.forward,
        }
    }

    fn pids(&self, way: Way) -> Vec<u32> {
        let name = match way {
            Way::NoTunnel => return Vec::new(),
            Way::ConduitReverse => "reverse",
            _ => "forward",
        };
        let tunnel = self.pair.pid_of(name).expect("the tunnel runs");
        vec![self.pair.router_pid(), tunnel]
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

/// Sends at a rate, in trains that leave each half millisecond; how many packets left.
fn send(addr: SocketAddr, size: usize, rate: f64, window: Duration) -> u64 {
    let runtime = runtime();
    let _within = runtime.enter();
    let port = UdpPort::connect(addr).expect("a socket");
    let most = port.train_length(size).max(1);
    let bytes = vec![7; most * size];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < window {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
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

/// Counts what arrives, until the process ends.
struct Sink {
    addr: SocketAddr,
    count: Arc<AtomicU64>,
}

impl Sink {
    fn start() -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let (tell, told) = std::sync::mpsc::channel();
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            runtime().block_on(async move {
                let port =
                    UdpPort::bind(&"127.0.0.1:0".parse().expect("a bind")).expect("a socket");
                tell.send(port.local_addr()).expect("somebody waits");
                loop {
                    let received = port.receive(|arrived| {
                        counted.fetch_add(arrived.packets().count() as u64, Ordering::Relaxed);
                    });
                    received.await.expect("packets");
                }
            });
        });
        Self { addr: told.recv().expect("an address"), count }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The count once nothing comes any more.
    fn settled(&self) -> u64 {
        loop {
            let before = self.count();
            thread::park_timeout(Duration::from_millis(50));
            if self.count() == before {
                return before;
            }
        }
    }
}

/// Packets a second of the first step.
const FIRST: f64 = 25_000.0;
/// Each step is a twelfth of a doubling above the last: 6 %.
const STEPS_OF_AN_OCTAVE: f64 = 12.0;
/// Up to 12 million packets a second, which one thread does not send.
const STEPS: i32 = 108;
