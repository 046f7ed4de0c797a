//! The targets' side of UDP: a flow that the peer opens gets a socket of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::flow::{Flow, FlowIdentity, FlowRules, now};
use super::home::Home;
use super::traffic::Loss;
use super::{Flows, lock};
use crate::ends::UdpPort;
use crate::relay::Entry;
use crate::session::DatagramRoom;
use crate::wire::{Code, FlowOpen};

/// A flow that the peer wants served. Dropped, it is not, and the peer is not told.
#[derive(Debug)]
pub struct Opening {
    flows: Flows,
    /// What the peer said; the first packet waits elsewhere.
    pub open: FlowOpen,
}

impl Flows {
    /// The peer opens a flow: to be answered with [`Opening::serve`] or [`Opening::refuse`]. `None` when it breaks the
    /// rules of numbers. The packet that the message brings is kept like those that overtook it: one bound holds for
    /// both. [FLW-6] [FLW-7]
    pub fn announced(&self, mut open: FlowOpen) -> Option<Opening> {
        let mut early = lock(&self.0.early);
        let packet = open.payload.take();
        let announced = early.announced(open.flow, open.tunnel);
        if let Some(packet) = packet
            && !(announced && early.keep_first(open.flow, &packet, now()))
        {
            let loss = if announced { Loss::QueueFull } else { Loss::UnknownFlow };
            self.traffic().count_lost(loss, 1);
        }
        announced.then(|| {
            self.0.counts.add(open.tunnel);
            Opening { flows: self.clone(), open }
        })
    }

    /// A flow that was about to be served will not be: its packets, unless it is open or was given up already.
    pub(super) fn give_up(&self, id: u64) -> Option<Vec<Bytes>> {
        let mut early = lock(&self.0.early);
        let tunnel = early.tunnel_of(id)?;
        let waiting = early.settle(id);
        self.0.settled.notify_waiters();
        self.0.counts.take(tunnel);
        waiting
    }
}

impl Opening {
    /// Whether the tunnel has more flows than that, this one counted in. [FLW-12]
    pub fn exceeds(&self, most: usize) -> bool {
        self.flows.0.counts.of(self.open.tunnel) > most
    }

    /// Says no, and why.
    pub fn refuse(self, code: Code, message: &str) {
        let Some(waiting) = self.flows.give_up(self.open.flow) else { return };
        let loss = match code {
            Code::Denied => Loss::Denied,
            Code::Limit => Loss::TableFull,
            Code::Protocol => Loss::UnknownFlow,
            _ => Loss::Unreachable,
        };
        self.flows.traffic().count_lost(loss, waiting.len() as u64);
        self.flows.say_closed(self.open.flow, code, message);
    }

    /// Serves the flow with a socket that is connected to its target, unless the peer has ended it meanwhile. `name` is
    /// what the target's address was found under, for [`Known::name`]; `entry` shows the flow in lists; `preface` goes in
    /// front of the first packet.
    pub fn serve(
        self,
        rules: FlowRules,
        (port, name): (UdpPort, Option<Box<str>>),
        entry: Entry,
        preface: Option<Box<[u8]>>,
    ) {
        let (flows, id) = (&self.flows, self.open.flow);
        let way = (Arc::new(port), None);
        let identity = FlowIdentity {
            session: flows.session().past(),
            token: self.open.token,
            introduced: None,
            name,
        };
        let home = Some(Home::new(flows, id, rules));
        let table = (flows.0.table.clone(), entry);
        let flow = Arc::new(Flow::new(home, identity, way, table, preface));
        if self.opened(&flow) {
            // Its stop comes with everybody else's.
            self.flows.tasks().spawn("flow", answers(flow));
        }
    }

    /// The flow itself, when an earlier connection has carried it and it waits here. [FLW-15]
    pub fn known(&self) -> Option<Known> {
        let (session, token) = (self.flows.session().past(), self.open.token);
        self.flows.0.table.lineages().take(&session, token).map(Known::new)
    }

    /// Serves a flow with the socket that it has had all the time, unless the peer has ended it meanwhile.
    pub fn carry_on(self, rules: FlowRules, known: Known) {
        let Some(flow) = known.kept() else { return };
        if !flow.moves_to(&self.flows, self.open.flow, rules) {
            return self.refuse(Code::Gone, "the flow has just ended");
        }
        if !self.opened(&flow) {
            flow.end();
        }
    }

    /// From here on it is open; what has come for it is delivered. False when the peer has ended it.
    fn opened(&self, flow: &Arc<Flow>) -> bool {
        let (flows, id) = (&self.flows, self.open.flow);
        let waiting = {
            // Both at once: it is about to be open or is open, and never neither.
            let mut open = flows.open();
            let Some(waiting) = lock(&flows.0.early).settle(id) else { return false };
            open.insert(id, Arc::clone(flow));
            waiting
        };
        flows.0.settled.notify_waiters();
        flows.unless_over(id);
        for packet in waiting {
            flow.deliver(&packet, packet.len(), now());
        }
        true
    }
}

/// A flow that waits for a connection. Dropped without one, it is over.
#[derive(Debug)]
pub struct Known(Option<Arc<Flow>>);

impl Known {
    pub(super) fn new(flow: Arc<Flow>) -> Self {
        Self(Some(flow))
    }

    /// Whom its socket is connected to.
    pub fn target(&self) -> Option<SocketAddr> {
        self.0.as_ref()?.port.peer()
    }

    /// The name that this address was found under.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref()?.identity.name.as_deref()
    }

    /// Somebody else has it now.
    pub(super) fn kept(mut self) -> Option<Arc<Flow>> {
        self.0.take()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(flow) = self.0.take() {
            flow.end();
        }
    }
}

/// Reads a target's packets until the flow is over. There is one of these for each flow: what it holds while it waits
/// is most of what an idle flow costs.
pub(super) async fn answers(flow: Arc<Flow>) {
    let mut stopped = pin!(flow.stop().cancelled());
    loop {
        let mut room = DatagramRoom::default();
        let received = flow.port.receive(|arrived| {
            let now = now();
            arrived.packets().for_each(|packet| flow.send(packet, &mut room, now));
        });
        tokio::select! {
            received = received => if let Err(error) = received {
                flow.failed(&error);
            },
            () = &mut stopped => break,
        }
    }
    flow.look_at_socket();
    // Killed, unless it is over already.
    flow.close(Code::Killed, "ended by an operator");
    flow.table.lineages().leave(&flow);
}
