//! A row of ends that differ in their port: `10.0.0.9:27000-27015`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bind, BindAddr, HostPort, ParseAddrError, Target, UnixPath};

/// One end of a tunnel, or a row of them with ports that follow each other. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "T: Numbered")]
pub struct Span<T> {
    first: T,
    count: u16,
}

/// An end that may have a port.
pub trait Numbered: Clone + fmt::Display + FromStr<Err = ParseAddrError> {
    /// The port, unless it is an end without.
    fn port(&self) -> Option<u16>;
    /// The same with another port; an end without a port stays as it is.
    #[must_use]
    fn with_port(&self, port: u16) -> Self;
}

impl<T: Numbered> Span<T> {
    /// Every end of the row, in the order of the ports.
    pub fn each(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.count).map(|at| match self.first.port() {
            Some(port) => self.first.with_port(port + at),
            None => self.first.clone(),
        })
    }

    /// The first end: the only one, unless it is a row.
    pub const fn first(&self) -> &T {
        &self.first
    }

    /// How many ends there are, from 1.
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// The same row from another first end: where a free port was found, say. A row that does not fit below port
    /// 65,536 from there stays as it is.
    #[must_use]
    pub fn starting_at(&self, first: T) -> Self {
        let fits = first.port().is_none_or(|port| port.checked_add(self.count - 1).is_some());
        if fits { Self { first, count: self.count } } else { self.clone() }
    }
}

impl<T> From<T> for Span<T> {
    fn from(only: T) -> Self {
        Self { first: only, count: 1 }
    }
}

impl From<SocketAddr> for Span<Bind> {
    fn from(addr: SocketAddr) -> Self {
        Bind::from(addr).into()
    }
}

impl From<SocketAddr> for Span<Target> {
    fn from(addr: SocketAddr) -> Self {
        Target::from(addr).into()
    }
}

impl<T: Numbered> FromStr for Span<T> {
    type Err = ParseAddrError;

    /// What `T` reads, with `FIRST-LAST` in the place of the port.
    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        if text.starts_with(UnixPath::PREFIX) {
            return text.parse::<T>().map(Self::from);
        }
        let (before, ports) = match text.rsplit_once(':') {
            Some((host, ports)) => (&text[..=host.len()], ports),
            None => ("", text),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let range = ports.split_once('-').filter(|(a, b)| is_number(a) && is_number(b));
        let Some((first, last)) = range else {
            return text.parse::<T>().map(Self::from);
        };
        let port = |text: &str| {
            let number = text.parse::<u16>().ok().filter(|port| *port != 0);
            number.ok_or_else(|| ParseAddrError::Port(text.to_owned(), 1))
        };
        let (low, high) = (port(first)?, port(last)?);
        let backwards = || ParseAddrError::Backwards(ports.to_owned());
        let count = high.checked_sub(low).ok_or_else(backwards)? + 1;
        if usize::from(count) > MAX_SPAN {
            return Err(ParseAddrError::TooMany(count.into()));
        }
        Ok(Self { first: format!("{before}{first}").parse()?, count })
    }
}

impl<T: Numbered> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first.port() {
            Some(port) if self.count > 1 => {
                f.pad(&format!("{}-{}", self.first, port + (self.count - 1)))
            }
            _ => self.first.fmt(f),
        }
    }
}

impl<T: Numbered> TryFrom<String> for Span<T> {
    type Error = ParseAddrError;

    fn try_from(text: String) -> Result<Self, ParseAddrError> {
        text.parse()
    }
}

impl<T: Numbered> From<Span<T>> for String {
    fn from(span: Span<T>) -> Self {
        span.to_string()
    }
}

impl Numbered for Bind {
    fn port(&self) -> Option<u16> {
        self.socket_addr().map(|addr| addr.port())
    }

    fn with_port(&self, port: u16) -> Self {
        match self.socket_addr() {
            Some(mut addr) => {
                addr.set_port(port);
                Self::Addr(BindAddr::from(addr))
            }
            None => self.clone(),
        }
    }
}

impl Numbered for Target {
    fn port(&self) -> Option<u16> {
        self.host_port().map(|target| target.port)
    }

    fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Host(target) => Self::Host(HostPort { host: target.host.clone(), port }),
            Self::Unix(_) => self.clone(),
        }
    }
}

/// Ends of one row: each is a socket, and a tunnel of the session.
pub(super) const MAX_SPAN: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn each<T: Numbered>(text: &str) -> Vec<String> {
        let span: Span<T> = text.parse().expect(text);
        assert_eq!(span.to_string(), text);
        span.each().map(|end| end.to_string()).collect()
    }

    #[test]
    fn a_row_of_ports_reads_back_and_counts_up() {
        assert_eq!(each::<Target>("a:1-3"), ["a:1", "a:2", "a:3"]);
        assert_eq!(each::<Target>("[::1]:7-8"), ["[::1]:7", "[::1]:8"]);
        assert_eq!(each::<Bind>("0.0.0.0:27000-27001"), ["0.0.0.0:27000", "0.0.0.0:27001"]);
        assert_eq!(each::<Target>("a-b:80"), ["a-b:80"]);
        assert_eq!(each::<Bind>("unix:/run/a:1-2"), ["unix:/run/a:1-2"]);
        let short: Span<Bind> = "8080-8081".parse().expect("ports");
        assert_eq!(short.to_string(), "127.0.0.1:8080-8081");
        let top = each::<Bind>("127.0.0.1:65534-65535");
        assert_eq!(top, ["127.0.0.1:65534", "127.0.0.1:65535"]);
    }

    #[test]
    fn a_row_that_is_none_says_which_part_is_wrong() {
        for (text, part) in [
            ("a:9-3", "end before they begin"),
            ("a:0-3", "\"0\" is not a port"),
            ("a:1-65536", "\"65536\" is not a port"),
            ("a:1-1001", "at most 1000"),
            ("a:1-", "\"1-\" is not a port"),
            (":1-2", "has no host"),
        ] {
            let error = text.parse::<Span<Target>>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_row_can_start_elsewhere() {
        let span: Span<Bind> = "127.0.0.1:0".parse().expect("a bind");
        let real = "127.0.0.1:4711".parse().expect("a bind");
        assert_eq!(span.starting_at(real).to_string(), "127.0.0.1:4711");
    }
}
