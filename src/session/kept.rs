//! What one direction has sent and is not known to be delivered: what a stream that goes on sends again.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Bytes in order, shared with QUIC's own buffers. A request or an answer, one piece, costs no allocation. [RSM-3]
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Where the first piece begins, counted from the stream's start.
    start: u64,
    /// Empty when nothing is kept.
    first: Bytes,
    #[allow(clippy::box_collection, reason = "ten thousand idle streams have none")]
    rest: Option<Box<VecDeque<Bytes>>>,
}

impl Kept {
    /// Nothing is kept of what comes before `start`.
    pub(super) fn from(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    /// Appends what is about to leave.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.rest.get_or_insert_default().push_back(bytes);
        }
    }

    /// Everything up to `delivered` is needed no longer. A piece goes as a whole.
    pub(super) fn delivered(&mut self, delivered: u64) {
        while !self.first.is_empty() && self.start + self.first.len() as u64 <= delivered {
            self.start += self.first.len() as u64;
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front()).unwrap_or_default();
        }
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
    }

    /// What follows `offset`, up to the end of its piece; `None` at the end of all.
    pub(super) fn after(&self, offset: u64) -> Option<Bytes> {
        let mut start = self.start;
        for piece in
            std::iter::once(&self.first).chain(self.rest.iter().flat_map(|rest| rest.iter()))
        {
            let end = start + piece.len() as u64;
            if offset < end && !piece.is_empty() {
                let mut piece = piece.clone();
                piece.advance(offset.saturating_sub(start) as usize);
                return Some(piece);
            }
            start = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &[&'static str]) -> Kept {
        let mut kept = Kept::default();
        for piece in pieces {
            kept.push(Bytes::from_static(piece.as_bytes()));
        }
        kept
    }

    fn all_after(kept: &Kept, mut offset: u64) -> String {
        let mut all = String::new();
        while let Some(piece) = kept.after(offset) {
            offset += piece.len() as u64;
            all.push_str(std::str::from_utf8(&piece).expect("text"));
        }
        all
    }

    #[test]
    fn what_follows_an_offset_is_exact_whatever_was_delivered() {
        let mut kept = kept(&["abc", "", "d", "efgh"]);
        let whole = "abcdefgh";
        for offset in 0..=8 {
            assert_eq!(all_after(&kept, offset as u64), whole[offset..], "{offset}");
        }
        for delivered in 0..=8 {
            kept.delivered(delivered as u64);
            for offset in delivered..=8 {
                assert_eq!(all_after(&kept, offset as u64), whole[offset..], "{delivered}");
            }
        }
        assert_eq!(kept.after(8), None);
        kept.push(Bytes::from_static(b"ij"));
        assert_eq!(all_after(&kept, 9), "j");
    }

    #[test]
    fn what_was_delivered_holds_no_memory() {
        let mut kept = kept(&["abc", "d", "e"]);
        kept.delivered(4);
        assert_eq!((kept.start, kept.first.as_ref(), kept.rest.is_none()), (4, &b"e"[..], true));
        kept.delivered(5);
        assert!(kept.first.is_empty());
    }
}
