//! The router's own sockets, by every address and path that leads to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::tunnel::UnixPath;

/// The router's listening sockets, and where its control socket and its files lie. A client that could dial them would
/// stand inside the router's own doors, with the router's address as its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSockets {
    listening: Vec<SocketAddr>,
    interfaces: Vec<IpAddr>,
    private: Vec<PathBuf>,
}

impl OwnSockets {
    /// The sockets that listen, and the addresses of this host's interfaces: a socket bound to a wildcard is
    /// reached through each of them, and through every loopback address.
    pub fn new(listening: Vec<SocketAddr>, interfaces: Vec<IpAddr>) -> Self {
        let canonical = |addr: IpAddr| addr.to_canonical();
        Self {
            listening: listening
                .into_iter()
                .map(|addr| SocketAddr::new(canonical(addr.ip()), addr.port()))
                .collect(),
            interfaces: interfaces.into_iter().map(canonical).collect(),
            private: Vec::new(),
        }
    }

    /// The same, with folders that the router keeps to itself; every symbolic link in them has been followed.
    #[must_use]
    pub fn with_private(self, private: Vec<PathBuf>) -> Self {
        Self { private, ..self }
    }

    /// Whether dialling `ip:port` would reach one of them; `ip` is canonical.
    pub(super) fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.listening.iter().any(|own| {
            own.port() == port
                && (own.ip() == ip || own.ip().is_unspecified() && self.is_this_host(ip))
        })
    }

    /// Whether a socket at `ip:port` would stand in the way of one of them, or in front of it; `ip` is canonical.
    pub(super) fn overlap(&self, ip: IpAddr, port: u16) -> bool {
        self.listening.iter().any(|own| {
            own.port() == port
                && (own.ip() == ip || own.ip().is_unspecified() || ip.is_unspecified())
        })
    }

    /// Whether `path` lies in a folder that the router keeps to itself.
    pub(super) fn is_private(&self, path: &UnixPath) -> bool {
        self.private.iter().any(|folder| path.path().starts_with(folder))
    }

    /// A wildcard of one family counts for both: an IPv6 wildcard usually serves IPv4 too.
    fn is_this_host(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.interfaces.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn a_wildcard_socket_is_met_at_every_address_of_the_host() {
        for wildcard in ["0.0.0.0:9999", "[::]:9999"] {
            let own = OwnSockets::new(
                vec![wildcard.parse().expect("an address")],
                vec![ip("192.0.2.7"), ip("2001:db8::7"), ip("::ffff:192.0.2.8")],
            );
            for addr in ["127.0.0.1", "127.9.9.9", "::1", "192.0.2.7", "192.0.2.8", "2001:db8::7"] {
                assert!(own.contains(ip(addr), 9999), "{wildcard} {addr}");
                assert!(!own.contains(ip(addr), 9998), "{wildcard} {addr}");
            }
            assert!(!own.contains(ip("192.0.2.9"), 9999));
        }
    }

    #[test]
    fn a_socket_on_one_address_is_met_only_there() {
        let own = OwnSockets::new(vec!["192.0.2.7:9999".parse().expect("an address")], vec![]);
        assert!(own.contains(ip("192.0.2.7"), 9999));
        assert!(!own.contains(ip("127.0.0.1"), 9999));
    }

    #[test]
    fn a_bind_overlaps_where_either_side_takes_the_others_address() {
        for (own, inside, outside) in [
            ("0.0.0.0:9999", &["0.0.0.0", "::", "127.0.0.1", "192.0.2.9", "::1"][..], &[][..]),
            ("[::]:9999", &["0.0.0.0", "::", "192.0.2.9"], &[]),
            ("192.0.2.7:9999", &["0.0.0.0", "::", "192.0.2.7"], &["127.0.0.1", "192.0.2.8", "::1"]),
        ] {
            let sockets = OwnSockets::new(vec![own.parse().expect(own)], vec![]);
            for addr in inside {
                assert!(sockets.overlap(ip(addr), 9999), "{own} {addr}");
                assert!(!sockets.overlap(ip(addr), 9998), "{own} {addr}");
            }
            assert!(!outside.iter().any(|addr| sockets.overlap(ip(addr), 9999)), "{own}");
        }
    }

    #[test]
    fn a_private_folder_is_kept_with_everything_in_it_and_nothing_beside_it() {
        let own = OwnSockets::default().with_private(vec!["/home/conduit".into(), "/run/c".into()]);
        for (path, kept) in [
            ("/home/conduit", true),
            ("/home/conduit/tunnels/0192a1b2.sock", true),
            ("/run/c/0192a1b2.sock", true),
            ("/home/conduit2/app.sock", false),
            ("/home/app.sock", false),
        ] {
            assert_eq!(own.is_private(&path.parse().expect(path)), kept, "{path}");
        }
    }
}
