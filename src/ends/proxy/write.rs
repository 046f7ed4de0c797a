//! Header to bytes. Pure.

use std::net::{IpAddr, SocketAddr};

use super::{IPV4, IPV6, SIGNATURE, Transport, Visit};
use crate::tunnel::ProxyProtocol;

/// The header for a visitor; empty when the version is `Off`. When an end has no address, or
/// version 1 would have to speak of UDP, it names nobody: `UNKNOWN`, or `LOCAL`. Beside an IPv6 address an IPv4 one takes
/// its mapped form, as there is one family for both.
pub fn header(
    version: ProxyProtocol,
    transport: Transport,
    visitor: Option<SocketAddr>,
    visited: Option<SocketAddr>,
) -> Vec<u8> {
    let visit = visitor.zip(visited).map(|(visitor, visited)| Visit::new(visitor, visited));
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => line(visit.filter(|_| transport == Transport::Stream)).into_bytes(),
        ProxyProtocol::V2 => binary(visit, transport),
    }
}

fn line(visit: Option<Visit>) -> String {
    let Some(visit) = visit else { return "PROXY UNKNOWN\r\n".to_owned() };
    let (from, to) = one_family(visit);
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", visit.visitor.port(), visit.visited.port())
}

fn binary(visit: Option<Visit>, transport: Transport) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Some(visit) = visit else {
        bytes.extend([0x20, 0x00, 0, 0]);
        return bytes;
    };
    let (from, to) = one_family(visit);
    let (family, length) = if from.is_ipv4() { (0x10, IPV4) } else { (0x20, IPV6) };
    let transport = match transport {
        Transport::Stream => 0x01,
        Transport::Datagram => 0x02,
    };
    bytes.extend([0x21, family | transport, 0, length as u8]);
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    for addr in [visit.visitor, visit.visited] {
        bytes.extend(addr.port().to_be_bytes());
    }
    bytes
}

fn one_family(visit: Visit) -> (IpAddr, IpAddr) {
    let (from, to) = (visit.visitor.ip(), visit.visited.ip());
    let mapped = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (mapped(from), mapped(to)) }
}
