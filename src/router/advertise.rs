//! Under which addresses clients find the router.

use std::net::{IpAddr, SocketAddr};

use crate::tunnel::{Host, HostPort};

/// What tickets carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// In the order in which clients try them.
    pub addresses: Vec<HostPort>,
    /// None of them can be reached from the internet: the operator should know.
    pub all_private: bool,
}

/// The address that was set, or else those of the interfaces that `bind` listens on.
pub fn advertised(explicit: Option<&HostPort>, bind: SocketAddr) -> Advertised {
    if let Some(address) = explicit {
        return Advertised { addresses: vec![address.clone()], all_private: false };
    }
    let mut ips = if bind.ip().is_unspecified() { interfaces() } else { vec![bind.ip()] };
    ips.retain(|ip| !is_link_local(ip) && (bind.is_ipv6() || ip.is_ipv4()));
    // Loopback serves a trial on one machine; elsewhere it would only cost clients an attempt.
    if ips.iter().any(|ip| !ip.is_loopback()) {
        ips.retain(|ip| !ip.is_loopback());
    }
    ips.sort_by_key(|ip| (is_private(ip), ip.is_ipv6()));
    ips.dedup();
    ips.truncate(crate::identity::Ticket::MAX_ADDRESSES);
    // Whoever listens on loopback only wants nobody from elsewhere.
    let all_private = !bind.ip().is_loopback() && ips.iter().all(is_private);
    let addresses = ips.into_iter().map(|ip| HostPort { host: Host::Addr(ip), port: bind.port() });
    Advertised { addresses: addresses.collect(), all_private }
}

/// The addresses of this machine; none when the system does not tell.
pub(super) fn interfaces() -> Vec<IpAddr> {
    if_addrs::get_if_addrs()
        .map_or_else(|_| Vec::new(), |all| all.into_iter().map(|one| one.ip()).collect())
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_what_tickets_carry() {
        let set: HostPort = "tunnel.example.org:443".parse().expect("an address");
        let bind = "0.0.0.0:9999".parse().expect("an address");
        assert_eq!(
            advertised(Some(&set), bind),
            Advertised { addresses: vec![set], all_private: false }
        );
    }

    #[test]
    fn a_bound_address_is_the_only_one() {
        for (bind, all_private) in
            [("10.0.0.1:7", true), ("192.0.2.1:7", false), ("127.0.0.1:7", false)]
        {
            let bind: SocketAddr = bind.parse().expect("an address");
            let only = Advertised { addresses: vec![bind.into()], all_private };
            assert_eq!(advertised(None, bind), only);
        }
    }
}
