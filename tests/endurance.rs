//! Long runs through real processes: faults one after the other (`make chaos`), hours of ordinary work
//! (`make soak`). `make test` leaves both out; see `.config/nextest.toml`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a test tells its figures"
)]

mod processes;

use std::process::Command;
use std::time::{Duration, Instant};

use processes::{Pair, echo_server, noise, resources, within};

const BINARY: &str = env!("CARGO_BIN_EXE_conduit");

mod chaos {
    use super::*;

    #[test]
    fn a_killed_router_comes_back_and_the_tunnel_with_it() {
        let mut pair = Pair::start(BINARY, echo_server());
        let mut longest = Duration::ZERO;
        for round in 0..20 {
            pair.echo(&noise(round, 100_000)).expect("bytes before the kill");
            pair.replace_router();
            let took =
                within(Duration::from_secs(45), "a connection after the router's return", || {
                    pair.echo(b"back?").is_ok()
                });
            longest = longest.max(took);
        }
        println!("back after at most {longest:?}");
    }

    #[test]
    fn a_killed_tunnel_is_seen_as_ended_and_starts_again() {
        let pair = Pair::start(BINARY, echo_server());
        for round in 0..100 {
            let pid = pair.tunnel_pid().expect("a running tunnel");
            signal("KILL", pid);
            within(Duration::from_secs(5), "the killed tunnel leaves the list", || {
                pair.tunnel_pid() != Some(pid)
            });
            pair.start_tunnel(&[], "");
            pair.echo(&noise(round, 10_000)).expect("bytes after the restart");
        }
    }

    #[test]
    fn a_router_that_is_stopped_for_a_minute_goes_on_afterwards() {
        let pair = Pair::start(BINARY, echo_server());
        signal("STOP", pair.router_pid());
        let stopped = Instant::now();
        within(Duration::from_secs(90), "a minute", || stopped.elapsed() > Duration::from_secs(60));
        signal("CONT", pair.router_pid());
        within(Duration::from_secs(45), "a connection after the pause", || {
            pair.echo(b"back?").is_ok()
        });
    }

    fn signal(name: &str, pid: u32) {
        let status =
            Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }
}

mod soak {
    use super::*;

    #[test]
    fn hours_of_connections_leave_nothing_behind() {
        let minutes =
            std::env::var("CONDUIT_SOAK_MINUTES").map_or(60, |text| text.parse().expect("minutes"));
        let pair = Pair::start(BINARY, echo_server());
        let pids = [pair.router_pid(), pair.tunnel_pid().expect("a running tunnel")];
        let (start, mut connections) = (Instant::now(), 0_u64);
        let work = |connections: &mut u64| {
            for length in [0, 1, 100, 10_000, 1_000_000] {
                pair.echo(&noise(*connections, length)).expect("the same bytes");
                *connections += 1;
            }
        };
        // Buffers and tables reach their size first.
        while connections < 2_000 {
            work(&mut connections);
        }
        let before = pids.map(resources);
        while start.elapsed() < Duration::from_secs(60 * minutes) {
            work(&mut connections);
        }
        for (pid, (kib, descriptors)) in pids.into_iter().zip(before) {
            within(Duration::from_secs(60), "descriptors closed", || {
                resources(pid).1 <= descriptors
            });
            let (now, _) = resources(pid);
            println!("process {pid}: {kib} KiB before, {now} KiB after {connections} connections");
            assert!(now <= kib + kib / 4 + 8_192, "process {pid} grew from {kib} to {now} KiB");
        }
    }
}
