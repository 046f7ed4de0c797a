//! The flows of a process by their sessions, across the connections that carry those. [FLW-15]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::flow::{Flow, FlowIdentity};
use super::front::Senders;
use super::table::Aging;
use super::{Flows, Inner, lock};
use crate::session::Past;

/// All of them.
#[derive(Debug, Default)]
pub(in crate::relay) struct Lineages {
    sessions: Mutex<HashMap<Past, Lineage>>,
    /// Where flows of this end wait: with their senders.
    fronts: Mutex<Vec<Weak<Mutex<Senders>>>>,
    /// A flow has lost its connection, or there is another one.
    changed: Notify,
}

/// Those of one session.
#[derive(Debug, Default)]
struct Lineage {
    /// Of the connection that carries it now.
    flows: Weak<Inner>,
    /// Flows of the peer that wait to be opened again, by their tokens.
    waiting: HashMap<u64, Arc<Flow>>,
}

impl Lineages {
    /// Another connection carries the session of `flows`: those of the one before part from it now, whether or not it has
    /// been noticed that it is over.
    pub(super) fn succeed(&self, flows: &Flows) {
        let past = flows.session().past();
        let before = {
            let mut sessions = lock(&self.sessions);
            let lineage = sessions.entry(past).or_default();
            std::mem::replace(&mut lineage.flows, Arc::downgrade(&flows.0)).upgrade()
        };
        if let Some(before) = before {
            Flows(before).part();
        }
    }

    /// Keeps a flow of the peer until that opens it again.
    pub(super) fn keep(&self, flow: Arc<Flow>) {
        let identity = &flow.identity;
        let mut sessions = lock(&self.sessions);
        let lineage = sessions.entry(identity.session.clone()).or_default();
        // Under the lock: a session that is over by now is forgotten after this, or has been.
        let earlier = if identity.session.outlives() && lineage.waiting.len() < WAITING_MOST {
            lineage.waiting.insert(identity.token, Arc::clone(&flow))
        } else {
            Some(flow)
        };
        drop(sessions);
        if let Some(earlier) = earlier {
            earlier.end();
        }
    }

    /// A flow that the peer opens again, unless it has ended meanwhile.
    pub(super) fn take(&self, session: &Past, token: u64) -> Option<Arc<Flow>> {
        let flow = lock(&self.sessions).get_mut(session)?.waiting.remove(&token)?;
        Some(flow).filter(|flow| !flow.is_over())
    }

    /// A flow is over: nobody waits for it any more.
    pub(super) fn leave(&self, flow: &Arc<Flow>) {
        let FlowIdentity { session, token, .. } = &flow.identity;
        let mut sessions = lock(&self.sessions);
        let waiting = sessions.get_mut(session).map(|lineage| &mut lineage.waiting);
        // Another one may have the same token, if its opener keeps to no rule.
        if let Some(waiting) = waiting
            && waiting.get(token).is_some_and(|it| Arc::ptr_eq(it, flow))
        {
            waiting.remove(token);
        }
    }

    /// Ends what was left to the connection of `flows` and what it has not carried on by now. What is left by that one
    /// itself is the next one's.
    pub(super) fn settle(&self, flows: &Flows) {
        let ended = {
            let mut sessions = lock(&self.sessions);
            let Some(lineage) = sessions.get_mut(&flows.session().past()) else { return };
            let is_current = lineage.flows.as_ptr() == Arc::as_ptr(&flows.0);
            if !is_current || flows.is_over() {
                return;
            }
            std::mem::take(&mut lineage.waiting)
        };
        ended.values().for_each(|flow| flow.end());
    }

    /// Nothing of a session is waited for any more.
    pub(super) fn forget(&self, session: &Past) {
        let ended = lock(&self.sessions).remove(session);
        ended.iter().flat_map(|lineage| lineage.waiting.values()).for_each(|flow| flow.end());
    }

    /// Flows of this end wait there from now on.
    pub(super) fn has_front(&self, senders: &Arc<Mutex<Senders>>) {
        let mut fronts = lock(&self.fronts);
        fronts.retain(|front| front.strong_count() > 0);
        fronts.push(Arc::downgrade(senders));
    }

    /// Every connection's flows part from it: all that wait from now on for another one.
    #[cfg(unix)]
    pub(super) fn part_all(&self) -> Vec<Arc<Flow>> {
        let carried: Vec<_> =
            lock(&self.sessions).values().filter_map(|lineage| lineage.flows.upgrade()).collect();
        for inner in carried {
            Flows(inner).part();
        }
        let mut parted = Vec::new();
        for lineage in lock(&self.sessions).values_mut() {
            parted.extend(lineage.waiting.drain().map(|(_, flow)| flow));
        }
        for front in lock(&self.fronts).iter().filter_map(Weak::upgrade) {
            parted.extend(lock(&front).flows().filter(|flow| flow.is_parted()).cloned());
        }
        parted
    }

    /// Whoever has flows without a connection looks for one.
    pub(super) fn announce(&self) {
        self.changed.notify_waiters();
    }

    /// Waits for that. Cancel-safe; what happened before is not told.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Flows of one session that wait, at most: as many as a tunnel may have.
const WAITING_MOST: usize = 16_384;
