//! The sockets that QUIC sees where TLS carries its packets: the router's, which is UDP and every TLS connection, and a
//! client's, which is one TLS connection.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::lane::{Inbox, Lane, Outlet, inbox};
use super::packets::MIN_PACKET;
use super::socket::LARGEST_TRAIN;

/// UDP, and a lane for each client that came over TLS.
#[derive(Debug)]
pub(super) struct Junction {
    udp: Arc<dyn AsyncUdpSocket>,
    lanes: Mutex<HashMap<SocketAddr, Arc<Lane>>>,
    inbox: Inbox,
    outlet: Outlet,
    /// Whether the lanes are looked at before UDP the next time: neither keeps the other one waiting.
    lanes_first: AtomicBool,
}

/// A lane that leads off a junction until this is dropped.
#[derive(Debug)]
pub(super) struct Opened {
    junction: Arc<Junction>,
    lane: Arc<Lane>,
}

impl Junction {
    pub(super) fn new(udp: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        let (outlet, inbox) = inbox();
        let (lanes, lanes_first) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { udp, lanes, inbox, outlet, lanes_first })
    }

    /// A lane to a client at `remote`. `None` when all its names are taken.
    pub(super) fn open(self: &Arc<Self>, remote: SocketAddr) -> Option<Opened> {
        let mut lanes = lock(&self.lanes);
        // The same numbers twice: this machine has two addresses, and is spoken to at both.
        let far = (0..16).map(|nth| over_tls(remote, nth)).find(|far| !lanes.contains_key(far))?;
        let lane = Lane::to(far);
        lanes.insert(far, Arc::clone(&lane));
        Some(Opened { junction: Arc::clone(self), lane })
    }
}

impl Opened {
    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn outlet(&self) -> &Outlet {
        &self.junction.outlet
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        lock(&self.junction.lanes).remove(&self.lane.far());
    }
}

impl AsyncUdpSocket for Junction {
    /// Lanes drop what they have no room for, so UDP alone can ask for patience.
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_over_tls(transmit.destination) {
            return self.udp.try_send(transmit);
        }
        // Who has hung up gets no more: QUIC waits for them to come back, or gives up.
        if let Some(lane) = lock(&self.lanes).get(&transmit.destination) {
            lane.send(transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let lanes_first = self.lanes_first.fetch_xor(true, Ordering::Relaxed);
        if lanes_first && let Poll::Ready(count) = self.inbox.poll_recv(cx, buffers, meta) {
            return Poll::Ready(Ok(count));
        }
        match self.udp.poll_recv(cx, buffers, meta) {
            Poll::Pending if !lanes_first => self.inbox.poll_recv(cx, buffers, meta).map(Ok),
            received => received,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

/// A client's only lane. What it sends goes there, whatever address QUIC gives it.
#[derive(Debug)]
pub(super) struct Alley {
    lane: Arc<Lane>,
    inbox: Inbox,
    local: SocketAddr,
}

impl Alley {
    /// From `local`, with the way into its inbox.
    pub(super) fn new(lane: Arc<Lane>, local: SocketAddr) -> (Arc<Self>, Outlet) {
        let (outlet, inbox) = inbox();
        (Arc::new(Self { lane, inbox, local }), outlet)
    }
}

impl AsyncUdpSocket for Alley {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.lane.send(transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inbox.poll_recv(cx, buffers, meta).map(Ok)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        TRAIN
    }

    fn max_receive_segments(&self) -> usize {
        LARGEST_TRAIN.div_ceil(MIN_PACKET.into())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How QUIC knows who is at `remote` of a TLS connection: by an address that no UDP packet can have, because its scope is
/// not an interface's. [CAR-5]
fn over_tls(remote: SocketAddr, nth: u32) -> SocketAddr {
    let ip = match remote {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
        SocketAddr::V6(v6) => *v6.ip(),
    };
    SocketAddrV6::new(ip, remote.port(), 0, OVER_TLS + nth).into()
}

/// Whether an address is one of those.
pub(super) fn is_over_tls(addr: SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.scope_id() >= OVER_TLS)
}

fn lock(
    lanes: &Mutex<HashMap<SocketAddr, Arc<Lane>>>,
) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Lane>>> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Interfaces are numbered from 1 (RFC 3493, 4).
const OVER_TLS: u32 = 0xFFFF_FF00;
/// Packets that are sent in one go, as on UDP.
const TRAIN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_over_tls_is_told_from_who_comes_over_udp() {
        for addr in
            ["192.0.2.7:443", "[2001:db8::7]:443", "[fe80::7%3]:443", "[::ffff:192.0.2.7]:443"]
        {
            let addr: SocketAddr = addr.parse().expect(addr);
            let tls = over_tls(addr, 0);
            assert!(is_over_tls(tls) && !is_over_tls(addr), "{addr}");
            assert_eq!(tls.ip().to_canonical(), addr.ip().to_canonical());
            assert_eq!(tls.port(), addr.port());
        }
    }
}
