//! As much of a QUIC packet's header as anybody can read.

/// A connection id of this endpoint.
pub(super) type Id = [u8; ID_LEN];

/// What somebody sends to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whom it is for.
    pub(super) id: Id,
    /// Whether it is of a handshake. Packets of the connection can come in the same datagram, behind it.
    pub(super) is_long: bool,
}

impl Header {
    /// Of a packet for a connection id of our length (RFC 9000, 17.2 and 17.3).
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (first, rest) = packet.split_first()?;
        let is_long = first & LONG != 0;
        let id = if is_long { id_at(rest.get(VERSION_LEN..)?)? } else { *rest.first_chunk()? };
        Some(Self { id, is_long })
    }
}

/// Whether a packet may belong to the handshake that begins a connection.
pub(super) fn is_long(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & LONG != 0)
}

/// The connection id that a packet of a handshake is from (RFC 9000, 17.2). Neither a Retry nor a Version Negotiation,
/// whose ids are the stranger's choice, begins a connection.
pub(super) fn handshake_id(packet: &[u8]) -> Option<Id> {
    let (first, rest) = packet.split_first()?;
    if first & LONG == 0 || first & RETRY == RETRY {
        return None;
    }
    let (version, rest) = rest.split_at_checked(VERSION_LEN)?;
    if version == NEGOTIATION {
        return None;
    }
    let (to, rest) = rest.split_first()?;
    id_at(rest.get(usize::from(*to)..)?)
}

/// An id behind its length.
fn id_at(bytes: &[u8]) -> Option<Id> {
    let (length, rest) = bytes.split_first()?;
    rest.get(..usize::from(*length))?.try_into().ok()
}

/// The form bit of a header (RFC 9000, 17.2).
const LONG: u8 = 0x80;
/// Both forms' first bits, and the type (RFC 9000, 17.2.5).
const RETRY: u8 = 0xF0;
const VERSION_LEN: usize = 4;
/// Instead of a version (RFC 9000, 17.2.1).
const NEGOTIATION: &[u8] = &[0; VERSION_LEN];
/// Bytes of the connection ids that a router gives out.
pub(super) const ID_LEN: usize = 8;
