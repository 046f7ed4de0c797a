//! Connections that were stopped for the next process to go on.

#[cfg(unix)]
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::visitor::Guest;
use crate::relay::{Entry, Halted, Live};
#[cfg(unix)]
use crate::{ends, relay::Faces, wire::handover};

/// All of them, and visitors that wait.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    connections: Mutex<Vec<Leaving>>,
    guests: Mutex<Vec<Guest>>,
}

/// One of them.
#[derive(Debug)]
#[cfg_attr(not(unix), allow(dead_code, reason = "nothing is handed over there"))]
pub(super) struct Leaving {
    pub(super) halted: Box<Halted>,
    live: Live,
    about: String,
}

impl Leavings {
    /// Keeps one; `about` says what it is for, in logs.
    pub(super) fn keep(&self, halted: Box<Halted>, entry: &Entry, about: String) {
        if let Some(live) = entry.live() {
            lock(&self.connections).push(Leaving { halted, live, about });
        }
    }

    /// Those that were kept.
    #[cfg(unix)]
    pub(super) fn take(&self) -> Vec<Leaving> {
        std::mem::take(&mut *lock(&self.connections))
    }

    /// Keeps a visitor.
    pub(super) fn keep_guest(&self, guest: Guest) {
        lock(&self.guests).push(guest);
    }

    /// Those that were kept.
    #[cfg(unix)]
    pub(super) fn take_guests(&self) -> Vec<Guest> {
        std::mem::take(&mut *lock(&self.guests))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(unix)]
impl Leaving {
    /// Nobody goes on with it: its socket is reset, and its stream with it.
    pub(super) fn breaks(self) {
        self.halted.socket.reset();
    }

    /// What the next process has to know of it. [UPG-4]
    pub(super) fn left(&self) -> io::Result<handover::Stream> {
        let Self { halted, live, about } = self;
        let (up, down) = live.faces.moved(&live.counters);
        let (sent, received) = if live.faces == Faces::User { (up, down) } else { (down, up) };
        let end = handover::End {
            // Thousands of copies might be more than the process may have.
            socket: ends::leave_open(&halted.socket)?,
            is_unix: halted.socket.is_unix(),
            faces_user: live.faces == Faces::User,
            peer: live.peer.clone(),
            about: about.clone(),
            age_ms: u64::try_from(live.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            sent,
            received,
        };
        Ok(handover::Stream { end: Some(end), ..halted.stream.left() })
    }
}
