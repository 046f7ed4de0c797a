//! Proofs of a secret that do not show it, bound to one TLS connection by its exporter.

use aws_lc_rs::hmac;

use crate::tunnel::Identity;

/// What the holder of a ticket signs with the ticket's one-time key: 22 bytes of label, the exporter (32), the
/// router's key (32), the client's key (32). All parts have a fixed length, so no two messages look alike. [SES-18]
pub fn ticket_proof_message(exporter: &[u8; 32], router: &Identity, client: &Identity) -> Vec<u8> {
    [TICKET_LABEL, exporter, router.as_bytes(), client.as_bytes()].concat()
}

/// The proof of a token: HMAC-SHA256 over 21 bytes of label and the exporter (32), under the token's
/// [`mac_key`](super::Token::mac_key). [SES-17]
pub fn token_proof(mac_key: &[u8; 32], exporter: &[u8; 32]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, mac_key));
    context.update(TOKEN_LABEL);
    context.update(exporter);
    let mut proof = [0; 32];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

/// Whether a proof is that of [`token_proof`], in a time that does not depend on how much of it is right.
pub fn verify_token_proof(mac_key: &[u8; 32], exporter: &[u8; 32], proof: &[u8]) -> bool {
    let expected = token_proof(mac_key, exporter);
    aws_lc_rs::constant_time::verify_slices_are_equal(&expected, proof).is_ok()
}

const TICKET_LABEL: &[u8] = b"conduit-ticket-proof-1";
const TOKEN_LABEL: &[u8] = b"conduit-token-proof-1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{TicketSecret, verify};

    #[test]
    fn a_ticket_proof_holds_for_one_connection_router_and_client() {
        let id = |byte| Identity::from_bytes([byte; 32]);
        let message = ticket_proof_message(&[1; 32], &id(2), &id(3));
        assert_eq!(message.len(), 22 + 3 * 32);
        let key = TicketSecret::from_bytes([9; 16]).one_time_key();
        let proof = key.sign(&message);
        assert_eq!(verify(&key.identity(), &message, &proof), Ok(()));
        for other in [
            ticket_proof_message(&[0; 32], &id(2), &id(3)),
            ticket_proof_message(&[1; 32], &id(3), &id(2)),
            ticket_proof_message(&[1; 32], &id(2), &id(4)),
        ] {
            assert!(verify(&key.identity(), &other, &proof).is_err());
        }
    }

    #[test]
    fn a_token_proof_holds_for_one_token_and_connection() {
        let proof = token_proof(&[1; 32], &[2; 32]);
        assert!(verify_token_proof(&[1; 32], &[2; 32], &proof));
        assert!(!verify_token_proof(&[0; 32], &[2; 32], &proof));
        assert!(!verify_token_proof(&[1; 32], &[0; 32], &proof));
        for length in 0..32 {
            assert!(!verify_token_proof(&[1; 32], &[2; 32], &proof[..length]));
        }
        assert!(!verify_token_proof(&[1; 32], &[2; 32], &[&proof[..], &[0]].concat()));
        assert_eq!(TOKEN_LABEL.len(), 21);
    }
}
