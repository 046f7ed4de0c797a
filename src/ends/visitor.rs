//! Who uses a listening socket: an address of its own, or the one that a trusted front end names.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use ipnet::IpNet;

use super::{HEADER_LIMIT, Peer, ProxyError, Stream, Visit, accept_header};

/// A user of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor {
    peer: Peer,
    /// Where it is and where it connected to; a Unix socket has neither.
    visit: Option<Visit>,
}

/// Finds out who has connected. A front end in one of the `trusted` networks says so itself; what follows its header is
/// returned, and is payload. From anybody else such bytes are payload too. [RVS-8]
///
/// Not cancel-safe: dropped, what was read is lost.
pub async fn introduced(
    mut stream: Stream,
    peer: Peer,
    trusted: &[IpNet],
) -> Result<(Stream, Visitor, Bytes), ProxyError> {
    let own = stream.peer_addr().zip(stream.local_addr());
    let own = own.map(|(visitor, visited)| Visit::new(visitor, visited));
    let is_front_end = own.is_some_and(|own| {
        trusted.iter().any(|network| network.contains(&own.visitor.ip()))
    });
    if !is_front_end {
        return Ok((stream, Visitor { peer, visit: own }, Bytes::new()));
    }
    let (named, rest) = accept_header(&mut stream, HEADER_LIMIT).await?;
    Ok((stream, Visitor { peer, visit: named.or(own) }, rest))
}

impl Visitor {
    /// Where it connected to; empty for a Unix socket.
    pub fn visited(&self) -> String {
        self.visit.map(|visit| visit.visited.to_string()).unwrap_or_default()
    }

    /// Where it is, unless it is a process of this machine.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.visit.map(|visit| visit.visitor)
    }
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.visit {
            Some(visit) => visit.visitor.fmt(f),
            None => self.peer.fmt(f),
        }
    }
}
