//! Random transfers through random faults: whatever the path does, however often, no byte is another one and none hangs.

use std::time::{Duration, Instant};

use conduit::tunnel::Direction;
use tokio::task::JoinSet;

use crate::firewall::Firewall;
use crate::link::{Conditions, Way};
use crate::resumption::wanders;
use crate::stage::{Target, Tunnel, noise};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_random_transfers_through_random_faults() {
    storms(1).await;
}

mod chaos {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_random_transfers_through_random_faults() {
        super::storms(50).await;
    }
}

async fn storms(rounds: u64) {
    for seed in 0..rounds {
        for direction in [Direction::Forward, Direction::Reverse] {
            storm(seed, direction).await;
        }
    }
}

async fn storm(seed: u64, direction: Direction) {
    let firewall = Firewall::with(seed, |settings| settings.transport.idle_timeout = IDLE).await;
    let target = Target::echo().await;
    let tunnel = firewall.stage.try_tunnel(target.addr, |settings| {
        settings.access.router.addresses = vec![firewall.udp.addr().into()];
        settings.tunnel.direction = direction;
    });
    let tunnel = tunnel.await.expect("a tunnel");
    let mut transfers = JoinSet::new();
    for number in 0..TRANSFERS {
        transfers.spawn(wanders(tunnel.local_addr(), seed * TRANSFERS + number));
    }
    let mut weather = Weather { dice: noise(seed, 1 << 16).into_iter().cycle(), faults: 0 };
    let start = Instant::now();
    while !transfers.is_empty() {
        let change = tokio::time::sleep(weather.turns(&firewall, &tunnel));
        tokio::pin!(change);
        loop {
            tokio::select! {
                done = transfers.join_next(), if !transfers.is_empty() => {
                    done.expect("one more").unwrap_or_else(|error| {
                        panic!("{direction}, seed {seed}: {error}; the tunnel says {:?}", tunnel.last_error())
                    });
                }
                () = &mut change => break,
            }
        }
        let hang = transfers.len();
        assert!(start.elapsed() < LIMIT, "{direction}, seed {seed}: {hang} transfers hang");
    }
    let (up, down) = (firewall.udp.count(Way::Up), firewall.udp.count(Way::Down));
    println!(
        "{direction}, seed {seed}: {} faults in {:?}; up {up:?}, down {down:?}",
        weather.faults,
        start.elapsed()
    );
    assert_eq!(target.connects(), TRANSFERS as usize, "nothing was connected twice");
}

/// What the path does next.
struct Weather<D> {
    dice: D,
    faults: usize,
}

impl<D: Iterator<Item = u8>> Weather<D> {
    /// Changes something; for how long it stays so.
    fn turns(&mut self, firewall: &Firewall, tunnel: &Tunnel) -> Duration {
        let pause = Duration::from_millis(50 + 2 * u64::from(self.die()));
        self.faults += 1;
        match self.die() % 8 {
            0 => firewall.udp.rebinds(),
            1 => firewall.tcp.cuts(),
            2 => {
                if let Some(session) = tunnel.session() {
                    session.interrupt("a test");
                }
            }
            // Up to 5 s: a pause, a lost session, or another carrier.
            3 => {
                firewall.udp.becomes(|path| path.down = true);
                return Duration::from_millis(u64::from(self.die()).pow(2) / 13);
            }
            4 | 5 => {
                let rough = self.rough();
                firewall.udp.becomes(|path| *path = rough.clone());
            }
            _ => {
                self.faults -= 1;
                firewall.udp.becomes(|path| *path = calm());
            }
        }
        pause
    }

    /// A few faults at once.
    fn rough(&mut self) -> Conditions {
        let mut share = |most: f64| match self.die() % 2 {
            0 => 0.0,
            _ => most * f64::from(self.die()) / 255.0,
        };
        let (loss, late, twice) = (share(0.2), share(0.3), share(0.2));
        let (damaged, copied) = (share(0.05), share(0.02));
        let delay = Duration::from_millis(u64::from(self.die()) / 4);
        let late = (late, Duration::from_millis(u64::from(self.die()) / 4));
        let rate = 5 + u64::from(self.die()) / 4;
        Conditions { delay, loss, late, twice, damaged, copied, ..calm().rate(rate, 1 << 16) }
    }

    fn die(&mut self) -> u8 {
        self.dice.next().expect("a die")
    }
}

fn calm() -> Conditions {
    Conditions::rtt(Duration::from_millis(10)).rate(200, 1 << 20)
}

/// Of one round in one direction.
const TRANSFERS: u64 = 100;
/// After so long without a word a connection is lost.
const IDLE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);
