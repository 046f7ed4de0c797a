//! Packets that overtook the message which opens their flow.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

/// Packets of flows that the peer is about to open, or whose target is being looked up. No clock, no I/O.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// The highest flow that the peer has opened.
    newest: u64,
    /// Flows that were opened and have no socket yet.
    opening: HashSet<u64>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    flow: u64,
    since: u64,
    packet: Bytes,
}

impl Early {
    /// The peer has opened a flow; false when it breaks the rule that numbers grow. [FLW-6]
    pub(super) fn announced(&mut self, flow: u64) -> bool {
        let is_next = flow > self.newest;
        if is_next {
            self.newest = flow;
            self.opening.insert(flow);
        }
        is_next
    }

    /// Whether a flow may be open in a moment.
    pub(super) fn may_come(&self, flow: u64) -> bool {
        flow > self.newest || self.opening.contains(&flow)
    }

    /// Keeps a packet of a flow that may be open in a moment; false when it is of no use. Copied: the packet's own
    /// memory is that of a whole receive. [FLW-7]
    pub(super) fn keep(&mut self, flow: u64, packet: &[u8], now: u64) -> bool {
        let cost = packet.len() + OVERHEAD;
        if !self.may_come(flow) || self.bytes + cost > BYTES_MOST {
            return false;
        }
        self.bytes += cost;
        let packet = Bytes::copy_from_slice(packet);
        self.waiting.push_back(Waiting { flow, since: now, packet });
        true
    }

    /// The flow has a socket, or never will: its packets, in their order.
    pub(super) fn settle(&mut self, flow: u64) -> Vec<Bytes> {
        self.opening.remove(&flow);
        self.take(|waiting| waiting.flow == flow)
    }

    /// Gives up what has waited for too long; how many.
    pub(super) fn sweep(&mut self, now: u64) -> u64 {
        self.take(|waiting| now.saturating_sub(waiting.since) >= PATIENCE).len() as u64
    }

    fn take(&mut self, is_meant: impl Fn(&Waiting) -> bool) -> Vec<Bytes> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let (taken, kept) = std::mem::take(&mut self.waiting).into_iter().partition(&is_meant);
        self.waiting = kept;
        self.bytes = self.waiting.iter().map(|waiting| waiting.packet.len() + OVERHEAD).sum();
        let taken: VecDeque<Waiting> = taken;
        taken.into_iter().map(|waiting| waiting.packet).collect()
    }
}

/// Longer than a name takes to be looked up.
const PATIENCE: u64 = 6_000;
/// What a packet costs besides its bytes.
const OVERHEAD: usize = 64;
/// A burst of a fast path within the round trip that a lost message takes to come again.
const BYTES_MOST: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_for_their_flow_and_for_no_other() {
        let mut early = Early::default();
        assert!(early.keep(4, b"a", 0) && early.keep(6, b"b", 0) && early.keep(4, b"c", 0));
        assert!(early.announced(4));
        assert_eq!(early.settle(4), [&b"a"[..], b"c"]);
        assert!(!early.keep(4, b"late", 0), "it is over");
        assert!(!early.announced(4) && !early.announced(2), "numbers grow");
        assert!(early.announced(6) && early.keep(6, b"d", 0));
        assert_eq!(early.settle(6), [&b"b"[..], b"d"]);
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn h26_what_nobody_opens_is_bounded_and_given_up() {
        let mut early = Early::default();
        let kept = (0..100_000u64).filter(|flow| early.keep(flow + 2, &[0; 100], 0)).count();
        assert!(early.bytes <= BYTES_MOST && kept > 1_000, "{kept}");
        assert_eq!(early.sweep(PATIENCE - 1), 0);
        assert_eq!(early.sweep(PATIENCE), kept as u64);
        assert!(early.keep(2, b"room again", 0));
    }
}
