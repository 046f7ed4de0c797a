//! "Nobody listens there", as the user's system would have heard it without a tunnel (RFC 792, RFC 4443).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use socket2::{Domain, Protocol, Socket, Type};

/// Tells `user` that the port `local`, which it sent a UDP packet to, is closed. Needs the right to open raw sockets
/// (`CAP_NET_RAW`); without it an error says so, and nothing else suffers.
pub(super) fn port_unreachable(user: SocketAddr, local: SocketAddr) -> io::Result<()> {
    let (message, socket) = match (user.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (message_v4(from, user.port(), to, local.port()), raw_v4())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            (message_v6(from, user.port(), to, local.port()), raw_v6())
        }
        _ => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    // Raw sockets know no ports.
    let to = SocketAddr::new(user.ip(), 0);
    socket?.send_to(&message, &to.into()).map(drop)
}

/// Type 3, code 3, and what is quoted of the packet: its IP header and ports.
fn message_v4(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, to_port: u16) -> Vec<u8> {
    let mut header = [0u8; 20];
    (header[0], header[3], header[8], header[9]) = (0x45, 28, 64, UDP);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&header);
    message.extend_from_slice(&ports(from_port, to_port));
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Type 1, code 4. The system fills in the checksum, which covers addresses that it chooses.
fn message_v6(from: Ipv6Addr, from_port: u16, to: Ipv6Addr, to_port: u16) -> Vec<u8> {
    let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, UDP, 64]);
    message.extend_from_slice(&from.octets());
    message.extend_from_slice(&to.octets());
    message.extend_from_slice(&ports(from_port, to_port));
    message
}

/// A UDP header; its length and checksum are nobody's business here.
fn ports(from: u16, to: u16) -> [u8; 8] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d, 0, 8, 0, 0]
}

/// RFC 1071; `bytes` has an even length.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn raw_v4() -> io::Result<&'static Socket> {
    static SOCKET: OnceLock<Result<Socket, io::ErrorKind>> = OnceLock::new();
    raw(&SOCKET, Domain::IPV4, Protocol::ICMPV4)
}

fn raw_v6() -> io::Result<&'static Socket> {
    static SOCKET: OnceLock<Result<Socket, io::ErrorKind>> = OnceLock::new();
    raw(&SOCKET, Domain::IPV6, Protocol::ICMPV6)
}

/// One socket for the whole process, and one try to get it.
fn raw(
    cell: &'static OnceLock<Result<Socket, io::ErrorKind>>,
    domain: Domain,
    protocol: Protocol,
) -> io::Result<&'static Socket> {
    let opened = cell.get_or_init(|| {
        let open = || {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.set_nonblocking(true)?;
            // It is only sent from: what comes in is not kept.
            socket.shutdown(std::net::Shutdown::Read).or_else(|error| match error.kind() {
                io::ErrorKind::NotConnected => Ok(()),
                _ => Err(error),
            })?;
            Ok(socket)
        };
        open().map_err(|error: io::Error| error.kind())
    });
    opened.as_ref().map_err(|kind| io::Error::from(*kind))
}

const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ends::UdpPort;

    #[test]
    fn a_message_adds_up() {
        let message = message_v4(Ipv4Addr::LOCALHOST, 4711, Ipv4Addr::LOCALHOST, 53);
        assert_eq!(message.len(), 36);
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&message[8..28]), 0);
        assert_eq!(message[28..32], [0x12, 0x67, 0, 53]);
        let message = message_v6(Ipv6Addr::LOCALHOST, 4711, Ipv6Addr::LOCALHOST, 53);
        assert_eq!((message.len(), &message[..2]), (56, &[1, 4][..]));
    }

    #[tokio::test]
    async fn a_users_socket_hears_that_nobody_listens() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let local = UdpPort::bind(&addr.parse().expect(addr)).expect("bound").local_addr();
            let user = UdpPort::connect(local).expect("connected");
            match port_unreachable(user.local_addr(), local) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
                told => told.expect(addr),
            }
            let heard = user.receive(|_| {});
            let limit = std::time::Duration::from_secs(5);
            let heard = tokio::time::timeout(limit, heard).await.expect("in time");
            assert_eq!(heard.expect_err(addr).kind(), io::ErrorKind::ConnectionRefused, "{addr}");
        }
    }
}
