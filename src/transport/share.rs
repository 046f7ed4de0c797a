//! What whoever uses a connection tells its controller.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::tunnel::Priority;

/// A connection's priority. The controller that decides how fast to send reads it at every turn, and it may change
/// while the connection lives: a router hears of it after the handshake, when the client declares its tunnel. Besides,
/// whether one packet may pass whatever the controller thinks.
#[derive(Debug)]
pub struct ShareCell {
    priority: AtomicU8,
    one_through: AtomicBool,
}

impl ShareCell {
    /// A cell that holds `priority`.
    pub fn new(priority: Priority) -> Self {
        Self { priority: AtomicU8::new(priority as u8), one_through: AtomicBool::new(false) }
    }

    /// The priority right now.
    pub fn get(&self) -> Priority {
        let held = self.priority.load(Ordering::Relaxed);
        let known = [Priority::Interactive, Priority::Normal, Priority::Bulk];
        known.into_iter().find(|priority| *priority as u8 == held).unwrap_or_default()
    }

    /// From now on it is `priority`.
    pub fn set(&self, priority: Priority) {
        self.priority.store(priority as u8, Ordering::Relaxed);
    }

    /// The next packet leaves however much is in flight.
    pub fn let_one_through(&self) {
        self.one_through.store(true, Ordering::Relaxed);
    }

    /// Whether there is such a packet to come.
    pub(super) fn lets_one_through(&self) -> bool {
        self.one_through.load(Ordering::Relaxed)
    }

    /// A packet has left.
    pub(super) fn sent(&self) {
        if self.lets_one_through() {
            self.one_through.store(false, Ordering::Relaxed);
        }
    }
}

impl Default for ShareCell {
    fn default() -> Self {
        Self::new(Priority::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_what_is_read() {
        let cell = ShareCell::default();
        assert_eq!(cell.get(), Priority::Normal);
        for word in Priority::WORDS {
            let priority = word.parse().expect(word);
            cell.set(priority);
            assert_eq!(cell.get(), priority);
        }
    }
}
