//! The users' side of UDP: one listening socket, a flow for each sender.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::time::MissedTickBehavior;

use super::flow::{Flow, FlowRules, now};
use super::opening::Known;
use super::table::FlowTable;
use super::traffic::Loss;
use super::{Flows, Scope, lock};
use crate::ends::{Arrived, UdpPort, Way, canonical, parse_datagram, visited};
use crate::relay::Table;
use crate::session::{DatagramRoom, Past};
use crate::wire::Code;

/// A listening socket and the flows of its senders.
#[derive(Debug)]
pub struct Front {
    port: Arc<UdpPort>,
    senders: Arc<Mutex<Senders>>,
    table: Table,
}

pub(super) type Senders = FlowTable<Arc<Flow>>;

/// Where a new sender's flow goes.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The session's flows.
    pub flows: Flows,
    /// The rules of the tunnel there.
    pub rules: FlowRules,
    /// Flows at one time, at most.
    pub max_flows: usize,
    /// Front ends that say who a visitor is, in a PROXY header in front of a flow's first packet.
    pub trusted: Arc<[IpNet]>,
}

/// A sender without a flow, and what it sent.
struct Newcomer {
    from: SocketAddr,
    to: Option<IpAddr>,
    packet: Bytes,
}

impl Front {
    /// The flows of `port` go to the lists and counters of `table`.
    pub fn new(port: Arc<UdpPort>, table: &Table) -> Self {
        let senders = Arc::default();
        table.lineages().has_front(&senders);
        Self { port, senders, table: table.clone() }
    }

    /// Takes over a flow of another process; it is opened again when its session is back. [UPG-7]
    pub fn adopt(&self, known: Known) {
        let Some(flow) = known.kept() else { return };
        let Some(way) = flow.way else { return flow.end() };
        let earlier = lock(&self.senders).insert(way.to, flow);
        if let Some(earlier) = earlier {
            earlier.end();
        }
    }
}

/// Serves the socket until `scope.stop`, or until nobody is left while it drains; `pick` says where a flow goes, if
/// anywhere: a new sender's, or one of the session that it is given. The flows that are left then end.
pub async fn front(
    front: &Front,
    pick: impl Fn(Option<&Past>) -> Option<Destination>,
    scope: &Scope,
) {
    let mut newcomers = Vec::new();
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut overflowed = front.port.overflowed();
    loop {
        let now = now();
        let mut room = DatagramRoom::default();
        let received = tokio::select! {
            received = front.port.receive(|arrived| {
                front.take(&arrived, &mut newcomers, &mut room, now);
            }) => received,
            () = front.table.lineages().changed() => {
                front.open_again(&pick).await;
                continue;
            }
            _ = tick.tick() => {
                front.sweep(now, scope.draining.is_cancelled());
                front.open_again(&pick).await;
                if scope.draining.is_cancelled() && lock(&front.senders).is_empty() {
                    break;
                }
                let total = front.port.overflowed();
                front.table.traffic().count_lost(Loss::Overflow, total.saturating_sub(overflowed));
                overflowed = total;
                continue;
            }
            () = scope.leaving.cancelled() => {
                scope.stop.cancelled().await;
                break;
            }
            () = scope.stop.cancelled() => break,
        };
        if let Err(error) = received {
            tracing::warn!(local = %front.port.local_addr(), %error, "cannot receive, trying again");
            tokio::time::sleep(PAUSE).await;
        }
        for newcomer in newcomers.drain(..) {
            front.welcome(newcomer, &pick).await;
        }
    }
    let senders = lock(&front.senders).drain();
    for flow in senders {
        flow.close(Code::Done, "");
    }
}

impl Front {
    /// Packets of one sender: sent at once when it has a flow.
    fn take(
        &self,
        arrived: &Arrived<'_>,
        newcomers: &mut Vec<Newcomer>,
        room: &mut DatagramRoom,
        now: u64,
    ) {
        let flow = lock(&self.senders).get(&arrived.from).cloned();
        if let Some(flow) = flow.filter(|flow| !flow.is_parted()) {
            return arrived.packets().for_each(|packet| flow.send(packet, room, now));
        }
        newcomers.extend(arrived.packets().map(|packet| Newcomer {
            from: arrived.from,
            to: arrived.to,
            packet: Bytes::copy_from_slice(packet),
        }));
    }

    /// Opens flows again whose connection was lost, as soon as there is another one. [FLW-15]
    async fn open_again(&self, pick: impl Fn(Option<&Past>) -> Option<Destination>) {
        let parted: Vec<_> = {
            let senders = lock(&self.senders);
            senders.flows().filter(|flow| flow.is_parted()).cloned().collect()
        };
        for flow in &parted {
            if let Some(to) = flow.next_home(&pick)
                && !to.flows.open_again(flow, to.rules).await
            {
                break;
            }
        }
    }

    fn sweep(&self, now: u64, is_draining: bool) {
        let mut senders = lock(&self.senders);
        for flow in senders.flows().filter(|flow| flow.is_given_up(now, is_draining)) {
            flow.end();
        }
        senders.sweep();
    }

    /// Opens a flow for a sender, unless it got one with its packet before this one. [FLW-6] [FLW-12]
    async fn welcome(
        &self,
        newcomer: Newcomer,
        pick: impl Fn(Option<&Past>) -> Option<Destination>,
    ) {
        let (now, traffic) = (now(), self.table.traffic());
        let known = lock(&self.senders).get(&newcomer.from).cloned();
        if let Some(flow) = known.as_ref().filter(|flow| !flow.is_parted()) {
            return flow.send(&newcomer.packet, &mut DatagramRoom::default(), now);
        }
        if let Some(flow) = known
            && let Some(to) = flow.next_home(&pick)
        {
            to.flows.open_again(&flow, to.rules).await;
            return flow.send(&newcomer.packet, &mut DatagramRoom::default(), now);
        }
        let Some(to) = pick(None).filter(|to| !to.flows.is_over()) else {
            return traffic.count_lost(Loss::NoSession, 1);
        };
        let room = lock(&self.senders).make_room(to.max_flows, now);
        match room {
            Ok(Some(evicted)) => evicted.close(Code::Evicted, ""),
            Ok(None) => {}
            Err(_) => return traffic.count_lost(Loss::TableFull, 1),
        }
        let Some((visitor, place, packet)) = self.introduced(&newcomer, &to.trusted) else {
            return traffic.count_lost(Loss::Malformed, 1);
        };
        let (first, rest) =
            if packet.len() <= FIRST_MOST { (Some(packet), None) } else { (None, Some(packet)) };
        let way = Way { to: newcomer.from, from: newcomer.to };
        let opened = to.flows.open_for(to.rules, (&self.port, way), (visitor, place), first);
        match opened.await {
            Ok(flow) => {
                if let Some(packet) = rest {
                    flow.send(&packet, &mut DatagramRoom::default(), now);
                }
                let earlier = lock(&self.senders).insert(newcomer.from, flow);
                if let Some(earlier) = earlier {
                    earlier.close(Code::Done, "");
                }
            }
            Err(loss) => traffic.count_lost(loss, 1),
        }
    }

    /// Who the sender is and where it sent to, and the packet; by the word of a front end that is trusted. `None` when
    /// that word makes no sense. [FLW-14]
    fn introduced(
        &self,
        newcomer: &Newcomer,
        trusted: &[IpNet],
    ) -> Option<(SocketAddr, SocketAddr, Bytes)> {
        let from = canonical(newcomer.from);
        let place = visited(self.port.local_addr(), newcomer.to);
        let packet = newcomer.packet.clone();
        if !trusted.iter().any(|network| network.contains(&from.ip())) {
            return Some((from, place, packet));
        }
        let (named, length) = parse_datagram(&packet).ok()?;
        let (visitor, place) = named.unwrap_or((from, place));
        Some((visitor, place, packet.slice(length..)))
    }
}

impl Flow {
    /// Where it goes on, when its session has a connection.
    fn next_home(
        &self,
        pick: impl Fn(Option<&Past>) -> Option<Destination>,
    ) -> Option<Destination> {
        pick(Some(&self.identity.session)).filter(|to| self.is_of(&to.flows))
    }
}

const SWEEP: Duration = Duration::from_secs(1);
/// After an error that is not about one packet.
const PAUSE: Duration = Duration::from_millis(20);
/// A first packet that leaves room for the rest of its message.
const FIRST_MOST: usize = 60_000;
