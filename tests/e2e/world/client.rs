//! A client's home, and the tunnel processes that are started from it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Home, Outcome, Router, Run, eventually, kill, runs};

pub(crate) struct Client {
    home: Home,
}

/// The line of a `start` that succeeded.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Where users connect: an address, a row of ports or a Unix socket.
    pub(crate) bind: String,
    pub(crate) source: String,
    pub(crate) pid: u32,
}

/// A tunnel process that was ready once.
#[derive(Clone)]
pub(crate) struct Tunnel {
    home: Home,
    pub(crate) name: String,
    pub(crate) bind: SocketAddr,
    pub(crate) pid: u32,
}

impl Client {
    pub(crate) fn new(home: Home) -> Self {
        Self { home }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn conduit<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        self.home.conduit(arguments)
    }

    /// `conduit start` to `source` on a free port; more options may follow.
    pub(crate) fn start(&self, source: impl ToString) -> Run {
        self.conduit(&["start", "--source", &source.to_string(), "--bind", "127.0.0.1:0"])
    }

    /// `conduit start --join -`.
    pub(crate) fn join(&self, ticket: &str, source: impl ToString) -> Run {
        self.start(source).args(["--join", "-"]).input(format!("{ticket}\n"))
    }

    /// `conduit start` at a router by address and identity, without a ticket.
    pub(crate) fn pin(&self, router: &Router, source: impl ToString) -> Run {
        let addr = router.addr().to_string();
        self.start(source).args(["--router", &addr, "--router-identity", &router.identity()])
    }

    /// Enrols with a ticket and has its tunnel to `source`.
    #[track_caller]
    pub(crate) fn joins(&self, ticket: &str, source: impl ToString) -> Tunnel {
        self.started(&self.join(ticket, source).succeeds())
    }

    /// Enrolled before, it starts one more tunnel.
    #[track_caller]
    pub(crate) fn starts(&self, name: &str, source: impl ToString) -> Tunnel {
        self.started(&self.start(source).args(["--name", name]).succeeds())
    }

    /// `conduit start --reverse`: the router publishes `source` on a free port; more options may follow.
    pub(crate) fn publish(&self, source: impl ToString) -> Run {
        self.start(source).args(["--reverse"])
    }

    /// Enrolled before, it publishes `source`.
    #[track_caller]
    pub(crate) fn publishes(&self, name: &str, source: impl ToString) -> Tunnel {
        self.started(&self.publish(source).args(["--name", name]).succeeds())
    }

    /// Enrols, and has no tunnel afterwards.
    #[track_caller]
    pub(crate) fn enrols(&self, ticket: &str) {
        let tunnel = self.joins(ticket, "127.0.0.1:9");
        self.conduit(&["kill", "--tunnel", &tunnel.name]).succeeds();
    }

    /// The same client, with its key and the routers that it knows, in another home.
    pub(crate) fn moves_to(&self, home: Home) -> Self {
        for file in ["client.key", "client.pub", "routers.toml"] {
            fs::copy(self.home.join(file), home.join(file)).expect("a copy");
        }
        Self { home }
    }

    /// Its public key, as text.
    pub(crate) fn identity(&self) -> String {
        fs::read_to_string(self.home.join("client.pub")).expect("client.pub").trim().to_owned()
    }

    /// `conduit start --protocol udp` between two ends; more options may follow.
    pub(crate) fn start_udp(&self, source: impl ToString, bind: &str) -> Run {
        let source = source.to_string();
        self.conduit(&["start", "--protocol", "udp", "--source", &source, "--bind", bind])
    }

    /// Enrols with a ticket and has its UDP tunnel.
    #[track_caller]
    pub(crate) fn joins_udp(
        &self,
        ticket: &str,
        source: impl ToString,
        bind: &str,
        options: &[&str],
    ) -> Tunnel {
        let start = self.start_udp(source, bind).args(options).args(["--join", "-"]);
        self.started(&start.input(format!("{ticket}\n")).succeeds())
    }

    /// What the line of a `start` that succeeded says:
    /// `  tcp-8080   127.0.0.1:8080 → 10.2.0.2:8080   ready (23 ms, quic)   pid 4711`.
    #[track_caller]
    pub(crate) fn line(outcome: &Outcome) -> Line {
        let lines: Vec<_> = outcome.stdout.lines().filter(|line| line.contains('→')).collect();
        let [line] = lines[..] else { panic!("one line was expected: {outcome}") };
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(words.len() >= 8 && words[2] == "→" && words[4] == "ready", "{outcome}");
        let is_carried = ["quic)", "tls)"].iter().any(|carrier| line.contains(carrier));
        assert!(is_carried && words[words.len() - 2] == "pid", "{outcome}");
        let pid = words[words.len() - 1].parse();
        Line {
            name: words[0].to_owned(),
            bind: words[1].to_owned(),
            source: words[3].to_owned(),
            pid: pid.unwrap_or_else(|_| panic!("a pid was expected: {outcome}")),
        }
    }

    /// The tunnel of a `start` that succeeded.
    #[track_caller]
    pub(crate) fn started(&self, outcome: &Outcome) -> Tunnel {
        let Line { name, bind, pid, .. } = Self::line(outcome);
        let bind = bind.parse().unwrap_or_else(|_| panic!("a real port was expected: {outcome}"));
        Tunnel { home: self.home.clone(), name, bind, pid }
    }

    /// The tunnels that `conduit list` knows.
    #[track_caller]
    pub(crate) fn list(&self, options: &[&str]) -> Vec<Value> {
        let outcome = self.conduit(&["list", "-o", "json"]).args(options).succeeds();
        let json = outcome.json();
        assert_eq!(json["schema"], "conduit.list/1", "{outcome}");
        json["tunnels"].as_array().unwrap_or_else(|| panic!("no tunnels: {outcome}")).clone()
    }

    /// `conduit status -o json`, whatever its exit code.
    pub(crate) fn status(&self) -> Outcome {
        self.conduit(&["status", "-o", "json"]).ends()
    }
}

impl Tunnel {
    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.bind).expect("a connection to the tunnel");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.bind)
    }

    pub(crate) fn runs(&self) -> bool {
        runs(self.pid)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal);
    }

    /// `kill -9`.
    #[track_caller]
    pub(crate) fn dies(&self) {
        self.signal(Signal::KILL);
        eventually("the killed tunnel process is gone", || !self.runs());
    }

    /// Its log file, rotated ones left out.
    pub(crate) fn log(&self) -> String {
        let record = self.home.record(&self.name).unwrap_or_default();
        let id = record["tunnel_id"].as_str().unwrap_or_default().to_owned();
        fs::read_to_string(self.home.join("tunnels").join(format!("{id}.log"))).unwrap_or_default()
    }

    /// Its element of `conduit list -o json`, if it is listed.
    #[track_caller]
    pub(crate) fn listed(&self) -> Option<Value> {
        let client = Client { home: self.home.clone() };
        client.list(&[]).into_iter().find(|tunnel| tunnel["name"] == self.name.as_str())
    }

    /// The id of its session with the router; another connection has another.
    #[track_caller]
    pub(crate) fn session(&self) -> String {
        let listed = self.listed().expect("a tunnel");
        listed["router_view"]["session"].as_str().expect("a session").to_owned()
    }

    /// Its live connections, as `conduit list --connections -o json` has them.
    #[track_caller]
    pub(crate) fn connections(&self) -> Vec<Value> {
        let outcome = self.home.conduit(&["list", "--connections", "-o", "json"]).succeeds();
        let json = outcome.json();
        let all = json["connections"].as_array().unwrap_or_else(|| panic!("none: {outcome}"));
        let id = self.listed().expect("a tunnel")["id"].as_str().expect("an id").to_owned();
        let is_own = |connection: &&Value| {
            let number = connection["id"].as_str().and_then(|own| own.strip_prefix(&id));
            number.is_some_and(|number| number.starts_with('/'))
        };
        all.iter().filter(is_own).cloned().collect()
    }

    /// Packets that it did not carry on for this reason, by `conduit status -o json`.
    #[track_caller]
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let outcome = self.home.conduit(&["status", "-o", "json"]).ends();
        let json = outcome.json();
        let mut tunnels = json["tunnels"].as_array().into_iter().flatten();
        let found = tunnels.find(|tunnel| tunnel["name"] == self.name.as_str());
        let found = found.unwrap_or_else(|| panic!("no {}: {outcome}", self.name));
        found["packets"]["dropped"][reason].as_u64().unwrap_or(0)
    }
}
