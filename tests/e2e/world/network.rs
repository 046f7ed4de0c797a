//! Programs that need a network of their own, since their ports or interfaces are given: WireGuard, iperf3, a web
//! server. Each runs on the host where it was started.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::hosts::ip;
use super::programs::Daemon;
use super::{Run, within};

/// One end of a WireGuard tunnel, in user space.
pub(crate) struct WireGuard {
    _process: Daemon,
    interface: String,
}

pub(crate) struct WireGuardKey {
    file: PathBuf,
    public: String,
}

/// An iperf3 server on port 5201.
pub(crate) struct Iperf {
    _process: Daemon,
}

/// A web server of Python's for the files of a folder.
pub(crate) struct Files {
    _process: Daemon,
}

impl WireGuardKey {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let private = Run::program("wg").arg("genkey").succeeds().stdout;
        let public = Run::program("wg").arg("pubkey").input(&private).succeeds().stdout;
        let file = folder.join(name);
        fs::write(&file, private).expect("a key file");
        Self { file, public: public.trim().to_owned() }
    }
}

impl WireGuard {
    /// An interface with this address in a network of 24 bits, which is what the peer may use; `more` goes to `wg set`:
    /// `listen-port 51820` in front of the peer, or the peer's `endpoint`.
    pub(crate) fn start(
        folder: &Path,
        (interface, addr, mtu): (&str, IpAddr, u16),
        key: &WireGuardKey,
        peer: &WireGuardKey,
        (own, of_peer): (&str, &str),
    ) -> Self {
        let log = File::create(folder.join(format!("{interface}.err"))).expect("a log file");
        let run = Run::program("wireguard-go").args(["-f", interface]);
        let process = Daemon(run.spawn(Stdio::null(), log));
        let socket = PathBuf::from(format!("/run/wireguard/{interface}.sock"));
        within(Duration::from_secs(10), "wireguard-go is ready", || socket.exists().then_some(()));
        let set = Run::program("wg").args(["set", interface, "private-key"]).arg(&key.file);
        let set = set.args(own.split_whitespace()).args(["peer", &peer.public]);
        let set = set.args(["allowed-ips", &format!("{addr}/24")]);
        set.args(of_peer.split_whitespace()).succeeds();
        ip(&format!("address add {addr}/24 dev {interface}"));
        ip(&format!("link set {interface} mtu {mtu} up"));
        Self { _process: process, interface: interface.to_owned() }
    }

    /// Whether its peer has proved who it is.
    pub(crate) fn has_shaken_hands(&self) -> bool {
        let show = ["show", &self.interface, "latest-handshakes"];
        let outcome = Run::program("wg").args(show).succeeds();
        let times = outcome.stdout.split_whitespace().skip(1).step_by(2);
        let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        assert_eq!(times.len(), 1, "one peer: {outcome}");
        times[0] > 0
    }
}

impl Iperf {
    pub(crate) fn serve(folder: &Path, addr: IpAddr) -> Self {
        let said = folder.join("iperf3.out");
        let log = || File::create(&said).expect("a log file");
        let run = Run::program("iperf3").args(["-s", "--forceflush", "-B", &addr.to_string()]);
        let process = Daemon(run.spawn(log(), Stdio::null()));
        within(Duration::from_secs(10), "iperf3 listens", || {
            fs::read_to_string(&said).ok()?.contains("listening").then_some(())
        });
        Self { _process: process }
    }

    /// What a client at `addr` measured, in its own JSON: `end`.
    #[track_caller]
    pub(crate) fn measure(addr: IpAddr, seconds: usize, options: &[&str]) -> Value {
        let (addr, time) = (addr.to_string(), seconds.to_string());
        let run = Run::program("iperf3").args(["-c", &addr, "-t", &time, "-J"]).args(options);
        let limit = Duration::from_secs(seconds as u64 + 30);
        run.limit(limit).succeeds().json()["end"].clone()
    }
}

impl Files {
    pub(crate) fn serve(folder: &Path, addr: IpAddr, port: u16) -> Self {
        let (port, addr) = (port.to_string(), addr.to_string());
        let log = File::create(folder.join("python.err")).expect("a log file");
        let run = Run::program("python3").args(["-m", "http.server", &port, "--bind", &addr]);
        Self { _process: Daemon(run.folder(folder).spawn(Stdio::null(), log)) }
    }
}
