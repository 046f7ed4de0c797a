//! A flow and the connections that carry it, one after the other. [FLW-15]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use super::Flows;
use super::flow::{Flow, FlowRules};
use super::spill::Spill;
use super::table::Aging;
use crate::wire::{Code, FlowOpen};

/// Where the packets of a flow travel.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) flows: Flows,
    /// The flow's number there.
    pub(super) id: u64,
    pub(super) rules: FlowRules,
    spill: OnceLock<Spill>,
}

impl Home {
    pub(super) fn new(flows: &Flows, id: u64, rules: FlowRules) -> Self {
        Self { flows: flows.clone(), id, rules, spill: OnceLock::new() }
    }

    /// The way of large packets.
    pub(super) fn spill(&self) -> &Spill {
        self.spill.get_or_init(|| Spill::start(self.flows.clone(), self.id))
    }
}

/// Whether a connection carries a flow.
#[derive(Debug)]
pub(super) struct Life(AtomicU8);

impl Life {
    const OPEN: u8 = 0;
    /// Its connection was lost; the next one of the session may carry it.
    const PARTED: u8 = 1;
    const OVER: u8 = 2;

    pub(super) fn new(is_open: bool) -> Self {
        Self(AtomicU8::new(if is_open { Self::OPEN } else { Self::PARTED }))
    }

    /// False when it was over already.
    pub(super) fn ends(&self) -> bool {
        self.0.swap(Self::OVER, Ordering::AcqRel) != Self::OVER
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::OVER
    }

    fn is_parted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::PARTED
    }

    fn turns(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl Flow {
    /// Whether it waits for a connection.
    pub(super) fn is_parted(&self) -> bool {
        self.life.is_parted()
    }

    /// Whether another connection may carry it when its own is lost.
    pub(super) fn lasts(&self) -> bool {
        self.identity.token != 0 && self.identity.session.outlives()
    }

    /// Its connection is no more.
    pub(super) fn parts(&self) {
        self.life.turns(Life::OPEN, Life::PARTED);
    }

    /// A connection carries it from here on; false when that is not what it waits for.
    pub(super) fn moves_to(&self, flows: &Flows, id: u64, rules: FlowRules) -> bool {
        let before = self.home.swap(Some(Arc::new(Home::new(flows, id, rules))));
        let moves = self.life.turns(Life::PARTED, Life::OPEN);
        if !moves {
            self.home.store(before);
        }
        moves
    }

    /// Whether the connection of `flows` may carry it.
    pub(super) fn is_of(&self, flows: &Flows) -> bool {
        !flows.is_over() && self.identity.session == flows.session().past()
    }

    /// Whether nobody need wait for its next connection any more.
    pub(super) fn is_given_up(self: &Arc<Self>, now: u64, is_draining: bool) -> bool {
        let idle = self.home.load().as_ref().and_then(|home| home.rules.idle);
        let is_idle = idle.is_some_and(|idle| now.saturating_sub(self.used_at()) >= idle);
        let is_killed = self.stop().is_cancelled();
        let is_waited_for = !is_killed && !is_idle && self.identity.session.outlives();
        self.is_parted() && (is_draining || !is_waited_for)
    }

    /// Ends it, and tells the peer where there is one to be told. [FLW-10]
    pub(super) fn close(&self, code: Code, message: &str) {
        if !self.is_parted()
            && let Some(home) = &*self.home.load()
        {
            home.flows.close(home.id, code, message);
        }
        self.end();
    }

    /// What opens it at the peer; without a packet.
    pub(super) fn opening(&self, id: u64, tunnel: u32) -> FlowOpen {
        let [visitor, visited] = match self.identity.introduced.as_deref() {
            Some((visitor, visited)) => [visitor, visited].map(SocketAddr::to_string),
            None => Default::default(),
        };
        let token = self.identity.token;
        FlowOpen { flow: id, tunnel, visitor, visited, payload: None, token }
    }
}
