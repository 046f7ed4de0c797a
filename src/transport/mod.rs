//! Encrypted connections between a client and a router.
//!
//! QUIC with TLS 1.3 and raw public keys on both sides, tuned for the path at hand; it knows keys but not who may
//! enter, and streams but not what is on them. Implements `proto-spec/session.md`, chapter "Connection".

mod carrier;
mod congestion;
mod connect_error;
mod connection;
mod dialling;
mod endpoint;
mod homes;
mod junction;
mod lane;
mod negotiated;
mod packets;
mod proxy;
mod roaming;
mod secrets;
mod settings;
mod share;
mod socket;
mod tcp;
mod tls;
mod whereabouts;

pub use carrier::Carrier;
pub use congestion::Steering;
pub use connect_error::ConnectError;
pub use connection::{Activity, Connection, DATAGRAM_OVERHEAD, PathStats};
pub use dialling::ClientEndpoint;
pub use endpoint::{Arrival, EndpointError, RouterEndpoint, Sockets};
pub use negotiated::Negotiated;
#[doc(hidden)]
pub use negotiated::is_server_hello;
pub use secrets::Secrets;
pub use settings::{CipherSuite, Congestion, DATAGRAM_QUEUE, OptimizeFor, PostQuantum, Settings};
pub use share::ShareCell;
pub use socket::advice_on_buffers;
pub use tcp::{Caller, TlsLane};
pub use whereabouts::{Change, Whereabouts, source};

pub use quinn::{
    ConnectionError, ReadError, RecvStream, SendDatagramError, SendStream, StoppedError, VarInt,
    WriteError,
};
