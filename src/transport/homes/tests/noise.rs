//! Strangers who send what the peer has not sent, and votes.

use super::*;
use crate::transport::homes::vote::{PACKETS, Winner};

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
fn noise_wins_no_vote_and_takes_no_address_back() {
    let mut scene = Scene::new();
    for number in 0..50 {
        assert!(scene.hears(addr(9), 100 + number), "three times as much noise, and first");
        assert!(scene.hears(addr(9), 150 + number) && scene.hears(addr(9), 200 + number));
        assert!(scene.after(10).hears(addr(1), number));
        scene.says(addr(1));
    }
    scene.after(1_000);
    assert!(!scene.hears(addr(9), 0));
    assert!(scene.hears(addr(1), 0));
    // Copies have moved it once.
    assert_eq!(scene.after(2_000).due(), [0]);
    assert!(!scene.hears(addr(9), 1));
    assert_eq!(scene.after(25).due(), [1]);
    scene.says(addr(9));
    scene.after(1_000).hears(addr(9), 0);
    assert!(!scene.after(1).hears(addr(1), 1));
    assert!(scene.after(1).hears(addr(9), 0));
    assert_eq!(scene.after(200).due(), [1]);
    scene.says(addr(1));
    for number in 0..100 {
        assert!(scene.hears(addr(1), number));
        scene.after(11).hears(addr(9), 100 + number);
    }
    assert!(scene.hears(addr(1), 0), "QUIC does not go back");
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn noise_from_many_addresses_drives_out_nobody() {
    let mut scene = Scene::new();
    assert!(scene.hears(addr(1), 0));
    scene.says(addr(1));
    for host in 10..250 {
        assert!(scene.after(1).hears(addr(host), host));
    }
    assert!(scene.after(1_000).hears(addr(1), 0));
    assert!(!scene.hears(addr(10), 0));
}

#[test]
fn who_has_a_connection_too_makes_nobody_late() {
    let mut scene = Scene::with(addr(1));
    let own = scene.id;
    scene.new_id();
    scene.begins(addr(9), scene.strangers);
    scene.id = own;
    assert!(!scene.after(1_000).hears(addr(9), 1));
    assert_eq!(scene.after(25).due(), [1]);
    scene.says_to_stranger(addr(9));
    assert!(!scene.hears(addr(9), 2), "that was for its own connection");
    assert!(scene.hears(addr(1), 0));
    // The client has moved by itself, and has another id.
    scene.new_id();
    scene.contend(addr(9), addr(2));
    assert!(scene.after(1_000).hears(addr(2), 0));
    assert!(!scene.hears(addr(9), 0));
    assert_eq!(scene.homes.connections[&scene.connection], addr(2));
}

#[test]
fn a_connection_that_a_vote_has_told_is_not_for_ever() {
    let mut scene = Scene::with(addr(1));
    let own = scene.id;
    scene.new_id();
    scene.begins(addr(8), scene.strangers);
    scene.new_id();
    // The stranger's connection has moved, too.
    scene.contend(addr(9), addr(2));
    assert!(!scene.after(1_000).hears(addr(2), 0), "the stranger has won");
    assert_eq!(scene.after(25).due(), [0]);
    scene.says(addr(2));
    assert!(scene.hears(addr(2), 1));
    assert!(!scene.after(1_001).hears(addr(9), 1), "he was silent while it was asked again");
    assert!(scene.hears(addr(2), 2));
    assert_eq!(scene.homes.known[&scene.id].owner, Owner::Voted(scene.connection));
    assert_eq!(scene.homes.known[&own].owner, Owner::Proved(scene.connection));
}

#[test]
fn who_comes_back_to_its_address_with_another_id_is_at_home_there() {
    let mut scene = Scene::with(addr(1));
    scene.new_id();
    for number in 0..50 {
        assert!(scene.hears(addr(9), 100 + number), "noise is first");
        assert!(scene.after(10).hears(addr(1), number));
        scene.says(addr(1));
    }
    assert!(scene.after(1_000).hears(addr(1), 0));
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn a_crowd_of_strangers_hides_nobody_who_moves() {
    let mut scene = Scene::with(addr(1));
    scene.after(1_000);
    assert!(!scene.hears(addr(2), 1));
    for port in 1..=10_000 {
        scene.hears(SocketAddr::from(([192, 0, 2, 9], port)), 0);
    }
    scene.after(25);
    while !scene.due().is_empty() {}
    assert!(!scene.hears(addr(2), 2));
    assert_eq!(scene.after(25).due(), [2]);
    scene.says(addr(2));
    assert!(scene.hears(addr(2), 3));
    scene.after(1_001);
    scene.homes.tick(scene.now);
    assert!(!scene.homes.awaits_answer(), "none is looked out for for long");
}

#[test]
fn votes_are_bounded() {
    let mut scene = Scene::new();
    for _ in 0..2 * VOTES {
        scene.new_id();
        assert!(scene.hears(addr(1), 0));
    }
    assert_eq!(scene.homes.votes[0].len(), VOTES);
    assert_eq!(scene.homes.known.len(), VOTES, "nobody has answered the others");
    scene.says(addr(1));
    scene.after(1_001);
    scene.homes.tick(scene.now);
    assert!(scene.homes.votes[0].is_empty());
    assert_eq!(scene.homes.known.keys().next(), Some(&scene.id), "it was answered");
    assert_eq!(scene.homes.known.len(), 1);
}

#[test]
fn each_packet_of_a_train_counts() {
    let mut scene = Scene::new();
    for round in 0..5 {
        assert!(scene.hears(addr(9), 200 + round) && scene.hears(addr(9), 220 + round));
        let packets = (0..20).map(|at| [&[0x40][..], &scene.id, &[20 * round + at; 20]].concat());
        let train = packets.collect::<Vec<_>>().concat();
        assert!(scene.after(10).arrives(addr(1), &train, 29));
        scene.says(addr(9));
        scene.says(addr(1));
    }
    assert!(scene.after(1_000).hears(addr(1), 0));
    assert!(!scene.hears(addr(9), 0));
}

#[test]
fn of_many_packets_a_sample_tells_who_copies_even_far_ahead_of_the_path() {
    let (start, [connection]) = (Instant::now(), tasks());
    let mut vote = Vote::new(None, start);
    for number in 0..5_000 {
        let now = start + Duration::from_micros(200 * number);
        if number % 10 > 0 {
            vote.hears(addr(9), [number << 32], now);
        }
        if let Some(late) = number.checked_sub(1_000) {
            vote.hears(addr(1), [late << 32], now);
        }
    }
    // Its packets are never the newest, so QUIC does not follow them.
    vote.answers(addr(9), Answer::New(connection), start);
    let winner = Winner { addr: addr(1), connection: None };
    assert_eq!(vote.winner(start + Duration::from_secs(1)), Some(winner));
    assert!(vote.remembered() <= PACKETS);
}

#[test]
fn of_a_copy_and_its_original_the_later_one_is_right() {
    let mut scene = Scene::new();
    assert!(scene.hears(addr(9), 0) && scene.hears(addr(1), 0));
    scene.says(addr(9));
    scene.says(addr(1));
    assert!(scene.after(1_000).hears(addr(1), 0));
    assert!(!scene.hears(addr(9), 0));
}
