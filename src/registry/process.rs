//! Whether a process is still the one that wrote a record: a pid alone may have been given away again.

/// What is known about the process of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It runs: same pid, same start.
    Running,
    /// It is gone, or its pid belongs to another process now.
    Gone,
    /// It cannot be told from here: another container, or a system that does not say when a process started.
    Unknown,
}

/// When this process started, as a text that only equality is asked of: `<boot id>/<pid namespace>/<ticks>`.
pub(super) fn own_start() -> Option<String> {
    start_of(std::process::id())
}

/// Compares a recorded pid and start with the process table.
pub(super) fn presence(pid: u32, started: Option<&str>) -> Presence {
    let Some((scope, _)) = started.and_then(|text| text.rsplit_once('/')) else {
        return Presence::Unknown;
    };
    match own_start() {
        Some(own) if own.rsplit_once('/').is_some_and(|(ours, _)| ours == scope) => {}
        // Another boot of this machine ended every process of the one before; another pid namespace does not.
        Some(own) if own.split('/').next() != scope.split('/').next() => return Presence::Gone,
        _ => return Presence::Unknown,
    }
    if start_of(pid).as_deref() == started { Presence::Running } else { Presence::Gone }
}

#[cfg(target_os = "linux")]
fn start_of(pid: u32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the second field is the command in parentheses and may hold spaces and parentheses itself.
    let after = stat.iter().rposition(|b| *b == b')')?;
    let text = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    // A zombie (state Z) has ended; only its parent has not asked yet.
    let state = fields.next()?;
    let ticks = fields.nth(START_TIME - STATE - 1)?;
    (state != "Z").then(|| format!("{}/{}/{ticks}", boot.trim(), namespace.display()))
}

#[cfg(not(target_os = "linux"))]
fn start_of(_: u32) -> Option<String> {
    None
}

/// Kills exactly the process that was recorded. `Ok(false)`: it was gone already.
#[cfg(target_os = "linux")]
pub(super) fn kill(pid: u32, started: Option<&str>) -> std::io::Result<bool> {
    signal(pid, started, rustix::process::Signal::KILL)
}

/// Asks exactly that process to end (SIGTERM). `Ok(false)`: it was gone already.
#[cfg(target_os = "linux")]
pub(super) fn interrupt(pid: u32, started: Option<&str>) -> std::io::Result<bool> {
    signal(pid, started, rustix::process::Signal::TERM)
}

#[cfg(target_os = "linux")]
fn signal(
    pid: u32,
    started: Option<&str>,
    signal: rustix::process::Signal,
) -> std::io::Result<bool> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    // The descriptor holds the process; only then its start is compared, so that no other can slip in.
    let process = match pidfd_open(target, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        opened => opened?,
    };
    match presence(pid, started) {
        Presence::Running => {}
        Presence::Gone => return Ok(false),
        Presence::Unknown => return Err(unknown()),
    }
    match pidfd_send_signal(process, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(false),
        sent => Ok(sent.map(|()| true)?),
    }
}

/// Without a start time no process can be told from its successor, so none is killed.
#[cfg(not(target_os = "linux"))]
pub(super) fn kill(_: u32, _: Option<&str>) -> std::io::Result<bool> {
    Err(unknown())
}

/// The same holds for a milder signal.
#[cfg(not(target_os = "linux"))]
pub(super) fn interrupt(_: u32, _: Option<&str>) -> std::io::Result<bool> {
    Err(unknown())
}

fn unknown() -> std::io::Error {
    std::io::Error::other("it cannot be told from here whether the pid still is that process")
}

/// Field numbers of proc(5), `/proc/<pid>/stat`.
#[cfg(target_os = "linux")]
const STATE: usize = 3;
#[cfg(target_os = "linux")]
const START_TIME: usize = 22;

#[cfg(all(test, target_os = "linux"))]
pub(super) mod tests {
    use super::*;

    /// A process that started in another clock tick than this one: within a tick, starts look alike.
    #[cfg(target_os = "linux")]
    pub(in crate::registry) fn a_later_process() -> std::process::Child {
        let own = own_start();
        loop {
            let mut sleep = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
            if start_of(sleep.id()) != own {
                return sleep;
            }
            sleep.kill().expect("killed");
            sleep.wait().expect("gone");
        }
    }

    #[test]
    fn h78_a_pid_that_was_given_away_is_not_our_process() {
        let own = own_start().expect("a start");
        assert_eq!(presence(std::process::id(), Some(&own)), Presence::Running);
        let mut sleep = a_later_process();
        let pid = sleep.id();
        assert_eq!(presence(pid, Some(&own)), Presence::Gone, "it is a sleep now");
        assert!(!kill(pid, Some(&own)).expect("asked"), "another process is never killed");
        assert!(sleep.try_wait().expect("wait").is_none(), "it lives");
        let start = start_of(pid).expect("a start");
        assert!(kill(pid, Some(&start)).expect("killed"));
        sleep.wait().expect("wait");
        assert_eq!(presence(pid, Some(&start)), Presence::Gone);
        assert!(!kill(pid, Some(&start)).expect("asked"));
    }

    #[test]
    fn what_another_container_wrote_is_not_judged() {
        let own = own_start().expect("a start");
        let (boot, rest) = own.split_once('/').expect("parts");
        assert_eq!(presence(1, None), Presence::Unknown);
        assert_eq!(presence(1, Some(&format!("{boot}/pid:[1]/77"))), Presence::Unknown);
        assert_eq!(presence(std::process::id(), Some(&format!("old/{rest}"))), Presence::Gone);
    }
}
