//! The local ends of a tunnel: sockets that listen for users and sockets that are dialled for them.
//!
//! It knows nothing of sessions and copies no bytes, and what may be dialled is the caller's decision, asked about
//! each resolved address.
//! Implements the sections "Dialling" and "Ends of a connection" of `proto-spec/streams.md`.

mod dial;
mod icmp;
mod listen;
mod race;
mod socket;
mod udp;

pub use dial::{DialError, DialSettings, dial};
pub use listen::{ListenError, Listener};
pub use socket::{reset, tune};
/// TEMPORARY
pub fn parse_datagram(
    _: &[u8],
) -> Result<(Option<(std::net::SocketAddr, std::net::SocketAddr)>, usize), ()> {
    Err(())
}
pub use udp::{Arrived, UdpPort, Way, canonical, visited};
