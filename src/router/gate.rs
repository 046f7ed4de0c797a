//! Who may cost cryptography.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::task::Tasks;
use crate::transport::Caller;

/// Decides with arithmetic alone whether somebody may cost cryptography.
#[derive(Debug)]
pub(super) struct Gate {
    /// Handshakes under way.
    half_open: Arc<Mutex<Places>>,
    /// TLS connections, whoever is on them.
    lanes: Arc<Mutex<Places>>,
    second: Instant,
    in_second: u32,
}

/// How many there are of something, in all and by source.
#[derive(Debug, Default)]
struct Places {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Enter,
    Prove,
    Refuse,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Seat {
    places: Arc<Mutex<Places>>,
    source: IpAddr,
}

impl Places {
    fn of(&self, addr: SocketAddr) -> usize {
        self.by_source.get(&source(addr)).copied().unwrap_or_default()
    }
}

impl Seat {
    fn taken(places: &Arc<Mutex<Places>>, addr: SocketAddr) -> Self {
        let source = source(addr);
        let mut counts = lock(places);
        counts.all += 1;
        *counts.by_source.entry(source).or_default() += 1;
        Self { places: Arc::clone(places), source }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = lock(&self.places);
        places.all -= 1;
        if let Entry::Occupied(mut count) = places.by_source.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            half_open: Arc::default(),
            lanes: Arc::default(),
            second: Instant::now(),
            in_second: 0,
        }
    }

    pub(super) fn judge(&mut self, addr: SocketAddr, validated: bool, now: Instant) -> Verdict {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.in_second) = (now, 0);
        }
        self.in_second += 1;
        let half_open = lock(&self.half_open);
        let theirs = half_open.of(addr);
        let is_rush = half_open.all >= HALF_OPEN_FREE || self.in_second > NEW_PER_SECOND_FREE;
        if half_open.all >= HALF_OPEN_MOST {
            Verdict::Refuse
        } else if !validated && (is_rush || theirs >= UNPROVED_OF_ONE) {
            Verdict::Prove
        } else if theirs >= HALF_OPEN_OF_ONE {
            Verdict::Refuse
        } else {
            Verdict::Enter
        }
    }

    /// Lets somebody in who calls by TCP, or hangs up. The address is their own: the handshake of TCP has shown that.
    pub(super) fn call(&mut self, caller: Caller, tasks: &Tasks) {
        let addr = caller.remote_addr();
        if self.judge(addr, true, Instant::now()) != Verdict::Enter || !self.has_lane_for(addr) {
            return;
        }
        let (seat, place) = (self.seat(addr), Seat::taken(&self.lanes, addr));
        tasks.spawn_until_cancelled("tls", async move {
            let Some(lane) = caller.handshake().await else {
                return tracing::debug!(%addr, "no TLS came about");
            };
            drop(seat);
            let error = lane.carry().await;
            tracing::debug!(%addr, %error, "a TLS connection ended");
            drop(place);
        });
    }

    fn has_lane_for(&self, addr: SocketAddr) -> bool {
        let lanes = lock(&self.lanes);
        lanes.all < LANES_MOST && lanes.of(addr) < LANES_OF_ONE
    }

    pub(super) fn seat(&self, addr: SocketAddr) -> Seat {
        Seat::taken(&self.half_open, addr)
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 host has to itself.
fn source(addr: SocketAddr) -> IpAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handshakes at one time; OpenSSH's MaxStartups is 100.
const HALF_OPEN_MOST: usize = 256;
/// Of one source: it cannot keep everybody else out, and as many can come at once from behind one NAT.
const HALF_OPEN_OF_ONE: usize = HALF_OPEN_MOST / 4;
/// Of one source before it has to prove its address: whoever forges it takes so many of its places, and leaves it the rest.
const UNPROVED_OF_ONE: usize = HALF_OPEN_OF_ONE / 4;
/// TLS connections at one time, each with a file and a buffer, and of one source: it cannot keep everybody else out.
const LANES_MOST: usize = 8_192;
const LANES_OF_ONE: usize = LANES_MOST / 8;
/// Up to here nobody has to prove an address, which saves a round trip.
const HALF_OPEN_FREE: usize = 64;
/// The same for newcomers within a second.
const NEW_PER_SECOND_FREE: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 1))
    }

    #[test]
    fn under_load_strangers_prove_their_address_and_then_nobody_enters() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let sit = |gate: &Gate, count: usize| -> Vec<Seat> {
            (0..count).map(|n| gate.seat(from((n % 200) as u8))).collect()
        };
        let mut seats = sit(&gate, HALF_OPEN_FREE);
        assert_eq!(gate.judge(from(250), false, now), Verdict::Prove);
        assert_eq!(gate.judge(from(250), true, now), Verdict::Enter);
        seats.extend(sit(&gate, HALF_OPEN_MOST - HALF_OPEN_FREE));
        assert_eq!(gate.judge(from(250), true, now), Verdict::Refuse);
        seats.clear();
        assert_eq!(gate.judge(from(250), false, now), Verdict::Enter);
        assert!(lock(&gate.half_open).by_source.is_empty(), "nothing is remembered of who is gone");
    }

    #[test]
    fn one_source_cannot_take_every_place() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let _seats: Vec<Seat> = (0..HALF_OPEN_OF_ONE).map(|_| gate.seat(from(1))).collect();
        assert_eq!(gate.judge(from(1), true, now), Verdict::Refuse);
        assert_eq!(gate.judge(from(2), true, now), Verdict::Enter);
        let neighbours =
            ["[2001:db8::1]:1", "[2001:db8::2]:1"].map(|addr| addr.parse().map(source));
        assert_eq!(neighbours[0], neighbours[1]);
    }

    #[test]
    fn whoever_forges_an_address_does_not_keep_it_out() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let mut seats = Vec::new();
        while gate.judge(from(1), false, now) == Verdict::Enter {
            seats.push(gate.seat(from(1)));
        }
        assert_eq!(seats.len(), UNPROVED_OF_ONE);
        assert_eq!(gate.judge(from(1), true, now), Verdict::Enter);
    }

    #[test]
    fn one_source_cannot_take_every_tls_connection() {
        let gate = Gate::new();
        let taken = |host| Seat::taken(&gate.lanes, from(host));
        let mut lanes: Vec<Seat> = (0..LANES_OF_ONE).map(|_| taken(1)).collect();
        assert!(!gate.has_lane_for(from(1)) && gate.has_lane_for(from(2)));
        lanes.extend((LANES_OF_ONE..LANES_MOST).map(|n| taken(2 + (n % 100) as u8)));
        assert!(!gate.has_lane_for(from(200)));
        lanes.clear();
        assert!(gate.has_lane_for(from(1)));
    }

    #[test]
    fn a_rush_within_a_second_is_asked_for_proof() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        let verdicts: Vec<_> =
            (0..=NEW_PER_SECOND_FREE).map(|_| gate.judge(from(1), false, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Prove).count(), 1);
        assert_eq!(gate.judge(from(1), false, now + Duration::from_secs(2)), Verdict::Enter);
    }
}
