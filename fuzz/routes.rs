//! Sequences of claims, withdrawals, revocations and restarts, against a model that says what must come of each.
//!
//! The model knows nothing of addresses: a place is the set of sockets that it needs, as bits, and two places are in
//! each other's way when they need the same one.

use std::collections::HashMap;
use std::time::Duration;

use conduit::routes::{ClaimError, Claimed, Holder, Lease, Route, Routes, ServerNumber};
use conduit::tunnel::{Identity, Name, Protocol};
use uuid::Uuid;

/// Four bytes are one step: what, and three choices.
pub(crate) fn routes(data: &[u8]) {
    let mut world = World::new();
    for step in data.as_chunks::<4>().0 {
        world.step(*step);
        world.check();
    }
}

/// The table, and what should be in it.
struct World {
    table: Routes<usize>,
    now: u64,
    /// Every claim that succeeded; its place in the list is the server.
    claims: Vec<Claim>,
    kept: Vec<Kept>,
    /// Who was replaced at a place, by its sockets, and does not take it back from who is there.
    replaced: HashMap<u16, Vec<Uuid>>,
}

struct Claim {
    number: ServerNumber,
    place: usize,
    holder: Holder,
    instance: Uuid,
    is_live: bool,
}

/// A place that nobody serves.
struct Kept {
    place: usize,
    holder: Holder,
    since: u64,
}

impl World {
    fn new() -> Self {
        let table = Routes::new(Duration::from_secs(MEMORY));
        let (claims, kept, replaced) = (Vec::new(), Vec::new(), HashMap::new());
        Self { table, now: 1_000, claims, kept, replaced }
    }

    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what % 16 {
            0..=8 => self.claim(usize::from(a) % PLACES.len(), holder(b), instance(c)),
            9..=11 => self.withdraw(usize::from(a)),
            12 => self.now += u64::from(a),
            13 => self.expire(),
            14 => self.free(holder(b).identity),
            _ => self.restart(),
        }
    }

    fn claim(&mut self, place: usize, holder: Holder, instance: Uuid) {
        let server = self.claims.len();
        match self.table.claim(route(place), holder.clone(), instance, server, self.now) {
            Err(ClaimError::Taken { route: claimed }) => {
                assert_eq!(claimed, route(place));
                assert!(self.is_foreign(place, &holder), "taken by nobody");
            }
            Err(ClaimError::Yours { route: claimed, name }) => {
                assert_eq!(claimed, route(place));
                assert!(name != holder.name);
                let mut rivals = self.live().filter(|claim| overlap(claim.place, place));
                assert!(
                    rivals.any(|claim| claim.holder.name == name
                        && claim.holder.identity == holder.identity)
                );
            }
            Err(ClaimError::Replaced { route: claimed }) => {
                assert_eq!(claimed, route(place));
                assert!(self.was_replaced(place, instance), "replaced by nobody");
            }
            Err(ClaimError::TooMany { most }) => panic!("{most} places are more than there are"),
            Ok(claimed) => {
                assert!(!self.is_foreign(place, &holder), "taken from another identity");
                assert!(!self.was_replaced(place, instance), "who was replaced took it back");
                let claim =
                    Claim { number: claimed.number, place, holder, instance, is_live: true };
                self.enter(claim, &claimed);
            }
        }
    }

    /// Checks what the claim says that it changed, and changes it.
    fn enter(&mut self, new: Claim, claimed: &Claimed<usize>) {
        assert!(self.claims.iter().all(|claim| claim.number < new.number), "a number came again");
        let (mut replaced, mut superseded, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        let is_new = !self.live().any(|claim| same(claim.place, new.place));
        let sockets = PLACES[new.place].2;
        let rivals = self.replaced.extract_if(|place, _| place & sockets != 0);
        let mut gone: Vec<Uuid> = rivals.flat_map(|(_, instances)| instances).collect();
        for (server, claim) in self.claims.iter_mut().enumerate() {
            if !claim.is_live || !overlap(claim.place, new.place) {
                continue;
            }
            assert_eq!(claim.holder.name, new.holder.name, "another tunnel was pushed aside");
            let replica = same(claim.place, new.place)
                && claim.holder.group.is_some()
                && claim.holder.group == new.holder.group;
            match claim.instance == new.instance {
                true => superseded.push(server),
                false if replica => continue,
                false => {
                    replaced.push(server);
                    gone.push(claim.instance);
                }
            }
            claim.is_live = false;
            if !same(claim.place, new.place) {
                closed.push(route(claim.place));
            }
        }
        closed.sort();
        closed.dedup();
        assert_eq!((claimed.is_new, &claimed.closed), (is_new, &closed));
        assert_eq!(sorted(&claimed.replaced), replaced);
        assert_eq!(sorted(&claimed.superseded), superseded);
        self.kept.retain(|kept| !overlap(kept.place, new.place));
        gone.retain(|instance| *instance != new.instance);
        self.replaced.insert(sockets, gone);
        self.claims.push(new);
    }

    fn withdraw(&mut self, which: usize) {
        let Some(at) = which.checked_rem(self.claims.len()) else { return };
        let released = self.table.withdraw(self.claims[at].number, self.now);
        let was_live = std::mem::take(&mut self.claims[at].is_live);
        let Claim { place, ref holder, .. } = self.claims[at];
        let is_last = was_live && !self.live().any(|claim| same(claim.place, place));
        assert_eq!(released.is_some(), is_last);
        if let Some(lease) = released {
            assert_eq!((lease.route, lease.released_at), (route(place), Some(self.now)));
            assert_eq!(
                (lease.holder.identity, &lease.holder.name),
                (holder.identity, &holder.name)
            );
            self.kept.push(Kept { place, holder: lease.holder, since: self.now });
        }
    }

    fn expire(&mut self) {
        let before = self.kept.len();
        self.kept.retain(|kept| self.now < kept.since + MEMORY);
        assert_eq!(self.table.expire(self.now), before - self.kept.len());
        self.forget();
    }

    fn free(&mut self, identity: Identity) {
        let freed = |claim: &&Claim| claim.holder.identity == identity;
        let mut closed: Vec<Route> =
            self.live().filter(freed).map(|claim| route(claim.place)).collect();
        closed.sort();
        closed.dedup();
        assert_eq!(self.table.free(identity), closed);
        self.kept.retain(|kept| kept.holder.identity != identity);
        for claim in &mut self.claims {
            claim.is_live &= claim.holder.identity != identity;
        }
        self.forget();
    }

    /// A place that nobody has remembers nobody.
    fn forget(&mut self) {
        let live = self.claims.iter().filter(|claim| claim.is_live).map(|claim| claim.place);
        let places = live.chain(self.kept.iter().map(|kept| kept.place));
        let known: Vec<u16> = places.map(|place| PLACES[place].2).collect();
        self.replaced.retain(|place, _| known.contains(place));
    }

    /// Nobody serves, everything is kept.
    fn restart(&mut self) {
        let leases: Vec<Lease> = self.table.leases().collect();
        let count = leases.len();
        self.table = Routes::new(Duration::from_secs(MEMORY));
        self.table.reserve(leases, self.now);
        assert_eq!(self.table.leases().count(), count, "two leases were in each other's way");
        self.replaced.clear();
        for claim in self.claims.drain(..).filter(|claim| claim.is_live) {
            if !self.kept.iter().any(|kept| same(kept.place, claim.place)) {
                let Claim { place, holder, .. } = claim;
                self.kept.push(Kept { place, holder, since: self.now });
            }
        }
    }

    /// What must hold after each step: one place, one tunnel, and each of its servers gets its visitors.
    fn check(&mut self) {
        for (one, other) in self.live().flat_map(|one| self.live().map(move |other| (one, other))) {
            let side_by_side = same(one.place, other.place) && one.holder == other.holder;
            assert!(side_by_side || !overlap(one.place, other.place), "two tunnels at one place");
        }
        for place in 0..PLACES.len() {
            let is_served = |claim: &Claim| claim.is_live && same(claim.place, place);
            let servers: Vec<usize> =
                (0..self.claims.len()).filter(|at| is_served(&self.claims[*at])).collect();
            let is_kept = self.kept.iter().any(|kept| same(kept.place, place));
            let listed = self.table.list().find(|(listed, ..)| **listed == route(place));
            let expected = (is_kept || !servers.is_empty()).then_some(servers.len());
            assert_eq!(listed.map(|(_, _, count)| count), expected, "a route was lost");
            let round: Vec<usize> =
                servers.iter().filter_map(|_| self.table.pick(&route(place))).collect();
            assert_eq!(sorted(&round), servers, "a server was left out of the round");
        }
    }

    fn live(&self) -> impl Iterator<Item = &Claim> + Clone {
        self.claims.iter().filter(|claim| claim.is_live)
    }

    /// Whether somebody serves the place, or a part of it, who has taken that from this instance.
    fn was_replaced(&self, place: usize, instance: Uuid) -> bool {
        let is_there = |claim: &Claim| {
            let replaced = self.replaced.get(&PLACES[claim.place].2);
            overlap(claim.place, place)
                && replaced.is_some_and(|instances| instances.contains(&instance))
        };
        self.live().any(is_there)
    }

    /// Whether another identity has the place or a part of it.
    fn is_foreign(&self, place: usize, holder: &Holder) -> bool {
        let theirs =
            |at: usize, other: &Holder| overlap(at, place) && other.identity != holder.identity;
        self.live().any(|claim| theirs(claim.place, &claim.holder))
            || self
                .kept
                .iter()
                .any(|kept| theirs(kept.place, &kept.holder) && self.now < kept.since + MEMORY)
    }
}

fn route(place: usize) -> Route {
    let (protocol, bind, _) = PLACES[place];
    Route::new(protocol, &bind.parse().expect(bind)).expect("a place")
}

/// One of three identities, two names and three groups, the empty one included.
fn holder(choice: u8) -> Holder {
    let name = |text: &str| -> Name { text.parse().expect(text) };
    Holder {
        identity: Identity::from_bytes([choice % 3; 32]),
        name: name(["web", "site"][usize::from(choice / 3 % 2)]),
        group: [None, Some("blue"), Some("green")][usize::from(choice / 6 % 3)].map(name),
    }
}

/// One of four.
fn instance(choice: u8) -> Uuid {
    Uuid::from_u128(u128::from(choice % 4))
}

fn overlap(one: usize, other: usize) -> bool {
    PLACES[one].2 & PLACES[other].2 != 0
}

fn same(one: usize, other: usize) -> bool {
    PLACES[one].2 == PLACES[other].2
}

fn sorted(servers: &[usize]) -> Vec<usize> {
    let mut servers = servers.to_vec();
    servers.sort_unstable();
    servers
}

/// What is claimed, and the sockets that it needs.
const PLACES: [(Protocol, &str, u16); 9] = [
    (Protocol::Tcp, "127.0.0.1:80", 0b00_0001),
    (Protocol::Tcp, "[::ffff:127.0.0.1]:80", 0b00_0001),
    (Protocol::Tcp, "10.0.0.9:80", 0b00_0010),
    (Protocol::Tcp, "0.0.0.0:80", 0b00_0011),
    (Protocol::Tcp, "[::1]:80", 0b00_0100),
    (Protocol::Tcp, "[::]:80", 0b00_0111),
    (Protocol::Udp, "127.0.0.1:80", 0b00_1000),
    (Protocol::Tcp, "[::]:81", 0b01_0000),
    (Protocol::Tcp, "unix:/run/app.sock", 0b10_0000),
];

/// Seconds that a place is kept: the clock jumps by up to 255.
const MEMORY: u64 = 300;
