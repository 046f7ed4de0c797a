//! Where a process runs: its threads and its processors.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The runtime of a process: one thread unless the configuration asks for more.
///
/// A tunnel is one QUIC connection, which one thread drives; a second one costs more in wake-ups than it gains.
pub fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    match threads {
        Some(threads) if threads > 1 => {
            Builder::new_multi_thread().worker_threads(threads).enable_all().build()
        }
        _ => Builder::new_current_thread().enable_all().build(),
    }
}

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
