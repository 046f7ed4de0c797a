//! Tests of the table, one rule each. Random sequences of all of them are in `fuzz/routes.rs`.

use super::*;
use crate::tunnel::Protocol;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 60 * 60;

fn table() -> Routes<&'static str> {
    Routes::new(Lease::MEMORY)
}

fn route(bind: &str) -> Route {
    Route::new(Protocol::Tcp, &bind.parse().expect(bind)).expect("a place")
}

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

/// `web` of the identity of this number, without a group.
fn web(identity: u8) -> Holder {
    Holder { identity: Identity::from_bytes([identity; 32]), name: name("web"), group: None }
}

fn grouped(group: &str) -> Holder {
    Holder { group: Some(name(group)), ..web(1) }
}

fn instance(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn refused(routes: &mut Routes<&'static str>, bind: &str, holder: Holder, now: u64) -> String {
    let before: Vec<Lease> = routes.leases().collect();
    let error = routes.claim(route(bind), holder, instance(99), "late", now).expect_err(bind);
    assert!(routes.leases().eq(before), "a refused claim changed the table");
    error.to_string()
}

#[test]
fn the_first_claim_of_a_route_is_new_and_gets_the_visitors() {
    let mut routes = table();
    let port = route("0.0.0.0:80");
    assert_eq!(routes.pick(&port), None);
    let claimed = routes.claim(port.clone(), web(1), instance(1), "a", NOW).expect("free");
    assert!(claimed.is_new && claimed.replaced.is_empty() && claimed.superseded.is_empty());
    assert_eq!((routes.pick(&port), routes.pick(&port)), (Some("a"), Some("a")));
    assert_eq!(routes.list().collect::<Vec<_>>(), [(&port, &web(1), 1)]);
    let released = routes.withdraw(claimed.number, NOW + 1).expect("it was the last");
    assert_eq!(released, Lease { route: port.clone(), holder: web(1), released_at: Some(NOW + 1) });
    assert_eq!((routes.pick(&port), routes.withdraw(claimed.number, NOW)), (None, None));
}

#[test]
fn a_newer_instance_takes_over_once_and_the_older_one_changes_nothing_when_it_leaves() {
    let mut routes = table();
    let port = route("80");
    let old = routes.claim(port.clone(), web(1), instance(1), "old", NOW).expect("free");
    let new = routes.claim(port.clone(), web(1), instance(2), "new", NOW).expect("taken over");
    assert_eq!((new.is_new, new.replaced, new.superseded), (false, vec!["old"], vec![]));
    assert_eq!(routes.withdraw(old.number, NOW), None);
    assert_eq!(routes.pick(&port), Some("new"));
    assert!(routes.withdraw(new.number, NOW).is_some());
}

#[test]
fn an_instance_that_comes_back_replaces_its_own_session_without_a_word() {
    let mut routes = table();
    let first = routes.claim(route("80"), web(1), instance(1), "lost", NOW).expect("free");
    let again = routes.claim(route("80"), web(1), instance(1), "back", NOW).expect("its own");
    assert_eq!((again.is_new, again.replaced, again.superseded), (false, vec![], vec!["lost"]));
    assert!(again.number > first.number);
    assert_eq!(routes.pick(&route("80")), Some("back"));
}

#[test]
fn replicas_of_one_group_take_turns_and_leave_one_by_one() {
    let mut routes = table();
    let port = route("80");
    let mut numbers = Vec::new();
    for (number, server) in [(1, "a"), (2, "b"), (3, "c")] {
        let claimed = routes.claim(port.clone(), grouped("g"), instance(number), server, NOW);
        let claimed = claimed.expect("side by side");
        assert_eq!((claimed.is_new, claimed.replaced), (number == 1, vec![]));
        numbers.push(claimed.number);
    }
    let turns: Vec<_> = (0..6).filter_map(|_| routes.pick(&port)).collect();
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
    let back = routes.claim(port.clone(), grouped("G"), instance(2), "b2", NOW).expect("back");
    assert_eq!((back.replaced, back.superseded), (vec![], vec!["b"]));
    assert_eq!(routes.withdraw(numbers[0], NOW), None);
    assert_eq!((routes.pick(&port), routes.pick(&port)), (Some("c"), Some("b2")));

    let other = routes.claim(port.clone(), grouped("h"), instance(4), "d", NOW).expect("newer");
    assert_eq!(other.replaced, ["c", "b2"], "another group does not serve beside them");
    let alone = routes.claim(port, web(1), instance(5), "e", NOW).expect("newer");
    assert_eq!(alone.replaced, ["d"], "nor does a server without one");
}

#[test]
fn others_are_told_no_more_than_taken_and_the_same_client_which_tunnel() {
    let mut routes = table();
    let other_name = Holder { name: name("site"), ..web(1) };
    let claimed = routes.claim(route("8080"), web(1), instance(1), "a", NOW).expect("free");
    assert_eq!(refused(&mut routes, "8080", web(2), NOW), "port 8080 (tcp) is taken");
    assert_eq!(
        refused(&mut routes, "8080", other_name.clone(), NOW),
        "port 8080 (tcp) is published by your tunnel web already"
    );
    routes.withdraw(claimed.number, NOW);
    assert_eq!(refused(&mut routes, "8080", web(2), NOW), "port 8080 (tcp) is taken");
    let moved = routes.claim(route("8080"), other_name.clone(), instance(1), "a", NOW);
    assert!(moved.expect("nobody serves it").is_new);
    assert_eq!(routes.list().map(|(_, holder, _)| holder).collect::<Vec<_>>(), [&other_name]);
}

#[test]
fn a_route_stays_its_holders_for_a_day() {
    let mut routes = table();
    let claimed = routes.claim(route("80"), web(1), instance(1), "a", NOW).expect("free");
    assert_eq!(routes.expire(NOW + 9 * DAY), 0, "it is served");
    routes.withdraw(claimed.number, NOW);
    refused(&mut routes, "80", web(2), NOW + DAY - 1);
    assert_eq!(routes.expire(NOW + DAY - 1), 0);
    let late = routes.claim(route("80"), web(2), instance(2), "b", NOW + DAY).expect("lapsed");
    assert!(late.is_new && late.closed.is_empty());
    routes.withdraw(late.number, NOW + DAY);
    assert_eq!(routes.expire(NOW + 2 * DAY), 1);
    assert_eq!(routes.list().count(), 0);
}

#[test]
fn a_claim_that_came_to_nothing_leaves_what_was_kept() {
    let mut routes = table();
    let port = route("80");
    let claimed = routes.claim(port.clone(), web(1), instance(1), "a", NOW).expect("free");
    routes.undo(claimed.number);
    assert_eq!(routes.leases().count(), 0);
    let claimed = routes.claim(port.clone(), web(1), instance(1), "a", NOW).expect("free");
    let released = routes.withdraw(claimed.number, NOW + 1).expect("it was the last");
    let claimed = routes.claim(port, web(1), instance(2), "b", NOW + 9).expect("kept");
    routes.undo(claimed.number);
    assert!(routes.leases().eq([released]));
}

#[test]
fn every_address_and_one_address_are_in_each_others_way() {
    let mut routes = table();
    let narrow = routes.claim(route("10.0.0.9:80"), web(1), instance(1), "narrow", NOW);
    narrow.expect("free");
    assert_eq!(refused(&mut routes, "[::]:80", web(2), NOW), "port 80 (tcp) is taken");
    routes.claim(route("10.0.0.8:80"), web(2), instance(2), "beside", NOW).expect("no overlap");
    refused(&mut routes, "0.0.0.0:80", web(1), NOW);

    routes.free(web(2).identity);
    let wide = routes.claim(route("0.0.0.0:80"), web(1), instance(3), "wide", NOW).expect("own");
    assert_eq!((wide.is_new, wide.closed), (true, vec![route("10.0.0.9:80")]));
    assert_eq!(wide.replaced, ["narrow"]);
    assert_eq!(routes.pick(&route("10.0.0.9:80")), None);
    assert_eq!(routes.list().count(), 1);
}

#[test]
fn what_is_remembered_holds_after_a_restart() {
    let mut before = table();
    let claimed = before.claim(route("80"), web(1), instance(1), "a", NOW).expect("free");
    before.withdraw(claimed.number, NOW);
    before.claim(route("81"), web(1), instance(1), "a", NOW).expect("free");

    let mut routes = table();
    routes.reserve(before.leases(), NOW + DAY / 2);
    refused(&mut routes, "80", web(2), NOW + DAY - 1);
    refused(&mut routes, "0.0.0.0:81", web(2), NOW + DAY);
    assert_eq!(routes.expire(NOW + DAY), 1, "the served one counts from the restart");
    let back = routes.claim(route("81"), web(1), instance(1), "a", NOW + DAY).expect("its own");
    assert!(back.is_new);

    let older = Lease { route: route("0.0.0.0:81"), holder: web(2), released_at: Some(NOW) };
    routes.reserve([older], NOW);
    assert_eq!(routes.list().count(), 1, "what is here already wins");
}

#[test]
fn a_revoked_client_keeps_nothing() {
    let mut routes = table();
    let gone = routes.claim(route("80"), web(1), instance(1), "a", NOW).expect("free");
    let live = routes.claim(route("81"), web(1), instance(1), "a", NOW).expect("free");
    routes.claim(route("82"), web(2), instance(2), "b", NOW).expect("free");
    routes.withdraw(gone.number, NOW);
    assert_eq!(routes.free(web(1).identity), [route("81")]);
    assert_eq!(routes.withdraw(live.number, NOW), None, "its session ends after it was freed");
    routes.claim(route("80"), web(2), instance(2), "b", NOW).expect("free again");
    assert_eq!(routes.list().count(), 2);
}
