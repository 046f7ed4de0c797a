//! Datagrams: a kind, a flow, and a packet or a piece of one. Variable-length integers are QUIC's (RFC 9000, 16).

use bytes::{Buf, BufMut, Bytes};

/// What a datagram holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A packet of a flow. [FLW-1]
    Whole {
        /// The flow.
        flow: u64,
        /// The packet.
        payload: Bytes,
    },
    /// A piece of a packet that is larger than a datagram. [FLW-2]
    Fragment(Fragment),
}

/// One piece of a packet. All pieces but the last are [`piece_size`] bytes long; the last has the rest. [FLW-2]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The flow.
    pub flow: u64,
    /// Tells the packets of a flow apart; may start again from 0 after 2^62.
    pub packet: u64,
    /// Which piece, from 0.
    pub index: u8,
    /// How many pieces the packet has, from 2 to [`MAX_FRAGMENTS`].
    pub count: u8,
    /// Bytes of the whole packet, at most [`MAX_PACKET`].
    pub total: u16,
    /// The bytes of this piece.
    pub payload: Bytes,
}

/// Why bytes are not a datagram of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It ends within its header.
    #[error("the datagram ends within its header")]
    Short,
    /// A kind that this version does not know. [FLW-3]
    #[error("kind {0} is not known here")]
    Kind(u64),
    /// Numbers that cannot belong together. [FLW-2]
    #[error("a piece that fits into no packet")]
    Piece,
}

impl Datagram {
    /// Reads a datagram; the payload is a slice of it. [FLW-1] [FLW-2] [FLW-3]
    pub fn decode(mut bytes: Bytes) -> Result<Self, DatagramError> {
        let kind = number(&mut bytes)?;
        if kind != WHOLE && kind != FRAGMENT {
            return Err(DatagramError::Kind(kind));
        }
        let flow = number(&mut bytes)?;
        if kind == WHOLE {
            return Ok(Self::Whole { flow, payload: bytes });
        }
        let packet = number(&mut bytes)?;
        let byte = |bytes: &mut Bytes| -> Result<u8, DatagramError> {
            u8::try_from(number(bytes)?).map_err(|_| DatagramError::Piece)
        };
        let (index, count) = (byte(&mut bytes)?, byte(&mut bytes)?);
        let total = u16::try_from(number(&mut bytes)?).map_err(|_| DatagramError::Piece)?;
        let fragment = Fragment { flow, packet, index, count, total, payload: bytes };
        if fragment.is_sound() { Ok(Self::Fragment(fragment)) } else { Err(DatagramError::Piece) }
    }
}

impl Fragment {
    /// Where the piece begins within its packet.
    pub fn offset(&self) -> usize {
        usize::from(self.index) * piece_size(self.total.into(), self.count.into())
    }

    /// Whether the piece is exactly the one that its numbers say.
    fn is_sound(&self) -> bool {
        let (total, count) = (usize::from(self.total), usize::from(self.count));
        let numbers = (2..=MAX_FRAGMENTS).contains(&count)
            && self.index < self.count
            && (count..=MAX_PACKET).contains(&total);
        if !numbers || piece_size(total, count) * (count - 1) >= total {
            return false;
        }
        let rest = total - self.offset();
        self.payload.len() == rest.min(piece_size(total, count))
    }
}

/// Bytes of every piece but the last, when a packet of `total` bytes travels in `count` pieces.
pub const fn piece_size(total: usize, count: usize) -> usize {
    total.div_ceil(count)
}

/// Bytes in front of the payload of a whole packet.
pub fn whole_header_len(flow: u64) -> usize {
    1 + number_len(flow)
}

/// Appends the header of a whole packet; the packet follows. [FLW-1]
pub fn put_whole(flow: u64, into: &mut impl BufMut) {
    put_number(WHOLE, into);
    put_number(flow, into);
}

/// Appends a piece. [FLW-2]
pub fn put_fragment(fragment: &Fragment, into: &mut impl BufMut) {
    put_number(FRAGMENT, into);
    put_number(fragment.flow, into);
    put_number(fragment.packet, into);
    put_number(fragment.index.into(), into);
    put_number(fragment.count.into(), into);
    put_number(fragment.total.into(), into);
    into.put_slice(&fragment.payload);
}

fn number(bytes: &mut Bytes) -> Result<u64, DatagramError> {
    let first = *bytes.first().ok_or(DatagramError::Short)?;
    let width = 1usize << (first >> 6);
    if bytes.len() < width {
        return Err(DatagramError::Short);
    }
    let mut number = u64::from(first & 0x3f);
    for byte in &bytes[1..width] {
        number = number << 8 | u64::from(*byte);
    }
    bytes.advance(width);
    Ok(number)
}

const fn number_len(number: u64) -> usize {
    match number {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

fn put_number(number: u64, into: &mut impl BufMut) {
    match number_len(number) {
        1 => into.put_u8(number as u8),
        2 => into.put_u16(0x4000 | number as u16),
        4 => into.put_u32(0x8000_0000 | number as u32),
        _ => into.put_u64(0xc000_0000_0000_0000 | number),
    }
}

const WHOLE: u64 = 0;
const FRAGMENT: u64 = 1;
/// The largest UDP payload over IPv4: 65,535 less the headers of IP and UDP.
pub const MAX_PACKET: usize = 65_507;
/// Enough for [`MAX_PACKET`] on the smallest path: 65,507 / (1,200 − 76), with room to spare.
pub const MAX_FRAGMENTS: usize = 64;
/// The longest header: that of a piece.
pub const HEADER_MOST: usize = 1 + 8 + 8 + 2 + 2 + 4;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn fragment(index: u8, count: u8, total: u16) -> Fragment {
        let size = piece_size(total.into(), count.into());
        let length = usize::from(total).saturating_sub(usize::from(index) * size).min(size);
        let payload = Bytes::from(vec![index; length]);
        Fragment { flow: 7, packet: 300, index, count, total, payload }
    }

    fn decoded(fragment: &Fragment) -> Result<Datagram, DatagramError> {
        let mut bytes = BytesMut::new();
        put_fragment(fragment, &mut bytes);
        assert!(bytes.len() <= HEADER_MOST + fragment.payload.len());
        Datagram::decode(bytes.freeze())
    }

    #[test]
    fn a_packet_reads_back_under_flows_of_every_length() {
        for flow in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut bytes = BytesMut::new();
            put_whole(flow, &mut bytes);
            assert_eq!(bytes.len(), whole_header_len(flow), "{flow}");
            bytes.extend_from_slice(b"packet");
            let whole = Datagram::Whole { flow, payload: Bytes::from_static(b"packet") };
            assert_eq!(Datagram::decode(bytes.freeze()), Ok(whole));
        }
        let empty = Datagram::decode(Bytes::from_static(&[0, 5]));
        assert_eq!(empty, Ok(Datagram::Whole { flow: 5, payload: Bytes::new() }));
    }

    #[test]
    fn pieces_cover_a_packet_exactly_and_others_are_refused() {
        for (total, count) in [(2, 2), (9_000, 8), (65_507, 58), (65_507, 64), (100, 3)] {
            let pieces: Vec<_> = (0..count).map(|index| fragment(index, count, total)).collect();
            let mut end = 0;
            for piece in &pieces {
                assert_eq!(decoded(piece), Ok(Datagram::Fragment(piece.clone())));
                assert_eq!(piece.offset(), end);
                end += piece.payload.len();
            }
            assert_eq!(end, usize::from(total));
        }
        for wrong in [
            fragment(0, 1, 100),
            fragment(2, 2, 100),
            fragment(0, 65, 9_000),
            fragment(0, 3, 2),
            fragment(0, 64, 65_508),
            // Ten bytes in pieces of two would be over after five.
            fragment(0, 9, 10),
            Fragment { payload: Bytes::from_static(b"x"), ..fragment(0, 2, 100) },
            Fragment { payload: Bytes::new(), ..fragment(1, 2, 100) },
        ] {
            assert_eq!(decoded(&wrong), Err(DatagramError::Piece), "{wrong:?}");
        }
    }

    #[test]
    fn h26_what_is_cut_or_unknown_is_an_error() {
        for (bytes, error) in [
            (&[][..], DatagramError::Short),
            (&[0], DatagramError::Short),
            (&[0, 0x40], DatagramError::Short),
            (&[1, 1, 1], DatagramError::Short),
            (&[2, 0], DatagramError::Kind(2)),
            (&[0xff; 8], DatagramError::Kind((1 << 62) - 1)),
            (&[1, 1, 1, 0, 0x41, 0x00, 9, 9], DatagramError::Piece),
        ] {
            assert_eq!(Datagram::decode(Bytes::from_static(bytes)), Err(error), "{bytes:x?}");
        }
    }
}
