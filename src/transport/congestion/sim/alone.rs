//! One connection by itself.

use std::time::Duration;

use super::link::{Link, Random};
use super::world::World;
use super::{MS, S, alone, auto};

#[test]
fn random_loss_takes_what_it_takes_and_no_more() {
    for loss in [0.0, 0.01, 0.05, 0.10, 0.15] {
        let mut link = Link::new(50.0, MS(40), 1.0);
        link.loss = loss;
        let world = alone(link, 15);
        let rate = world.flows[0].mbit(3, 15);
        assert!(rate > 45.0, "{rate:.1} of 50 Mbit/s at a loss of {loss}");
        let wait = world.forth.wait(0.5);
        assert!(wait < MS(10), "half of the packets wait {wait:?} at a loss of {loss}");
    }
}

#[test]
fn half_of_all_packets_lost_leaves_a_trickle_and_more() {
    let mut world = alone(Link::new(50.0, MS(40), 1.0), 5);
    world.forth.link.loss = 0.5;
    world.run(S(25));
    let rate = world.flows[0].mbit(15, 25);
    assert!(rate > 5.0, "{rate:.1} of 50 Mbit/s when every other packet is lost");
}

#[test]
fn start_up_finds_a_fast_long_path_within_three_seconds_and_loses_less_than_half_a_window() {
    for queue in [0.5, 2.0] {
        let world = alone(Link::new(200.0, MS(200), queue), 5);
        let rate = world.flows[0].mbit(3, 5);
        assert!(rate > 165.0, "{rate:.1} of 200 Mbit/s after three seconds");
        let (lost, window) = (world.forth.dropped * 1_480, world.flows[0].most_window);
        assert!(lost * 2 < window, "{lost} bytes lost of a window of {window}");
    }
}

#[test]
fn no_queue_is_too_short_and_none_is_filled() {
    let ten_packets = Link { queue: 15_000, ..Link::new(50.0, MS(40), 0.0) };
    let world = alone(ten_packets, 15);
    let rate = world.flows[0].mbit(5, 15);
    assert!(rate > 30.0, "{rate:.1} Mbit/s through a queue of ten packets");

    let ten_seconds = Link::new(50.0, MS(40), 250.0);
    let world = alone(ten_seconds, 15);
    let (rate, wait) = (world.flows[0].mbit(3, 15), world.forth.wait(0.99));
    assert!(rate > 45.0, "{rate:.1} Mbit/s");
    assert!(wait < MS(30), "{wait:?} in a queue of ten seconds");
}

#[test]
fn a_policer_is_not_run_into_again_and_again() {
    let link = Link { policer: true, queue: 100_000, ..Link::new(50.0, MS(40), 0.0) };
    let mut world = alone(link, 10);
    let before = (world.forth.passed, world.forth.dropped);
    world.run(S(25));
    let (passed, dropped) = (world.forth.passed - before.0, world.forth.dropped - before.1);
    assert!(world.flows[0].mbit(10, 25) > 45.0, "{:.1} Mbit/s", world.flows[0].mbit(10, 25));
    assert!(dropped * 25 < passed, "{dropped} of {passed} dropped");
}

#[test]
fn jitter_is_no_queue_and_reordering_ends_nothing() {
    let world = alone(Link { jitter: MS(10), ..Link::new(50.0, MS(40), 1.0) }, 20);
    let rate = world.flows[0].mbit(10, 20);
    assert!(rate > 35.0, "{rate:.1} of 50 Mbit/s with 10 ms of jitter");

    let world = alone(Link { reorder: 0.33, ..Link::new(50.0, MS(40), 1.0) }, 10);
    let rate = world.flows[0].mbit(3, 10);
    assert!(rate > 20.0, "{rate:.1} of 50 Mbit/s with a third of the packets overtaken");
}

#[test]
fn a_path_may_become_faster_slower_or_longer() {
    let mut world = alone(Link::new(50.0, MS(40), 1.0), 10);
    world.forth.link.rate *= 4.0;
    world.run(S(14));
    let rate = world.flows[0].mbit(12, 14);
    assert!(rate > 170.0, "{rate:.1} Mbit/s two seconds after it became 200");
    world.forth.link.rate /= 16.0;
    world.run(S(24));
    let rate = world.flows[0].mbit(16, 24);
    assert!(rate > 10.0, "{rate:.1} Mbit/s after it became 12.5");
    world.forth.link.delay += MS(40);
    world.run(S(40));
    let rate = world.flows[0].mbit(30, 40);
    assert!(rate > 10.0, "{rate:.1} of 12.5 Mbit/s after it became longer");
}

#[test]
fn an_outage_is_forgotten() {
    let mut world = alone(Link::new(50.0, MS(40), 1.0), 10);
    world.forth.link.down = true;
    world.run(S(13));
    world.forth.link.down = false;
    world.run(S(25));
    let rate = world.flows[0].mbit(20, 25);
    assert!(rate > 45.0, "{rate:.1} Mbit/s after an outage of three seconds");
}

#[test]
fn who_has_only_talked_so_far_is_as_quick_as_a_newcomer() {
    let mut world = World::new(Link::new(100.0, MS(100), 1.0), 1);
    let flow = world.flow(auto(), Duration::ZERO);
    world.talk(flow, S(10));
    world.run(S(14));
    let rate = world.flows[0].mbit(12, 14);
    assert!(rate > 85.0, "{rate:.1} of 100 Mbit/s two seconds after the conversation");
}

#[test]
fn who_has_only_listened_so_far_starts_like_a_newcomer() {
    let link = Link::new(200.0, MS(200), 2.0);
    let mut world = World::new(link, 1);
    world.back.link = link;
    let flow = world.flow(auto(), Duration::ZERO);
    world.listen(flow, S(8));
    world.run(S(15));
    let (heard, rate) = (world.back.passed * 1_480 * 8 / 8_000_000, world.flows[0].mbit(13, 15));
    assert!(heard > 100, "{heard} of 200 Mbit/s towards the listener");
    assert!(rate > 165.0, "{rate:.1} of 200 Mbit/s five seconds after the transfer that it heard");
}

#[test]
fn a_seed_makes_the_same_run_twice() {
    let run = |seed| {
        let mut world =
            World::new(Link { loss: 0.02, jitter: MS(5), ..Link::new(20.0, MS(40), 1.0) }, seed);
        world.flow(auto(), Duration::ZERO);
        world.run(S(3));
        world.flows.remove(0).arrived
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// Any path: nothing closes, something arrives, the queue is not filled for long.
fn any_path(seeds: std::ops::RangeInclusive<u64>) {
    for seed in seeds {
        let mut random = Random(seed);
        let mut between = |from: f64, to: f64| from + (to - from) * random.unit();
        let mut link =
            Link::new(between(2.0, 60.0), MS(between(5.0, 250.0) as u64), between(0.1, 4.0));
        link.queue = link.queue.max(20_000);
        link.loss = between(0.0, 0.15);
        link.jitter = MS(between(0.0, 10.0) as u64);
        link.reorder = between(-0.2, 0.1).max(0.0);
        link.policer = between(0.0, 1.0) < 0.1;
        let mut world = World::new(link, seed);
        world.flow(auto(), Duration::ZERO);
        world.run(S(12));
        let (rate, wait) = (world.flows[0].mbit(6, 12), world.forth.wait(0.5));
        let least = link.rate * 8.0 / 1e6 * 0.25;
        assert!(rate > least, "seed {seed}: {rate:.2} Mbit/s on {link:?}");
        assert!(wait < link.delay * 2 + MS(60), "seed {seed}: packets wait {wait:?} on {link:?}");
    }
}

#[test]
fn some_paths() {
    any_path(1..=25);
}

mod chaos {
    #[test]
    fn a_thousand_paths() {
        super::any_path(1..=1_000);
    }
}
