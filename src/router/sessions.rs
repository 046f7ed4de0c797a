//! Who is in right now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::log_budget::LogBudget;
use crate::policy::Permissions;
use crate::session::{REFUSAL, Session};
use crate::store::ClientRow;
use crate::tunnel::{Identity, Name};
use crate::wire::Code;

/// The sessions of a router; a clone is another handle to the same table.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    sessions: HashMap<u64, Present>,
    /// Keys that were revoked while that could not be written down; out until the router ends.
    banned: HashSet<Identity>,
}

/// One client that is in.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) name: Name,
    pub(super) identity: Identity,
    pub(super) instance: Uuid,
    pub(super) since: SystemTime,
    pub(super) session: Session,
    /// The token that it was admitted with, where one was needed.
    token: Option<[u8; 8]>,
    permissions: Arc<ArcSwap<Permissions>>,
    log: Arc<LogBudget>,
}

/// Keeps a session in the table while it lives.
#[derive(Debug)]
pub(super) struct Seat {
    sessions: Sessions,
    number: u64,
    permissions: Arc<ArcSwap<Permissions>>,
    /// What this key may make the router log, in all its sessions together.
    pub(super) log: Arc<LogBudget>,
}

impl Seat {
    /// What the client may do at this moment.
    pub(super) fn permissions(&self) -> Arc<Permissions> {
        self.permissions.load_full()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sessions.lock().sessions.remove(&self.number);
    }
}

impl Sessions {
    pub(super) fn enter(
        &self,
        session: &Session,
        client: &ClientRow,
        instance: Uuid,
        token: Option<[u8; 8]>,
    ) -> Seat {
        let permissions = Arc::new(ArcSwap::from_pointee(client.permissions.clone()));
        let mut table = self.lock();
        let other = table.sessions.values().find(|present| present.identity == client.identity);
        let log = other.map(|present| Arc::clone(&present.log)).unwrap_or_default();
        table.next += 1;
        let number = table.next;
        let present = Present {
            name: client.name.clone(),
            identity: client.identity,
            instance,
            since: SystemTime::now(),
            session: session.clone(),
            token,
            permissions: Arc::clone(&permissions),
            log: Arc::clone(&log),
        };
        table.sessions.insert(number, present);
        Seat { sessions: self.clone(), number, permissions, log }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Those that are in, in the order of their coming.
    pub(super) fn present(&self) -> Vec<Present> {
        let table = self.lock();
        let mut present: Vec<_> = table.sessions.iter().collect();
        present.sort_by_key(|(number, _)| **number);
        present.into_iter().map(|(_, present)| present.clone()).collect()
    }

    pub(super) fn all(&self) -> Vec<Session> {
        self.lock().sessions.values().map(|present| present.session.clone()).collect()
    }

    pub(super) fn is_in(&self, identity: Identity) -> bool {
        self.lock().sessions.values().any(|present| present.identity == identity)
    }

    /// How many sessions a key has.
    pub(super) fn of(&self, identity: Identity) -> usize {
        self.lock().sessions.values().filter(|present| present.identity == identity).count()
    }

    /// The key of a client that is in.
    pub(super) fn identity_of(&self, name: &Name) -> Option<Identity> {
        let table = self.lock();
        let folded = name.folded();
        table.sessions.values().find(|p| p.name.folded() == folded).map(|p| p.identity)
    }

    /// Ends every session of a key; how many. [SES-34]
    pub(super) fn expel(&self, identity: Identity) -> usize {
        self.end(|present| present.identity == identity)
    }

    /// Ends every session that was admitted with a token; how many. [SES-34]
    pub(super) fn expel_token(&self, token: [u8; 8]) -> usize {
        self.end(|present| present.token == Some(token))
    }

    fn end(&self, is_meant: impl Fn(&Present) -> bool) -> usize {
        let table = self.lock();
        let meant = table.sessions.values().filter(|present| is_meant(present));
        meant.map(|present| present.session.close(Code::Refused, REFUSAL)).count()
    }

    /// Keeps a key out whatever the store says, until the router ends or [`Sessions::unban`].
    pub(super) fn ban(&self, identity: Identity) {
        self.lock().banned.insert(identity);
    }

    pub(super) fn unban(&self, identity: Identity) {
        self.lock().banned.remove(&identity);
    }

    pub(super) fn is_banned(&self, identity: Identity) -> bool {
        self.lock().banned.contains(&identity)
    }

    /// New permissions hold from the next stream on. [SES-34]
    pub(super) fn permit(&self, identity: Identity, permissions: &Permissions) {
        let table = self.lock();
        for present in table.sessions.values().filter(|present| present.identity == identity) {
            present.permissions.store(Arc::new(permissions.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
