//! Which sender has which flow: a bounded table in which the one that was silent for longest gives way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;

/// What the table has to know of a flow. Times are milliseconds of one clock.
pub trait Aging: Clone {
    /// When a packet last passed, in either direction.
    fn used_at(&self) -> u64;
    /// Whether both sides have spoken, and the sender again after an answer.
    fn is_conversation(&self) -> bool;
    /// Whether it carries nothing any more.
    fn is_over(&self) -> bool;
}

/// The flows of one listening socket by their senders. No clock, no I/O.
#[derive(Debug)]
pub struct FlowTable<F> {
    flows: HashMap<SocketAddr, (u64, F)>,
    /// Every flow once, under a time at which it was in use: it may have been used since. The number tells a flow from
    /// an earlier one of the same sender.
    ages: BinaryHeap<Reverse<(u64, u64, SocketAddr)>>,
    next: u64,
}

/// Every flow is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many flows are in use as may")]
pub struct TableFull;

impl<F> Default for FlowTable<F> {
    fn default() -> Self {
        Self { flows: HashMap::new(), ages: BinaryHeap::new(), next: 0 }
    }
}

impl<F: Aging> FlowTable<F> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many flows there are, those included that are over and were not noticed yet.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The flow of a sender, unless it is over.
    pub fn get(&self, sender: &SocketAddr) -> Option<&F> {
        self.flows.get(sender).map(|(_, flow)| flow).filter(|flow| !flow.is_over())
    }

    /// Makes sure that there is room for one more below `capacity`: `None` when there is, or the flow that had to give
    /// way, which is the one that was silent for longest. A conversation may be silent for a while before it must; a
    /// sender that nobody answered, or that had one answer to one question, need not be spared for long. [FLW-12]
    pub fn make_room(&mut self, capacity: usize, now: u64) -> Result<Option<F>, TableFull> {
        if self.flows.len() < capacity {
            return Ok(None);
        }
        // Bounded: each turn either ends here, or takes out of the heap what is put back with a later time.
        let mut spared = Vec::new();
        let found = loop {
            let Some((used_at, number, sender, flow)) = self.pop_oldest() else { break None };
            let silent = now.saturating_sub(used_at);
            let patience = if flow.is_conversation() { CONVERSATION_PATIENCE } else { PATIENCE };
            if flow.is_over() || silent >= patience {
                self.flows.remove(&sender);
                break Some(flow);
            }
            spared.push(Reverse((used_at, number, sender)));
            // The others were used later still.
            if silent < PATIENCE || spared.len() >= SPARED_MOST {
                break None;
            }
        };
        self.ages.extend(spared);
        match found {
            Some(flow) if flow.is_over() => Ok(None),
            Some(flow) => Ok(Some(flow)),
            None => Err(TableFull),
        }
    }

    /// Enters a flow; the caller has made room. A sender's earlier flow is returned, to be ended.
    pub fn insert(&mut self, sender: SocketAddr, flow: F) -> Option<F> {
        self.next += 1;
        self.ages.push(Reverse((flow.used_at(), self.next, sender)));
        self.flows.insert(sender, (self.next, flow)).map(|(_, earlier)| earlier)
    }

    /// All flows, in no order.
    pub fn flows(&self) -> impl Iterator<Item = &F> {
        self.flows.values().map(|(_, flow)| flow)
    }

    /// Takes out every flow that is over.
    pub fn sweep(&mut self) {
        self.flows.retain(|_, (_, flow)| !flow.is_over());
        // Flows that come and go leave entries behind.
        if self.ages.len() > 2 * self.flows.len() + SPARE {
            let entry = |(sender, (number, flow)): (&SocketAddr, &(u64, F))| {
                Reverse((flow.used_at(), *number, *sender))
            };
            self.ages = self.flows.iter().map(entry).collect();
        }
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> Vec<F> {
        self.ages.clear();
        self.flows.drain().map(|(_, (_, flow))| flow).collect()
    }

    /// The flow that was used before all others, out of the heap and still in the map.
    fn pop_oldest(&mut self) -> Option<(u64, u64, SocketAddr, F)> {
        while let Some(Reverse((age, number, sender))) = self.ages.pop() {
            let Some((current, flow)) = self.flows.get(&sender) else { continue };
            if *current != number {
                continue;
            }
            let used_at = flow.used_at();
            if used_at > age && !flow.is_over() {
                self.ages.push(Reverse((used_at, number, sender)));
                continue;
            }
            return Some((used_at, number, sender, flow.clone()));
        }
        None
    }
}

/// Silence after which a sender gives way to another that is no conversation: floods from forged addresses are such,
/// and questions that were answered.
pub const PATIENCE: u64 = 1_000;
/// The same for a conversation: longer than the pauses within most.
pub const CONVERSATION_PATIENCE: u64 = 30_000;
/// Conversations that are looked at for one that was silent for long: what one newcomer may cost.
const SPARED_MOST: usize = 64;
/// Entries of flows that are gone, in a small table.
const SPARE: usize = 64;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Fake(Rc<(Cell<u64>, Cell<bool>, Cell<bool>)>);

    impl Fake {
        fn used(at: u64) -> Self {
            let fake = Self::default();
            fake.0.0.set(at);
            fake
        }
    }

    impl Aging for Fake {
        fn used_at(&self) -> u64 {
            self.0.0.get()
        }
        fn is_conversation(&self) -> bool {
            self.0.1.get()
        }
        fn is_over(&self) -> bool {
            self.0.2.get()
        }
    }

    fn sender(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    fn full(count: u16) -> (FlowTable<Fake>, Vec<Fake>) {
        let mut table = FlowTable::new();
        let flows: Vec<_> = (0..count).map(|at| Fake::used(u64::from(at))).collect();
        for (at, flow) in flows.iter().enumerate() {
            assert!(table.make_room(count.into(), 0).expect("room").is_none());
            assert!(table.insert(sender(at as u16), flow.clone()).is_none());
        }
        (table, flows)
    }

    #[test]
    fn h27_the_one_that_was_silent_for_longest_gives_way() {
        let (mut table, flows) = full(4);
        assert_eq!(table.make_room(4, PATIENCE - 1).err(), Some(TableFull), "all are in use");
        flows[0].0.0.set(2_000);
        flows[1].0.1.set(true);
        let evicted = table.make_room(4, 3_000).expect("room").expect("one gives way");
        assert!(
            Rc::ptr_eq(&evicted.0, &flows[2].0),
            "the first was used since, the second answered"
        );
        assert_eq!(table.len(), 3);
        assert!(table.get(&sender(2)).is_none() && table.get(&sender(1)).is_some());
        table.insert(sender(9), Fake::used(3_000));
        let evicted = table.make_room(4, 3_001).expect("room").expect("one gives way");
        assert!(Rc::ptr_eq(&evicted.0, &flows[3].0));
    }

    #[test]
    fn what_is_over_is_nobody_and_makes_room() {
        let (mut table, flows) = full(2);
        flows[1].0.2.set(true);
        assert!(table.get(&sender(1)).is_none());
        flows[0].0.0.set(50);
        assert!(table.make_room(2, 60).expect("room").is_none(), "nobody had to give way");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn flows_that_come_and_go_leave_nothing_behind() {
        let mut table = FlowTable::new();
        for at in 0..10_000u64 {
            let flow = Fake::used(at);
            table.insert(sender(at as u16), flow.clone());
            flow.0.2.set(true);
            if at % 100 == 0 {
                table.sweep();
                assert!(table.is_empty() && table.ages.len() <= 2 * SPARE + 100);
            }
        }
    }

    #[test]
    fn a_sender_that_comes_again_has_one_flow() {
        let mut table = FlowTable::new();
        assert!(table.insert(sender(1), Fake::used(0)).is_none());
        assert!(table.insert(sender(1), Fake::used(10)).is_some());
        assert_eq!(table.len(), 1);
        let evicted = table.make_room(1, 10_000).expect("room").expect("one gives way");
        assert_eq!(evicted.used_at(), 10);
        assert!(table.is_empty());
        table.insert(sender(1), Fake::used(0));
        assert_eq!(table.drain().len(), 1);
    }
}
