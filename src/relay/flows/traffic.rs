//! Packets that were carried, and why others were not.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::telemetry::Metrics;

macro_rules! losses {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal;)*) => {
        /// Why a packet was not carried on from here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Loss {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Loss {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Loss] = &[$(Loss::$name),*];

            /// As in metrics and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Loss::$name => $word,)*
                }
            }
        }
    };
}

losses! {
    /// As many waited for the path, or for a socket, as may.
    QueueFull = "queue_full";
    /// Too large for a datagram, where such packets are dropped, or for any packet.
    TooLarge = "too_large";
    /// The flow is not open, or not any more.
    UnknownFlow = "unknown_flow";
    /// The other end did not allow the flow.
    Denied = "denied";
    /// The target does not listen, or cannot be reached.
    Unreachable = "unreachable";
    /// As many flows are in use as may.
    TableFull = "table_full";
    /// There was no session with the other end.
    NoSession = "no_session";
    /// Pieces of a packet whose other pieces did not come.
    Incomplete = "incomplete";
    /// Bytes that are no datagram of this protocol, or a PROXY header that is none.
    Malformed = "malformed";
    /// The system's buffer, or QUIC's, overflowed before it was read here.
    Overflow = "overflow";
}

/// The packets of one process.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
}

impl Traffic {
    /// Packets from sockets here into sessions.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Packets from sessions into sockets here.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Packets that were lost here for this reason.
    pub fn lost(&self, loss: Loss) -> u64 {
        self.lost[loss as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_sent(&self, packets: u64) {
        self.sent.fetch_add(packets, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, packets: u64) {
        self.received.fetch_add(packets, Ordering::Relaxed);
    }

    pub(super) fn count_lost(&self, loss: Loss, packets: u64) {
        self.lost[loss as usize].fetch_add(packets, Ordering::Relaxed);
    }
}

/// [`Traffic`] as metrics: `conduit_packets_sent_total`, `conduit_packets_received_total` and
/// `conduit_packets_dropped_total{reason="…"}`.
#[derive(Debug)]
pub struct TrafficMetrics {
    sent: Counter,
    received: Counter,
    dropped: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl TrafficMetrics {
    /// Metrics that stand at 0.
    pub fn new(registry: &Metrics) -> Self {
        Self {
            sent: registry.register_counter("packets_sent", "UDP packets from sockets here"),
            received: registry.register_counter("packets_received", "UDP packets to sockets here"),
            dropped: registry
                .register_family("packets_dropped", "UDP packets that were not carried on"),
        }
    }

    /// Takes over what was counted.
    pub fn update(&self, traffic: &Traffic) {
        self.sent.inner().store(traffic.sent(), Ordering::Relaxed);
        self.received.inner().store(traffic.received(), Ordering::Relaxed);
        for loss in Loss::ALL {
            let counter = self.dropped.get_or_create(&Reason { reason: loss.as_str() });
            counter.inner().store(traffic.lost(*loss), Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
