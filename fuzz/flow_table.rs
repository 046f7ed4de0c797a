//! Senders that come, are used, answered, end and make room for others, against a model that looks at all of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use conduit::relay::{Aging, CONVERSATION_PATIENCE, FlowTable, PATIENCE};

/// Four bytes are one step: what, which sender, how many there may be, and how much time passes before.
pub(crate) fn flow_table(data: &[u8]) {
    let mut world = World::default();
    for step in data.as_chunks::<4>().0 {
        world.step(*step);
        world.check();
    }
    world.drain();
}

#[derive(Clone, Default)]
struct Flow(Rc<State>);

#[derive(Default)]
struct State {
    used_at: Cell<u64>,
    is_conversation: Cell<bool>,
    is_over: Cell<bool>,
}

impl Aging for Flow {
    fn used_at(&self) -> u64 {
        self.0.used_at.get()
    }

    fn is_conversation(&self) -> bool {
        self.0.is_conversation.get()
    }

    fn is_over(&self) -> bool {
        self.0.is_over.get()
    }
}

impl Flow {
    fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it gives way to a newcomer.
    fn may_go(&self, now: u64) -> bool {
        let patience = if self.is_conversation() { CONVERSATION_PATIENCE } else { PATIENCE };
        now - self.used_at() >= patience
    }
}

/// The table, and what should be in it.
#[derive(Default)]
struct World {
    table: FlowTable<Flow>,
    now: u64,
    live: BTreeMap<u8, Flow>,
    /// Flows that are over; the table may have noticed.
    over: BTreeMap<u8, Flow>,
}

impl World {
    fn step(&mut self, [what, who, capacity, time]: [u8; 4]) {
        self.now += TIMES[usize::from(time) % TIMES.len()];
        let who = who % SENDERS;
        match what % 16 {
            0..=7 => self.packet(who, 1 + usize::from(capacity % CAPACITIES)),
            8..=10 => self.answered(who),
            11..=13 => self.over(who),
            14 => self.sweep(),
            _ => self.drain(),
        }
    }

    /// A packet of a sender, who may be new.
    fn packet(&mut self, who: u8, capacity: usize) {
        match self.live.get(&who) {
            Some(flow) => flow.0.used_at.set(self.now),
            None => self.newcomer(who, capacity),
        }
    }

    fn newcomer(&mut self, who: u8, capacity: usize) {
        let before = self.table.len();
        match self.table.make_room(capacity, self.now) {
            Ok(None) if before < capacity => assert_eq!(self.table.len(), before),
            Ok(None) => {
                assert_eq!(self.table.len(), before - 1);
                assert!(!self.over.is_empty(), "room out of nothing");
            }
            Ok(Some(flow)) => self.evicted(&flow, before),
            Err(_) => return self.full(before, capacity),
        }
        let flow = Flow::default();
        flow.0.used_at.set(self.now);
        let earlier = self.table.insert(sender(who), flow.clone());
        let over = self.over.remove(&who);
        assert!(
            earlier.is_none_or(|earlier| over.is_some_and(|over| over.is(&earlier))),
            "somebody else's flow was pushed out"
        );
        self.live.insert(who, flow);
        assert!(self.table.len() <= capacity.max(before), "above what may be");
    }

    /// The one that was silent for longest, of those that may go.
    fn evicted(&mut self, flow: &Flow, before: usize) {
        assert_eq!(self.table.len(), before - 1);
        assert!(!flow.is_over() && flow.may_go(self.now), "it was in use");
        let longest = self.live.values().filter(|other| other.may_go(self.now));
        assert_eq!(longest.map(Aging::used_at).min(), Some(flow.used_at()));
        let live = self.live.len();
        self.live.retain(|_, other| !other.is(flow));
        assert_eq!(self.live.len(), live - 1, "a flow that is not there gave way");
    }

    /// Nobody gives way: everybody is in use, or stands behind many conversations that only pause.
    fn full(&self, before: usize, capacity: usize) {
        assert!(self.table.len() == before && before >= capacity && !self.live.is_empty());
        let might_go = self.live.values().filter(|flow| flow.may_go(self.now));
        if let Some(oldest) = might_go.map(Aging::used_at).min() {
            let pausing = self.live.values().filter(|flow| !flow.may_go(self.now));
            let pausing = pausing.filter(|flow| flow.used_at() <= oldest).count();
            assert!(pausing >= SPARED, "{pausing} were spared, and the next might have gone");
        }
    }

    fn answered(&self, who: u8) {
        if let Some(flow) = self.live.get(&who) {
            flow.0.is_conversation.set(true);
            flow.0.used_at.set(self.now);
        }
    }

    fn over(&mut self, who: u8) {
        if let Some(flow) = self.live.remove(&who) {
            flow.0.is_over.set(true);
            self.over.insert(who, flow);
        }
    }

    fn sweep(&mut self) {
        self.table.sweep();
        self.over.clear();
        assert_eq!(self.table.len(), self.live.len());
    }

    fn drain(&mut self) {
        let drained = self.table.drain();
        assert!(self.table.is_empty());
        for flow in std::mem::take(&mut self.live).values() {
            assert_eq!(drained.iter().filter(|other| other.is(flow)).count(), 1, "lost or double");
        }
        assert!(drained.iter().all(|flow| flow.0.used_at.get() <= self.now));
        self.over.clear();
    }

    fn check(&self) {
        for (who, flow) in &self.live {
            let found = self.table.get(&sender(*who));
            assert!(found.is_some_and(|found| found.is(flow)), "a flow was lost");
        }
        assert!(self.over.keys().all(|who| self.table.get(&sender(*who)).is_none()));
        let most = self.live.len() + self.over.len();
        assert!((self.live.len()..=most).contains(&self.table.len()));
    }
}

fn sender(who: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, who], 4_000))
}

/// More than are spared, so that this bound is met too.
const SENDERS: u8 = 80;
const CAPACITIES: u8 = 72;
/// Conversations that a newcomer looks at.
const SPARED: usize = 64;
/// Milliseconds between two steps.
const TIMES: [u64; 8] = [0, 1, 40, 999, 1_000, 5_000, 29_999, 30_000];
