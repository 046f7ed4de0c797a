//! What a service manager hears of a process, and what it gives to one: sd_notify(3), sd_listen_fds(3). Without a manager
//! all of it does nothing.

use crate::task::Tasks;
use crate::transport::Sockets;

#[cfg(unix)]
mod unix {
    use listenfd::ListenFd;
    use sd_notify::NotifyState;

    use super::{Sockets, Tasks};

    pub(super) fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }

    /// Says twice in the time allowed that the process does its work: a task that runs is one that others can, too.
    pub(super) fn watch(tasks: &Tasks) {
        let Some(limit) = sd_notify::watchdog_enabled() else { return };
        tasks.spawn_until_cancelled("watchdog", async move {
            let mut beat = tokio::time::interval(limit / 2);
            loop {
                beat.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
        });
    }

    pub(super) fn sockets() -> std::io::Result<Sockets> {
        let mut given = ListenFd::from_env();
        let mut sockets = Sockets::default();
        for index in 0..given.len() {
            // Each asks for one kind, and leaves another one where it is.
            if let Ok(Some(udp)) = given.take_udp_socket(index) {
                sockets.udp = Some(udp);
            } else if let Ok(Some(tcp)) = given.take_tcp_listener(index) {
                sockets.tcp = Some(tcp);
            } else {
                let what = format!("socket {index} of the service manager is neither UDP nor TCP");
                return Err(std::io::Error::other(what));
            }
        }
        Ok(sockets)
    }
}

/// It is ready; from here on the manager's watchdog hears of it.
pub fn tell_ready(tasks: &Tasks) {
    #[cfg(unix)]
    {
        unix::tell(&[sd_notify::NotifyState::Ready]);
        unix::watch(tasks);
    }
    #[cfg(not(unix))]
    let _ = tasks;
}

/// It becomes another program, and says again that it is ready.
#[cfg(unix)]
pub fn tell_upgrading() {
    use sd_notify::NotifyState;
    let now = NotifyState::monotonic_usec_now();
    let states = [Some(NotifyState::Reloading), now.ok()];
    unix::tell(&states.into_iter().flatten().collect::<Vec<_>>());
}

/// It is about to end.
pub fn tell_stopping() {
    #[cfg(unix)]
    unix::tell(&[sd_notify::NotifyState::Stopping]);
}

/// Sockets that the manager has bound for a router (socket activation); none are an empty set.
pub fn given_sockets() -> std::io::Result<Sockets> {
    #[cfg(unix)]
    return unix::sockets();
    #[cfg(not(unix))]
    Ok(Sockets::default())
}
