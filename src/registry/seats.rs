//! Who is connected to the control socket, and who goes when somebody else wants to come in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::AbortHandle;

/// The connected clients, at most [`Seats::MAX`].
#[derive(Default)]
pub(super) struct Seats {
    taken: Vec<(Seat, AbortHandle)>,
    clock: Arc<AtomicU64>,
}

/// One client's place; its task says when it is used.
#[derive(Clone)]
pub(super) struct Seat {
    used: Arc<Use>,
    clock: Arc<AtomicU64>,
}

#[derive(Default)]
struct Use {
    /// An answer is being worked on.
    busy: AtomicBool,
    /// A reading of the clock, which every connect and every request of any client moves on.
    last: AtomicU64,
}

impl Seats {
    /// Clients at a time [CTL-18]: far more than people at terminals, far fewer than a process has descriptors.
    const MAX: usize = 64;

    /// A place for one more. At the limit the client that asked least recently and does not wait for an answer
    /// is cut off; `None` when all wait.
    pub(super) fn make_room(&mut self) -> Option<Seat> {
        self.taken.retain(|(_, task)| !task.is_finished());
        if self.taken.len() >= Self::MAX {
            let idle = self.taken.iter().enumerate().filter(|(_, (seat, _))| !seat.is_busy());
            let (at, _) =
                idle.min_by_key(|(_, (seat, _))| seat.used.last.load(Ordering::Relaxed))?;
            self.taken.swap_remove(at).1.abort();
        }
        let seat = Seat { used: Arc::default(), clock: Arc::clone(&self.clock) };
        seat.touch();
        Some(seat)
    }

    /// Gives the place to a task.
    pub(super) fn take(&mut self, seat: Seat, task: AbortHandle) {
        self.taken.push((seat, task));
    }
}

impl Seat {
    /// The client asks.
    pub(super) fn touch(&self) {
        self.used.last.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The client waits for an answer, or does no longer.
    pub(super) fn set_busy(&self, busy: bool) {
        self.used.busy.store(busy, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.used.busy.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    /// [CTL-18]
    #[tokio::test]
    async fn room_is_made_by_who_asked_least_recently_and_does_not_wait() {
        let mut tasks = JoinSet::new();
        let mut seats = Seats::default();
        for number in 0..Seats::MAX {
            let seat = seats.make_room().expect("room");
            seat.set_busy(number != 1 && number != 2);
            seats.take(seat, tasks.spawn(std::future::pending::<()>()));
        }
        seats.taken[1].0.touch();
        let (asked_last, asked_before) = (seats.taken[1].1.id(), seats.taken[2].1.id());
        for expected in [asked_before, asked_last] {
            let seat = seats.make_room().expect("room");
            let gone = tasks.join_next().await.expect("one").expect_err("cut off");
            assert!(gone.is_cancelled() && gone.id() == expected);
            seat.set_busy(true);
            seats.take(seat, tasks.spawn(std::future::pending::<()>()));
        }
        assert!(seats.make_room().is_none(), "who waits for an answer is not cut off");
        tasks.shutdown().await;
        assert!(seats.make_room().is_some(), "who is gone takes no place");
    }
}
