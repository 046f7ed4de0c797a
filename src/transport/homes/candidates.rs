//! Where connections may be now.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::header::Id;

/// Addresses that are not known to be a connection's and from which packets for one were passed on. QUIC answers them at
/// once, if at all.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    by_addr: HashMap<SocketAddr, Candidate>,
    /// The oldest first; some have been taken, or are newer by now.
    order: VecDeque<(SocketAddr, Instant)>,
}

/// Which connection may be at an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: Id,
    /// When packets were passed on.
    pub(super) passed: Instant,
    /// When they had come.
    pub(super) since: Instant,
    /// How the last one ended.
    pub(super) end: Option<u64>,
}

impl Candidates {
    /// Makes room by forgetting the oldest.
    pub(super) fn add(&mut self, addr: SocketAddr, candidate: Candidate) {
        while self.order.len() >= CANDIDATES {
            self.forget_oldest();
        }
        self.by_addr.insert(addr, candidate);
        self.order.push_back((addr, candidate.passed));
    }

    /// Forgets those that QUIC would have answered.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(_, passed)| *passed + ANSWERED < now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((addr, passed)) = self.order.pop_front() else { return };
        if self.by_addr.get(&addr).is_some_and(|candidate| candidate.passed <= passed) {
            self.by_addr.remove(&addr);
        }
    }

    /// Who may be at an address.
    pub(super) fn at(&self, addr: SocketAddr) -> Option<Candidate> {
        self.by_addr.get(&addr).copied()
    }

    /// It is known now.
    pub(super) fn remove(&mut self, addr: SocketAddr) {
        self.by_addr.remove(&addr);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_addr.is_empty()
    }
}

/// Enough for as many clients that move within the same few milliseconds.
const CANDIDATES: usize = 4_096;
/// QUIC asks a new address for a proof at once.
const ANSWERED: Duration = Duration::from_secs(1);
