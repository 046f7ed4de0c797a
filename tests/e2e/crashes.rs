//! Processes that are killed, hang, or race each other.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{Service, World, echo, eventually, figure, noise};

#[test]
fn h70_a_killed_tunnel_process_leaves_nothing_that_list_or_start_stumble_over() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, first) = world.tunnel_to(target.addr());
    let bind = first.bind.to_string();
    first.dies();
    let rounds = figure("kills", 40, 200);
    for round in 0..rounds {
        let outcome = client
            .conduit(&[
                "start",
                "--name",
                "victim",
                "--source",
                &target.addr().to_string(),
                "--bind",
                &bind,
            ])
            .succeeds();
        let tunnel = client.started(&outcome);
        assert_eq!(tunnel.bind.to_string(), bind, "round {round}: the port was free");
        let open = tunnel.connect();
        if round % 2 == 0 {
            // Killed in the middle of a transfer.
            let _ = std::io::Write::write_all(&mut &open, &noise(round as u64, 100_000));
        } else {
            echo(&open, &noise(round as u64, 10_000)).expect("the same bytes");
        }
        tunnel.dies();
        assert!(client.list(&[]).is_empty(), "round {round}: nothing runs");
    }
    let ended = client.list(&["--all"]);
    let victim = ended.iter().find(|tunnel| tunnel["name"] == "victim").expect("it is still known");
    assert_eq!(victim["state"], "failed");
    assert!(victim["last_error"].as_str().is_some_and(|error| error.contains("died")), "{victim}");
    let sockets = client.home().path().join("tunnels").read_dir().expect("the folder").flatten();
    let sockets =
        sockets.filter(|entry| entry.path().extension().is_some_and(|e| e == "sock")).count();
    assert!(sockets <= 1, "{sockets} socket files are left of {rounds} kills");
    client.conduit(&["logs", "victim"]).succeeds();
}

#[test]
fn a_tunnel_that_hangs_delays_nobody_and_is_named() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, hanging) = world.tunnel_to(target.addr());
    let healthy = client.starts("healthy", target.addr());
    hanging.signal(Signal::STOP);
    let outcome =
        client.conduit(&["list"]).ends().took_at_most(Duration::from_secs(3)).prints("healthy");
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(
        said.contains(&hanging.name) && said.contains("answer"),
        "the one that hangs is named: {outcome}"
    );
    let status = client.status();
    assert_eq!(status.code, Some(1), "{status}");
    echo(&healthy.connect(), b"well").expect("the other tunnel works");
    client
        .conduit(&["kill", "--tunnel", &hanging.name, "--force"])
        .ends()
        .took_at_most(Duration::from_secs(8));
    assert!(!hanging.runs(), "even a process that hangs can be ended");
}

#[test]
fn h79_of_many_starts_of_one_name_one_wins() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, _first) = world.tunnel_to(target.addr());
    let racers = figure("starts at once", 24, 200);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let start = || client.start(target.addr()).args(["--name", "prize"]).ends();
        let racing: Vec<_> = (0..racers).map(|_| scope.spawn(start)).collect();
        racing.into_iter().map(|racer| racer.join().expect("no panic")).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| outcome.code == Some(0));
    assert_eq!(won.len(), 1, "exactly one winner");
    for outcome in lost {
        let outcome = outcome.exits(1).says("prize");
        assert!(outcome.stderr.contains("pid"), "{outcome}");
    }
    let listed = client.list(&[]);
    assert_eq!(listed.iter().filter(|tunnel| tunnel["name"] == "prize").count(), 1);
    echo(&client.started(&won[0]).connect(), b"the prize").expect("the winner works");
}

#[test]
fn h79_up_and_down_against_each_other_end_in_order() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, _first) = world.tunnel_to(target.addr());
    let tunnels: String = (0..3)
        .map(|n| {
            format!(
                "[[tunnels]]\nname = \"t{n}\"\nsource = \"{}\"\nbind = \"127.0.0.1:0\"\n",
                target.addr()
            )
        })
        .collect();
    let file = world.file("conduit.toml", tunnels).display().to_string();
    thread::scope(|scope| {
        for command in ["up", "down", "up"] {
            let (client, file) = (&client, &file);
            scope.spawn(move || {
                for _ in 0..4 {
                    // Either may find that the other was faster; neither may crash or hang.
                    let outcome = client.conduit(&[command, "-f", file]).ends();
                    assert!(matches!(outcome.code, Some(0 | 1 | 69)), "{outcome}");
                    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
                }
            });
        }
    });
    client.conduit(&["up", "-f", &file]).succeeds();
    assert_eq!(client.list(&[]).len(), 4, "the three of the file and the first");
    client.conduit(&["down", "-f", &file]).succeeds();
    assert_eq!(client.list(&[]).len(), 1);
    eventually("no process is left over", || {
        crate::world::processes_of(client.home().path()).len() == 1
    });
}
