//! Readers that stop reading: they hold their own bytes back and nobody else's.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Stage, Target, echo, noise, within};

/// As many as in the specification of the accounts of undelivered bytes.
const READERS: usize = 200;
/// Offered to each; what is beyond the windows stays at the target.
const WAITING: usize = 1 << 30;
/// What may be under way to all readers together: the budget, and a window of each end for rounding.
const BUDGET: u64 = (64 << 20) + (16 << 20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_that_stop_do_not_slow_a_new_connection() {
    let bulk = Target::new(|mut stream| async move {
        let Ok(b'b') = stream.read_u8().await else {
            let _ = stream.write_all(b"pong").await;
            return;
        };
        let block = noise(1, 256 << 10);
        for _ in 0..WAITING / block.len() {
            if stream.write_all(&block).await.is_err() {
                return;
            }
        }
    })
    .await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(bulk.addr).await;
    let addr = tunnel.local_addr();
    let mut stopped = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(b"b").await.expect("a word");
        stopped.push(stream);
    }
    // Everything that fits is on its way when nothing moves any more.
    let mut seen = (0, Instant::now());
    within(Duration::from_secs(30), "all windows are full", || {
        let moved = received(&tunnel.metrics());
        if moved != seen.0 {
            seen = (moved, Instant::now());
        }
        moved > 0 && seen.1.elapsed() > Duration::from_millis(500)
    })
    .await;
    let resident = resident();
    println!("{} bytes taken by {READERS} sockets, resident {resident:?} KiB", seen.0);
    if let Some(resident) = resident {
        // Router, client, targets and the readers' side in one process.
        assert!(resident < 600 << 10, "{resident} KiB");
    }

    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(b"p").await.expect("a word");
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.expect("an answer");
        slowest = slowest.max(start.elapsed());
    }
    println!("the slowest of 20 new connections was answered after {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let undelivered = tunnel.session().expect("a session").undelivered();
    assert!(undelivered < 1 << 20, "{undelivered} bytes upward");

    // Bulk beside them is bulk still, and a reader that starts again gets what is its own.
    let mut fresh = TcpStream::connect(addr).await.expect("a connection");
    fresh.write_all(b"b").await.expect("a word");
    for (what, mut reader) in
        [("a new reader", fresh), ("an old reader", stopped.pop().expect("a reader"))]
    {
        let (block, start) = (noise(1, 256 << 10), Instant::now());
        for number in 0..64 {
            let mut taken = vec![0; block.len()];
            let read =
                tokio::time::timeout(Duration::from_secs(5), reader.read_exact(&mut taken)).await;
            let stuck = |_| panic!("{what}: stuck after {number} blocks, {:?}", start.elapsed());
            read.unwrap_or_else(stuck).expect("bytes");
            assert!(taken == block, "{what}: its own bytes, in order");
        }
        println!("{what} had 16 MiB after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(8), "{what}: {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h45_a_target_that_stops_reading_holds_back_its_sender_within_the_budget() {
    let target = Target::new(|mut stream| async move {
        if stream.read_u8().await.is_ok_and(|byte| byte == b's') {
            std::future::pending::<()>().await;
        }
        let _ = stream.write_all(b"pong").await;
    })
    .await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let addr = tunnel.local_addr();
    for _ in 0..100 {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            stream.write_all(b"s").await.expect("a word");
            let block = noise(2, 256 << 10);
            while stream.write_all(&block).await.is_ok() {}
        });
    }
    let session = tunnel.session().expect("a session");
    let mut seen = (0, Instant::now());
    within(Duration::from_secs(30), "all windows are full", || {
        let undelivered = session.undelivered();
        assert!(undelivered <= BUDGET, "{undelivered} bytes undelivered");
        if undelivered != seen.0 {
            seen = (undelivered, Instant::now());
        }
        undelivered > 1 << 20 && seen.1.elapsed() > Duration::from_millis(500)
    })
    .await;
    println!("{} bytes undelivered on 100 stalled streams", seen.0);
    let start = Instant::now();
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.write_all(b"p").await.expect("a word");
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).await.expect("an answer");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_on_one_connection_leaves_others_prompt() {
    let target = Target::echo().await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let addr = tunnel.local_addr();
    let bulk = tokio::spawn(async move { echo(addr, &noise(3, 100 << 20)).await });
    let (mut pings, mut slowest) = (0, Duration::ZERO);
    while !bulk.is_finished() {
        let start = Instant::now();
        echo(addr, b"ping").await;
        slowest = slowest.max(start.elapsed());
        pings += 1;
    }
    bulk.await.expect("the same bytes");
    println!("{pings} pings beside bulk, the slowest took {slowest:?}");
    assert!(pings > 0 && slowest < Duration::from_secs(2), "{slowest:?}");
}

/// Bytes from the target that the users' sockets have taken.
fn received(metrics: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with("conduit_bytes_received_total "));
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no bytes in {metrics}"))
}

/// Resident memory of this process in KiB, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
