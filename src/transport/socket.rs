//! UDP sockets for QUIC: large buffers, and trains of packets that are no longer than what one send can carry.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ends::enlarge_buffers;

/// A socket for QUIC on `addr`. An IPv6 wildcard takes IPv4 too.
pub(super) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if let Some(advice) = Buffers::enlarged(&socket, WANTED).advice() {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!("{advice}"));
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// The same as QUIC uses it: it takes packets of up to `payload` bytes.
pub(super) fn for_quic(
    socket: UdpSocket,
    payload: u16,
    runtime: &dyn Runtime,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let inner = runtime.wrap_udp_socket(socket)?;
    Ok(Arc::new(Trains { inner, receive_segments: LARGEST_TRAIN.div_ceil(payload.into()) }))
}

/// What to do about UDP buffers of this machine that stay small; `None` when they are as large as they should be.
pub fn advice_on_buffers() -> io::Result<Option<String>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    Ok(Buffers::enlarged(&socket, WANTED).advice())
}

/// quinn limits a train to ten packets and not to what one send can carry: with packets above 6,550 bytes the system
/// would refuse it, and quinn takes that for sent.
#[derive(Debug)]
struct Trains {
    inner: Arc<dyn AsyncUdpSocket>,
    receive_segments: usize,
}

impl AsyncUdpSocket for Trains {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for part in parts(transmit) {
            // When there is room for a part only, all of it is sent again later: the peer drops packets that come twice.
            self.inner.try_send(&part)?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    /// quinn reserves so many packets of the largest size for each receive. A train that the system has put together is
    /// never longer than 64 KiB, and a packet that is larger than this end asked for is whole all the same.
    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// A train, cut into such that one send can carry.
pub(super) fn parts<'a>(transmit: &'a Transmit<'a>) -> impl Iterator<Item = Transmit<'a>> {
    let whole = transmit.contents.len();
    let length = match transmit.segment_size {
        Some(size) if whole > LARGEST_SEND => (LARGEST_SEND / size).max(1) * size,
        _ => whole.max(1),
    };
    transmit.contents.chunks(length).map(|contents| Transmit {
        contents,
        segment_size: transmit.segment_size.filter(|size| *size < contents.len()),
        ..*transmit
    })
}

/// Bytes that the system sets aside for what comes and for what leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffers {
    wanted: usize,
    receive: usize,
    send: usize,
}

impl Buffers {
    /// Asks for larger ones and reads back what was granted.
    fn enlarged(socket: &Socket, wanted: usize) -> Self {
        enlarge_buffers(socket, wanted);
        // Linux tells the double: what it sets aside for its own bookkeeping too (socket(7)).
        let granted = |told: io::Result<usize>| {
            told.map_or(wanted, |bytes| bytes / if cfg!(target_os = "linux") { 2 } else { 1 })
        };
        let receive = granted(socket.recv_buffer_size());
        Self { wanted, receive, send: granted(socket.send_buffer_size()) }
    }

    /// What to do about small ones.
    fn advice(&self) -> Option<String> {
        let limits = [("rmem_max", self.receive), ("wmem_max", self.send)];
        let short = limits.into_iter().filter(|(_, granted)| *granted < self.wanted);
        let lines: Vec<_> =
            short.map(|(limit, _)| format!("net.core.{limit}={}", self.wanted)).collect();
        if lines.is_empty() {
            return None;
        }
        let Self { wanted, receive, send } = self;
        let remedy = if cfg!(target_os = "linux") {
            format!("sysctl -w {}", lines.join(" "))
        } else {
            "raise the system's limit of socket buffers".to_owned()
        };
        Some(format!(
            "small UDP buffers lose packets on fast links: {receive} bytes to receive and {send} to send instead of \
             {wanted}; {remedy}"
        ))
    }
}

/// Bursts at 10 Gbit/s fill 212 KB, the usual default, in 170 microseconds.
const WANTED: usize = 4 << 20;
/// UDP's largest payload: 65,535 of IPv4 less 28 of headers.
const LARGEST_SEND: usize = 65_507;
/// What one receive brings at most.
pub(super) const LARGEST_TRAIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(length: usize, segment: Option<usize>) -> Vec<(usize, Option<usize>)> {
        let contents = vec![7; length];
        let transmit = Transmit {
            destination: SocketAddr::from(([127, 0, 0, 1], 9)),
            ecn: None,
            contents: &contents,
            segment_size: segment,
            src_ip: None,
        };
        parts(&transmit).map(|part| (part.contents.len(), part.segment_size)).collect()
    }

    #[test]
    fn a_train_is_cut_between_packets_into_such_that_one_send_can_carry() {
        assert_eq!(cut(1_452, None), [(1_452, None)]);
        assert_eq!(cut(14_520, Some(1_452)), [(14_520, Some(1_452))]);
        assert_eq!(cut(65_500, Some(6_550)), [(65_500, Some(6_550))]);
        assert_eq!(cut(130_000, Some(13_000)), [(65_000, Some(13_000)); 2]);
        assert_eq!(cut(78_100, Some(13_000)), [(65_000, Some(13_000)), (13_100, Some(13_000))]);
        assert_eq!(cut(70_000, Some(13_000)), [(65_000, Some(13_000)), (5_000, None)]);
        assert_eq!(cut(130_000, Some(65_000)), [(65_000, None); 2]);
    }

    #[test]
    fn small_buffers_are_said_with_the_line_that_mends_them() {
        let granted = |receive, send| Buffers { wanted: 4 << 20, receive, send }.advice();
        assert_eq!(granted(4 << 20, 4 << 20), None);
        assert_eq!(granted(8 << 20, 5 << 20), None);
        let both = granted(212_992, 212_992).expect("advice");
        let receive = granted(212_992, 4 << 20).expect("advice");
        assert!(both.contains("212992 bytes to receive and 212992 to send instead of 4194304"));
        if cfg!(target_os = "linux") {
            let line = "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304";
            assert!(both.ends_with(line), "{both}");
            assert!(receive.ends_with("sysctl -w net.core.rmem_max=4194304"), "{receive}");
        }
    }

    #[test]
    fn what_was_granted_is_what_was_asked_for_or_the_systems_limit() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        let buffers = Buffers::enlarged(&socket, 100_000);
        assert_eq!(buffers, Buffers { wanted: 100_000, receive: 100_000, send: 100_000 });
        assert_eq!(buffers.advice(), None);
        let more = Buffers::enlarged(&socket, WANTED);
        assert!(more.receive >= buffers.receive && more.send >= buffers.send, "{more:?}");
        let short = more.receive < WANTED || more.send < WANTED;
        assert_eq!(more.advice().is_some(), short, "{more:?}");
    }
}
