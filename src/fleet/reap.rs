//! Process 1 of a container inherits every orphan, and has to take them off the process table.

/// Reaps what process 1 inherited, for ever; processes that it started itself are left to those who wait for them.
#[cfg(target_os = "linux")]
pub(super) async fn reap_orphans() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut children) = signal(SignalKind::child()) else { return };
    loop {
        reap_once();
        tokio::select! {
            _ = children.recv() => {}
            // Signals that come together are one signal, and whoever waits may be late: look again.
            () = tokio::time::sleep(std::time::Duration::from_secs(10)) => {}
        }
    }
}

/// Elsewhere there are no containers.
#[cfg(not(target_os = "linux"))]
pub(super) async fn reap_orphans() {
    std::future::pending().await
}

#[cfg(target_os = "linux")]
fn reap_once() {
    use rustix::process::{Pid, WaitOptions, waitpid};
    // Tunnel processes are told apart by their argument; a zombie has none, so only what is none of ours and has
    // ended under another name is reaped here.
    for pid in zombies_of_others() {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Children of process 1 that have ended and whose name is not that of this program (proc(5), `stat`).
#[cfg(target_os = "linux")]
fn zombies_of_others() -> Vec<i32> {
    let own = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_foreign_zombie(&stat, own.trim_end())
    })
    .collect()
}

#[cfg(target_os = "linux")]
fn is_foreign_zombie(stat: &str, own: &str) -> bool {
    let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { return false };
    let mut fields = stat[close + 1..].split_ascii_whitespace();
    let is_zombie = fields.next() == Some("Z");
    let is_child = fields.next() == Some("1");
    is_zombie && is_child && &stat[open + 1..close] != own
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_dead_children_are_reaped() {
        assert!(is_foreign_zombie("17 (sh) Z 1 17 17 0", "conduit"));
        assert!(is_foreign_zombie("17 (a) b) Z 1 17 17 0", "conduit"));
        assert!(!is_foreign_zombie("17 (conduit) Z 1 17 17 0", "conduit"), "somebody waits for it");
        assert!(!is_foreign_zombie("17 (sh) S 1 17 17 0", "conduit"), "it lives");
        assert!(!is_foreign_zombie("17 (sh) Z 4 17 17 0", "conduit"), "another's child");
        assert!(!is_foreign_zombie("", "conduit"));
    }
}
