//! Tickets: invitations to a router, as one string that can be pasted.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, hkdf};
use data_encoding::HEXLOWER;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::text::{self, TextError};
use super::{Keypair, RandomError, random_bytes, ticket_bytes};
use crate::tunnel::{HostPort, Identity};

/// An invitation: where a router is, who it is, and a secret that admits whoever proves it.
///
/// [`fmt::Display`] writes the text, secret included; [`fmt::Debug`] hides the secret. The text is `cdt1_` and
/// base32; the byte layout is documented at the top of `ticket_bytes.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Where the router listens (UDP), in the order to try: 1 to [`Ticket::MAX_ADDRESSES`].
    pub addresses: Vec<HostPort>,
    /// Where the router listens for the TCP carrier: one port per address, 0 for none there. Empty means the
    /// same numbers as in `addresses`.
    pub tcp_ports: Vec<u16>,
    /// The router's identity, which the client checks before it sends anything.
    pub router: Identity,
    /// Names the ticket to the router.
    pub id: TicketId,
    /// What the client proves.
    pub secret: TicketSecret,
    /// Whether the ticket admits one client only.
    pub single_use: bool,
    /// When the ticket ends, in Unix seconds; for the client's information, the router decides. The text
    /// carries at most 4294967295 (the year 2106).
    pub expires: u64,
}

/// What names a ticket without being secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(pub [u8; 8]);

/// The 128 secret bits of a ticket; wiped when dropped, hidden by [`fmt::Debug`], never sent.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TicketSecret([u8; TicketSecret::LEN]);

/// Why a text is not a [`Ticket`]. The messages repeat nothing of the text: it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTicketError {
    /// The text does not start with `cdt1_`.
    #[error("a ticket starts with cdt1_ (cdk1_ is an identity, cdp_ a token)")]
    Prefix,
    /// The text is too short or too long.
    #[error("no ticket has {0} characters after cdt1_: was it cut?")]
    Length(usize),
    /// The text holds a character that base32 has not.
    #[error("a ticket holds only a-z and 2-7 after cdt1_, and no space or line break")]
    Alphabet,
    /// The checksum does not match.
    #[error("the ticket's checksum does not match: it was mistyped or cut")]
    Checksum,
    /// A newer Conduit made it.
    #[error("the ticket has format {0}, this Conduit reads format 1: install the router's version")]
    Version(u8),
    /// It asks for something that this version does not know.
    #[error("the ticket needs a newer Conduit than this one: install the router's version")]
    Flags,
    /// The checksum matches and the fields make no sense: not a person's mistake.
    #[error("the ticket is not well-formed ({0}): ask for a new one")]
    Fields(&'static str),
}

impl Ticket {
    /// What every ticket's text starts with.
    pub const PREFIX: &'static str = "cdt1_";
    /// The most addresses that a ticket carries; further ones are not written.
    pub const MAX_ADDRESSES: usize = 8;

    /// The text, wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        text::encode(Self::PREFIX, &ticket_bytes::encode(self))
    }
}

impl TicketId {
    /// Makes a new id.
    pub fn generate() -> Result<Self, RandomError> {
        Ok(Self(random_bytes()?))
    }
}

impl TicketSecret {
    /// Bytes of a secret.
    pub const LEN: usize = 16;

    /// Makes a new secret.
    pub fn generate() -> Result<Self, RandomError> {
        Ok(Self(random_bytes()?))
    }

    /// A secret from its bytes. The caller wipes its copy.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The secret's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The one-time key with which the secret is proved: its seed is HKDF-SHA256 of the secret, without salt,
    /// with the info `conduit-ticket-1`. The router stores only the public half. [TKT-8]
    pub fn one_time_key(&self) -> Keypair {
        let mut seed = Zeroizing::new([0; 32]);
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        salt.extract(&self.0)
            .expand(&[ONE_TIME_LABEL], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut *seed))
            .expect("HKDF-SHA256 gives up to 8160 bytes, 32 are asked for");
        Keypair::from_seed(*seed)
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(written: &str) -> Result<Self, ParseTicketError> {
        let payload = text::decode(Self::PREFIX, written, LONGEST)?;
        ticket_bytes::decode(&payload)
    }
}

impl From<TextError> for ParseTicketError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Prefix => Self::Prefix,
            TextError::Length(length) => Self::Length(length),
            TextError::Alphabet => Self::Alphabet,
            TextError::Checksum => Self::Checksum,
        }
    }
}

impl PartialEq for TicketSecret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TicketSecret {}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(hidden)")
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

const ONE_TIME_LABEL: &[u8] = b"conduit-ticket-1";
/// Characters after the prefix; eight names of 253 characters make 3,425.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::check_key;

    fn ticket() -> Ticket {
        Ticket {
            addresses: vec!["203.0.113.7:9999".parse().expect("an address")],
            tcp_ports: Vec::new(),
            router: Keypair::from_seed([7; 32]).identity(),
            id: TicketId([1; 8]),
            secret: TicketSecret::from_bytes([0xa5; 16]),
            single_use: true,
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn a_usual_ticket_is_short() {
        let text = ticket().to_string();
        // Computed with Python's hashlib and base64 from the documented layout.
        let elsewhere = "cdt1_chveu3dd4kofecv66vihwezoyx4zkr3wv27l464siipou2iui3jcyai\
                         baeaqcaibags2ljnfuws2ljnfuws2ljnfuwswwsosad7mwadra4tq6uunr5tq";
        assert_eq!(text, elsewhere);
        assert_eq!(text.len(), Ticket::PREFIX.len() + 116, "{text}");
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!("\t{text}\r\n").parse(), Ok(ticket()));
        assert_eq!(text.to_uppercase().replacen("CDT1_", "cdt1_", 1).parse(), Ok(ticket()));
    }

    #[test]
    fn every_single_wrong_character_is_noticed() {
        let text = ticket().to_string();
        for at in 0..text.len() {
            for wrong in "abcdefghijklmnopqrstuvwxyz234567 01890-_=é\n".chars() {
                let changed: String = text
                    .chars()
                    .enumerate()
                    .map(|(n, c)| if n == at { wrong } else { c })
                    .collect();
                assert!(changed == text || changed.parse::<Ticket>().is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn swapped_doubled_and_missing_characters_are_noticed() {
        let text = ticket().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<Ticket>().is_err(), "cut at {at}");
            assert!(text[at + 1..].parse::<Ticket>().is_err(), "without the first {at}");
            let without = format!("{}{}", &text[..at], &text[at + 1..]);
            assert!(without.parse::<Ticket>().is_err(), "{without}");
            let doubled = format!("{}{}", &text[..=at], &text[at..]);
            assert!(doubled.parse::<Ticket>().is_err(), "{doubled}");
            let mut swapped = text.clone().into_bytes();
            if at > 0 && swapped[at] != swapped[at - 1] {
                swapped.swap(at, at - 1);
                let swapped = String::from_utf8(swapped).expect("ascii");
                assert!(swapped.parse::<Ticket>().is_err(), "{swapped}");
            }
        }
    }

    #[test]
    fn each_mistake_has_its_own_message() {
        let text = ticket().to_string();
        let body = &text[Ticket::PREFIX.len()..];
        let token = format!("cdp_{body}");
        let halves = format!("cdt1_{}\n{}", &body[..60], &body[60..]);
        let cut = &text[..text.len() - 3];
        let huge = format!("cdt1_{}", "a".repeat(5000));
        let mut messages = std::collections::BTreeSet::new();
        for (wrong, error) in [
            ("", ParseTicketError::Prefix),
            (token.as_str(), ParseTicketError::Prefix),
            ("cdt1_", ParseTicketError::Length(0)),
            (huge.as_str(), ParseTicketError::Length(5000)),
            (halves.as_str(), ParseTicketError::Alphabet),
            (&text[..text.len() - 4], ParseTicketError::Checksum),
        ] {
            assert_eq!(wrong.parse::<Ticket>(), Err(error), "{wrong}");
            messages.insert(error.to_string());
        }
        assert!(matches!(cut.parse::<Ticket>(), Err(ParseTicketError::Length(113))));
        assert_eq!(messages.len(), 5);
    }

    #[test]
    fn the_secret_is_hidden_and_gives_the_same_key_every_time() {
        let shown = format!("{:?}", ticket());
        assert!(shown.contains("hidden") && !shown.contains("165"), "{shown}");
        let key = ticket().secret.one_time_key();
        assert_eq!(key.identity(), ticket().secret.one_time_key().identity());
        assert_eq!(check_key(&key.identity()), Ok(()));
        let other = TicketSecret::generate().expect("a secret");
        assert_ne!(other.one_time_key().identity(), key.identity());
        assert_ne!(other, ticket().secret);
    }

    #[test]
    fn the_one_time_key_is_plain_hkdf() {
        // HKDF (RFC 5869) by hand: PRK = HMAC(zeros, secret), T(1) = HMAC(PRK, info ‖ 1).
        use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
        let prk = sign(&Key::new(HMAC_SHA256, &[0; 32]), &[0xa5; 16]);
        let okm = sign(&Key::new(HMAC_SHA256, prk.as_ref()), b"conduit-ticket-1\x01");
        let seed = okm.as_ref().try_into().expect("32 bytes");
        let identity = ticket().secret.one_time_key().identity();
        assert_eq!(identity, Keypair::from_seed(seed).identity());
    }
}
