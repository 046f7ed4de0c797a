//! Datagrams of a session: how large one may be, and how many may wait.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Ended, OpenError, Session};
use crate::transport::{self, DATAGRAM_OVERHEAD, DATAGRAM_QUEUE};

/// A datagram was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendDatagramError {
    /// It is larger than the path carries, or than it carried a moment ago.
    #[error("the path carries no datagram of that size")]
    TooLarge,
    /// As many wait as may.
    #[error("as many datagrams wait for the path as may")]
    QueueFull,
    /// The session is gone, or the peer takes no datagrams.
    #[error("the session carries no datagrams")]
    Lost,
}

/// What a few datagrams that are sent one after the other may take: asked of the path once and not for each.
#[derive(Debug, Default)]
pub struct DatagramRoom {
    /// Whose it is: the address of a session's state.
    session: usize,
    left: usize,
    largest: usize,
}

/// What is known of the path, so that it need not be asked for every packet.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Bytes of the largest datagram; 0: not known, or none are taken.
    largest: AtomicUsize,
    /// Bytes that may wait.
    queue: AtomicUsize,
    /// Of the last look, milliseconds since the first.
    looked: AtomicU64,
    began: OnceLock<Instant>,
}

impl Session {
    /// Bytes of the largest datagram that the path carries; 0 when the peer takes none. Cached: asked for again every
    /// 50 ms, and when one was too large. [FLW-4]
    pub fn datagram_limit(&self, room: &mut DatagramRoom) -> usize {
        self.enter(room);
        room.largest
    }

    /// Queues a datagram. What waits is worth two round trips and 10 ms at most: later it would be
    /// of no use to anybody. [FLW-5]
    pub fn send_datagram(
        &self,
        datagram: Bytes,
        room: &mut DatagramRoom,
    ) -> Result<(), SendDatagramError> {
        self.enter(room);
        let cost = datagram.len() + DATAGRAM_OVERHEAD;
        if room.left < cost {
            room.left = self.room_now();
            if room.left < cost {
                return Err(SendDatagramError::QueueFull);
            }
        }
        let length = datagram.len() as u64;
        match self.0.connection.send_datagram(datagram) {
            Ok(()) => {
                self.0.ledger.sent_datagram(length);
                room.left -= cost;
                Ok(())
            }
            Err(transport::SendDatagramError::TooLarge) => {
                self.look_at_path(true);
                room.largest = self.0.datagrams.largest.load(Ordering::Relaxed);
                Err(SendDatagramError::TooLarge)
            }
            Err(_) => Err(SendDatagramError::Lost),
        }
    }

    /// Appends the datagrams that have come, at most `most`; waits for the first. Cancel-safe.
    pub async fn datagrams(&self, most: usize, into: &mut Vec<Bytes>) -> Result<(), OpenError> {
        Ok(self.0.connection.datagrams(most, into).await?)
    }

    /// Why the session carries nothing any more, when it does not.
    pub fn end(&self) -> Option<Ended> {
        self.0.connection.close_reason().map(|reason| Ended::from(&reason))
    }

    fn enter(&self, room: &mut DatagramRoom) {
        let session = Arc::as_ptr(&self.0).addr();
        if room.session != session {
            self.look_at_path(false);
            let largest = self.0.datagrams.largest.load(Ordering::Relaxed);
            *room = DatagramRoom { session, left: 0, largest };
        }
    }

    fn look_at_path(&self, again: bool) {
        let limits = &self.0.datagrams;
        let now = limits.began.get_or_init(Instant::now).elapsed().as_millis() as u64;
        let is_known = limits.largest.load(Ordering::Relaxed) > 0;
        let since = now.saturating_sub(limits.looked.load(Ordering::Relaxed));
        if is_known && !again && since < LOOK_EVERY.as_millis() as u64 {
            return;
        }
        limits.looked.store(now, Ordering::Relaxed);
        let connection = &self.0.connection;
        limits.largest.store(connection.datagram_limit().unwrap_or(0), Ordering::Relaxed);
        let path = connection.path();
        let in_flight = usize::try_from(path.congestion_window).unwrap_or(usize::MAX);
        let round_trips = 2.0 + STALL.as_secs_f64() / path.rtt.as_secs_f64().max(1e-6);
        let queue = (in_flight as f64 * round_trips) as usize;
        limits.queue.store(queue.clamp(QUEUE_LEAST, DATAGRAM_QUEUE), Ordering::Relaxed);
    }

    fn room_now(&self) -> usize {
        self.look_at_path(false);
        let allowed = self.0.datagrams.queue.load(Ordering::Relaxed);
        let waiting = DATAGRAM_QUEUE.saturating_sub(self.0.connection.datagram_room());
        allowed.saturating_sub(waiting)
    }
}

/// How often the path is looked at: a changed MTU or window is obeyed within a few round trips.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a sender sends while this process waits for a busy processor, besides what the path makes wait.
const STALL: Duration = Duration::from_millis(10);
/// A burst of a slow path's user, or a millisecond of a fast one.
const QUEUE_LEAST: usize = 128 << 10;
