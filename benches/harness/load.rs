//! What is put on a way to the target, and what comes of it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::target::{CHUNK, ECHO, GIVE, SWALLOW, Target};
use super::ways::Running;
use super::{block_on, usage};

/// How long a measure runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Before it counts: windows grow and buffers fill.
    pub(crate) warm_up: Duration,
    /// While it counts.
    pub(crate) window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// User to target.
    Up,
    /// Target to user.
    Down,
}

/// What bulk came to.
pub(crate) struct Bulk {
    pub(crate) gbits: f64,
    /// Seconds of the processors for 10^9 bytes, the way's processes together; none when there are none.
    pub(crate) cpu_per_gb: Option<f64>,
}

/// Streams that carry what they can; the bytes that arrive within the window count.
pub(crate) fn bulk(
    way: &Running,
    target: &Target,
    streams: usize,
    direction: Direction,
    timing: Timing,
) -> Bulk {
    let received = Arc::new(AtomicU64::new(0));
    let arrived = || match direction {
        Direction::Up => target.swallowed(),
        Direction::Down => received.load(Ordering::Relaxed),
    };
    let used = || usage::processor_time(&way.pids).filter(|_| !way.pids.is_empty());
    let (time, bytes, cpu) = block_on(async {
        let mut carrying = JoinSet::new();
        for _ in 0..streams {
            match direction {
                Direction::Up => carrying.spawn(upload(way.addr)),
                Direction::Down => carrying.spawn(download(way.addr, Arc::clone(&received))),
            };
        }
        sleep(timing.warm_up).await;
        let (start, bytes, before) = (Instant::now(), arrived(), used());
        sleep(timing.window).await;
        let measured = (start.elapsed(), arrived() - bytes, before.zip(used()));
        assert!(carrying.try_join_next().is_none(), "no stream broke off");
        measured
    });
    target.settle();
    let cpu_per_gb =
        cpu.map(|(before, after)| (after - before).as_secs_f64() / (bytes as f64 / 1e9));
    Bulk { gbits: bytes as f64 * 8.0 / time.as_secs_f64() / 1e9, cpu_per_gb }
}

async fn upload(addr: SocketAddr) -> io::Result<()> {
    let mut stream = wish(addr, &[SWALLOW]).await?;
    let bytes = vec![7; CHUNK];
    loop {
        stream.write_all(&bytes).await?;
    }
}

async fn download(addr: SocketAddr, received: Arc<AtomicU64>) -> io::Result<()> {
    let mut stream = wish(addr, &[GIVE]).await?;
    stream.write_u64(u64::MAX).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut buffer).await?;
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// A connection that begins with these bytes.
pub(crate) async fn wish(addr: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(first).await?;
    Ok(stream)
}

/// Connections a second that carry a byte there and back and are closed, fifty at a time.
pub(crate) fn connections(addr: SocketAddr, timing: Timing) -> f64 {
    rate(AT_ONCE, timing, move |count| async move {
        loop {
            let mut stream = wish(addr, &[ECHO, 7]).await.expect("a connection");
            stream.read_u8().await.expect("the byte comes back");
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Requests of 128 bytes a second that are answered with as many, on fifty connections.
pub(crate) fn requests(addr: SocketAddr, timing: Timing) -> f64 {
    rate(AT_ONCE, timing, move |count| async move {
        let mut stream = wish(addr, &[ECHO]).await.expect("a connection");
        let mut bytes = [7; 128];
        loop {
            stream.write_all(&bytes).await.expect("a request");
            stream.read_exact(&mut bytes).await.expect("an answer");
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// How often a second the tasks count within the window.
fn rate<W: Future<Output = ()> + Send + 'static>(
    tasks: usize,
    timing: Timing,
    each: impl Fn(Arc<AtomicU64>) -> W,
) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    block_on(async {
        let mut working = JoinSet::new();
        for _ in 0..tasks {
            working.spawn(each(Arc::clone(&count)));
        }
        sleep(timing.warm_up).await;
        let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
        sleep(timing.window).await;
        let counted = count.load(Ordering::Relaxed) - before;
        assert!(working.try_join_next().is_none(), "no connection broke off");
        counted as f64 / start.elapsed().as_secs_f64()
    })
}

/// Seconds from `connect` to the first byte back, one connection after the other.
pub(crate) fn first_bytes(addr: SocketAddr, count: usize) -> Times {
    Times::new((0..count).map(|_| {
        let start = Instant::now();
        let mut stream = std::net::TcpStream::connect(addr).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.write_all(&[ECHO, 7]).expect("a byte sent");
        stream.read_exact(&mut [0]).expect("the byte comes back");
        start.elapsed()
    }))
}

/// Seconds for 64 bytes there and back, one after the other on one connection.
pub(crate) fn echoes(addr: SocketAddr, count: usize) -> Times {
    let mut stream = std::net::TcpStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    stream.write_all(&[ECHO]).expect("a wish");
    let mut bytes = [7; 64];
    let mut once = || {
        let start = Instant::now();
        stream.write_all(&bytes).expect("bytes sent");
        stream.read_exact(&mut bytes).expect("bytes back");
        start.elapsed()
    };
    // The first ones meet a connection that is still being made.
    for _ in 0..count / 10 {
        once();
    }
    Times::new((0..count).map(|_| once()))
}

/// The same on twenty quiet connections, `count` in all, while two streams carry what they can.
pub(crate) fn echoes_beside_bulk(way: &Running, target: &Target, count: usize) -> Times {
    let (addr, stop) = (way.addr, Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    // A thread of its own: an echo waits for the way, not for this program's bulk.
    let bulk = thread::spawn(move || {
        block_on(async {
            let mut carrying = JoinSet::new();
            (0..2).for_each(|_| drop(carrying.spawn(upload(addr))));
            while !stopped.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(20)).await;
            }
            assert!(carrying.try_join_next().is_none(), "no stream broke off");
        });
    });
    let times = block_on(async {
        sleep(Duration::from_millis(300)).await;
        let mut quiet = JoinSet::new();
        for number in 0..QUIET {
            quiet.spawn(now_and_then(addr, number, count.div_ceil(QUIET)));
        }
        quiet.join_all().await
    });
    stop.store(true, Ordering::Relaxed);
    bulk.join().expect("bulk ran to the end");
    target.settle();
    Times::new(times.into_iter().flatten())
}

/// Echoes of 64 bytes on one connection, each 20 ms after the last.
async fn now_and_then(addr: SocketAddr, number: usize, count: usize) -> Vec<Duration> {
    // Not all in step.
    sleep(Duration::from_millis(number as u64)).await;
    let mut stream = wish(addr, &[ECHO]).await.expect("a connection");
    let mut bytes = [7; 64];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        stream.write_all(&bytes).await.expect("bytes sent");
        stream.read_exact(&mut bytes).await.expect("bytes back");
        times.push(start.elapsed());
    }
    times
}

/// KiB of resident memory of the way's processes for each of `count` connections that have said something once.
pub(crate) fn memory(way: &Running, target: &Target, count: usize) -> Option<f64> {
    if way.pids.is_empty() {
        return None;
    }
    let before = usage::resident(&way.pids)?;
    let after = block_on(async {
        let mut open = Vec::with_capacity(count);
        while open.len() < count {
            let mut opening = JoinSet::new();
            (0..AT_ONCE.min(count - open.len()))
                .for_each(|_| drop(opening.spawn(say_once(way.addr))));
            open.extend(opening.join_all().await);
        }
        // What is freed only after a while is not what an idle connection holds.
        sleep(Duration::from_secs(1)).await;
        usage::resident(&way.pids)
    })?;
    target.settle();
    Some(after.saturating_sub(before) as f64 / count as f64)
}

async fn say_once(addr: SocketAddr) -> TcpStream {
    let mut stream = wish(addr, &[ECHO]).await.expect("a connection");
    let mut bytes = [7; 64];
    stream.write_all(&bytes).await.expect("bytes sent");
    stream.read_exact(&mut bytes).await.expect("bytes back");
    stream
}

/// Times in ascending order.
pub(crate) struct Times(Vec<f64>);

impl Times {
    fn new(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Seconds, of which `percent` per cent are as short.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

/// Connections at a time, where a measure has many.
const AT_ONCE: usize = 50;
const QUIET: usize = 20;
