//! Lets packets gather while they come one way and faster than each of them is worth a wake-up.
//!
//! What network cards do by themselves (interrupt moderation) has to be done here for local sockets: a program that
//! sends 150,000 packets a second wakes this one for every third packet, and waking costs both of them more than a
//! packet does. So a thread that has nothing else to do waits a moment before it looks for packets again. Whatever else
//! the thread serves waits along: a tenth of a millisecond, while such a flood lasts.

use std::cell::RefCell;
use std::time::{Duration, Instant};

thread_local! {
    static GATHER: RefCell<Gather> = RefCell::new(Gather::default());
}

/// Packets came from local sockets of this thread.
pub(super) fn came(packets: usize) {
    GATHER.with_borrow_mut(|gather| gather.came += packets as u64);
}

/// Packets left through local sockets of this thread.
pub(super) fn left(packets: usize) {
    GATHER.with_borrow_mut(|gather| gather.left += packets as u64);
}

/// For a thread that has nothing left to do, before it waits: sleeps for 50 µs when packets are worth it.
pub fn let_packets_gather() {
    // Windows may sleep for a millisecond and more.
    if cfg!(unix) && GATHER.with_borrow_mut(|gather| gather.is_worth_it(Instant::now)) {
        std::thread::sleep(NAP);
    }
}

/// What came and left since `began`.
#[derive(Debug, Default)]
struct Gather {
    began: Option<Instant>,
    came: u64,
    left: u64,
    /// Of `came`, what had come when this was asked last.
    seen: u64,
    /// What the last whole look found.
    is_flood: bool,
}

impl Gather {
    /// Whether packets have come since the last question, and as many as are worth it.
    fn is_worth_it(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.came == self.seen {
            return false;
        }
        let now = now();
        self.seen = self.came;
        let elapsed = now.duration_since(*self.began.get_or_insert(now));
        if elapsed >= LOOK {
            // An answer to each packet: who waits for one sends no more until it has come.
            let is_one_way = self.left < self.came / 4;
            let rate = self.came as f64 / elapsed.as_secs_f64();
            *self =
                Self { began: Some(now), is_flood: is_one_way && rate >= FLOOD, ..Self::default() };
        }
        self.is_flood
    }
}

/// With the system's own slack of as much again, 15 packets of 150,000 a second: two full packets of QUIC on loopback.
const NAP: Duration = Duration::from_micros(50);
/// Packets per second from which on waiting pays.
const FLOOD: f64 = 50_000.0;
/// Longer than the bursts of programs that send by a clock of a millisecond.
const LOOK: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a look after `millis` is followed by a pause.
    fn pauses(came: u64, left: u64, millis: u64) -> bool {
        let began = Instant::now();
        let mut gather = Gather { came: 1, ..Gather::default() };
        assert!(!gather.is_worth_it(|| began), "nothing is known yet");
        gather.came += came;
        gather.left += left;
        gather.is_worth_it(|| began + Duration::from_millis(millis))
    }

    #[test]
    fn many_packets_one_way_are_waited_for() {
        assert!(pauses(200, 0, 2));
        assert!(pauses(200, 40, 2));
    }

    #[test]
    fn few_packets_and_questions_with_answers_are_not() {
        assert!(!pauses(80, 0, 2));
        assert!(!pauses(200, 200, 2));
        assert!(!pauses(200, 0, 1), "not looked long enough");
        assert!(!pauses(10_000, 0, 1_000), "a burst, long ago");
    }

    #[test]
    fn a_pause_without_a_packet_is_not_repeated() {
        let began = Instant::now();
        let mut gather = Gather { came: 1, is_flood: true, ..Gather::default() };
        assert!(gather.is_worth_it(|| began));
        assert!(!gather.is_worth_it(|| began), "nothing came");
        gather.came += 1;
        assert!(gather.is_worth_it(|| began));
    }
}
