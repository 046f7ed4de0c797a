//! Congestion control of our own, behind quinn's `Controller`.
//!
//! The window is the one lever that quinn gives: it bounds what is in flight, and the pacer sends 1.25 windows per
//! smoothed round-trip time in bursts of 2 ms. `docs/congestion.md` describes the algorithm, its states and sources.

mod level;
mod measure;
mod phase;
#[cfg(test)]
mod sim;

use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Bbr, Controller, ControllerFactory};

use self::level::Level;
use super::settings::OptimizeFor;
use super::share::ShareCell;
use crate::tunnel::Priority;

/// Makes controllers; one per connection and path.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Whether a short queue or a full link matters more.
    pub(super) optimize_for: OptimizeFor,
    /// What the connection may take beside others.
    pub(super) share: Arc<ShareCell>,
}

/// The controller of a connection, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// The word of the configuration: `auto`, `bbr` or `cubic`.
    pub controller: &'static str,
    /// A word for its phase; `None` where the controller does not tell.
    pub phase: Option<&'static str>,
}

impl Steering {
    /// What the controller of a connection says of itself.
    pub(super) fn of(controller: Box<dyn Controller>) -> Self {
        let slow_start =
            controller.metrics().ssthresh.is_some_and(|threshold| controller.window() < threshold);
        let controller = controller.into_any();
        match controller.downcast_ref::<Level>() {
            Some(level) => Self { controller: "auto", phase: Some(level.phase()) },
            None if controller.is::<Bbr>() => Self { controller: "bbr", phase: None },
            None if slow_start => Self { controller: "cubic", phase: Some("slow start") },
            None => Self { controller: "cubic", phase: Some("avoidance") },
        }
    }
}

impl Config {
    fn initial_window(&self, mtu: u16) -> u64 {
        (10 * u64::from(mtu)).max(INITIAL_WINDOW)
    }

    /// How many times the ordinary part of a queue is ours: rates on one link are as these numbers.
    fn weight(&self) -> f64 {
        let patience = match self.optimize_for {
            OptimizeFor::Latency => 0.5,
            OptimizeFor::Balanced => 1.0,
            OptimizeFor::Throughput => 2.0,
        };
        patience
            * match self.share.get() {
                Priority::Interactive => 2.0,
                Priority::Normal => 1.0,
                Priority::Bulk => 0.25,
            }
    }

    /// Whether it stands up to traffic that fills the queue. Bulk makes room.
    fn contends(&self) -> bool {
        self.share.get() != Priority::Bulk
    }
}

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Level::new(self, now, current_mtu))
    }
}

/// RFC 9002, 7.2: ten packets, at least 14,720 bytes.
const INITIAL_WINDOW: u64 = 14_720;
