//! What the protocol adds to the bytes that it carries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::BytesMut;
use conduit::transport;
use conduit::wire::{Control, Delivered, StreamClass, StreamHeader, VERSION, control, encode};

use crate::harness::embedded::Tunnel;
use crate::harness::runtime;
use crate::harness::target::{ECHO, SWALLOW, Target};

/// UDP payload bytes for each byte that was carried.
pub(crate) struct OnTheWire {
    /// In the direction of the bytes.
    pub(crate) up: f64,
    /// Against it: acknowledgements, and reports of what was delivered.
    pub(crate) back: f64,
    /// Bytes of both directions for a connection that carries a byte there and back.
    pub(crate) connection: f64,
}

/// Counted by the client's end of a connection; `max_packet` as in the configuration.
pub(crate) fn on_the_wire(target: &Target, max_packet: Option<u16>) -> OnTheWire {
    let runtime = runtime();
    let settings = transport::Settings { max_packet, ..transport::Settings::default() };
    let bind = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let tunnel = runtime.block_on(Tunnel::start(bind, target.addr.into(), settings));
    let addr = tunnel.addr().expect("a TCP tunnel has an address");
    // The user is a thread of its own; this one is the router and the client.
    let during = |work: fn(SocketAddr)| {
        let before = tunnel.path().udp_bytes;
        runtime.block_on(async {
            tokio::task::spawn_blocking(move || work(addr)).await.expect("the user is served");
        });
        let after = tunnel.path().udp_bytes;
        ((after.0 - before.0) as f64, (after.1 - before.1) as f64)
    };
    // What the connection does once only is not what a byte costs.
    during(carry);
    let (up, back) = during(carry);
    let (there, here) = during(connect);
    runtime.block_on(tunnel.stop());
    OnTheWire {
        up: up / CARRIED as f64,
        back: back / CARRIED as f64,
        connection: (there + here) / CONNECTIONS as f64,
    }
}

fn carry(addr: SocketAddr) {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.write_all(&[SWALLOW]).expect("a wish");
    let bytes = vec![7; 1 << 20];
    (0..CARRIED / bytes.len()).for_each(|_| stream.write_all(&bytes).expect("bytes sent"));
    stream.shutdown(std::net::Shutdown::Write).expect("the end said");
    stream.read_exact(&mut [0]).expect("the end confirmed");
}

fn connect(addr: SocketAddr) {
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        stream.write_all(&[ECHO, 7]).expect("a byte sent");
        stream.read_exact(&mut [0]).expect("the byte comes back");
    }
}

/// Bytes in front of the first payload of a connection: what the client of a forward tunnel sends.
pub(crate) fn header() -> usize {
    encoded(&StreamHeader {
        version: VERSION,
        tunnel: 1,
        token: 1,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    })
}

/// Bytes of a report about one stream that has carried a gigabyte.
pub(crate) fn report() -> usize {
    let delivered = Delivered { tokens: vec![1], offsets: vec![1_000_000_000] };
    encoded(&Control { message: Some(control::Message::Delivered(delivered)) })
}

fn encoded(message: &impl prost::Message) -> usize {
    let mut frame = BytesMut::new();
    encode(message, &mut frame);
    frame.len()
}

/// Enough that the start does not count.
const CARRIED: usize = 64 << 20;
const CONNECTIONS: usize = 200;
