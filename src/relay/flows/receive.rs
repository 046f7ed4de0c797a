//! Reads a session's datagrams and hands them to their flows; ends flows whose time is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;

use super::flow::{Flow, now};
use super::reassembly::Reassembly;
use super::table::Aging;
use super::traffic::Loss;
use super::{Flows, lock};
use crate::session::OpenError;
use crate::wire::{Code, Datagram};

/// Reads until the connection ends. Its flows wait for the next one then. [FLW-15]
pub(super) async fn receive(flows: Flows) {
    let over = Parts(flows.clone());
    read(flows.clone()).await;
    drop(over);
    flows.outlive().await;
}

async fn read(flows: Flows) {
    let mut reader = Reader { train: Train::default(), flows, reassembly: Reassembly::default() };
    let mut batch = Vec::new();
    let (mut taken, mut missed) = (0u64, Missed::default());
    while reader.more(&mut batch).await.is_ok() {
        let (now, is_drained) = (now(), batch.len() < BATCH);
        taken += batch.len() as u64;
        for datagram in batch.drain(..) {
            reader.take(datagram, now);
        }
        reader.train.leave(now);
        if is_drained {
            missed.look(&reader.flows, taken, now);
            reader.rest(now);
        } else {
            // Others get their turn: a flood of packets must not hold up what opens and closes flows.
            tokio::task::yield_now().await;
        }
    }
    // What was not whole by now never will be.
    reader.rest(u64::MAX);
}

/// Every second: flows that were silent for too long, were killed, or are in the way of a stop [FLW-10]; and those that
/// wait and should have been opened again by now.
pub(super) async fn sweep(flows: Flows) {
    let began = now();
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (draining, stop) = (&flows.0.scope.draining, &flows.0.scope.stop);
    loop {
        let (was_draining, was_stopped) = (draining.is_cancelled(), stop.is_cancelled());
        tokio::select! {
            _ = tick.tick() => {}
            () = flows.0.table.killed() => {}
            () = draining.cancelled(), if !was_draining => {}
            () = stop.cancelled(), if !was_stopped => {}
            _ = flows.session().closed() => return,
        }
        let (now, draining) = (now(), draining.is_cancelled());
        let open: Vec<_> = flows.open().values().cloned().collect();
        for flow in open {
            let silent = now.saturating_sub(flow.used_at());
            if silent < LOOKED_AT {
                flow.look_at_socket();
            }
            let idle = flow.home.load().as_ref().and_then(|home| home.rules.idle);
            if flow.stop().is_cancelled() {
                flow.close(Code::Killed, "ended by an operator");
            } else if idle.is_some_and(|idle| silent >= idle) || draining && silent >= DRAINED {
                flow.close(Code::Idle, "");
            }
        }
        if draining || now.saturating_sub(began) >= REOPENED_WITHIN {
            flows.0.table.lineages().settle(&flows);
        }
        let given_up = lock(&flows.0.early).sweep(now);
        flows.traffic().count_lost(Loss::UnknownFlow, given_up);
    }
}

/// Flows part from the connection when its reader ends, however that ends: they hold each other otherwise.
struct Parts(Flows);

impl Drop for Parts {
    fn drop(&mut self) {
        self.0.part();
    }
}

struct Reader {
    flows: Flows,
    reassembly: Reassembly,
    train: Train,
}

impl Reader {
    /// Waits for datagrams. While some packet is not whole, no longer than that is waited for: nothing need come any
    /// more, and it is to be given up all the same.
    async fn more(&self, batch: &mut Vec<Bytes>) -> Result<(), OpenError> {
        let datagrams = self.flows.session().datagrams(BATCH, batch);
        match self.reassembly.bytes() {
            0 => datagrams.await,
            _ => tokio::time::timeout(SWEEP, datagrams).await.unwrap_or(Ok(())),
        }
    }

    /// [FLW-1] [FLW-2] [FLW-3]
    fn take(&mut self, datagram: Bytes, now: u64) {
        let traffic = self.flows.traffic();
        match Datagram::decode(datagram) {
            Ok(Datagram::Whole { flow, payload }) => self.packet(flow, payload, now),
            Ok(Datagram::Fragment(piece)) => {
                if !self.flows.knows(piece.flow) {
                    return traffic.count_lost(Loss::UnknownFlow, 1);
                }
                let whole = self.reassembly.take(&piece, now);
                traffic.count_lost(Loss::Incomplete, self.reassembly.take_lost());
                if let Some(packet) = whole {
                    self.packet(piece.flow, packet, now);
                }
            }
            Err(_) => traffic.count_lost(Loss::Malformed, 1),
        }
    }

    fn packet(&mut self, id: u64, packet: Bytes, now: u64) {
        if self.train.takes(id, &packet) {
            return self.train.packets.push(packet);
        }
        self.train.leave(now);
        match self.flows.get(id) {
            Some(flow) => {
                self.train.flow = Some((id, flow));
                self.train.packets.push(packet);
            }
            None => {
                if !lock(&self.flows.0.early).keep(id, &packet, now) {
                    self.flows.traffic().count_lost(Loss::UnknownFlow, 1);
                }
            }
        }
    }

    fn rest(&mut self, now: u64) {
        self.reassembly.sweep(now);
        self.flows.traffic().count_lost(Loss::Incomplete, self.reassembly.take_lost());
    }
}

impl Flows {
    /// Gives up the flows that wait when no other connection comes. The next one knows by when they should be open again.
    async fn outlive(&self) {
        let is_over = tokio::select! {
            biased;
            is_over = self.session().ends_here() => is_over,
            () = self.0.scope.draining.cancelled() => true,
            () = self.0.scope.stop.cancelled() => true,
        };
        if is_over {
            self.0.table.lineages().forget(&self.session().past());
        }
    }

    /// Whether packets of a flow are of use: it is open, or may be in a moment.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.open().contains_key(&id) || lock(&self.0.early).may_come(id)
    }
}

/// Packets of one flow and one size that leave together.
#[derive(Default)]
struct Train {
    /// With the number that its packets come under: the flow itself may have another one by now.
    flow: Option<(u64, Arc<Flow>)>,
    packets: Vec<Bytes>,
    bytes: Vec<u8>,
}

impl Train {
    /// Whether a packet may join: the last one of a train may be shorter, and ends it.
    fn takes(&self, id: u64, packet: &Bytes) -> bool {
        let (Some((number, flow)), Some(first), Some(last)) =
            (&self.flow, self.packets.first(), self.packets.last())
        else {
            return false;
        };
        let size = first.len();
        let fits = last.len() == size && packet.len() <= size && !packet.is_empty();
        *number == id && fits && self.packets.len() < flow.port.train_length(size)
    }

    fn leave(&mut self, now: u64) {
        let Some((_, flow)) = self.flow.take() else { return };
        match self.packets.as_slice() {
            [one] => flow.deliver(one, one.len(), now),
            many => {
                self.bytes.clear();
                many.iter().for_each(|packet| self.bytes.extend_from_slice(packet));
                flow.deliver(&self.bytes, many[0].len(), now);
            }
        }
        self.packets.clear();
    }
}

/// Datagrams that QUIC dropped on its own: what came less what was taken, and what was queued less what left.
#[derive(Default)]
struct Missed {
    looked: u64,
    /// What the last look found: only what the next one confirms is counted, since another thread may be at work.
    found: (u64, u64),
    counted: (u64, u64),
}

impl Missed {
    /// Called when everything that has come was taken.
    fn look(&mut self, flows: &Flows, taken: u64, now: u64) {
        if now.saturating_sub(self.looked) < SWEEP.as_millis() as u64 {
            return;
        }
        self.looked = now;
        let connection = flows.session().connection();
        let pushed = flows.0.pushed.load(Ordering::Relaxed);
        let is_empty = connection.datagram_room() >= connection.datagram_room_most();
        let (sent, came) = connection.datagram_frames();
        let found = (
            came.saturating_sub(taken),
            if is_empty { pushed.saturating_sub(sent) } else { self.counted.1 },
        );
        let traffic = flows.traffic();
        let sure = (found.0.min(self.found.0), found.1.min(self.found.1));
        traffic.count_lost(Loss::Overflow, sure.0.saturating_sub(self.counted.0));
        traffic.count_lost(Loss::TooLarge, sure.1.saturating_sub(self.counted.1));
        self.counted = (self.counted.0.max(sure.0), self.counted.1.max(sure.1));
        self.found = found;
    }
}

/// Datagrams that are taken before others get their turn.
const BATCH: usize = 256;
const SWEEP: Duration = Duration::from_secs(1);
/// Silence after which a flow's socket has nothing new to tell: two sweeps.
const LOOKED_AT: u64 = 2_000;
/// Of a connection, for what the one before has left: who has thousands of flows says so for a while.
const REOPENED_WITHIN: u64 = 10_000;
/// While the process drains, so much silence ends a flow.
const DRAINED: u64 = 1_000;
