//! Logs and the metrics registry: how a running process tells what it does.
//!
//! Holds no product metric and no decision about what is worth a line: those live beside the code that
//! moves them. Implements `[logging]` of the configuration chapter: text or JSON, one line per event, by size.

mod control;
mod escape;
mod line;
mod metrics;
mod rotate;

pub use control::{LogControl, LogError, LogFormat, LogOutput, LogSettings, init};
pub use metrics::Metrics;
pub use rotate::RotatingFile;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Unit;
