//! What the tunnels lead to: sends back, swallows or gives, as the first byte of a connection asks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::runtime;

/// Serves until the process ends.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    swallowed: AtomicU64,
    open: AtomicUsize,
}

/// First byte of a connection: what comes is sent back.
pub(crate) const ECHO: u8 = b'e';
/// What comes is counted and forgotten; its end is confirmed by one byte.
pub(crate) const SWALLOW: u8 = b's';
/// For every eight bytes, which are a number, as many bytes are sent.
pub(crate) const GIVE: u8 = b'g';

impl Target {
    /// Echoes are served by a thread of their own: what they wait for beside bulk is the tunnel, not the target.
    pub(crate) fn start() -> Self {
        let counts = Arc::new(Counts::default());
        let (to_bulk, mut bulk) = mpsc::unbounded_channel::<(u8, std::net::TcpStream)>();
        let counted = Arc::clone(&counts);
        thread::spawn(move || {
            runtime().block_on(async move {
                while let Some((kind, stream)) = bulk.recv().await {
                    let stream = TcpStream::from_std(stream).expect("a socket of another runtime");
                    tokio::spawn(serve_bulk(kind, stream, Arc::clone(&counted)));
                }
            });
        });
        let (tell, told) = std::sync::mpsc::channel();
        let counted = Arc::clone(&counts);
        thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
                tell.send(listener.local_addr().expect("its address")).expect("somebody waits");
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    tokio::spawn(serve(stream, to_bulk.clone(), Arc::clone(&counted)));
                }
            });
        });
        Self { addr: told.recv().expect("an address"), counts }
    }

    /// Bytes swallowed so far, over all connections.
    pub(crate) fn swallowed(&self) -> u64 {
        self.counts.swallowed.load(Ordering::Relaxed)
    }

    /// Waits until what a tunnel still had under way has come and gone: it is the next measure's processor otherwise.
    pub(crate) fn settle(&self) {
        for _ in 0..500 {
            if self.counts.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!("connections stay open at the target");
    }
}

async fn serve(
    mut stream: TcpStream,
    to_bulk: mpsc::UnboundedSender<(u8, std::net::TcpStream)>,
    counts: Arc<Counts>,
) {
    let _ = stream.set_nodelay(true);
    counts.open.fetch_add(1, Ordering::Relaxed);
    let Ok(kind) = stream.read_u8().await else {
        counts.open.fetch_sub(1, Ordering::Relaxed);
        return;
    };
    if kind == ECHO {
        // A user that goes away is the ordinary end.
        let _ = echo(stream).await;
        counts.open.fetch_sub(1, Ordering::Relaxed);
    } else if let Ok(stream) = stream.into_std() {
        let _ = to_bulk.send((kind, stream));
    }
}

async fn serve_bulk(kind: u8, stream: TcpStream, counts: Arc<Counts>) {
    let _ = match kind {
        SWALLOW => swallow(stream, &counts).await,
        GIVE => give(stream).await,
        other => panic!("no such wish: {other}"),
    };
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}

async fn swallow(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.write_all(&[SWALLOW]).await;
        }
        counts.swallowed.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Gives what is asked for, for as long as somebody asks.
pub(crate) async fn give(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let bytes = vec![7; CHUNK];
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let length = left.min(CHUNK as u64);
            stream.write_all(&bytes[..length as usize]).await?;
            left -= length;
        }
    }
}

/// As iperf3 and most programs that mean to be fast.
pub(crate) const CHUNK: usize = 128 << 10;
