//! Connections of users that outlive the one that carries them: lost, made again, and not a byte too many or too few.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conduit::client;
use conduit::tunnel::{Direction, TunnelState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::link::{Conditions, Link};
use crate::raw::number;
use crate::stage::{Stage, Target, Tunnel, noise, within};

/// A tunnel to an echo over a path that may go down for longer than its ends' patience.
struct Frail {
    tunnel: Tunnel,
    link: Link,
    target: Target,
    _stage: Stage,
}

impl Frail {
    async fn new(change: impl FnOnce(&mut client::Settings)) -> Self {
        let stage = Stage::with(|settings| {
            settings.transport.trust_loopback = false;
            settings.transport.idle_timeout = IDLE;
        })
        .await;
        let path = Conditions::rtt(Duration::from_millis(10)).rate(200, 1 << 20);
        let link = Link::to(stage.router.local_addr(), 7, path);
        let target = Target::echo().await;
        let tunnel = stage
            .tunnel_with(target.addr, |settings| {
                settings.access.router.addresses = vec![link.addr().into()];
                change(settings);
            })
            .await;
        Self { tunnel, link, target, _stage: stage }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tunnel.local_addr()).await.expect("a connection")
    }

    fn session_id(&self) -> Option<[u8; 16]> {
        Some(self.tunnel.session()?.terms().session_id)
    }

    /// The path is gone until the session is, and for a moment more.
    async fn outage(&self) {
        self.link.becomes(|path| path.down = true);
        let lost = || *self.tunnel.state().borrow() == TunnelState::Reconnecting;
        within(IDLE * 3, "the session is lost", lost).await;
        // The router notices when it has heard nothing for as long.
        tokio::time::sleep(IDLE).await;
        self.link.becomes(|path| path.down = false);
    }
}

async fn exchange(stream: &mut TcpStream, word: &[u8; 8]) {
    stream.write_all(word).await.expect("bytes sent");
    comes_back(stream, word).await;
}

async fn comes_back(stream: &mut TcpStream, word: &[u8; 8]) {
    let mut back = [0; 8];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut back)).await;
    read.expect("in time").expect("bytes back");
    assert_eq!(&back, word);
}

/// Sends `bytes` while `meanwhile` happens, and wants the same back to the end.
async fn carries<T>(stream: TcpStream, bytes: Vec<u8>, meanwhile: impl Future<Output = T>) -> T {
    let (mut read, mut write) = stream.into_split();
    let bytes = Arc::new(bytes);
    let sent = Arc::clone(&bytes);
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.expect("bytes sent");
        write.shutdown().await.expect("the half closed");
    });
    let receiving = async {
        let mut back = Vec::with_capacity(bytes.len());
        read.read_to_end(&mut back).await.expect("bytes back");
        assert!(back == *bytes, "{} other bytes came back, of {}", back.len(), bytes.len());
    };
    let (happened, received) = tokio::join!(meanwhile, tokio::time::timeout(LIMIT, receiving));
    received.expect("in time");
    sending.await.expect("everything was sent");
    happened
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_and_a_silent_login_outlive_an_outage_beyond_the_idle_limit() {
    let frail = Frail::new(|_| {}).await;
    let first = frail.session_id();
    let (mut login, mut late) = (frail.connect().await, frail.connect().await);
    exchange(&mut login, b"password").await;
    exchange(&mut late, b"question").await;
    let stream = frail.connect().await;
    let outage = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        frail.link.becomes(|path| path.down = true);
        // Sent into the void, and answered all the same.
        late.write_all(b"anybody?").await.expect("bytes sent");
        frail.outage().await;
        let start = Instant::now();
        comes_back(&mut late, b"anybody?").await;
        start.elapsed()
    };
    let stall = carries(stream, noise(1, 64 << 20), outage).await;
    println!("{stall:?} after the path was back");
    assert!(stall < Duration::from_secs(5), "{stall:?}");
    assert_ne!(frail.session_id(), first, "it is another session");
    exchange(&mut login, b"and then").await;
    assert_eq!(frail.target.connects(), 3, "nothing was connected twice");
    let metrics = frail.tunnel.metrics();
    assert!(metrics.contains("conduit_resumed_connections_total 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_resumption_what_was_open_is_reset_at_once() {
    let frail = Frail::new(|settings| settings.tunnel.options.resume = None).await;
    let mut open = frail.connect().await;
    exchange(&mut open, b"question").await;
    frail.link.becomes(|path| path.down = true);
    open.write_all(b"anybody?").await.expect("bytes sent");
    let end = tokio::time::timeout(IDLE * 3, open.read_exact(&mut [0; 8])).await;
    end.expect("in time").expect_err("a reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_time_is_over_what_was_open_is_reset_with_the_reason() {
    let resume = Duration::from_secs(1);
    let frail = Frail::new(|settings| settings.tunnel.options.resume = Some(resume)).await;
    let mut open = frail.connect().await;
    exchange(&mut open, b"question").await;
    frail.link.becomes(|path| path.down = true);
    let start = Instant::now();
    let end = tokio::time::timeout(IDLE * 4, open.read_exact(&mut [0; 8])).await;
    end.expect("in time").expect_err("a reset");
    println!("reset after {:?}", start.elapsed());
    assert!(start.elapsed() >= resume + IDLE / 2, "{:?}", start.elapsed());
    assert!(frail.tunnel.last_error().is_some(), "and it says why");
    frail.link.becomes(|path| path.down = false);
    let fresh = async { exchange(&mut frail.connect().await, b"question").await };
    tokio::time::timeout(LIMIT, fresh).await.expect("new connections are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_connection_gets_its_answer_after_the_outage() {
    let frail = Frail::new(|settings| settings.relay.linger = Duration::from_millis(500)).await;
    let mut open = frail.connect().await;
    exchange(&mut open, b"question").await;
    frail.link.becomes(|path| path.down = true);
    open.write_all(b"the last").await.expect("bytes sent");
    open.shutdown().await.expect("the half closed");
    frail.outage().await;
    comes_back(&mut open, b"the last").await;
    let end = tokio::time::timeout(LIMIT, open.read(&mut [0; 1])).await;
    assert_eq!(end.expect("in time").expect("an end"), 0, "a proper end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_during_the_outage_is_gone_at_the_target_after_it() {
    let (gone, mut is_gone) = tokio::sync::mpsc::channel(1);
    let target = Target::new(move |mut stream| {
        let gone = gone.clone();
        async move {
            let ended = tokio::io::copy(&mut stream.split().0, &mut tokio::io::sink()).await;
            let _ = gone.send(ended).await;
        }
    })
    .await;
    let frail = Frail::new(|settings| settings.tunnel.source = target.addr.into()).await;
    let open = frail.connect().await;
    within(LIMIT, "the target is connected", || target.connects() == 1).await;
    let leaving = async {
        tokio::time::sleep(IDLE * 2).await;
        socket2::SockRef::from(&open).set_linger(Some(Duration::ZERO)).expect("a reset");
        drop(open);
    };
    tokio::join!(frail.outage(), leaving);
    let ended = tokio::time::timeout(Duration::from_secs(5), is_gone.recv()).await;
    ended.expect("long before the time is over").expect("a word").expect_err("a reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_of_a_reverse_tunnel_stay() {
    let frail = Frail::new(|settings| settings.tunnel.direction = Direction::Reverse).await;
    let mut visitor = frail.connect().await;
    exchange(&mut visitor, b"question").await;
    let port = frail.tunnel.local_addr();
    carries(frail.connect().await, noise(2, 32 << 20), frail.outage()).await;
    exchange(&mut visitor, b"and then").await;
    assert_eq!(frail.tunnel.local_addr(), port);
    assert_eq!(frail.target.connects(), 2);
}

/// The session's connection is taken away again and again, in the midst of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_random_transfers_over_connections_that_keep_being_lost() {
    keep_being_lost(1).await;
}

mod chaos {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_random_transfers_over_connections_that_keep_being_lost() {
        super::keep_being_lost(50).await;
    }
}

async fn keep_being_lost(rounds: u64) {
    for seed in 0..rounds {
        for direction in [Direction::Forward, Direction::Reverse] {
            keeps_being_lost(seed, direction).await;
        }
    }
}

async fn keeps_being_lost(seed: u64, direction: Direction) {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let tunnel = stage.tunnel_with(target.addr, |it| it.tunnel.direction = direction).await;
    let mut transfers = JoinSet::new();
    for number in 0..TRANSFERS {
        transfers.spawn(wanders(tunnel.local_addr(), seed * TRANSFERS + number));
    }
    let (mut lost, mut dice) = (0, noise(seed, 1 << 16).into_iter().cycle());
    let start = Instant::now();
    while !transfers.is_empty() {
        assert!(start.elapsed() < LIMIT, "seed {seed}: {} transfers hang", transfers.len());
        let pause = Duration::from_millis(10 + u64::from(dice.next().expect("a die")) / 4);
        tokio::select! {
            done = transfers.join_next() => {
                done.expect("one more").unwrap_or_else(|error| {
                    panic!("seed {seed}: {error}; the tunnel says {:?}", tunnel.last_error())
                });
            }
            () = tokio::time::sleep(pause) => {
                // A client with nothing open would take its time to come back.
                if number(&tunnel.metrics(), "conduit_active_connections") > 0
                    && let Some(session) = tunnel.session()
                {
                    session.interrupt("a test");
                    lost += 1;
                }
            }
        }
    }
    println!("{direction}, seed {seed}: {lost} connections lost in {:?}", start.elapsed());
    assert!(lost >= 5, "{lost}");
    assert_eq!(target.connects(), TRANSFERS as usize, "nothing was connected twice");
}

/// Sends noise in pieces and with pauses, at random, and wants the same bytes and the end.
pub(crate) async fn wanders(addr: std::net::SocketAddr, seed: u64) {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let bytes = noise(seed, 1 << (seed % 21));
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        let mut dice = noise(seed + (1 << 40), 4_096).into_iter().cycle();
        let mut die = || usize::from(dice.next().expect("a die"));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min((die() * die()).max(1)));
            write.write_all(piece).await.expect("bytes sent");
            tokio::time::sleep(Duration::from_millis(die() as u64 / 4)).await;
            rest = after;
        }
        write.shutdown().await.expect("the half closed");
    };
    let receiving = async {
        let mut back = Vec::with_capacity(bytes.len());
        read.read_to_end(&mut back).await.expect("bytes back");
        assert!(back == bytes, "transfer {seed}: {} other bytes of {}", back.len(), bytes.len());
    };
    tokio::join!(sending, receiving);
}

/// Of one round in one direction.
const TRANSFERS: u64 = 100;
/// After so long without a word a connection is lost.
const IDLE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);
