//! Packets that came in pieces: put together within bounds, or given up.

use std::collections::HashMap;

use bytes::Bytes;

use crate::wire::Fragment;

/// The packets of one session that are not whole yet. No clock, no I/O: times are milliseconds of one clock.
#[derive(Debug, Default)]
pub struct Reassembly {
    packets: HashMap<(u64, u64), Partial>,
    bytes: usize,
    /// Packets that were given up, whole ones counted once, since the last [`Reassembly::take_lost`].
    lost: u64,
}

#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    count: u8,
    /// A bit for each piece that is still missing.
    missing: u64,
    began: u64,
}

impl Reassembly {
    /// Takes a piece; the packet, when it was the last one that was missing. A piece that does not go together with
    /// those before it is ignored, as is one that came already. [FLW-2] [FLW-11]
    pub fn take(&mut self, piece: &Fragment, now: u64) -> Option<Bytes> {
        let key = (piece.flow, piece.packet);
        if !self.packets.contains_key(&key) {
            self.begin(piece, now);
        }
        let partial = self.packets.get_mut(&key)?;
        let bit = 1u64 << piece.index;
        let fits = partial.count == piece.count && partial.bytes.len() == usize::from(piece.total);
        if !fits || partial.missing & bit == 0 {
            return None;
        }
        let start = piece.offset();
        partial.bytes[start..start + piece.payload.len()].copy_from_slice(&piece.payload);
        partial.missing &= !bit;
        if partial.missing != 0 {
            return None;
        }
        let whole = self.packets.remove(&key)?;
        self.bytes -= whole.bytes.len() + OVERHEAD;
        Some(whole.bytes.into())
    }

    /// Gives up what has waited for too long.
    pub fn sweep(&mut self, now: u64) {
        self.give_up(|partial| now.saturating_sub(partial.began) >= PATIENCE);
    }

    /// Packets that were given up since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&mut self, piece: &Fragment, now: u64) {
        let total = usize::from(piece.total);
        let cost = total + OVERHEAD;
        if self.bytes + cost > BYTES_MOST {
            self.sweep(now);
        }
        while self.bytes + cost > BYTES_MOST {
            let Some(oldest) = self.packets.values().map(|partial| partial.began).min() else {
                break;
            };
            self.give_up(|partial| partial.began == oldest);
        }
        self.bytes += cost;
        let missing = u64::MAX >> (64 - u32::from(piece.count));
        let partial = Partial { bytes: vec![0; total], count: piece.count, missing, began: now };
        self.packets.insert((piece.flow, piece.packet), partial);
    }

    fn give_up(&mut self, is_meant: impl Fn(&Partial) -> bool) {
        self.packets.retain(|_, partial| {
            let gone = is_meant(partial);
            if gone {
                self.bytes -= partial.bytes.len() + OVERHEAD;
                self.lost += 1;
            }
            !gone
        });
    }
}

/// Pieces leave in one go and come in the same order: what is missing after so long is lost.
const PATIENCE: u64 = 1_000;
/// What a packet costs besides its bytes.
const OVERHEAD: usize = 128;
/// Sixteen of the largest packets.
const BYTES_MOST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_PACKET, piece_size};

    fn pieces(flow: u64, packet: u64, bytes: &[u8], count: u8) -> Vec<Fragment> {
        let size = piece_size(bytes.len(), count.into());
        let piece = |(index, payload): (usize, &[u8])| Fragment {
            flow,
            packet,
            index: index as u8,
            count,
            total: bytes.len() as u16,
            payload: Bytes::copy_from_slice(payload),
        };
        bytes.chunks(size).enumerate().map(piece).collect()
    }

    fn packet(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7) as u8).collect()
    }

    #[test]
    fn pieces_in_any_order_and_twice_make_one_packet() {
        let (mut reassembly, bytes) = (Reassembly::default(), packet(MAX_PACKET));
        let mut all = pieces(1, 1, &bytes, 64);
        all.reverse();
        let last = all.pop().expect("a piece");
        for piece in all.iter().chain(&all) {
            assert_eq!(reassembly.take(piece, 0), None);
        }
        assert_eq!(reassembly.bytes(), MAX_PACKET + OVERHEAD);
        assert_eq!(reassembly.take(&last, 0).as_deref(), Some(&bytes[..]));
        assert_eq!((reassembly.bytes(), reassembly.take_lost()), (0, 0));
    }

    #[test]
    fn packets_of_different_flows_and_numbers_do_not_mix() {
        let mut reassembly = Reassembly::default();
        let (one, two) = (pieces(1, 1, &packet(2_000), 2), pieces(2, 1, &[9; 2_000], 2));
        assert_eq!(reassembly.take(&one[0], 0), None);
        assert_eq!(reassembly.take(&two[1], 0), None);
        let odd = pieces(1, 1, &packet(2_001), 3);
        assert_eq!(reassembly.take(&odd[1], 0), None, "it contradicts what came before");
        assert_eq!(reassembly.take(&two[0], 0).as_deref(), Some(&[9; 2_000][..]));
        assert_eq!(reassembly.take(&one[1], 0).as_deref(), Some(&packet(2_000)[..]));
    }

    #[test]
    fn a_storm_of_first_pieces_stays_within_bounds_and_is_counted() {
        let mut reassembly = Reassembly::default();
        let bytes = packet(MAX_PACKET);
        for number in 0..10_000 {
            reassembly.take(&pieces(1, number, &bytes, 60)[0], number / 10);
            assert!(reassembly.bytes() <= BYTES_MOST);
        }
        let held = reassembly.bytes() / (MAX_PACKET + OVERHEAD);
        assert_eq!(reassembly.take_lost() as usize + held, 10_000);
        reassembly.sweep(10_000);
        assert_eq!((reassembly.bytes(), reassembly.take_lost() as usize), (0, held));
    }
}
