//! Addresses as people write them: targets to dial and places to listen.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bind, Target};

/// A host as it was written: an address, or a name that is resolved where it is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address in the standard notation (`127.1`, `0x7f.1` and `2130706433` are refused).
    Addr(IpAddr),
    /// A name: at most 253 characters of `A-Za-z0-9-_.`, without a trailing dot, in lower case.
    Name(String),
}

/// A host and a port: what gets dialled (`10.2.0.2:8080`, `[::1]:22`, `db.internal:5432`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Where to listen: `127.0.0.1:8080`, `[::1]:8080`, `:8080` and `8080` (loopback), `*:8080` and `[::]:8080` (every
/// address of both families); port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindAddr(SocketAddr);

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddrError {
    /// There is no `:PORT`.
    #[error("{0:?} has no port: write HOST:PORT")]
    NoPort(String),
    /// The port is not a number from 1 to 65535 (0 is legal only in a bind).
    #[error("{0:?} is not a port: a number from {1} to 65535")]
    Port(String, u16),
    /// A URL.
    #[error("{0:?} is a URL: write HOST:PORT")]
    Url(String),
    /// The host is empty.
    #[error("{0:?} has no host: write HOST:PORT")]
    NoHost(String),
    /// An IPv6 address without brackets.
    #[error("{0:?} is ambiguous: write an IPv6 address in brackets, as in [::1]:8080")]
    Brackets(String),
    /// The host is neither an address in standard notation nor a legal name.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
    /// A bind that names a host instead of an address of this machine.
    #[error("{0:?} is not an IP address: a bind is ADDRESS:PORT, :PORT or PORT")]
    BindHost(String),
    /// A row of ports that ends before it begins.
    #[error("the ports {0:?} end before they begin")]
    Backwards(String),
    /// A row with more ports than one tunnel may have.
    #[error("a tunnel has at most {max} ports, not {0}", max = super::span::MAX_SPAN)]
    TooMany(usize),
    /// The path of a Unix socket is none.
    #[error(transparent)]
    Unix(#[from] super::UnixPathError),
}

impl BindAddr {
    /// The address to bind.
    pub const fn socket_addr(&self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for BindAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl FromStr for Host {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        if text.is_empty() {
            return Err(ParseAddrError::NoHost(text.to_owned()));
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self::Addr(addr));
        }
        if is_host_name(text) {
            return Ok(Self::Name(text.trim_end_matches('.').to_ascii_lowercase()));
        }
        Err(ParseAddrError::Host(text.to_owned()))
    }
}

/// RFC 1123 names, with `_` as real zones have it. A name whose last label is a number or looks like one
/// (`127.1`, `0x7f.1`, `2130706433`) is refused: resolvers read those as addresses (WHATWG URL, "ends in a number").
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    name.len() <= 253 && name.split('.').all(label_ok) && !numeric
}

impl FromStr for HostPort {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        let (host, port) = split_port(text)?;
        let number = port
            .parse::<u16>()
            .ok()
            .filter(|p| *p != 0 && port.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| ParseAddrError::Port(port.to_owned(), 1))?;
        if host.is_empty() {
            return Err(ParseAddrError::NoHost(text.to_owned()));
        }
        Ok(Self { host: host.parse()?, port: number })
    }
}

impl FromStr for BindAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        let (host, port) = match split_port(text) {
            Err(ParseAddrError::NoPort(_)) if text.bytes().all(|b| b.is_ascii_digit()) => {
                ("", text)
            }
            other => other?,
        };
        let number = port
            .parse::<u16>()
            .ok()
            .filter(|_| port.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| ParseAddrError::Port(port.to_owned(), 0))?;
        let addr = if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else if host == "*" {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            host.parse().map_err(|_| ParseAddrError::BindHost(text.to_owned()))?
        };
        Ok(Self(SocketAddr::new(addr, number)))
    }
}

/// Splits `host:port`; brackets around an IPv6 address are taken off, and required.
fn split_port(text: &str) -> Result<(&str, &str), ParseAddrError> {
    if text.contains("://") {
        return Err(ParseAddrError::Url(text.to_owned()));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) =
            rest.split_once("]:").ok_or_else(|| ParseAddrError::NoPort(text.to_owned()))?;
        return match host.parse::<Ipv6Addr>() {
            Ok(_) => Ok((host, port)),
            Err(_) => Err(ParseAddrError::Host(host.to_owned())),
        };
    }
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| ParseAddrError::NoPort(text.to_owned()))?;
    if host.contains(':') {
        return Err(ParseAddrError::Brackets(text.to_owned()));
    }
    Ok((host, port))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => f.pad(&addr.to_string()),
            Self::Name(name) => f.pad(name),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Addr(IpAddr::V6(addr)) => f.pad(&format!("[{addr}]:{}", self.port)),
            host => f.pad(&format!("{host}:{}", self.port)),
        }
    }
}

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Addr(addr.ip()), port: addr.port() }
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ParseAddrError;
            fn try_from(text: String) -> Result<Self, ParseAddrError> { text.parse() }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self { value.to_string() }
        }
    )*};
}
text_conversions!(HostPort, BindAddr, Bind, Target);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_were_written() {
        for text in ["10.2.0.2:8080", "[::1]:22", "db.internal:5432", "_sip.example:5060"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
        let folded = "DB.Internal.:5432".parse::<HostPort>().expect("a name");
        assert_eq!(folded.to_string(), "db.internal:5432");
    }

    #[test]
    fn odd_spellings_of_addresses_are_refused() {
        for text in [
            "0:80",
            "127.1:80",
            "2130706433:80",
            "0x7f.1:80",
            "0x7f000001:80",
            "user@host:80",
            "a b:80",
            "host\0:80",
            "１２７.0.0.1:80",
            "fe80::1%eth0:80",
            "[fe80::1%eth0]:80",
            "::1:80",
            "host",
            ":80",
            "host:0",
            "host:65536",
            "host:+80",
            "host:",
            "-a:80",
            "a..b:80",
            "../x:80",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        let long = format!("{}:80", ["a"; 128].join("."));
        assert!(long.parse::<HostPort>().is_err());
    }

    #[test]
    fn a_bind_may_leave_out_the_address() {
        for (text, addr) in [
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            (":0", "127.0.0.1:0"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::]:80", "[::]:80"),
            ("*:80", "[::]:80"),
        ] {
            assert_eq!(text.parse::<BindAddr>().expect(text).to_string(), addr, "{text}");
        }
        for text in ["", "host:80", "1.2.3.4", "::1:80", ":x", "70000"] {
            assert!(text.parse::<BindAddr>().is_err(), "{text}");
        }
    }
}
