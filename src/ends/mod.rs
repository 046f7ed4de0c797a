//! The local ends of a tunnel: sockets that listen for users and sockets that are dialled for them.
//!
//! It knows nothing of sessions and copies no bytes, and what may be dialled is the caller's decision, asked about
//! each resolved address.
//! Implements the sections "Dialling" and "Ends of a connection" of `proto-spec/streams.md`.

mod dial;
mod listen;
mod race;
mod socket;

pub use dial::{DialError, DialSettings, dial};
pub use listen::{ListenError, Listener};
pub use socket::{reset, tune};
