//! Who moves a connection, and who does not.

use quinn_proto::HashedConnectionIdGenerator;

use super::header::FULL;
use super::waiting::HELD_MOST;
use super::*;
use crate::transport::socket::LARGEST_TRAIN;

mod noise;

/// Homes, a connection id of the endpoint, the tasks of its connection and of a stranger's, and the time.
struct Scene {
    homes: Homes,
    id: Id,
    connection: task::Id,
    strangers: task::Id,
    now: Instant,
}

impl Scene {
    /// After a handshake with `addr`.
    fn with(addr: SocketAddr) -> Self {
        let mut scene = Self::new();
        scene.begins(addr, scene.connection);
        scene
    }

    /// A handshake goes to an address.
    fn begins(&mut self, addr: SocketAddr, connection: task::Id) {
        let long = initial_from(&self.id, FULL);
        self.homes.sends(addr, &long, connection, self.now);
    }

    fn new() -> Self {
        let homes = Homes::new(Box::new(HashedConnectionIdGenerator::from_key(7)));
        let [connection, strangers] = tasks();
        let mut scene = Self { homes, id: [0; _], connection, strangers, now: Instant::now() };
        scene.new_id();
        scene
    }

    /// Another connection id, as for a client that has moved by itself.
    fn new_id(&mut self) {
        self.id = self.homes.ids.generate_cid()[..].try_into().expect("eight bytes");
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

    /// The connection has something for an address.
    fn says(&mut self, to: SocketAddr) {
        self.homes.sends(to, &[0x40; 30], self.connection, self.now);
    }

    /// The stranger's own connection has.
    fn says_to_stranger(&mut self, to: SocketAddr) {
        self.homes.sends(to, &[0x40; 30], self.strangers, self.now);
    }

    /// For half a second a stranger with a connection of his own sends twice as much as a client who is elsewhere by now,
    /// and both are answered.
    fn contend(&mut self, stranger: SocketAddr, client: SocketAddr) {
        for number in 0..50 {
            assert!(self.hears(stranger, 100 + number) && self.hears(stranger, 150 + number));
            self.says_to_stranger(stranger);
            assert!(self.after(10).hears(client, number));
            self.says(client);
        }
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

fn tasks<const COUNT: usize>() -> [task::Id; COUNT] {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    std::array::from_fn(|_| runtime.spawn(async {}).id())
}

/// A packet of a handshake, from a connection id.
fn initial_from(id: &Id, length: usize) -> Vec<u8> {
    let head = [&[0xC0, 0, 0, 0, 1, 0, 8][..], id].concat();
    [&head[..], &vec![0; length - head.len()]].concat()
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
    assert!(!scene.hears(addr(9), 0), "QUIC answered none");
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
    assert_eq!(scene.homes.waiting.bytes(), 0);
    assert!(!scene.homes.awaits_answer());
}

#[test]
fn what_was_first_in_silence_moves_nothing_for_long() {
    let mut scene = Scene::with(addr(1));
    assert!(!scene.after(1_000).hears(addr(9), 1));
    assert_eq!(scene.after(25).due(), [1]);
    scene.says(addr(9));
    assert!(scene.hears(addr(9), 2), "it looks as if it had moved");
    assert!(scene.after(50).hears(addr(1), 1) && scene.hears(addr(1), 2));
    assert!(scene.hears(addr(9), 3), "nobody knows yet");
    assert!(scene.hears(addr(1), 3) && scene.hears(addr(1), 4));
    assert!(!scene.after(1_000).hears(addr(9), 5), "it never had");
    assert!(scene.after(100).due().is_empty(), "and the path is slower than a turn");
    assert!(scene.hears(addr(1), 5));
    assert_eq!(scene.after(100).due(), [5]);
}

#[test]
fn who_moves_while_a_stranger_copies_is_who_sends_what_no_other_one_sends() {
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
fn copies_of_what_came_before_a_move_do_not_count() {
    let mut scene = Scene::with(addr(1));
    for number in 0..20 {
        assert!(!scene.after(5).hears(addr(9), number));
    }
    for number in 0..20 {
        assert!(scene.after(2).hears(addr(1), number));
    }
    assert!(!scene.hears(addr(9), 20) && !scene.after(20).hears(addr(2), 20));
    assert_eq!(scene.after(5).due(), [20]);
    scene.says(addr(9));
    assert_eq!(scene.due().len(), 8);
    while !scene.due().is_empty() {}
    assert!(scene.after(5).hears(addr(2), 21), "the only one that nobody has copied");
    assert!(scene.after(1_000).hears(addr(2), 22));
    assert!(!scene.hears(addr(9), 22));
}

#[test]
fn only_the_beginning_of_a_handshake_tells_where_a_connection_is() {
    let mut scene = Scene::new();
    // A refusal is as short as it can be, and a Version Negotiation has the ids of the packet that it is about.
    let refusal = initial_from(&scene.id, FULL - 1);
    let mut negotiation = initial_from(&scene.id, FULL);
    negotiation[4] = 0;
    for packet in [refusal, negotiation] {
        scene.homes.sends(addr(9), &packet, scene.strangers, scene.now);
        assert!(scene.homes.known.is_empty());
    }
    assert!(scene.hears(addr(9), 0), "noise is here before it");
    scene.begins(addr(1), scene.connection);
    assert!(scene.hears(addr(1), 0));
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn a_copy_behind_packets_of_a_handshake_waits_too() {
    let mut scene = Scene::with(addr(1));
    let long = |form: u8, to: &[u8], behind: &[u8]| {
        [&[form, 0, 0, 0, 1, to.len() as u8][..], to, &[0], behind].concat()
    };
    let copy = [&[0x40][..], &scene.id, &[0; 20]].concat();
    let handshake = long(0xE0, &scene.id, &[20]);
    // Nothing tells whose the id of a client's first packets is; a token of two bytes, a length of two bytes.
    let initial = long(0xC0, &[7; 20], &[2, 0, 0, 0x40, 20]);
    let early = long(0xD0, &[7; 20], &[20]);
    for before in [vec![&handshake], vec![&initial], vec![&early], vec![&initial, &early]] {
        let before = before.into_iter().flat_map(|packet| [&packet[..], &[0; 20]].concat());
        let datagram = [before.collect(), copy.clone()].concat();
        assert!(!scene.arrives(addr(9), &datagram, datagram.len()), "{datagram:02x?}");
        assert!(scene.arrives(addr(1), &datagram, datagram.len()));
    }
    assert!(!scene.arrives(addr(9), &handshake, handshake.len()));
    assert!(scene.arrives(addr(9), &initial, initial.len()), "a client's choice");
}

#[test]
fn an_id_without_a_handshake_is_with_who_sends_what_no_other_one_sends() {
    let mut scene = Scene::new();
    for number in 0..50 {
        assert!(number % 2 == 1 || scene.hears(addr(9), number), "a copy is first");
        assert!(scene.after(10).hears(addr(1), number));
    }
    scene.says(addr(9));
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
    for packet in [&[][..], &[0x40; 8], &[0xC0; 5], &[0xC0; 30], &[0xF0; 30], &[0xE0; FULL]] {
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
    let room = HELD_MOST / (packet.len() + size_of::<Train>());
    for _ in 0..room {
        assert!(!scene.arrives(addr(9), &packet, packet.len()));
        assert!(!scene.homes.is_ready());
    }
    assert!(!scene.hears(addr(9), 1));
    assert!(!scene.arrives(addr(9), &packet, packet.len()));
    assert_eq!(scene.due(), [0], "the first one comes out for the last");
    scene.after(25);
    assert_eq!(std::iter::from_fn(|| scene.due().pop()).last(), Some(0), "in order");
    assert_eq!(scene.homes.waiting.bytes(), 0);
    // Some come twice.
    for _ in 0..KNOWN_MOST + 1_000 {
        scene.new_id();
        scene.begins(addr(1), scene.connection);
    }
    assert_eq!(scene.homes.known.len(), KNOWN_MOST);
    scene.after(61_000);
    scene.new_id();
    assert!(scene.hears(addr(1), 0));
    assert_eq!(scene.homes.known.len(), 1, "the others have been silent");
}
