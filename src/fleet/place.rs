//! Where a process runs: its threads, its processors and its limits.

use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::ends::let_packets_gather;

/// The runtime of a process: one thread unless the configuration asks for more.
///
/// A tunnel is one QUIC connection, which one thread drives; a second one costs more in wake-ups than it gains.
pub fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    raise_file_limit();
    let mut builder = match threads {
        Some(threads) if threads > 1 => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
        _ => Builder::new_current_thread(),
    };
    builder.event_interval(EVENT_INTERVAL).on_thread_park(let_packets_gather).enable_all().build()
}

/// Lets this process open as many files as the system allows it: every connection and every flow is one, and the usual
/// limit of 1,024 is for programs that wait with `select`. A system that says no leaves the limit as it was.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
fn raise_file_limit() {}

/// Keeps this thread, and those that it starts from now on, on these processors.
#[cfg(target_os = "linux")]
pub fn pin_to_processors(processors: &[usize]) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if processors.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps this thread on these processors; elsewhere than on Linux that cannot be asked for.
#[cfg(not(target_os = "linux"))]
pub fn pin_to_processors(processors: &[usize]) -> io::Result<()> {
    if processors.is_empty() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Tasks that run before sockets are looked at again. With tokio's 61, each of which may copy as much as one may in a
/// turn, a keystroke beside bulk was seen late: p95 of an echo on loopback 12 ms, and 4 ms with 8, at the same rate of
/// the bulk and of requests.
const EVENT_INTERVAL: u32 = 8;
