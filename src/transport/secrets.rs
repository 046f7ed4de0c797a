//! What a router keeps besides its key, so that clients notice a restart within a round trip.

use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::EndpointConfig;
use quinn_proto::{ConnectionIdGenerator, HashedConnectionIdGenerator};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 random bytes that outlive a restart of the router: keys for stateless resets (RFC 9000, 10.3), address
/// validation tokens (8.1.3) and recognisable connection ids are derived from them.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secrets([u8; Secrets::LEN]);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(hidden)")
    }
}

impl Secrets {
    /// Bytes of the seed.
    pub const LEN: usize = 32;

    /// The secrets that grow from a seed.
    pub fn from_seed(seed: [u8; Self::LEN]) -> Self {
        Self(seed)
    }

    /// The endpoint's own settings: reset key and connection-id key, both of which a restarted router needs to
    /// recognise what its predecessor handed out.
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let reset: [u8; 32] = self.derive(b"conduit-reset-1");
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
        let key = self.id_key();
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        config
    }

    /// What tells the endpoint's own connection ids from others.
    pub(super) fn connection_ids(&self) -> Box<dyn ConnectionIdGenerator> {
        Box::new(HashedConnectionIdGenerator::from_key(self.id_key()))
    }

    fn id_key(&self) -> u64 {
        u64::from_be_bytes(self.derive(b"conduit-connection-id-1"))
    }

    /// The key of address validation tokens.
    pub(super) fn token_key(&self) -> Arc<dyn quinn::crypto::HandshakeTokenKey> {
        let key: [u8; 32] = self.derive(b"conduit-address-token-1");
        Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&key))
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.0);
        let info = [label];
        secret
            .expand(&info, Length(N))
            .and_then(|key| key.fill(&mut out))
            .expect("HKDF-SHA256 gives up to 8,160 bytes and at most 32 are asked for");
        out
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_differ_from_each_other_and_from_seed_to_seed() {
        let one = Secrets::from_seed([1; 32]);
        let two = Secrets::from_seed([2; 32]);
        let reset: [u8; 32] = one.derive(b"conduit-reset-1");
        let token: [u8; 32] = one.derive(b"conduit-address-token-1");
        assert_ne!(reset, token);
        assert_ne!(reset, two.derive::<32>(b"conduit-reset-1"));
        assert_eq!(reset, one.derive::<32>(b"conduit-reset-1"));
    }
}
