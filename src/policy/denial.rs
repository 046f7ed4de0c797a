//! The answer, and the addresses that nobody reaches.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What policy says of one address, path or bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It may be dialled, or listened at.
    Allowed,
    /// It may not, and why.
    Denied(Denial),
}

/// Why an address may not be dialled, or not listened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// No rule of the client's lists it.
    NotListed,
    /// `0.0.0.0/8` or `::`, which the kernel takes for this host.
    Unspecified,
    /// A multicast group.
    Multicast,
    /// The limited broadcast address.
    Broadcast,
    /// `169.254.0.0/16` or `fe80::/10`.
    LinkLocal,
    /// A cloud's metadata service, which hands out the host's credentials.
    Metadata,
    /// An IPv6 form (NAT64, 6to4, Teredo, ISATAP, compatible, translated) of an IPv4 address that is denied.
    Embedded,
    /// Port 0.
    PortZero,
    /// A socket of the router itself.
    OwnSocket,
    /// A path in a folder that the router keeps to itself.
    Private,
    /// A bind that no rule of the client's lists.
    BindNotListed,
    /// An owner's bind below [`Permissions::FIRST_FREE_PORT`](super::Permissions::FIRST_FREE_PORT) that no rule lists.
    LowPort,
    /// A bind at port 0, which takes any free one, of somebody who is no owner.
    PortChoice,
    /// A bind where the router itself listens.
    OwnPort,
}

impl From<Option<Denial>> for Decision {
    fn from(denial: Option<Denial>) -> Self {
        denial.map_or(Self::Allowed, Self::Denied)
    }
}

impl Decision {
    /// Whether the answer is yes.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotListed => "not among the targets this client may reach",
            Self::Unspecified => "the unspecified address is never dialled",
            Self::Multicast => "multicast addresses are neither dialled nor listened at",
            Self::Broadcast => "the broadcast address is neither dialled nor listened at",
            Self::LinkLocal => "link-local addresses are never dialled",
            Self::Metadata => "cloud metadata services are never dialled",
            Self::Embedded => "it is an IPv6 form of an IPv4 address that is denied",
            Self::PortZero => "port 0 is never dialled",
            Self::OwnSocket => "the router's own sockets are never dialled",
            Self::Private => "it lies in a folder that the router keeps to itself",
            Self::BindNotListed => "not among the places where this client may listen",
            Self::LowPort => "ports below 1024 have to be listed, for an owner too",
            Self::PortChoice => "only an owner may take any free port: name one",
            Self::OwnPort => "the router itself listens there",
        })
    }
}

/// The deny list of plain addresses, `None` for what is not on it. `addr` is canonical: not an IPv4-mapped one.
pub(super) fn forbidden(addr: IpAddr) -> Option<Denial> {
    if METADATA.contains(&addr) {
        return Some(Denial::Metadata);
    }
    match addr {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(Denial::Unspecified),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(Denial::Broadcast),
        IpAddr::V4(v4) if v4.is_link_local() => Some(Denial::LinkLocal),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(Denial::Unspecified),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Denial::LinkLocal),
        addr if addr.is_multicast() => Some(Denial::Multicast),
        _ => None,
    }
}

/// Metadata services that answer on addresses of their own. They are listed one by one because most of them lie
/// in ranges that are otherwise good targets.
const METADATA: [IpAddr; 7] = [
    // AWS, Azure, GCP, DigitalOcean, OpenStack …; and the credentials of AWS' containers.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    // Alibaba Cloud, Oracle Cloud's older one, Azure's WireServer.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // AWS and GCP over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_the_denied_ranges_are_where_they_belong() {
        for (text, denial) in [
            ("0.255.255.255", Some(Denial::Unspecified)),
            ("1.0.0.0", None),
            ("169.253.255.255", None),
            ("169.254.0.0", Some(Denial::LinkLocal)),
            ("169.254.255.255", Some(Denial::LinkLocal)),
            ("169.255.0.0", None),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(Denial::Multicast)),
            ("239.255.255.255", Some(Denial::Multicast)),
            ("240.0.0.0", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some(Denial::Broadcast)),
            ("::", Some(Denial::Unspecified)),
            ("::1", None),
            ("fe7f:ffff::", None),
            ("fe80::", Some(Denial::LinkLocal)),
            ("febf:ffff::", Some(Denial::LinkLocal)),
            ("fec0::", None),
            ("feff:ffff::", None),
            ("ff00::", Some(Denial::Multicast)),
            ("fd00:ec2::254", Some(Denial::Metadata)),
            ("fd00:ec2::253", None),
        ] {
            assert_eq!(forbidden(text.parse().expect(text)), denial, "{text}");
        }
    }
}
