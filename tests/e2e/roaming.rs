//! A client whose address changes: what is open goes on, and soon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{Host, Service, Sshd, World, ip, noise, on_two_hosts, within};

#[test]
fn h53_a_download_goes_on_within_a_second_of_every_new_ipv4_address() {
    let name = "roaming::h53_a_download_goes_on_within_a_second_of_every_new_ipv4_address";
    on_two_hosts(name, |there| {
        // Whatever is the first one in a network takes the others along when it goes.
        moves(there, "10.7.0.1:9999", |number| format!("10.7.0.{}/24", 20 + number));
    });
}

#[test]
fn h53_a_download_goes_on_within_a_second_of_every_new_ipv6_address() {
    let name = "roaming::h53_a_download_goes_on_within_a_second_of_every_new_ipv6_address";
    on_two_hosts(name, |there| {
        ip("-n there address add fd00:7::1/64 dev cable nodad");
        ip("address add fd00:7::100/64 dev cable nodad");
        moves(there, "[fd00:7::1]:9999", |number| format!("fd00:7::{}/64 nodad", 20 + number));
    });
}

/// Gives this host one address after the other while it receives, and nothing but receives, through a tunnel.
fn moves(there: &Host, router: &str, address: impl Fn(u32) -> String) {
    let world = World::new();
    let target = there.enter(|| Service::start(talks));
    let router = there.enter(|| world.router_at(router));
    let client = world.client("C");
    let ticket = router.invite(&["--advertise", &router.addr().to_string()]);
    let tunnel = client.joins(&ticket, target.addr());
    let mut login = tunnel.connect();
    greeting(&mut login);
    let reader = Reader::new(tunnel.connect());
    let first = tunnel.session();
    let mut stalls: Vec<Duration> = (0..MOVES)
        .map(|number| {
            reader.reads_on(Instant::now());
            ip("address flush dev cable scope global");
            if number % 5 == 4 {
                // Out of reach for a moment.
                thread::sleep(Duration::from_secs(2));
            }
            ip(&format!("address add {} dev cable", address(number)));
            reader.reads_on(Instant::now())
        })
        .collect();
    stalls.sort();
    let (median, worst) = (stalls[stalls.len() / 2], stalls[stalls.len() - 1]);
    println!("{MOVES} moves: stalls p50 {median:?}, longest {worst:?}");
    assert!(worst < Duration::from_secs(1), "{stalls:?}");
    assert_eq!(tunnel.session(), first, "it is the same session");
    assert!(tunnel.log().contains("this machine has moved"), "{}", tunnel.log());
    greeting(&mut login);
    assert_eq!(target.connects(), 2, "nothing was connected anew");
}

/// Reads what the target says; before and after the moves.
fn greeting(login: &mut TcpStream) {
    login.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    login.read_exact(&mut [0; 1_000]).expect("what the target says");
}

/// A minute is beyond the idle limit of 30 s: the session is lost, and what was open is not.
#[test]
fn h52_a_copy_and_a_login_outlive_an_outage_of_forty_seconds() {
    let name = "roaming::h52_a_copy_and_a_login_outlive_an_outage_of_forty_seconds";
    on_two_hosts(name, |there| {
        let world = World::new();
        let sshd = there.enter(|| Sshd::start(world.path()));
        let router = there.enter(|| world.router_at("10.7.0.1:9999"));
        let tunnel = world.client("C").joins(&router.invite(&[]), sshd.addr());
        let bytes = noise(52, COPIED);
        let file = world.file("file", &bytes);
        let copy = world.path().join("copy");
        let mut login = sshd.login(tunnel.bind.port());
        login.echoes("before");
        thread::scope(|scope| {
            let copying = scope.spawn(|| {
                // At 80 Mbit/s it lasts for some six seconds.
                let scp = sshd.scp(tunnel.bind.port()).args(["-l", "80000"]).arg(&file);
                scp.arg(format!("127.0.0.1:{}", copy.display())).limit(LIMIT).succeeds();
            });
            thread::sleep(Duration::from_secs(2));
            ip("-n there link set cable down");
            thread::sleep(Duration::from_secs(40));
            assert_eq!(tunnel.listed().expect("the tunnel")["state"], "reconnecting");
            ip("-n there link set cable up");
            let up = Instant::now();
            login.echoes("after");
            println!("the login answers {:?} after the path is back", up.elapsed());
            copying.join().expect("the copy");
            println!("the copy is done after {:?}", up.elapsed());
        });
        assert!(std::fs::read(&copy).expect("the copy") == bytes, "the same bytes");
        assert!(
            tunnel.log().contains("asking the router to go on with what was open connections=2"),
            "{}",
            tunnel.log()
        );
    });
}

/// Sends a little every few milliseconds.
fn talks(mut stream: TcpStream) {
    while stream.write_all(&[0; 1_000]).is_ok() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads in a thread of its own.
struct Reader {
    has_read: Arc<AtomicBool>,
}

impl Reader {
    fn new(mut stream: TcpStream) -> Self {
        let has_read = Arc::new(AtomicBool::new(false));
        let reads = Arc::clone(&has_read);
        thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            while matches!(stream.read(&mut buffer), Ok(1..)) {
                reads.store(true, Ordering::Relaxed);
            }
        });
        Self { has_read }
    }

    /// How long after `since` something was read that was not there at once.
    fn reads_on(&self, since: Instant) -> Duration {
        self.has_read.store(false, Ordering::Relaxed);
        within(Duration::from_secs(20), "the download goes on", || {
            self.has_read.load(Ordering::Relaxed).then_some(())
        });
        since.elapsed()
    }
}

const MOVES: u32 = 20;
/// Bytes of the file.
const COPIED: usize = 64 << 20;
const LIMIT: Duration = Duration::from_secs(120);
