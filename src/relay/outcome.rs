//! What a connection came to, and how it ended.

use crate::ends::Stream;
use crate::session::{self, ReceiveError, SendError};
use crate::wire::Code;

/// What a connection came to.
#[derive(Debug)]
pub struct Transferred {
    /// From the socket into the stream, in bytes.
    pub sent: u64,
    /// From the stream into the socket, in bytes.
    pub received: u64,
    /// How it ended.
    pub ended_by: EndedBy,
    /// What another process goes on with: it was [`EndedBy::Halted`].
    pub halted: Option<Box<Halted>>,
}

/// A connection whose bytes wait for somebody to go on.
#[derive(Debug)]
pub struct Halted {
    /// The local end.
    pub socket: Stream,
    /// The stream.
    pub stream: session::Halted,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndedBy {
    /// Both directions were finished and delivered.
    #[error("done")]
    Done,
    /// The socket here was reset.
    #[error("the local connection was reset: {0}")]
    Socket(String),
    /// The far end did not serve the stream.
    #[error("{message}")]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// The far end broke the connection off.
    #[error("{0}")]
    Peer(Code),
    /// The half that was left open stayed silent.
    #[error("the half-closed connection stayed silent")]
    Abandoned,
    /// An operator ended it.
    #[error("ended by an operator")]
    Killed,
    /// The session is gone.
    #[error("the session was lost: {0}")]
    Lost(String),
    /// It did not end: another process goes on with it.
    #[error("handed over")]
    Halted,
}

impl EndedBy {
    /// What the far end is told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Done => Code::Done,
            Self::Socket(_) => Code::Reset,
            Self::Refused { code, .. } | Self::Peer(code) => *code,
            Self::Abandoned => Code::Abandoned,
            Self::Killed => Code::Killed,
            Self::Lost(_) | Self::Halted => Code::Internal,
        }
    }
}

impl From<SendError> for EndedBy {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Stopped(code) => Self::Peer(code),
            SendError::Lost(reason) => Self::Lost(reason),
        }
    }
}

impl From<ReceiveError> for EndedBy {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Reset(code) => Self::Peer(code),
            ReceiveError::Refused { code, message } => Self::Refused { code, message },
            ReceiveError::Protocol(reason) => Self::Lost(reason),
            ReceiveError::Lost(reason) => Self::Lost(reason),
        }
    }
}
