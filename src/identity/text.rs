//! The text form that tickets and tokens share: prefix, then base32 of the payload and its checksum.
//!
//! Base32 is RFC 4648 in lower case without padding; the checksum is the first four bytes of SHA-256 over the
//! payload. Upper case is read as well, white space around the text is skipped.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE32_NOPAD, DecodeKind};
use zeroize::Zeroizing;

/// Why a text has no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextError {
    Prefix,
    /// Characters after the prefix.
    Length(usize),
    Alphabet,
    Checksum,
}

pub(super) fn encode(prefix: &str, payload: &[u8]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + CHECKSUM));
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&checksum(payload));
    // All buffers have their full size from the start: growing one would leave a copy of a secret behind.
    let mut text =
        Zeroizing::new(String::with_capacity(prefix.len() + BASE32_NOPAD.encode_len(bytes.len())));
    text.push_str(prefix);
    BASE32_NOPAD.encode_append(&bytes, &mut text);
    text[prefix.len()..].make_ascii_lowercase();
    text
}

/// Reads a text with at most `longest` characters after the prefix.
pub(super) fn decode(
    prefix: &str,
    text: &str,
    longest: usize,
) -> Result<Zeroizing<Vec<u8>>, TextError> {
    let encoded = text.trim().strip_prefix(prefix).ok_or(TextError::Prefix)?;
    if !encoded.chars().all(is_base32) {
        return Err(TextError::Alphabet);
    }
    let length = TextError::Length(encoded.len());
    if encoded.len() > longest {
        return Err(length);
    }
    let upper = Zeroizing::new(encoded.to_ascii_uppercase());
    let room = BASE32_NOPAD.decode_len(upper.len()).map_err(|_| length)?;
    let mut bytes = Zeroizing::new(vec![0; room]);
    BASE32_NOPAD.decode_mut(upper.as_bytes(), &mut bytes).map_err(|e| match e.error.kind {
        DecodeKind::Length => length,
        // Bits beyond the last byte that are not zero: a wrong last character.
        _ => TextError::Checksum,
    })?;
    let at = bytes.len().checked_sub(CHECKSUM).ok_or(length)?;
    if checksum(&bytes[..at]) != bytes[at..] {
        return Err(TextError::Checksum);
    }
    bytes.truncate(at);
    Ok(bytes)
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&digest(&SHA256, payload).as_ref()[..CHECKSUM]);
    sum
}

fn is_base32(c: char) -> bool {
    c.is_ascii_alphabetic() || ('2'..='7').contains(&c)
}

/// Bytes of the checksum: 1 in 4 billion mistyped texts passes.
const CHECKSUM: usize = 4;
