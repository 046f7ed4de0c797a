//! Takes a stream's bytes out of QUIC, those behind a hole too, and puts them in order.
//!
//! quinn closes a connection when one stream's reassembly holds more than 1,024 separate pieces, which a path that loses
//! and reorders much brings about. What has been taken out of it is not counted.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::transport::{ReadError, RecvStream};

/// The receiving direction of a stream, as bytes in order.
#[derive(Debug)]
pub(super) struct Intake {
    stream: RecvStream,
    /// Bytes of the stream that were handed over.
    position: u64,
    /// Times in a row that something came and nothing could be read: it came behind a hole.
    in_vain: u32,
    /// `None`: QUIC puts the bytes in order, which is quicker.
    behind: Option<Box<Behind>>,
    /// What ended the direction, when bytes came before it that had to be handed over first.
    end: Option<Box<ReadError>>,
}

/// What came behind a hole, by its place in the stream.
#[derive(Debug, Default)]
struct Behind {
    pieces: BTreeMap<u64, Bytes>,
    bytes: u64,
}

impl Intake {
    /// `position`: how many bytes of the stream somebody has read before.
    pub(super) fn new(stream: RecvStream, position: u64) -> Self {
        Self { stream, position, in_vain: 0, behind: None, end: None }
    }

    /// Fills in chunks that follow each other: how many, or `None` at the end of the direction.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        if self.behind.is_none() {
            // The future holds nothing between polls: quinn keeps the waker by stream.
            let read = pin!(self.stream.read_chunks(chunks)).poll(cx);
            match read {
                Poll::Ready(Ok(Some(count))) => {
                    self.in_vain = 0;
                    self.position += chunks[..count].iter().map(|c| c.len() as u64).sum::<u64>();
                    return Poll::Ready(Ok(Some(count)));
                }
                Poll::Pending if self.in_vain >= IN_VAIN => self.behind = Some(Box::default()),
                Poll::Pending => self.in_vain += 1,
                Poll::Ready(_) => {}
            }
            if self.behind.is_none() {
                return read;
            }
        }
        self.poll_pieces(cx, chunks)
    }

    /// Bytes behind a hole.
    pub(super) fn bytes_behind(&self) -> u64 {
        self.behind.as_ref().map_or(0, |behind| behind.bytes)
    }

    /// What keeping them costs.
    pub(super) fn cost_behind(&self) -> u64 {
        self.behind.as_ref().map_or(0, |it| it.bytes + it.pieces.len() as u64 * PIECE_COST)
    }

    /// The stream itself; what was taken out of it is forgotten.
    pub(super) fn into_stream(self) -> RecvStream {
        self.stream
    }

    /// The stream itself, for who does not read.
    pub(super) fn stream(&mut self) -> &mut RecvStream {
        &mut self.stream
    }

    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let behind = self.behind.get_or_insert_default();
        let mut count = 0;
        while count < chunks.len() && self.end.is_none() {
            let next = match behind.take(self.position) {
                Some(next) => next,
                None => match pin!(self.stream.read_chunk(usize::MAX, false)).poll(cx) {
                    Poll::Ready(Ok(Some(chunk))) if chunk.offset == self.position => chunk.bytes,
                    Poll::Ready(Ok(Some(chunk))) => {
                        behind.keep(chunk.offset, &chunk.bytes);
                        continue;
                    }
                    Poll::Ready(Ok(None)) if count == 0 => return Poll::Ready(Ok(None)),
                    Poll::Ready(Err(error)) => {
                        // quinn says it once.
                        self.end = Some(Box::new(error));
                        break;
                    }
                    Poll::Pending if count == 0 => return Poll::Pending,
                    Poll::Ready(Ok(None)) | Poll::Pending => break,
                },
            };
            self.position += next.len() as u64;
            chunks[count] = next;
            count += 1;
        }
        match self.end.take() {
            Some(end) if count == 0 => Poll::Ready(Err(*end)),
            end => {
                self.end = end;
                Poll::Ready(Ok(Some(count)))
            }
        }
    }
}

impl Behind {
    /// Copied: the packet's own memory is that of a whole receive.
    fn keep(&mut self, offset: u64, bytes: &Bytes) {
        self.bytes += bytes.len() as u64;
        self.pieces.insert(offset, Bytes::copy_from_slice(bytes));
    }

    /// The piece at the front, when it is there.
    fn take(&mut self, position: u64) -> Option<Bytes> {
        let first = self.pieces.first_entry().filter(|first| *first.key() == position)?;
        let bytes = first.remove();
        self.bytes -= bytes.len() as u64;
        Some(bytes)
    }
}

/// Something came so many times without anything to read: there is a hole, and it is not the next packet that fills it. A
/// turn may bring a hundred packets, and a thousand pieces are what quinn allows.
const IN_VAIN: u32 = 8;
/// A place in two trees, quinn's and this one, and an allocation.
const PIECE_COST: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_their_order_and_only_at_their_place() {
        let mut behind = Behind::default();
        for offset in [30u64, 10, 20, 50] {
            behind.keep(offset, &Bytes::from(vec![offset as u8; 10]));
        }
        assert_eq!((behind.bytes, behind.take(0)), (40, None));
        for position in [10, 20, 30] {
            assert_eq!(behind.take(position), Some(Bytes::from(vec![position as u8; 10])));
        }
        assert_eq!((behind.take(40), behind.bytes), (None, 10), "a hole again");
        assert_eq!(behind.take(50).map(|bytes| bytes.len()), Some(10));
        assert_eq!(behind.bytes, 0);
    }
}
