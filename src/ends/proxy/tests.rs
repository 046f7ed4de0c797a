//! Byte-exact vectors, both ways; cut, changed, slow, and absent headers.

use std::net::IpAddr;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::tunnel::ProxyProtocol;

fn addr(text: &str) -> Option<SocketAddr> {
    (!text.is_empty()).then(|| text.parse().expect(text))
}

fn visit(visitor: &str, visited: &str) -> Option<Visit> {
    Some(Visit::new(addr(visitor)?, addr(visited)?))
}

/// Version 2: `fixed` behind the signature, then the rest.
fn v2(fixed: [u8; 4], rest: &[u8]) -> Vec<u8> {
    [SIGNATURE.as_slice(), &fixed, rest].concat()
}

const V6: [u8; 36] = [
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // visitor
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 9, // visited
    0xdc, 0x04, 0x01, 0xbb, // ports
];

/// What is written for whom, and how it reads back.
fn vectors() -> Vec<(ProxyProtocol, Transport, &'static str, &'static str, Vec<u8>)> {
    use ProxyProtocol::{V1, V2};
    use Transport::{Datagram as Udp, Stream as Tcp};
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
    let (from, to) = ("192.0.2.1:56324", "198.51.100.1:443");
    let (from6, mapped) = ("[2001:db8::1]:56324", "192.0.2.9:443");
    vec![
        (V1, Tcp, from, to, b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec()),
        (V1, Tcp, from6, "[::1]:0", b"PROXY TCP6 2001:db8::1 ::1 56324 0\r\n".to_vec()),
        (V1, Tcp, from6, mapped, b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.9 56324 443\r\n".to_vec()),
        (
            V1,
            Tcp,
            "[::ffff:192.0.2.1]:56324",
            to,
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(),
        ),
        (V1, Tcp, "", to, b"PROXY UNKNOWN\r\n".to_vec()),
        (V1, Tcp, from, "", b"PROXY UNKNOWN\r\n".to_vec()),
        (V2, Tcp, from, to, v2([0x21, 0x11, 0, 12], &v4)),
        (V2, Udp, from, to, v2([0x21, 0x12, 0, 12], &v4)),
        (V2, Tcp, from6, mapped, v2([0x21, 0x21, 0, 36], &V6)),
        (V2, Udp, from6, mapped, v2([0x21, 0x22, 0, 36], &V6)),
        (V2, Tcp, "", to, v2([0x20, 0x00, 0, 0], &[])),
        (V2, Udp, from, "", v2([0x20, 0x00, 0, 0], &[])),
    ]
}

/// Headers that are not written here, and read all the same.
fn foreign() -> Vec<(Vec<u8>, Option<Visit>)> {
    let named = visit("[2001:db8::1]:56324", "192.0.2.9:443");
    let mut extended = V6.to_vec();
    extended.extend([0x04, 0, 1, 42]);
    let longest = [&V6[..], &[0; MOST_EXTRA - 36]].concat();
    let upper = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let worst = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(worst.len(), MOST_LINE);
    vec![
        (worst.into_bytes(), None),
        (format!("PROXY TCP6 {long} {long} 65535 65535\r\n").into_bytes(), visit(upper, upper)),
        (b"PROXY UNKNOWN \xff one two three four five six\r\n".to_vec(), None),
        (v2([0x21, 0x21, 0, 40], &extended), named),
        (v2([0x21, 0x21, 8, 0], &longest), named),
        // LOCAL, whatever else it says.
        (v2([0x20, 0x11, 0, 3], &[1, 2, 3]), None),
        (v2([0x20, 0xff, 0, 0], &[]), None),
        // An unknown protocol, and Unix sockets.
        (v2([0x21, 0x00, 0, 12], &[9; 12]), None),
        (v2([0x21, 0x31, 0, 216], &[b'/'; 216]), None),
        (v2([0x21, 0x32, 0, 216], &[b'/'; 216]), None),
    ]
}

/// Every header of this file, and whom it names.
fn headers() -> Vec<(Vec<u8>, Option<Visit>)> {
    let written = vectors().into_iter().map(|(_, _, from, to, bytes)| (bytes, visit(from, to)));
    written.chain(foreign()).collect()
}

async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).await;
    (near.expect("connected"), listener.accept().await.expect("accepted").0.into())
}

#[test]
fn headers_are_written_byte_for_byte() {
    for (version, transport, from, to, bytes) in vectors() {
        let written = header(version, transport, addr(from), addr(to));
        assert_eq!(written, bytes, "{version} {transport:?} {from} {to}");
    }
    let (from, to) = (addr("192.0.2.1:1"), addr("192.0.2.2:2"));
    assert_eq!(header(ProxyProtocol::Off, Transport::Stream, from, to), b"");
    assert_eq!(header(ProxyProtocol::V1, Transport::Datagram, from, to), b"PROXY UNKNOWN\r\n");
}

#[test]
fn a_header_ends_where_it_says_and_not_before() {
    for (bytes, visit) in headers() {
        let length = bytes.len();
        for payload in [&b""[..], b"\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
            let whole = [&bytes, payload].concat();
            assert_eq!(
                parse_header(&whole).expect("a header"),
                Some(ProxyHeader { visit, length })
            );
        }
        for cut in 0..length {
            assert_eq!(parse_header(&bytes[..cut]).expect("the start of one"), None, "{cut}");
        }
    }
}

#[test]
fn a_packets_header_is_of_version_2_and_whole() {
    for (bytes, visit) in headers() {
        if bytes.starts_with(WORD) {
            assert!(matches!(parse_datagram(&bytes), Err(ProxyError::Missing)));
            continue;
        }
        let packet = [&bytes, &b"query"[..]].concat();
        let named = visit.map(|visit| (visit.visitor, visit.visited));
        assert_eq!(parse_datagram(&packet).expect("a header"), (named, bytes.len()));
        for cut in 0..bytes.len() {
            let error = parse_datagram(&bytes[..cut]).expect_err("cut");
            assert!(matches!(error, ProxyError::Cut | ProxyError::Missing), "{cut}: {error}");
        }
    }
}

#[test]
fn what_is_no_header_is_known_at_once() {
    let lines = [
        "TCP4 192.0.2.1 198.51.100.1 56324",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 ",
        "TCP4 192.0.2.1  198.51.100.1 56324 443",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 x",
        "TCP4 192.0.2.1 198.51.100.1 56324 65536",
        "TCP4 192.0.2.1 198.51.100.1 056 443",
        "TCP4 192.0.2.1 198.51.100.1 +56 443",
        "TCP4 192.0.2.1 198.51.100.1 -1 443",
        "TCP4 192.0.2.01 198.51.100.1 56324 443",
        "TCP4 192.0.2 198.51.100.1 56324 443",
        "TCP4 ::1 ::1 56324 443",
        "TCP6 192.0.2.1 198.51.100.1 56324 443",
        "TCP6 fe80::1%eth0 ::1 56324 443",
        "TCP6 [::1] [::1] 56324 443",
        "TCP4\t192.0.2.1 198.51.100.1 56324 443",
        "TCP4 192.0.2.1 198.51.100.1 56324 443\n",
        "tcp4 192.0.2.1 198.51.100.1 56324 443",
        "UDP4 192.0.2.1 198.51.100.1 56324 443",
        "UNKNOWNS",
        " TCP4 192.0.2.1 198.51.100.1 56324 443",
        "",
    ];
    for line in lines {
        let result = parse_header(format!("PROXY {line}\r\n").as_bytes());
        assert!(matches!(result, Err(ProxyError::Malformed(_))), "{line:?}: {result:?}");
    }
    for start in ["GET / HTTP/1.1\r\n", "PROXY\r\n", "Proxy ", "SSH-2.0", "\r\n\r\n\r", "\0"] {
        let result = parse_header(start.as_bytes());
        assert!(matches!(result, Err(ProxyError::Missing)), "{start:?}: {result:?}");
    }
    for fixed in [
        [0x11, 0x11, 0, 12],
        [0x31, 0x11, 0, 12],
        [0x22, 0x11, 0, 12],
        [0x21, 0x01, 0, 12],
        [0x21, 0x10, 0, 12],
        [0x21, 0x13, 0, 12],
        [0x21, 0x41, 0, 12],
        [0x21, 0x11, 0, 11],
        [0x21, 0x21, 0, 35],
        [0x21, 0x31, 0, 215],
    ] {
        let result = parse_header(&v2(fixed, &[]));
        assert!(matches!(result, Err(ProxyError::Malformed(_))), "{fixed:?}: {result:?}");
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat();
    for long in [&endless, &v2([0x20, 0x00, 8, 1], &[])] {
        assert!(matches!(parse_header(long), Err(ProxyError::TooLong)));
    }
}

#[tokio::test]
async fn a_connections_header_is_read_in_any_pieces_and_nothing_is_lost() {
    for (bytes, visit) in [vectors()[0].4.clone(), vectors()[8].4.clone()].map(|bytes| {
        let header = parse_header(&bytes).expect("a header").expect("whole");
        (bytes, header.visit)
    }) {
        let whole = [&bytes, &b"payload"[..]].concat();
        for cut in 1..whole.len() {
            let (mut near, mut far) = pair().await;
            near.set_nodelay(true).expect("no delay");
            let (first, second) = whole.split_at(cut);
            near.write_all(first).await.expect("sent");
            let (read, ()) = tokio::join!(accept_header(&mut far, HEADER_LIMIT), async {
                tokio::task::yield_now().await;
                near.write_all(second).await.expect("sent");
                near.shutdown().await.expect("the end sent");
            });
            let (seen, first) = read.expect("a header");
            let mut payload = first.to_vec();
            far.split().0.read_to_end(&mut payload).await.expect("read");
            assert_eq!((seen, payload.as_slice()), (visit, &b"payload"[..]), "{cut}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_in_its_header_is_cut() {
    for start in [&b""[..], b"PROXY TCP4 192.0.2.1 ", &SIGNATURE[..5]] {
        let (mut near, mut far) = pair().await;
        near.write_all(start).await.expect("sent");
        drop(near);
        let result = accept_header(&mut far, HEADER_LIMIT).await;
        assert!(matches!(result, Err(ProxyError::Cut)), "{result:?}");
    }
}

#[tokio::test]
async fn a_header_that_does_not_come_is_too_slow() {
    let (mut near, mut far) = pair().await;
    near.write_all(b"PROXY ").await.expect("sent");
    let limit = Duration::from_millis(50);
    let error = accept_header(&mut far, limit).await.expect_err("no header");
    assert!(matches!(error, ProxyError::TooSlow { .. }), "{error}");
    assert_eq!(error.to_string(), "its PROXY header is not there after 0.05 s");
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

/// Bytes that have a chance: anything, or anything behind a good start.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        Vec::new(),
        WORD.to_vec(),
        b"PROXY TCP4 192.0.2.1 ".to_vec(),
        SIGNATURE.to_vec(),
        v2([0x21, 0x11, 0, 12], &[]),
        v2([0x21, 0x21, 0, 50], &[]),
    ]);
    let end = prop::sample::select(vec![&b""[..], b"\r\n"]);
    (start, prop::collection::vec(any::<u8>(), 0..120), end)
        .prop_map(|(start, middle, end)| [&start, &middle, end].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_header_within_them(bytes in any_bytes()) {
        if let Ok(Some(header)) = parse_header(&bytes) {
            prop_assert!(header.length <= bytes.len().min(MOST));
            prop_assert_eq!(parse_header(&bytes[..header.length]).expect("the same"), Some(header));
        }
        if let Ok((_, length)) = parse_datagram(&bytes) {
            prop_assert!(length <= bytes.len().min(MOST));
        }
    }

    #[test]
    fn what_is_written_reads_back(visitor in any_addr(), visited in any_addr()) {
        let visit = Some(Visit::new(visitor, visited));
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let bytes = header(version, Transport::Stream, Some(visitor), Some(visited));
            let expected = ProxyHeader { visit, length: bytes.len() };
            prop_assert_eq!(parse_header(&bytes).expect("a header"), Some(expected));
        }
    }
}
