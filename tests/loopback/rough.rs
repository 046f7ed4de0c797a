//! Paths that lose, delay, reorder and cut: the connection lives, and every byte is the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conduit::client;
use conduit::session::Session;
use conduit::tunnel::{Direction, Oversize, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::link::{Conditions, Link, Way};
use crate::raw::{Packets, becomes};
use crate::stage::{Stage, Target, Tunnel, noise, within};

/// A tunnel over an emulated path.
struct Distant {
    tunnel: Tunnel,
    /// The first session, which is to be the last one.
    session: Session,
    link: Link,
    /// How long a transfer may take.
    limit: Duration,
    _stage: Stage,
    _target: Target,
}

impl Distant {
    async fn to(target: Target, conditions: Conditions) -> Self {
        Self::with(target, conditions, |_| {}).await
    }

    async fn with(
        target: Target,
        conditions: Conditions,
        change: impl FnOnce(&mut client::Settings),
    ) -> Self {
        let stage = Stage::with(|settings| settings.transport.trust_loopback = false).await;
        let link = Link::to(stage.router.local_addr(), 7, conditions);
        let tunnel = stage
            .tunnel_with(target.addr, |settings| {
                settings.access.router.addresses = vec![link.addr().into()];
                change(settings);
            })
            .await;
        let session = tunnel.session().expect("a session");
        Self { tunnel, session, link, limit: LIMIT, _stage: stage, _target: target }
    }

    async fn echo(conditions: Conditions) -> Self {
        Self::to(Target::echo().await, conditions).await
    }

    /// Sends bytes and wants the same ones back; when `at` bytes are back the path changes.
    async fn carries(&self, bytes: usize, at: usize, change: impl Fn(&mut Conditions)) {
        let bytes = Arc::new(noise(at as u64, bytes));
        let stream = TcpStream::connect(self.tunnel.local_addr()).await.expect("a connection");
        let (read, mut write) = stream.into_split();
        let sent = Arc::clone(&bytes);
        let sending = tokio::spawn(async move {
            write.write_all(&sent).await.expect("bytes sent");
            write.shutdown().await.expect("the half closed");
        });
        self.brings(read, &bytes, at, change).await;
        sending.await.expect("everything was sent");
    }

    /// Wants these bytes; when `at` of them are here the path changes.
    async fn brings(
        &self,
        mut read: impl AsyncRead + Unpin,
        bytes: &[u8],
        at: usize,
        change: impl Fn(&mut Conditions),
    ) {
        let start = Instant::now();
        let (mut back, mut changed) = (Vec::with_capacity(bytes.len()), false);
        let limit = start + self.limit;
        while back.len() < bytes.len() {
            if back.len() >= at && !changed {
                changed = true;
                println!("{} bytes here after {:?}", back.len(), start.elapsed());
                self.link.becomes(&change);
            }
            let read = tokio::time::timeout_at(limit.into(), read.read_buf(&mut back)).await;
            let read = read.unwrap_or_else(|_| panic!("stuck at {} bytes", back.len()));
            if !matches!(read, Ok(1..)) {
                self.lives();
                panic!("{read:?} after {} bytes", back.len());
            }
        }
        assert!(back == bytes, "other bytes came");
        println!(
            "{} bytes here in {:?}\nup   {:?}\ndown {:?}",
            bytes.len(),
            start.elapsed(),
            self.link.count(Way::Up),
            self.link.count(Way::Down)
        );
        self.lives();
    }

    /// The connection of the beginning is still the one.
    #[track_caller]
    fn lives(&self) {
        let end = self.session.connection().close_reason();
        assert!(end.is_none(), "{end:?}");
    }
}

fn stays(_: &mut Conditions) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_all_packets_lost_in_the_midst_of_a_transfer() {
    let distant = Distant::echo(Conditions::rtt(RTT).rate(400, 4 << 20)).await;
    distant.carries(20 << 20, 14 << 20, |path| path.loss = 0.5).await;
    assert!(distant.link.count(Way::Up).lost > 100);
}

/// Left to QUIC's own probes, an end that has been silent for twelve seconds may stay so for as long again. At whatever
/// moment between two looks at the connection the outage begins. [SES-29]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_over_as_soon_as_the_path_is_back() {
    let mut outages = tokio::task::JoinSet::new();
    for phase in 0..8 {
        outages.spawn(outage(Duration::from_millis(125) * phase));
    }
    while let Some(done) = outages.join_next().await {
        done.expect("a path that is back");
    }
}

/// One that begins so long after the last answer.
async fn outage(after: Duration) {
    // Nor may another connection take its place.
    let alone = |settings: &mut client::Settings| settings.tunnel.options.resume = None;
    let path = Conditions::rtt(RTT).rate(100, 1 << 20);
    let distant = Distant::with(Target::echo().await, path, alone).await;
    let mut stream = TcpStream::connect(distant.tunnel.local_addr()).await.expect("a connection");
    let echo = async |stream: &mut TcpStream| {
        stream.write_all(b"still there?").await.expect("bytes sent");
        tokio::time::timeout(LIMIT, stream.read_exact(&mut [0; 12])).await.expect("in time")
    };
    echo(&mut stream).await.expect("bytes back");
    tokio::time::sleep(after).await;
    distant.link.becomes(|path| path.down = true);
    stream.write_all(b"still there?").await.expect("bytes sent");
    tokio::time::sleep(Duration::from_secs(12)).await;
    distant.link.becomes(|path| path.down = false);
    let start = Instant::now();
    stream.read_exact(&mut [0; 12]).await.expect("bytes back");
    println!("{after:?}: {:?} after the path is back", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2), "{after:?}: {:?}", start.elapsed());
    echo(&mut stream).await.expect("bytes back");
    distant.lives();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_ten_packets_that_overflows() {
    let distant = Distant::echo(Conditions::rtt(RTT).rate(50, 10 * 1_480)).await;
    distant.carries(4 << 20, 0, stays).await;
    assert!(distant.link.count(Way::Up).overflowed > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_ten_seconds() {
    let distant = Distant::echo(Conditions::rtt(RTT).rate(16, 20_000_000)).await;
    distant.carries(5 << 20, 0, stays).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_of_the_packets_reordered() {
    let late = (0.33, Duration::from_millis(30));
    let distant =
        Distant::echo(Conditions { late, ..Conditions::rtt(RTT) }.rate(200, 1 << 20)).await;
    distant.carries(16 << 20, 0, stays).await;
    assert!(distant.link.count(Way::Up).late > 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calm_path_that_turns_rough_with_megabytes_under_way() {
    let distant = Distant::echo(Conditions::rtt(RTT).rate(400, 4 << 20)).await;
    distant.carries(40 << 20, 16 << 20, |path| path.late = (0.33, Duration::from_millis(30))).await;
    let late = distant.link.count(Way::Up).late + distant.link.count(Way::Down).late;
    assert!(late > 2_000, "{late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenth_of_the_packets_reordered_far_behind_a_large_window() {
    let distant = Distant::echo(Conditions::rtt(RTT * 2).rate(400, 8 << 20)).await;
    distant.carries(48 << 20, 16 << 20, |path| path.late = (0.1, Duration::from_millis(100))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mtu_that_falls_to_1280_is_found_out_within_ten_seconds() {
    let bytes = Arc::new(noise(5, 8 << 20));
    let sent = Arc::clone(&bytes);
    let target = Target::new(move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            let _ = stream.write_all(&sent).await;
        }
    });
    let path = Conditions { mtu: 1_500, ..Conditions::rtt(RTT) };
    let distant = Distant::to(target.await, path.rate(100, 1 << 20)).await;
    let mtu = || distant.session.path().mtu;
    within(Duration::from_secs(5), "the path's MTU is found out", || mtu() > 1_420).await;
    let stream = TcpStream::connect(distant.tunnel.local_addr()).await.expect("a connection");
    let start = Instant::now();
    distant.brings(stream, &bytes, 2 << 20, |path| path.mtu = 1_280).await;
    assert!(distant.link.count(Way::Down).too_large > 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// An end whose window is full acknowledges nothing as long as it has bytes to send (quinn takes one packet for both), so
/// that two of them may wait for each other: that takes longer than with bytes in one direction, or another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mtu_that_falls_while_bytes_run_both_ways() {
    let path = Conditions { mtu: 1_500, ..Conditions::rtt(RTT) };
    let distant = Distant::echo(path.rate(100, 1 << 20)).await;
    let mtu = || distant.tunnel.session().map_or(0, |session| session.path().mtu);
    within(Duration::from_secs(5), "the path's MTU is found out", || mtu() > 1_420).await;
    let (bytes, start) = (noise(7, 8 << 20), Instant::now());
    let stream = TcpStream::connect(distant.tunnel.local_addr()).await.expect("a connection");
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        write.write_all(&bytes).await.expect("bytes sent");
        write.shutdown().await.expect("the half closed");
    };
    let receiving = async {
        let mut back = vec![0; 2 << 20];
        read.read_exact(&mut back).await.expect("bytes back");
        distant.link.becomes(|path| path.mtu = 1_280);
        read.read_to_end(&mut back).await.expect("bytes back");
        assert!(back == bytes, "{} other bytes came", back.len());
    };
    let moved = tokio::time::timeout(LIMIT, async { tokio::join!(sending, receiving) }).await;
    moved.expect("it goes on");
    let is_same = distant.session.connection().close_reason().is_none();
    println!("{:?}, over the same connection: {is_same}", start.elapsed());
    assert!(distant.link.count(Way::Up).too_large > 0);
    within(Duration::from_secs(9), "what it is now", || (1_221..=1_252).contains(&mtu())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_and_segment_sized_writes_on_many_streams() {
    let target = Target::new(|mut stream| async move {
        stream.set_nodelay(true).expect("small packets");
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
            for segment in buffer[..length].chunks(536) {
                if stream.write_all(segment).await.is_err() {
                    return;
                }
            }
        }
        let _ = stream.shutdown().await;
    })
    .await;
    let late = (0.1, Duration::from_millis(10));
    let path = Conditions { loss: 0.02, late, ..Conditions::rtt(RTT) };
    let distant = Distant::to(target, path.rate(200, 1 << 20)).await;
    let addr = distant.tunnel.local_addr();
    let users: Vec<_> = (0..20).map(|seed| tokio::spawn(segments(addr, seed))).collect();
    for user in users {
        tokio::time::timeout(LIMIT, user).await.expect("in time").expect("the same bytes");
    }
    println!("up {:?}", distant.link.count(Way::Up));
    distant.lives();
}

/// Sends half a megabyte in small pieces and reads it back slowly.
async fn segments(addr: SocketAddr, seed: u64) {
    let bytes = noise(seed, 500_000);
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("small packets");
    let (mut read, mut write) = stream.split();
    let sending = async {
        for segment in bytes.chunks(536) {
            write.write_all(segment).await.expect("bytes sent");
            tokio::task::yield_now().await;
        }
        write.shutdown().await.expect("the half closed");
    };
    let receiving = async {
        let (mut back, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        loop {
            let length = read.read(&mut buffer).await.expect("bytes back");
            if length == 0 {
                break back;
            }
            back.extend_from_slice(&buffer[..length]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let ((), back) = tokio::join!(sending, receiving);
    assert!(back == bytes, "other bytes came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_in_the_same_packets() {
    let packets = Packets::echo().await;
    let path = Conditions { loss: 0.1, ..Conditions::rtt(RTT) };
    let distant = Distant::with(Target::echo().await, path.rate(200, 1 << 20), |settings| {
        becomes(settings, Direction::Forward, Protocol::Udp);
        settings.tunnel.options.oversize = Oversize::Stream;
        settings.tunnel.source = packets.addr.into();
    })
    .await;
    let user = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    user.connect(distant.tunnel.local_addr()).await.expect("an address");
    let (small, large) = (noise(1, 900), noise(2, 30_000));
    let (mut sent, mut came, mut buffer) = ((0, 0), (0, 0), vec![0; 65_536]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        if start.elapsed() < Duration::from_secs(3) {
            user.send(&large).await.expect("sent");
            sent.1 += 1;
            for _ in 0..10 {
                user.send(&small).await.expect("sent");
                sent.0 += 1;
            }
        }
        let wait = Duration::from_millis(10);
        while let Ok(Ok(length)) = tokio::time::timeout(wait, user.recv(&mut buffer)).await {
            let (count, same) = match length {
                900 => (&mut came.0, buffer[..length] == small),
                _ => (&mut came.1, buffer[..length] == large),
            };
            assert!(same, "another packet of {length} bytes");
            *count += 1;
            if start.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
    }
    println!("{came:?} of {sent:?} came back, up {:?}", distant.link.count(Way::Up));
    assert!(came.0 > 100 && came.1 > 20, "{came:?} of {sent:?}");
    distant.lives();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_get_lost_do_not_make_packets_small() {
    let packets = Packets::echo().await;
    let path = Conditions { loss: 0.01, mtu: 1_500, ..Conditions::rtt(RTT / 4) };
    let distant = Distant::with(Target::echo().await, path, |settings| {
        becomes(settings, Direction::Forward, Protocol::Udp);
        settings.tunnel.source = packets.addr.into();
    })
    .await;
    let mtu = || distant.session.path().mtu;
    let user = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    user.connect(distant.tunnel.local_addr()).await.expect("an address");
    within(Duration::from_secs(10), "the path's MTU is found out", || mtu() > 1_420).await;
    let (start, mut smallest, mut sent) = (Instant::now(), mtu(), 0u64);
    while start.elapsed() < Duration::from_secs(3) {
        // Large and small ones, 20,000 a second.
        for number in 0..40 {
            let _ = user.send(&[7; 1_300][..if number % 3 == 0 { 1_300 } else { 100 }]).await;
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        smallest = smallest.min(mtu());
    }
    let lost = distant.link.count(Way::Up).lost;
    println!("{sent} packets, {lost} of QUIC lost on the way up, never below {smallest} bytes");
    assert!(lost > 50 && smallest > 1_420, "{lost} {smallest}");
    distant.lives();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_stalled_streams_on_a_lossy_path_leave_room_for_one_more() {
    let target = Target::new(|mut stream| async move {
        let Ok(b'b') = stream.read_u8().await else {
            let _ = stream.write_all(b"pong").await;
            return;
        };
        let block = noise(1, 64 << 10);
        while stream.write_all(&block).await.is_ok() {}
    })
    .await;
    let path = Conditions { loss: 0.05, ..Conditions::rtt(RTT / 2) };
    let distant = Distant::to(target, path.rate(200, 1 << 20)).await;
    let mut stopped = Vec::new();
    for _ in 0..20 {
        let mut stream =
            TcpStream::connect(distant.tunnel.local_addr()).await.expect("a connection");
        stream.write_all(b"b").await.expect("a word");
        stopped.push(stream);
    }
    let mut seen = (0, Instant::now());
    within(LIMIT, "all windows are full", || {
        let carried = distant.link.count(Way::Down).carried;
        if carried > seen.0 + 100 {
            seen = (carried, Instant::now());
        }
        carried > 1_000 && seen.1.elapsed() > Duration::from_millis(500)
    })
    .await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(distant.tunnel.local_addr()).await.expect("a connection");
    stream.write_all(b"p").await.expect("a word");
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).await.expect("an answer");
    println!("one more was answered after {:?}, {seen:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    distant.lives();
}

const RTT: Duration = Duration::from_millis(40);
const LIMIT: Duration = Duration::from_secs(40);
