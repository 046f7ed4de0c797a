//! `[performance]` and the TLS part of `[security]`, on their way from the file into the components.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{CipherSuite, Congestion, OptimizeFor, Performance, PostQuantum};
use crate::ends::DialSettings;
use crate::tunnel::{CarrierChoice, Priority, Proxy};
use crate::{client, relay, session, transport};

/// What a process is tuned with; travels to a tunnel process as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// `balanced`, `throughput` or `latency`.
    pub optimize_for: String,
    /// `auto`, `bbr` or `cubic`.
    pub congestion: String,
    /// TCP_NODELAY on local sockets.
    pub tcp_nodelay: bool,
    /// Idle time before local sockets are probed.
    pub tcp_keepalive: Option<Duration>,
    /// Bytes per read of a local socket.
    pub read_buffer_size: usize,
    /// Bytes per write to a local socket.
    pub write_buffer_size: usize,
    /// Connections at one time.
    pub max_connections: usize,
    /// The limit of one try to connect.
    pub connect_timeout: Duration,
    /// Silence after which the peer is lost.
    pub idle_timeout: Duration,
    /// Worker threads.
    pub threads: Option<usize>,
    /// Processors to run on; empty means any.
    pub cpu_affinity: Vec<usize>,
    /// Largest UDP payload.
    pub max_packet: Option<u16>,
    /// Names of RFC 8446, the preferred one first.
    pub cipher_suites: Vec<String>,
    /// `prefer`, `require` or `off`.
    pub post_quantum: String,
    /// What a client's TLS goes through.
    #[serde(default)]
    pub proxy: Option<Proxy>,
}

impl Tuning {
    /// What a configuration says.
    pub fn new(performance: &Performance, suites: &[CipherSuite], pq: PostQuantum) -> Self {
        Self {
            optimize_for: performance.optimize_for.as_str().to_owned(),
            congestion: performance.congestion.as_str().to_owned(),
            tcp_nodelay: performance.tcp_nodelay,
            tcp_keepalive: performance.tcp_keepalive,
            read_buffer_size: performance.read_buffer_size,
            write_buffer_size: performance.write_buffer_size,
            max_connections: performance.max_connections,
            connect_timeout: performance.connect_timeout,
            idle_timeout: performance.idle_timeout,
            threads: performance.threads,
            cpu_affinity: performance.cpu_affinity.clone(),
            max_packet: performance.max_packet,
            cipher_suites: suites.iter().map(|suite| suite.as_str().to_owned()).collect(),
            post_quantum: pq.as_str().to_owned(),
            proxy: None,
        }
    }

    /// The encrypted connection's part.
    pub fn transport(&self) -> transport::Settings {
        transport::Settings {
            congestion: match Congestion::read(&self.congestion) {
                Some(Congestion::Cubic) => transport::Congestion::Cubic,
                Some(Congestion::Bbr) => transport::Congestion::Bbr,
                Some(Congestion::Auto) | None => transport::Congestion::Auto,
            },
            priority: Priority::default(),
            optimize_for: self.aim(),
            idle_timeout: self.idle_timeout,
            keep_alive: true,
            connect_timeout: self.connect_timeout,
            max_packet: self.max_packet,
            carrier: CarrierChoice::default(),
            proxy: self.proxy.clone(),
            proxied_name: None,
            tls_at_once: false,
            trust_loopback: true,
            cipher_suites: self.cipher_suites.iter().filter_map(|name| suite(name)).collect(),
            post_quantum: match self.post_quantum.as_str() {
                "require" => transport::PostQuantum::Require,
                "off" => transport::PostQuantum::Off,
                _ => transport::PostQuantum::Prefer,
            },
        }
    }

    fn aim(&self) -> transport::OptimizeFor {
        match self.optimize_for.as_str() {
            "throughput" => transport::OptimizeFor::Throughput,
            "latency" => transport::OptimizeFor::Latency,
            _ => transport::OptimizeFor::Balanced,
        }
    }

    /// The session's part: how much may be on its way.
    pub fn session(&self) -> session::Settings {
        let mut settings = session::Settings::default();
        if self.optimize_for == OptimizeFor::Throughput.as_str() {
            // One long transfer reaches its rate three doublings earlier, for four times the memory at worst: 8 MB there
            // and back over 80 ms and 200 Mbit/s took 0.59 s instead of 0.79.
            settings.window_initial = 2 << 20;
            settings.budget = 256 << 20;
        } else if self.optimize_for == OptimizeFor::Latency.as_str() {
            // Less of a bulk transfer queues in front of a keystroke; the same 8 MB took 0.93 s.
            settings.window_max = 1 << 20;
        }
        settings
    }

    /// The copying's part.
    pub fn relay(&self) -> relay::Settings {
        relay::Settings {
            read_buffer: self.read_buffer_size,
            write_buffer: self.write_buffer_size,
            ..relay::Settings::default()
        }
    }

    /// The part of what is dialled.
    pub fn dial(&self) -> DialSettings {
        DialSettings {
            nodelay: self.tcp_nodelay,
            keepalive: self.tcp_keepalive,
            ..DialSettings::default()
        }
    }

    /// The local sockets' part.
    pub fn sockets(&self) -> client::SocketSettings {
        client::SocketSettings { nodelay: self.tcp_nodelay, keepalive: self.tcp_keepalive }
    }
}

fn suite(name: &str) -> Option<transport::CipherSuite> {
    [
        (CipherSuite::Aes128Gcm, transport::CipherSuite::Aes128Gcm),
        (CipherSuite::Aes256Gcm, transport::CipherSuite::Aes256Gcm),
        (CipherSuite::ChaCha20Poly1305, transport::CipherSuite::ChaCha20Poly1305),
    ]
    .into_iter()
    .find_map(|(configured, used)| (configured.as_str() == name).then_some(used))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ClientConfig, Environment, Overrides};

    fn tuned(text: &str) -> Tuning {
        let environment = Environment::capture([("HOME", "/home/a")]);
        let loaded =
            ClientConfig::parse(Path::new("c.toml"), text, &environment, &Overrides::new())
                .expect("sound");
        let config = loaded.config;
        Tuning::new(&config.performance, &config.cipher_suites, config.post_quantum)
    }

    #[test]
    fn every_key_reaches_its_component() {
        let plain = tuned("");
        let set = tuned(
            "[performance]\ncongestion = \"cubic\"\nconnect_timeout = \"1s\"\nidle_timeout = \"9s\"\n\
             max_packet = 1300\nread_buffer_size = \"8 KiB\"\nwrite_buffer_size = \"16 KiB\"\n\
             optimize_for = \"throughput\"\ntcp_nodelay = false\ntcp_keepalive = \"off\"\n\
             [security]\npq = \"require\"\ncipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\"]\n",
        );
        let transport = set.transport();
        assert_eq!(transport.congestion, transport::Congestion::Cubic);
        assert_eq!(transport.connect_timeout, Duration::from_secs(1));
        assert_eq!(transport.idle_timeout, Duration::from_secs(9));
        assert_eq!(transport.max_packet, Some(1300));
        assert_eq!(transport.post_quantum, transport::PostQuantum::Require);
        assert_eq!(transport.cipher_suites, [transport::CipherSuite::ChaCha20Poly1305]);
        assert_eq!((set.relay().read_buffer, set.relay().write_buffer), (8 << 10, 16 << 10));
        assert_eq!(transport.optimize_for, transport::OptimizeFor::Throughput);
        assert!(set.session().window_initial > plain.session().window_initial);
        let latency = tuned("[performance]\noptimize_for = \"latency\"\n");
        assert_eq!(latency.transport().optimize_for, transport::OptimizeFor::Latency);
        assert!(latency.session().window_max < plain.session().window_max);
        assert!(plain.sockets().nodelay && !set.sockets().nodelay);
        assert_eq!(set.sockets().keepalive, None);
    }
}
