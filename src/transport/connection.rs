//! One encrypted connection whose peer has shown an identity.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, RecvStream, SendDatagramError, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

use super::congestion::Steering;
use super::settings::{CONNECTION_WINDOW, DATAGRAM_QUEUE};
use super::tls::identity_of;
use super::{Negotiated, ShareCell};
use crate::tunnel::{Identity, Priority};

/// An encrypted connection; a clone is another handle to the same one.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: quinn::Connection,
    peer: Identity,
    negotiated: Arc<OnceLock<Negotiated>>,
    share: Arc<ShareCell>,
    shaken: Shaken,
}

/// What the handshake took. A router that is about to come back costs many packets, which say nothing of the path.
#[derive(Clone, Copy, Debug)]
struct Shaken {
    sent: u64,
    lost: u64,
    lost_bytes: u64,
}

/// The state of the path right now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Packets sent since the handshake was done.
    pub sent: u64,
    /// Of those, declared lost.
    pub lost: u64,
    /// Bytes of the packets that were lost.
    pub lost_bytes: u64,
    /// Largest UDP payload that is used, in bytes.
    pub mtu: u16,
    /// Bytes that may be in flight.
    pub congestion_window: u64,
    /// UDP payload bytes sent and received.
    pub udp_bytes: (u64, u64),
}

/// How much was asked and heard since the connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Frames sent that a peer answers at once, with an acknowledgement at least. Acknowledgements are none, nor are probes for
    /// larger packets, which get lost on a path that is well.
    pub asked: u64,
    /// UDP datagrams received.
    pub heard: u64,
    /// Acknowledgements in them.
    pub answered: u64,
}

impl PathStats {
    /// Packets lost, per cent of those sent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 * 100.0 / self.sent as f64 }
    }
}

impl Connection {
    /// Takes over an established quinn connection. `None` when the peer has shown no usable key, which the TLS
    /// verifiers do not let happen.
    pub(super) fn new(
        inner: quinn::Connection,
        negotiated: Arc<OnceLock<Negotiated>>,
        share: Arc<ShareCell>,
    ) -> Option<Self> {
        let shown = inner.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let peer = identity_of(shown.first()?).ok()?;
        let path = inner.stats().path;
        let shaken = Shaken {
            sent: path.sent_packets,
            lost: path.lost_packets,
            lost_bytes: path.lost_bytes,
        };
        Some(Self { inner, peer, negotiated, share, shaken })
    }

    /// Whose key the peer has proved to hold.
    pub fn peer(&self) -> Identity {
        self.peer
    }

    /// The connection's share of its path, as this end's controller is told.
    pub fn priority(&self) -> Priority {
        self.share.get()
    }

    /// From now on the share of what this end sends is that of `priority`.
    pub fn set_priority(&self, priority: Priority) {
        self.share.set(priority);
    }

    /// Lets the next packet out however much is in flight, when the controller is our own.
    pub fn let_one_through(&self) {
        self.share.let_one_through();
    }

    /// Opens a stream; waits while the peer's limit of streams is used up. Cancel-safe.
    pub async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.inner.open_bi().await
    }

    /// The peer's next stream. Cancel-safe.
    pub async fn accept(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.inner.accept_bi().await
    }

    /// 32 bytes that only the two ends of this very connection know (RFC 8446, 7.5). [SES-24]
    pub fn exporter(&self) -> [u8; 32] {
        let mut out = [0; 32];
        self.inner
            .export_keying_material(&mut out, EXPORTER_LABEL, b"")
            .expect("32 bytes are within what every TLS 1.3 exporter gives");
        out
    }

    /// Queues a datagram; full, the queue drops its oldest. [FLW-4]
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), SendDatagramError> {
        self.inner.send_datagram(datagram)
    }

    /// The next datagram. Cancel-safe.
    pub async fn datagram(&self) -> Result<Bytes, ConnectionError> {
        self.inner.read_datagram().await
    }

    /// Appends the datagrams that are there, at most `most`; waits for the first. Cancel-safe.
    pub async fn datagrams(
        &self,
        most: usize,
        into: &mut Vec<Bytes>,
    ) -> Result<(), ConnectionError> {
        into.push(self.inner.read_datagram().await?);
        while into.len() < most {
            let mut next = pin!(self.inner.read_datagram());
            match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                Poll::Ready(Ok(datagram)) => into.push(datagram),
                // An end shows at the next call.
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Bytes of the largest datagram right now; `None` when the peer takes none.
    pub fn datagram_limit(&self) -> Option<usize> {
        self.inner.max_datagram_size()
    }

    /// Bytes of datagrams, each counted with [`DATAGRAM_OVERHEAD`], that may still be queued.
    pub fn datagram_room(&self) -> usize {
        self.inner.datagram_send_buffer_space()
    }

    /// The same while none is queued.
    pub fn datagram_room_most(&self) -> usize {
        DATAGRAM_QUEUE - DATAGRAM_OVERHEAD
    }

    /// DATAGRAM frames sent and received.
    pub fn datagram_frames(&self) -> (u64, u64) {
        let stats = self.inner.stats();
        (stats.frame_tx.datagram, stats.frame_rx.datagram)
    }

    /// UDP datagrams of the connection, sent and received.
    pub fn packets(&self) -> (u64, u64) {
        let stats = self.inner.stats();
        (stats.udp_tx.datagrams, stats.udp_rx.datagrams)
    }

    /// STREAM frames sent.
    pub fn stream_frames(&self) -> u64 {
        self.inner.stats().frame_tx.stream
    }

    /// How many streams the peer may have open at one time.
    pub fn allow_streams(&self, count: u32) {
        self.inner.set_max_concurrent_bi_streams(VarInt::from_u32(count));
    }

    /// Widens what was narrow for a stranger. [SES-27]
    pub fn admit(&self) {
        self.inner.set_receive_window(CONNECTION_WINDOW);
    }

    /// Ends the connection with a code and a reason that the peer reads. Does nothing when it has ended.
    pub fn close(&self, code: u64, reason: &str) {
        // quinn would forget why it has ended.
        if self.inner.close_reason().is_none() {
            let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
            self.inner.close(code, reason.as_bytes());
        }
    }

    /// Waits for the end, whoever brings it. Cancel-safe.
    pub async fn closed(&self) -> ConnectionError {
        self.inner.closed().await
    }

    /// The reason, when the connection has ended.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.inner.close_reason()
    }

    /// Where the peer is right now; changes when it roams.
    pub fn remote_addr(&self) -> SocketAddr {
        let addr = self.inner.remote_address();
        SocketAddr::new(addr.ip().to_canonical(), addr.port())
    }

    /// The state of the path.
    pub fn path(&self) -> PathStats {
        let stats = self.inner.stats();
        PathStats {
            rtt: stats.path.rtt,
            sent: stats.path.sent_packets.saturating_sub(self.shaken.sent),
            lost: stats.path.lost_packets.saturating_sub(self.shaken.lost),
            lost_bytes: stats.path.lost_bytes.saturating_sub(self.shaken.lost_bytes),
            mtu: stats.path.current_mtu,
            congestion_window: stats.path.cwnd,
            udp_bytes: (stats.udp_tx.bytes, stats.udp_rx.bytes),
        }
    }

    /// Who decides how fast to send.
    pub fn steering(&self) -> Steering {
        Steering::of(self.inner.congestion_state())
    }

    /// How much was asked and heard.
    pub fn activity(&self) -> Activity {
        let stats = self.inner.stats();
        let frames = &stats.frame_tx;
        // A probe for larger packets is a ping and asks for an acknowledgement, too.
        let other_than_probes = |frames: u64| frames.saturating_sub(stats.path.sent_plpmtud_probes);
        let asked = [
            frames.stream,
            frames.datagram,
            other_than_probes(frames.ping),
            // What QUIC sends when nothing is acknowledged.
            other_than_probes(frames.immediate_ack),
            frames.path_challenge,
            frames.reset_stream,
            frames.stop_sending,
            frames.max_data,
            frames.max_stream_data,
            frames.max_streams_bidi,
            frames.new_connection_id,
            frames.retire_connection_id,
        ];
        let (heard, answered) = (stats.udp_rx.datagrams, stats.frame_rx.acks);
        Activity { asked: asked.iter().sum(), heard, answered }
    }

    /// The shortest round-trip time so far.
    pub fn least_rtt(&self) -> Duration {
        self.inner.min_rtt()
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    /// What TLS agreed on; known at the client's end only.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }
}

/// What quinn counts for a queued datagram besides its bytes.
pub const DATAGRAM_OVERHEAD: usize = size_of::<Bytes>();
/// Identical on every carrier, so that a proof made for one connection is worthless on any other.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-conduit-auth-1";
