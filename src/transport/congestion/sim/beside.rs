//! Connections that share a link.

use std::time::Duration;

use super::link::Link;
use super::world::World;
use super::{Factory, MS, S, auto, bbr, cubic, with_priority};
use crate::tunnel::Priority;

/// The share of `one` that begins with `other` beside it, in what arrives in a minute after ten seconds.
fn share(one: Factory, other: Factory, link: Link) -> f64 {
    let mut world = World::new(link, 1);
    world.flow(one, Duration::ZERO);
    world.flow(other, Duration::ZERO);
    world.run(S(70));
    let [one, other] = [0, 1].map(|flow| world.flows[flow].mbit(10, 70));
    let capacity = link.rate * 8.0 / 1e6;
    assert!(one + other > capacity * 0.85, "{one:.1} and {other:.1} of {capacity} Mbit/s");
    one / (one + other)
}

#[test]
fn two_of_our_kind_share_a_link_whoever_came_first() {
    for (mbit, rtt, queue) in [(30.0, 20, 1.0), (30.0, 80, 0.5), (20.0, 200, 2.0)] {
        let mut world = World::new(Link::new(mbit, MS(rtt), queue), 1);
        world.flow(auto(), Duration::ZERO);
        world.flow(auto(), S(5));
        world.run(S(65));
        let [one, other] = [0, 1].map(|flow| world.flows[flow].mbit(5, 65));
        let share = one / (one + other);
        assert!((0.4..=0.6).contains(&share), "{one:.1} and {other:.1} Mbit/s at {rtt} ms");
        let wait = world.forth.wait(0.5);
        assert!(wait < MS(rtt / 4 + 10), "half of the packets wait {wait:?} at {rtt} ms");
    }
}

#[test]
fn cubic_and_bbr_keep_a_third_beside_us_and_a_fifth_where_the_queue_is_short() {
    for (mbit, rtt, queue) in
        [(30.0, 20, 1.0), (30.0, 80, 1.0), (30.0, 80, 2.0), (30.0, 20, 0.5), (30.0, 80, 0.5)]
    {
        for (name, other) in [("cubic", cubic()), ("bbr", bbr())] {
            let theirs = share(other, auto(), Link::new(mbit, MS(rtt), queue));
            let least = if queue < 1.0 { 1.0 / 5.0 } else { 1.0 / 3.0 };
            assert!(
                theirs > least,
                "{name} has {theirs:.2} at {rtt} ms with a queue of {queue} BDP"
            );
        }
    }
}

#[test]
fn we_keep_a_share_beside_cubic() {
    for (rtt, queue) in [(20, 1.0), (80, 1.0), (80, 2.0)] {
        let ours = share(auto(), cubic(), Link::new(30.0, MS(rtt), queue));
        assert!(ours > 0.12, "{ours:.2} at {rtt} ms with a queue of {queue} BDP");
    }
}

#[test]
fn priorities_are_shares_and_bulk_makes_room() {
    let link = Link::new(30.0, MS(40), 1.0);
    let bulk = share(with_priority(Priority::Bulk), auto(), link);
    assert!((0.05..0.33).contains(&bulk), "bulk has {bulk:.2} beside normal");
    let interactive = share(with_priority(Priority::Interactive), auto(), link);
    assert!((0.55..0.95).contains(&interactive), "interactive has {interactive:.2} beside normal");
    let yields = share(with_priority(Priority::Bulk), cubic(), link);
    assert!(yields < 0.15, "bulk has {yields:.2} beside CUBIC");
}
