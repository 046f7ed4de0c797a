//! A router process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Home, Run, kill, within};

pub(crate) struct Router {
    home: Home,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Child,
    addr: SocketAddr,
}

impl Router {
    /// `conduit router ARGUMENTS`, ready to serve.
    #[track_caller]
    pub(crate) fn start(home: Home, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let environment: Vec<_> =
            environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let process = spawn(&home, &arguments, &environment);
        let mut router = Self {
            home,
            arguments,
            environment,
            process,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        router.wait_until_ready();
        router
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Where it listens (UDP).
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its key, as text.
    pub(crate) fn identity(&self) -> String {
        fs::read_to_string(self.home.join("router/router.pub"))
            .expect("router.pub")
            .trim()
            .to_owned()
    }

    /// What it said on stderr, which is its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().with_extension("err")).unwrap_or_default()
    }

    /// What it printed.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.home.path().with_extension("out")).unwrap_or_default()
    }

    /// `conduit router …` beside the running one.
    pub(crate) fn command(&self, arguments: &[&str]) -> Run {
        self.home.conduit(&["router"]).args(arguments)
    }

    /// A ticket, alone.
    #[track_caller]
    pub(crate) fn invite(&self, options: &[&str]) -> String {
        let outcome = self.command(&["invite", "--quiet"]).args(options).succeeds();
        let ticket = outcome.stdout.trim();
        assert!(ticket.starts_with("cdt1_") && !ticket.contains(char::is_whitespace), "{outcome}");
        ticket.to_owned()
    }

    /// What it says of itself, by `conduit status -o json`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.home.conduit(&["status", "-o", "json"]).succeeds().json()["router"].clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// `kill -9`.
    pub(crate) fn dies(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.process.wait();
    }

    /// Its exit code, when it ends within the limit.
    #[track_caller]
    pub(crate) fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        let status = within(limit, "the router ends", || self.process.try_wait().expect("a child"));
        status.code()
    }

    /// Starts it again at the same address.
    #[track_caller]
    pub(crate) fn returns(&mut self) {
        let addr = self.addr.to_string();
        self.returns_at(&addr);
    }

    /// Starts it again with the same home and key at another address.
    #[track_caller]
    pub(crate) fn returns_at(&mut self, addr: &str) {
        let arguments = ["--bind".to_owned(), addr.to_owned()];
        let mut arguments: Vec<_> = arguments.into_iter().collect();
        let file = self.arguments.iter().position(|argument| argument == "-f");
        if let Some(at) = file {
            arguments.extend_from_slice(&self.arguments[at..=at + 1]);
        }
        self.process = spawn(&self.home, &arguments, &self.environment);
        self.wait_until_ready();
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let (home, process) = (self.home.clone(), &mut self.process);
        let err = home.path().with_extension("err");
        self.addr = within(Duration::from_secs(20), "the router is ready", || {
            if let Some(status) = process.try_wait().expect("a child") {
                panic!(
                    "the router ended ({status}): {}",
                    fs::read_to_string(&err).unwrap_or_default()
                );
            }
            let records = home.records();
            let record = records.iter().find(|record| record["pid"] == process.id())?;
            let addr: SocketAddr = record["config"]["bind"].as_str()?.parse().ok()?;
            (record["status"] == "ready" && addr.port() != 0).then_some(addr)
        });
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(home: &Home, arguments: &[String], environment: &[(String, String)]) -> Child {
    let file = |extension: &str| {
        let path = home.path().with_extension(extension);
        File::options().create(true).append(true).open(path).expect("a file for its output")
    };
    let mut run = home.conduit(&["router"]).args(arguments);
    for (name, value) in environment {
        run = run.env(name, value);
    }
    run.spawn(file("out"), file("err"))
}
