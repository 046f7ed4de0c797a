//! What carries the packets of a connection.

use std::fmt;

/// What carries the packets of a connection right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// UDP.
    Quic,
    /// TLS over TCP, for networks that carry no UDP.
    Tls,
}

impl Carrier {
    /// A word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
