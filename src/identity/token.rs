//! Tokens: what a fleet's members or the HTTP interface's users show besides, or instead of, a key.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::text::{self, TextError};
use super::{RandomError, random_bytes};

/// A bearer secret: its text is `cdp_` and 71 characters, the base32 of id (8 bytes), secret (32) and the
/// first 4 bytes of SHA-256 over both. [`fmt::Display`] shows the secret, [`fmt::Debug`] does not.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    secret: Zeroizing<[u8; 32]>,
}

/// What names a token without being secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub [u8; 8]);

/// Why a text is not a [`Token`]. The messages repeat nothing of the text: it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// The text does not start with `cdp_`.
    #[error("a token starts with cdp_")]
    Prefix,
    /// The text is too short or too long.
    #[error("a token has 71 characters after cdp_, this one has {0}: was it cut?")]
    Length(usize),
    /// The text holds a character that base32 has not.
    #[error("a token holds only a-z and 2-7 after cdp_, and no space or line break")]
    Alphabet,
    /// The checksum does not match.
    #[error("the token's checksum does not match: it was mistyped or cut")]
    Checksum,
}

impl Token {
    /// What every token's text starts with.
    pub const PREFIX: &'static str = "cdp_";

    /// Makes a new token.
    pub fn generate() -> Result<Self, RandomError> {
        Ok(Self { id: TokenId(random_bytes()?), secret: Zeroizing::new(random_bytes()?) })
    }

    /// Which token this is.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The key for [`token_proof`](super::token_proof), which is also what the router stores: SHA-256 over the
    /// token's text as [`fmt::Display`] writes it (lower case). [SES-41]
    pub fn mac_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, self.to_text().as_bytes()).as_ref());
        key
    }

    /// The text, wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut payload = Zeroizing::new([0; PAYLOAD]);
        payload[..8].copy_from_slice(&self.id.0);
        payload[8..].copy_from_slice(&*self.secret);
        text::encode(Self::PREFIX, &*payload)
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(written: &str) -> Result<Self, ParseTokenError> {
        let payload = text::decode(Self::PREFIX, written, ENCODED_LEN)?;
        let (id, secret) = payload
            .split_first_chunk::<8>()
            .filter(|_| payload.len() == PAYLOAD)
            .ok_or(ParseTokenError::Length(written.trim().len() - Self::PREFIX.len()))?;
        let mut token = Self { id: TokenId(*id), secret: Zeroizing::new([0; 32]) };
        token.secret.copy_from_slice(secret);
        Ok(token)
    }
}

impl From<TextError> for ParseTokenError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Prefix => Self::Prefix,
            TextError::Length(length) => Self::Length(length),
            TextError::Alphabet => Self::Alphabet,
            TextError::Checksum => Self::Checksum,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id.to_string()).finish_non_exhaustive()
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

/// Bytes of id and secret.
const PAYLOAD: usize = 8 + 32;
/// Characters after the prefix: 44 bytes in base32.
const ENCODED_LEN: usize = 71;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back() {
        let token = Token::generate().expect("a token");
        let text = token.to_string();
        assert_eq!(text.len(), Token::PREFIX.len() + ENCODED_LEN);
        let read: Token = format!(" {text}\n").parse().expect(&text);
        assert_eq!((read.id(), read.mac_key()), (token.id(), token.mac_key()));
        assert_eq!(&read.mac_key()[..], digest(&SHA256, text.as_bytes()).as_ref());
        let upper = text.to_uppercase().replacen("CDP_", "cdp_", 1);
        assert_eq!(upper.parse::<Token>().expect("upper case").mac_key(), token.mac_key());
        assert_ne!(Token::generate().expect("a token").mac_key(), token.mac_key());
    }

    #[test]
    fn the_text_and_the_proof_are_the_documented_ones() {
        // Computed with Python's hashlib, hmac and base64.
        let text = "cdp_aeaqcaibaeaqcaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqculacd7q";
        let proof = "6eb3256c4022dd8a46b88f1d4f391238d0004df09db63940ffdab26529c84839";
        let token = Token { id: TokenId([1; 8]), secret: Zeroizing::new([2; 32]) };
        assert_eq!(token.to_string(), text);
        let made = crate::identity::token_proof(&token.mac_key(), &[3; 32]);
        assert_eq!(HEXLOWER.encode(&made), proof);
    }

    #[test]
    fn every_single_wrong_character_and_every_cut_is_noticed() {
        let text = Token::generate().expect("a token").to_string();
        for at in 0..text.len() {
            for wrong in "abcdefghijklmnopqrstuvwxyz234567 0-é".chars() {
                let changed: String = text
                    .chars()
                    .enumerate()
                    .map(|(n, c)| if n == at { wrong } else { c })
                    .collect();
                if changed != text {
                    assert!(changed.parse::<Token>().is_err(), "{changed}");
                }
            }
            assert!(text[..at].parse::<Token>().is_err());
            assert!(text[at + 1..].parse::<Token>().is_err());
        }
        assert_eq!(format!("{text}a").parse::<Token>().err(), Some(ParseTokenError::Length(72)));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let token = Token::generate().expect("a token");
        let shown = format!("{token:?}");
        assert!(shown.contains(&token.id().to_string()), "{shown}");
        assert!(!shown.contains(&HEXLOWER.encode(&token.secret[..4])), "{shown}");
        assert!(!token.to_string().contains(&shown));
    }
}
