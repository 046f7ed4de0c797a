//! A router that asks its clients for what they have not declared. [RVS-3]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use conduit::client::RouterAddress;
use conduit::identity::Keypair;
use conduit::session::{self, Admission, Event, ReceiveError, Session};
use conduit::task::Tasks;
use conduit::transport::{self, RouterEndpoint, Secrets, Sockets};
use conduit::tunnel::{Direction, HostPort, Identity, Protocol};
use conduit::wire::{Code, Declared, FlowClose, FlowOpen, StreamClass, StreamHeader, VERSION};
use tokio::sync::mpsc;

use crate::raw::{Packets, becomes, number, packet};
use crate::stage::{Stage, Target};

/// A router of the test's own, before anybody has come.
struct Door {
    endpoint: RouterEndpoint,
    addr: SocketAddr,
    identity: Identity,
}

/// A router that has admitted one client.
struct Hostile {
    session: Session,
    events: mpsc::Receiver<Event>,
    _door: Door,
    _tasks: Tasks,
}

impl Door {
    fn new() -> Self {
        let keypair = Keypair::generate().expect("a key");
        let settings = transport::Settings::default();
        let secrets = Secrets::from_seed([3; Secrets::LEN]);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = RouterEndpoint::bind(&settings, &keypair, &secrets, any, Sockets::default())
            .expect("an endpoint");
        let addr = endpoint.local_addr().expect("its address");
        Self { endpoint, addr, identity: keypair.identity() }
    }

    /// What a client needs to come here.
    fn address(&self) -> RouterAddress {
        RouterAddress { addresses: vec![HostPort::from(self.addr)], identity: self.identity }
    }

    /// Admits whoever comes first, and says yes to its tunnel.
    async fn opens(self) -> Hostile {
        let arrival = self.endpoint.accept().await.expect("somebody");
        let connection = arrival.handshake().await.expect("a connection");
        let applicant = session::accept(connection, &session::Settings::default()).await;
        let tasks = Tasks::new();
        let admission = Admission {
            name: "c".into(),
            owner: true,
            targets: Vec::new(),
            binds: Vec::new(),
            enrolled: false,
        };
        let admitted = applicant.expect("an applicant").admit(admission, None, &tasks).await;
        let (session, mut events) = admitted.expect("a session");
        let Some(Event::Declare(declare)) = events.recv().await else { panic!("no declaration") };
        let bind = "127.0.0.1:4".to_owned();
        let declared = Declared { tunnel: declare.tunnel, bind, ..Declared::default() };
        session.say(Event::Declared(declared)).await.expect("an answer");
        Hostile { session, events, _door: self, _tasks: tasks }
    }
}

impl Hostile {
    /// Opens a stream, sends `payload` and the end, and reads everything.
    async fn asks(&self, header: StreamHeader, payload: &'static [u8]) -> Result<Vec<u8>, Code> {
        let header = StreamHeader { version: VERSION, ..header };
        let open = self.session.open(header, Bytes::from_static(payload));
        let opened = tokio::time::timeout(LIMIT, open).await.expect("a stream in time");
        let (mut sender, mut receiver) = opened.expect("a stream");
        sender.finish();
        let (mut bytes, mut queue) = (Vec::new(), VecDeque::new());
        loop {
            let read = poll_fn(|cx| receiver.poll_receive(cx, &mut queue));
            match tokio::time::timeout(LIMIT, read).await.expect("an answer in time") {
                Ok(Some(_)) => queue.drain(..).for_each(|chunk| bytes.extend_from_slice(&chunk)),
                Ok(None) => return Ok(bytes),
                Err(ReceiveError::Refused { code, .. } | ReceiveError::Reset(code)) => {
                    return Err(code);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn opens_flow(&self, flow: u64, tunnel: u32) {
        let payload = Some(Bytes::from_static(b"intruder"));
        let open = FlowOpen { flow, tunnel, payload, ..FlowOpen::default() };
        self.session.say(Event::FlowOpen(open)).await.expect("said");
    }

    async fn hears_close(&mut self) -> FlowClose {
        match tokio::time::timeout(LIMIT, self.events.recv()).await.expect("in time") {
            Some(Event::FlowClose(close)) => close,
            other => panic!("no FlowClose: {other:?}"),
        }
    }

    async fn hears_nothing(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.events.recv()).await.is_err()
    }
}

#[tokio::test]
async fn a_client_dials_nothing_but_its_own_source_whatever_a_router_asks_for() {
    let stage = Stage::new().await;
    let (source, canary) = (Target::echo().await, Target::echo().await);
    let packets = Packets::canary(&canary.addr.to_string()).await;
    let door = Door::new();
    let address = door.address();
    let (mut router, client) = tokio::join!(
        door.opens(),
        stage.tunnel_with(source.addr, |settings| {
            becomes(settings, Direction::Reverse, Protocol::Tcp);
            settings.access.router = address;
        })
    );
    let incoming = StreamHeader { class: StreamClass::Incoming.into(), ..StreamHeader::default() };
    for tunnel in [0, 2, 3, 99, u32::MAX] {
        let asked = router.asks(StreamHeader { tunnel, ..incoming.clone() }, b"intruder").await;
        assert_eq!(asked, Err(Code::Denied), "tunnel {tunnel}");
    }
    for target in [canary.addr, source.addr] {
        for tunnel in [0, 1, 2] {
            let header = StreamHeader { tunnel, target: target.to_string(), ..incoming.clone() };
            let asked = router.asks(header, b"intruder").await;
            assert_eq!(asked, Err(Code::Denied), "tunnel {tunnel} to {target}");
        }
    }
    // Classes that are a client's to open, one for a flow that is not there, and one of the future.
    for class in [0, 1, 3, 77] {
        let target = canary.addr.to_string();
        let header = StreamHeader { class, tunnel: 1, target, flow: 1, ..StreamHeader::default() };
        assert!(router.asks(header, b"intruder").await.is_err(), "class {class}");
    }
    // No tunnel of this client carries packets.
    for (at, tunnel) in [0, 1, 2, u32::MAX].into_iter().enumerate() {
        let flow = 1 + 2 * at as u64;
        router.opens_flow(flow, tunnel).await;
        let close = router.hears_close().await;
        assert_eq!((close.flow, Code::from_number(close.code.into())), (flow, Code::Denied));
    }
    assert_eq!((canary.connects(), source.connects()), (0, 0));
    assert_eq!(packets.map_or(0, |packets| packets.count()), 0);
    let visitor = StreamHeader {
        tunnel: 1,
        visitor: "192.0.2.1:40000".into(),
        visited: "198.51.100.7:4".into(),
        ..incoming
    };
    assert_eq!(router.asks(visitor, b"a visitor").await.as_deref(), Ok(&b"a visitor"[..]));
    assert_eq!(source.connects(), 1);
    assert!(client.session().is_some(), "what a router asks for is no reason to hang up");
}

#[tokio::test]
async fn flows_of_a_router_reach_the_declared_source_and_no_more_of_them_than_the_tunnel_may_have()
{
    let stage = Stage::new().await;
    let source = Packets::echo().await;
    let door = Door::new();
    let address = door.address();
    let (mut router, client) = tokio::join!(
        door.opens(),
        stage.tunnel_with(source.addr, |settings| {
            becomes(settings, Direction::Reverse, Protocol::Udp);
            settings.tunnel.options.max_flows = 4;
            settings.access.router = address;
        })
    );
    for (flow, tunnel) in [(1, 0), (3, 2), (5, u32::MAX)] {
        router.opens_flow(flow, tunnel).await;
        let close = router.hears_close().await;
        assert_eq!((close.flow, Code::from_number(close.code.into())), (flow, Code::Denied));
    }
    // Numbers that do not grow, and those of the client.
    for flow in [0, 1, 2, 4, 5, 1 << 62, (1 << 62) + 1, u64::MAX] {
        router.opens_flow(flow, 1).await;
    }
    assert!(router.hears_nothing().await);
    assert_eq!(source.count(), 0);
    for flow in (11..=49).step_by(2) {
        router.opens_flow(flow, 1).await;
    }
    for _ in 0..16 {
        let close = router.hears_close().await;
        assert_eq!(Code::from_number(close.code.into()), Code::Limit, "{close:?}");
    }
    let mut datagrams = Vec::new();
    while datagrams.len() < 4 {
        let next = router.session.datagrams(4, &mut datagrams);
        tokio::time::timeout(LIMIT, next).await.expect("in time").expect("datagrams");
    }
    datagrams.sort();
    assert_eq!(datagrams, [11, 13, 15, 17].map(|flow| packet(flow, b"intruder")));
    assert_eq!(source.count(), 4);
    assert_eq!(number(&client.metrics(), "conduit_active_connections"), 4);
    let header =
        StreamHeader { class: StreamClass::Incoming.into(), tunnel: 1, ..StreamHeader::default() };
    assert_eq!(router.asks(header, b"TCP").await, Err(Code::Denied));
}

#[tokio::test]
async fn a_client_that_only_listens_serves_nothing_of_a_router() {
    let stage = Stage::new().await;
    let (source, canary) = (Packets::echo().await, Target::echo().await);
    let door = Door::new();
    let address = door.address();
    let (mut router, client) = tokio::join!(
        door.opens(),
        stage.tunnel_with(source.addr, |settings| {
            becomes(settings, Direction::Forward, Protocol::Udp);
            settings.access.router = address;
        })
    );
    for flow in [1, 3, 5] {
        router.opens_flow(flow, 1).await;
        let close = router.hears_close().await;
        assert_eq!((close.flow, Code::from_number(close.code.into())), (flow, Code::Denied));
    }
    let header = StreamHeader {
        class: StreamClass::Incoming.into(),
        tunnel: 1,
        target: canary.addr.to_string(),
        ..StreamHeader::default()
    };
    assert_eq!(router.asks(header, b"intruder").await, Err(Code::Denied));
    assert_eq!((source.count(), canary.connects()), (0, 0));
    assert!(client.session().is_some());
}

/// [RVS-7]
#[tokio::test]
async fn a_client_with_a_forward_tcp_tunnel_lets_a_router_open_no_stream_at_all() {
    let stage = Stage::new().await;
    let source = Target::echo().await;
    let door = Door::new();
    let address = door.address();
    let (mut router, client) = tokio::join!(
        door.opens(),
        stage.tunnel_with(source.addr, |settings| settings.access.router = address)
    );
    let header = StreamHeader { class: StreamClass::Incoming.into(), ..StreamHeader::default() };
    let open = router.session.open(header, Bytes::new());
    assert!(tokio::time::timeout(Duration::from_millis(300), open).await.is_err());
    router.opens_flow(1, 1).await;
    assert_eq!(Code::from_number(router.hears_close().await.code.into()), Code::Denied);
    assert_eq!(source.connects(), 0);
    assert!(client.session().is_some());
}

const LIMIT: Duration = Duration::from_secs(10);
