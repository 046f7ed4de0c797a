//! The PROXY protocol, versions 1 and 2: who a visitor is, told in front of the first byte.
//!
//! Written from HAProxy's specification (`doc/proxy-protocol.txt`, 2020/03/05). What is read is a header or an error,
//! never a guess. Whom to trust is `visitor`'s to say.

mod read;
mod write;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::{Stream, canonical};

pub use read::{ProxyHeader, parse_datagram, parse_header};
pub use write::header;

/// What the visitor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Who visits, and what: both addresses in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Where the visitor is.
    pub visitor: SocketAddr,
    /// Where the visitor connected.
    pub visited: SocketAddr,
}

/// Why there is no header to go by. The front end's fault, each of them.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// There is something else.
    #[error("it does not begin with a PROXY header; does the front end send one?")]
    Missing,
    /// It begins like a header.
    #[error("its PROXY header is malformed: {0}")]
    Malformed(&'static str),
    /// The header has no end, or says that it is far away.
    #[error("its PROXY header is longer than {most} bytes", most = MOST)]
    TooLong,
    /// The end comes before the header's.
    #[error("it ends within its PROXY header")]
    Cut,
    /// The header does not come.
    #[error("its PROXY header is not there after {} s", limit.as_secs_f32())]
    TooSlow {
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke.
    #[error("it broke within its PROXY header: {0}")]
    Io(#[from] io::Error),
}

impl Visit {
    /// Who visits what, in canonical form.
    pub fn new(visitor: SocketAddr, visited: SocketAddr) -> Self {
        Self { visitor: canonical(visitor), visited: canonical(visited) }
    }
}

/// Reads the header of a connection, of either version, within `limit` ([`HEADER_LIMIT`]). Returns whom it names and
/// what came along after it. Nobody is named when the front end speaks for itself, as its health checks do, or knows
/// nothing better: then the connection's own addresses hold.
///
/// Not cancel-safe: dropped, what was read is lost.
pub async fn accept_header(
    stream: &mut Stream,
    limit: Duration,
) -> Result<(Option<Visit>, Bytes), ProxyError> {
    timeout(limit, read_header(stream)).await.map_err(|_| ProxyError::TooSlow { limit })?
}

async fn read_header(stream: &mut Stream) -> Result<(Option<Visit>, Bytes), ProxyError> {
    let (mut reading, _) = stream.split();
    // The longest header fits: as long as one is not whole there is room.
    let mut bytes = BytesMut::with_capacity(MOST);
    while reading.read_buf(&mut bytes).await? > 0 {
        if let Some(ProxyHeader { visit, length }) = parse_header(&bytes)? {
            bytes.advance(length);
            return Ok((visit, bytes.freeze()));
        }
    }
    Err(ProxyError::Cut)
}

/// A front end sends its header at once; longer than a lost packet takes is too long.
pub const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How version 2 begins: nothing that any other protocol begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// The first bytes of version 2 say how many follow.
const FIXED: usize = 16;
/// So many may follow: both Unix addresses, and more extensions than any front end sends.
const MOST_EXTRA: usize = 2_048;
/// Bytes of the longest header.
const MOST: usize = FIXED + MOST_EXTRA;
/// Bytes of the longest line of version 1, its end included (section 2.1).
const MOST_LINE: usize = 107;
/// Two addresses and two ports (section 2.2).
const IPV4: usize = 12;
/// The same for IPv6.
const IPV6: usize = 36;
/// Two paths.
const UNIX: usize = 216;

#[cfg(test)]
mod tests;
