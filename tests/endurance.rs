//! Long runs through real processes: faults one after the other (`make chaos`), hours of ordinary work
//! (`make soak`). `make test` leaves both out; see `.config/nextest.toml`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a test tells its figures"
)]

mod processes;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conduit::client::{self, Access, RouterAddress, SocketSettings};
use conduit::identity::Keypair;
use conduit::tunnel::{Direction, HostPort, Options, Protocol, TunnelId, TunnelSpec, TunnelState};
use conduit::{ends, relay};

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

    /// Clients come back spread: nobody waits long, and the router shakes few hands at a time.
    #[test]
    fn h71_a_thousand_tunnels_are_back_soon_after_their_router() {
        let limits = [("CONDUIT_LIMITS_MAX_CLIENTS".to_owned(), "8192".to_owned())];
        let mut pair = Pair::start_with(BINARY, echo_server(), &limits);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let crowd = runtime.block_on(crowd(&pair, CROWD));
        let up = |tunnel: &client::Running| {
            tunnel.session().is_some() && *tunnel.state().borrow() == TunnelState::Ready
        };
        let sessions: Vec<_> = crowd.iter().map(|tunnel| id(tunnel).expect("a session")).collect();
        pair.replace_router();
        let start = Instant::now();
        let mut returns = vec![Return::default(); crowd.len()];
        within(Duration::from_secs(60), "everybody is back", || {
            for ((tunnel, before), it) in crowd.iter().zip(&sessions).zip(&mut returns) {
                if it.back.is_some() || id(tunnel) == Some(*before) {
                    continue;
                }
                it.knew.get_or_insert_with(|| start.elapsed());
                match up(tunnel) {
                    true => it.back = Some(start.elapsed()),
                    false => it.met = tunnel.last_error().or(it.met.take()),
                }
            }
            returns.iter().all(|it| it.back.is_some())
        });
        println!("H71 the last one: {:?}", returns.iter().max_by_key(|it| it.back));
        let mut times: Vec<Duration> = returns.into_iter().filter_map(|it| it.back).collect();
        times.sort();
        let within_a_second = |from: &Duration| {
            times.iter().filter(|at| *at >= from && **at < *from + Duration::from_secs(1)).count()
        };
        let busiest = times.iter().map(within_a_second).max().unwrap_or_default();
        let (resident, _) = resources(pair.router_pid());
        let at = |share: f64| times[(CROWD as f64 * share) as usize];
        println!(
            "H71 {CROWD} tunnels: p50 {:?} p95 {:?} last {:?}; busiest second {busiest}; router {resident} KiB",
            at(0.5),
            at(0.95),
            times[CROWD - 1],
        );
        assert!(at(0.95) < Duration::from_secs(7), "{:?}", at(0.95));
        assert!(times[CROWD - 1] < Duration::from_secs(10), "{:?}", times[CROWD - 1]);
        drop(crowd);
    }

    /// A tunnel's way back, in times since the router's return.
    #[derive(Clone, Debug, Default)]
    struct Return {
        knew: Option<Duration>,
        back: Option<Duration>,
        /// What it said last of the router, in between.
        met: Option<String>,
    }

    fn id(tunnel: &client::Running) -> Option<[u8; 16]> {
        Some(tunnel.session()?.terms().session_id)
    }

    /// Tunnels of this process to the pair's router, idle.
    async fn crowd(pair: &Pair, count: usize) -> Vec<client::Running> {
        let keypair = Arc::new(Keypair::generate().expect("a key"));
        let identity = keypair.identity().to_string();
        pair.run("R", &["router", "authorize", &identity, "--owner", "--name", "crowd"], "");
        let way = RouterAddress {
            addresses: vec![HostPort::from(pair.router_addr())],
            identity: pair.router_identity().parse().expect("an identity"),
        };
        let (mut crowd, mut random) = (Vec::with_capacity(count), 71_u32);
        for number in 0..count {
            // They came at any time, so that their keep-alives do, too: not as quickly one after the other as they can.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let least = ARRIVAL.mul_f64(2.0 * f64::from(random) / f64::from(u32::MAX));
            tokio::time::sleep(least).await;
            let tunnel = TunnelSpec {
                name: format!("t{number}").parse().expect("a name"),
                direction: Direction::Forward,
                protocol: Protocol::Tcp,
                bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
                source: SocketAddr::from(([127, 0, 0, 1], 9)).into(),
                options: Options::default(),
            };
            let settings = client::Settings {
                id: TunnelId::new(&tunnel.name, number as u16),
                tunnel,
                instance: uuid::Uuid::new_v4(),
                access: Access::new(Arc::clone(&keypair), way.clone(), "crowd"),
                relay: relay::Settings::default(),
                sockets: SocketSettings::default(),
                dial: ends::DialSettings::default(),
                max_connections: 16,
                outage_wait: Duration::from_secs(10),
            };
            crowd.push(client::start(settings).await.expect("a tunnel"));
        }
        crowd
    }

    const CROWD: usize = 1_000;
    /// Between two arrivals, in the mean.
    const ARRIVAL: Duration = Duration::from_millis(24);

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
