//! The two ends of a tunnel: where users arrive, and what gets dialled for them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BindAddr, HostPort, ParseAddrError, UnixPath};

/// Where users arrive: an address and a port, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bind {
    /// `127.0.0.1:8080`, `[::]:8080` (IPv4 too), `8080` (loopback).
    Addr(BindAddr),
    /// `unix:/run/app.sock`.
    Unix(UnixPath),
}

/// What gets dialled: a host and a port, or a Unix socket of the host that dials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// `db.internal:5432`.
    Host(HostPort),
    /// `unix:/run/app.sock`.
    Unix(UnixPath),
}

impl Bind {
    /// The address, unless it is a Unix socket.
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Addr(addr) => Some(addr.socket_addr()),
            Self::Unix(_) => None,
        }
    }
}

impl Target {
    /// Host and port, unless it is a Unix socket.
    pub const fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::Host(target) => Some(target),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for Bind {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        match text.strip_prefix(UnixPath::PREFIX) {
            Some(path) => Ok(Self::Unix(path.parse()?)),
            None => text.parse().map(Self::Addr),
        }
    }
}

impl FromStr for Target {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        match text.strip_prefix(UnixPath::PREFIX) {
            Some(path) => Ok(Self::Unix(path.parse()?)),
            None => text.parse().map(Self::Host),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(target) => target.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl From<SocketAddr> for Bind {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr.into())
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::Host(addr.into())
    }
}

impl From<HostPort> for Target {
    fn from(target: HostPort) -> Self {
        Self::Host(target)
    }
}
