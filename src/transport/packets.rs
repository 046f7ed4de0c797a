//! How large packets may be: what is known of the way to a peer before a packet is sent.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{MtuDiscoveryConfig, TransportConfig};

use super::Settings;

/// The way to a peer, as this machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Whether the way does not leave this machine.
    pub(super) loopback: bool,
    /// The largest UDP payload that the first interface on the way carries; `None` where the system does not tell.
    payload: Option<u16>,
}

/// Sizes of UDP payloads on one path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packets {
    /// What a connection begins with.
    pub(super) first: u16,
    /// What is taken for granted: no loss makes packets smaller than this.
    least: u16,
    /// What discovery goes up to, and what the peer is asked not to exceed.
    pub(super) most: u16,
}

impl Route {
    /// Asks the system which way packets to `peer` go. Nothing is sent.
    pub(super) fn to(peer: SocketAddr, settings: &Settings) -> Self {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let loopback = settings.trust_loopback && peer.ip().is_loopback();
        let headers = if peer.is_ipv4() { IPV4_HEADERS } else { IPV6_HEADERS };
        // A relay on loopback stands for a path of which nothing is known.
        let known = settings.trust_loopback || !peer.ip().is_loopback();
        let mtu = if known { mtu(peer) } else { None };
        let payload = mtu.map(|mtu| {
            let payload = mtu.saturating_sub(headers).min(LARGEST_PAYLOAD);
            u16::try_from(payload).unwrap_or(u16::MAX)
        });
        Self { loopback, payload }
    }
}

impl Packets {
    /// The sizes for a path; `limit` holds all of them down.
    pub(super) fn on(route: &Route, limit: Option<u16>) -> Self {
        let limit = limit.unwrap_or(u16::MAX).max(MIN_PACKET);
        if route.loopback {
            let known = route.payload.map_or(LOOPBACK_PACKET_UNKNOWN, |most| most.max(MIN_PACKET));
            let size = LOOPBACK_PACKET.min(known).min(limit);
            return Self { first: size, least: size, most: size };
        }
        let most = route.payload.unwrap_or(ETHERNET_PACKET).max(MIN_PACKET).min(limit);
        Self { first: MIN_PACKET, least: MIN_PACKET, most }
    }

    pub(super) fn tune(&self, config: &mut TransportConfig) {
        let discovery = (self.first < self.most).then(|| {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(self.most).black_hole_cooldown(BLACK_HOLE_COOLDOWN);
            discovery
        });
        config.initial_mtu(self.first).min_mtu(self.least).mtu_discovery_config(discovery);
    }
}

/// The MTU of the route to a peer.
#[cfg(target_os = "linux")]
fn mtu(peer: SocketAddr) -> Option<u32> {
    use socket2::{Domain, Protocol, Socket, Type};
    let asked = || {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        // Looks the route up, and that is all that it does.
        socket.connect(&peer.into())?;
        option::mtu(&socket, peer.is_ipv4())
    };
    asked().ok()
}

/// No portable way to ask.
#[cfg(not(target_os = "linux"))]
fn mtu(_: SocketAddr) -> Option<u32> {
    None
}

/// A socket option that no library here knows.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod option {
    use std::io;
    use std::os::fd::AsRawFd;

    /// `IP_MTU` or `IPV6_MTU` of a connected socket (ip(7), ipv6(7)).
    pub(super) fn mtu(socket: &impl AsRawFd, is_ipv4: bool) -> io::Result<u32> {
        let (level, name) = if is_ipv4 {
            (libc::IPPROTO_IP, libc::IP_MTU)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU)
        };
        let mut mtu: libc::c_int = 0;
        let mut length = size_of_val(&mtu) as libc::socklen_t;
        // SAFETY: the descriptor is open while it is borrowed, and the kernel writes at most `length` bytes.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw mut mtu).cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            Ok(u32::try_from(mtu).unwrap_or_default())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// QUIC's smallest legal packet (RFC 9000, 14).
pub(super) const MIN_PACKET: u16 = 1_200;
/// Where nothing is known: 1,500 of Ethernet less IPv6 and UDP headers.
const ETHERNET_PACKET: u16 = 1_452;
/// Five of these, 65,000 bytes, are as much as one send can carry, and the work is per packet and per send. Against 6,550
/// bytes in trains of ten, medians of interleaved runs on a busy machine of two cores: 9,000 bytes are 1.4 times as fast,
/// 13,000 1.3 to 1.5 times, 16,000 1.4 times.
const LOOPBACK_PACKET: u16 = 13_000;
/// Where the system does not tell: macOS sends no datagram above 9,216 bytes by default.
const LOOPBACK_PACKET_UNKNOWN: u16 = 6_550;
/// The largest packet that any path gets.
pub(super) const LARGEST_PACKET: u16 = LOOPBACK_PACKET;
/// The default of 60 s makes one unlucky burst expensive for a minute.
const BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(5);
/// IP without options, and UDP.
const IPV4_HEADERS: u32 = 20 + 8;
const IPV6_HEADERS: u32 = 40 + 8;
/// 65,535 of IPv4 less the headers.
const LARGEST_PAYLOAD: u32 = 65_507;

#[cfg(test)]
mod tests {
    use super::*;

    fn route(loopback: bool, payload: impl Into<Option<u16>>) -> Route {
        Route { loopback, payload: payload.into() }
    }

    #[test]
    fn sizes_follow_the_route_and_the_limit_holds_all_of_them_down() {
        let (jumbo, ethernet, smallest) = (8_972, 1_472, 1_232);
        for (route, limit, (first, most)) in [
            (route(false, jumbo), None, (1_200, 8_972)),
            (route(false, ethernet), None, (1_200, 1_472)),
            (route(false, smallest), None, (1_200, 1_232)),
            (route(false, None), None, (1_200, 1_452)),
            (route(false, 548), None, (1_200, 1_200)),
            (route(false, jumbo), Some(1_300), (1_200, 1_300)),
            (route(false, ethernet), Some(9_000), (1_200, 1_472)),
            (route(true, 65_507), None, (LOOPBACK_PACKET, LOOPBACK_PACKET)),
            (route(true, 1_472), None, (1_472, 1_472)),
            (route(true, None), None, (6_550, 6_550)),
            (route(true, 65_507), Some(1_452), (1_452, 1_452)),
            (route(true, 65_507), Some(65_527), (LOOPBACK_PACKET, LOOPBACK_PACKET)),
        ] {
            let packets = Packets::on(&route, limit);
            let least = if route.loopback { first } else { 1_200 };
            assert_eq!(packets, Packets { first, least, most }, "{route:?} {limit:?}");
        }
    }

    #[test]
    fn the_route_to_this_machine_itself_carries_large_packets() {
        let settings = Settings::default();
        for peer in ["127.0.0.1:9", "[::ffff:127.0.0.1]:9", "[::1]:9"] {
            let route = Route::to(peer.parse().expect("an address"), &settings);
            assert!(route.loopback, "{peer}");
            if cfg!(target_os = "linux") && peer != "[::1]:9" {
                assert!(route.payload.is_some_and(|payload| payload >= 16_000), "{route:?}");
            }
        }
        let settings = Settings { trust_loopback: false, ..settings };
        let route = Route::to("127.0.0.1:9".parse().expect("an address"), &settings);
        assert_eq!(route, Route { loopback: false, payload: None });
    }
}
