//! Who moves a connection, and who does not.

use quinn_proto::HashedConnectionIdGenerator;

use super::*;
use crate::transport::socket::LARGEST_TRAIN;

const KEY: u64 = 7;

/// Homes, a connection id of the endpoint, and the time.
struct Scene {
    homes: Homes,
    id: Id,
    now: Instant,
}

impl Scene {
    /// After a handshake with `addr`.
    fn with(addr: SocketAddr) -> Self {
        let mut scene = Self::new();
        let long = [&[0xC0, 0, 0, 0, 1, 0, 8][..], &scene.id, &[0; 20]].concat();
        scene.homes.sends(addr, &long, scene.now);
        scene
    }

    fn new() -> Self {
        let mut ids = HashedConnectionIdGenerator::from_key(KEY);
        let id = ids.generate_cid()[..].try_into().expect("eight bytes");
        Self { homes: Homes::new(Box::new(ids)), id, now: Instant::now() }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    /// Whether a packet is passed on at once.
    fn hears(&mut self, from: SocketAddr, payload: u8) -> bool {
        let packet = [&[0x40][..], &self.id, &[payload; 20]].concat();
        self.arrives(from, &packet, packet.len())
    }

    fn arrives(&mut self, from: SocketAddr, bytes: &[u8], stride: usize) -> bool {
        let meta = RecvMeta { addr: from, len: bytes.len(), stride, ecn: None, dst_ip: None };
        self.homes.arrives(&meta, bytes, self.now)
    }

    /// The endpoint has something for an address.
    fn says(&mut self, to: SocketAddr) {
        self.homes.sends(to, &[0x40; 30], self.now);
    }

    /// The last byte of each train that is due.
    fn due(&mut self) -> Vec<u8> {
        let mut room = vec![vec![0; LARGEST_TRAIN]; 8];
        let mut buffers: Vec<_> = room.iter_mut().map(|it| IoSliceMut::new(it)).collect();
        let mut meta = [RecvMeta::default(); 8];
        let count = self.homes.release(&mut buffers, &mut meta, self.now);
        (0..count).map(|at| buffers[at][meta[at].len - 1]).collect()
    }
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 40_000))
}

#[test]
fn copies_wait_for_as_long_as_their_originals_go_on() {
    let mut scene = Scene::with(addr(1));
    for number in 0..100 {
        assert!(!scene.after(10).hears(addr(9), number), "a copy");
        assert!(scene.after(10).hears(addr(1), number), "what is late is at home");
        assert!(!scene.due().contains(&number));
    }
    scene.says(addr(9));
    assert!(!scene.hears(addr(9), 0), "it was passed on from beside, and proves nothing");
    assert!(scene.hears(addr(1), 0));
}

#[test]
fn a_peer_that_has_moved_waits_for_one_turn() {
    let mut scene = Scene::with(addr(1));
    assert!(scene.hears(addr(1), 0));
    assert!(!scene.after(1).hears(addr(2), 1));
    assert!(!scene.after(20).hears(addr(2), 2));
    assert_eq!(scene.due(), [0; 0]);
    assert_eq!(scene.after(5).due(), [1]);
    assert!(!scene.hears(addr(2), 3), "nobody has found it genuine");
    scene.says(addr(2));
    assert_eq!(scene.due(), [2, 3], "at once");
    assert!(scene.hears(addr(2), 4));
    assert_eq!(scene.homes.held_bytes, 0);
    assert!(!scene.homes.awaits_answer());
}

#[test]
fn what_was_first_in_silence_moves_nothing_for_long() {
    let mut scene = Scene::with(addr(1));
    assert!(!scene.after(1_000).hears(addr(9), 1));
    assert_eq!(scene.after(25).due(), [1]);
    scene.says(addr(9));
    assert!(scene.hears(addr(9), 2), "it looks as if it had moved");
    assert!(scene.hears(addr(1), 1), "it never had");
    assert!(!scene.hears(addr(9), 3));
    assert!(scene.hears(addr(1), 3));
}

#[test]
fn who_moves_while_a_stranger_copies_is_where_most_packets_come_from() {
    let mut scene = Scene::with(addr(1));
    assert!(scene.hears(addr(1), 0));
    scene.after(100);
    assert!(!scene.hears(addr(9), 1) && !scene.hears(addr(2), 1), "a copy is first");
    assert_eq!(scene.after(25).due(), [1, 1]);
    scene.says(addr(9));
    scene.says(addr(2));
    for number in 0..100 {
        assert!(number % 2 == 1 || scene.hears(addr(9), number), "nobody knows yet");
        assert!(scene.after(8).hears(addr(2), number));
    }
    assert!(scene.after(201).hears(addr(2), 0));
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn noise_with_the_right_id_is_passed_on_and_moves_nothing() {
    let mut scene = Scene::with(addr(1));
    assert!(!scene.after(1_000).hears(addr(9), 1));
    assert_eq!(scene.after(25).due(), [1]);
    scene.says(addr(1));
    assert!(!scene.hears(addr(9), 2));
    scene.after(2_000).says(addr(9));
    assert!(!scene.hears(addr(9), 2), "an answer to something else");
}

#[test]
fn an_id_without_a_handshake_is_where_most_of_its_packets_come_from() {
    let mut scene = Scene::new();
    for number in 0..50 {
        assert!(number % 2 == 1 || scene.hears(addr(9), number), "a copy is first");
        assert!(scene.after(10).hears(addr(1), number));
    }
    assert!(scene.after(1_000).hears(addr(1), 0));
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn ids_of_others_and_handshakes_are_not_watched() {
    let mut scene = Scene::new();
    scene.id[7] ^= 1;
    for host in 0..10 {
        assert!(scene.hears(addr(host), 0));
    }
    assert!(scene.homes.known.is_empty());
    let mut scene = Scene::with(addr(1));
    for packet in [&[][..], &[0x40; 8], &[0xC0; 30], &[0xF0; 30]] {
        assert!(scene.arrives(addr(9), packet, packet.len()), "{packet:?}");
        assert_eq!(handshake_id(packet), None, "{packet:?}");
    }
}

#[test]
fn a_copy_is_found_behind_something_else_in_one_train() {
    let mut scene = Scene::with(addr(1));
    let packets = [[0x40; 29], [0x40; 29]];
    let mut train = packets.concat();
    train[30..38].copy_from_slice(&scene.id);
    assert!(!scene.arrives(addr(9), &train, 29));
    assert!(scene.arrives(addr(1), &train, 29));
}

#[test]
fn what_is_held_and_what_is_known_is_bounded() {
    let mut scene = Scene::with(addr(1));
    scene.after(1);
    let packet = [&[0x40][..], &scene.id, &[0; 65_000]].concat();
    let mut held = 0;
    while !scene.arrives(addr(9), &packet, packet.len()) {
        held += 1;
    }
    assert_eq!(held, HELD_MOST / (packet.len() + size_of::<Held>()));
    scene.after(25);
    while !scene.due().is_empty() {}
    assert_eq!(scene.homes.held_bytes, 0);
    let mut ids = HashedConnectionIdGenerator::from_key(KEY);
    // Some come twice.
    for _ in 0..KNOWN_MOST + 1_000 {
        scene.id = ids.generate_cid()[..].try_into().expect("eight bytes");
        assert!(scene.hears(addr(1), 0));
    }
    assert_eq!(scene.homes.known.len(), KNOWN_MOST);
    scene.after(61_000);
    scene.id = ids.generate_cid()[..].try_into().expect("eight bytes");
    assert!(scene.hears(addr(1), 0));
    assert_eq!(scene.homes.known.len(), 1, "the others have been silent");
}
