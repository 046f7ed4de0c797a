//! Two hosts that are joined by a cable: the namespace of the test, and one more.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Run, in_namespace};

/// The other host: the test itself is on the first one (10.7.0.2), this one is 10.7.0.1.
pub(crate) struct Host(File);

/// Runs `body` in namespaces as [`in_namespace`] does, with a second host at the other end of a cable of MTU 1,500.
/// There are only loopback interfaces besides it, and everything is gone with the namespaces.
pub(crate) fn on_two_hosts(name: &str, body: impl FnOnce(&Host)) {
    in_namespace(name, || {
        // `ip netns` and wireguard-go keep files there; the machine's own folder stays as it is.
        Run::program("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).succeeds();
        ip("netns add there");
        ip("link add cable type veth peer name cable netns there");
        ip(&format!("address add {}/24 dev cable", Host::HERE));
        ip(&format!("-n there address add {}/24 dev cable", Host::THERE));
        for line in ["link set cable up", "-n there link set lo up", "-n there link set cable up"] {
            ip(line);
        }
        body(&Host(File::open("/run/netns/there").expect("the other host's namespace")));
    });
}

impl Host {
    /// The address of the host that the test is on.
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 2));
    /// The other host's address.
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1));

    /// An address that neither host has before a test gives it one.
    pub(crate) const fn private(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, number))
    }

    /// Runs `body` on the other host: what it binds, starts or asks stays there.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let entered = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.0.as_fd(), network).expect("the other host");
                body()
            });
            inside.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// `ip WORDS`, which succeeds.
#[track_caller]
pub(crate) fn ip(words: &str) {
    Run::program("ip").args(words.split_whitespace()).succeeds();
}
