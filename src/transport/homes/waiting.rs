//! Packets that wait until the address before theirs has had its turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn::udp::RecvMeta;

use super::header::Id;

/// Trains of packets, each queue with the longest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// For [`TURN`].
    fresh: VecDeque<Train>,
    /// For [`CONTESTED`].
    contested: VecDeque<Train>,
    /// No longer.
    ready: VecDeque<Train>,
    /// Of all that is held, with what it takes besides; at most [`HELD_MOST`] once what is ready has been taken.
    bytes: usize,
}

/// Packets that came at once, from one address.
#[derive(Debug)]
pub(super) struct Train {
    pub(super) id: Id,
    pub(super) since: Instant,
    pub(super) meta: RecvMeta,
    pub(super) bytes: Box<[u8]>,
}

impl Waiting {
    /// Keeps a train, for a long time where it is `contested` from the beginning. When that is too much, others come out
    /// before their time: of the contested ones the longest first, then of the fresh ones.
    pub(super) fn keep(&mut self, train: Train, contested: bool) {
        self.bytes += train.cost();
        let queue = if contested { &mut self.contested } else { &mut self.fresh };
        queue.push_back(train);
        let mut ready: usize = self.ready.iter().map(Train::cost).sum();
        while self.bytes - ready > HELD_MOST {
            let longest = self.contested.pop_front().or_else(|| self.fresh.pop_front());
            let Some(longest) = longest else { break };
            ready += longest.cost();
            self.ready.push_back(longest);
        }
    }

    /// What is for this id waits no longer.
    pub(super) fn hurry(&mut self, id: Id) {
        for queue in [&mut self.contested, &mut self.fresh] {
            if queue.iter().all(|train| train.id != id) {
                continue;
            }
            let (here, elsewhere): (VecDeque<_>, _) =
                std::mem::take(queue).into_iter().partition(|train| train.id == id);
            *queue = elsewhere;
            self.ready.extend(here);
        }
    }

    /// Whether something waits no longer.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Some(train) = self.ready.front() {
            return Some(train.since);
        }
        let fresh = self.fresh.front().map(|train| train.since + TURN);
        let contested = self.contested.front().map(|train| train.since + CONTESTED);
        fresh.into_iter().chain(contested).min()
    }

    /// What is due. A train of which `goes_on` says that the address before goes on sending waits for longer.
    pub(super) fn next(&mut self, now: Instant, goes_on: impl Fn(&Train) -> bool) -> Option<Train> {
        loop {
            let is_over = |train: &mut Train| train.since + CONTESTED <= now;
            let waited = self.ready.pop_front().or_else(|| self.contested.pop_front_if(is_over));
            let train = match waited {
                Some(train) => train,
                None => {
                    let train = self.fresh.pop_front_if(|train| train.since + TURN <= now)?;
                    if goes_on(&train) {
                        let later = self.contested.partition_point(|it| it.since <= train.since);
                        self.contested.insert(later, train);
                        continue;
                    }
                    train
                }
            };
            self.bytes -= train.cost();
            return Some(train);
        }
    }

    /// Bytes of all that is held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Train {
    /// What it takes of [`HELD_MOST`].
    pub(super) fn cost(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// What an address has time for to be heard. All that a change of address costs more than before; and what a stranger may be
/// ahead of a path on which nothing else is under way.
pub(super) const TURN: Duration = Duration::from_millis(25);
/// What a stranger may be ahead of a path whose queues are full.
pub(super) const CONTESTED: Duration = Duration::from_millis(200);
/// Bytes of all that is held: what 160 Mbit/s bring in [`CONTESTED`].
pub(super) const HELD_MOST: usize = 4 << 20;
