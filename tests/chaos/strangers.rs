//! Rows of packets: lost, late, twice, damaged, too large, copied by strangers; and many who share little.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::link::{Conditions, Forgery, Link, Way};
use crate::stage::{Stage, Target, Tunnel, noise, within};
use crate::table::{row, told};

/// A tunnel to an echo over a path.
struct Path {
    link: Link,
    tunnel: Tunnel,
    _stage: Stage,
    _target: Target,
}

impl Path {
    async fn new(seed: u64, conditions: Conditions) -> Self {
        let stage = Stage::with(|settings| settings.transport.trust_loopback = false).await;
        let target = Target::echo().await;
        // The handshake has a path without faults: what is shown is what happens to streams.
        let good = Conditions { loss: 0.0, damaged: 0.0, ..conditions.clone() };
        let link = Link::to(stage.router.local_addr(), seed, good);
        let tunnel = stage
            .tunnel_with(target.addr, |settings| {
                settings.access.router.addresses = vec![link.addr().into()];
            })
            .await;
        link.becomes(|path| path.clone_from(&conditions));
        Self { link, tunnel, _stage: stage, _target: target }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tunnel.local_addr()).await.expect("a connection")
    }

    fn session(&self) -> [u8; 16] {
        self.tunnel.session().expect("a session").terms().session_id
    }
}

/// Sends noise through an echo: how long it takes. The bytes are compared.
async fn there_and_back(mut stream: TcpStream, seed: u64, length: usize) -> Duration {
    let (sent, start) = (noise(seed, length), Instant::now());
    let expected = sent.clone();
    let (mut read, mut write) = stream.split();
    let sending = async {
        write.write_all(&sent).await.expect("sent");
        write.shutdown().await.expect("the end");
    };
    let receiving = async {
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.expect("heard");
        assert!(back == expected, "other bytes");
    };
    let both = async { tokio::join!(sending, receiving) };
    tokio::time::timeout(LIMIT, both).await.expect("in time");
    start.elapsed()
}

/// Packets are lost, 10 % come late, 5 % twice, and 1 % damaged, with a jitter of 50 ms.
async fn rough(loss: f64, rtt: u64, length: usize) {
    let seed = (loss * 1_000.0) as u64 + rtt;
    let conditions = Conditions {
        loss,
        late: (0.1, Duration::from_millis(50)),
        twice: 0.05,
        damaged: 0.01,
        ..Conditions::rtt(Duration::from_millis(rtt)).rate(50, 1 << 20)
    };
    let path = Path::new(seed, conditions).await;
    let took = there_and_back(path.connect().await, seed, length).await;
    let (up, down) = (path.link.count(Way::Up), path.link.count(Way::Down));
    assert!(up.lost + down.lost > 0 && up.twice + down.twice > 0 && up.damaged + down.damaged > 0);
    let megabits = length as f64 * 8.0 / took.as_secs_f64() / 1e6;
    let what = format!("{} % lost, {rtt} ms, seed {seed}", loss * 100.0);
    told("H50", &what, &format!("{length} bytes there and back at {megabits:.1} Mbit/s, exact"));
}

/// A stranger makes something of what goes to the router, sends it from another address, and is always first. Something may
/// happen to the path meanwhile.
async fn copied(
    seed: u64,
    share: f64,
    forgery: Forgery,
    happens: impl AsyncFnOnce(&Link),
) -> Duration {
    let conditions = Conditions::rtt(Duration::from_millis(40)).rate(50, 1 << 20);
    let path = Path::new(seed, conditions).await;
    let before = path.session();
    let stream = path.connect().await;
    path.link.becomes(|path| (path.copied, path.forgery) = (share, forgery));
    let (took, ()) = tokio::join!(there_and_back(stream, seed, COPIED), happens(&path.link));
    let up = path.link.count(Way::Up);
    assert!(up.copied as f64 * 3.0 > share * up.carried as f64, "it was copied: {up:?}");
    assert_eq!(path.session(), before, "the same session");
    path.link.becomes(|path| path.copied = 0.0);
    there_and_back(path.connect().await, seed, 10_000).await;
    assert!(took < SLOW, "the connection went after the stranger: {took:?}");
    took
}

async fn nothing(_: &Link) {}

/// A NAT gives the client another address.
async fn rebinds(link: &Link) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    link.rebinds();
}

/// Strangers send what no peer has sent, to the router and to the client.
async fn garbage(seed: u64, packets: usize) {
    let path = Path::new(seed, Conditions::rtt(Duration::from_millis(10))).await;
    let before = path.session();
    let stream = path.connect().await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let router = path._stage.router.local_addr();
    let sending = async {
        let noise = noise(seed, 1_200 * 64);
        for number in 0..packets {
            let start = number * 37 % (noise.len() - 1_200);
            // Short headers, long headers, versions that nobody knows, and nothing at all.
            let packet = &noise[start..start + number % 1_201];
            let _ = stranger.send_to(packet, router).await;
            let _ = stranger.send_to(packet, path.link.addr()).await;
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let ((), took) = tokio::join!(sending, there_and_back(stream, seed, 2 << 20));
    assert_eq!(path.session(), before, "the same session");
    told(
        "H54",
        &format!("{packets} packets of noise, seed {seed}"),
        &format!("2 MiB exact in {took:?}"),
    );
}

/// The path carries less all at once: how long the transfer stands still.
async fn black_hole(mtu: usize, seed: u64) -> Duration {
    let path = Path::new(seed, Conditions::rtt(Duration::from_millis(20)).rate(100, 1 << 20)).await;
    let (mut read, mut write) = path.connect().await.into_split();
    let bytes = noise(seed, 64 << 10);
    let pump = tokio::spawn(async move { while write.write_all(&bytes).await.is_ok() {} });
    let arrived = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counts = std::sync::Arc::clone(&arrived);
    let sink = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            counts.fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let so_far = || arrived.load(std::sync::atomic::Ordering::Relaxed);
    // Long enough for larger packets to be found out.
    within(LIMIT, "it runs", || so_far() > 8 << 20).await;
    path.link.becomes(|path| path.mtu = mtu);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (fell, then) = (Instant::now(), so_far());
    within(LIMIT, "it goes on", || so_far() > then + (1 << 20)).await;
    pump.abort();
    sink.abort();
    fell.elapsed()
}

/// Sixty-four transfers and somebody who types share a megabit.
async fn crowded(seed: u64, words: usize) -> Vec<Duration> {
    let path = Path::new(seed, Conditions::rtt(Duration::from_millis(40)).rate(1, 32 << 10)).await;
    let before = path.session();
    let mut typing = path.connect().await;
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let stream = path.connect().await;
        busy.spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let bytes = noise(1, 16 << 10);
            let sending = async { while write.write_all(&bytes).await.is_ok() {} };
            let receiving = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await };
            let _ = tokio::join!(sending, receiving);
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut times = Vec::new();
    for _ in 0..words {
        let said = Instant::now();
        typing.write_all(b"x").await.expect("said");
        let mut letter = [0];
        let heard = typing.read_exact(&mut letter);
        tokio::time::timeout(LIMIT, heard).await.expect("in time").expect("heard");
        times.push(said.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(path.session(), before, "it is kept alive");
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h50_a_rough_path_changes_no_byte() {
    rough(0.05, 30, 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h54_copies_from_another_address_move_nothing() {
    for (share, forgery) in [
        (0.05, Forgery::Copy),
        (0.5, Forgery::Copy),
        (0.5, Forgery::BehindInitial),
        (1.0, Forgery::Noise),
    ] {
        let took = vec![copied(1, share, forgery, nothing).await];
        let what = format!("{} % copied, {forgery:?}, seed 1", share * 100.0);
        row("H54", &what, &[("2 MiB there and back", took)]);
    }
    let took = vec![copied(1, 0.5, Forgery::Copy, rebinds).await];
    row("H54", "50 % copied and a NAT rebinding, seed 1", &[("2 MiB there and back", took)]);
    garbage(2, 10_000).await;
}

mod chaos {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h50_rough_paths_change_no_byte() {
        for rtt in [10, 100, 300] {
            for (loss, length) in
                [(0.01, 16 << 20), (0.05, 8 << 20), (0.1, 4 << 20), (0.3, 1 << 20)]
            {
                rough(loss, rtt, length).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h54_copies_from_another_address_move_nothing() {
        for (share, forgery) in [
            (0.01, Forgery::Copy),
            (0.1, Forgery::Copy),
            (0.5, Forgery::Copy),
            (0.5, Forgery::BehindInitial),
            (0.5, Forgery::BehindHandshake),
            (1.0, Forgery::Noise),
        ] {
            let (mut times, mut moving) = (Vec::new(), Vec::new());
            for seed in 0..10 {
                times.push(copied(seed, share, forgery, nothing).await);
                moving.push(copied(seed, share, forgery, rebinds).await);
            }
            let what = format!("{} % copied, {forgery:?}, seeds 0 to 9", share * 100.0);
            let times = [("2 MiB there and back", times), ("and with a NAT rebinding", moving)];
            row("H54", &what, &times);
        }
        garbage(2, 200_000).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h55_a_path_that_carries_less_holds_up_for_seconds() {
        for mtu in [1_228, 1_280, 1_400] {
            let mut stalls = Vec::new();
            for seed in 0..5 {
                stalls.push(black_hole(mtu, seed).await);
            }
            row("H55", &format!("MTU {mtu}, seeds 0 to 4"), &[("transfer", stalls)]);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h59_who_types_beside_64_transfers_on_a_megabit() {
        let mut times = crowded(59, 100).await;
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        assert!(at(100) < Duration::from_secs(20), "a word is starved: {times:?}");
        // Three round trips, and 262 ms in each direction's full queue: what is echoed fills both.
        let goal = Duration::from_millis(40) * 3 + Duration::from_millis(262) * 2;
        let is_met = if at(99) <= goal { "met" } else { "not met" };
        told(
            "H59",
            "64 streams, 1 Mbit/s, 40 ms, seed 59",
            &format!("p50 {:?}, p99 {:?}; the goal of {goal:?} is {is_met}", at(50), at(99)),
        );
    }
}

/// Bytes that go there and back while a stranger reads them, at 50 Mbit/s.
const COPIED: usize = 2 << 20;
/// Many times what that takes, and less than half of what it takes on a connection that goes after each copy.
const SLOW: Duration = Duration::from_secs(15);
/// Longer than anything takes that ends at all.
const LIMIT: Duration = Duration::from_secs(120);
