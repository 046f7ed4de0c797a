//! Where the packets of each connection come from. QUIC follows a packet to a new address before that one is validated
//! (RFC 9000, 9.3), so that a stranger who copies packets and is faster than the path moves a connection back and forth.
//! What comes from another address than all before is held back until the one before has had its turn: where that one
//! is silent, the peer has moved; where it goes on, the packet itself comes from there meanwhile, and QUIC drops what
//! comes twice. [CAR-12]

use std::collections::{HashMap, VecDeque};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::udp::RecvMeta;
use quinn::{ConnectionId, ConnectionIdGenerator};

/// The addresses that connections of one endpoint are at, and what is held back.
pub(super) struct Homes {
    /// Tells which connection ids are this endpoint's own.
    ids: Box<dyn ConnectionIdGenerator>,
    known: HashMap<Id, Home>,
    /// When those that had been silent for long were forgotten last.
    swept: Option<Instant>,
    /// Held until the home has had its turn; the longest first.
    fresh: VecDeque<Held>,
    /// From beside a home that goes on sending; the longest first.
    contested: VecDeque<Held>,
    /// Held no longer.
    ready: VecDeque<Held>,
    held_bytes: usize,
    /// Passed on from beside a silent home: where QUIC answers, the peer has moved.
    candidates: VecDeque<Candidate>,
}

impl std::fmt::Debug for Homes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { known, held_bytes, .. } = self;
        f.debug_struct("Homes")
            .field("known", &known.len())
            .field("held_bytes", held_bytes)
            .finish_non_exhaustive()
    }
}

/// A connection id of this endpoint.
type Id = [u8; ID_LEN];

/// Where the packets with one connection id come from.
#[derive(Clone, Copy, Debug)]
struct Home {
    addr: SocketAddr,
    /// When a packet came from `addr` last; during a vote, from anywhere.
    heard: Instant,
    vote: Option<Vote>,
}

/// Of a connection id that turned up without a handshake, or somewhere else: the first packet from there may be a copy, so
/// all of a second tell which address most of them have (Boyer and Moore's vote).
#[derive(Clone, Copy, Debug)]
struct Vote {
    until: Instant,
    lead: u32,
    /// The address before. Heard from there again, the peer has never moved.
    before: Option<SocketAddr>,
}

/// Where a peer may be now.
#[derive(Debug)]
struct Candidate {
    id: Id,
    addr: SocketAddr,
    since: Instant,
}

/// A train of packets that waits.
#[derive(Debug)]
struct Held {
    id: Id,
    since: Instant,
    meta: RecvMeta,
    bytes: Box<[u8]>,
}

impl Homes {
    /// Of an endpoint that makes its connection ids with `ids`.
    pub(super) fn new(ids: Box<dyn ConnectionIdGenerator>) -> Self {
        Self {
            ids,
            known: HashMap::new(),
            swept: None,
            fresh: VecDeque::new(),
            contested: VecDeque::new(),
            ready: VecDeque::new(),
            held_bytes: 0,
            candidates: VecDeque::new(),
        }
    }

    /// A train arrives: whether it is passed on now. If not, it is kept here.
    pub(super) fn arrives(&mut self, meta: &RecvMeta, bytes: &[u8], now: Instant) -> bool {
        let mut last = None;
        let mut from_elsewhere = None;
        for packet in bytes.chunks(meta.stride.max(1)) {
            let id = short_header_id(packet);
            if id == last {
                continue;
            }
            last = id;
            from_elsewhere = from_elsewhere.or(id.filter(|id| !self.is_at(id, meta.addr, now)));
        }
        let Some(id) = from_elsewhere else { return true };
        if self.held_bytes + Held::cost(bytes) > HELD_MOST {
            return true;
        }
        self.held_bytes += Held::cost(bytes);
        self.fresh.push_back(Held { id, since: now, meta: *meta, bytes: bytes.into() });
        false
    }

    /// Whether packets with this id may come from `addr`.
    fn is_at(&mut self, id: &Id, addr: SocketAddr, now: Instant) -> bool {
        let Some(home) = self.known.get_mut(id) else {
            self.learn(*id, Home { addr, heard: now, vote: Some(Vote::from(now, None)) }, now);
            return true;
        };
        if home.is_open(now) {
            home.count(addr, now);
            return true;
        }
        if home.addr == addr {
            home.heard = now;
        }
        home.addr == addr
    }

    fn learn(&mut self, id: Id, home: Home, now: Instant) {
        if self.ids.validate(&ConnectionId::new(&id)).is_err() {
            return;
        }
        if now.duration_since(*self.swept.get_or_insert(now)) > SWEPT_EVERY {
            self.known.retain(|_, home| now.duration_since(home.heard) < FORGOTTEN_AFTER);
            self.swept = Some(now);
        }
        if self.known.len() < KNOWN_MOST {
            self.known.insert(id, home);
        }
    }

    /// The endpoint sends to `to`. A handshake names the connection id that the peer is to use, and only the peer at `to`
    /// can answer it. Anything else goes where QUIC has found a packet of the connection to be genuine.
    pub(super) fn sends(&mut self, to: SocketAddr, bytes: &[u8], now: Instant) {
        if let Some(id) = handshake_id(bytes) {
            let home = Home { addr: to, heard: now, vote: None };
            self.learn(id, home, now);
        }
        while self.candidates.pop_back_if(|it| now.duration_since(it.since) > ANSWERED).is_some() {}
        while let Some(at) = self.candidates.iter().position(|it| it.addr == to) {
            if let Some(Candidate { id, addr, .. }) = self.candidates.remove(at) {
                self.moves(id, addr, now);
            }
        }
    }

    /// Whether a packet to an address may tell that a peer has moved there.
    pub(super) fn awaits_answer(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Whether such a packet may belong to the handshake that begins a connection.
    pub(super) fn begins(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| first & LONG_HEADER != 0)
    }

    /// The peer of an id has moved to `addr`, or a stranger has copied a packet from where it moved.
    fn moves(&mut self, id: Id, addr: SocketAddr, now: Instant) {
        let Some(home) = self.known.get_mut(&id) else { return };
        if home.addr == addr {
            return;
        }
        let open = home.vote.filter(|vote| now < vote.until);
        let before = open.map_or(Some(home.addr), |vote| vote.before);
        *home = Home { addr, heard: now, vote: Some(Vote::from(now, before)) };
        for queue in [&mut self.contested, &mut self.fresh] {
            let (here, elsewhere): (VecDeque<_>, _) =
                std::mem::take(queue).into_iter().partition(|held| held.id == id);
            *queue = elsewhere;
            self.ready.extend(here);
        }
    }

    /// When something that is held is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Some(held) = self.ready.front() {
            return Some(held.since);
        }
        let fresh = self.fresh.front().map(|held| held.since + TURN);
        let contested = self.contested.front().map(|held| held.since + CONTESTED);
        fresh.into_iter().chain(contested).min()
    }

    /// Fills the buffers with what is due; how many.
    pub(super) fn release(
        &mut self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        now: Instant,
    ) -> usize {
        let mut count = 0;
        while count < buffers.len().min(meta.len()) && self.due().is_some_and(|due| due <= now) {
            let Some(held) = self.next_due(now) else { continue };
            self.held_bytes -= Held::cost(&held.bytes);
            buffers[count][..held.bytes.len()].copy_from_slice(&held.bytes);
            meta[count] = held.meta;
            count += 1;
        }
        count
    }

    /// Something is due: it comes out, or it waits on.
    fn next_due(&mut self, now: Instant) -> Option<Held> {
        if let Some(held) = self.ready.pop_front() {
            return Some(held);
        }
        if let Some(held) = self.contested.pop_front_if(|held| held.since + CONTESTED <= now) {
            return Some(held);
        }
        let held = self.fresh.pop_front()?;
        if let Some(home) = self.known.get(&held.id)
            && home.addr != held.meta.addr
            && !home.is_open(now)
        {
            if home.heard >= held.since {
                self.contested.push_back(held);
                return None;
            }
            self.candidates.truncate(CANDIDATES - 1);
            let (id, addr) = (held.id, held.meta.addr);
            self.candidates.push_front(Candidate { id, addr, since: now });
        }
        Some(held)
    }
}

impl Home {
    /// Whether it is not known yet which address that is, so that none may be kept waiting.
    fn is_open(&self, now: Instant) -> bool {
        self.vote.is_some_and(|vote| now < vote.until)
    }

    /// A packet from `addr` counts in the vote.
    fn count(&mut self, addr: SocketAddr, now: Instant) {
        self.heard = now;
        let Some(vote) = &mut self.vote else { return };
        if vote.before == Some(addr) {
            (self.addr, self.vote) = (addr, None);
        } else if self.addr == addr {
            vote.lead += 1;
        } else if vote.lead > 0 {
            vote.lead -= 1;
        } else {
            (self.addr, vote.lead) = (addr, 1);
        }
    }
}

impl Held {
    /// What a train takes of [`HELD_MOST`].
    fn cost(bytes: &[u8]) -> usize {
        size_of::<Self>() + bytes.len()
    }
}

impl Vote {
    fn from(now: Instant, before: Option<SocketAddr>) -> Self {
        Self { until: now + VOTE, lead: 1, before }
    }
}

/// The connection id that a packet with a short header is for (RFC 9000, 17.3). Others are of handshakes.
fn short_header_id(packet: &[u8]) -> Option<Id> {
    let (first, rest) = packet.split_first()?;
    if first & LONG_HEADER != 0 {
        return None;
    }
    rest.first_chunk().copied()
}

/// The connection id that a packet with a long header is from (RFC 9000, 17.2). A Retry begins no connection.
fn handshake_id(packet: &[u8]) -> Option<Id> {
    let (first, rest) = packet.split_first()?;
    if first & LONG_HEADER == 0 || first & RETRY == RETRY {
        return None;
    }
    let (_version, rest) = rest.split_at_checked(4)?;
    let (to, rest) = rest.split_first()?;
    let (from, rest) = rest.get(usize::from(*to)..)?.split_first()?;
    rest.get(..usize::from(*from))?.try_into().ok()
}

/// The form bit of a header (RFC 9000, 17.2).
const LONG_HEADER: u8 = 0x80;
/// Both forms' first bits, and the type (RFC 9000, 17.2.5).
const RETRY: u8 = 0xF0;
/// Bytes of the connection ids that a router gives out.
const ID_LEN: usize = 8;
/// What a home has time for to be heard. All that a change of address costs more than before; and what a stranger may be
/// ahead of a path on which nothing else is under way.
const TURN: Duration = Duration::from_millis(25);
/// What a stranger may be ahead of a path whose queues are full.
const CONTESTED: Duration = Duration::from_millis(200);
/// How long a vote takes.
const VOTE: Duration = Duration::from_secs(1);
/// Bytes of all that is held. What comes then is passed on at once.
const HELD_MOST: usize = 4 << 20;
/// Several keep-alives.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const SWEPT_EVERY: Duration = Duration::from_secs(10);
/// Connections above are not watched.
const KNOWN_MOST: usize = 65_536;
const CANDIDATES: usize = 64;
/// QUIC asks a new address for a proof at once.
const ANSWERED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
