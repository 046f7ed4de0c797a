//! Where a connection is, while that is not known.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Of a connection id that turned up without a handshake, or somewhere else: the first packet from there may be a copy. So
/// all of a second tell which address sends what no other one sends. Noise is that too: an address counts only where QUIC
/// has answered it meanwhile, or one that has sent the same.
#[derive(Debug)]
pub(super) struct Vote {
    until: Instant,
    /// The address before, and when it was heard last.
    before: Option<(SocketAddr, Instant)>,
    /// In the order in which they were heard first.
    voices: Vec<Voice>,
    /// By their last bytes, which are encrypted: of two packets they are the same only where all else is.
    packets: HashMap<u64, Packet>,
    /// Bits that are 0 in the last bytes of the packets that count.
    sample: u64,
}

/// An address that packets came from.
#[derive(Debug)]
struct Voice {
    addr: SocketAddr,
    answered: bool,
    /// By its place in the list, who has sent the same; a bit for each.
    shares_with: u8,
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

    /// Whether it is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Packets with these last bytes have come from `addr`; whether it is not known whether any is genuine.
    pub(super) fn hears(
        &mut self,
        addr: SocketAddr,
        ends: impl IntoIterator<Item = u64>,
        since: Instant,
    ) -> bool {
        let Some(voice) = self.voice(addr) else { return true };
        for end in ends {
            self.counts(voice, end, since);
        }
        !self.voices[voice].answered
    }

    fn counts(&mut self, voice: usize, end: u64, since: Instant) {
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
    pub(super) fn answers(&mut self, addr: SocketAddr) {
        if let Some(voice) = self.voice(addr) {
            self.voices[voice].answered = true;
        }
    }

    /// Where the connection is, if anybody was heard.
    pub(super) fn winner(&self, now: Instant) -> Option<SocketAddr> {
        let mut own = [0; VOICES];
        for packet in self.packets.values() {
            // Of what came in the end, the original may be under way.
            let has_had_time = packet.since + ORIGINAL <= now;
            own[packet.voice] += usize::from(has_had_time && !packet.is_shared);
        }
        let answered = (0..).zip(&self.voices).filter(|(_, voice)| voice.answered);
        let answered = answered.fold(0, |bits: u8, (place, _)| bits | 1 << place);
        let may_win = |voice: &Voice| voice.answered || voice.shares_with & answered != 0;
        // Of equals the last: an original comes after its copy.
        let winner = self.voices.iter().zip(own).max_by_key(|(it, own)| (may_win(it), *own));
        winner.map(|(voice, _)| voice.addr)
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
    fn voice(&mut self, addr: SocketAddr) -> Option<usize> {
        if let Some(at) = self.voices.iter().position(|voice| voice.addr == addr) {
            return Some(at);
        }
        let new = Voice { addr, answered: false, shares_with: 0 };
        if self.voices.len() < VOICES {
            self.voices.push(new);
            return Some(self.voices.len() - 1);
        }
        let is_noise = |voice: &Voice| !voice.answered && voice.shares_with == 0;
        let noise = self.voices.iter().position(is_noise);
        let at = noise.or_else(|| self.voices.iter().position(|voice| !voice.answered))?;
        self.voices[at] = new;
        for voice in &mut self.voices {
            voice.shares_with &= !(1 << at);
        }
        self.packets.retain(|_, packet| packet.voice != at);
        Some(at)
    }
}

/// How long it takes.
const VOTE: Duration = Duration::from_secs(1);
/// How long an original may be under way after its copy has come.
const ORIGINAL: Duration = Duration::from_millis(250);
/// As many as [`Voice::shares_with`] has bits.
const VOICES: usize = 8;
/// Packets that are remembered; of more, half of them, and so on.
const PACKETS: usize = 1_024;
