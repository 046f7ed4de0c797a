//! Datagrams as bytes, and pieces of packets in any order, against a model that keeps everything.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use conduit::relay::Reassembly;
use conduit::wire::{
    Datagram, Fragment, HEADER_MOST, MAX_FRAGMENTS, MAX_PACKET, piece_size, put_fragment,
    put_whole, whole_header_len,
};

/// What decodes is encoded and decodes to the same. Whatever the bytes are, they can be sent in pieces.
pub(crate) fn datagram(data: &[u8]) {
    if let Ok(datagram) = Datagram::decode(Bytes::copy_from_slice(data)) {
        let mut again = BytesMut::new();
        match &datagram {
            Datagram::Whole { flow, payload } => {
                put_whole(*flow, &mut again);
                assert_eq!(again.len(), whole_header_len(*flow));
                again.extend_from_slice(payload);
            }
            Datagram::Fragment(piece) => {
                assert_sound(piece);
                put_fragment(piece, &mut again);
                assert!(again.len() <= HEADER_MOST + piece.payload.len());
            }
        }
        // The shortest integers are written, any are read.
        assert!(again.len() <= data.len());
        assert_eq!(Datagram::decode(again.freeze()), Ok(datagram));
    }
    if let [count, packet @ ..] = data {
        let count = (*count).clamp(2, MAX_FRAGMENTS as u8);
        if piece_size(packet.len(), count.into()) * usize::from(count - 1) < packet.len() {
            sent_in_pieces(packet, count);
        }
    }
}

fn assert_sound(piece: &Fragment) {
    let (total, end) = (usize::from(piece.total), piece.offset() + piece.payload.len());
    assert!((2..=MAX_FRAGMENTS).contains(&usize::from(piece.count)) && piece.index < piece.count);
    assert!(total <= MAX_PACKET && !piece.payload.is_empty());
    let is_last = piece.index + 1 == piece.count;
    assert!(if is_last { end == total } else { end < total });
}

fn sent_in_pieces(packet: &[u8], count: u8) {
    let mut reassembly = Reassembly::default();
    let mut whole = None;
    for (index, payload) in packet.chunks(piece_size(packet.len(), count.into())).enumerate() {
        assert!(whole.is_none(), "whole before the last piece");
        let payload = Bytes::copy_from_slice(payload);
        let (index, total) = (index as u8, packet.len() as u16);
        let piece = Fragment { flow: 2, packet: 0, index, count, total, payload };
        let mut bytes = BytesMut::new();
        put_fragment(&piece, &mut bytes);
        assert_eq!(Datagram::decode(bytes.freeze()), Ok(Datagram::Fragment(piece.clone())));
        whole = reassembly.take(&piece, 0);
    }
    assert_eq!(whole.as_deref(), Some(packet));
}

/// Four bytes are one step: what, which packet, which piece, and what it holds.
pub(crate) fn reassembly(data: &[u8]) {
    let mut world = World::default();
    for step in data.as_chunks::<4>().0 {
        world.step(*step);
        world.check();
    }
    world.end();
}

#[derive(Default)]
struct World {
    reassembly: Reassembly,
    now: u64,
    held: HashMap<(u64, u64), Packet>,
    begun: u64,
    completed: u64,
    given_up: u64,
}

/// A packet of which something has come.
struct Packet {
    shape: (u16, u8),
    pieces: HashMap<u8, Bytes>,
    began: u64,
}

impl World {
    fn step(&mut self, [what, key, which, fill]: [u8; 4]) {
        let usual = SHAPES[usize::from(key) % SHAPES.len()];
        match what % 8 {
            0..=3 => self.take(key, usual, which, fill),
            4 => (0..usual.1).for_each(|at| self.take(key, usual, at.wrapping_add(which), fill)),
            5 => self.take(key, SHAPES[usize::from(fill) % SHAPES.len()], which, fill),
            6 => self.now += u64::from(which) * 8,
            _ => {
                self.reassembly.sweep(self.now);
                let now = self.now;
                self.give_up(|packet| packet.began + PATIENCE <= now);
            }
        }
    }

    fn take(&mut self, key: u8, shape: (u16, u8), which: u8, fill: u8) {
        let (total, count) = shape;
        let index = which % count;
        let size = piece_size(total.into(), count.into());
        let length = (usize::from(total) - usize::from(index) * size).min(size);
        let payload = Bytes::from(vec![fill ^ index; length]);
        let (flow, packet) = (u64::from(key % 8), u64::from(key / 8));
        let piece = Fragment { flow, packet, index, count, total, payload: payload.clone() };
        assert_sound(&piece);
        let whole = self.reassembly.take(&piece, self.now);
        if !self.held.contains_key(&(flow, packet)) {
            self.begin((flow, packet), shape);
        }
        let Some(held) = self.held.get_mut(&(flow, packet)) else { return };
        if held.shape == shape {
            held.pieces.entry(index).or_insert(payload);
        }
        if held.pieces.len() < usize::from(held.shape.1) {
            assert_eq!(whole, None, "whole before every piece has come");
            return;
        }
        let mut expected = Vec::new();
        (0..count).for_each(|index| expected.extend_from_slice(&held.pieces[&index]));
        assert!(whole.as_deref() == Some(&expected[..]), "another packet than its pieces said");
        self.held.remove(&(flow, packet));
        self.completed += 1;
    }

    /// Who is late gives way, and then who came first.
    fn begin(&mut self, key: (u64, u64), shape: (u16, u8)) {
        let now = self.now;
        if self.bytes() + cost(shape) > BYTES_MOST {
            self.give_up(|packet| packet.began + PATIENCE <= now);
        }
        while self.bytes() + cost(shape) > BYTES_MOST {
            let oldest = self.held.values().map(|packet| packet.began).min();
            self.give_up(|packet| Some(packet.began) == oldest);
        }
        self.held.insert(key, Packet { shape, pieces: HashMap::new(), began: now });
        self.begun += 1;
    }

    fn give_up(&mut self, is_meant: impl Fn(&Packet) -> bool) {
        self.held.retain(|_, packet| !is_meant(packet));
    }

    fn bytes(&self) -> usize {
        self.held.values().map(|packet| cost(packet.shape)).sum()
    }

    fn check(&mut self) {
        assert!(self.reassembly.bytes() <= BYTES_MOST, "more is held than may be");
        assert_eq!(self.reassembly.bytes(), self.bytes());
        self.given_up += self.reassembly.take_lost();
        let known = self.completed + self.given_up + self.held.len() as u64;
        assert_eq!(self.begun, known, "a packet that nobody knows of");
    }

    /// Everything that is left is given up, and then nothing is held.
    fn end(mut self) {
        let held = self.held.len() as u64;
        self.reassembly.sweep(self.now + PATIENCE);
        assert_eq!((self.reassembly.bytes(), self.reassembly.take_lost()), (0, held));
    }
}

fn cost((total, _): (u16, u8)) -> usize {
    usize::from(total) + OVERHEAD
}

/// Lengths of packets, and in how many pieces they travel.
const SHAPES: [(u16, u8); 7] =
    [(2, 2), (100, 3), (2_001, 2), (9_000, 8), (65_507, 2), (65_507, 64), (30_000, 21)];
/// Bytes that one session may hold. [FLW-11]
const BYTES_MOST: usize = 1 << 20;
/// What a packet costs besides its bytes.
const OVERHEAD: usize = 128;
/// Milliseconds after which pieces are given up.
const PATIENCE: u64 = 1_000;
