//! Moves bytes between two ends.
//!
//! [`pipe`] is the only copy loop for bytes: half-close both ways, resets with their codes, back-pressure, no buffer
//! held while idle. [`Flows`] is the same for packets. It neither dials nor listens. Implements
//! `proto-spec/streams.md`, "A connection's life", and `proto-spec/flows.md`.

mod echo;
mod flows;
mod outcome;
mod pipe;
mod queue;
mod socket;
mod table;

pub use echo::{echo, echo_after};
#[cfg(unix)]
pub use flows::Bequest;
pub use flows::{
    Aging, CONVERSATION_PATIENCE, Destination, FlowRules, FlowTable, Flows, Front, Known, Loss,
    Opening, PATIENCE, Reassembly, Scope, Side, TableFull, Traffic, TrafficMetrics, front,
};
pub use outcome::{EndedBy, Halted, Transferred};
pub use pipe::{Copying, Counters, pipe, pipe_after};
pub use socket::first_bytes;
pub use table::{Entry, Faces, Live, Refused, Table, Totals};

use std::time::Duration;

/// What can be set about copying.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes taken from a socket in one go, at most.
    pub read_buffer: usize,
    /// Bytes handed to a socket in one go, at most.
    pub write_buffer: usize,
    /// Bytes of one direction of one connection before others get their turn.
    pub turn: usize,
    /// How long a half-closed connection may stay silent.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_buffer: 256 << 10,
            write_buffer: 1 << 20,
            turn: TURN,
            linger: Duration::from_secs(30),
        }
    }
}

/// 50 microseconds of copying. An echo beside bulk on loopback took 8.9 ms in the median where a turn was as long as
/// there were bytes, 5.3 ms with 256 KiB; with 128 KiB and a smaller window of QUIC's, 1.8 ms.
const TURN: usize = 128 << 10;
