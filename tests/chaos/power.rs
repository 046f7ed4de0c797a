//! Rows of power cuts: what the real binary makes of every state in which a disk may be left.

use std::path::Path;

use crate::disk::{CALLS, Moment, Tree, moments, restore, tree_of};
use crate::table::told;
use crate::world::{CONDUIT, Home, Run, Service, World, figure, within};

/// `conduit ARGUMENTS` under strace, which writes to `trace`.
fn traced(home: &Home, trace: &Path, arguments: &[&str]) -> Run {
    let strace = Run::program("strace").args(["-f", "-y", "-xx", "-s", "10000000", "-e"]);
    let strace = strace.arg(format!("trace={CALLS}")).arg("-o").arg(trace);
    strace
        .arg(CONDUIT)
        .args(arguments)
        .env("CONDUIT_HOME", home.path())
        .env("NO_COLOR", "1")
        .folder(home.path())
}

/// One operation on a home, and every moment of it.
struct Operation {
    home: Home,
    what: &'static str,
    moments: Vec<Moment>,
}

impl Operation {
    /// Runs it to its end.
    fn run(world: &World, home: &Home, what: &'static str, arguments: &[&str]) -> Self {
        let (before, trace) = (tree_of(home.path()), world.path().join("trace"));
        traced(home, &trace, arguments).succeeds();
        Self::of(home, what, &before, &trace)
    }

    fn of(home: &Home, what: &'static str, before: &Tree, trace: &Path) -> Self {
        let trace = std::fs::read_to_string(trace).expect("a trace");
        Self { home: home.clone(), what, moments: moments(home.path(), before, &trace) }
    }

    /// Cuts the power at moments spread over the operation, puts each outcome in the home's place, and has it judged.
    fn judge(&self, judge: impl Fn(&Moment, &Tree)) {
        let outcomes =
            || self.moments.iter().flat_map(|it| it.outcomes.iter().map(move |o| (it, o)));
        let (all, most) = (outcomes().count(), figure("outcomes of power cuts", 12, 100_000));
        assert!(all >= 10, "{}: only {all} outcomes", self.what);
        // The last ones are those after which somebody was told.
        let taken =
            |number: usize| number * most / all != (number + 1) * most / all || number + 1 == all;
        let mut judged = 0;
        for (number, (moment, outcome)) in outcomes().enumerate() {
            if most < all && !taken(number) {
                continue;
            }
            restore(self.home.path(), outcome);
            judge(moment, outcome);
            judged += 1;
        }
        let what = format!("power cut during {}, {} steps", self.what, self.moments.len());
        told("H75", &what, &format!("{judged} of {all} states of the disk, each old or new"));
    }
}

/// What a file of a tree says.
fn text(tree: &Tree, name: &str) -> Option<String> {
    let bytes = tree.get(Path::new(name))?.as_deref()?;
    Some(String::from_utf8_lossy(bytes).trim().to_owned())
}

/// Files of state are whole: they are as they were before or as they are after, in every outcome.
#[track_caller]
fn whole(moment: &Moment, outcome: &Tree, states: [&Tree; 2], names: &[&str]) {
    for name in names {
        let found = text(outcome, name);
        let known = states.map(|state| text(state, name));
        let is_missing = found.is_none();
        assert!(is_missing || known.contains(&found), "{name} after {}: {found:?}", moment.after);
        assert!(
            !(moment.told.user && is_missing && known[1].is_some()),
            "{name} is lost after {}",
            moment.after
        );
    }
}

const CLIENT: [&str; 3] = ["client.key", "client.pub", "conduit.toml"];

#[test]
fn h75_a_power_cut_leaves_a_new_home_empty_or_whole() {
    let world = World::new();
    let home = world.home("C");
    let before = tree_of(home.path());
    let init = Operation::run(&world, &home, "init", &["init"]);
    let after = tree_of(home.path());
    init.judge(|moment, outcome| {
        whole(moment, outcome, [&before, &after], &CLIENT);
        let again = home.conduit(&["init"]).ends();
        let is_done = text(outcome, "conduit.toml").is_some();
        assert_eq!(again.code, Some(i32::from(is_done)), "{again} after {}", moment.after);
        // Whatever was there is used, and what was missing is there now.
        let now = tree_of(home.path());
        let public = text(&now, "client.pub").expect("an identity");
        if text(outcome, "client.key").is_some() {
            assert_eq!(Some(public), text(&after, "client.pub"), "after {}", moment.after);
        } else {
            assert!(again.stdout.contains(&public), "{again}");
        }
    });
}

#[test]
fn h75_a_power_cut_never_leaves_an_identity_beside_another_key() {
    let world = World::new();
    let home = world.home("C");
    home.conduit(&["init"]).succeeds();
    let before = tree_of(home.path());
    let force = Operation::run(&world, &home, "init --force", &["init", "--force"]);
    let after = tree_of(home.path());
    assert_ne!(text(&before, "client.pub"), text(&after, "client.pub"));
    force.judge(|moment, outcome| {
        whole(moment, outcome, [&before, &after], &CLIENT);
        let key = text(outcome, "client.key").expect("one of the two keys");
        let state = if Some(key) == text(&before, "client.key") { &before } else { &after };
        let public = text(outcome, "client.pub");
        assert!(
            public.is_none() || public == text(state, "client.pub"),
            "another identity after {}",
            moment.after
        );
    });
}

/// Who is admitted and who is not, and how many tickets there are, as a home says in which no router runs.
fn clients(home: &Home) -> String {
    let listed = home.conduit(&["router", "clients", "-o", "json"]).succeeds().json();
    let database = rusqlite::Connection::open(home.join("router/router.db")).expect("a database");
    let tickets: u32 =
        database.query_row("SELECT count(*) FROM tickets", [], |row| row.get(0)).expect("a count");
    let clients = listed["clients"].as_array().expect("clients").iter();
    let shown = clients.map(|it| format!("{} {} {}", it["name"], it["status"], it["permissions"]));
    format!("{:?}, {tickets} tickets", shown.collect::<Vec<_>>())
}

#[test]
fn h75_a_power_cut_leaves_the_routers_clients_and_tickets_as_before_or_after() {
    let world = World::new();
    let home = world.home("R");
    let identity = |name: &str| {
        let home = world.home(name);
        home.conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned()
    };
    let (one, two) = (identity("A"), identity("B"));
    home.conduit(&["router", "authorize", &one, "--name", "one"]).succeeds();
    for (what, arguments) in [
        ("router invite", &["router", "invite", "--quiet"][..]),
        (
            "router authorize",
            &["router", "authorize", &two, "--name", "two", "--allow-target", "10.0.0.0/8:22"],
        ),
        ("router revoke", &["router", "revoke", "one"]),
    ] {
        let before = clients(&home);
        let operation = Operation::run(&world, &home, what, arguments);
        let state = tree_of(home.path());
        let after = clients(&home);
        assert_ne!(before, after);
        operation.judge(|moment, _| {
            let found = clients(&home);
            assert!(
                found == after || found == before && !moment.told.user,
                "{found} after {}",
                moment.after
            );
        });
        restore(home.path(), &state);
    }
}

#[test]
fn h75_a_power_cut_leaves_a_router_that_can_be_set_up() {
    let world = World::new();
    let home = world.home("R");
    let before = tree_of(home.path());
    let arguments = ["router", "invite", "--quiet"];
    let invite = Operation::run(&world, &home, "the first router invite", &arguments);
    let after = tree_of(home.path());
    let own = ["router/router.key", "router/router.pub"];
    invite.judge(|moment, outcome| {
        whole(moment, outcome, [&before, &after], &own);
        home.conduit(&arguments).succeeds();
        let now = tree_of(home.path());
        let public = text(&now, own[1]).expect("an identity");
        if text(outcome, own[0]).is_some() {
            assert_eq!(Some(public), text(&after, own[1]), "after {}", moment.after);
        }
        let tickets = if moment.told.user { "2 tickets" } else { " tickets" };
        assert!(clients(&home).ends_with(tickets), "a ticket is lost after {}", moment.after);
    });
}

#[test]
fn h75_a_power_cut_during_an_enrolment_costs_no_ticket() {
    let world = World::new();
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let (home, trace) = (client.home().clone(), world.path().join("trace"));
    let before = tree_of(home.path());
    let ticket = router.invite(&[]);
    let source = target.addr().to_string();
    let file = world.file("ticket", &ticket);
    let join = file.to_str().expect("UTF-8");
    let options = ["start", "--name", "t", "--source", &source, "--bind", "127.0.0.1:0"];
    let start = [&options[..], &["--join", join]].concat();
    let mut running = traced(&home, &trace, &start)
        .spawn(std::process::Stdio::piped(), std::process::Stdio::null());
    within(std::time::Duration::from_secs(30), "the tunnel is ready", || {
        client.list(&[]).iter().any(|tunnel| tunnel["state"] == "ready").then_some(())
    });
    let after = tree_of(home.path());
    client.conduit(&["kill", "--tunnel", "t"]).succeeds();
    assert!(running.wait().expect("its end").success());
    let enrolment = Operation::of(&home, "start --join", &before, &trace);
    enrolment.judge(|moment, outcome| {
        whole(moment, outcome, [&before, &after], &["client.key", "client.pub", "routers.toml"]);
        let has_key = text(outcome, "client.key").is_some();
        assert!(
            has_key || !moment.told.peer,
            "the key is lost that the router knows: {}",
            moment.after
        );
        let listed = client.conduit(&["list", "--all"]).succeeds();
        assert!(
            !listed.stderr.contains(".json"),
            "a record is broken: {listed} after {}",
            moment.after
        );
        let knows_router = text(outcome, "routers.toml").is_some();
        let own = if has_key { ticket.clone() } else { router.invite(&[]) };
        let again = match knows_router {
            true => client.conduit(&options),
            false => client.conduit(&options).args(["--join", "-"]).input(own),
        };
        again.succeeds();
        assert_eq!(client.list(&[]).len(), 1, "after {}", moment.after);
        client.conduit(&["kill", "--tunnel", "t"]).succeeds();
    });
}
