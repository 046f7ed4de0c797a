//! Bytes to header. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{FIXED, IPV4, IPV6, MOST_EXTRA, MOST_LINE, ProxyError, SIGNATURE, UNIX, Visit, WORD};

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whom it names.
    pub visit: Option<Visit>,
    /// Its own bytes; what follows is payload.
    pub length: usize,
}

/// Reads the header at the start of a connection; `None` while more has to come.
pub fn parse_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    // As far as they go: what cannot become a header any more is not waited for.
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, start)| byte == start);
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Reads the header in front of a UDP packet, which is of version 2. Returns who visits what, and the header's length.
pub fn parse_datagram(
    packet: &[u8],
) -> Result<(Option<(SocketAddr, SocketAddr)>, usize), ProxyError> {
    if !packet.starts_with(SIGNATURE) {
        return Err(ProxyError::Missing);
    }
    let ProxyHeader { visit, length } = binary(packet)?.ok_or(ProxyError::Cut)?;
    Ok((visit.map(|visit| (visit.visitor, visit.visited)), length))
}

/// Version 2 (section 2.2). Stream or datagram is what the visitor spoke, which need not be what is spoken here.
fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let needed = match (command, family) {
        // LOCAL: the family means nothing.
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11 | 0x12) => IPV4,
        (0x21, 0x21 | 0x22) => IPV6,
        (0x21, 0x31 | 0x32) => UNIX,
        (0x21, _) => return Err(ProxyError::Malformed("there is no such family of addresses")),
        (0x22..=0x2f, _) => return Err(ProxyError::Malformed("there is no such command")),
        _ => return Err(ProxyError::Malformed("there is no such version")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < needed {
        return Err(ProxyError::Malformed("it has no room for its addresses"));
    }
    if length > MOST_EXTRA {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let visit = match needed {
        IPV4 => addresses::<4>(body),
        IPV6 => addresses::<16>(body),
        // Paths of another machine say nothing here.
        _ => None,
    };
    Ok(Some(ProxyHeader { visit, length: FIXED + length }))
}

/// Two addresses of `N` bytes and two ports.
fn addresses<const N: usize>(body: &[u8]) -> Option<Visit>
where
    IpAddr: From<[u8; N]>,
{
    let (visitor, rest) = body.split_first_chunk::<N>()?;
    let (visited, rest) = rest.split_first_chunk::<N>()?;
    let [from_high, from_low, to_high, to_low] = *rest.first_chunk()?;
    let addr = |ip: [u8; N], port| SocketAddr::new(ip.into(), u16::from_be_bytes(port));
    Some(Visit::new(addr(*visitor, [from_high, from_low]), addr(*visited, [to_high, to_low])))
}

/// Version 1 (section 2.1).
fn line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let bytes = &bytes[..bytes.len().min(MOST_LINE)];
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MOST_LINE { Ok(None) } else { Err(ProxyError::TooLong) };
    };
    let words = &bytes[WORD.len()..end];
    // What follows UNKNOWN is to be ignored, whatever it is.
    let is_unknown = words == b"UNKNOWN" || words.starts_with(b"UNKNOWN ");
    let visit = match is_unknown {
        true => None,
        false => {
            let visit = std::str::from_utf8(words).ok().and_then(visit);
            Some(visit.ok_or(ProxyError::Malformed("its line is not as it should be"))?)
        }
    };
    Ok(Some(ProxyHeader { visit, length: end + 2 }))
}

/// `TCP4 192.0.2.1 198.51.100.1 56324 443`, in exactly this form.
fn visit(words: &str) -> Option<Visit> {
    let mut words = words.split(' ');
    let ip: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse().ok().map(|ip: Ipv4Addr| ip.into()),
        "TCP6" => |word| word.parse().ok().map(|ip: Ipv6Addr| ip.into()),
        _ => return None,
    };
    let (visitor, visited) = (ip(words.next()?)?, ip(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    let visit = Visit::new((visitor, from).into(), (visited, to).into());
    words.next().is_none().then_some(visit)
}

fn port(word: &str) -> Option<u16> {
    let is_plain = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| is_plain)
}
