//! What silence does to a connection: what a client can find out about it, and that both ends keep it. [STR-14] [SES-28]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use conduit::client::{self, Access, RouterAddress};
use conduit::identity::Keypair;
use conduit::session::{self, Admission};
use conduit::task::Tasks;
use conduit::transport::{self, ReadError, RecvStream, RouterEndpoint, Secrets, Sockets};
use conduit::wire::{
    Code, Framed, StreamAnswer, StreamClass, StreamHeader, VERSION, decode, encode, split_frame,
};
use conduit::{relay, router};
use prost::Message as _;
use quinn::ReadToEndError;

use crate::link::{Conditions, Link, Way};
use crate::stage::{Stage, Target};
use crate::stranger::{Admitted, Stranger};

/// As the owner of a stage, over a path.
fn access(stage: &Stage, link: &Link) -> Access {
    let addresses = vec![link.addr().into()];
    let router = RouterAddress { addresses, identity: stage.router.identity() };
    Access {
        transport: stage.transport.clone(),
        ..Access::new(Arc::clone(&stage.owner), router, "loopback")
    }
}

async fn stage_and_link(change: impl FnOnce(&mut router::Settings)) -> (Stage, Link) {
    let stage = Stage::with(|settings| {
        settings.transport.trust_loopback = false;
        change(settings);
    })
    .await;
    let path = Conditions::rtt(Duration::from_millis(30));
    let link = Link::to(stage.router.local_addr(), 14, path);
    (stage, link)
}

/// The path carries no packet at all in between, in either direction.
#[tokio::test]
async fn a_silence_that_is_measured_is_one() {
    let (stage, link) = stage_and_link(|_| {}).await;
    let access = access(&stage, &link);
    let silence = Duration::from_secs(8);
    let measuring = client::lifetime(&access, std::slice::from_ref(&silence));
    let packets = || (link.count(Way::Up).carried, link.count(Way::Down).carried);
    let watching = async {
        let (mut longest, mut seen, mut since) = (Duration::ZERO, packets(), Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if packets() != seen {
                longest = longest.max(since.elapsed());
                (seen, since) = (packets(), Instant::now());
            }
            // The answer has come.
            if longest > silence / 2 {
                return (longest, seen);
            }
        }
    };
    let (found, (longest, packets)) = tokio::join!(measuring, watching);
    println!("{found:?}, the path was silent for {longest:?}, {packets:?} packets before");
    assert!(longest > silence - Duration::from_millis(500), "{longest:?}");
    let lived = found.lived.expect("it is outlived");
    assert!(lived.abs_diff(longest) < Duration::from_millis(200), "{lived:?} and {longest:?}");
    assert_eq!((found.lapsed, found.untold), (None, None));
}

#[tokio::test]
async fn the_bounds_of_a_mapping_are_found_on_both_sides() {
    let (stage, link) = stage_and_link(|_| {}).await;
    link.remembers(Duration::from_secs(4));
    let silences = [2, 6].map(Duration::from_secs);
    let start = Instant::now();
    let found = client::lifetime(&access(&stage, &link), &silences).await;
    let took = start.elapsed();
    println!("{found:?} in {took:?}, {} packets forgotten", link.count(Way::Down).forgotten);
    let lived = found.lived.expect("the shorter one is outlived");
    assert!((1_500..2_500).contains(&lived.as_millis()), "{lived:?}");
    assert_eq!((found.lapsed, found.untold), (Some(silences[1]), None));
    assert!(link.count(Way::Down).forgotten > 0, "the router did say something");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn what_does_not_keep_silent_tells_nothing() {
    // Its limit is too short for its clients' keep-alives: it sends its own.
    let (stage, link) =
        stage_and_link(|settings| settings.transport.idle_timeout = Duration::from_secs(4)).await;
    let mut access = access(&stage, &link);
    access.transport = transport::Settings { trust_loopback: false, ..Default::default() };
    let found = client::lifetime(&access, &[Duration::from_secs(3)]).await;
    assert_eq!((found.lived, found.lapsed), (None, None), "{found:?}");
    assert!(found.untold.expect("a reason").contains("the longest silence"));

    let found = client::lifetime(&answering_at_once().await, &[Duration::from_secs(3)]).await;
    assert_eq!((found.lived, found.lapsed), (None, None), "{found:?}");
    assert!(found.untold.expect("a reason").contains("answers at once"));
}

/// Only the router's limit is short; the client's keep-alives come too late for it.
#[tokio::test]
async fn an_idle_tunnel_stays_up_whichever_end_has_the_shorter_limit() {
    for (router, client) in [(2, 30), (30, 2)] {
        let stage = Stage::with(|settings| {
            settings.transport.idle_timeout = Duration::from_secs(router);
        })
        .await;
        let target = Target::echo().await;
        let tunnel = stage
            .tunnel_with(target.addr, |settings| {
                settings.access.transport.idle_timeout = Duration::from_secs(client);
            })
            .await;
        let session = tunnel.session().expect("a session");
        let ended = tokio::time::timeout(Duration::from_secs(5), session.closed()).await;
        assert!(ended.is_err(), "{router} s at the router, {client} s at the client: {ended:?}");
    }
}

#[tokio::test]
async fn a_probe_waits_as_long_as_it_says_and_neither_too_long_nor_with_too_many_others() {
    let stage = Stage::new().await;
    let Admitted { stranger, control: _control, answers: _answers } =
        Stranger::admitted_at(&stage).await;
    let start = Instant::now();
    let mut token = 0;
    let mut probe = async |delay_ms, more: &[u8]| {
        token += 1;
        asked(&stranger, token, delay_ms, more).await
    };
    for delay in [25_001, u32::MAX] {
        assert_eq!(probe(delay, b"").await.answer().await, Code::Limit.number() as u32, "{delay}");
    }
    // A field that nobody knows makes no difference.
    let mut waiting = Vec::new();
    for unknown in [&b"\x78\x07"[..], b""].into_iter().cycle().take(8) {
        let mut asked = probe(2_000, unknown).await;
        assert_eq!(asked.answer().await, 0);
        waiting.push(asked);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "answers do not wait");
    assert_eq!(probe(2_000, b"").await.answer().await, Code::Limit.number() as u32);
    assert_eq!(probe(0, b"").await.answer().await, 0, "others do not wait");
    for mut asked in waiting {
        assert_eq!(asked.rest().await, b"ping");
        let took = start.elapsed();
        assert!((2.0..4.0).contains(&took.as_secs_f64()), "{took:?}");
    }
    let mut again = probe(1, b"").await;
    assert_eq!((again.answer().await, again.rest().await), (0, b"ping".to_vec()));
    assert!(stranger.connection.close_reason().is_none(), "the session goes on");
}

#[tokio::test]
async fn who_does_not_wait_leaves_a_place_and_who_sends_too_much_is_broken_off_at_once() {
    let stage = Stage::new().await;
    let Admitted { stranger, control: _control, answers: _answers } =
        Stranger::admitted_at(&stage).await;
    let start = Instant::now();
    let mut token = 0;
    for round in 0..3 {
        let mut waiting = Vec::new();
        while waiting.len() < 8 {
            token += 1;
            let mut asked = asked(&stranger, token, 20_000, b"").await;
            // Those of the round before may have a place for a moment.
            if asked.answer().await == 0 {
                waiting.push(asked);
            }
            assert!(start.elapsed() < Duration::from_secs(10), "round {round}: {}", waiting.len());
        }
    }
    let (mut send, mut receive) = stranger.connection.open().await.expect("a stream");
    let mut bytes = BytesMut::new();
    encode(&header(token + 1, 20_000), &mut bytes);
    bytes.extend_from_slice(&[7; (64 << 10) + 1]);
    // It may be stopped before everything is sent.
    let _ = send.write_all(&bytes).await;
    let read = tokio::time::timeout(Duration::from_secs(5), receive.read_to_end(1 << 10)).await;
    let Err(ReadToEndError::Read(ReadError::Reset(code))) = read.expect("at once") else {
        panic!("it is served")
    };
    assert_eq!(Code::from_number(code.into_inner()), Code::Limit);
}

/// A stream of the test's own, whose answer is still to come.
struct Asked {
    receive: RecvStream,
    came: BytesMut,
}

/// Sends a probe and its end; `more` are further fields of its header.
async fn asked(stranger: &Stranger, token: u64, delay_ms: u32, more: &[u8]) -> Asked {
    let (mut send, receive) = stranger.connection.open().await.expect("a stream");
    let mut bytes = header(token, delay_ms).encode_to_vec();
    bytes.extend_from_slice(more);
    bytes.insert(0, u8::try_from(bytes.len()).expect("a short header"));
    bytes.extend_from_slice(b"ping");
    // Who is turned away may hear of it before everything is sent.
    let _ = send.write_all(&bytes).await;
    let _ = send.finish();
    Asked { receive, came: BytesMut::new() }
}

fn header(token: u64, delay_ms: u32) -> StreamHeader {
    let class = StreamClass::Probe.into();
    StreamHeader { version: VERSION, class, token, delay_ms, ..StreamHeader::default() }
}

impl Asked {
    /// The code of the router's answer.
    async fn answer(&mut self) -> u32 {
        loop {
            if let Ok(Framed::Whole(frame)) = split_frame(&mut self.came, 1 << 10) {
                return decode::<StreamAnswer>(frame).expect("an answer").code;
            }
            let chunk = tokio::time::timeout(LIMIT, self.receive.read_chunk(1 << 10, true));
            let chunk = chunk.await.expect("in time").expect("a stream").expect("an answer");
            self.came.extend_from_slice(&chunk.bytes);
        }
    }

    /// What follows it.
    async fn rest(&mut self) -> Vec<u8> {
        let rest = tokio::time::timeout(LIMIT, self.receive.read_to_end(1 << 10));
        [&self.came, &rest.await.expect("in time").expect("the end")[..]].concat()
    }
}

/// The way to a router that does not know of delays: it sends every probe back at once.
async fn answering_at_once() -> Access {
    let keypair = Keypair::generate().expect("a key");
    let settings = transport::Settings::default();
    let secrets = Secrets::from_seed([3; Secrets::LEN]);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = RouterEndpoint::bind(&settings, &keypair, &secrets, any, Sockets::default())
        .expect("an endpoint");
    let addresses = vec![endpoint.local_addr().expect("its address").into()];
    let router = RouterAddress { addresses, identity: keypair.identity() };
    tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("somebody").handshake().await;
        let connection = connection.expect("a connection");
        let applicant = session::accept(connection, &session::Settings::default()).await;
        let admission = Admission {
            name: "c".into(),
            owner: true,
            targets: Vec::new(),
            binds: Vec::new(),
            enrolled: false,
        };
        let tasks = Tasks::new();
        let admitted = applicant.expect("an applicant").admit(admission, None, &tasks).await;
        let (session, _events) = admitted.expect("a session");
        while let Ok(knock) = session.accept().await {
            let incoming = knock.header(LIMIT).await.expect("a header").expect("a new stream");
            let (sender, receiver, _seat) = incoming.admit().await.expect("admitted");
            relay::echo(sender, receiver, 64 << 10).await;
        }
    });
    Access::new(Arc::new(Keypair::generate().expect("a key")), router, "loopback")
}

const LIMIT: Duration = Duration::from_secs(10);
