//! A ticket's bytes, format 1. `proto-spec/ticket.md`, [TKT-1] to [TKT-4].
//!
//! The text is `cdt1_` followed by the base32 (RFC 4648, lower case, no padding; upper case is read too) of the
//! payload and its checksum. All numbers are big-endian.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format and flags: bits 7–4 are the format, 1; bit 0 (0x01) single use;
//!                bit 1 (0x02) TCP ports follow each address; bits 2 and 3 are zero
//!      1     32  the router's Ed25519 public key
//!     33      8  ticket id
//!     41     16  secret
//!     57      4  expiry, seconds since 1970-01-01T00:00:00Z, unsigned; 0xffffffff also stands for later
//!     61      n  1 to 8 addresses, one after the other, up to the checksum
//!   61+n      4  checksum: the first 4 bytes of SHA-256 over all bytes before it
//!
//! address:
//!   1      L, the sort of host: 1 to 253 a name of L bytes, 254 an IPv4 address, 255 an IPv6 address; 0 is
//!          not legal
//!   L      the host: the name in ASCII, lower case, without a trailing dot; or 4 bytes; or 16 bytes
//!   2      UDP port, 1 to 65535
//!   2      only with flag 0x02: TCP port, 0 for none at this address. Without the flag the TCP port has the
//!          number of the UDP port
//! ```
//!
//! A reader checks, in this order: prefix, characters, length (at most 4,096 characters after the prefix), checksum,
//! format, flags, fields. The checksum is the same in every format, so that a mistyped ticket is never taken
//! for a newer one. A reader refuses unknown formats and unknown flags, no addresses, more than 8, a name that
//! is not in the form above or that reads as an address, a port of 0, and bytes left over.
//!
//! A ticket with one IPv4 address has 72 bytes, 121 characters with its prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::{ParseTicketError, Ticket, TicketId, TicketSecret};
use crate::tunnel::{Host, HostPort, Identity};

/// The payload of a ticket, without the checksum.
pub(super) fn encode(ticket: &Ticket) -> Zeroizing<Vec<u8>> {
    let addresses = &ticket.addresses[..ticket.addresses.len().min(Ticket::MAX_ADDRESSES)];
    let mut flags = 0;
    if ticket.single_use {
        flags |= SINGLE_USE;
    }
    if !ticket.tcp_ports.is_empty() {
        flags |= TCP_PORTS;
    }
    // Large enough for all of it: growing would leave a copy of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FIXED + addresses.len() * LONGEST_ADDRESS));
    bytes.push(FORMAT << 4 | flags);
    bytes.extend_from_slice(ticket.router.as_bytes());
    bytes.extend_from_slice(&ticket.id.0);
    bytes.extend_from_slice(ticket.secret.as_bytes());
    bytes.extend_from_slice(&u32::try_from(ticket.expires).unwrap_or(u32::MAX).to_be_bytes());
    for (n, address) in addresses.iter().enumerate() {
        put_host(&mut bytes, &address.host);
        bytes.extend_from_slice(&address.port.to_be_bytes());
        if flags & TCP_PORTS != 0 {
            let port = ticket.tcp_ports.get(n).copied().unwrap_or(0);
            bytes.extend_from_slice(&port.to_be_bytes());
        }
    }
    bytes
}

fn put_host(bytes: &mut Vec<u8>, host: &Host) {
    match host {
        Host::Addr(IpAddr::V4(addr)) => {
            bytes.push(IPV4);
            bytes.extend_from_slice(&addr.octets());
        }
        Host::Addr(IpAddr::V6(addr)) => {
            bytes.push(IPV6);
            bytes.extend_from_slice(&addr.octets());
        }
        Host::Name(name) => {
            // A name that was parsed has at most 253 bytes; a longer one would not read back.
            let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
            bytes.push(name.len().try_into().unwrap_or(0));
            bytes.extend_from_slice(name);
        }
    }
}

/// Reads a payload whose checksum was right.
pub(super) fn decode(payload: &[u8]) -> Result<Ticket, ParseTicketError> {
    let mut rest = Reader(payload);
    let [first] = rest.take()?;
    if first >> 4 != FORMAT {
        return Err(ParseTicketError::Version(first >> 4));
    }
    let flags = first & 0x0f;
    if flags & !(SINGLE_USE | TCP_PORTS) != 0 {
        return Err(ParseTicketError::Flags);
    }
    let mut ticket = Ticket {
        addresses: Vec::new(),
        tcp_ports: Vec::new(),
        router: Identity::from_bytes(rest.take()?),
        id: TicketId(rest.take()?),
        secret: TicketSecret::from_bytes(rest.take()?),
        single_use: flags & SINGLE_USE != 0,
        expires: u32::from_be_bytes(rest.take()?).into(),
    };
    while !rest.0.is_empty() {
        if ticket.addresses.len() == Ticket::MAX_ADDRESSES {
            return Err(ParseTicketError::Fields("more than 8 addresses"));
        }
        let host = rest.host()?;
        let port = u16::from_be_bytes(rest.take()?);
        if port == 0 {
            return Err(ParseTicketError::Fields("a port of 0"));
        }
        ticket.addresses.push(HostPort { host, port });
        if flags & TCP_PORTS != 0 {
            ticket.tcp_ports.push(u16::from_be_bytes(rest.take()?));
        }
    }
    if ticket.addresses.is_empty() {
        return Err(ParseTicketError::Fields("no address"));
    }
    Ok(ticket)
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ParseTicketError> {
        let (taken, rest) =
            self.0.split_first_chunk::<N>().ok_or(ParseTicketError::Fields("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn host(&mut self) -> Result<Host, ParseTicketError> {
        let [sort] = self.take()?;
        match sort {
            IPV4 => Ok(Host::Addr(Ipv4Addr::from(self.take::<4>()?).into())),
            IPV6 => Ok(Host::Addr(Ipv6Addr::from(self.take::<16>()?).into())),
            length => self.name(length.into()),
        }
    }

    fn name(&mut self, length: usize) -> Result<Host, ParseTicketError> {
        let (name, rest) =
            self.0.split_at_checked(length).ok_or(ParseTicketError::Fields("it ends too early"))?;
        self.0 = rest;
        let name = std::str::from_utf8(name).map_err(|_| ParseTicketError::Fields(BAD_NAME))?;
        match name.parse() {
            Ok(Host::Name(parsed)) if parsed == name => Ok(Host::Name(parsed)),
            _ => Err(ParseTicketError::Fields(BAD_NAME)),
        }
    }
}

const FORMAT: u8 = 1;
const SINGLE_USE: u8 = 0x01;
const TCP_PORTS: u8 = 0x02;
const IPV4: u8 = 254;
const IPV6: u8 = 255;
/// The longest name, in bytes (RFC 1035).
const LONGEST_NAME: usize = 253;
/// Bytes before the addresses.
const FIXED: usize = 61;
const LONGEST_ADDRESS: usize = 1 + LONGEST_NAME + 2 + 2;
const BAD_NAME: &str = "a host name that is none";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::text;

    fn ticket(addresses: &[&str], tcp_ports: &[u16]) -> Ticket {
        Ticket {
            addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
            tcp_ports: tcp_ports.to_vec(),
            router: Identity::from_bytes([3; 32]),
            id: TicketId([1, 2, 3, 4, 5, 6, 7, 8]),
            secret: TicketSecret::from_bytes([9; 16]),
            single_use: false,
            expires: 0x0102_0304,
        }
    }

    fn parse(payload: &[u8]) -> Result<Ticket, ParseTicketError> {
        text::encode(Ticket::PREFIX, payload).parse()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let ticket = ticket(&["1.2.3.4:9999", "[::1]:443", "r.example:1"], &[443, 0, 65535]);
        let mut expected = vec![0x12];
        expected.extend([3; 32]);
        expected.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        expected.extend([9; 16]);
        expected.extend([1, 2, 3, 4]);
        expected.extend([254, 1, 2, 3, 4, 0x27, 0x0f, 0x01, 0xbb]);
        expected.extend([255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x01, 0xbb, 0, 0]);
        expected.extend([9, b'r', b'.', b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0, 1, 255, 255]);
        assert_eq!(*encode(&ticket), expected);
        assert_eq!(parse(&expected), Ok(ticket));
    }

    #[test]
    fn the_longest_ticket_reads_back() {
        let label = "a".repeat(63);
        let name = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(name.len(), LONGEST_NAME);
        let address = format!("{name}:9999");
        let longest = ticket(&[address.as_str(); 8], &[443; 8]);
        assert_eq!(longest.to_string().parse(), Ok(longest));
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_the_same(
            first in 0x10..0x14_u8,
            fixed in proptest::collection::vec(0..=255_u8, FIXED - 1),
            hosts in proptest::collection::vec(0..=255_u8, 0..64),
            any in proptest::collection::vec(0..=255_u8, 0..256),
        ) {
            for payload in [[&[first][..], &fixed, &hosts].concat(), any] {
                if let Ok(ticket) = decode(&payload) {
                    assert_eq!(*encode(&ticket), payload);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_and_not_wrong() {
        let mut many = ticket(&["1.2.3.4:5"; 9], &[]);
        many.expires = u64::MAX;
        let read: Ticket = many.to_string().parse().expect("a ticket");
        assert_eq!((read.addresses.len(), read.expires), (8, u64::from(u32::MAX)));
    }

    #[test]
    fn another_format_and_unknown_flags_are_named() {
        let mut bytes = encode(&ticket(&["1.2.3.4:5"], &[])).to_vec();
        for format in (0..16).filter(|f| *f != FORMAT) {
            bytes[0] = format << 4 | SINGLE_USE;
            assert_eq!(parse(&bytes), Err(ParseTicketError::Version(format)));
        }
        for flags in 4..16 {
            bytes[0] = FORMAT << 4 | flags;
            assert_eq!(parse(&bytes), Err(ParseTicketError::Flags));
        }
    }

    #[test]
    fn fields_that_make_no_sense_are_refused() {
        let good = encode(&ticket(&["1.2.3.4:5"], &[])).to_vec();
        assert!(parse(&good).is_ok());
        for length in 0..good.len() {
            assert!(matches!(parse(&good[..length]), Err(ParseTicketError::Fields(_))), "{length}");
        }
        let nine = [&good[..], &good[FIXED..].repeat(8)].concat();
        for tail in [
            &b"\x00\x00\x01"[..],
            b"\x01.\x00\x01",
            b"\x01A\x00\x01",
            b"\x02a.\x00\x01",
            b"\x071.2.3.4\x00\x01",
            b"\x03127\x00\x01",
            b"\x02\xff\xff\x00\x01",
            b"\x03a\nb\x00\x01",
            b"\xfe\x01\x02\x03\x04\x00\x00",
            b"\xff\x01",
            b"\x09a",
        ] {
            let wrong = [&good[..FIXED], tail].concat();
            assert!(matches!(parse(&wrong), Err(ParseTicketError::Fields(_))), "{tail:x?}");
        }
        assert_eq!(parse(&nine), Err(ParseTicketError::Fields("more than 8 addresses")));
    }
}
