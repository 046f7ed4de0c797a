//! A session that one process leaves and the next one takes up. Implements `proto-spec/upgrade.md`.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use super::continuity::Continuity;
use super::ledger::Ledger;
use super::strand::Strand;
use super::{Receiver, Sender, Session, Settings};
use crate::wire::{Code, handover};

/// A session without the connection that carried it: what the next connection of its client carries on. Two are equal when
/// they are of the same session.
#[derive(Clone, Debug)]
pub struct Past(pub(super) Arc<Ledger>);

impl PartialEq for Past {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Past {}

impl Hash for Past {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// A stream whose bytes are not moved any more, and that somebody else goes on with.
#[derive(Debug)]
pub struct Halted {
    sender: Sender,
    receiver: Receiver,
    /// What has come and the socket has not taken.
    waiting: Vec<Bytes>,
}

/// A stream that was taken up.
#[derive(Debug)]
pub struct TakenUp {
    /// The sending direction.
    pub sender: Sender,
    /// The receiving direction.
    pub receiver: Receiver,
    /// Payload that came before and that the socket has yet to take.
    pub waiting: Bytes,
}

impl Session {
    /// What outlives the connection.
    pub fn past(&self) -> Past {
        Past(Arc::clone(&self.0.ledger))
    }
}

impl Halted {
    /// Whatever moved the bytes of these two has stopped.
    pub fn new(sender: Sender, receiver: Receiver, waiting: Vec<Bytes>) -> Self {
        Self { sender, receiver, waiting }
    }

    /// Whether it is a stream of that session, and outlives its connection.
    pub fn is_of(&self, past: &Past) -> bool {
        Arc::ptr_eq(self.sender.ledger(), &past.0) && self.receiver.strand.kind.lasts
    }

    /// What another process has to know to take it up. [UPG-4]
    pub fn left(&self) -> handover::Stream {
        handover::Stream { waiting: self.waiting.concat().into(), ..self.receiver.strand.left() }
    }
}

impl Past {
    /// What another process has left. It waits for its client as long as was agreed. [UPG-6]
    pub fn taken_up(left: &handover::Past, settings: &Settings) -> Self {
        let past = Self(Ledger::waiting(Continuity::taken_up(left), settings));
        for broken in left.streams.iter().filter(|stream| stream.broken != 0) {
            if let Some(strand) = Strand::taken_up(broken, left.generation) {
                past.0.continuity.departs(Arc::new(strand));
            }
        }
        past
    }

    /// One of its streams; `None` when what was left of it contradicts itself, or its token is taken. [UPG-5]
    pub fn take_up(&self, left: &handover::Stream) -> Option<TakenUp> {
        let ledger = &self.0;
        let strand = Strand::taken_up(left, ledger.continuity.generation())?;
        // The end counts one more, once the socket has heard of it.
        if left.received.saturating_sub(left.taken) != left.waiting.len() as u64 {
            return None;
        }
        let strand = ledger.enter_again(strand)?;
        Some(TakenUp {
            sender: Sender::taken_up(ledger, Arc::clone(&strand), left.finished),
            receiver: Receiver::taken_up(ledger, strand, left.waiting.len() as u64),
            // Copied, for the same reason as what is undelivered.
            waiting: Bytes::copy_from_slice(&left.waiting),
        })
    }

    /// A stream that cannot be taken up: its peer, when it waits for this end to go on, hears that it will not. [UPG-5]
    pub fn gives_up(&self, left: &handover::Stream) {
        let (token, broken) = (left.token, Code::Gone.number() as u32);
        let broken = handover::Stream { token, opened_here: true, broken, ..Default::default() };
        let generation = self.0.continuity.generation();
        if let (true, Some(strand)) = (left.opened_here, Strand::taken_up(&broken, generation)) {
            self.0.continuity.departs(Arc::new(strand));
        }
    }

    /// What another process has to know to take it up, with `streams` of it. Streams of this end that are not among them
    /// break: their peers wait for this end to go on. [UPG-4]
    pub fn left(&self, mut streams: Vec<handover::Stream>) -> handover::Past {
        let continuity = &self.0.continuity;
        let go_on: HashSet<u64> = streams.iter().map(|stream| stream.token).collect();
        let lost = self.0.strands().into_iter().filter(|strand| {
            strand.kind.lasts && strand.kind.opened_here && !go_on.contains(&strand.token)
        });
        for strand in lost.chain(continuity.departed()) {
            let mut left = strand.left();
            if left.broken == 0 {
                left.broken = Code::Gone.number() as u32;
            }
            left.undelivered = Bytes::new();
            left.sent = left.delivered + u64::from(left.finished);
            streams.push(left);
        }
        handover::Past {
            generation: continuity.generation(),
            window_ms: continuity.window().as_millis() as u64,
            streams,
            departures: continuity.departures(),
            ..handover::Past::default()
        }
    }

    /// Whether what is open outlives its connection.
    pub fn outlives(&self) -> bool {
        !self.0.continuity.window().is_zero() && !self.0.is_over()
    }

    /// Waits for another connection to carry it on, as long as was agreed; else it is over. [RSM-3]
    pub async fn waits(&self) {
        self.0.waits(self.0.continuity.generation()).await;
    }

    /// It is over, unless a connection carries it.
    pub fn close(&self) {
        self.0.close(self.0.continuity.generation());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left() -> handover::Stream {
        handover::Stream {
            token: 7,
            opened_here: true,
            sent: 10,
            delivered: 6,
            finished: true,
            undelivered: Bytes::from_static(b"abc"),
            received: 5,
            ended: true,
            taken: 3,
            waiting: Bytes::from_static(b"de"),
            ..handover::Stream::default()
        }
    }

    fn past(streams: &[handover::Stream]) -> Past {
        let (generation, window_ms) = (3, 2_000);
        let streams = streams.to_vec();
        let departures = vec![handover::Departure { token: 1, taken: 9, is_complete: true }];
        let left =
            handover::Past { generation, window_ms, streams, departures, ..Default::default() };
        Past::taken_up(&left, &Settings::default())
    }

    /// [UPG-4] [UPG-5]
    #[test]
    fn what_one_process_leaves_the_next_one_leaves_too() {
        let past = past(&[]);
        let TakenUp { sender, receiver, waiting } = past.take_up(&left()).expect("taken up");
        assert!(sender.is_finished() && receiver.has_ended() && !receiver.is_finished());
        let halted = Halted::new(sender, receiver, vec![waiting]);
        assert!(halted.is_of(&past) && !halted.is_of(&self::past(&[])));
        assert_eq!(halted.left(), left());
        let again = past.left(vec![halted.left()]);
        assert_eq!((again.generation, again.window_ms, again.streams.len()), (3, 2_000, 1));
        assert_eq!(again.departures.len(), 1);
    }

    /// [UPG-4]
    #[test]
    fn a_stream_of_this_end_that_cannot_go_on_is_left_as_broken() {
        let past = past(&[]);
        let _stream = past.take_up(&left()).expect("taken up");
        let again = past.left(Vec::new());
        let [broken] = &again.streams[..] else { panic!("{again:?}") };
        assert_eq!((broken.token, broken.broken), (7, Code::Gone.number() as u32));
        assert_eq!(
            self::past(&again.streams).0.continuity.departed().len(),
            1,
            "its peer hears of it"
        );
    }

    /// [UPG-5] [RSM-11]
    #[test]
    fn a_direction_whose_end_was_delivered_has_nothing_to_send_again() {
        let stream = handover::Stream { delivered: 10, undelivered: Bytes::new(), ..left() };
        let past = past(&[]);
        let TakenUp { receiver, .. } = past.take_up(&stream).expect("taken up");
        assert_eq!(receiver.strand.kept_after(9), None);
        assert!(receiver.strand.could_have_received(9));
    }

    /// [UPG-5]
    #[test]
    fn what_contradicts_itself_is_not_taken_up() {
        let wrong: [fn(&mut handover::Stream); 9] = [
            |it| it.sent = 5,
            |it| it.sent = 0,
            |it| it.delivered = u64::MAX,
            |it| it.undelivered = Bytes::from_static(b"ab"),
            |it| it.received = u64::MAX,
            |it| it.received = 2,
            |it| it.taken = 7,
            |it| it.waiting = Bytes::new(),
            |it| it.opening = Bytes::from_static(b"\xff"),
        ];
        for (number, change) in wrong.iter().enumerate() {
            let (past, mut stream) = (past(&[]), left());
            change(&mut stream);
            assert!(past.take_up(&stream).is_none(), "{number}");
            past.gives_up(&stream);
            assert_eq!(past.0.continuity.departed().len(), 1, "its peer hears of it");
        }
        let past = past(&[]);
        let _stream = past.take_up(&left()).expect("taken up");
        assert!(past.take_up(&left()).is_none(), "its token is taken");
    }

    proptest! {
        /// [UPG-5]
        #[test]
        fn no_numbers_make_it_panic(
            numbers in proptest::array::uniform5(prop_oneof![0..20_u64, any::<u64>()]),
            flags in any::<[bool; 3]>(),
            lengths in (0..9_usize, 0..9_usize),
            broken in any::<u32>(),
        ) {
            let [sent, delivered, received, taken, token] = numbers;
            let [opened_here, finished, ended] = flags;
            let (undelivered, waiting) = (vec![0; lengths.0].into(), vec![0; lengths.1].into());
            let stream = handover::Stream {
                token, opened_here, sent, delivered, finished, undelivered, received, ended, taken,
                waiting, broken, ..handover::Stream::default()
            };
            let past = past(std::slice::from_ref(&stream));
            if let Some(TakenUp { sender, receiver, waiting }) = past.take_up(&stream) {
                let again = Halted::new(sender, receiver, vec![waiting]).left();
                prop_assert_eq!((again.sent, again.taken), (sent, taken));
            }
        }
    }
}
