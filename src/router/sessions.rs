//! Who is in right now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::log_budget::LogBudget;
use crate::policy::Permissions;
use crate::session::{Past, REFUSAL, Session};
use crate::tunnel::{Identity, Name};
use crate::wire::Code;

/// The sessions of a router; a clone is another handle to the same table.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// How often somebody took or gave a right: what was looked up before the last time may be wrong.
    rulings: u64,
    sessions: HashMap<u64, Present>,
    /// Sessions of the process before whose clients have not come back.
    returning: HashMap<(Identity, Uuid), Returning>,
    /// Keys that were revoked while that could not be written down; out until the router ends.
    banned: HashSet<Identity>,
}

impl Table {
    fn in_now(&self) -> impl Iterator<Item = &Present> {
        self.sessions.values().filter(|present| !present.is_away)
    }
}

/// A client that another process has left, and what it may take up.
#[derive(Clone, Debug)]
pub(super) struct Returning {
    #[cfg_attr(not(unix), allow(dead_code, reason = "nothing is handed over there"))]
    pub(super) client: String,
    pub(super) past: Past,
}

/// Who is let in, and as what.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) identity: Identity,
    pub(super) permissions: Permissions,
    /// The token that it showed, where one was needed.
    pub(super) token: Option<[u8; 8]>,
    /// Whether nobody knew it a moment ago.
    pub(super) is_new: bool,
    /// [`Sessions::rulings`] before it was looked up.
    pub(super) as_of: u64,
}

/// One client that is in, or was.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) name: Name,
    pub(super) identity: Identity,
    pub(super) instance: Uuid,
    pub(super) since: SystemTime,
    pub(super) session: Session,
    /// Whether its connection has ended: it is here for what another one may take up.
    is_away: bool,
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

    /// The connection has ended: the client is in no longer, but may come back for what it left. How many sessions of its
    /// key are away.
    pub(super) fn leave(&self) -> usize {
        let mut table = self.sessions.lock();
        let Some(present) = table.sessions.get_mut(&self.number) else { return 0 };
        present.is_away = true;
        let identity = present.identity;
        let is_same = |present: &&Present| present.is_away && present.identity == identity;
        table.sessions.values().filter(is_same).count()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sessions.lock().sessions.remove(&self.number);
    }
}

impl Sessions {
    pub(super) fn enter(&self, session: &Session, client: &Entry, instance: Uuid) -> Seat {
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
            is_away: false,
            token: client.token,
            permissions: Arc::clone(&permissions),
            log: Arc::clone(&log),
        };
        table.sessions.insert(number, present);
        Seat { sessions: self.clone(), number, permissions, log }
    }

    /// What a key was let in as, and may do now, while it has a session or may come back to one; for when the store cannot
    /// be asked.
    pub(super) fn known(&self, identity: Identity) -> Option<Entry> {
        let table = self.lock();
        if table.banned.contains(&identity) {
            return None;
        }
        let same = table.sessions.iter().filter(|(_, present)| present.identity == identity);
        let (_, last) = same.max_by_key(|(number, _)| **number)?;
        Some(Entry {
            name: last.name.clone(),
            identity,
            permissions: last.permissions.load().as_ref().clone(),
            token: last.token,
            is_new: false,
            as_of: table.rulings,
        })
    }

    /// The session that a process which comes back takes up: its last one. [RSM-4]
    pub(super) fn past(&self, identity: Identity, instance: Uuid) -> Option<Past> {
        let table = self.lock();
        let same = table
            .sessions
            .iter()
            .filter(|(_, present)| (present.identity, present.instance) == (identity, instance));
        let last = same.max_by_key(|(number, _)| **number);
        let returning = || table.returning.get(&(identity, instance));
        last.map(|(_, present)| present.session.past())
            .or_else(|| returning().map(|returning| returning.past.clone()))
    }

    /// A client is expected that another process has left. [UPG-6]
    #[cfg(unix)]
    pub(super) fn expect(&self, identity: Identity, instance: Uuid, returning: Returning) {
        self.lock().returning.insert((identity, instance), returning);
    }

    /// It has come, or will not.
    #[cfg(unix)]
    pub(super) fn expect_no_longer(&self, identity: Identity, instance: Uuid) {
        self.lock().returning.remove(&(identity, instance));
    }

    /// What outlives its connection, of each client: its last session.
    #[cfg(unix)]
    pub(super) fn pasts(&self) -> HashMap<(Identity, Uuid), Returning> {
        let table = self.lock();
        let mut pasts = table.returning.clone();
        let mut sessions: Vec<_> = table.sessions.iter().collect();
        sessions.sort_by_key(|(number, _)| **number);
        for (_, present) in sessions {
            let (client, past) = (present.name.to_string(), present.session.past());
            pasts.insert((present.identity, present.instance), Returning { client, past });
        }
        pasts.retain(|_, returning| returning.past.outlives());
        pasts
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.lock().in_now().count()
    }

    /// Those that are in, in the order of their coming.
    pub(super) fn present(&self) -> Vec<Present> {
        let table = self.lock();
        let mut present: Vec<_> =
            table.sessions.iter().filter(|(_, present)| !present.is_away).collect();
        present.sort_by_key(|(number, _)| **number);
        present.into_iter().map(|(_, present)| present.clone()).collect()
    }

    pub(super) fn all(&self) -> Vec<Session> {
        self.lock().in_now().map(|present| present.session.clone()).collect()
    }

    pub(super) fn is_in(&self, identity: Identity) -> bool {
        self.lock().in_now().any(|present| present.identity == identity)
    }

    /// How many sessions other processes of a key have.
    pub(super) fn of_others(&self, identity: Identity, instance: Uuid) -> usize {
        let is_other =
            |present: &&Present| present.identity == identity && present.instance != instance;
        self.lock().in_now().filter(is_other).count()
    }

    /// The key of a client that is in.
    pub(super) fn identity_of(&self, name: &Name) -> Option<Identity> {
        let table = self.lock();
        let folded = name.folded();
        table.in_now().find(|p| p.name.folded() == folded).map(|p| p.identity)
    }

    /// How often a right was taken or given since the router began.
    pub(super) fn rulings(&self) -> u64 {
        self.lock().rulings
    }

    /// Ends every session of a key; how many. [SES-34]
    pub(super) fn expel(&self, identity: Identity) -> usize {
        self.lock().returning.retain(|(other, _), returning| {
            let stays = *other != identity;
            if !stays {
                returning.past.close();
            }
            stays
        });
        self.end(|present| present.identity == identity)
    }

    /// Ends every session that was admitted with a token; how many. [SES-34]
    pub(super) fn expel_token(&self, token: [u8; 8]) -> usize {
        self.end(|present| present.token == Some(token))
    }

    fn end(&self, is_meant: impl Fn(&Present) -> bool) -> usize {
        let mut table = self.lock();
        table.rulings += 1;
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

    /// Whether any key is kept out by this process alone.
    pub(super) fn has_bans(&self) -> bool {
        !self.lock().banned.is_empty()
    }

    pub(super) fn is_banned(&self, identity: Identity) -> bool {
        self.lock().banned.contains(&identity)
    }

    /// New permissions hold from the next stream on. [SES-34]
    pub(super) fn permit(&self, identity: Identity, permissions: &Permissions) {
        let mut table = self.lock();
        table.rulings += 1;
        for present in table.sessions.values().filter(|present| present.identity == identity) {
            present.permissions.store(Arc::new(permissions.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
