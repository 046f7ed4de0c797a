//! As much of QUIC packets' headers as anybody can read.

/// A connection id of this endpoint.
pub(super) type Id = [u8; ID_LEN];

/// What somebody sends to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whom it is for.
    pub(super) id: Id,
    /// Whether it is of a handshake, and nothing of the connection itself comes behind it.
    pub(super) is_long: bool,
}

impl Header {
    /// Of a datagram for connection ids of our length (RFC 9000, 17.2 and 17.3). QUIC looks for the connection by the
    /// first packet in it and takes those behind for the same one's (12.2), of which it drops what it has no key for: so
    /// what counts is the packet with the short header, wherever it is.
    pub(super) fn of(datagram: &[u8]) -> Option<Self> {
        let mut packet = datagram;
        let mut first = None;
        while let Some(long) = Long::of(packet) {
            first = first.or(long.to.try_into().ok());
            packet = long.behind;
        }
        let short = packet.split_first().filter(|(form, _)| *form & LONG == 0);
        if let Some(id) = short.and_then(|(_, rest)| rest.first_chunk()) {
            return Some(Self { id: *id, is_long: false });
        }
        first.map(|id| Self { id, is_long: true })
    }
}

/// Whether a packet may belong to the handshake that begins a connection.
pub(super) fn is_long(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & LONG != 0)
}

/// The connection id that the datagram is from with which a router begins a handshake. It is full (RFC 9000, 14.1), which
/// none is that a router answers strangers with: their ids are nobody's.
pub(super) fn handshake_id(datagram: &[u8]) -> Option<Id> {
    let long = Long::of(datagram).filter(|_| datagram.len() >= FULL)?;
    long.from.try_into().ok()
}

/// A packet with a long header that is neither a Retry nor a Version Negotiation.
struct Long<'a> {
    to: &'a [u8],
    from: &'a [u8],
    /// What comes in the same datagram.
    behind: &'a [u8],
}

impl<'a> Long<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let (first, rest) = packet.split_first()?;
        if first & LONG == 0 || first & TYPE == RETRY {
            return None;
        }
        let (version, rest) = rest.split_at_checked(4)?;
        if version == NEGOTIATION {
            return None;
        }
        let (to, rest) = with_length(rest)?;
        let (from, mut rest) = with_length(rest)?;
        if first & TYPE == INITIAL {
            let (token, behind) = varint(rest)?;
            rest = behind.get(token..)?;
        }
        let behind = varint(rest).and_then(|(length, payload)| payload.get(length..));
        Some(Self { to, from, behind: behind.unwrap_or_default() })
    }
}

/// Bytes behind their number, which is one byte.
fn with_length(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// A number of one to eight bytes (RFC 9000, 16), and what is behind it.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    let value = number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let value = value & (u64::MAX >> (64 - 8 * length + 2));
    Some((value.try_into().ok()?, rest))
}

/// The form bit of a header (RFC 9000, 17.2).
const LONG: u8 = 0x80;
/// The type in a long header.
const TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
const RETRY: u8 = 0x30;
/// Instead of a version (RFC 9000, 17.2.1).
const NEGOTIATION: &[u8] = &[0; 4];
/// Bytes of a datagram with an Initial that wants an answer (RFC 9000, 14.1).
pub(super) const FULL: usize = 1_200;
/// Bytes of the connection ids that a router gives out.
pub(super) const ID_LEN: usize = 8;
