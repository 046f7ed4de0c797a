//! Turns bytes into messages and back.
//!
//! Pure functions over buffers: no I/O, no clock, no tokio; reading and writing streams is `session`'s work.
//! Implements `proto-spec/session.md` (frames), `proto-spec/streams.md` (headers), `proto-spec/flows.md` (datagrams)
//! and `proto-spec/error-codes.md`; [`handover`] those of `proto-spec/upgrade.md`.

mod code;
mod datagram;
mod frame;
#[allow(missing_docs, clippy::doc_markdown)]
#[rustfmt::skip]
pub mod handover;
#[allow(missing_docs, clippy::doc_markdown)]
#[rustfmt::skip]
mod messages;
mod version;

pub use code::{Code, Side};
pub use datagram::{
    Datagram, DatagramError, Fragment, HEADER_MOST, MAX_FRAGMENTS, MAX_PACKET, piece_size,
    put_fragment, put_whole, whole_header_len,
};
pub use frame::{FrameError, Framed, decode, encode, split_frame};
pub use messages::{
    Accepted, Authenticate, Control, Declare, Declared, Delivered, Direction, FlowClose, FlowOpen,
    GoAway, Hello, Limits, Oversize, Permissions, Priority, Protocol, ProxyProtocol, Replaced,
    StreamAnswer, StreamClass, StreamHeader, Withdraw, control,
};
pub use version::{Unsupported, VERSION, check_version};
