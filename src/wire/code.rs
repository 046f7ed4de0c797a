//! The one registry of numbers for closes, resets and refusals. Removed ones stay listed as reserved.

use std::fmt;

/// Whose fault an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nobody's: it was asked for.
    Nobody,
    /// The end that sends the code.
    Local,
    /// The end that receives the code.
    Peer,
    /// What was dialled.
    Target,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $side:ident, $text:literal;)*) => {
        /// Why a connection or a stream ended, or was refused; stable numbers. [ERR-1]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)*
            /// A number that this version does not know. [ERR-2]
            Unknown(u64),
        }

        impl Code {
            /// Every code that has a name, in the order of the numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u64 {
                match self {
                    $(Code::$name => $number,)*
                    Code::Unknown(number) => number,
                }
            }

            /// Reads a number; an unknown one is kept. [ERR-2]
            pub fn from_number(number: u64) -> Self {
                match number {
                    $($number => Code::$name,)*
                    number => Code::Unknown(number),
                }
            }

            /// Whose fault it is.
            pub fn side(self) -> Side {
                match self {
                    $(Code::$name => Side::$side,)*
                    Code::Unknown(_) => Side::Local,
                }
            }

            /// The name in JSON output and in the specification.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                    Code::Unknown(_) => "Unknown",
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                    Code::Unknown(_) => "ended for a reason that this version does not know",
                }
            }
        }
    };
}

codes! {
    /// Ended as it was asked to.
    Done = 0x00, Nobody, "ended as asked";
    /// The sender has a defect.
    Internal = 0x01, Local, "internal error at the other end";
    /// The sender shuts down.
    ShuttingDown = 0x02, Nobody, "the other end shuts down";
    /// Bytes that the protocol does not allow here.
    Protocol = 0x10, Peer, "protocol error";
    /// A version or a required feature that is not known.
    Unsupported = 0x11, Peer, "unsupported protocol version or feature";
    /// A message did not come in time.
    TooSlow = 0x12, Peer, "a message did not come in time";
    /// A limit of the session is used up.
    Limit = 0x13, Peer, "a limit of the session is used up";
    /// Not admitted: unknown, revoked and malformed alike.
    Refused = 0x20, Peer, "the router does not admit this key";
    /// The ticket is good but spent or expired; only for who proves its secret.
    TicketSpent = 0x21, Peer, "the ticket is used up or expired";
    /// Another process of the same client took the tunnel over.
    Replaced = 0x30, Nobody, "another process of this client took the tunnel over";
    /// The stream that should go on is not known here, or no longer.
    Gone = 0x31, Nobody, "the other end no longer has this connection";
    /// The stream that should go on has been delivered to its last byte, both ways.
    Complete = 0x32, Nobody, "everything has been delivered";
    /// The stream that should go on never came here: to open it again is safe.
    Unseen = 0x33, Nobody, "the other end has not heard of this connection";
    /// The session goes on with another connection.
    Moved = 0x34, Nobody, "the session goes on with another connection";
    /// The policy does not allow the target.
    Denied = 0x40, Peer, "denied by policy";
    /// The target's name does not resolve.
    NotFound = 0x41, Target, "the target's name was not found";
    /// The target refuses the connection.
    ConnectionRefused = 0x42, Target, "the target refused the connection";
    /// No way to the target.
    Unreachable = 0x43, Target, "the target is unreachable";
    /// The target did not answer in time.
    TimedOut = 0x44, Target, "the target did not answer in time";
    /// The router has no resources for another connection.
    Exhausted = 0x45, Local, "the other end has no room for another connection";
    /// The socket behind the stream was reset.
    Reset = 0x50, Target, "connection reset";
    /// The half that was left open stayed silent for too long.
    Abandoned = 0x51, Target, "the half-closed connection stayed silent";
    /// An operator ended the connection.
    Killed = 0x52, Nobody, "ended by an operator";
    /// The flow was silent for too long.
    Idle = 0x60, Nobody, "the flow was silent for too long";
    /// The flow gave way to a newer one.
    Evicted = 0x61, Nobody, "the flow gave way to a newer one";
    /// Somebody else has the port.
    Taken = 0x70, Peer, "the port is taken";
    /// The router cannot listen there.
    Unavailable = 0x71, Local, "the router cannot listen there";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {:#04x})", self.text(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back_and_none_is_used_twice() {
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
        }
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
        assert!(numbers.is_sorted());
        assert_eq!(Code::from_number(0x7777), Code::Unknown(0x7777));
    }

    #[test]
    fn the_specification_lists_the_same_numbers() {
        let page = include_str!("../../proto-spec/error-codes.md");
        for code in Code::ALL {
            let row = format!("| {:#04x} | `{}` |", code.number(), code.name());
            assert!(page.contains(&row), "error-codes.md has no row {row}");
        }
        assert_eq!(
            page.matches("\n| 0x").count(),
            Code::ALL.len(),
            "error-codes.md has rows of its own"
        );
    }
}
