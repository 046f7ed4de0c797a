//! Where this machine is in the network, as far as the way to one peer goes, and when that changes. QUIC carries on from
//! any address (RFC 9000, 9), but a client that only receives does not say anything from its new one by itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Instant as Deadline;

use super::endpoint::any_of;

/// Watches the way to one peer.
#[derive(Debug)]
pub struct Whereabouts {
    remote: SocketAddr,
    source: Option<IpAddr>,
    news: news::News,
    clocks: Clocks,
    /// When the way is looked at next.
    due: Deadline,
}

/// What happened to the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Packets leave from another address.
    Moved {
        /// The one before; `None` when there was no way.
        from: Option<IpAddr>,
        /// The one from now on.
        to: IpAddr,
    },
    /// The machine was asleep, or its clock was set.
    Woke,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { from: Some(from), to } => {
                write!(f, "this machine has moved from {from} to {to}")
            }
            Self::Moved { from: None, to } => {
                write!(f, "there is a way to the router again, from {to}")
            }
            Self::Woke => f.write_str("this machine was asleep, or its clock was set"),
        }
    }
}

impl Whereabouts {
    /// Of packets to `remote`.
    pub fn towards(remote: SocketAddr) -> Self {
        let (clocks, due) = (Clocks::now(), Deadline::now() + LOOK_EVERY);
        Self { remote, source: source(remote), news: news::News::new(), clocks, due }
    }

    /// Waits for a change after which the peer should hear from this machine. Cancel-safe.
    pub async fn changed(&mut self) -> Change {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.due) => {
                    self.due = Deadline::now() + LOOK_EVERY;
                    if let Some(change) = self.look() {
                        return change;
                    }
                }
                // Sooner where the system tells what happens in its network. One change makes many messages.
                () = self.news.arrive() => self.due = self.due.min(Deadline::now() + SETTLE),
            }
        }
    }

    fn look(&mut self) -> Option<Change> {
        let (before, now) = (self.clocks, Clocks::now());
        self.clocks = now;
        let from = std::mem::replace(&mut self.source, source(self.remote));
        match self.source {
            Some(to) if from != Some(to) => Some(Change::Moved { from, to }),
            Some(_) if now.slept_since(before) => Some(Change::Woke),
            _ => None,
        }
    }
}

/// The address from which packets to `remote` leave right now; `None` when there is no way. Nothing is sent.
pub fn source(remote: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(any_of(remote), 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// One clock that stands still while the machine sleeps, and one that does not.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    running: Instant,
    wall: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { running: Instant::now(), wall: SystemTime::now() }
    }

    fn slept_since(&self, before: Self) -> bool {
        let running = self.running.saturating_duration_since(before.running);
        let wall = self.wall.duration_since(before.wall).unwrap_or_default();
        wall.saturating_sub(running) > NAP
    }
}

/// A machine that slept for less is still known to the router.
const NAP: Duration = Duration::from_secs(5);
/// How often the way is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 2 } else { 1 });
/// For what belongs to one change.
const SETTLE: Duration = Duration::from_millis(50);

#[cfg(target_os = "linux")]
mod news {
    use std::io;

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use tokio::net::UdpSocket;

    /// The kernel's messages about links, addresses and routes (rtnetlink(7)).
    #[derive(Debug)]
    pub(super) struct News(Option<UdpSocket>);

    impl News {
        /// Without them, where a container allows none, the way is only looked at now and then.
        pub(super) fn new() -> Self {
            let socket = open().inspect_err(|error| {
                tracing::debug!(%error, "the kernel does not tell what happens in the network");
            });
            Self(socket.ok())
        }

        /// Waits for a message, and takes those that are there. Cancel-safe.
        pub(super) async fn arrive(&self) {
            let Some(socket) = &self.0 else { return std::future::pending().await };
            let mut message = [0; 8 << 10];
            // Too many for the system's buffer is an error, and news as well.
            let _ = socket.recv(&mut message).await;
            for _ in 0..AT_ONCE {
                match socket.try_recv(&mut message) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        }
    }

    /// A netlink socket in the coat of another kind that carries messages: all that is done with it is to receive.
    fn open() -> io::Result<UdpSocket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        UdpSocket::from_std(socket.into())
    }

    /// Messages that are taken in one turn.
    const AT_ONCE: usize = 1_000;
    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
}

#[cfg(not(target_os = "linux"))]
mod news {
    /// Nothing: the way is looked at now and then.
    #[derive(Debug)]
    pub(super) struct News;

    impl News {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) async fn arrive(&self) {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(source: Option<&str>) -> Whereabouts {
        let remote = SocketAddr::from(([127, 0, 0, 1], 9));
        let source = source.map(|ip| ip.parse().expect("an address"));
        let (clocks, due) = (Clocks::now(), Deadline::now());
        Whereabouts { remote, source, news: news::News::new(), clocks, due }
    }

    #[tokio::test]
    async fn another_source_address_is_a_change_once() {
        let to = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(watching(Some("127.0.0.1")).look(), None);
        let mut moved = watching(Some("192.0.2.1"));
        let from = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(moved.look(), Some(Change::Moved { from, to }));
        assert_eq!(moved.look(), None);
        assert_eq!(watching(None).look(), Some(Change::Moved { from: None, to }));
    }

    #[tokio::test]
    async fn a_machine_that_was_asleep_says_so() {
        let mut watching = watching(Some("127.0.0.1"));
        watching.clocks.wall -= NAP * 2;
        assert_eq!(watching.look(), Some(Change::Woke));
        watching.clocks.wall += NAP * 2;
        assert_eq!(watching.look(), None, "a clock that was set back");
    }
}
