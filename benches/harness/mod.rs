//! What the benchmarks share: a target, the ways to it, and the loads that are put on them.
//!
//! Load and target live in the benchmark's own process and are the same for every way; the ways are processes.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod aead;
pub(crate) mod embedded;
pub(crate) mod load;
#[path = "../../tests/processes/mod.rs"]
mod processes;
pub(crate) mod relay;
pub(crate) mod target;
pub(crate) mod udp;
pub(crate) mod usage;
pub(crate) mod ways;

use std::future::Future;

/// A runtime of one thread, as Conduit's own processes have: with two, half of what is measured is their quarrel.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

/// Both ends of thousands of connections are open here, and both ends of a relay's there.
pub(crate) fn allow_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Where that is refused, opening the connections says so.
        let _ = setrlimit(Resource::Nofile, all);
    }
}
