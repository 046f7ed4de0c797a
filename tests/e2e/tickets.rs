//! Tickets: spent, expired, mistyped, for somebody else, and fought over.

use std::str::FromStr;
use std::thread;
use std::time::{Duration, SystemTime};

use conduit::identity::Ticket;

use crate::world::{Service, World, echo, figure, within};

#[test]
fn h13_a_used_ticket_admits_nobody_else_and_tells_its_holder_why() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let ticket = router.invite(&["--name", "first"]);
    world.client("A").joins(&ticket, target.addr());
    world.client("B").join(&ticket, target.addr()).exits(77).says("used").says("first");
}

#[test]
fn h13_the_same_client_may_show_its_ticket_again() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let ticket = router.invite(&[]);
    let client = world.client("A");
    client.joins(&ticket, target.addr());
    let outcome = client.join(&ticket, target.addr()).args(["--name", "again"]).succeeds();
    echo(&client.started(&outcome).connect(), b"again").expect("the same bytes");
}

#[test]
fn h13_an_expired_ticket_is_said_to_be_expired() {
    let world = World::new();
    let router = world.router();
    let ticket = router.invite(&["--expires", "1s"]);
    let expires = Ticket::from_str(&ticket).expect("a ticket").expires;
    within(Duration::from_secs(5), "it expires", || {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs();
        (now > expires).then_some(())
    });
    world.client("A").join(&ticket, "127.0.0.1:9").exits(77).says("expired");
}

#[test]
fn h13_a_mistyped_or_cut_ticket_is_told_apart_from_a_refused_one() {
    let world = World::new();
    let router = world.router();
    let ticket = router.invite(&[]);
    let client = world.client("A");
    let middle = ticket.len() / 2;
    let flipped = if &ticket[middle..=middle] == "a" { "b" } else { "a" };
    let mistyped = format!("{}{flipped}{}", &ticket[..middle], &ticket[middle + 1..]);
    for (wrong, word) in [
        (mistyped.as_str(), "checksum"),
        (&ticket[..ticket.len() - 9], "cut"),
        (&ticket[..12], "cut"),
        (&router.identity(), "cdt1_"),
        ("", "ticket"),
        ("hello world", "cdt1_"),
    ] {
        let outcome = client.join(wrong, "127.0.0.1:9").ends();
        assert!(matches!(outcome.code, Some(2 | 77 | 78)), "{outcome}");
        let outcome = outcome.says(word);
        assert!(
            wrong.len() < 20 || !outcome.stderr.contains(wrong),
            "the text is a secret: {outcome}"
        );
    }
    client.joins(&ticket, "127.0.0.1:9");
}

#[test]
fn h13_a_ticket_of_another_router_is_refused_before_anything_is_sent() {
    let world = World::new();
    let router = world.router();
    let other = crate::world::Router::start(world.home("R2"), &["--bind", "127.0.0.1:0"], &[]);
    let mut ticket = Ticket::from_str(&router.invite(&[])).expect("a ticket");
    ticket.addresses = vec![other.addr().to_string().parse().expect("an address")];
    let client = world.client("A");
    let outcome = client.join(&ticket.to_text(), "127.0.0.1:9").exits(77);
    outcome.says(&router.identity()).says(&other.identity());
    let clients = other.command(&["clients", "-o", "json"]).succeeds();
    assert!(!clients.stdout.contains("cdk1_"), "nobody was enrolled: {clients}");
}

#[test]
fn h13_of_64_clients_with_one_ticket_exactly_one_gets_in() {
    let world = World::new();
    let router = world.router();
    let rounds = figure("rounds of 64 clients", 1, 10);
    for round in 0..rounds {
        let ticket = router.invite(&[]);
        let codes: Vec<_> = thread::scope(|scope| {
            let join = |n: usize| {
                let client = world.client(&format!("C{round}-{n}"));
                client.join(&ticket, "127.0.0.1:9").ends()
            };
            let racing: Vec<_> = (0..64).map(|n| scope.spawn(move || join(n))).collect();
            racing.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        let won = codes.iter().filter(|outcome| outcome.code == Some(0)).count();
        assert_eq!(won, 1, "exactly one success");
        for outcome in codes.into_iter().filter(|outcome| outcome.code != Some(0)) {
            outcome.exits(77);
        }
    }
    let clients = router.command(&["clients", "-o", "json"]).succeeds();
    assert_eq!(clients.stdout.matches("cdk1_").count(), rounds, "{clients}");
}

#[test]
fn a_ticket_for_three_admits_three_and_never_stands_on_a_command_line() {
    let world = World::new();
    let router = world.router();
    let ticket = router.invite(&["--uses", "3", "--name", "ci"]);
    let visible = world.client("V");
    let outcome = visible.start("127.0.0.1:9").args(["--join", &ticket]).exits(2);
    assert!(!outcome.stderr.contains(&ticket), "{outcome}");
    for name in ["A", "B", "C"] {
        let client = world.client(name);
        // By the environment this time.
        let outcome = client.start("127.0.0.1:9").env("CONDUIT_TICKET", &ticket).succeeds();
        client.started(&outcome);
    }
    world.client("D").join(&ticket, "127.0.0.1:9").exits(77);
    let clients = router.command(&["clients"]).succeeds();
    for name in ["ci", "ci-2", "ci-3"] {
        assert!(clients.stdout.contains(name), "{clients}");
    }
}

#[test]
fn a_single_use_ticket_may_stand_on_the_command_line() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("A");
    let outcome = client.start(target.addr()).args(["--join", &router.invite(&[])]).succeeds();
    echo(&client.started(&outcome).connect(), b"in").expect("the same bytes");
}

#[test]
fn a_ticket_of_a_stopped_router_carries_where_it_listened_last_and_says_so() {
    let world = World::new();
    let mut router = world.router();
    router.dies();
    let outcome = router.command(&["invite", "--quiet"]).succeeds();
    let ticket = Ticket::from_str(outcome.stdout.trim()).expect("a ticket");
    let addresses: Vec<_> = ticket.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, [router.addr().to_string()]);
    outcome.says("no router runs here").says(&router.addr().to_string());
    let named = router.command(&["invite", "--quiet", "--advertise", "127.0.0.1:9"]).succeeds();
    assert!(!named.stderr.contains("warning"), "{named}");
    world.home("N").conduit(&["router", "invite", "-o", "json"]).succeeds().says("a guess");
}

#[test]
fn a_lifetime_of_nothing_is_refused() {
    let world = World::new();
    for verb in [&["invite"][..], &["token", "create", "ci"]] {
        let outcome = world.home("R").conduit(&["router"]).args(verb).args(["--expires", "0s"]);
        outcome.exits(2).says("at least one second");
    }
}

#[test]
fn a_ticket_can_be_made_before_the_first_start_of_the_router() {
    let world = World::new();
    let home = world.home("R");
    let advertised = ["router", "invite", "--quiet", "--advertise", "127.0.0.1:9"];
    let outcome = home.conduit(&advertised).succeeds();
    let ticket = Ticket::from_str(outcome.stdout.trim()).expect("a ticket");
    let router = world.router();
    assert_eq!(router.identity(), ticket.router.to_string());
}

#[test]
fn a_ticket_that_a_known_client_shows_is_said_not_to_be_used_and_is_not() {
    let world = World::new();
    let (router, client) = (world.router(), world.client("A"));
    client.enrols(&router.invite(&[]));
    let ticket = router.invite(&[]);
    client.join(&ticket, "127.0.0.1:9").succeeds().says("the ticket was not used");
    let outcome = world.client("B").join(&ticket, "127.0.0.1:9").succeeds();
    assert!(!outcome.stderr.contains("not used"), "{outcome}");
}

#[test]
fn a_router_whose_key_is_gone_does_not_become_another_one() {
    let world = World::new();
    let mut router = world.router();
    world.client("A").enrols(&router.invite(&[]));
    router.dies();
    let key = router.home().join("router/router.key");
    let aside = key.with_extension("aside");
    std::fs::rename(&key, &aside).expect("moved away");
    let refused = router.command(&["--bind", "127.0.0.1:0"]).exits(78);
    refused.says("router.key is missing").says("restore it from a backup");
    std::fs::rename(&aside, &key).expect("moved back");
    router.returns();
}
