//! Public keys and signatures as others send them: checked strictly.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::tunnel::Identity;

/// The signature is not one by this key over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the key and the message")]
pub struct BadSignature;

/// The bytes are not a key that anybody can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a usable Ed25519 public key")]
pub struct BadKey;

/// Why bytes are not the SubjectPublicKeyInfo of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSpki {
    /// Another algorithm, another encoding or another length than RFC 8410's 44 bytes for Ed25519.
    #[error("the public key is not an Ed25519 key in the encoding of RFC 8410")]
    Encoding,
    /// The key itself is refused.
    #[error(transparent)]
    Key(#[from] BadKey),
}

/// Checks a signature (RFC 8032) strictly: keys and commitments of small order, keys that are not in their one
/// canonical encoding, a scalar S that is not reduced, and lengths other than 64 bytes are refused. [SES-42]
pub fn verify(identity: &Identity, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
    let key = key_of(identity).map_err(|_| BadSignature)?;
    let signature = Signature::from_slice(signature).map_err(|_| BadSignature)?;
    key.verify_strict(message, &signature).map_err(|_| BadSignature)
}

/// Checks that an identity is a key that somebody can own: a point on the curve, canonical, not of small order.
/// [SES-42]
pub fn check_key(identity: &Identity) -> Result<(), BadKey> {
    key_of(identity).map(|_| ())
}

fn key_of(identity: &Identity) -> Result<VerifyingKey, BadKey> {
    let key = VerifyingKey::from_bytes(identity.as_bytes()).map_err(|_| BadKey)?;
    // One key, one identity: decompression also takes y ≥ p and the sign of zero.
    let canonical = key.to_edwards().compress().as_bytes() == identity.as_bytes();
    if key.is_weak() || !canonical { Err(BadKey) } else { Ok(key) }
}

/// The SubjectPublicKeyInfo (RFC 8410) of an identity: what TLS carries as a raw public key.
pub fn spki(identity: &Identity) -> [u8; SPKI_LEN] {
    let mut bytes = [0; SPKI_LEN];
    bytes[..SPKI_PREFIX.len()].copy_from_slice(&SPKI_PREFIX);
    bytes[SPKI_PREFIX.len()..].copy_from_slice(identity.as_bytes());
    bytes
}

/// The identity in a SubjectPublicKeyInfo: exactly the bytes that [`spki`] makes, of a key that passes
/// [`check_key`].
pub fn identity_from_spki(bytes: &[u8]) -> Result<Identity, BadSpki> {
    let key = bytes.strip_prefix(&SPKI_PREFIX).ok_or(BadSpki::Encoding)?;
    let identity = Identity::from_bytes(key.try_into().map_err(|_| BadSpki::Encoding)?);
    check_key(&identity)?;
    Ok(identity)
}

/// Bytes of an Ed25519 SubjectPublicKeyInfo.
pub const SPKI_LEN: usize = SPKI_PREFIX.len() + Identity::LEN;
/// `SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING { … } }` up to the key itself.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keypair;
    use data_encoding::HEXLOWER;

    fn key(hex: &str) -> Identity {
        let bytes = HEXLOWER.decode(hex.as_bytes()).expect("hex");
        Identity::from_bytes(bytes.try_into().expect("32 bytes"))
    }

    /// Every encoding, canonical or not, of the eight points of small order.
    const SMALL_ORDER: [&str; 14] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];

    #[test]
    fn rfc_8032_vectors_verify() {
        let seed = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7";
        let keypair = Keypair::from_seed(*key(seed).as_bytes());
        let public = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025";
        assert_eq!(keypair.identity(), key(public));
        let signature = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
                         18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
        assert_eq!(HEXLOWER.encode(&keypair.sign(&[0xaf, 0x82])), signature);
        assert_eq!(verify(&key(public), &[0xaf, 0x82], &keypair.sign(&[0xaf, 0x82])), Ok(()));
    }

    #[test]
    fn v5_keys_of_small_order_are_refused() {
        for hex in SMALL_ORDER {
            let weak = key(hex);
            assert_eq!(check_key(&weak), Err(BadKey), "{hex}");
            assert_eq!(identity_from_spki(&spki(&weak)), Err(BadSpki::Key(BadKey)), "{hex}");
            // R = A, S = 0 satisfies the lax equation for the neutral element and any message.
            for commitment in SMALL_ORDER {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(key(commitment).as_bytes());
                assert_eq!(verify(&weak, b"anything", &signature), Err(BadSignature), "{hex}");
            }
        }
    }

    #[test]
    fn v5_a_second_encoding_of_a_key_and_what_is_no_point_are_refused() {
        // y = p + 3 … p + 18: those that are points are second encodings of small y.
        for low in 0xf0..=0xff_u8 {
            let mut bytes = [0xff; 32];
            bytes[0] = low;
            for top in [0x7f, 0xff] {
                bytes[31] = top;
                assert_eq!(check_key(&Identity::from_bytes(bytes)), Err(BadKey), "{low:x}");
            }
        }
        let mut off_the_curve = [0; 32];
        off_the_curve[0] = 2;
        assert_eq!(check_key(&Identity::from_bytes(off_the_curve)), Err(BadKey));
    }

    #[test]
    fn v5_a_malleable_s_is_refused() {
        let keypair = Keypair::from_seed([7; 32]);
        let signature = keypair.sign(b"message");
        assert_eq!(verify(&keypair.identity(), b"message", &signature), Ok(()));
        // S + L is the same scalar modulo the group's order L.
        let order = key("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut malleable = signature;
        let mut carry = 0;
        for (byte, add) in malleable[32..].iter_mut().zip(order.as_bytes()) {
            let sum = u16::from(*byte) + u16::from(*add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert_eq!(carry, 0, "the vector fits into 32 bytes");
        assert_eq!(verify(&keypair.identity(), b"message", &malleable), Err(BadSignature));
    }

    #[test]
    fn a_signature_holds_for_its_key_its_message_and_its_length() {
        let keypair = Keypair::from_seed([7; 32]);
        let signature = keypair.sign(b"message");
        let other = Keypair::from_seed([8; 32]).identity();
        assert_eq!(verify(&other, b"message", &signature), Err(BadSignature));
        assert_eq!(verify(&keypair.identity(), b"massage", &signature), Err(BadSignature));
        for length in [0, 1, 32, 63] {
            let cut = &signature[..length];
            assert_eq!(verify(&keypair.identity(), b"message", cut), Err(BadSignature));
        }
        let long = [signature.as_slice(), &[0]].concat();
        assert_eq!(verify(&keypair.identity(), b"message", &long), Err(BadSignature));
        for bit in 0..512 {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&keypair.identity(), b"message", &wrong), Err(BadSignature));
        }
    }

    #[test]
    fn an_spki_reads_back_and_nothing_else_does() {
        let identity = Keypair::from_seed([7; 32]).identity();
        let bytes = spki(&identity);
        assert_eq!(identity_from_spki(&bytes), Ok(identity));
        for length in 0..SPKI_LEN {
            assert_eq!(identity_from_spki(&bytes[..length]), Err(BadSpki::Encoding));
        }
        assert_eq!(identity_from_spki(&[&bytes[..], &[0]].concat()), Err(BadSpki::Encoding));
        for at in 0..SPKI_PREFIX.len() {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(identity_from_spki(&wrong), Err(BadSpki::Encoding), "byte {at}");
        }
    }
}
