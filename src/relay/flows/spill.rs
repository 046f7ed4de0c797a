//! Large packets of a flow on a stream: late rather than lost. [FLW-8]

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::Flows;
use super::flow::{Flow, now};
use super::traffic::Loss;
use crate::session::{Receiver, SendDatagramError};
use crate::wire::{Framed, MAX_PACKET, StreamClass, StreamHeader, VERSION, split_frame};

/// The sending side: a queue, and a stream that is opened with the first packet.
#[derive(Debug)]
pub(super) struct Spill(mpsc::Sender<Bytes>);

impl Spill {
    pub(super) fn start(flows: Flows, flow: u64) -> Self {
        let (queue, packets) = mpsc::channel(QUEUE);
        let tasks = flows.tasks().clone();
        tasks.spawn_until_cancelled("large packets", write(flows, flow, packets));
        Self(queue)
    }

    /// Queues a packet: the length in front of it is that of a frame.
    pub(super) fn push(&self, packet: &[u8]) -> Result<(), SendDatagramError> {
        let mut framed = BytesMut::with_capacity(4 + packet.len());
        framed.put_u32(0x8000_0000 | packet.len() as u32);
        framed.extend_from_slice(packet);
        self.0.try_send(framed.freeze()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendDatagramError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendDatagramError::Lost,
        })
    }
}

/// Writes packets until the flow is over. One that does not fit into the stream's window is dropped, not waited for.
async fn write(flows: Flows, flow: u64, mut packets: mpsc::Receiver<Bytes>) {
    let Some(stop) = flows.get(flow).map(|flow| flow.stop().clone()) else { return };
    let header = StreamHeader {
        version: VERSION,
        class: StreamClass::Flow.into(),
        flow,
        ..StreamHeader::default()
    };
    let opened = stop.run_until_cancelled(flows.session().open(header, Bytes::new())).await;
    let Some(Ok((mut sender, _receiver))) = opened else { return };
    while let Some(Some(packet)) = stop.run_until_cancelled(packets.recv()).await {
        if sender.room() < packet.len() {
            flows.traffic().count_lost(Loss::QueueFull, 1);
        } else if sender.send(packet).await.is_err() {
            return;
        }
    }
    sender.finish();
}

/// The receiving side: hands each packet over as it comes, until the stream ends.
pub(super) async fn read(flow: Arc<Flow>, mut receiver: Receiver) {
    let (mut buffer, mut queue, mut taken) = (BytesMut::new(), Default::default(), 0);
    while let Ok(Some(length)) = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)).await {
        for chunk in queue.drain(..) {
            buffer.extend_from_slice(&chunk);
        }
        taken += length as u64;
        receiver.delivered(taken, true);
        loop {
            match split_frame(&mut buffer, MAX_PACKET) {
                Ok(Framed::Whole(packet)) => flow.deliver(&packet, packet.len(), now()),
                Ok(Framed::Partial) => break,
                Err(_) => return flow.traffic().count_lost(Loss::Malformed, 1),
            }
        }
    }
}

/// A megabyte of the largest packets.
const QUEUE: usize = 16;
