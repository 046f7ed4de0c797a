//! Congestion control of our own, behind quinn's `Controller`.
//!
//! The window is the one lever that quinn gives: it bounds what is in flight, and the pacer sends 1.25 windows per
//! smoothed round-trip time in bursts of 2 ms. `docs/congestion.md` describes the algorithm, its states and sources.

mod level;
mod measure;
#[cfg(test)]
mod sim;

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};

use self::level::Level;

/// Makes controllers; one per connection and path.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Whether both ends are on this machine: there is no queue to keep short, only processors to keep busy.
    pub(super) loopback: bool,
}

/// What a controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Looking for the rate that the path carries.
    Startup,
    /// Holding a few packets in the queue.
    Level,
    /// Letting the queue run empty, to see the path without it.
    Drain,
    /// Taking a share beside traffic that fills the queue.
    Contend,
}

impl Config {
    fn initial_window(&self, mtu: u16) -> u64 {
        (10 * u64::from(mtu)).max(INITIAL_WINDOW)
    }

    fn weight(&self) -> f64 {
        1.0
    }

    fn noise(&self) -> Duration {
        if self.loopback { Duration::from_millis(1) } else { Duration::from_millis(1) }
    }

    fn contends(&self) -> bool {
        true
    }
}

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Level::new(self, now, current_mtu))
    }
}

/// RFC 9002, 7.2: ten packets, at least 14,720 bytes.
const INITIAL_WINDOW: u64 = 14_720;
