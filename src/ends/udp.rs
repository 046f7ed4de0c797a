//! UDP sockets that receive in batches and send in trains.

#[cfg(target_os = "linux")]
mod option;

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::socket::enlarge_buffers;
use super::{ListenError, gather, icmp};
use crate::tunnel::Bind;

thread_local! {
    /// Where packets land. One per thread: a receive borrows it for as long as it runs, and none runs across a wait.
    /// Of 2 MiB only what packets touch is ever resident.
    static LANDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A UDP socket: bound for everybody, or connected to one peer.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    peer: Option<SocketAddr>,
}

/// Packets of one sender that came together.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Who sent them, as the socket knows it.
    pub from: SocketAddr,
    /// The local address that they were sent to, where the system tells.
    pub to: Option<IpAddr>,
    bytes: &'a [u8],
    stride: usize,
}

/// Where a packet goes, and the local address that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The receiver.
    pub to: SocketAddr,
    /// The address that the receiver sent to: it expects answers from there.
    pub from: Option<IpAddr>,
}

#[cfg(unix)]
impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<'a> Arrived<'a> {
    /// Each packet; there is at least one, which may be empty.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        let one = bytes.is_empty().then_some(bytes);
        one.into_iter().chain(bytes.chunks(self.stride.max(1)))
    }
}

impl UdpPort {
    /// Binds a socket for everybody. `[::]` takes IPv4 too. Has to be called within a tokio runtime.
    pub fn bind(bind: &Bind) -> Result<Self, ListenError> {
        let open = || {
            let addr = bind.socket_addr().ok_or_else(super::no_packets)?;
            let socket = Self::socket(addr)?;
            if addr.is_ipv6() {
                // The default differs between systems.
                socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
            }
            socket.bind(&addr.into())?;
            // Every flow comes through here.
            enlarge_buffers(&socket, SHARED_BUFFER);
            Self::new(socket, None)
        };
        open().map_err(|source: io::Error| ListenError::new(bind, source))
    }

    /// A socket of an earlier program, bound or connected. Has to be called within a tokio runtime.
    pub fn of(socket: std::net::UdpSocket) -> io::Result<Self> {
        let peer = socket.peer_addr().ok();
        Self::new(socket.into(), peer)
    }

    /// A socket of its own for packets to and from `peer`. Fails at once when there is no route.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        let socket = Self::socket(peer)?;
        socket.connect(&peer.into())?;
        let _ = socket.set_recv_buffer_size(OWN_BUFFER);
        Self::new(socket, Some(peer))
    }

    fn socket(addr: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn new(socket: Socket, peer: Option<SocketAddr>) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        allow_fragments(&socket)?;
        let socket = UdpSocket::from_std(socket.into())?;
        let local = socket.local_addr()?;
        Ok(Self { socket, state, local, peer })
    }

    /// The address with the real port.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whom it is connected to, if it is.
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Waits for packets and hands over what has come, one sender's packets at a time. An error of a connected socket
    /// is about an earlier packet: its peer does not listen, say. Other tasks get their turn when more may be there.
    /// Cancel-safe.
    pub async fn receive(&self, mut each: impl FnMut(Arrived<'_>)) -> io::Result<()> {
        loop {
            // That nobody listens shows as an error without anything to read.
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                if let Some(error) = self.socket.take_error()? {
                    return Err(error);
                }
                let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = self.socket.try_io(Interest::ERROR, seen);
            }
            let mut count = 0;
            let received = self.socket.try_io(Interest::READABLE, || {
                count = self.receive_now(&mut each)?;
                // Fewer than there was room for: the socket is empty, and asking again would only be told so. Elsewhere
                // a call may bring one packet however many there are.
                let is_empty = cfg!(target_os = "linux") && count < BATCH_SIZE;
                if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match received {
                Ok(()) => {
                    // A socket that is never empty must not keep anything else from being done.
                    tokio::task::yield_now().await;
                    return Ok(());
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if count > 0 => return Ok(()),
                Err(_) => {}
            }
        }
    }

    /// Hands over what one call brings: from how many packets or trains.
    fn receive_now(&self, each: &mut impl FnMut(Arrived<'_>)) -> io::Result<usize> {
        LANDING.with_borrow_mut(|landing| {
            landing.resize(BATCH_SIZE * SLOT, 0);
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let count = {
                let mut slots = landing.chunks_mut(SLOT);
                let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
                    std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
                self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta)?
            };
            gather::came(count);
            for (meta, slot) in meta[..count].iter().zip(landing.chunks(SLOT)) {
                let bytes = &slot[..meta.len.min(SLOT)];
                each(Arrived { from: meta.addr, to: meta.dst_ip, bytes, stride: meta.stride });
            }
            Ok(count)
        })
    }

    /// Sends packets of `size` bytes each, the last one maybe shorter, that lie behind each other in `bytes`: in one
    /// call where the system can. A connected socket needs no way. Never waits: `WouldBlock` says that the socket is
    /// full, and then some of them may have left.
    pub fn send(&self, way: Option<Way>, bytes: &[u8], size: usize) -> io::Result<()> {
        let Some(way) = way.or(self.peer.map(|to| Way { to, from: None })) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        gather::left(bytes.len().div_ceil(size.max(1)));
        if bytes.len() <= size {
            return self.send_one(way, bytes);
        }
        if self.train_length(size) > 1 {
            let sent = self.transmit(way, bytes, Some(size));
            match sent.as_ref().map_err(io::Error::raw_os_error) {
                // No offload on this way: EIO and EINVAL, the same numbers on every Unix.
                Err(Some(5 | 22)) => {}
                _ => return sent,
            }
        }
        bytes.chunks(size.max(1)).try_for_each(|packet| self.send_one(way, packet))
    }

    /// How many packets of `size` bytes leave in one call.
    pub fn train_length(&self, size: usize) -> usize {
        if size == 0 || size > LARGEST_SEGMENT {
            return 1;
        }
        self.state.max_gso_segments().min(LARGEST_TRAIN / size)
    }

    fn send_one(&self, way: Way, packet: &[u8]) -> io::Result<()> {
        // A connected socket that names its peer again is refused on some systems.
        if self.peer.is_some() && cfg!(not(target_os = "linux")) {
            return socket2::SockRef::from(&self.socket).send(packet).map(drop);
        }
        self.transmit(way, packet, None)
    }

    fn transmit(&self, way: Way, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let transmit =
            Transmit { destination: way.to, ecn: None, contents, segment_size, src_ip: way.from };
        // Past the runtime, which calls a fresh socket unready until it has been polled once; nobody waits for room.
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Tells a user that what it sent to goes nowhere, where this process may: with ICMP, as a host on which no program
    /// listens does.
    pub fn tell_unreachable(&self, way: Way) {
        let (user, local) = (canonical(way.to), visited(self.local, way.from));
        if let Err(error) = icmp::port_unreachable(user, local) {
            tracing::debug!(%user, %error, "the user cannot be told that nobody listens");
        }
    }

    /// Packets that the system dropped because nobody took them out in time; 0 where it does not tell.
    pub fn overflowed(&self) -> u64 {
        overflowed(&self.socket)
    }
}

/// QUIC's sockets send nothing that would have to be cut to pieces; a user's packet may.
#[cfg(target_os = "linux")]
fn allow_fragments(socket: &Socket) -> io::Result<()> {
    use rustix::net::sockopt;
    let is_ipv6 = socket.domain()? == Domain::IPV6;
    sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::WANT)?;
    if is_ipv6 {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::WANT)?;
        option::switch_off(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn allow_fragments(_: &Socket) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn overflowed(socket: &UdpSocket) -> u64 {
    option::memory(socket).map_or(0, |memory| memory[option::DROPS].into())
}

#[cfg(not(target_os = "linux"))]
fn overflowed(_: &UdpSocket) -> u64 {
    0
}

/// An address of a dual-stack socket as everybody else writes it.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A local address that a peer can be told, where the socket is bound to all of them.
pub fn visited(local: SocketAddr, to: Option<IpAddr>) -> SocketAddr {
    let ip = match to {
        Some(ip) => ip.to_canonical(),
        None if local.ip().is_unspecified() => Ipv4Addr::UNSPECIFIED.into(),
        None => local.ip(),
    };
    SocketAddr::new(ip, local.port())
}

/// One packet, however large, or a train that the system has put together.
const SLOT: usize = 64 << 10;
/// Every system cuts a train only into packets that need no cutting on the way: Ethernet's 1,500 less the headers.
const LARGEST_SEGMENT: usize = 1_452;
/// What one send can carry.
const LARGEST_TRAIN: usize = 65_000;
/// 20 ms of 350,000 packets a second, each of which is charged for with 2.3 KB: what senders send while this process
/// waits for a busy processor.
const SHARED_BUFFER: usize = 8 << 20;
/// A tenth of a second at 40 Mbit/s in packets of 1,200 bytes, each of which is charged for twice that: what one sender
/// sends while this process waits for a busy processor. A buffer takes memory only for what lies in it.
const OWN_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(port: &UdpPort, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut packets = Vec::new();
        while packets.len() < count {
            let more = port.receive(|arrived| {
                packets.extend(arrived.packets().map(|packet| (arrived.from, packet.to_vec())));
            });
            let limit = std::time::Duration::from_secs(5);
            tokio::time::timeout(limit, more).await.expect("in time").expect("packets");
        }
        packets
    }

    fn bound(text: &str) -> UdpPort {
        UdpPort::bind(&text.parse().expect(text)).expect("bound")
    }

    #[tokio::test]
    async fn packets_of_every_size_arrive_whole() {
        let port = bound("127.0.0.1:0");
        let user = UdpPort::connect(port.local_addr()).expect("connected");
        for size in [0, 1, 1_200, 1_472, 9_000, 65_507] {
            let packet: Vec<u8> = (0..size).map(|at| at as u8).collect();
            user.send(None, &packet, packet.len()).expect("sent");
            assert_eq!(received(&port, 1).await, [(user.local_addr(), packet)], "{size}");
        }
    }

    #[tokio::test]
    async fn a_train_arrives_as_its_packets() {
        let port = bound("127.0.0.1:0");
        let user = UdpPort::connect(port.local_addr()).expect("connected");
        let train: Vec<u8> =
            (0..10).flat_map(|at| vec![at; if at == 9 { 30 } else { 100 }]).collect();
        user.send(None, &train, 100).expect("sent");
        let packets = received(&port, 10).await;
        let expected: Vec<_> =
            train.chunks(100).map(|packet| (user.local_addr(), packet.to_vec())).collect();
        assert_eq!(packets, expected);
        port.send(Some(Way { to: user.local_addr(), from: None }), b"back", 4).expect("sent");
        assert_eq!(received(&user, 1).await[0].1, b"back");
    }

    #[tokio::test]
    async fn the_ipv6_wildcard_takes_ipv4_too_and_knows_where_packets_were_sent_to() {
        let port = bound("[::]:0");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port.local_addr().port()));
        let user = UdpPort::connect(addr).expect("connected");
        user.send(None, b"x", 1).expect("sent");
        let mut way = None;
        port.receive(|arrived| way = Some(Way { to: arrived.from, from: arrived.to }))
            .await
            .expect("a packet");
        let way = way.expect("a way back");
        assert_eq!(canonical(way.to), user.local_addr());
        assert_eq!(visited(port.local_addr(), way.from), addr);
        port.send(Some(way), &vec![7; 9_000], 9_000).expect("sent");
        assert_eq!(received(&user, 1).await[0].1.len(), 9_000);
    }

    #[tokio::test]
    async fn a_closed_port_is_told_by_the_next_receive() {
        let gone = bound("127.0.0.1:0").local_addr();
        let user = UdpPort::connect(gone).expect("connected");
        user.send(None, b"x", 1).expect("sent");
        let error = user.receive(|_| {}).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_port_in_use_says_so() {
        let port = bound("127.0.0.1:0");
        let taken = port.local_addr();
        let error = UdpPort::bind(&taken.into()).expect_err("in use").to_string();
        assert!(error.contains("in use"), "{error}");
    }
}
