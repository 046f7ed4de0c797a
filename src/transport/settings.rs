//! What can be set about a connection, and how that becomes quinn's own settings.

use std::sync::Arc;
use std::time::Duration;

use super::congestion;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};

use super::packets::{Packets, Route};

use super::ShareCell;
use crate::tunnel::{CarrierChoice, HostPort, Priority, Proxy};

/// What can be set about a connection. Both ends have their own; the stricter idle limit wins.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who decides how fast to send.
    pub congestion: Congestion,
    /// The connection's share of its path, at first; see [`ShareCell`].
    pub priority: Priority,
    /// What to prefer where a full path costs either rate or delay.
    pub optimize_for: OptimizeFor,
    /// A connection that hears nothing for this long is dead.
    pub idle_timeout: Duration,
    /// Whether an idle client sends something now and then. Off, `idle_timeout` ends a silent connection: for who measures
    /// what silence does to the path.
    pub keep_alive: bool,
    /// How long a connection attempt may take; on the router, the handshake of an accepted one.
    pub connect_timeout: Duration,
    /// Largest UDP payload in bytes, from 1,200, of what this end sends and lets the peer send; `None` takes what the
    /// path carries.
    pub max_packet: Option<u16>,
    /// What may carry the packets. A router listens on UDP always.
    pub carrier: CarrierChoice,
    /// What TLS goes through. QUIC does not.
    pub proxy: Option<Proxy>,
    /// The router's name, when only the proxy can tell whose address that is.
    pub proxied_name: Option<HostPort>,
    /// Whether TLS does not wait for QUIC's head start: it has won here before.
    pub tls_at_once: bool,
    /// Whether a loopback address is this machine itself, which carries large packets and drops few. Off, it is a path
    /// like any other: for relays.
    pub trust_loopback: bool,
    /// Cipher suites in the order of preference; never empty.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether the key exchange is a post-quantum hybrid.
    pub post_quantum: PostQuantum,
}

/// Congestion controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Our own: keeps its rate on lossy links and the queue short.
    Auto,
    /// Model-based; keeps its rate on links that lose packets at random.
    Bbr,
    /// Loss-based, RFC 9438; collapses on such links, and is kind to other traffic on a shared one.
    Cubic,
}

/// What to prefer where one costs the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OptimizeFor {
    /// Neither.
    #[default]
    Balanced,
    /// Bytes per second.
    Throughput,
    /// Time to the first byte.
    Latency,
}

/// TLS 1.3 cipher suites (RFC 8446, B.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20Poly1305,
}

/// The hybrid key exchange X25519MLKEM768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostQuantum {
    /// Offered first, classic X25519 accepted.
    Prefer,
    /// Nothing else is accepted.
    Require,
    /// Not offered.
    Off,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            congestion: Congestion::Auto,
            priority: Priority::default(),
            optimize_for: OptimizeFor::default(),
            idle_timeout: Duration::from_secs(30),
            keep_alive: true,
            connect_timeout: Duration::from_secs(3),
            max_packet: None,
            carrier: CarrierChoice::default(),
            proxy: None,
            proxied_name: None,
            tls_at_once: false,
            trust_loopback: true,
            cipher_suites: vec![
                CipherSuite::Aes128Gcm,
                CipherSuite::Aes256Gcm,
                CipherSuite::ChaCha20Poly1305,
            ],
            post_quantum: PostQuantum::Prefer,
        }
    }
}

impl Settings {
    /// Four keep-alives fit into an idle limit: a lost packet or two must not end a connection. How far apart they are is
    /// how many clients a killed router gets back in a second. [SES-28]
    pub fn keep_alive_interval(&self) -> Duration {
        (self.idle_timeout / 5).min(KEEP_ALIVE).max(Duration::from_millis(100))
    }

    /// Its clients' keep-alives suffice a router, unless its own limit is shorter than they can know of: a router that is
    /// silent lets a client find out what silence does. [SES-28]
    fn keep_alive(&self, is_router: bool) -> Option<Duration> {
        let is_needed =
            if is_router { self.idle_timeout < KEEP_ALIVE * 5 } else { self.keep_alive };
        is_needed.then(|| self.keep_alive_interval())
    }

    /// How long a router lets a handshake take.
    pub(super) fn handshake_limit(&self) -> Duration {
        self.connect_timeout.max(HANDSHAKE_TIMEOUT)
    }

    /// quinn's settings for a connection on `route` whose share is what `share` says; the router starts narrow and widens
    /// for who is admitted. [SES-27] [SES-28]
    pub(super) fn transport(
        &self,
        route: &Route,
        narrow: bool,
        share: &Arc<ShareCell>,
    ) -> TransportConfig {
        let mut config = TransportConfig::default();
        let idle =
            IdleTimeout::try_from(self.idle_timeout).unwrap_or(IdleTimeout::from(VarInt::MAX));
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive(narrow))
            .initial_rtt(INITIAL_RTT)
            .stream_receive_window(STREAM_WINDOW)
            .receive_window(if narrow { UNAUTHENTICATED_WINDOW } else { CONNECTION_WINDOW })
            .send_window(self.send_window(route.loopback))
            .max_concurrent_bidi_streams(if narrow {
                VarInt::from_u32(1)
            } else {
                VarInt::from_u32(0)
            })
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
            .datagram_send_buffer_size(DATAGRAM_QUEUE)
            .allow_spin(false);
        let packets = Packets::on(route, self.max_packet);
        packets.tune(&mut config);
        config.congestion_controller_factory(self.controller(packets.first, share));
        config
    }

    /// What QUIC takes of streams before the peer has acknowledged it. On loopback, where the round trip is as short as
    /// the machine is quick, all of it is in flight: in a socket's buffer, in front of whatever comes next.
    fn send_window(&self, loopback: bool) -> u64 {
        match self.optimize_for {
            _ if !loopback => SEND_WINDOW,
            OptimizeFor::Throughput => SEND_WINDOW_LOOPBACK_MOST,
            OptimizeFor::Balanced => SEND_WINDOW_LOOPBACK,
            OptimizeFor::Latency => SEND_WINDOW_LOOPBACK_LEAST,
        }
    }

    fn controller(
        &self,
        mtu: u16,
        share: &Arc<ShareCell>,
    ) -> Arc<dyn ControllerFactory + Send + Sync> {
        let initial_window = (10 * u64::from(mtu)).max(INITIAL_WINDOW);
        match self.congestion {
            Congestion::Auto => Arc::new(congestion::Config {
                optimize_for: self.optimize_for,
                share: Arc::clone(share),
            }),
            Congestion::Bbr => {
                let mut bbr = BbrConfig::default();
                bbr.initial_window(initial_window);
                Arc::new(bbr)
            }
            Congestion::Cubic => {
                let mut cubic = CubicConfig::default();
                cubic.initial_window(initial_window);
                Arc::new(cubic)
            }
        }
    }
}

/// Between two keep-alives of an idle client, at most.
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// For who is on a long, lossy link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Smaller than QUIC's default of 333 ms: most paths are, and a lost first packet is sent again sooner.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// The ceiling of what one stream may have in flight; the real bound is the sender's window of undelivered bytes.
pub(super) const STREAM_WINDOW: VarInt = VarInt::from_u32(32 << 20);
/// Bytes of all streams together that may lie behind holes: the tunnel reads everything else at once.
pub(super) const CONNECTION_WINDOW: VarInt = VarInt::from_u32(64 << 20);
/// Datagrams that have come and that nobody has taken yet; the oldest make way. One receive alone may bring 2 MiB.
const DATAGRAM_BUFFER: usize = 8 << 20;
/// Datagrams that wait for the path, at most: 10 ms at 3 Gbit/s.
pub const DATAGRAM_QUEUE: usize = 4 << 20;
/// For who is not admitted yet: a Hello and an Authenticate fit many times.
pub(super) const UNAUTHENTICATED_WINDOW: VarInt = VarInt::from_u32(64 << 10);
/// Above 4 MB, bursts on loopback overrun the socket buffers and are lost.
const SEND_WINDOW_LOOPBACK_MOST: u64 = 4_000_000;
/// Nearly the rate of 4 MB (4.1 of 4.7 Gbit/s upward on a busy machine, 3.4 of 3.5 downward), for a half to nine tenths
/// of its echo beside bulk (p50 7.2 of 7.7 ms, 5.6 of 10.9).
const SEND_WINDOW_LOOPBACK: u64 = 1_000_000;
/// Half to two thirds of that echo again (3.6 and 3.7 ms); the rate stays within what rounds differ by, and falls by up
/// to a third where they do not.
const SEND_WINDOW_LOOPBACK_LEAST: u64 = 500_000;
/// As much as a session may have undelivered: QUIC's own bound is none.
const SEND_WINDOW: u64 = 64 << 20;
/// RFC 9002, 7.2: ten packets, at least 14,720 bytes.
const INITIAL_WINDOW: u64 = 14_720;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_the_connection_alive_and_a_router_only_for_a_limit_of_its_own() {
        let seconds = Duration::from_secs;
        for (idle, client, router) in [
            (600, seconds(6), None),
            (30, seconds(6), None),
            (29, seconds(29) / 5, Some(seconds(29) / 5)),
            (5, seconds(1), Some(seconds(1))),
        ] {
            let settings = Settings { idle_timeout: seconds(idle), ..Settings::default() };
            assert_eq!(settings.keep_alive(false), Some(client), "{idle}");
            assert_eq!(settings.keep_alive(true), router, "{idle}");
            let silent = Settings { keep_alive: false, ..settings };
            assert_eq!(silent.keep_alive(false), None, "{idle}");
        }
    }
}
