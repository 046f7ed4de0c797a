//! Who uses a tunnel: whoever connected, or whoever a trusted front end says.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use ipnet::IpNet;

use super::{HEADER_LIMIT, Peer, ProxyError, Stream, Visit, accept_header};

/// A user of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor {
    peer: Peer,
    visited: Option<SocketAddr>,
}

impl Visitor {
    /// Where the visitor connected, as text; empty for a Unix socket.
    pub fn visited(&self) -> String {
        self.visited.map(|addr| addr.to_string()).unwrap_or_default()
    }
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

impl From<Visit> for Visitor {
    fn from(visit: Visit) -> Self {
        Self { peer: Peer::Addr(visit.visitor), visited: Some(visit.visited) }
    }
}

/// Finds out who is behind `peer`: when it is a front end in `trusted`, it has to say so in a PROXY header. Returns also
/// what came along after that. An error has reset the connection. Not cancel-safe. [RVS-8]
pub async fn introduced(
    mut stream: Stream,
    peer: Peer,
    trusted: &[IpNet],
) -> Result<(Stream, Visitor, Bytes), ProxyError> {
    let itself = Visitor { peer, visited: stream.local_addr() };
    let is_trusted = |addr: SocketAddr| trusted.iter().any(|net| net.contains(&addr.ip()));
    if !peer.socket_addr().is_some_and(is_trusted) {
        return Ok((stream, itself, Bytes::new()));
    }
    match accept_header(&mut stream, HEADER_LIMIT).await {
        Ok((visit, rest)) => Ok((stream, visit.map_or(itself, Visitor::from), rest)),
        Err(error) => {
            stream.reset();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::ends::Listener;

    type Introduced = Result<(Stream, Visitor, Bytes), ProxyError>;

    /// What becomes of a connection that begins with `bytes`; with the user's side, and where it connected.
    async fn visit(bytes: &[u8], trusted: &str) -> (TcpStream, SocketAddr, Introduced) {
        let listener = Listener::bind(&"127.0.0.1:0".parse().expect("a bind"), 16).expect("bound");
        let addr = listener.local_bind().socket_addr().expect("TCP");
        let mut user = TcpStream::connect(addr).await.expect("connected");
        user.write_all(bytes).await.expect("sent");
        let (stream, peer) = listener.accept().await;
        let introduced = introduced(stream, peer, &[trusted.parse().expect("a network")]).await;
        (user, addr, introduced)
    }

    #[tokio::test]
    async fn a_trusted_front_end_says_who_the_visitor_is() {
        let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.1 5 443\r\nhello";
        let (_user, _, introduced) = visit(bytes, "127.0.0.0/8").await;
        let (_, visitor, first) = introduced.expect("introduced");
        let texts = (visitor.to_string(), visitor.visited());
        assert_eq!(texts, ("192.0.2.1:5".into(), "198.51.100.1:443".into()));
        assert_eq!(first, b"hello".as_slice());
    }

    #[tokio::test]
    async fn a_front_end_that_speaks_for_itself_is_the_visitor() {
        let (user, addr, introduced) = visit(b"PROXY UNKNOWN\r\n", "127.0.0.0/8").await;
        let (_, visitor, first) = introduced.expect("introduced");
        assert_eq!(visitor.to_string(), user.local_addr().expect("an address").to_string());
        assert_eq!((visitor.visited(), first.len()), (addr.to_string(), 0));
    }

    #[tokio::test]
    async fn nobody_else_is_believed_and_every_byte_stays() {
        let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.1 5 443\r\n";
        let (user, _, introduced) = visit(bytes, "192.0.2.0/24").await;
        let (mut stream, visitor, first) = introduced.expect("introduced");
        assert_eq!(visitor.to_string(), user.local_addr().expect("an address").to_string());
        assert!(first.is_empty());
        let mut read = [0; 41];
        stream.split().0.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, bytes);
    }

    #[tokio::test]
    async fn a_front_end_without_a_header_is_reset() {
        let (mut user, _, introduced) = visit(b"GET / HTTP/1.1\r\n", "127.0.0.0/8").await;
        assert!(matches!(introduced, Err(ProxyError::Missing)), "{introduced:?}");
        let error = user.read(&mut [0]).await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
