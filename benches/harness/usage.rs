//! What processes use, as Linux tells it in `/proc`.

use std::time::Duration;
use std::{fs, thread};

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

/// Which part of all processors was in use while this process looked and did nothing; 0 where the system does not tell.
pub(crate) fn others() -> f64 {
    let Some(before) = all_ticks() else { return 0.0 };
    thread::sleep(Duration::from_millis(500));
    let Some(after) = all_ticks() else { return 0.0 };
    let (busy, all) = (after.0 - before.0, after.1 - before.1);
    busy as f64 / all.max(1) as f64
}

/// Ticks of all processors together: in use, and all there were.
fn all_ticks() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|f| f.parse().ok())
        .collect();
    let all = fields.iter().sum::<u64>();
    let idle = fields.get(3)? + fields.get(4)?;
    Some((all - idle, all))
}

/// Resident memory of processes together, in KiB; `None` where the system does not tell.
pub(crate) fn resident(pids: &[u32]) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return Some(pids.iter().map(|pid| super::processes::resources(*pid).0).sum());
    #[cfg(not(target_os = "linux"))]
    return pids.first().and(None);
}
