//! Which connections run right now, what they have moved, and why others were refused.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::flows::Lineages;
use super::{Counters, Traffic};
use crate::tunnel::Protocol;

/// The connections of one process. A clone is another handle to the same table.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    live: Mutex<HashMap<u64, Live>>,
    opened: AtomicU64,
    /// Bytes of connections that have ended.
    up: AtomicU64,
    down: AtomicU64,
    refused: Mutex<VecDeque<Refused>>,
    refusals: AtomicU64,
    traffic: Traffic,
    lineages: Lineages,
    /// All who wait are told when the last one leaves.
    emptied: Notify,
    /// When those that still run are cut off.
    drains_until: Mutex<Option<Instant>>,
    /// All who wait are told when one is to end.
    killed: Notify,
    /// Whether another process goes on; set under the lock of `live`.
    halted: AtomicBool,
}

/// What the local socket of a connection leads to: which way its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faces {
    /// A user: what the socket reads goes up.
    User,
    /// A target: what the socket reads goes down.
    Target,
}

impl Faces {
    /// Bytes from the user to the target, and back.
    pub fn moved(self, counters: &Counters) -> (u64, u64) {
        let sent = counters.sent.load(Ordering::Relaxed);
        let received = counters.received.load(Ordering::Relaxed);
        match self {
            Self::User => (sent, received),
            Self::Target => (received, sent),
        }
    }
}

/// A connection that runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// Counted from 1 in the order of their coming.
    pub number: u64,
    /// What it carries.
    pub protocol: Protocol,
    /// Which way is up.
    pub faces: Faces,
    /// Who connected: a user's socket address, or a client's name.
    pub peer: String,
    /// When it came.
    pub since: Instant,
    /// What it has moved.
    pub counters: Arc<Counters>,
    stop: CancellationToken,
}

/// A connection that was not served, or broke for a reason worth telling.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The last time.
    pub at: SystemTime,
    /// What was to be dialled.
    pub target: String,
    /// Who asked, where that is known.
    pub client: Option<String>,
    /// Why not.
    pub reason: String,
    /// How often in a row.
    pub count: u64,
    /// Packets that had been sent into sessions and handed to sockets by then, at the last time.
    pub packets: (u64, u64),
}

/// What all connections together have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Running now.
    pub active: u64,
    /// Since the start, those that run included.
    pub opened: u64,
    /// Bytes from users to targets.
    pub up: u64,
    /// Bytes from targets to users.
    pub down: u64,
    /// Connections that were not served.
    pub refusals: u64,
    /// How long those that run may finish, while nobody else is wanted.
    pub drains_for: Option<Duration>,
}

/// Keeps a connection in the table; dropped, its bytes go to the totals.
#[derive(Debug)]
pub struct Entry {
    table: Table,
    number: u64,
    faces: Faces,
    /// What it has moved.
    pub counters: Arc<Counters>,
    /// Cancelled when an operator ends it.
    pub stop: CancellationToken,
}

impl Table {
    /// Counts a connection or a flow in; `stop` ends all of them. Nobody need wait for the `stop` of a flow: who keeps
    /// flows listens to [`Table::killed`].
    pub fn enter(
        &self,
        protocol: Protocol,
        faces: Faces,
        peer: String,
        stop: &CancellationToken,
    ) -> Entry {
        let number = self.0.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let counters = Arc::new(Counters::default());
        let stop = stop.child_token();
        let live = Live {
            number,
            protocol,
            faces,
            peer,
            since: Instant::now(),
            counters: Arc::clone(&counters),
            stop: stop.clone(),
        };
        let mut all = lock(&self.0.live);
        if self.0.halted.load(Ordering::Acquire) {
            // It has come too late for this process.
            counters.halt();
            stop.cancel();
        }
        all.insert(number, live);
        drop(all);
        Entry { table: self.clone(), number, faces, counters, stop }
    }

    /// The connections that run, in the order of their coming.
    pub fn live(&self) -> Vec<Live> {
        let mut live: Vec<_> = lock(&self.0.live).values().cloned().collect();
        live.sort_by_key(|live| live.number);
        live
    }

    /// How many run.
    pub fn active(&self) -> usize {
        lock(&self.0.live).len()
    }

    /// Waits until none runs. Cancel-safe.
    pub async fn drained(&self) {
        loop {
            // Made before the look, so that what happens in between is heard.
            let emptied = self.0.emptied.notified();
            if self.active() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until none runs, at most `limit`: whether none does. [`Table::totals`] says how much of that is left.
    /// Cancel-safe.
    pub async fn drains_within(&self, limit: Duration) -> bool {
        *lock(&self.0.drains_until) = Instant::now().checked_add(limit);
        tokio::time::timeout(limit, self.drained()).await.is_ok()
    }

    /// Ends one; false when there is none of that number.
    pub fn kill(&self, number: u64) -> bool {
        let found = lock(&self.0.live).get(&number).map(|live| live.stop.clone());
        if let Some(stop) = &found {
            stop.cancel();
            self.0.killed.notify_waiters();
        }
        found.is_some()
    }

    /// Stops all of them; what is copied is not ended by that, but kept for another process. [UPG-3]
    pub fn halt(&self) {
        let live = lock(&self.0.live);
        self.0.halted.store(true, Ordering::Release);
        for live in live.values() {
            live.counters.halt();
            live.stop.cancel();
        }
        self.0.killed.notify_waiters();
    }

    /// Waits until one is to end. Cancel-safe; what happened before is not told.
    pub async fn killed(&self) {
        self.0.killed.notified().await;
    }

    /// The packets of all flows.
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    pub(super) fn lineages(&self) -> &Lineages {
        &self.0.lineages
    }

    /// What they have come to.
    pub fn totals(&self) -> Totals {
        let live = lock(&self.0.live);
        let moved: Vec<(u64, u64)> =
            live.values().map(|live| live.faces.moved(&live.counters)).collect();
        let sum = |of: fn(&(u64, u64)) -> u64| moved.iter().map(of).sum::<u64>();
        Totals {
            active: live.len() as u64,
            opened: self.0.opened.load(Ordering::Relaxed),
            up: self.0.up.load(Ordering::Relaxed) + sum(|moved| moved.0),
            down: self.0.down.load(Ordering::Relaxed) + sum(|moved| moved.1),
            refusals: self.0.refusals.load(Ordering::Relaxed),
            drains_for: lock(&self.0.drains_until)
                .map(|until| until.saturating_duration_since(Instant::now())),
        }
    }

    /// Notes a connection that was not served; the same again only counts. True when it is a new reason.
    pub fn refuse(&self, target: &str, client: Option<&str>, reason: &str) -> bool {
        self.0.refusals.fetch_add(1, Ordering::Relaxed);
        let packets = (self.0.traffic.sent(), self.0.traffic.received());
        let mut refused = lock(&self.0.refused);
        let same = |one: &Refused| {
            one.target == target && one.reason == reason && one.client.as_deref() == client
        };
        if let Some(known) = refused.iter_mut().find(|one| same(one)) {
            (known.at, known.packets) = (SystemTime::now(), packets);
            known.count += 1;
            return false;
        }
        refused.truncate(REFUSALS - 1);
        refused.push_front(Refused {
            at: SystemTime::now(),
            target: target.to_owned(),
            client: client.map(str::to_owned),
            reason: reason.to_owned(),
            count: 1,
            packets,
        });
        true
    }

    /// The last reasons, newest first.
    pub fn refused(&self) -> Vec<Refused> {
        lock(&self.0.refused).iter().cloned().collect()
    }
}

impl Entry {
    /// Since when it runs, when that was before it was entered.
    pub fn began(&self, since: Instant) {
        if let Some(live) = lock(&self.table.0.live).get_mut(&self.number) {
            live.since = since;
        }
    }

    /// Whether it was stopped for another process to go on.
    pub fn is_halted(&self) -> bool {
        self.counters.is_halted()
    }

    /// Its row in the table.
    pub fn live(&self) -> Option<Live> {
        lock(&self.table.0.live).get(&self.number).cloned()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut live = lock(&self.table.0.live);
        live.remove(&self.number);
        let inner = &self.table.0;
        if live.is_empty() {
            inner.emptied.notify_waiters();
        }
        let (up, down) = self.faces.moved(&self.counters);
        inner.up.fetch_add(up, Ordering::Relaxed);
        inner.down.fetch_add(down, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a person reads in one look.
const REFUSALS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(table: &Table, peer: &str, stop: &CancellationToken) -> Entry {
        table.enter(Protocol::Tcp, Faces::User, peer.to_owned(), stop)
    }

    #[test]
    fn bytes_of_ended_connections_stay_in_the_totals() {
        let (table, stop) = (Table::default(), CancellationToken::new());
        let one = enter(&table, "a", &stop);
        let two = enter(&table, "b", &stop);
        one.counters.sent.fetch_add(7, Ordering::Relaxed);
        two.counters.received.fetch_add(5, Ordering::Relaxed);
        drop(one);
        let totals = table.totals();
        let expected = Totals { active: 1, opened: 2, up: 7, down: 5, ..Totals::default() };
        assert_eq!(totals, expected);
        assert_eq!(table.live().iter().map(|live| live.number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn one_connection_is_killed_and_the_others_are_not() {
        let (table, stop) = (Table::default(), CancellationToken::new());
        let (one, two) = (enter(&table, "a", &stop), enter(&table, "b", &stop));
        assert!(table.kill(1) && !table.kill(9));
        assert!(one.stop.is_cancelled() && !two.stop.is_cancelled());
    }

    /// [UPG-3]
    #[test]
    fn who_comes_after_the_halt_is_halted_too() {
        let (table, stop) = (Table::default(), CancellationToken::new());
        let before = enter(&table, "a", &stop);
        assert!(!before.is_halted());
        table.halt();
        let after = enter(&table, "b", &stop);
        for entry in [before, after] {
            assert!(entry.is_halted() && entry.stop.is_cancelled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_for_the_last_one_hears_of_it() {
        let (table, stop) = (Table::default(), CancellationToken::new());
        drop(enter(&table, "before", &stop));
        let entry = enter(&table, "last", &stop);
        let waiting = async { tokio::join!(table.drained(), table.drained()) };
        let leaving = async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            drop(entry);
        };
        let both = async { tokio::join!(waiting, leaving) };
        let limit = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(limit, both).await.is_ok(), "somebody still waits");
    }

    #[test]
    fn the_same_refusal_again_only_counts() {
        let table = Table::default();
        assert!(table.refuse("a:1", None, "refused"));
        assert!(!table.refuse("a:1", None, "refused"));
        for n in 0..20 {
            table.refuse(&format!("b:{n}"), Some("ci"), "denied");
        }
        assert_eq!(table.refused().len(), REFUSALS);
        assert_eq!(table.refused()[0].target, "b:19");
        assert_eq!(table.totals().refusals, 22);
    }
}
