//! A public place: a protocol with an address and a port, or with a Unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::tunnel::{Bind, Protocol, UnixPath};

/// Where visitors arrive. In one spelling only, so that equal routes are the same socket: an IPv4-mapped address is
/// the IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    protocol: Protocol,
    place: Place,
}

// The port stands in front of the address: routes that can overlap are then neighbours in an ordered map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Port(u16, IpAddr),
    Unix(UnixPath),
}

impl Route {
    /// The route of a bind; `None` for port 0, which is no place before the system has chosen one.
    pub fn new(protocol: Protocol, bind: &Bind) -> Option<Self> {
        let place = match bind {
            Bind::Addr(addr) => {
                let addr = addr.socket_addr();
                Place::Port(addr.port(), addr.ip().to_canonical())
            }
            Bind::Unix(path) => Place::Unix(path.clone()),
        };
        let is_place = !matches!(place, Place::Port(0, _));
        is_place.then_some(Self { protocol, place })
    }

    /// What is carried.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where to listen.
    pub fn bind(&self) -> Bind {
        match &self.place {
            Place::Port(port, addr) => SocketAddr::new(*addr, *port).into(),
            Place::Unix(path) => Bind::Unix(path.clone()),
        }
    }

    /// Whether both cannot be listened on at one time: the same, or one of them is every address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let collide = match (&self.place, &other.place) {
            (Place::Port(mine, here), Place::Port(theirs, there)) => {
                mine == theirs && (covers(*here, *there) || covers(*there, *here))
            }
            (mine, theirs) => mine == theirs,
        };
        self.protocol == other.protocol && collide
    }

    /// From the first to the last route that this one can overlap.
    pub(super) fn neighbours(&self) -> RangeInclusive<Self> {
        let place = |place| Self { protocol: self.protocol, place };
        match self.place {
            Place::Port(port, _) => {
                place(Place::Port(port, LOWEST))..=place(Place::Port(port, HIGHEST))
            }
            Place::Unix(_) => self.clone()..=self.clone(),
        }
    }
}

impl fmt::Display for Route {
    /// As people are told about it: `port 8080 (tcp)`, `unix:/run/app.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Port(port, _) => write!(f, "port {port} ({})", self.protocol),
            Place::Unix(path) => path.fmt(f),
        }
    }
}

/// Whether a socket that listens on `wide` hears what is sent to `addr`; `[::]` hears IPv4 too.
fn covers(wide: IpAddr, addr: IpAddr) -> bool {
    wide == addr || wide.is_unspecified() && (wide.is_ipv6() || addr.is_ipv4())
}

// IPv4 addresses stand in front of IPv6 addresses.
const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const HIGHEST: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

#[cfg(test)]
mod tests {
    use super::*;

    fn route(protocol: Protocol, bind: &str) -> Route {
        Route::new(protocol, &bind.parse().expect(bind)).expect("a place")
    }

    #[test]
    fn routes_overlap_when_one_socket_is_in_the_way_of_the_other() {
        for (one, other, overlap) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "10.0.0.9:80", false),
            ("127.0.0.1:80", "[::1]:80", false),
            ("0.0.0.0:80", "10.0.0.9:80", true),
            ("0.0.0.0:80", "10.0.0.9:81", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "10.0.0.9:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::ffff:10.0.0.9]:80", "10.0.0.9:80", true),
            ("[::ffff:0.0.0.0]:80", "[::1]:80", false),
            ("unix:/run/a", "unix:/run/a", true),
            ("unix:/run/a", "unix:/run/b", false),
            ("unix:/run/a", "[::]:80", false),
        ] {
            let (a, b) = (route(Protocol::Tcp, one), route(Protocol::Tcp, other));
            assert_eq!(a.overlaps(&b), overlap, "{one} and {other}");
            assert_eq!(b.overlaps(&a), overlap, "{other} and {one}");
            assert!(!overlap || a.neighbours().contains(&b) && b.neighbours().contains(&a));
            assert!(!a.overlaps(&route(Protocol::Udp, other)), "{one} and {other} of UDP");
        }
    }

    #[test]
    fn a_route_is_a_place_in_one_spelling() {
        let mapped = route(Protocol::Tcp, "[::ffff:10.0.0.9]:80");
        assert_eq!(mapped, route(Protocol::Tcp, "10.0.0.9:80"));
        assert_eq!(mapped.bind().to_string(), "10.0.0.9:80");
        assert_eq!(Route::new(Protocol::Tcp, &"[::]:0".parse().expect("a bind")), None);
        assert_eq!(route(Protocol::Udp, "[::]:53").to_string(), "port 53 (udp)");
        let socket = route(Protocol::Tcp, "unix:/run/a");
        assert_eq!(
            (socket.to_string(), socket.bind()),
            ("unix:/run/a".into(), "unix:/run/a".parse().expect("a bind"))
        );
    }
}
