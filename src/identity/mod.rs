//! Who somebody is and how it is proved: Ed25519 keys, tickets, tokens, and the proofs made with them.
//!
//! Decides nothing about who may enter and keeps nothing but key files: that is for `store` and `policy`.
//! Implements the ticket format (`proto-spec/ticket.md`) and the section "Proofs" of `proto-spec/session.md`.

mod format;
mod keypair;
mod pkcs8;
mod proof;
mod random;
mod text;
mod ticket;
mod ticket_bytes;
mod token;
mod verify;

pub use format::KeyFormatError;
pub use keypair::{KeyError, Keypair};
pub use proof::{ticket_proof_message, token_proof, verify_token_proof};
pub use random::{RandomError, random_bytes};
pub use ticket::{ParseTicketError, Ticket, TicketId, TicketSecret};
pub use token::{ParseTokenError, Token, TokenId};
pub use verify::{
    BadKey, BadSignature, BadSpki, SPKI_LEN, check_key, identity_from_spki, spki, verify,
};
