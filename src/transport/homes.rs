//! Where the packets of each connection come from. QUIC follows a packet to a new address before that one is validated
//! (RFC 9000, 9.3), so that a stranger who copies packets and is faster than the path moves a connection back and forth.
//! What comes from another address than all before is held back until the one before has had its turn: where that one
//! is silent, the peer has moved; where it goes on, the packet itself comes from there meanwhile, and QUIC drops what
//! comes twice. What an address sends proves nothing, for anybody can read an id: a connection is where QUIC sends to.
//! [CAR-12]

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::udp::RecvMeta;
use quinn::{ConnectionId, ConnectionIdGenerator};

use header::{Header, ID_LEN, Id, handshake_id, is_long};
use vote::Vote;
use waiting::{Train, Waiting};

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
    waiting: Waiting,
    /// Passed on from elsewhere than home: where QUIC answers, the peer has moved.
    candidates: HashMap<SocketAddr, Candidate>,
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
    /// Not known yet: none may be kept waiting.
    vote: Option<Box<Vote>>,
    /// Until then somebody is known to be faster than the path by more than a turn.
    wary: Option<Instant>,
}

/// Which connection may be at an address now.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: Id,
    since: Instant,
    /// How what was passed on ended.
    end: Option<u64>,
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
            waiting: Waiting::default(),
            candidates: HashMap::new(),
        }
    }

    /// A train arrives: whether it is passed on now. If not, it is kept here.
    pub(super) fn arrives(&mut self, meta: &RecvMeta, bytes: &[u8], now: Instant) -> bool {
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
            if !is_long {
                self.learn(id, Home::open(run.from, None, now), now);
                self.hears_elsewhere(id, run, now);
            }
            return true;
        };
        home.settles(now);
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
        home.settles(now);
        let is_unknown = match &mut home.vote {
            Some(vote) => {
                home.heard = now;
                vote.hears(run.from, run.ends(), run.since)
            }
            None => home.addr != run.from,
        };
        if !is_unknown {
            return;
        }
        if self.candidates.len() >= CANDIDATES {
            self.candidates.retain(|_, it| now.duration_since(it.since) <= ANSWERED);
        }
        if self.candidates.len() < CANDIDATES || self.candidates.contains_key(&run.from) {
            let candidate = Candidate { id, since: run.since, end: run.ends().last() };
            self.candidates.insert(run.from, candidate);
        }
    }

    fn learn(&mut self, id: Id, home: Home, now: Instant) {
        if self.ids.validate(&ConnectionId::new(&id)).is_err() {
            return;
        }
        if now.duration_since(*self.swept.get_or_insert(now)) > SWEPT_EVERY {
            self.known.retain(|_, home| now.duration_since(home.heard) < FORGOTTEN_AFTER);
            self.candidates.retain(|_, it| now.duration_since(it.since) <= ANSWERED);
            self.swept = Some(now);
        }
        if self.known.len() < KNOWN_MOST {
            self.known.insert(id, home);
        }
    }

    /// A connection sends to `to`. A handshake names the connection id that the peer is to use, and only the peer at `to`
    /// can answer it. Anything else goes where QUIC has found a packet of the connection to be genuine.
    pub(super) fn sends(&mut self, to: SocketAddr, bytes: &[u8], now: Instant) {
        if is_long(bytes) {
            if let Some(id) = handshake_id(bytes).filter(|id| !self.known.contains_key(id)) {
                let home = Home { addr: to, heard: now, vote: None, wary: None };
                self.learn(id, home, now);
            }
            return;
        }
        let candidate = self.candidates.remove(&to);
        if let Some(it) = candidate.filter(|it| now.duration_since(it.since) <= ANSWERED) {
            self.answers(it, to, now);
        }
    }

    /// QUIC answers somebody who sent with an id, and who is not known to be its peer.
    fn answers(&mut self, Candidate { id, since, end }: Candidate, addr: SocketAddr, now: Instant) {
        let Some(home) = self.known.get_mut(&id) else { return };
        home.settles(now);
        match &mut home.vote {
            Some(vote) => vote.answers(addr),
            None if home.addr == addr => {}
            None => {
                let before = Some((home.addr, home.heard));
                *home = Home { wary: home.wary, ..Home::open(addr, before, now) };
                if let Some(vote) = &mut home.vote {
                    vote.hears(addr, end, since);
                    vote.answers(addr);
                }
                self.waiting.hurry(id);
            }
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
        let mut count = 0;
        while count < buffers.len().min(meta.len()) {
            let goes_on = |train: &Train| {
                self.known.get(&train.id).is_some_and(|home| home.goes_on(train, now))
            };
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
    /// Nobody knows where, after an address that was heard at a time.
    fn open(addr: SocketAddr, before: Option<(SocketAddr, Instant)>, now: Instant) -> Self {
        Self { addr, heard: now, vote: Some(Box::new(Vote::new(before, now))), wary: None }
    }

    /// A vote that is over tells where it is. Where that is the address before, a stranger was ahead by more than a turn.
    fn settles(&mut self, now: Instant) {
        let Some(vote) = self.vote.take_if(|vote| vote.is_over(now)) else { return };
        self.addr = vote.winner(now).unwrap_or(self.addr);
        if vote.is_before(self.addr) {
            self.wary = Some(now + WARY);
        }
    }

    /// Whether packets from here have come since those of a train from elsewhere.
    fn goes_on(&self, train: &Train, now: Instant) -> bool {
        let is_open = self.vote.as_ref().is_some_and(|vote| !vote.is_over(now));
        !is_open && self.addr != train.meta.addr && self.heard > train.since
    }

    fn is_wary(&self, now: Instant) -> bool {
        self.wary.is_some_and(|until| now < until)
    }
}

/// Several keep-alives.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const SWEPT_EVERY: Duration = Duration::from_secs(10);
/// Connections above are not watched.
const KNOWN_MOST: usize = 65_536;
const CANDIDATES: usize = 4_096;
/// QUIC asks a new address for a proof at once.
const ANSWERED: Duration = Duration::from_secs(1);
/// How long an address has the longer turn after somebody was faster by more than the short one.
const WARY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
