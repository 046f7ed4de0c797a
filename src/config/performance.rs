//! The sections that client and router share: `[performance]`, `[logging]` and the TLS part of `[security]`.

use std::path::PathBuf;
use std::time::Duration;

use super::layers::Resolved;
use super::value::Value;

/// `[performance]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performance {
    /// What to prefer where one costs the other.
    pub optimize_for: OptimizeFor,
    /// The congestion controller.
    pub congestion: Congestion,
    /// Whether local TCP sockets send small segments at once.
    pub tcp_nodelay: bool,
    /// Idle time before local TCP sockets are probed; `None` is off.
    pub tcp_keepalive: Option<Duration>,
    /// Bytes per read of a local socket.
    pub read_buffer_size: usize,
    /// Bytes per write to a local socket.
    pub write_buffer_size: usize,
    /// Connections open at one time in this process.
    pub max_connections: usize,
    /// The limit of one try to establish a session.
    pub connect_timeout: Duration,
    /// Silence after which the peer is taken for lost.
    pub idle_timeout: Duration,
    /// Worker threads; `None` leaves it to the process.
    pub threads: Option<usize>,
    /// Processors to run on; empty means any.
    pub cpu_affinity: Vec<usize>,
    /// Largest UDP payload in bytes; `None` leaves it to path discovery.
    pub max_packet: Option<u16>,
}

/// `[logging]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A level, or directives of tracing.
    pub level: String,
    /// How an event is written.
    pub format: LogFormat,
    /// Where to; `None` leaves it to the process.
    pub file: Option<PathBuf>,
    /// Bytes at which a file is rotated.
    pub max_size: u64,
    /// Rotated files that are kept.
    pub keep: u32,
}

/// A TLS 1.3 cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20Poly1305,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The word in the file.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value of a word.
            pub fn read(word: &str) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|value| value.as_str() == word)
            }
        }
    };
}

words! {
    /// What to prefer where one costs the other.
    OptimizeFor {
        /// Neither.
        Balanced = "balanced",
        /// Bytes per second.
        Throughput = "throughput",
        /// Time to the first byte.
        Latency = "latency",
    }
}

words! {
    /// The congestion controller.
    Congestion {
        /// Conduit's own.
        Auto = "auto",
        /// Model-based: keeps its rate on lossy links.
        Bbr = "bbr",
        /// Loss-based.
        Cubic = "cubic",
    }
}

words! {
    /// How a log event is written.
    LogFormat {
        /// One line of text.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

words! {
    /// Whether the key exchange withstands quantum computers.
    PostQuantum {
        /// With peers that know it.
        Prefer = "prefer",
        /// Always: other peers are refused.
        Require = "require",
        /// Never.
        Off = "off",
    }
}

impl CipherSuite {
    /// The name in RFC 8446.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Self::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }

    fn read(name: &str) -> Option<Self> {
        [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305]
            .into_iter()
            .find(|suite| suite.as_str() == name)
    }
}

impl Resolved {
    /// The value of a key, when there is one.
    pub(super) fn value(&self, section: &'static str, name: &'static str) -> Option<&Value> {
        self.values.get(&(section, name)).map(|(value, _)| value)
    }

    pub(super) fn path(&self, section: &'static str, name: &'static str) -> Option<PathBuf> {
        match self.value(section, name) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => None,
        }
    }

    pub(super) fn texts(&self, section: &'static str, name: &'static str) -> Vec<String> {
        match self.value(section, name) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn text(&self, section: &'static str, name: &'static str) -> Option<&str> {
        match self.value(section, name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, section: &'static str, name: &'static str) -> Option<u64> {
        match self.value(section, name) {
            Some(Value::Number(number) | Value::Size(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn duration(&self, section: &'static str, name: &'static str) -> Option<Duration> {
        match self.value(section, name) {
            Some(Value::Duration(duration)) => Some(*duration),
            _ => None,
        }
    }

    pub(super) fn switch(&self, section: &'static str, name: &'static str) -> Option<bool> {
        match self.value(section, name) {
            Some(Value::Switch(on)) => Some(*on),
            _ => None,
        }
    }

    pub(super) fn cipher_suites(&self) -> Vec<CipherSuite> {
        let names = self.texts("security", "cipher_suites");
        names.iter().filter_map(|name| CipherSuite::read(name)).collect()
    }

    pub(super) fn post_quantum(&self) -> PostQuantum {
        self.text("security", "pq").and_then(PostQuantum::read).expect(HAS_DEFAULT)
    }

    pub(super) fn performance(&self) -> Performance {
        let text = |name| self.text("performance", name).expect(HAS_DEFAULT);
        let number = |name| self.number("performance", name);
        let size = |name| to_usize(number(name).expect(HAS_DEFAULT));
        let duration = |name| self.duration("performance", name).expect(HAS_DEFAULT);
        let cpu_affinity = match self.value("performance", "cpu_affinity") {
            Some(Value::Numbers(numbers)) => numbers.iter().copied().map(to_usize).collect(),
            _ => Vec::new(),
        };
        Performance {
            optimize_for: OptimizeFor::read(text("optimize_for")).expect(CHECKED),
            congestion: Congestion::read(text("congestion")).expect(CHECKED),
            tcp_nodelay: self.switch("performance", "tcp_nodelay").expect(HAS_DEFAULT),
            tcp_keepalive: Some(duration("tcp_keepalive")).filter(|time| !time.is_zero()),
            read_buffer_size: size("read_buffer_size"),
            write_buffer_size: size("write_buffer_size"),
            max_connections: size("max_connections"),
            connect_timeout: duration("connect_timeout"),
            idle_timeout: duration("idle_timeout"),
            threads: number("threads").map(to_usize),
            cpu_affinity,
            max_packet: number("max_packet").and_then(|bytes| u16::try_from(bytes).ok()),
        }
    }

    pub(super) fn logging(&self) -> Logging {
        let text = |name| self.text("logging", name).expect(HAS_DEFAULT);
        Logging {
            level: text("level").to_owned(),
            format: LogFormat::read(text("format")).expect(CHECKED),
            file: self.path("logging", "file"),
            max_size: self.number("logging", "max_size").expect(HAS_DEFAULT),
            keep: self
                .number("logging", "keep")
                .and_then(|keep| u32::try_from(keep).ok())
                .expect(HAS_DEFAULT),
        }
    }
}

/// The schema bounds every number far below what 32 bits hold.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Why a value must be there: every load of a file, and a test, fills in the defaults first.
pub(super) const HAS_DEFAULT: &str = "the schema gives this key a default of this type";

/// Why a word must be known: the schema has refused every other one.
const CHECKED: &str = "the schema lists exactly these words";
