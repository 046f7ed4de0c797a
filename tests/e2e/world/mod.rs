//! The stage: homes, routers, clients and tunnels as processes, and targets as threads of the test.
//!
//! It knows the command line and the records, nothing of the library's insides. Everything it starts ends with it.

mod client;
mod haproxy;
mod hosts;
mod namespace;
mod network;
mod packets;
mod programs;
mod router;
mod run;
mod services;
mod stream;
mod wait;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use client::{Client, Tunnel};
pub(crate) use haproxy::Haproxy;
pub(crate) use hosts::{Host, ip, on_two_hosts};
pub(crate) use namespace::in_namespace;
pub(crate) use network::{Files, Iperf, WireGuard, WireGuardKey};
pub(crate) use packets::{Answerer, asks, user_of};
pub(crate) use programs::{Dnsmasq, Nginx, OutboundProxy, Redis, Sshd};
pub(crate) use router::Router;
pub(crate) use run::{Outcome, Run, require};
pub(crate) use services::{BlackHole, Service, free_port};
pub(crate) use stream::{echo, ends_with_reset, noise, resets, said_at, said_within, sha256_of};
pub(crate) use wait::{eventually, within};

/// The binary under test.
pub(crate) const CONDUIT: &str = env!("CARGO_BIN_EXE_conduit");

/// A folder with the homes of everybody in it.
pub(crate) struct World {
    folder: TempDir,
}

/// One `CONDUIT_HOME`.
#[derive(Clone)]
pub(crate) struct Home {
    path: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("cdt").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("its mode");
        Self { folder }
    }

    /// The folder itself, for files that are nobody's home.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// A home that exists and is empty.
    pub(crate) fn home(&self, name: &str) -> Home {
        let path = self.path().join(name);
        if !path.exists() {
            fs::DirBuilder::new().mode(0o700).create(&path).expect("a home");
        }
        Home { path }
    }

    /// A router on a free port of 127.0.0.1, ready.
    pub(crate) fn router(&self) -> Router {
        self.router_at("127.0.0.1:0")
    }

    /// A router at this address, ready.
    #[track_caller]
    pub(crate) fn router_at(&self, addr: &str) -> Router {
        Router::start(self.home("R"), &["--bind", addr], &[])
    }

    /// A router with a file of its own; `[listen] bind` is added.
    pub(crate) fn router_with(&self, file: &str) -> Router {
        let path = self.file("router.toml", format!("[listen]\nbind = \"127.0.0.1:0\"\n{file}"));
        Router::start(self.home("R"), &["-f", path.to_str().expect("UTF-8")], &[])
    }

    /// A client that nobody knows yet.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::new(self.home(name))
    }

    /// The usual cast: a router, an enrolled owner, and its tunnel to `source`.
    pub(crate) fn tunnel_to(&self, source: impl ToString) -> (Router, Client, Tunnel) {
        let router = self.router();
        let client = self.client("C");
        let tunnel = client.joins(&router.invite(&[]), source);
        (router, client, tunnel)
    }

    /// The same with the ends the other way round: the router publishes `source`.
    pub(crate) fn publication_of(&self, source: impl ToString) -> (Router, Client, Tunnel) {
        let router = self.router();
        let client = self.client("C");
        client.enrols(&router.invite(&[]));
        let tunnel = client.publishes("published", source);
        (router, client, tunnel)
    }

    /// The same for UDP, with these options: with `--reverse` the tunnel's bind is at the router.
    pub(crate) fn udp_tunnel_to(
        &self,
        source: impl ToString,
        options: &[&str],
    ) -> (Router, Client, Tunnel) {
        let router = self.router();
        let client = self.client("C");
        let tunnel = client.joins_udp(&router.invite(&[]), source, "127.0.0.1:0", options);
        (router, client, tunnel)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in processes_of(self.path()) {
            kill(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

impl World {
    /// What every process of this world has logged, for whoever reads a failure.
    fn logs(&self) -> String {
        let mut text = String::new();
        for file in files_below(self.path()) {
            if file.extension().is_some_and(|e| e == "log" || e == "err") {
                let content =
                    String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
                let skipped = content.lines().count().saturating_sub(40);
                let tail: Vec<_> = content.lines().skip(skipped).collect();
                text.push_str(&format!("── {}\n{}\n", file.display(), tail.join("\n")));
            }
        }
        text
    }
}

impl Home {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A command of the binary with this home, in a folder without a configuration file.
    pub(crate) fn conduit<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        let mut run = Run::binary(CONDUIT)
            .env("CONDUIT_HOME", &self.path)
            .env("NO_COLOR", "1")
            .folder(&self.path);
        for argument in arguments {
            run = run.arg(argument.as_ref());
        }
        run
    }

    /// Every record that is JSON, as it lies on the disk.
    pub(crate) fn records(&self) -> Vec<Value> {
        let Ok(entries) = fs::read_dir(self.join("tunnels")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| read_record(&entry.path())).collect()
    }

    /// The record whose name is `name`: the live one, else the one that was written last.
    pub(crate) fn record(&self, name: &str) -> Option<Value> {
        let named = self.records().into_iter().filter(|record| record["name"] == name);
        named.max_by_key(|record| {
            let pid = record["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            let written = fs::metadata(self.file_of(record)).and_then(|m| m.modified()).ok();
            (pid.is_some_and(runs), written)
        })
    }

    fn file_of(&self, record: &Value) -> PathBuf {
        let id = record["tunnel_id"].as_str().unwrap_or_default();
        self.join("tunnels").join(format!("{id}.json"))
    }

    /// The file of that record.
    pub(crate) fn record_file(&self, name: &str) -> PathBuf {
        let record = self.record(name).unwrap_or_else(|| panic!("no record of {name}"));
        self.file_of(&record)
    }
}

/// A record, if it is one: a test may have put a FIFO there, to which nobody ever writes, or 100 MiB.
fn read_record(path: &Path) -> Option<Value> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let plausible = metadata.is_file() && metadata.len() < 1 << 20;
    if !plausible || path.extension().is_none_or(|e| e != "json") {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Every file and folder below a folder; links are not followed.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

/// The processes of our binary that belong to homes below `folder`: by their environment, by their open files and
/// by the records there.
pub(crate) fn processes_of(folder: &Path) -> Vec<u32> {
    let recorded: Vec<u32> = files_below(folder)
        .iter()
        .filter_map(|file| read_record(file)?["pid"].as_u64())
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect();
    let ours = fs::canonicalize(CONDUIT).expect("the binary");
    let marker = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if exe != ours {
            continue;
        }
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let named = environment.windows(marker.len()).any(|window| window == marker);
        let holds = fs::read_dir(entry.path().join("fd")).is_ok_and(|open| {
            open.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(folder)))
        });
        if named || holds || recorded.contains(&pid) {
            found.push(pid);
        }
    }
    found
}

/// Sends a signal to one process that this test started.
pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process runs; one that ended and was not collected does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// How many descriptors a process has open.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
}

/// The full figure with `CONDUIT_FULL=1`, the ordinary one else; prints which.
pub(crate) fn figure(what: &str, ordinary: usize, full: usize) -> usize {
    let taken =
        if std::env::var_os("CONDUIT_FULL").is_some_and(|v| v == "1") { full } else { ordinary };
    println!("{what}: {taken} (ordinary {ordinary}, with CONDUIT_FULL=1 {full})");
    taken
}
