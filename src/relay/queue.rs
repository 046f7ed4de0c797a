//! Bytes that have left QUIC and wait for a socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A queue of chunks. While the socket takes bytes as they come, chunks pass through uncopied; once it stalls, small
/// ones are gathered into blocks, because a small chunk pins the whole receive buffer that it was cut from.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    /// With what came before.
    pub(super) fn of(waiting: Bytes) -> Self {
        let bytes = waiting.len();
        let chunks = if waiting.is_empty() { VecDeque::new() } else { VecDeque::from([waiting]) };
        Self { chunks, bytes }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `length` bytes were appended to `chunks`.
    pub(super) fn appended(&mut self, length: usize) {
        self.bytes += length;
    }

    /// The first chunks as slices for a vectored write of at most `limit` bytes; at least one slice.
    pub(super) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>], limit: usize) -> usize {
        let (mut count, mut bytes) = (0, 0);
        for (chunk, slot) in self.chunks.iter().zip(into.iter_mut()) {
            if bytes >= limit {
                break;
            }
            let chunk = &chunk[..chunk.len().min(limit - bytes)];
            bytes += chunk.len();
            *slot = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// The socket took `length` bytes.
    pub(super) fn advance(&mut self, mut length: usize) {
        self.bytes -= length;
        while let Some(first) = self.chunks.front_mut() {
            if first.len() > length {
                first.advance(length);
                break;
            }
            length -= first.len();
            self.chunks.pop_front();
        }
    }

    /// The socket stalls: gathers small chunks. Costs a copy, which nobody waits for. What was gathered before and is small
    /// still is copied again, into memory of its own: a part of a block would pin the whole.
    pub(super) fn gather(&mut self) {
        let mut gathered = VecDeque::with_capacity(1 + self.bytes / BLOCK);
        let (mut small, mut length) = (Vec::new(), 0);
        for chunk in std::mem::take(&mut self.chunks) {
            let is_small = chunk.len() < BLOCK / 2;
            if !is_small || length + chunk.len() > BLOCK {
                gathered.extend(joined(&mut small, &mut length));
            }
            if is_small {
                length += chunk.len();
                small.push(chunk);
            } else {
                gathered.push_back(chunk);
            }
        }
        gathered.extend(joined(&mut small, &mut length));
        self.chunks = gathered;
    }

    /// Nothing waits and nothing is under way: holds no memory.
    pub(super) fn rest(&mut self) {
        if self.chunks.capacity() > SPARE {
            self.chunks = VecDeque::new();
        }
    }
}

/// All of them in one, which takes as much memory as they are long, together `length` bytes.
fn joined(chunks: &mut Vec<Bytes>, length: &mut usize) -> Option<Bytes> {
    let mut block = BytesMut::with_capacity(std::mem::take(length));
    chunks.drain(..).for_each(|chunk| block.extend_from_slice(&chunk));
    (!block.is_empty()).then(|| block.freeze())
}

/// Big enough that the rest of it is no waste, small enough for a slow reader.
const BLOCK: usize = 64 << 10;
/// Slots that an idle queue may keep: 128 bytes.
const SPARE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(sizes: &[usize]) -> Queue {
        let mut queue = Queue::default();
        let mut next = 0u8;
        for &size in sizes {
            let chunk: Vec<u8> = std::iter::repeat_with(|| {
                next = next.wrapping_add(1);
                next
            })
            .take(size)
            .collect();
            queue.chunks.push_back(chunk.into());
            queue.appended(size);
        }
        queue
    }

    fn contents(queue: &Queue) -> Vec<u8> {
        queue.chunks.iter().flatten().copied().collect()
    }

    #[test]
    fn gathering_keeps_every_byte_in_order_in_few_chunks() {
        let mut queue = queue(&[1_000; 300]);
        let before = contents(&queue);
        queue.gather();
        assert_eq!(contents(&queue), before);
        assert!(queue.chunks.len() <= 6, "{} chunks", queue.chunks.len());
        queue.gather();
        assert_eq!(contents(&queue), before);
    }

    /// A part of a larger piece of memory would keep all of that.
    #[test]
    fn what_was_gathered_is_memory_of_its_own_however_often_it_is_gathered() {
        let mut queue = queue(&[1_000; 30]);
        for _ in 0..20 {
            queue.gather();
            for _ in 0..9 {
                queue.chunks.push_back(Bytes::from(vec![7; 8_000]).slice(..3_000));
                queue.appended(3_000);
            }
        }
        queue.gather();
        assert_eq!(contents(&queue).len(), 30_000 + 20 * 9 * 3_000);
        assert!(queue.chunks.iter().all(Bytes::is_unique), "shared");
        assert!(queue.chunks.len() <= 2 + 2 * queue.bytes() / BLOCK, "{}", queue.chunks.len());
    }

    #[test]
    fn slices_stay_within_the_limit_and_advance_is_exact() {
        let mut queue = queue(&[10, 10, 10]);
        let expected = contents(&queue);
        let mut slices = [IoSlice::new(&[]); 8];
        let count = queue.slices(&mut slices, 15);
        assert_eq!(slices[..count].iter().map(|s| s.len()).sum::<usize>(), 15);
        queue.advance(15);
        assert_eq!(contents(&queue), expected[15..]);
        queue.advance(15);
        assert!(queue.is_empty() && queue.chunks.is_empty());
    }
}
