//! IPv4 addresses inside IPv6 ones: a gateway on the way may turn the one into the other.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Every IPv4 address that some gateway or stack could reach through `addr`; empty for most addresses.
///
/// The IPv4-mapped form is not here: canonicalisation has already turned it into IPv4.
pub(super) fn embedded(addr: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bytes = addr.octets();
    let segments = addr.segments();
    let at = |first: usize| {
        Ipv4Addr::new(bytes[first], bytes[first + 1], bytes[first + 2], bytes[first + 3])
    };
    match segments {
        // `::` and `::1` are addresses in their own right (RFC 4291, 2.5).
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible (RFC 4291, 2.5.5.1), IPv4-translated (RFC 2765), NAT64's well-known prefix (RFC 6052).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            vec![at(12)]
        }
        [0x64, 0xff9b, 1, ..] => local_nat64(bytes),
        // 6to4 (RFC 3056).
        [0x2002, ..] => vec![at(2)],
        // Teredo: the server, and the client with its bits inverted (RFC 4380).
        [0x2001, 0, ..] => vec![at(4), Ipv4Addr::from_bits(!at(12).to_bits())],
        // ISATAP under any prefix, with the universal bit set or not (RFC 5214, 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![at(12)],
        _ => Vec::new(),
    }
}

/// NAT64 under the local-use prefix `64:ff9b:1::/48` (RFC 8215). How long the operator's prefix is cannot be
/// seen, so the address is read in each of the ways that RFC 6052, 2.2 has; byte 8 is always skipped there.
fn local_nat64(bytes: [u8; 16]) -> Vec<Ipv4Addr> {
    let read = |at: [usize; 4]| Ipv4Addr::from(at.map(|index| bytes[index]));
    let mut found = vec![read([12, 13, 14, 15])];
    let shorter = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]].map(read);
    // In the longest form these bytes are mostly zero: 0.x.y.z would deny every use of the prefix, and a gateway
    // has no way to reach such an address.
    found.extend(shorter.into_iter().filter(|v4| v4.octets()[0] != 0));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_gives_up_its_address() {
        let hidden = Ipv4Addr::new(169, 254, 169, 254);
        for text in [
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:abcd::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00::",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            let addr: Ipv6Addr = text.parse().expect(text);
            assert!(embedded(addr).contains(&hidden), "{text}: {:?}", embedded(addr));
        }
    }

    #[test]
    fn ordinary_addresses_hide_nothing() {
        for text in ["::", "::1", "fd00::a9fe:a9fe", "2001:db8::a9fe:a9fe", "2001:1::1", "fe80::1"]
        {
            assert!(embedded(text.parse().expect(text)).is_empty(), "{text}");
        }
    }
}
