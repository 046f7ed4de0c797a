//! What a connection's share of its path is, as whoever steers the connection sees it right now.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::tunnel::Priority;

/// A connection's priority. The controller that decides how fast to send reads it at every turn, and it may change
/// while the connection lives: a router hears of it after the handshake, when the client declares its tunnel.
#[derive(Debug)]
pub struct ShareCell(AtomicU8);

impl ShareCell {
    /// A cell that holds `priority`.
    pub fn new(priority: Priority) -> Self {
        Self(AtomicU8::new(priority as u8))
    }

    /// The priority right now.
    pub fn get(&self) -> Priority {
        let held = self.0.load(Ordering::Relaxed);
        let known = [Priority::Interactive, Priority::Normal, Priority::Bulk];
        known.into_iter().find(|priority| *priority as u8 == held).unwrap_or_default()
    }

    /// From now on it is `priority`.
    pub fn set(&self, priority: Priority) {
        self.0.store(priority as u8, Ordering::Relaxed);
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
