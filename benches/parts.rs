//! The parts by themselves, and the whole on loopback, by criterion: `cargo bench --bench parts`.
//!
//! Criterion compares with what it measured last in the same folder: this is for the hand at work on one of the parts.
//! What is published, and compared across machines, are the ratios of `cargo bench --bench tunnel`.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a benchmark prints")]

mod harness;
mod record;

use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::BytesMut;
use conduit::wire::{
    Control, Datagram, Delivered, Framed, StreamAnswer, StreamHeader, VERSION, control, decode,
    encode, put_whole, split_frame,
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use harness::aead::{Packets, SIZES};
use harness::load::wish;
use harness::target::{ECHO, GIVE, Target};
use harness::udp::EchoLane;
use harness::ways::Running;
use harness::{relay, runtime};
use record::Way;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

fn main() {
    relay::serve_if_asked();
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut criterion = criterion.configure_from_args();
    codec(&mut criterion);
    cryptography(&mut criterion);
    #[cfg(unix)]
    pipe(&mut criterion);
    loopback(&mut criterion);
    packets(&mut criterion);
    criterion.final_summary();
}

/// Messages as they travel most often.
fn codec(criterion: &mut Criterion) {
    let header = StreamHeader { version: VERSION, tunnel: 1, token: 7, ..StreamHeader::default() };
    let delivered = Delivered { tokens: (0..64).collect(), offsets: vec![1 << 30; 64] };
    let report = Control { message: Some(control::Message::Delivered(delivered)) };
    message(criterion, "stream header", &header);
    message(criterion, "stream answer", &StreamAnswer::default());
    message(criterion, "Delivered about 64 streams", &report);

    let mut group = criterion.benchmark_group("codec");
    let packet = [7; 1_200];
    group.bench_function("put a packet into a datagram", |bencher| {
        let mut datagram = BytesMut::with_capacity(1_500);
        bencher.iter(|| {
            datagram.clear();
            put_whole(black_box(9_000), &mut datagram);
            datagram.extend_from_slice(&packet);
        });
    });
    let mut datagram = BytesMut::new();
    put_whole(9_000, &mut datagram);
    datagram.extend_from_slice(&packet);
    let datagram = datagram.freeze();
    group.bench_function("take a packet out of a datagram", |bencher| {
        bencher.iter(|| Datagram::decode(black_box(datagram.clone())));
    });
    group.finish();
}

fn message<M: prost::Message + Default>(criterion: &mut Criterion, name: &str, message: &M) {
    let mut group = criterion.benchmark_group("codec");
    let mut frame = BytesMut::new();
    encode(message, &mut frame);
    group.bench_function(BenchmarkId::new("encode", name), |bencher| {
        let mut into = BytesMut::with_capacity(4 << 10);
        bencher.iter(|| {
            into.clear();
            encode(black_box(message), &mut into);
        });
    });
    group.bench_function(BenchmarkId::new("decode", name), |bencher| {
        bencher.iter_batched(|| frame.clone(), parsed::<M>, BatchSize::SmallInput);
    });
    group.finish();
}

fn parsed<M: prost::Message + Default>(mut buffer: BytesMut) -> M {
    match split_frame(&mut buffer, 64 << 10) {
        Ok(Framed::Whole(frame)) => decode(frame).expect("what was encoded"),
        other => panic!("a whole frame, not {other:?}"),
    }
}

fn cryptography(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crypto");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut packets = Packets::new(size);
        group.bench_function(BenchmarkId::new("seal and open", size), |bencher| {
            bencher.iter(|| {
                packets.seal();
                packets.open();
            });
        });
    }
    group.finish();
}

/// Router, tunnel, user and target in this process, Unix sockets at both ends: no TCP, no other process.
#[cfg(unix)]
fn pipe(criterion: &mut Criterion) {
    use conduit::transport::Settings;
    use harness::embedded::Tunnel;
    use tokio::net::{UnixListener, UnixStream};

    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let end = |name: &str| format!("unix:{}", path(name).display());
    let runtime = runtime();
    let (tunnel, mut user) = runtime.block_on(async {
        let listener = UnixListener::bind(path("source")).expect("a listener");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(harness::target::give(stream));
            }
        });
        let bind = end("bind").parse().expect("a bind");
        let source = end("source").parse().expect("a source");
        let tunnel = Tunnel::start(bind, source, Settings::default()).await;
        (tunnel, UnixStream::connect(path("bind")).await.expect("a connection"))
    });
    let mut group = criterion.benchmark_group("pipe");
    for size in [64, 16 << 10, 4 << 20] {
        group.throughput(Throughput::Bytes(size));
        group.bench_function(BenchmarkId::new("bytes", size), |bencher| {
            bencher.iter(|| runtime.block_on(ask(&mut user, size)));
        });
    }
    group.finish();
    drop(user);
    runtime.block_on(tunnel.stop());
}

/// Asks for bytes and takes them all.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), size: u64) {
    stream.write_u64(size).await.expect("a wish");
    let mut taken = stream.take(size);
    let mut buffer = [0; 64 << 10];
    while taken.read(&mut buffer).await.expect("bytes") > 0 {}
}

/// A tunnel of two processes beside no tunnel and the relays.
fn loopback(criterion: &mut Criterion) {
    let (target, runtime) = (Target::start(), runtime());
    for way in [Way::NoTunnel, Way::TcpRelay, Way::TlsRelay, Way::Conduit] {
        let running = Running::start(way, target.addr, &[]);
        let addr = running.addr;
        let mut group = criterion.benchmark_group(format!("loopback, {}", way.title()));
        for count in [1, 8, 64] {
            let mut streams = connected(&runtime, addr, count);
            group.throughput(Throughput::Bytes(count as u64 * SHARE));
            group.bench_function(BenchmarkId::new("streams", count), |bencher| {
                bencher.iter(|| streams = runtime.block_on(ask_all(std::mem::take(&mut streams))));
            });
        }
        group.throughput(Throughput::Elements(1));
        group.bench_function("connection", |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut stream = wish(addr, &[ECHO, 7]).await.expect("a connection");
                    stream.read_u8().await.expect("the byte comes back");
                });
            });
        });
        let mut stream = runtime.block_on(wish(addr, &[ECHO])).expect("a connection");
        group.bench_function("request", |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut bytes = [7; 128];
                    stream.write_all(&bytes).await.expect("a request");
                    stream.read_exact(&mut bytes).await.expect("an answer");
                });
            });
        });
        group.finish();
    }
}

/// One packet there and back.
fn packets(criterion: &mut Criterion) {
    let lane = EchoLane::start();
    let mut group = criterion.benchmark_group("packet");
    for (name, addr) in [("no tunnel", lane.direct), ("Conduit", lane.tunnel)] {
        for size in [64, 1_200] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(addr).expect("an address");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
            let (packet, mut back) = (vec![7; size], vec![0; size]);
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    socket.send(&packet).expect("sent");
                    socket.recv(&mut back).expect("the packet comes back");
                });
            });
        }
    }
    group.finish();
}

fn connected(runtime: &Runtime, addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = || runtime.block_on(wish(addr, &[GIVE])).expect("a connection");
    (0..count).map(|_| connect()).collect()
}

async fn ask_all(streams: Vec<TcpStream>) -> Vec<TcpStream> {
    let mut asking = JoinSet::new();
    for mut stream in streams {
        asking.spawn(async move {
            ask(&mut stream, SHARE).await;
            stream
        });
    }
    asking.join_all().await
}

/// Bytes of each stream for one sample.
const SHARE: u64 = 1 << 20;
