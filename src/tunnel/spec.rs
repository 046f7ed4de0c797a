//! What a tunnel is: direction, protocol and two ends, each independent of the others, and what else can be asked of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Bind, Name, Span, Target};

/// Which end listens: direction and protocol are orthogonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The client listens on `bind`, the router dials `source`.
    Forward,
    /// The router listens on `bind`, the client dials `source`.
    Reverse,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP connections, each on a stream of its own.
    Tcp,
    /// UDP packets in datagrams, a flow for each sender.
    Udp,
}

/// What becomes of a UDP packet that does not fit into one datagram of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// It travels in pieces; when one is lost, the packet is.
    #[default]
    Fragment,
    /// It travels on a stream: late rather than lost.
    Stream,
    /// It is dropped and counted.
    Drop,
}

/// What the source is told of a visitor before the first byte (the PROXY protocol of HAProxy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Nothing.
    #[default]
    Off,
    /// A line of text; TCP only.
    V1,
    /// A binary header; for UDP in front of a flow's first packet.
    V2,
}

/// How a tunnel's connection shares a path with the other traffic there; the most urgent one is the least.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Takes a larger share.
    Interactive,
    /// Shares as others do.
    #[default]
    Normal,
    /// Makes way as soon as the path's queue grows.
    Bulk,
}

/// What may carry a tunnel's connection to the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CarrierChoice {
    /// QUIC over UDP, and TLS over TCP as long as a network carries no UDP.
    #[default]
    Auto,
    /// QUIC over UDP, always.
    Quic,
    /// TLS over TCP, always.
    Tls,
}

/// What can be asked of a tunnel besides its ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Tunnels of one name and group serve side by side instead of taking each other's place.
    pub group: Option<Name>,
    /// A UDP flow that has been silent for this long is over; `None`: never.
    pub flow_idle: Option<Duration>,
    /// UDP flows at one time, at most.
    pub max_flows: usize,
    /// What becomes of large packets.
    pub oversize: Oversize,
    /// What the source is told of a visitor.
    pub proxy_protocol: ProxyProtocol,
    /// Front ends whose word is taken for who a visitor is: their connections begin with a PROXY header.
    pub trusted_proxies: Vec<IpNet>,
    /// How the tunnel shares a path with the others.
    #[serde(default)]
    pub priority: Priority,
    /// How long its TCP connections and UDP flows outlive the connection to the router that carries them; `None`: they do not.
    #[serde(default)]
    pub resume: Option<Duration>,
    /// What carries its connection to the router.
    #[serde(default)]
    pub carrier: CarrierChoice,
}

/// A tunnel as somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSpec {
    /// Unique among the tunnels of one machine, compared without case.
    pub name: Name,
    /// Which end listens.
    pub direction: Direction,
    /// What is carried.
    pub protocol: Protocol,
    /// Where users connect.
    pub bind: Span<Bind>,
    /// What gets dialled at the other end.
    pub source: Span<Target>,
    /// What else was asked for.
    pub options: Options,
}

/// Why the parts of a tunnel do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// UDP packets from or to a Unix socket.
    #[error(
        "the {end} {text} is a Unix socket, which carries TCP connections only: give an address and a port"
    )]
    UnixUdp {
        /// `source` or `bind`.
        end: &'static str,
        /// As it was given.
        text: String,
    },
    /// Rows of different lengths.
    #[error(
        "the bind {bind} has {binds} ports and the source {source_span} has {sources}: give as many"
    )]
    Unequal {
        /// As it was given.
        bind: String,
        /// How many.
        binds: usize,
        /// As it was given.
        source_span: String,
        /// How many.
        sources: usize,
    },
    /// A text header in front of a packet.
    #[error("proxy_protocol \"v1\" is for TCP: for UDP give \"v2\"")]
    TextHeaderUdp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            group: None,
            flow_idle: Some(Self::FLOW_IDLE),
            max_flows: Self::MAX_FLOWS,
            oversize: Oversize::default(),
            proxy_protocol: ProxyProtocol::default(),
            trusted_proxies: Vec::new(),
            priority: Priority::default(),
            resume: Some(Self::RESUME),
            carrier: CarrierChoice::default(),
        }
    }
}

impl Options {
    /// RFC 4787, 4.3: a UDP mapping lasts at least two minutes.
    pub const FLOW_IDLE: Duration = Duration::from_secs(120);
    /// A phone that changes trains, a laptop that changes rooms, a router's host that restarts its network.
    pub const RESUME: Duration = Duration::from_secs(120);
    /// As many as a source can be told apart by the 16 bits of a port, less what systems keep for themselves: a quarter.
    pub const MAX_FLOWS: usize = 16_384;
}

impl TunnelSpec {
    /// Whether the parts go together.
    pub fn check(&self) -> Result<(), SpecError> {
        let (binds, sources) = (self.bind.count(), self.source.count());
        if binds != sources {
            let (bind, source_span) = (self.bind.to_string(), self.source.to_string());
            return Err(SpecError::Unequal { bind, binds, source_span, sources });
        }
        if self.protocol == Protocol::Tcp {
            return Ok(());
        }
        if let Target::Unix(path) = self.source.first() {
            return Err(SpecError::UnixUdp { end: "source", text: path.to_string() });
        }
        if let Bind::Unix(path) = self.bind.first() {
            return Err(SpecError::UnixUdp { end: "bind", text: path.to_string() });
        }
        if self.options.proxy_protocol == ProxyProtocol::V1 {
            return Err(SpecError::TextHeaderUdp);
        }
        Ok(())
    }

    /// Each bind with the source that belongs to it.
    pub fn pairs(&self) -> impl Iterator<Item = (Bind, Target)> + '_ {
        self.bind.each().zip(self.source.each())
    }
}

/// Reads networks, and single addresses as networks of one.
pub fn parse_networks(texts: &[impl AsRef<str>]) -> Result<Vec<IpNet>, String> {
    let network = |text: &str| {
        let parsed = text.parse::<IpNet>().or_else(|error| match text.parse::<IpAddr>() {
            Ok(addr) => Ok(IpNet::from(addr)),
            Err(_) => Err(error),
        });
        parsed.map_err(|_| format!("{text:?} is neither an address nor a network"))
    };
    texts.iter().map(|text| network(text.as_ref())).collect()
}

macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal),* })*) => {$(
        impl $type {
            /// The words, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// As in configuration files and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is none of {}", Self::WORDS.join(", "))),
                }
            }
        }
    )*};
}
words! {
    Direction { Forward = "forward", Reverse = "reverse" }
    Protocol { Tcp = "tcp", Udp = "udp" }
    Oversize { Fragment = "fragment", Stream = "stream", Drop = "drop" }
    ProxyProtocol { Off = "off", V1 = "v1", V2 = "v2" }
    CarrierChoice { Auto = "auto", Quic = "quic", Tls = "tls" }
    Priority { Interactive = "interactive", Normal = "normal", Bulk = "bulk" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(protocol: Protocol, bind: &str, source: &str) -> TunnelSpec {
        TunnelSpec {
            name: "t".parse().expect("a name"),
            direction: Direction::Forward,
            protocol,
            bind: bind.parse().expect(bind),
            source: source.parse().expect(source),
            options: Options::default(),
        }
    }

    #[test]
    fn parts_that_do_not_go_together_are_named() {
        for (protocol, bind, source, parts) in [
            (Protocol::Udp, "53", "unix:/run/dns", &["source unix:/run/dns", "TCP"][..]),
            (Protocol::Udp, "unix:/run/dns", "a:53", &["bind unix:/run/dns"]),
            (Protocol::Tcp, "1-3", "a:1-2", &["has 3 ports", "a:1-2 has 2"]),
            (Protocol::Tcp, "1-3", "a:1", &["has 3 ports", "a:1 has 1"]),
        ] {
            let error = spec(protocol, bind, source).check().expect_err(bind).to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let mut udp = spec(Protocol::Udp, "53", "a:53");
        assert_eq!(udp.check(), Ok(()));
        udp.options.proxy_protocol = ProxyProtocol::V1;
        assert_eq!(udp.check(), Err(SpecError::TextHeaderUdp));
        assert_eq!(spec(Protocol::Tcp, "unix:/run/a", "unix:/run/b").check(), Ok(()));
    }

    #[test]
    fn a_row_pairs_its_ends_by_position() {
        let spec = spec(Protocol::Udp, "0.0.0.0:27000-27001", "a:1-2");
        let pairs: Vec<_> = spec.pairs().map(|(bind, source)| format!("{bind} {source}")).collect();
        assert_eq!(pairs, ["0.0.0.0:27000 a:1", "0.0.0.0:27001 a:2"]);
    }

    #[test]
    fn words_read_back() {
        for word in Oversize::WORDS {
            assert_eq!(word.parse::<Oversize>().expect(word).as_str(), *word);
        }
        assert!("both".parse::<Direction>().expect_err("no word").contains("forward, reverse"));
    }
}
