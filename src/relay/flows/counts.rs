//! How many flows each tunnel of a session has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;

use super::lock;

/// Flows by the tunnel's number, those included that are about to be served.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<u32, usize>>);

impl Counts {
    /// One more.
    pub(super) fn add(&self, tunnel: u32) {
        *lock(&self.0).entry(tunnel).or_default() += 1;
    }

    /// One less; nothing is kept of a tunnel without flows.
    pub(super) fn take(&self, tunnel: u32) {
        if let Entry::Occupied(mut count) = lock(&self.0).entry(tunnel) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// How many there are.
    pub(super) fn of(&self, tunnel: u32) -> usize {
        lock(&self.0).get(&tunnel).copied().unwrap_or_default()
    }
}
