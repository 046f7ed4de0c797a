//! Rows of a path: what is open goes on, and how soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conduit::transport::Carrier;
use conduit::tunnel::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::firewall::Firewall;
use crate::link::{Conditions, Link};
use crate::stage::{Stage, Target, Tunnel, noise, within};
use crate::table::row;

/// Two tunnels over one path, with a transfer, a login and a flow of packets on them that must not break.
struct Subject {
    transfer: Transfer,
    login: TcpStream,
    flow: UdpSocket,
    /// Packets sent on the flow, which carry their number.
    packets: u64,
    tunnel: Tunnel,
    _packets: Tunnel,
    _targets: (Target, JoinHandle<()>),
}

/// How long each of the three stood still, counted from when the path was well again.
#[derive(Clone, Copy, Debug)]
struct Stalls {
    transfer: Duration,
    login: Duration,
    flow: Duration,
}

impl Subject {
    async fn on(stage: &Stage, link: &Link) -> Self {
        let (target, packets) = (Target::echo().await, UdpSocket::bind("127.0.0.1:0").await);
        let packets = packets.expect("a socket");
        let far = packets.local_addr().expect("its address");
        let echoing = tokio::spawn(async move {
            let mut buffer = [0; 2_000];
            while let Ok((length, from)) = packets.recv_from(&mut buffer).await {
                let _ = packets.send_to(&buffer[..length], from).await;
            }
        });
        let way = |settings: &mut conduit::client::Settings| {
            settings.access.router.addresses = vec![link.addr().into()];
        };
        let tunnel = stage.tunnel_with(target.addr, way).await;
        let second = stage.tunnel_with(far, |settings| {
            way(settings);
            settings.tunnel.protocol = Protocol::Udp;
            settings.tunnel.name = "packets".parse().expect("a name");
        });
        let packets = second.await;
        let flow = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        flow.connect(packets.local_addr()).await.expect("a tunnel");
        let login = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
        let transfer = Transfer::through(&tunnel).await;
        let mut subject = Self {
            transfer,
            login,
            flow,
            packets: 0,
            tunnel,
            _packets: packets,
            _targets: (target, echoing),
        };
        subject.stalls(Instant::now()).await;
        subject
    }

    /// What was said is heard on all three.
    async fn stalls(&mut self, since: Instant) -> Stalls {
        let transfer = self.transfer.moves(since);
        let login = async {
            self.login.write_all(b"a word").await.expect("said");
            let mut heard = [0; 6];
            let reading = self.login.read_exact(&mut heard);
            tokio::time::timeout(LIMIT, reading).await.expect("in time").expect("heard");
            assert_eq!(&heard, b"a word");
            since.elapsed()
        };
        let flow = async {
            // What comes late of an earlier one tells nothing.
            let first = self.packets;
            let mut buffer = [0; 8];
            loop {
                assert!(since.elapsed() < LIMIT, "the flow stands still");
                self.packets += 1;
                let _ = self.flow.send(&self.packets.to_be_bytes()).await;
                let heard = self.flow.recv(&mut buffer);
                let heard = tokio::time::timeout(Duration::from_millis(100), heard).await;
                if matches!(heard, Ok(Ok(8))) && u64::from_be_bytes(buffer) > first {
                    return since.elapsed();
                }
            }
        };
        let (transfer, login, flow) = tokio::join!(transfer, login, flow);
        Stalls { transfer, login, flow }
    }
}

/// Noise that goes to an echo and comes back, at a few hundred kilobytes a second, and is compared.
struct Transfer {
    arrived: Arc<AtomicU64>,
    longest: Arc<AtomicU64>,
    moving: JoinHandle<()>,
}

impl Transfer {
    async fn through(tunnel: &Tunnel) -> Self {
        let stream = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
        let (arrived, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counts, gaps) = (Arc::clone(&arrived), Arc::clone(&longest));
        let (mut read, mut write) = stream.into_split();
        let moving = tokio::spawn(async move {
            let bytes = noise(77, 1 << 20);
            let sending = async {
                for piece in bytes.chunks(4_096).cycle() {
                    write.write_all(piece).await.expect("sent");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let receiving = async {
                let mut back = vec![0; 4_096];
                for piece in bytes.chunks(4_096).cycle() {
                    let start = Instant::now();
                    read.read_exact(&mut back).await.expect("heard");
                    assert!(back == piece, "other bytes");
                    gaps.fetch_max(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                    counts.fetch_add(1, Ordering::Relaxed);
                }
            };
            tokio::join!(sending, receiving);
        });
        Self { arrived, longest, moving }
    }

    /// Waits until something arrives that had not arrived yet.
    async fn moves(&self, since: Instant) -> Duration {
        let before = self.arrived.load(Ordering::Relaxed);
        within(LIMIT, "the transfer moves", || {
            assert!(!self.moving.is_finished(), "the transfer broke");
            self.arrived.load(Ordering::Relaxed) > before + 2
        })
        .await;
        since.elapsed()
    }

    /// The longest time without a piece, and from now on anew.
    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.moving.abort();
    }
}

fn columns(stalls: &[Stalls]) -> [(&'static str, Vec<Duration>); 3] {
    let of = |column: fn(&Stalls) -> Duration| stalls.iter().map(column).collect();
    [
        ("transfer", of(|it| it.transfer)),
        ("login", of(|it| it.login)),
        ("UDP flow", of(|it| it.flow)),
    ]
}

/// A subject on a path of its own: 40 ms, 100 Mbit/s.
async fn subject(seed: u64) -> (Stage, Link, Subject) {
    let stage = Stage::with(|settings| settings.transport.trust_loopback = false).await;
    let path = Conditions::rtt(Duration::from_millis(40)).rate(100, 1 << 20);
    let link = Link::to(stage.router.local_addr(), seed, path);
    let subject = Subject::on(&stage, &link).await;
    (stage, link, subject)
}

/// Nothing gets through for a while, in so many paths at once.
async fn outage(seconds: u64, runs: u64) -> Vec<Stalls> {
    let mut all = JoinSet::new();
    for seed in 0..runs {
        all.spawn(async move {
            let (_stage, link, mut subject) = subject(seed).await;
            tokio::time::sleep(Duration::from_millis(seed * 137 % 1_000)).await;
            link.becomes(|path| path.down = true);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            link.becomes(|path| path.down = false);
            subject.stalls(Instant::now()).await
        });
    }
    all.join_all().await
}

/// A NAT gives the client another port every five seconds.
async fn rebindings(runs: u64, times: u64) -> Vec<Stalls> {
    let mut all = JoinSet::new();
    for seed in 0..runs {
        all.spawn(async move {
            let (_stage, link, mut subject) = subject(seed).await;
            let mut stalls = Vec::new();
            for _ in 0..times {
                link.rebinds();
                stalls.push(subject.stalls(Instant::now()).await);
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            stalls
        });
    }
    all.join_all().await.into_iter().flatten().collect()
}

/// UDP is blocked, and some time later it is not: the longest that the transfer stood still on the way there, and on
/// the way back.
async fn blocked(runs: u64) -> (Vec<Stalls>, Vec<Duration>) {
    let mut all = JoinSet::new();
    for _ in 0..runs {
        all.spawn(async move {
            let firewall = Firewall::new().await;
            let mut subject = Subject::on(&firewall.stage, &firewall.udp).await;
            assert_eq!(subject.tunnel.carrier(), Carrier::Quic);
            firewall.udp.becomes(|path| path.down = true);
            let there = subject.stalls(Instant::now()).await;
            assert_eq!(subject.tunnel.carrier(), Carrier::Tls);
            subject.transfer.longest();
            firewall.udp.becomes(|path| path.down = false);
            within(Duration::from_secs(90), "UDP again", || {
                subject.tunnel.carrier() == Carrier::Quic
            })
            .await;
            subject.stalls(Instant::now()).await;
            (there, subject.transfer.longest())
        });
    }
    all.join_all().await.into_iter().unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h51_what_is_open_outlives_five_seconds_without_a_path() {
    row("H51", "outage of 5 s", &columns(&outage(5, 2).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h53_a_nat_that_forgets_stops_nothing() {
    row("H53", "NAT rebinding", &columns(&rebindings(1, 2).await));
}

mod chaos {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h51_and_h52_outages_of_5_20_and_90_seconds() {
        for (name, seconds) in [("H51", 5), ("H51", 20), ("H52", 90)] {
            let stalls = outage(seconds, 20).await;
            row(name, &format!("outage of {seconds} s"), &columns(&stalls));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h53_a_nat_that_forgets_every_five_seconds() {
        row("H53", "NAT rebinding every 5 s", &columns(&rebindings(5, 4).await));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h56_udp_is_blocked_and_then_is_not() {
        let (there, back) = blocked(20).await;
        row("H56", "UDP blocked", &columns(&there));
        row("H56", "UDP open again", &[("transfer, longest pause", back)]);
    }
}

/// Longer than anything takes that comes back at all.
const LIMIT: Duration = Duration::from_secs(30);
