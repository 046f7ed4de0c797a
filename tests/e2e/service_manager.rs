//! What a service manager hears and gives: readiness, the watchdog, sockets.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{Router, Run, Service, World, echo, free_port, kill, require, within};

/// A manager's end of the conversation.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(world: &World) -> Self {
        let path = world.path().join("notify").to_str().expect("UTF-8").to_owned();
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        Self { socket, path }
    }

    /// The next word that is not the watchdog's.
    #[track_caller]
    fn hears(&self) -> String {
        loop {
            let mut word = [0; 512];
            let length = self.socket.recv(&mut word).expect("a word in time");
            let word = String::from_utf8_lossy(&word[..length]).trim().to_owned();
            if word != "WATCHDOG=1" {
                return word;
            }
        }
    }

    /// How often the watchdog is told within a second.
    fn beats(&self) -> usize {
        let until = std::time::Instant::now() + Duration::from_secs(1);
        let mut beats = 0;
        while std::time::Instant::now() < until {
            let mut word = [0; 512];
            let length = self.socket.recv(&mut word).expect("a word in time");
            beats += usize::from(word[..length].starts_with(b"WATCHDOG=1"));
        }
        beats
    }
}

#[test]
fn a_router_says_that_it_is_ready_alive_upgraded_and_about_to_end() {
    let world = World::new();
    let manager = Manager::new(&world);
    let environment = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "200000")];
    let mut router = Router::start(world.home("R"), &["--bind", "127.0.0.1:0"], &environment);
    assert_eq!(manager.hears(), "READY=1");
    assert!((6..=14).contains(&manager.beats()), "twice in 200 ms");
    router.command(&["upgrade"]).succeeds();
    let word = manager.hears();
    assert!(word.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{word}");
    assert_eq!(manager.hears(), "READY=1");
    assert!((6..=14).contains(&manager.beats()), "the next program goes on with it");
    router.signal(Signal::TERM);
    assert_eq!(manager.hears(), "STOPPING=1");
    assert_eq!(router.ends_within(Duration::from_secs(5)), Some(0));
}

#[test]
fn a_stopped_router_is_silent_so_that_the_watchdog_bites() {
    let world = World::new();
    let manager = Manager::new(&world);
    let environment = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "200000")];
    let router = Router::start(world.home("R"), &["--bind", "127.0.0.1:0"], &environment);
    assert_eq!(manager.hears(), "READY=1");
    router.signal(Signal::STOP);
    manager.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    // What it said before it was stopped is on its way.
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    router.signal(Signal::CONT);
    assert!(manager.socket.recv(&mut [0; 64]).is_ok(), "it goes on");
}

#[test]
fn a_tunnel_and_a_supervisor_say_so_too_and_their_children_do_not() {
    let world = World::new();
    let manager = Manager::new(&world);
    let target = Service::echo();
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    let source = target.addr().to_string();
    let (bind, other) = (free_port().to_string(), free_port().to_string());
    let file = world.file(
        "conduit.toml",
        format!(
            "[[tunnels]]\nname = \"a\"\nsource = \"{source}\"\nbind = \"{bind}\"\n\
             [[tunnels]]\nname = \"b\"\nsource = \"{source}\"\nbind = \"{other}\"\n"
        ),
    );
    let file = file.to_str().expect("UTF-8").to_owned();
    let start = ["start", "--foreground", "--source", &source, "--bind", "127.0.0.1:0"];
    let up = ["up", "--foreground", "-f", &file];
    for arguments in [&start[..], &up[..]] {
        let run = client.conduit(arguments).env("NOTIFY_SOCKET", &manager.path);
        let mut process = run.spawn(Stdio::null(), Stdio::null());
        assert_eq!(manager.hears(), "READY=1", "{arguments:?}");
        kill(process.id(), Signal::TERM);
        assert_eq!(manager.hears(), "STOPPING=1", "{arguments:?}");
        assert!(ends(&mut process), "{arguments:?}");
    }
    manager.socket.set_nonblocking(true).expect("set");
    assert!(
        manager.socket.recv(&mut [0; 64]).is_err(),
        "two tunnels have said nothing of their own"
    );
}

fn ends(process: &mut Child) -> bool {
    let status =
        within(Duration::from_secs(10), "it ends", || process.try_wait().expect("a child"));
    status.success()
}

/// systemd's own tool listens, and starts the router when the first packet comes.
#[test]
fn a_router_serves_on_the_socket_that_systemd_gives_it() {
    require("systemd-socket-activate");
    let world = World::new();
    let target = Service::echo();
    let (home, addr) = (world.home("R"), free_port());
    let addr = addr.to_string();
    let invited = home.conduit(&["router", "invite", "--quiet", "--advertise", &addr]).succeeds();
    let log = std::fs::File::create(world.path().join("activated")).expect("a log");
    let activate = Run::program("systemd-socket-activate").args(["--datagram", "--listen", &addr]);
    let activate = activate.arg("-E").arg(format!("CONDUIT_HOME={}", home.path().display()));
    let activate =
        activate.arg(env!("CARGO_BIN_EXE_conduit")).args(["router", "--bind", "127.0.0.1:1"]);
    let mut router = activate.spawn(log.try_clone().expect("a handle"), log);
    let client = world.client("C");
    let tunnel = within(Duration::from_secs(10), "the router is started", || {
        let started = client.join(invited.stdout.trim(), target.addr()).ends();
        (started.code == Some(0)).then(|| client.started(&started))
    });
    echo(&tunnel.connect(), b"through the given socket").expect("the same bytes");
    let said = std::fs::read_to_string(world.path().join("activated")).expect("the log");
    assert!(said.contains(&format!("listening  {addr}")), "{said}");
    kill(router.id(), Signal::TERM);
    assert!(ends(&mut router));
}
