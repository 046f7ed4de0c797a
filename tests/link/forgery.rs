//! What a stranger makes of packets that he reads.

/// What a stranger sends who reads packets of QUIC on their way to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgery {
    /// The same.
    Copy,
    /// The same, behind a packet of the handshake, for the connection id that the client chose then.
    BehindInitial,
    /// The same, behind one for its connection id of now.
    BehindHandshake,
    /// Something that nobody has encrypted, and a version that nobody knows, both for the same connection.
    Noise,
}

impl Forgery {
    /// What to send of a packet with a short header (RFC 9000, 17.3), whose client began with an id of its own choice.
    pub(super) fn of(self, packet: &[u8], chosen: &[u8]) -> Vec<Vec<u8>> {
        let (id, tail) = match packet.split_at_checked(9) {
            Some((head, tail)) if head[0] & 0x80 == 0 => (&head[1..], tail),
            _ => return vec![packet.to_vec()],
        };
        let long = |form, version, to: &[u8]| {
            [&[form, 0, 0, 0, version, to.len() as u8], to, &[0]].concat()
        };
        // Twenty bytes that nobody can read.
        let behind = |long: Vec<u8>| [&long[..], &[20], &[0; 20], packet].concat();
        let noise = || tail.iter().map(|byte| byte ^ 0x55);
        match self {
            Self::Copy => vec![packet.to_vec()],
            Self::BehindInitial => vec![behind(long(0xD0, 1, chosen))],
            Self::BehindHandshake => vec![behind(long(0xE0, 1, id))],
            Self::Noise => vec![
                packet[..9].iter().copied().chain(noise()).collect(),
                long(0xC0, 0x55, id).into_iter().chain(vec![0; 1_200]).chain(noise()).collect(),
            ],
        }
    }
}

/// The connection id that an Initial is for (RFC 9000, 17.2.2).
pub(super) fn chosen_id(packet: &[u8]) -> Option<&[u8]> {
    packet.first().filter(|form| *form & 0xF0 == 0xC0)?;
    packet.get(6..6 + usize::from(*packet.get(5)?))
}
