//! Reads frames from a stream.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::transport::{ReadError, RecvStream};
use crate::wire::{FrameError, Framed, decode, encode, split_frame};

/// Why the next message cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveFrameError {
    /// The bytes are not a legal message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error("{0}")]
    Stream(#[from] ReadError),
    /// The stream ended where a message should have been.
    #[error("the stream ended early")]
    Ended,
}

/// One message as a frame. [SES-1]
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::new();
    encode(message, &mut buffer);
    buffer.freeze()
}

/// A stream that is read message by message; what follows the last one is kept.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    limit: usize,
    /// Bytes of the stream that were read.
    read: u64,
}

impl FrameReader {
    /// Reads frames of at most `limit` bytes each.
    pub(super) fn new(stream: RecvStream, limit: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), limit, read: 0 }
    }

    /// Allows messages of another size from here.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next message. Cancel-safe: bytes that have come stay in the buffer.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<M, ReceiveFrameError> {
        Ok(decode(self.next_bytes().await?)?)
    }

    /// The bytes of the next message, for who has to verify a signature over them. Cancel-safe.
    pub(super) async fn next_bytes(&mut self) -> Result<Bytes, ReceiveFrameError> {
        loop {
            if let Framed::Whole(frame) = split_frame(&mut self.buffer, self.limit)? {
                return Ok(frame);
            }
            match self.stream.read_chunk(READ_AT_ONCE, true).await? {
                Some(chunk) => {
                    self.read += chunk.bytes.len() as u64;
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
                None => return Err(ReceiveFrameError::Ended),
            }
        }
    }

    /// The stream, how many bytes of it were read, and those beyond the last message.
    pub(super) fn into_parts(self) -> (RecvStream, u64, Bytes) {
        (self.stream, self.read, self.buffer.freeze())
    }
}

/// One packet's worth and more; a longer message takes another turn.
const READ_AT_ONCE: usize = 16 << 10;
