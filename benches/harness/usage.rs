//! What processes use, as Linux tells it in `/proc`.

use std::fs;
use std::time::Duration;

/// What processes have used of the processors so far; `None` where the system does not tell.
pub(crate) fn processor_time(pids: &[u32]) -> Option<Duration> {
    pids.iter().map(|pid| scheduled(*pid).or_else(|| ticks(*pid))).sum()
}

/// Nanoseconds, each thread by itself, where the kernel counts them.
fn scheduled(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            let nanos = text.split_whitespace().next()?.parse().ok()?;
            Some(Duration::from_nanos(nanos))
        })
        .sum()
}

/// Ticks of ten milliseconds: Linux counts a hundred a second in this file, on every architecture.
fn ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    // utime and stime are the 14th and 15th field, the 12th and 13th after the name.
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}

/// Resident memory of processes together, in KiB; `None` where the system does not tell.
pub(crate) fn resident(pids: &[u32]) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return Some(pids.iter().map(|pid| super::processes::resources(*pid).0).sum());
    #[cfg(not(target_os = "linux"))]
    return pids.first().and(None);
}
