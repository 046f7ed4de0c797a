//! The local ends of a tunnel: sockets that listen for users and sockets that are dialled for them, over TCP, over UDP
//! or within this machine.
//!
//! It knows nothing of sessions and copies no bytes, and what may be dialled is the caller's decision, asked about
//! each resolved address and each path without links.
//! Implements the sections "Dialling" and "Ends of a connection" of `proto-spec/streams.md`.

mod dial;
mod files;
mod gather;
mod icmp;
#[cfg(unix)]
mod inherit;
mod listen;
mod proxy;
mod race;
mod socket;
mod stream;
mod udp;
mod visitor;

pub use dial::{Candidate, DialError, DialSettings, dial, dial_udp, resolve};
pub use gather::let_packets_gather;
#[cfg(unix)]
pub use inherit::{adopt, leave, leave_open};
pub use listen::{ListenError, Listener, Outage};
pub use proxy::{
    HEADER_LIMIT, ProxyError, ProxyHeader, Transport, Visit, accept_header, header, parse_datagram,
    parse_header,
};
pub use socket::enlarge_buffers;
pub use stream::{Peer, ReadHalf, Stream, WriteHalf};
pub use udp::{Arrived, UdpPort, Way, canonical, visited};
pub use visitor::{Visitor, introduced};

/// What there is to say of a Unix socket elsewhere.
#[cfg(not(unix))]
fn no_unix_sockets() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, "this system has no Unix sockets")
}

/// What there is to say of a Unix socket where packets are wanted.
fn no_packets() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, "a Unix socket carries no packets")
}
