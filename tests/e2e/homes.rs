//! Homes that cannot be written: full and read-only file systems.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::world::{Run, Service, World, echo, files_below, in_namespace};

#[test]
fn h74_a_full_disk_fails_commands_that_write_and_no_tunnel_that_runs() {
    in_namespace(
        "homes::h74_a_full_disk_fails_commands_that_write_and_no_tunnel_that_runs",
        || {
            let world = World::new();
            let target = Service::echo();
            let router = world.router();
            let client = world.client("C");
            mount(client.home().path(), &["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]);
            let tunnel = client.joins(&router.invite(&[]), target.addr());
            let before: Vec<_> = files_below(client.home().path());
            fill(&client.home().join("ballast"));

            client
                .start(target.addr())
                .args(["--name", "late"])
                .exits(1)
                .says(client.home().path().to_str().expect("UTF-8"));
            echo(&tunnel.connect(), &[7; 1_000_000]).expect("what runs goes on");
            client.conduit(&["doctor"]).exits(1).prints("no space left");
            assert_eq!(client.list(&[]).len(), 1);
            let outcome = client
                .conduit(&["init", "--dir", client.home().join("new").to_str().expect("UTF-8")])
                .ends();
            assert_eq!(outcome.code, Some(1), "{outcome}");
            outcome.says("new");
            for file in before.iter().filter(|file| file.is_file()) {
                let kept = file.extension().is_some_and(|e| e == "log")
                    || fs::metadata(file).is_ok_and(|m| m.len() > 0);
                assert!(
                    kept || file.extension().is_some_and(|e| e == "lock"),
                    "{} was emptied",
                    file.display()
                );
            }
            fs::remove_file(client.home().join("ballast")).expect("room again");
            let late = client.starts("late", target.addr());
            echo(&late.connect(), b"room again").expect("the same bytes");
        },
    );
}

#[test]
fn h74_a_read_only_home_is_said_with_its_path() {
    in_namespace("homes::h74_a_read_only_home_is_said_with_its_path", || {
        let world = World::new();
        let target = Service::echo();
        let router = world.router();
        let (fresh, known) = (world.client("F"), world.client("K"));
        let ticket = router.invite(&[]);
        for client in [&fresh, &known] {
            mount(client.home().path(), &["-t", "tmpfs", "-o", "mode=0700", "tmpfs"]);
        }
        let tunnel = known.joins(&router.invite(&[]), target.addr());
        // A mount that is written to cannot be made read-only.
        known.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
        for client in [&fresh, &known] {
            Run::program("mount").args(["-o", "remount,ro"]).arg(client.home().path()).succeeds();
        }
        for client in [&fresh, &known] {
            let outcome = client.join(&ticket, target.addr()).args(["--name", "late"]).exits(1);
            outcome.says(client.home().path().to_str().expect("UTF-8")).says("read-only");
        }
        let home = world.home("R2");
        mount(home.path(), &["-t", "tmpfs", "-o", "mode=0700,ro", "tmpfs"]);
        let outcome = home.conduit(&["router", "--bind", "127.0.0.1:0"]).exits(1);
        outcome.says(home.path().to_str().expect("UTF-8"));
        // The ticket was not spent on homes that could not remember it.
        world.client("W").joins(&ticket, target.addr());
    });
}

#[test]
fn h74_a_full_disk_under_the_router_keeps_its_sessions_and_its_clients() {
    in_namespace(
        "homes::h74_a_full_disk_under_the_router_keeps_its_sessions_and_its_clients",
        || {
            let world = World::new();
            let target = Service::echo();
            let home = world.home("R");
            mount(home.path(), &["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]);
            let (router, client, tunnel) = world.tunnel_to(target.addr());
            fill(&home.join("ballast"));
            let outcome = router.command(&["invite", "--quiet"]).ends();
            assert_ne!(outcome.code, Some(0), "{outcome}");
            outcome.says_one_of(&["router.db", "full", "space"]);
            echo(&tunnel.connect(), &[7; 1_000_000]).expect("what runs goes on");
            let second = client.starts("second", target.addr());
            echo(&second.connect(), b"known clients come in").expect("the same bytes");
            // The next program could not be recorded: this one goes on.
            let outcome = router.command(&["upgrade"]).ends();
            assert_ne!(outcome.code, Some(0), "{outcome}");
            outcome.says(".json");
            echo(&tunnel.connect(), &[7; 1_000_000]).expect("what runs goes on");
            // Nor is its end a crash.
            client.conduit(&["kill", "--tunnel", &second.name]).succeeds();
            fs::remove_file(home.join("ballast")).expect("room again");
            router.command(&["upgrade"]).succeeds();
            echo(&tunnel.connect(), &[7; 1_000_000]).expect("what runs goes on");
            world.client("D").joins(&router.invite(&[]), target.addr());
        },
    );
}

#[track_caller]
fn mount(place: &Path, options: &[&str]) {
    Run::program("mount").args(options).arg(place).succeeds();
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut ballast = File::create(path).expect("a file");
    for size in [4_096, 256, 1] {
        while ballast.write_all(&vec![0; size]).is_ok() {}
    }
}
