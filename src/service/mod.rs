//! Service files: text that makes an init system keep a tunnel, a file of tunnels or a router running.
//!
//! Pure text in, text out: it reads no file, installs nothing and starts nothing; `cli` prints what it renders.
//! Implements "Processes and the registry" of the overview (`proto-spec/overview.md`): a restarted machine
//! brings its tunnels back through service files.

mod systemd;
mod unit;

pub use systemd::systemd;
pub use unit::{Kind, Unit};
