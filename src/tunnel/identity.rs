//! An identity: an Ed25519 public key and its one text form.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// Who somebody is: an Ed25519 public key, 32 bytes.
///
/// The text form is `cdk1_` followed by the base32 (RFC 4648, lower case, no padding) of the key and a
/// four-byte checksum, the first bytes of SHA-256 over the key. A mistyped identity is recognised before
/// it is compared with anything. [SES-40]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity([u8; Identity::LEN]);

/// Why a text is not an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentityError {
    /// The text does not start with `cdk1_`.
    #[error("an identity starts with cdk1_")]
    Prefix,
    /// The text is too short or too long.
    #[error("an identity has 58 characters after cdk1_, this one has {0}")]
    Length(usize),
    /// The text holds a character that base32 has not.
    #[error("an identity holds only a-z and 2-7 after cdk1_")]
    Alphabet,
    /// The checksum does not match: a character is wrong or two were swapped.
    #[error("the identity's checksum does not match: it was mistyped or cut")]
    Checksum,
}

impl Identity {
    /// Bytes of a key.
    pub const LEN: usize = 32;
    /// What every identity's text starts with.
    pub const PREFIX: &'static str = "cdk1_";
    /// Bytes of the checksum: 1 in 4 billion mistyped identities passes.
    const CHECKSUM: usize = 4;
    /// Characters after the prefix.
    const ENCODED_LEN: usize = (Self::LEN + Self::CHECKSUM) * 8 / 5 + 1;

    /// The identity of a public key. Whether the bytes are a point on the curve is for `identity` to check.
    pub const fn from_bytes(key: [u8; Self::LEN]) -> Self {
        Self(key)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The first characters of the text form: enough for a person to tell two identities apart in a log.
    pub fn short(&self) -> String {
        self.to_string()[..Self::PREFIX.len() + 8].to_owned()
    }

    fn checksum(key: &[u8]) -> [u8; Self::CHECKSUM] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key);
        let mut sum = [0; Self::CHECKSUM];
        sum.copy_from_slice(&digest.as_ref()[..Self::CHECKSUM]);
        sum
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.to_vec();
        bytes.extend_from_slice(&Self::checksum(&self.0));
        let encoded = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        f.pad(&format!("{}{encoded}", Self::PREFIX))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let encoded = text.strip_prefix(Self::PREFIX).ok_or(ParseIdentityError::Prefix)?;
        if encoded.len() != Self::ENCODED_LEN {
            return Err(ParseIdentityError::Length(encoded.chars().count()));
        }
        let bytes = BASE32_NOPAD
            .decode(encoded.to_ascii_uppercase().as_bytes())
            .map_err(|_| ParseIdentityError::Alphabet)?;
        let (key, sum) = bytes
            .split_first_chunk::<{ Self::LEN }>()
            .ok_or(ParseIdentityError::Length(encoded.len()))?;
        if Self::checksum(key) != sum {
            return Err(ParseIdentityError::Checksum);
        }
        Ok(Self(*key))
    }
}

impl TryFrom<String> for Identity {
    type Error = ParseIdentityError;

    fn try_from(text: String) -> Result<Self, ParseIdentityError> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back() {
        let identity = Identity::from_bytes([7; 32]);
        let text = identity.to_string();
        assert!(text.starts_with("cdk1_"), "{text}");
        assert_eq!(text.parse(), Ok(identity));
        assert_eq!(text.to_uppercase().replacen("CDK1_", "cdk1_", 1).parse(), Ok(identity));
    }

    #[test]
    fn every_single_wrong_character_is_noticed() {
        let text = Identity::from_bytes([0xa5; 32]).to_string();
        for at in Identity::PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).expect("ascii");
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
        assert_eq!(text[1..].parse::<Identity>(), Err(ParseIdentityError::Prefix));
        assert!(matches!(
            text[..text.len() - 1].parse::<Identity>(),
            Err(ParseIdentityError::Length(_))
        ));
    }
}
