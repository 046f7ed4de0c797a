//! What a tunnel is: direction, protocol and two ends, each independent of the others.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BindAddr, HostPort, Name};

/// Which end listens: direction and protocol are orthogonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The client listens on `bind`, the router dials `source`.
    Forward,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP connections, each on a stream of its own.
    Tcp,
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
    pub bind: BindAddr,
    /// What gets dialled at the other end.
    pub source: HostPort,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
        })
    }
}
