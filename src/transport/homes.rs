//! Where the packets of each connection come from. QUIC follows a packet to a new address before that one is validated
//! (RFC 9000, 9.3), so that a stranger who copies packets and is faster than the path moves a connection back and forth.
//! What comes from another address than all before is held back until the one before has had its turn: where that one
//! is silent, the peer has moved; where it goes on, the packet itself comes from there meanwhile, and QUIC drops what
//! comes twice. What an address sends proves nothing, for anybody can read an id: a connection is where QUIC sends to
//! for it, which quinn does from a task of each connection's own. [CAR-12]

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::udp::RecvMeta;
use quinn::{ConnectionId, ConnectionIdGenerator};
use tokio::task;

use candidates::{Candidate, Candidates};
use header::{Header, ID_LEN, Id, handshake_id, is_long};
use vote::{Answer, Vote};
use waiting::{Train, Waiting};

mod candidates;
mod header;
mod vote;
mod waiting;

/// The addresses that connections of one endpoint are at, and what is held back.
pub(super) struct Homes {
    /// Tells which connection ids are this endpoint's own.
    ids: Box<dyn ConnectionIdGenerator>,
    known: HashMap<Id, Home>,
    /// When those that had been silent for long were forgotten last, or when the first was learnt.
    swept: Option<Instant>,
    /// Where each connection is known to be, by its task.
    connections: HashMap<task::Id, SocketAddr>,
    /// What is voted on and until when; the first to end first. Ids that have appeared, and such that have moved: these are
    /// a client's own, as QUIC has answered them.
    votes: [VecDeque<(Id, Instant)>; 2],
    waiting: Waiting,
    candidates: Candidates,
}

impl std::fmt::Debug for Homes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { known, waiting, .. } = self;
        f.debug_struct("Homes")
            .field("known", &known.len())
            .field("held_bytes", &waiting.bytes())
            .finish_non_exhaustive()
    }
}

/// Where the packets with one connection id come from.
#[derive(Debug)]
struct Home {
    addr: SocketAddr,
    /// When a packet came from `addr` last; during a vote, from anywhere.
    heard: Instant,
    owner: Owner,
    /// Not known yet where: none may be kept waiting.
    vote: Option<Box<Vote>>,
    /// Until then somebody is known to be faster than the path by more than a turn.
    wary: Option<Instant>,
}

/// Whose a connection id is: the task of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Unknown,
    /// A vote has told, and another one may tell otherwise.
    Voted(task::Id),
    /// Its handshake has.
    Proved(task::Id),
}

/// Packets for one connection that came at once, of `stride` bytes each but for the last.
struct Run<'a> {
    from: SocketAddr,
    since: Instant,
    packets: &'a [u8],
    stride: usize,
}

impl Homes {
    /// Of an endpoint that makes its connection ids with `ids`.
    pub(super) fn new(ids: Box<dyn ConnectionIdGenerator>) -> Self {
        assert_eq!(ids.cid_len(), ID_LEN, "the ids that are read here are the endpoint's");
        Self {
            ids,
            known: HashMap::new(),
            swept: None,
            connections: HashMap::new(),
            votes: <[VecDeque<_>; 2]>::default(),
            waiting: Waiting::default(),
            candidates: Candidates::default(),
        }
    }

    /// A train arrives: whether it is passed on now. If not, it is kept here.
    pub(super) fn arrives(&mut self, meta: &RecvMeta, bytes: &[u8], now: Instant) -> bool {
        self.tick(now);
        let (mut rest, stride) = (bytes, meta.stride.max(1));
        let mut from_elsewhere = None;
        while let Some(first) = rest.chunks(stride).next() {
            let header = Header::of(first);
            let alike = rest.chunks(stride).take_while(|packet| Header::of(packet) == header);
            let (run, others) = rest.split_at((alike.count() * stride).min(rest.len()));
            rest = others;
            let run = Run { from: meta.addr, since: now, packets: run, stride };
            let is_elsewhere = |header: &Header| !self.is_at(header, &run, now);
            from_elsewhere = from_elsewhere.or(header.filter(is_elsewhere));
        }
        let Some(Header { id, .. }) = from_elsewhere else { return true };
        let is_wary = self.known.get(&id).is_some_and(|home| home.is_wary(now));
        let train = Train { id, since: now, meta: *meta, bytes: bytes.into() };
        self.waiting.keep(train, is_wary);
        false
    }

    /// Whether packets for this connection may come from where these do.
    fn is_at(&mut self, header: &Header, run: &Run<'_>, now: Instant) -> bool {
        let Header { id, is_long } = *header;
        let Some(home) = self.known.get_mut(&id) else {
            // A client chooses the id that its first packet is for.
            if !is_long && self.learn(id, Home::new(run.from, Owner::Unknown, now)) {
                self.opens_vote(id, None, now);
                self.hears_elsewhere(id, run, now);
            }
            return true;
        };
        if home.vote.is_some() {
            self.hears_elsewhere(id, run, now);
            return true;
        }
        if home.addr == run.from {
            home.heard = now;
        }
        home.addr == run.from
    }

    /// Packets are passed on that may not be from home: whether QUIC answers them is looked out for.
    fn hears_elsewhere(&mut self, id: Id, run: &Run<'_>, now: Instant) {
        let Some(home) = self.known.get_mut(&id) else { return };
        let is_unknown = match &mut home.vote {
            Some(vote) => {
                home.heard = now;
                vote.hears(run.from, run.ends(), run.since)
            }
            None => home.addr != run.from,
        };
        if is_unknown {
            let (since, end) = (run.since, run.ends().last());
            let candidate = Candidate { id, passed: now, since, end };
            self.candidates.add(run.from, candidate);
        }
    }

    /// Whether the id is this endpoint's own, and there is room.
    fn learn(&mut self, id: Id, home: Home) -> bool {
        let is_own = self.ids.validate(&ConnectionId::new(&id)).is_ok();
        let has_room = self.known.len() < KNOWN_MOST || self.known.contains_key(&id);
        if is_own && has_room {
            self.known.insert(id, home);
        }
        is_own && has_room
    }

    /// Time has gone by.
    fn tick(&mut self, now: Instant) {
        self.candidates.expire(now);
        self.ends_votes(now, VOTES);
        if now.duration_since(*self.swept.get_or_insert(now)) > SWEPT_EVERY {
            self.known.retain(|_, home| now.duration_since(home.heard) < FORGOTTEN_AFTER);
            let left: HashSet<_> = self.known.values().filter_map(|it| it.owner.task()).collect();
            self.connections.retain(|connection, _| left.contains(connection));
            self.swept = Some(now);
        }
    }

    /// The task of a connection sends to `to`. A handshake names the connection id that the peer is to use, and only the
    /// peer at `to` can answer it. Anything else goes where QUIC has found a packet of the connection to be genuine.
    pub(super) fn sends(&mut self, to: SocketAddr, bytes: &[u8], by: task::Id, now: Instant) {
        self.tick(now);
        if is_long(bytes) {
            let owner = Owner::Proved(by);
            let is_known = |home: &Home| home.owner == owner;
            let new = handshake_id(bytes).filter(|id| !self.known.get(id).is_some_and(is_known));
            if let Some(id) = new.filter(|id| self.learn(*id, Home::new(to, owner, now))) {
                self.connections.insert(by, to);
                self.waiting.hurry(id);
            }
        } else if let Some(candidate) = self.candidates.at(to) {
            self.answers(candidate, to, by, now);
        }
    }

    /// A connection sends where somebody is whose packets were passed on.
    fn answers(&mut self, candidate: Candidate, addr: SocketAddr, by: task::Id, now: Instant) {
        let Candidate { id, since, end, .. } = candidate;
        let Some(home) = self.known.get_mut(&id) else { return };
        let is_elsewhere = self.connections.get(&by).is_some_and(|known| *known != addr);
        let answer = match home.owner {
            Owner::Proved(owner) if owner != by => return,
            owner if owner.task() == Some(by) || is_elsewhere => Answer::New(by),
            _ => Answer::Usual,
        };
        if answer != Answer::Usual {
            self.candidates.remove(addr);
        }
        if let Some(vote) = &mut home.vote {
            vote.answers(addr, answer, now);
        } else if home.addr != addr {
            let before = Some((home.addr, home.heard));
            self.opens_vote(id, before, now);
            if let Some(home) = self.known.get_mut(&id) {
                home.addr = addr;
                if let Some(vote) = &mut home.vote {
                    vote.hears(addr, end, since);
                    vote.answers(addr, answer, now);
                }
            }
            self.waiting.hurry(id);
        }
    }

    /// From now on nobody knows where a connection is, after an address that was heard last at a time.
    fn opens_vote(&mut self, id: Id, before: Option<(SocketAddr, Instant)>, now: Instant) {
        self.ends_votes(now, VOTES - 1);
        let Some(home) = self.known.get_mut(&id) else { return };
        let vote = Vote::new(before, now);
        self.votes[usize::from(before.is_some())].push_back((id, vote.until));
        home.vote = Some(Box::new(vote));
    }

    /// Ends the votes whose time is over, and of the others of each kind the first ones where there are more than `most`.
    fn ends_votes(&mut self, now: Instant, most: usize) {
        for kind in 0..self.votes.len() {
            while let Some((id, until)) = self.votes[kind].front().copied()
                && (until <= now || self.votes[kind].len() > most)
            {
                self.votes[kind].pop_front();
                self.ends_vote(id, until, now);
            }
        }
    }

    fn ends_vote(&mut self, id: Id, until: Instant, now: Instant) {
        let Some(home) = self.known.get_mut(&id) else { return };
        let Some(vote) = home.vote.take_if(|vote| vote.until == until) else { return };
        let Some(winner) = vote.winner(now) else {
            // Somebody has made the id up, or found it in an answer to strangers.
            self.known.remove(&id);
            return;
        };
        home.addr = winner.addr;
        if let (false, Some(task)) = (home.owner.is_proved(), winner.connection) {
            home.owner = Owner::Voted(task);
        }
        if let Some(task) = home.owner.task() {
            self.connections.insert(task, home.addr);
        }
        if vote.is_before(home.addr) {
            // A stranger was ahead by more than a turn.
            home.wary = Some(now + WARY);
        }
    }

    /// Whether a packet to an address may tell where a peer is.
    pub(super) fn awaits_answer(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Whether such a packet may belong to the handshake that begins a connection.
    pub(super) fn begins(bytes: &[u8]) -> bool {
        is_long(bytes)
    }

    /// Whether something that was held is due because of what was sent.
    pub(super) fn is_ready(&self) -> bool {
        self.waiting.is_ready()
    }

    /// When something that is held is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.due()
    }

    /// Fills the buffers with what is due; how many.
    pub(super) fn release(
        &mut self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        now: Instant,
    ) -> usize {
        self.tick(now);
        let mut count = 0;
        while count < buffers.len().min(meta.len()) {
            let goes_on =
                |train: &Train| self.known.get(&train.id).is_some_and(|home| home.goes_on(train));
            let Some(train) = self.waiting.next(now, goes_on) else { break };
            self.hears_elsewhere(train.id, &Run::of(&train), now);
            buffers[count][..train.bytes.len()].copy_from_slice(&train.bytes);
            meta[count] = train.meta;
            count += 1;
        }
        count
    }
}

impl<'a> Run<'a> {
    fn of(train: &'a Train) -> Self {
        let Train { since, meta, bytes, .. } = train;
        Self { from: meta.addr, since: *since, packets: bytes, stride: meta.stride.max(1) }
    }

    /// The last bytes of each packet.
    fn ends(&self) -> impl Iterator<Item = u64> {
        let ends = self.packets.chunks(self.stride).filter_map(|packet| packet.last_chunk());
        ends.map(|end| u64::from_be_bytes(*end))
    }
}

impl Home {
    fn new(addr: SocketAddr, owner: Owner, now: Instant) -> Self {
        Self { addr, heard: now, owner, vote: None, wary: None }
    }

    /// Whether packets from here have come since those of a train from elsewhere.
    fn goes_on(&self, train: &Train) -> bool {
        self.vote.is_none() && self.addr != train.meta.addr && self.heard > train.since
    }

    fn is_wary(&self, now: Instant) -> bool {
        self.wary.is_some_and(|until| now < until)
    }
}

impl Owner {
    fn task(self) -> Option<task::Id> {
        match self {
            Self::Unknown => None,
            Self::Voted(task) | Self::Proved(task) => Some(task),
        }
    }

    fn is_proved(self) -> bool {
        matches!(self, Self::Proved(_))
    }
}

/// Several keep-alives.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const SWEPT_EVERY: Duration = Duration::from_secs(10);
/// Connections above are not watched.
const KNOWN_MOST: usize = 65_536;
/// Votes of each kind at the same time. One has [`vote::PACKETS`] packets to remember, in some 20 KiB.
const VOTES: usize = 1_024;
/// How long an address has the longer turn after somebody was faster by more than the short one.
const WARY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
