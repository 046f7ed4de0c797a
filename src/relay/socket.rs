//! The socket side of a pipe: reads that hold no buffer while they wait.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::ends::Stream;

thread_local! {
    /// Where reads land. One per thread: a read borrows it for as long as it runs, and none runs across a wait.
    static LANDING: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Reads at most `limit` bytes; `None` at the end. Small reads are copied out, so that the landing place serves the
/// next one too; large ones take their part of it along.
pub(super) fn poll_read(
    reader: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    limit: usize,
) -> Poll<io::Result<Option<Bytes>>> {
    LANDING.with_borrow_mut(|landing| {
        make_room(landing, limit);
        let read = ready!(poll_read_buf(reader, cx, &mut (&mut *landing).limit(limit)))?;
        Poll::Ready(Ok((read > 0).then(|| take(landing))))
    })
}

/// What a fresh connection has brought already, without waiting: it leaves together with the stream's header.
/// Empty when there is nothing yet; the end and errors show at the next read.
pub fn first_bytes(socket: &Stream, limit: usize) -> Bytes {
    LANDING.with_borrow_mut(|landing| {
        make_room(landing, limit);
        match socket.try_read_buf(&mut (&mut *landing).limit(limit)) {
            Ok(read) if read > 0 => take(landing),
            _ => Bytes::new(),
        }
    })
}

fn make_room(landing: &mut BytesMut, limit: usize) {
    debug_assert!(landing.is_empty());
    if landing.capacity() < limit.min(LANDING_SIZE) {
        *landing = BytesMut::with_capacity(LANDING_SIZE.max(limit));
    }
}

fn take(landing: &mut BytesMut) -> Bytes {
    if landing.len() <= COPIED {
        let bytes = Bytes::copy_from_slice(landing);
        landing.clear();
        return bytes;
    }
    landing.split().freeze()
}

/// Up to here a copy is cheaper than giving away a part of the landing place.
const COPIED: usize = 16 << 10;
/// Four of the largest default reads.
const LANDING_SIZE: usize = 256 << 10;
