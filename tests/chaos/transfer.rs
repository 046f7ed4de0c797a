//! A transfer that goes on for as long as it is wanted: to an echo and back, compared by hash, its pauses measured.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use crate::stage::{noise, within};

/// How fast a transfer sends.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    piece: usize,
    /// Between two pieces.
    every: Option<Duration>,
    /// More bytes than are ever under way: what comes after them was sent later.
    beyond: u64,
}

impl Pace {
    /// 400 KiB a second.
    pub(crate) const SLOW: Self =
        Self { piece: 4 << 10, every: Some(Duration::from_millis(10)), beyond: 64 << 10 };
    /// 3.2 MiB a second.
    pub(crate) const STEADY: Self =
        Self { piece: 64 << 10, every: Some(Duration::from_millis(20)), beyond: 1 << 20 };
    /// Whatever a path takes whose queues hold 1 MiB each.
    pub(crate) const PATH: Self = Self { piece: 64 << 10, every: None, beyond: 4 << 20 };
}

/// Noise that never repeats on its way to an echo and back; ends when it is dropped.
pub(crate) struct Transfer {
    shared: Arc<Shared>,
    pace: Pace,
    moving: Option<JoinHandle<[Passed; 2]>>,
}

#[derive(Default)]
struct Shared {
    /// No more is sent.
    enough: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    arrived: u64,
    /// When something arrived last, or from when on pauses count.
    last: Instant,
    longest: Duration,
}

/// What passed a point: its length and its SHA-256.
#[derive(Debug, PartialEq, Eq)]
struct Passed(u64, Vec<u8>);

impl Transfer {
    /// Begins one over a connection to `addr`, behind which is an echo.
    pub(crate) async fn through(addr: SocketAddr, pace: Pace) -> Self {
        let (read, write) = TcpStream::connect(addr).await.expect("a connection").into_split();
        let shared = Arc::new(Shared::default());
        let running = Arc::clone(&shared);
        let moving = tokio::spawn(async move {
            let (sent, received) =
                tokio::join!(sends(&running, write, pace), hears(&running, read));
            [sent, received]
        });
        Self { shared, pace, moving: Some(moving) }
    }

    /// Bytes that came back.
    pub(crate) fn arrived(&self) -> u64 {
        self.shared.progress().arrived
    }

    /// Pauses count from now on, one that lasts already from `since` on.
    pub(crate) fn counts_from(&self, since: Instant) {
        let mut progress = self.shared.progress();
        (progress.last, progress.longest) = (since, Duration::ZERO);
    }

    /// The longest time without a byte since pauses count.
    pub(crate) fn longest(&self) -> Duration {
        self.shared.progress().longest
    }

    /// The longest time without a byte from `since` until something has arrived that was sent later.
    pub(crate) async fn stall(&self, since: Instant) -> Duration {
        self.counts_from(since);
        self.until(self.arrived() + self.pace.beyond).await;
        self.longest()
    }

    /// Waits until so many bytes came back.
    pub(crate) async fn until(&self, bytes: u64) {
        while self.arrived() < bytes {
            // Each part of the way has a time of its own.
            let next = bytes.min(self.arrived() + (1 << 20));
            within(LIMIT, "the transfer moves", || {
                assert!(self.moving.as_ref().is_some_and(|it| !it.is_finished()), "it broke");
                self.arrived() >= next
            })
            .await;
        }
    }

    /// Ends in good order once so many bytes came back at the least: as many as were sent, and the same ones.
    pub(crate) async fn ends(&mut self, bytes: u64) -> u64 {
        self.until(bytes).await;
        self.shared.enough.store(true, Ordering::Relaxed);
        let moving = self.moving.take().expect("it ends once");
        let ended = tokio::time::timeout(LIMIT, moving).await.expect("in time");
        let [sent, received] = ended.expect("it ran");
        assert!(received.0 >= bytes, "{received:?}");
        assert_eq!(received, sent, "other bytes");
        received.0
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(moving) = &self.moving {
            moving.abort();
        }
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nobody panics here")
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self { arrived: 0, last: Instant::now(), longest: Duration::ZERO }
    }
}

async fn sends(shared: &Shared, mut write: OwnedWriteHalf, pace: Pace) -> Passed {
    let (mut hash, mut sent) = (Context::new(&SHA256), 0);
    for seed in 0.. {
        for piece in noise(seed, 1 << 20).chunks(pace.piece) {
            if shared.enough.load(Ordering::Relaxed) {
                write.shutdown().await.expect("the end");
                return Passed(sent, hash.finish().as_ref().to_vec());
            }
            write.write_all(piece).await.expect("sent");
            hash.update(piece);
            sent += piece.len() as u64;
            if let Some(every) = pace.every {
                tokio::time::sleep(every).await;
            }
        }
    }
    unreachable!("seeds do not end")
}

async fn hears(shared: &Shared, mut read: OwnedReadHalf) -> Passed {
    let (mut hash, mut received) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = read.read(&mut buffer).await.expect("heard");
        if count == 0 {
            return Passed(received, hash.finish().as_ref().to_vec());
        }
        hash.update(&buffer[..count]);
        received += count as u64;
        let (mut progress, now) = (shared.progress(), Instant::now());
        progress.longest = progress.longest.max(now.saturating_duration_since(progress.last));
        (progress.arrived, progress.last) = (received, now);
    }
}

/// Longer than a mebibyte takes, whatever happens to the path.
const LIMIT: Duration = Duration::from_secs(30);
