//! From one process to the next: what a stream has to know to go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::Notify;

use super::super::kept::Kept;
use super::{Carriage, ENDED, FROZEN, Kind, Passage, Strand};
use crate::wire::{Code, StreamHeader, handover};

impl Strand {
    /// A stream that another process has left, of a session that connection number `generation` has carried. `None`: what
    /// was left contradicts itself.
    pub(in crate::session) fn taken_up(left: &handover::Stream, generation: u32) -> Option<Self> {
        let payload = left.sent.checked_sub(left.finished.into())?;
        // The end counts as delivered, and is no byte.
        let mut kept = Kept::from(left.delivered.min(payload));
        // A copy: what was read is one piece, which nobody could let go of before all of it is delivered.
        kept.push(Bytes::copy_from_slice(&left.undelivered));
        let opening = match left.opening.is_empty() {
            true => None,
            false => Some(Box::new(StreamHeader::decode(left.opening.clone()).ok()?)),
        };
        let broken = Code::from_number(left.broken.into());
        let passage = (broken != Code::Done)
            .then(|| Box::new(Passage { broken: Some(broken), ..Passage::default() }));
        let came = left.received | if left.ended { ENDED } else { 0 };
        let is_whole = left.received < ENDED
            && left.taken <= left.received + u64::from(left.ended)
            && left.delivered <= left.sent
            && left.delivered.max(payload) - left.delivered == left.undelivered.len() as u64;
        is_whole.then(|| Self {
            token: left.token,
            kind: Kind { lasts: true, opened_here: left.opened_here },
            sent: left.sent.into(),
            delivered: left.delivered.into(),
            changed: Notify::new(),
            received: came.into(),
            taken: left.taken.into(),
            reported: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            carriage: Mutex::new(Carriage {
                generation,
                kept,
                finished: left.finished,
                opening,
                passage,
            }),
        })
    }

    /// What another process has to know to take it up.
    pub(in crate::session) fn left(&self) -> handover::Stream {
        let carriage = self.lock();
        let delivered = self.delivered.load(Ordering::Acquire);
        let received = self.received.load(Ordering::Acquire);
        let (mut undelivered, mut offset) = (BytesMut::new(), delivered);
        while let Some(bytes) = carriage.kept.after(offset) {
            offset += bytes.len() as u64;
            undelivered.extend_from_slice(&bytes);
        }
        let broken = carriage.passage.as_ref().and_then(|passage| passage.broken);
        handover::Stream {
            token: self.token,
            opened_here: self.kind.opened_here,
            sent: self.sent.load(Ordering::Acquire),
            delivered,
            finished: carriage.finished,
            undelivered: undelivered.freeze(),
            received: received & !(FROZEN | ENDED),
            ended: received & ENDED != 0,
            taken: self.taken.load(Ordering::Relaxed),
            waiting: Bytes::new(),
            opening: carriage
                .opening
                .as_ref()
                .map_or_else(Bytes::new, |header| header.encode_to_vec().into()),
            broken: broken.map_or(0, |code| code.number() as u32),
            end: None,
        }
    }

    /// Whether the direction's end has come.
    pub(in crate::session) fn has_ended(&self) -> bool {
        self.received.load(Ordering::Acquire) & ENDED != 0
    }

    /// Whether the direction's end has come and the socket here has heard of it. [RSM-11]
    pub(in crate::session) fn has_taken_all(&self) -> bool {
        let received = self.received.load(Ordering::Acquire);
        let payload = received & !(FROZEN | ENDED);
        received & ENDED != 0 && self.taken.load(Ordering::Relaxed) > payload
    }
}
