//! Rows of a path: what is open goes on, and how soon.

use std::time::{Duration, Instant};

use conduit::transport::Carrier;
use conduit::tunnel::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::firewall::Firewall;
use crate::link::{Conditions, Link};
use crate::stage::{Stage, Target, Tunnel, within};
use crate::table::row;
use crate::transfer::{Pace, Transfer};
use crate::world::figure;

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

/// How long each of the three stood still from some moment on: when the path was well again, or was another one.
#[derive(Clone, Copy, Debug)]
struct Stalls {
    transfer: Duration,
    login: Duration,
    flow: Duration,
}

impl Subject {
    async fn on(stage: &Stage, link: &Link, pace: Pace) -> Self {
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
        let transfer = Transfer::through(tunnel.local_addr(), pace).await;
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
        let Self { transfer, login, flow, packets, .. } = self;
        let words = words(login, flow, packets, since);
        let (transfer, (login, flow)) = tokio::join!(transfer.stall(since), words);
        Stalls { transfer, login, flow }
    }

    /// The same of the two that carry little.
    async fn answers(&mut self) {
        let Self { login, flow, packets, .. } = self;
        words(login, flow, packets, Instant::now()).await;
    }
}

/// A word on the login and a packet on the flow: how long after `since` each is answered.
async fn words(
    login: &mut TcpStream,
    flow: &UdpSocket,
    packets: &mut u64,
    since: Instant,
) -> (Duration, Duration) {
    let typing = async {
        login.write_all(b"a word").await.expect("said");
        let mut heard = [0; 6];
        let reading = login.read_exact(&mut heard);
        tokio::time::timeout(LIMIT, reading).await.expect("in time").expect("heard");
        assert_eq!(&heard, b"a word");
        since.elapsed()
    };
    let asking = async {
        // What comes late of an earlier one tells nothing.
        let first = *packets;
        let mut buffer = [0; 8];
        loop {
            assert!(since.elapsed() < LIMIT, "the flow stands still");
            *packets += 1;
            let _ = flow.send(&packets.to_be_bytes()).await;
            let heard = flow.recv(&mut buffer);
            let heard = tokio::time::timeout(Duration::from_millis(100), heard).await;
            if matches!(heard, Ok(Ok(8))) && u64::from_be_bytes(buffer) > first {
                return since.elapsed();
            }
        }
    };
    tokio::join!(typing, asking)
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
async fn subject(seed: u64, pace: Pace) -> (Stage, Link, Subject) {
    let stage = Stage::with(|settings| settings.transport.trust_loopback = false).await;
    let path = Conditions::rtt(Duration::from_millis(40)).rate(100, 1 << 20);
    let link = Link::to(stage.router.local_addr(), seed, path);
    let subject = Subject::on(&stage, &link, pace).await;
    (stage, link, subject)
}

/// How much goes through one transfer, and how many faults it meets on its way.
#[derive(Clone, Copy)]
struct Course {
    bytes: u64,
    faults: u64,
    pace: Pace,
}

impl Course {
    /// What the fast rows take: a fault or two at the speed of somebody who scrolls.
    const fn short(faults: u64) -> Self {
        Self { bytes: 0, faults, pace: Pace::SLOW }
    }

    /// A gigabyte as fast as the path takes it, with twenty faults spread over it.
    fn long() -> Self {
        let (bytes, faults) = (figure("MiB", 64, 1_024) << 20, figure("faults", 3, 20));
        Self { bytes: bytes as u64, faults: faults as u64, pace: Pace::PATH }
    }

    /// The name of a row of it.
    fn named(self, fault: &str) -> String {
        format!("{fault}, a transfer of {} MiB", self.bytes >> 20)
    }

    /// Bytes that go through ahead of this fault.
    fn ahead_of(self, fault: u64) -> u64 {
        self.bytes / self.faults * fault
    }
}

/// Nothing gets through for a while, again and again.
async fn outages(seconds: u64, seed: u64, course: Course) -> Vec<Stalls> {
    let (_stage, link, mut subject) = subject(seed, course.pace).await;
    let mut stalls = Vec::new();
    for fault in 0..course.faults {
        subject.transfer.until(course.ahead_of(fault)).await;
        tokio::time::sleep(Duration::from_millis((seed + fault) * 137 % 1_000)).await;
        link.becomes(|path| path.down = true);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        link.becomes(|path| path.down = false);
        stalls.push(subject.stalls(Instant::now()).await);
    }
    subject.transfer.ends(course.bytes).await;
    stalls
}

/// A NAT gives the client another port every five seconds.
async fn rebindings(course: Course) -> Vec<Stalls> {
    let (_stage, link, mut subject) = subject(53, course.pace).await;
    let mut stalls = Vec::new();
    for _ in 0..course.faults {
        link.rebinds();
        stalls.push(subject.stalls(Instant::now()).await);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    subject.transfer.ends(course.bytes).await;
    stalls
}

/// UDP is blocked, and some time later it is not, again and again: what stood still on the way there, and the longest that
/// the transfer did on the way back.
async fn blocked(course: Course) -> (Vec<Stalls>, Vec<Duration>) {
    let firewall = Firewall::new().await;
    let mut subject = Subject::on(&firewall.stage, &firewall.udp, course.pace).await;
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for _ in 0..course.faults {
        assert_eq!(subject.tunnel.carrier(), Carrier::Quic);
        firewall.udp.becomes(|path| path.down = true);
        there.push(subject.stalls(Instant::now()).await);
        assert_eq!(subject.tunnel.carrier(), Carrier::Tls);
        subject.transfer.counts_from(Instant::now());
        firewall.udp.becomes(|path| path.down = false);
        within(TRUSTED_AGAIN, "UDP again", || subject.tunnel.carrier() == Carrier::Quic).await;
        subject.answers().await;
        back.push(subject.transfer.longest());
    }
    subject.transfer.ends(course.bytes).await;
    (there, back)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h51_what_is_open_outlives_five_seconds_without_a_path() {
    row("H51", "outage of 5 s", &columns(&outages(5, 0, Course::short(1)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h53_a_nat_that_forgets_stops_nothing() {
    row("H53", "NAT rebinding", &columns(&rebindings(Course::short(2)).await));
}

mod chaos {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h51_and_h52_outages_of_5_20_and_90_seconds() {
        let mut all = JoinSet::new();
        let course = Course::long();
        for (seed, name, seconds) in [(0, "H51", 5), (1, "H51", 20), (2, "H52", 90)] {
            all.spawn(async move {
                let stalls = outages(seconds, seed, course).await;
                row(name, &course.named(&format!("outage of {seconds} s")), &columns(&stalls));
            });
        }
        all.join_all().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h53_a_nat_that_forgets_every_five_seconds() {
        let course = Course::long();
        let stalls = rebindings(course).await;
        row("H53", &course.named("NAT rebinding every 5 s"), &columns(&stalls));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h56_udp_is_blocked_and_then_is_not() {
        // Each time UDP is trusted later, up to 5 min: four transfers at once share the faults.
        let course =
            Course { pace: Pace::STEADY, faults: figure("blocks", 1, 5) as u64, ..Course::long() };
        let mut all = JoinSet::new();
        for _ in 0..4 {
            all.spawn(blocked(course));
        }
        let (there, back): (Vec<_>, Vec<_>) = all.join_all().await.into_iter().unzip();
        let (there, back) = (there.concat(), back.concat());
        row("H56", &course.named("UDP blocked"), &columns(&there));
        row("H56", &course.named("UDP open again"), &[("transfer", back)]);
    }
}

/// Longer than a client waits until it tries UDP again.
const TRUSTED_AGAIN: Duration = Duration::from_secs(330);
/// Longer than anything takes that comes back at all.
const LIMIT: Duration = Duration::from_secs(30);
