//! Private keys as PKCS#8: version 2 (RFC 5958, with the public key) is written, versions 1 and 2 are read.

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

use super::KeyFormatError;

/// The DER form: RFC 8410 section 7, 83 bytes, version 2 with the public key (readers that know only ring's
/// rules refuse version 1).
pub(super) fn to_der(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(Vec::with_capacity(DER_LEN));
    der.extend_from_slice(&DER_PREFIX);
    der.extend_from_slice(key.as_bytes());
    der.extend_from_slice(&DER_BETWEEN);
    der.extend_from_slice(key.verifying_key().as_bytes());
    der
}

/// The PEM form of [`to_der`].
pub(super) fn to_pem(key: &SigningKey) -> Zeroizing<String> {
    let der = to_der(key);
    let mut encoded = Zeroizing::new(String::with_capacity(BASE64.encode_len(der.len())));
    BASE64.encode_append(&der, &mut encoded);
    let lines = encoded.len().div_ceil(PEM_LINE);
    let room = BEGIN.len() + encoded.len() + END.len() + lines + 2;
    let mut pem = Zeroizing::new(String::with_capacity(room));
    pem.push_str(BEGIN);
    pem.push('\n');
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every index is a character boundary.
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(END);
    pem.push('\n');
    pem
}

pub(super) fn from_pem(text: &str) -> Result<SigningKey, KeyFormatError> {
    if text.trim().is_empty() {
        return Err(KeyFormatError::Empty);
    }
    let label = label_of(text).ok_or(KeyFormatError::NotPem)?;
    if label != LABEL {
        return Err(KeyFormatError::Label(label.chars().take(LONGEST_LABEL).collect()));
    }
    let (_, document) =
        SecretDocument::from_pem(text.trim()).map_err(|_| KeyFormatError::Damaged)?;
    from_der(document.as_bytes())
}

fn from_der(der: &[u8]) -> Result<SigningKey, KeyFormatError> {
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyFormatError::Damaged)?;
    if info.algorithm.oid != ed25519_dalek::pkcs8::ALGORITHM_OID {
        return Err(KeyFormatError::Algorithm(info.algorithm.oid.to_string()));
    }
    if info.algorithm.parameters.is_some() {
        return Err(KeyFormatError::Damaged);
    }
    // RFC 8410: the private key is an OCTET STRING within the OCTET STRING.
    let seed = match info.private_key.as_bytes() {
        [0x04, length, seed @ ..] if usize::from(*length) == seed.len() => seed,
        _ => return Err(KeyFormatError::Damaged),
    };
    let seed: &[u8; 32] = seed.try_into().map_err(|_| KeyFormatError::Length(seed.len()))?;
    if *seed == [0; 32] {
        return Err(KeyFormatError::Zero);
    }
    let key = SigningKey::from_bytes(seed);
    match info.public_key {
        Some(public) if public.as_bytes() != Some(key.verifying_key().as_bytes()) => {
            Err(KeyFormatError::Mismatch)
        }
        _ => Ok(key),
    }
}

/// What the first PEM block in a text says that it is.
fn label_of(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("-----BEGIN ")?;
    after.split_once("-----").map(|(label, _)| label)
}

const LABEL: &str = "PRIVATE KEY";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Characters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;
/// Characters of a foreign label that a message repeats.
const LONGEST_LABEL: usize = 40;
/// `SEQUENCE { INTEGER 1, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING { … } } }` up to the seed.
const DER_PREFIX: [u8; 16] = [
    0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// `[1] IMPLICIT BIT STRING`, up to the public key.
const DER_BETWEEN: [u8; 3] = [0x81, 0x21, 0x00];
const DER_LEN: usize = DER_PREFIX.len() + 32 + DER_BETWEEN.len() + 32;
