//! A router and a tunnel as a user runs them: processes of the real binary, homes in a temporary folder.
#![allow(dead_code, reason = "each user takes its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A router and one forward tunnel to a target; both end when this is dropped.
pub(crate) struct Pair {
    folder: TempDir,
    binary: &'static str,
    /// Variables of every process.
    environment: Vec<(String, String)>,
    router_addr: SocketAddr,
    router: Child,
    /// Where the tunnel listens.
    pub(crate) bind: SocketAddr,
    source: SocketAddr,
}

impl Pair {
    /// Starts both and returns when the tunnel is ready.
    pub(crate) fn start(binary: &'static str, source: SocketAddr) -> Self {
        Self::start_with(binary, source, &[])
    }

    /// The same with variables that configure both.
    pub(crate) fn start_with(
        binary: &'static str,
        source: SocketAddr,
        environment: &[(String, String)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let router_addr =
            UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port");
        let bind =
            TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port");
        let environment = environment.to_vec();
        let router = spawn_router(conduit(binary, &folder, "R", &environment), router_addr);
        let pair = Self { folder, binary, environment, router_addr, router, bind, source };
        // Before that an invitation would be for the address of a router with no options.
        within(Duration::from_secs(10), "the router runs", || {
            let said = pair.conduit("R").args(["status", "-o", "json"]).output().expect("a status");
            serde_json::from_slice(&said.stdout)
                .is_ok_and(|v: serde_json::Value| v["router"]["state"] == "ready")
        });
        let ticket = pair.run("R", &["router", "invite", "--quiet"], "");
        let ticket = String::from_utf8(ticket.stdout).expect("a ticket");
        pair.start_tunnel(&["--join", "-"], &ticket);
        pair
    }

    /// `conduit start` with the name `pair`, enrolled or not.
    pub(crate) fn start_tunnel(&self, more: &[&str], input: &str) {
        let (source, bind) = (self.source.to_string(), self.bind.to_string());
        let mut arguments = vec!["start", "--name", "pair", "--source", &source, "--bind", &bind];
        arguments.extend(more);
        self.run("C", &arguments, input);
    }

    /// Runs a command to its end in the home `R` (router) or `C` (client); it has to succeed.
    pub(crate) fn run(&self, home: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = self.conduit(home);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(input.as_bytes()).expect("input written");
        drop(stdin);
        let output = child.wait_with_output().expect("its output");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "conduit {arguments:?}: {}: {said}", output.status);
        output
    }

    /// The tunnel's process, as `conduit list` tells it; none when it does not run.
    pub(crate) fn tunnel_pid(&self) -> Option<u32> {
        self.pid_of("pair")
    }

    /// The same for a tunnel by its name.
    pub(crate) fn pid_of(&self, name: &str) -> Option<u32> {
        let output = self.run("C", &["list", "-o", "json"], "");
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut tunnels = list["tunnels"].as_array()?.iter();
        let pid = tunnels.find(|tunnel| tunnel["name"] == name)?["pid"].as_u64()?;
        u32::try_from(pid).ok()
    }

    /// The router's process.
    pub(crate) fn router_pid(&self) -> u32 {
        self.router.id()
    }

    /// Where the router listens.
    pub(crate) fn router_addr(&self) -> SocketAddr {
        self.router_addr
    }

    /// The router's key.
    pub(crate) fn router_identity(&self) -> String {
        let output = self.run("R", &["status", "-o", "json"], "");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["router"]["identity"].as_str().expect("an identity").to_owned()
    }

    /// `kill -9` and a new router with the same home.
    pub(crate) fn replace_router(&mut self) {
        self.router.kill().expect("a kill");
        self.router.wait().expect("its end");
        self.router = spawn_router(self.conduit("R"), self.router_addr);
    }

    fn conduit(&self, home: &str) -> Command {
        conduit(self.binary, &self.folder, home, &self.environment)
    }

    /// One connection that sends and gets the same bytes back.
    pub(crate) fn echo(&self, bytes: &[u8]) -> std::io::Result<()> {
        echo(self.bind, bytes)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.conduit("C").args(["kill", "--all", "--force"]).output();
        let _ = self.router.kill();
        let _ = self.router.wait();
    }
}

fn spawn_router(mut command: Command, addr: SocketAddr) -> Child {
    let addr = addr.to_string();
    command
        .args(["router", "--bind", &addr, "--advertise", &addr])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().expect("a router")
}

fn conduit(
    binary: &str,
    folder: &TempDir,
    home: &str,
    environment: &[(String, String)],
) -> Command {
    let mut command = Command::new(binary);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("CONDUIT_HOME", folder.path().join(home)).current_dir(folder.path());
    command
}

/// A target that sends back what it gets, a thread per connection.
pub(crate) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    addr
}

/// Sends, closes its half, and expects the same bytes and the end.
pub(crate) fn echo(addr: SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut back = Vec::with_capacity(bytes.len());
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            (&stream).write_all(bytes)?;
            stream.shutdown(std::net::Shutdown::Write)
        });
        (&stream).read_to_end(&mut back)?;
        sender.join().expect("no panic")
    })?;
    if back == bytes { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Asks again until the answer is yes; says how long it took.
pub(crate) fn within(limit: Duration, what: &str, mut yes: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !yes() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::park_timeout(Duration::from_millis(20));
    }
    start.elapsed()
}

/// Bytes that differ from position to position and from seed to seed (xorshift).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Resident memory of a process in KiB, and how many descriptors it holds.
#[cfg(target_os = "linux")]
pub(crate) fn resources(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let descriptors =
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    (kib, descriptors)
}

#[test]
fn the_target_sends_back_what_it_gets() {
    let bytes = noise(3, 3_000_001);
    assert_ne!(bytes, noise(4, 3_000_001));
    echo(echo_server(), &bytes).expect("the same bytes");
}
