//! What a router says to declarations, and to streams and flows for tunnels of another kind.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use conduit::transport::{ReadError, RecvStream};
use conduit::wire::{
    Code, Declare, Direction, FlowClose, FlowOpen, Framed, Oversize, Protocol, ProxyProtocol,
    StreamAnswer, StreamClass, StreamHeader, VERSION, control::Message, decode, encode,
    split_frame,
};

use crate::stage::{Stage, Target};
use crate::stranger::{Admitted, Stranger, frame, next};

/// A client that says one thing after the other, and what the router answers.
struct Talk {
    admitted: Admitted,
    buffer: BytesMut,
}

impl Talk {
    async fn with(stage: &Stage) -> Self {
        Self { admitted: Stranger::admitted_at(stage).await, buffer: BytesMut::new() }
    }

    async fn says(&mut self, message: Message) {
        self.admitted.control.write_all(&frame(message)).await.expect("a message");
    }

    async fn hears(&mut self) -> Message {
        let answer = next(&mut self.admitted.answers, &mut self.buffer);
        let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
        let control = answer.expect("an answer in time").expect("an answer");
        control.message.expect("a message that is known")
    }

    /// The code of the answer, and where the router listens.
    async fn declares(&mut self, declare: Declare) -> (Code, String) {
        let tunnel = declare.tunnel;
        self.says(Message::Declare(declare)).await;
        let Message::Declared(declared) = self.hears().await else { panic!("no Declared") };
        assert_eq!(declared.tunnel, tunnel);
        assert_eq!(declared.code == 0, declared.message.is_empty(), "{}", declared.message);
        (Code::from_number(declared.code.into()), declared.bind)
    }

    /// The code of a stream's refusal.
    async fn is_refused(&self, header: StreamHeader) -> Code {
        let connection = &self.admitted.stranger.connection;
        let (mut send, mut receive) = connection.open().await.expect("a stream");
        let mut bytes = BytesMut::new();
        encode(&header, &mut bytes);
        send.write_all(&bytes).await.expect("a header");
        refusal(&mut receive).await
    }
}

async fn refusal(receive: &mut RecvStream) -> Code {
    let answer = tokio::time::timeout(Duration::from_secs(5), receive.read_chunk(4_096, true));
    match answer.await.expect("an answer in time") {
        Ok(Some(chunk)) => {
            let Ok(Framed::Whole(frame)) =
                split_frame(&mut BytesMut::from(&chunk.bytes[..]), 4_096)
            else {
                panic!("no frame")
            };
            let answer: StreamAnswer = decode(frame).expect("an answer");
            Code::from_number(answer.code.into())
        }
        Err(ReadError::Reset(code)) => Code::from_number(code.into_inner()),
        other => panic!("{other:?}"),
    }
}

/// [SES-30] [SES-31] [RVS-1]
#[tokio::test]
async fn declarations_are_refused_one_by_one_with_a_code_and_the_session_goes_on() {
    let stage = Stage::new().await;
    let mut talk = Talk::with(&stage).await;
    let (udp, unix) = (i32::from(Protocol::Udp), || vec!["unix:/run/app.sock".to_owned()]);
    // A path that begins with a slash leads nowhere on Windows.
    let not_published = if cfg!(windows) { Code::Unavailable } else { Code::Denied };
    let refused = [
        (Code::Unsupported, Declare { requires: vec![12], ..forward(1) }),
        (Code::Unsupported, Declare { version: 0, ..forward(1) }),
        (Code::Unsupported, forward(0)),
        (Code::Unsupported, Declare { direction: 2, ..forward(1) }),
        (Code::Unsupported, Declare { protocol: 2, ..forward(1) }),
        (Code::Unsupported, Declare { protocol: -1, ..forward(1) }),
        (Code::Unsupported, Declare { oversize: 3, ..forward(1) }),
        (Code::Unsupported, Declare { proxy_protocol: 3, ..forward(1) }),
        (
            Code::Unsupported,
            Declare { proxy_protocol: ProxyProtocol::V1.into(), protocol: udp, ..forward(1) },
        ),
        (Code::Unsupported, Declare { sources: Vec::new(), ..forward(1) }),
        (Code::Unsupported, Declare { sources: vec!["h:1".into(), "h:2".into()], ..forward(1) }),
        (Code::Unsupported, Declare { sources: unix(), protocol: udp, ..forward(1) }),
        (Code::Unsupported, Declare { sources: vec!["h:1".into()], ..reverse(1, "127.0.0.1:0") }),
        (Code::Unsupported, Declare { protocol: udp, ..reverse(1, "unix:/run/app.sock") }),
        (Code::Denied, Declare { name: "a b".into(), ..forward(1) }),
        (Code::Denied, Declare { group: "a b".into(), ..forward(1) }),
        (Code::Denied, Declare { sources: vec!["nowhere".into()], ..forward(1) }),
        (Code::Denied, Declare { sources: vec!["unix:run/a".into()], ..forward(1) }),
        (Code::Denied, Declare { trusted_proxies: vec!["10/8".into()], ..forward(1) }),
        (Code::Limit, Declare { trusted_proxies: vec!["10.0.0.1".into(); 65], ..forward(1) }),
        (Code::Denied, reverse(1, "127.0.0.1:80")),
        (Code::Denied, reverse(1, "somewhere:8080")),
        (Code::Denied, reverse(1, "")),
        (not_published, reverse(1, "unix:/app.sock")),
    ];
    for (code, declare) in refused {
        let shown = format!("{declare:?}");
        let answer = talk.declares(declare).await;
        assert_eq!(answer.0, code, "{shown}");
    }
    let everything = Declare {
        protocol: udp,
        oversize: Oversize::Stream.into(),
        proxy_protocol: ProxyProtocol::V2.into(),
        trusted_proxies: vec!["10.0.0.1".into(), "fd00::/8".into()],
        max_flows: u32::MAX,
        flow_idle_ms: u64::MAX,
        ..forward(1)
    };
    assert_eq!(talk.declares(everything).await.0, Code::Done);
    assert_eq!(talk.declares(forward(1)).await.0, Code::Protocol, "it is declared already");
}

/// [RVS-1] [RVS-6]
#[tokio::test]
async fn a_port_is_published_until_its_tunnel_is_withdrawn() {
    let stage = Stage::new().await;
    let mut talk = Talk::with(&stage).await;
    for (tunnel, protocol) in [(1, Protocol::Tcp), (2, Protocol::Udp)] {
        let name = format!("t{tunnel}");
        let declare = Declare { name, protocol: protocol.into(), ..reverse(tunnel, "127.0.0.1:0") };
        let (code, bind) = talk.declares(declare).await;
        assert_eq!(code, Code::Done);
        let addr: SocketAddr = bind.parse().expect("an address");
        assert_ne!(addr.port(), 0);
        let is_taken = || match protocol {
            Protocol::Tcp => std::net::TcpListener::bind(addr).is_err(),
            Protocol::Udp => UdpSocket::bind(addr).is_err(),
        };
        assert!(is_taken(), "the router listens on {addr}");
        talk.says(Message::Withdraw(conduit::wire::Withdraw { tunnel })).await;
        crate::stage::within(Duration::from_secs(5), "the port is free", || !is_taken()).await;
    }
}

/// [STR-13] [FLW-8] [RVS-3]
#[tokio::test]
async fn streams_and_flows_for_a_tunnel_of_another_kind_are_refused() {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let mut talk = Talk::with(&stage).await;
    let udp = i32::from(Protocol::Udp);
    let sources = || vec![target.addr.to_string()];
    for declare in [
        Declare { sources: sources(), ..forward(1) },
        Declare { sources: sources(), protocol: udp, ..forward(2) },
        Declare { name: "r".into(), ..reverse(3, "127.0.0.1:0") },
        Declare { name: "u".into(), protocol: udp, ..reverse(4, "127.0.0.1:0") },
    ] {
        assert_eq!(talk.declares(declare).await.0, Code::Done);
    }
    let header = |tunnel, class: StreamClass| StreamHeader {
        version: VERSION,
        tunnel,
        token: u64::from(tunnel) + 1,
        class: class.into(),
        ..StreamHeader::default()
    };
    for tunnel in [2, 3, 4, 5] {
        let code = talk.is_refused(header(tunnel, StreamClass::Connect)).await;
        assert_eq!(code, Code::Protocol, "tunnel {tunnel}");
    }
    // Visitors are the router's to announce.
    let code = talk.is_refused(header(3, StreamClass::Incoming)).await;
    assert_eq!(code, Code::Unsupported);
    // A number of the router's own; for the next one of the client's it would wait.
    let no_flow = StreamHeader { flow: 3, ..header(2, StreamClass::Flow) };
    assert_eq!(talk.is_refused(no_flow).await, Code::Protocol, "no such flow");
    let unknown = StreamHeader { class: 5, ..header(1, StreamClass::Connect) };
    assert_eq!(talk.is_refused(unknown).await, Code::Unsupported);
    let code = talk.is_refused(header(1, StreamClass::Resume)).await;
    assert_eq!(code, Code::Gone, "nothing was lost that could go on");
    for (flow, tunnel) in [(2, 1), (4, 3), (6, 4), (8, 5)] {
        talk.says(Message::FlowOpen(FlowOpen { flow, tunnel, ..FlowOpen::default() })).await;
        let Message::FlowClose(FlowClose { flow: closed, code, .. }) = talk.hears().await else {
            panic!("no FlowClose")
        };
        assert_eq!((closed, Code::from_number(code.into())), (flow, Code::Protocol));
    }
    assert_eq!(target.connects(), 0);
    let connection = &talk.admitted.stranger.connection;
    assert!(connection.close_reason().is_none(), "refusals are no reason to hang up");
}

/// The router says that a flow begins while the client still waits to hear of the last ports.
#[tokio::test]
async fn a_visitor_who_comes_while_a_row_is_being_declared_is_served() {
    let stage = Stage::new().await;
    let service = tokio::net::UdpSocket::bind(("127.0.0.1", free_row()));
    let service = service.await.expect("a socket");
    let source = service.local_addr().expect("its address");
    let echoing = tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = service.recv_from(&mut bytes).await {
            let _ = service.send_to(&bytes[..length], from).await;
        }
    });
    let first = free_row();
    let visitor = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
    let knocking = tokio::spawn({
        let visitor = Arc::clone(&visitor);
        async move {
            loop {
                let _ = visitor.send_to(b"knock", ("127.0.0.1", first)).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let tunnel = stage.tunnel_with(source, |settings| {
        let last = first + ROW - 1;
        let port = source.port();
        settings.tunnel.direction = conduit::tunnel::Direction::Reverse;
        settings.tunnel.protocol = conduit::tunnel::Protocol::Udp;
        settings.tunnel.bind = format!("127.0.0.1:{first}-{last}").parse().expect("a row");
        // Only the first port has visitors, and a service.
        let sources = format!("127.0.0.1:{port}-{}", port + ROW - 1);
        settings.tunnel.source = sources.parse().expect("a row");
    });
    let _tunnel = tunnel.await;
    let mut bytes = [0; 64];
    let answer = tokio::time::timeout(Duration::from_secs(10), visitor.recv_from(&mut bytes));
    let (length, _) = answer.await.expect("served in time").expect("a packet");
    assert_eq!(&bytes[..length], b"knock");
    knocking.abort();
    echoing.abort();
}

/// The first of [`ROW`] ports that are free, one after the other.
fn free_row() -> u16 {
    // Below the ports that the system hands out by itself, of which others may have taken many. Tests that run at the same
    // time begin at different rows.
    let rows = (30_000 - 2_048) / u32::from(ROW);
    for number in (std::process::id()..).take(rows as usize) {
        let first = 2_048 + (number % rows) as u16 * ROW;
        let last = first + ROW - 1;
        let row: Vec<_> =
            (first..=last).map_while(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).collect();
        if row.len() == usize::from(ROW) {
            return first;
        }
    }
    panic!("no row of {ROW} free ports")
}

/// Long enough that packets come before the last port is published.
const ROW: u16 = 200;

fn forward(tunnel: u32) -> Declare {
    Declare {
        version: VERSION,
        tunnel,
        name: "t".into(),
        sources: vec!["127.0.0.1:9".into()],
        ..Declare::default()
    }
}

fn reverse(tunnel: u32, bind: &str) -> Declare {
    Declare {
        direction: Direction::Reverse.into(),
        bind: bind.into(),
        sources: Vec::new(),
        ..forward(tunnel)
    }
}
