//! Packets that overtook the message which opens their flow.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Packets of flows that the peer is about to open, or whose target is being looked up. No clock, no I/O.
#[derive(Debug)]
pub(super) struct Early {
    /// What is left of the peer's numbers when they are halved.
    parity: u64,
    /// The highest flow that the peer has opened.
    newest: u64,
    /// Flows that were opened and have no socket yet, with their tunnels.
    opening: HashMap<u64, u32>,
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
    /// Nothing yet; the peer's numbers are as odd as `parity`.
    pub(super) fn new(parity: u64) -> Self {
        let (opening, waiting) = (HashMap::new(), VecDeque::new());
        Self { parity, newest: 0, opening, waiting, bytes: 0 }
    }

    /// The peer has opened a flow of a tunnel; false when the number is not one that may come now. [FLW-6]
    pub(super) fn announced(&mut self, flow: u64, tunnel: u32) -> bool {
        let is_next = self.is_ahead(flow);
        if is_next {
            self.newest = flow;
            self.opening.insert(flow, tunnel);
        }
        is_next
    }

    /// Whether a flow may be open in a moment.
    pub(super) fn may_come(&self, flow: u64) -> bool {
        self.is_ahead(flow) || self.opening.contains_key(&flow)
    }

    fn is_ahead(&self, flow: u64) -> bool {
        flow > self.newest && flow < END && flow % 2 == self.parity
    }

    /// The tunnel of a flow that has no socket yet.
    pub(super) fn tunnel_of(&self, flow: u64) -> Option<u32> {
        self.opening.get(&flow).copied()
    }

    /// Keeps a packet of a flow that may be open in a moment; false when it is of no use. Copied: the packet's own
    /// memory is that of a whole receive. [FLW-7]
    pub(super) fn keep(&mut self, flow: u64, packet: &[u8], now: u64) -> bool {
        let fits = self.may_come(flow) && self.has_room(packet);
        if fits {
            self.waiting.push_back(Waiting::new(flow, packet, now));
        }
        fits
    }

    /// Keeps the packet that came with the message, in front of those that overtook it; false when there is no room.
    /// [FLW-7]
    pub(super) fn keep_first(&mut self, flow: u64, packet: &[u8], now: u64) -> bool {
        let fits = self.has_room(packet);
        if fits {
            self.waiting.push_front(Waiting::new(flow, packet, now));
        }
        fits
    }

    /// Takes the room for a packet, if there is as much.
    fn has_room(&mut self, packet: &[u8]) -> bool {
        let cost = packet.len() + OVERHEAD;
        let fits = self.bytes + cost <= BYTES_MOST;
        if fits {
            self.bytes += cost;
        }
        fits
    }

    /// The flow gets a socket, or never will: its packets, in their order; `None` when it is not about to be open any
    /// more.
    pub(super) fn settle(&mut self, flow: u64) -> Option<Vec<Bytes>> {
        self.opening.remove(&flow)?;
        Some(self.take(|waiting| waiting.flow == flow))
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

impl Waiting {
    fn new(flow: u64, packet: &[u8], now: u64) -> Self {
        Self { flow, since: now, packet: Bytes::copy_from_slice(packet) }
    }
}

/// Numbers end where those of datagrams do.
const END: u64 = 1 << 62;
/// Longer than a name takes to be looked up.
pub(super) const PATIENCE: u64 = 6_000;
/// What a packet costs besides its bytes.
const OVERHEAD: usize = 64;
/// A burst of a fast path within the round trip that a lost message takes to come again.
const BYTES_MOST: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_for_their_flow_and_for_no_other() {
        let mut early = Early::new(0);
        assert!(early.keep(4, b"a", 0) && early.keep(6, b"b", 0) && early.keep(4, b"c", 0));
        assert!(early.announced(4, 1) && early.keep_first(4, b"first", 0));
        assert_eq!(
            early.settle(4).as_deref(),
            Some(&[&b"first"[..], b"a", b"c"].map(Bytes::from)[..])
        );
        assert!(!early.keep(4, b"late", 0) && early.settle(4).is_none(), "it is over");
        assert!(!early.announced(4, 1) && !early.announced(2, 1), "numbers grow");
        assert!(early.announced(6, 1) && early.keep(6, b"d", 0));
        assert_eq!(early.settle(6).as_deref(), Some(&[&b"b"[..], b"d"].map(Bytes::from)[..]));
        assert_eq!((early.bytes, early.opening.len()), (0, 0));
    }

    #[test]
    fn numbers_that_are_not_the_peers_to_give_are_none() {
        for (parity, odd) in [(0, 7), (1, 8)] {
            let mut early = Early::new(parity);
            for flow in [0, odd, END - odd % 2, END, END + parity, u64::MAX - parity] {
                let is_next = early.is_ahead(flow);
                assert_eq!(
                    (early.keep(flow, b"a", 0), early.announced(flow, 1)),
                    (is_next, is_next)
                );
                assert!(!is_next, "{flow} of {parity}");
            }
            assert!(early.announced(END - 2 + parity, 1));
        }
    }

    #[test]
    fn h26_what_nobody_opens_is_bounded_and_given_up() {
        let mut early = Early::new(0);
        let kept = (1..100_000u64).filter(|at| early.keep(at * 2, &[0; 100], 0)).count();
        assert!(early.bytes <= BYTES_MOST && kept > 1_000, "{kept}");
        assert!(early.announced(2, 1) && !early.keep_first(2, &[0; 100], 0), "one bound for all");
        assert_eq!(early.sweep(PATIENCE - 1), 0);
        assert_eq!(early.sweep(PATIENCE), kept as u64);
        assert!(early.keep(2, b"room again", 0));
    }
}
