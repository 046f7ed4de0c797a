//! Where a connection is, while that is not known.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task;

/// Of a connection id that turned up without a handshake, or somewhere else: the first packet from there may be a copy. So
/// all of a second tell which address sends what no other one sends. Noise is that too: an address counts only where QUIC
/// has answered it meanwhile, or one that has sent the same.
#[derive(Debug)]
pub(super) struct Vote {
    pub(super) until: Instant,
    /// The address before, and when it was heard last.
    before: Option<(SocketAddr, Instant)>,
    voices: Vec<Voice>,
    /// By a hash, which nobody can foresee, of their last bytes, which are encrypted: these are the same only where all is.
    packets: HashMap<u64, Packet>,
    /// Bits that are 0 in the hashes of the packets that count.
    sample: u64,
}

/// An address that packets came from.
#[derive(Debug)]
struct Voice {
    addr: SocketAddr,
    since: Instant,
    answer: Answer,
    /// By its place in the list, who has sent the same; a bit for each.
    shares_with: u8,
}

/// Whether a connection has sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None has.
    No,
    /// One that is known to be there, so that it may have sent something else.
    Usual,
    /// The one whose task this is, which was elsewhere before: QUIC has moved it.
    New(task::Id),
}

/// Where a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Winner {
    pub(super) addr: SocketAddr,
    /// Whose task that is.
    pub(super) connection: Option<task::Id>,
}

#[derive(Debug)]
struct Packet {
    voice: usize,
    since: Instant,
    is_shared: bool,
}

impl Vote {
    /// Begins, after an address that was heard last at a time.
    pub(super) fn new(before: Option<(SocketAddr, Instant)>, now: Instant) -> Self {
        Self { until: now + VOTE, before, voices: Vec::new(), packets: HashMap::new(), sample: 0 }
    }

    /// Packets with these last bytes have come from `addr`; whether it is not known yet that any is genuine.
    pub(super) fn hears(
        &mut self,
        addr: SocketAddr,
        ends: impl IntoIterator<Item = u64>,
        since: Instant,
    ) -> bool {
        let Some(voice) = self.voice(addr, since) else { return true };
        for end in ends {
            self.counts(voice, end, since);
        }
        !matches!(self.voices[voice].answer, Answer::New(_))
    }

    fn counts(&mut self, voice: usize, end: u64, since: Instant) {
        let end = self.packets.hasher().hash_one(end);
        if end & self.sample != 0 {
            return;
        }
        // The original of what came while the address before was heard may have come from there.
        let is_shared = self.before.is_some_and(|(_, heard)| since <= heard);
        let new = Packet { voice, since, is_shared };
        let packet = self.packets.entry(end).or_insert(new);
        if packet.voice != voice {
            packet.is_shared = true;
            self.voices[voice].shares_with |= 1 << packet.voice;
            self.voices[packet.voice].shares_with |= 1 << voice;
        }
        while self.packets.len() > PACKETS {
            self.sample = self.sample << 1 | 1;
            self.packets.retain(|end, _| end & self.sample == 0);
        }
    }

    /// QUIC sends to `addr`.
    pub(super) fn answers(&mut self, addr: SocketAddr, answer: Answer, now: Instant) {
        if let Some(voice) = self.voice(addr, now)
            && self.voices[voice].answer.rank() < answer.rank()
        {
            self.voices[voice].answer = answer;
        }
    }

    /// Where the connection is, if QUIC has answered anybody.
    pub(super) fn winner(&self, now: Instant) -> Option<Winner> {
        let mut own = [0; VOICES];
        for packet in self.packets.values() {
            // Of what came in the end, the original may be under way.
            let has_had_time = packet.since + ORIGINAL <= now;
            own[packet.voice] += usize::from(has_had_time && !packet.is_shared);
        }
        let voices = self.voices.iter().zip(own).map(|(voice, own)| (voice, self.rank(voice), own));
        let answered = voices.filter(|(_, rank, _)| *rank > Answer::No.rank());
        // Of equals the last: an original comes after its copy.
        let winner = answered.max_by_key(|(voice, rank, own)| (*rank, *own, voice.since));
        winner.map(|(Voice { addr, answer, .. }, ..)| Winner {
            addr: *addr,
            connection: answer.connection(),
        })
    }

    /// The best answer that an address, or another one that has sent the same, has got.
    fn rank(&self, voice: &Voice) -> u8 {
        let shares_with = |place: usize| voice.shares_with & 1 << place != 0;
        let others = (0..).zip(&self.voices).filter(|(place, _)| shares_with(*place));
        others.map(|(_, other)| other.answer.rank()).fold(voice.answer.rank(), u8::max)
    }

    /// Whether `addr` is the one before.
    pub(super) fn is_before(&self, addr: SocketAddr) -> bool {
        self.before.is_some_and(|(before, _)| before == addr)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.packets.len()
    }

    /// The place of an address in the list, if there is room: noise goes first, and who is answered never.
    fn voice(&mut self, addr: SocketAddr, since: Instant) -> Option<usize> {
        if let Some(at) = self.voices.iter().position(|voice| voice.addr == addr) {
            return Some(at);
        }
        let new = Voice { addr, since, answer: Answer::No, shares_with: 0 };
        if self.voices.len() < VOICES {
            self.voices.push(new);
            return Some(self.voices.len() - 1);
        }
        let places = (0..VOICES).filter(|at| self.voices[*at].answer == Answer::No);
        let at =
            places.min_by_key(|at| (self.voices[*at].shares_with != 0, self.voices[*at].since))?;
        self.voices[at] = new;
        for voice in &mut self.voices {
            voice.shares_with &= !(1 << at);
        }
        self.packets.retain(|_, packet| packet.voice != at);
        Some(at)
    }
}

impl Answer {
    fn rank(self) -> u8 {
        match self {
            Self::No => 0,
            Self::Usual => 1,
            Self::New(_) => 2,
        }
    }

    fn connection(self) -> Option<task::Id> {
        match self {
            Self::New(connection) => Some(connection),
            Self::No | Self::Usual => None,
        }
    }
}

/// How long it takes.
const VOTE: Duration = Duration::from_secs(1);
/// How long an original may be under way after its copy has come.
const ORIGINAL: Duration = Duration::from_millis(250);
/// As many as [`Voice::shares_with`] has bits.
const VOICES: usize = 8;
/// Packets that are remembered; of more, half of them, and so on.
pub(super) const PACKETS: usize = 256;
