//! Who serves which public port right now, and whose it stays when nobody does.
//!
//! Pure: it binds nothing, tells nobody and reads no clock. What follows from a change is in what the change returns,
//! and the caller does it; `store` remembers the leases across restarts.
//! Implements `proto-spec/reverse.md`, "Publishing a port".

mod lease;
mod route;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

pub use lease::{Holder, Lease};
pub use route::Route;

use crate::tunnel::{Identity, Name};

/// The table of routes. `S` is what visitors are handed to.
///
/// Two overlapping routes never have servers of two identities. Times are Unix seconds.
#[derive(Debug)]
pub struct Routes<S> {
    entries: BTreeMap<Route, Entry<S>>,
    served: HashMap<ServerNumber, Route>,
    last_number: u64,
    memory: u64,
}

/// One server of one route: what [`Routes::claim`] gave it. Never used again in the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerNumber(u64);

/// What a claim changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed<S> {
    /// What the claim is withdrawn by.
    pub number: ServerNumber,
    /// Nobody listens on the route yet: the caller does, and withdraws the claim when it cannot.
    pub is_new: bool,
    /// Routes of the same tunnel that are in the way of this one and lost their last server: the caller closes their
    /// listeners first.
    pub closed: Vec<Route>,
    /// Servers of other instances, to be told that they were replaced.
    pub replaced: Vec<S>,
    /// Servers of the same instance, which has come back: nobody is there to be told.
    pub superseded: Vec<S>,
}

/// Why a route is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another identity has it; whose it is, is nobody's business.
    #[error("{route} is taken")]
    Taken {
        /// What was claimed.
        route: Route,
    },
    /// Another tunnel of the same identity serves it.
    #[error("{route} is published by your tunnel {name} already")]
    Yours {
        /// What was claimed.
        route: Route,
        /// Which tunnel.
        name: Name,
    },
    /// The identity keeps as many routes as one may.
    #[error("this key keeps as many public ports as one may, which is {most}")]
    TooMany {
        /// How many.
        most: usize,
    },
    /// A later process of the same tunnel has taken it over, and is there.
    #[error("{route} was taken over by a later process of the same tunnel")]
    Replaced {
        /// What was claimed.
        route: Route,
    },
}

#[derive(Debug)]
struct Entry<S> {
    holder: Holder,
    /// Whose turn it is stands in front.
    servers: VecDeque<Server<S>>,
    /// Instances that were replaced, the last one at the end: they do not take the route back from who replaced them.
    replaced: VecDeque<Uuid>,
    /// Counts once there is no server.
    released_at: u64,
    /// When the holder's earlier lease was released, if the route was kept for it.
    kept_since: Option<u64>,
}

#[derive(Debug)]
struct Server<S> {
    number: ServerNumber,
    instance: Uuid,
    handle: S,
}

impl<S: Clone> Routes<S> {
    /// An empty table that keeps a route for its holder for `memory` after the last server has gone.
    pub fn new(memory: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            served: HashMap::new(),
            last_number: 0,
            memory: memory.as_secs(),
        }
    }

    /// Enters a server for a route.
    ///
    /// The same tunnel takes its route over from whoever serves it, unless both are of one group; but who was replaced
    /// does not take it back while the other is there, or both would do so for ever. An identity may move its route to
    /// another tunnel while nobody serves it. A claim that is refused changes nothing.
    pub fn claim(
        &mut self,
        route: Route,
        holder: Holder,
        instance: Uuid,
        server: S,
        now: u64,
    ) -> Result<Claimed<S>, ClaimError> {
        let rivals = self.rivals(&route, &holder, instance, now)?;
        if rivals.is_empty() && self.held_by(holder.identity) >= HELD_MOST {
            return Err(ClaimError::TooMany { most: HELD_MOST });
        }
        let kept =
            self.entries.get(&route).filter(|entry| entry.holder.identity == holder.identity);
        let kept_since = kept.map(|entry| entry.released_at);
        self.last_number += 1;
        let number = ServerNumber(self.last_number);
        let (closed, replaced, superseded) = (Vec::new(), Vec::new(), Vec::new());
        let mut claimed = Claimed { number, is_new: true, closed, replaced, superseded };
        let (mut servers, mut gone) = (VecDeque::new(), VecDeque::new());
        for (rival, entry) in rivals.iter().filter_map(|rival| self.entries.remove_entry(rival)) {
            let (is_same, is_live) = (rival == route, !entry.servers.is_empty());
            gone.extend(entry.replaced);
            let side_by_side = is_same && holder.joins(&entry.holder);
            for server in entry.servers {
                if server.instance == instance {
                    claimed.superseded.push(server.handle);
                } else if side_by_side {
                    servers.push_back(server);
                    continue;
                } else {
                    gone.push_back(server.instance);
                    claimed.replaced.push(server.handle);
                }
                self.served.remove(&server.number);
            }
            match is_same {
                true => claimed.is_new = !is_live,
                false => claimed.closed.extend(is_live.then_some(rival)),
            }
        }
        servers.push_back(Server { number, instance, handle: server });
        self.served.insert(number, route.clone());
        gone.retain(|replaced| *replaced != instance);
        gone.drain(..gone.len().saturating_sub(REPLACED_MOST));
        let replaced = gone;
        let entry = Entry { holder, servers, replaced, released_at: now, kept_since };
        self.entries.insert(route, entry);
        Ok(claimed)
    }

    /// Takes a server out. When it was the last of its route, the lease as it now is to be remembered: the caller
    /// closes the listener. A number that is out already (withdrawn, replaced, freed) changes nothing.
    pub fn withdraw(&mut self, number: ServerNumber, now: u64) -> Option<Lease> {
        let route = self.served.remove(&number)?;
        let entry = self.entries.get_mut(&route)?;
        entry.servers.retain(|server| server.number != number);
        if !entry.servers.is_empty() {
            return None;
        }
        entry.released_at = now;
        Some(entry.lease(&route))
    }

    /// Takes a claim back that came to nothing: its route is not kept for anybody unless others serve it, or it was kept
    /// for the same holder before.
    pub fn undo(&mut self, number: ServerNumber) {
        let Some(route) = self.served.remove(&number) else { return };
        if let Some(entry) = self.entries.get_mut(&route) {
            entry.servers.retain(|server| server.number != number);
            match entry.kept_since {
                _ if !entry.servers.is_empty() => {}
                Some(released_at) => entry.released_at = released_at,
                None => drop(self.entries.remove(&route)),
            }
        }
    }

    fn held_by(&self, identity: Identity) -> usize {
        self.entries.values().filter(|entry| entry.holder.identity == identity).count()
    }

    /// The server for the next visitor: each in turn. [RVS-5]
    pub fn pick(&mut self, route: &Route) -> Option<S> {
        let servers = &mut self.entries.get_mut(route)?.servers;
        let server = servers.front()?.handle.clone();
        servers.rotate_left(1);
        Some(server)
    }

    /// All who serve a route.
    pub fn servers(&self, route: &Route) -> impl Iterator<Item = &S> {
        let entry = self.entries.get(route);
        entry.into_iter().flat_map(|entry| &entry.servers).map(|server| &server.handle)
    }

    /// Takes in what is remembered from an earlier run, the newest first. Nobody serves it any more: what was served
    /// then counts as released now. A lease that is in the way of one that is here already is left out.
    pub fn reserve(&mut self, leases: impl IntoIterator<Item = Lease>, now: u64) {
        for Lease { route, holder, released_at } in leases {
            if self.overlapping(&route).next().is_none() {
                let (servers, released_at) = (VecDeque::new(), released_at.unwrap_or(now));
                let (replaced, kept_since) = (VecDeque::new(), None);
                let entry = Entry { holder, servers, replaced, released_at, kept_since };
                self.entries.insert(route, entry);
            }
        }
    }

    /// Forgets the routes that nobody came back to in time; says how many.
    pub fn expire(&mut self, now: u64) -> usize {
        let memory = self.memory;
        self.entries.extract_if(.., |_, entry| entry.has_lapsed(memory, now)).count()
    }

    /// Takes everything from an identity. The routes that were served come back: the caller closes their listeners.
    pub fn free(&mut self, identity: Identity) -> Vec<Route> {
        let mut closed = Vec::new();
        for (route, entry) in
            self.entries.extract_if(.., |_, entry| entry.holder.identity == identity)
        {
            for server in &entry.servers {
                self.served.remove(&server.number);
            }
            closed.extend((!entry.servers.is_empty()).then_some(route));
        }
        closed
    }

    /// Every route with its holder and how many serve it; 0 where it is only kept for its holder.
    pub fn list(&self) -> impl Iterator<Item = (&Route, &Holder, usize)> {
        self.entries.iter().map(|(route, entry)| (route, &entry.holder, entry.servers.len()))
    }

    /// Every lease, as it is to be remembered.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.entries.iter().map(|(route, entry)| entry.lease(route))
    }

    /// The routes that make way for a claim, or the one that does not.
    fn rivals(
        &self,
        route: &Route,
        holder: &Holder,
        instance: Uuid,
        now: u64,
    ) -> Result<Vec<Route>, ClaimError> {
        let mut rivals = Vec::new();
        for (rival, entry) in self.overlapping(route) {
            let Holder { identity, name, .. } = &entry.holder;
            if *identity != holder.identity && !entry.has_lapsed(self.memory, now) {
                return Err(ClaimError::Taken { route: route.clone() });
            }
            if *name != holder.name && !entry.servers.is_empty() {
                return Err(ClaimError::Yours { route: route.clone(), name: name.clone() });
            }
            if !entry.servers.is_empty() && entry.replaced.contains(&instance) {
                return Err(ClaimError::Replaced { route: route.clone() });
            }
            rivals.push(rival.clone());
        }
        Ok(rivals)
    }

    fn overlapping(&self, route: &Route) -> impl Iterator<Item = (&Route, &Entry<S>)> {
        self.entries.range(route.neighbours()).filter(|(other, _)| other.overlaps(route))
    }
}

impl<S> Entry<S> {
    fn has_lapsed(&self, memory: u64, now: u64) -> bool {
        self.servers.is_empty() && self.released_at.saturating_add(memory) <= now
    }

    fn lease(&self, route: &Route) -> Lease {
        Lease {
            route: route.clone(),
            holder: self.holder.clone(),
            released_at: self.servers.is_empty().then_some(self.released_at),
        }
    }
}

/// Routes of one identity, served or kept: a client that asks for port after port leaves some to the others.
const HELD_MOST: usize = 1_024;
/// Processes of one tunnel that took it from each other and may all still run: more are a mistake of another kind.
const REPLACED_MOST: usize = 16;

#[cfg(test)]
mod tests;
