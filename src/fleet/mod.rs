//! Tunnel processes: spawns them, brings them in line with a file, stops them, supervises them.
//!
//! Carries no byte itself and prints nothing: `client` is the tunnel, `cli` the terminal; this is what stands
//! between them. Implements "Processes and the registry" of the overview (`proto-spec/overview.md`).

mod align;
mod child;
mod failure;
mod host;
mod launch;
mod manager;
mod place;
mod reap;
mod signals;
mod spawn;
mod stop;
mod supervise;
mod tail;
mod tuning;

pub use align::{Outcome, bring_down, bring_up, end_supervisor, has_started, no_longer_declared};
pub use child::run_child;
pub use failure::{Failure, Kind, exit};
pub use host::{BROKEN, CUT_OFF, Claimed, DRAIN, Host, NEVER_READY, serve_control};
pub use launch::{Launch, Output, Pin, Ready};
#[cfg(unix)]
pub use manager::tell_upgrading;
pub use manager::{given_sockets, tell_ready, tell_stopping};
pub use place::{pin_to_processors, runtime};
pub use signals::Signals;
pub use spawn::{Spawned, spawn};
pub use stop::{Ending, gone, stop};
pub use supervise::{Event, supervise};
pub use tail::last_lines;
pub use tuning::Tuning;
