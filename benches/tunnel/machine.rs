//! What the figures of a run depend on besides the program. Neither names nor paths: a run is published.

use std::fs;
use std::process::Command;

use crate::record::Machine;

pub(crate) fn machine() -> Machine {
    Machine {
        cpu: cpu(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: line("/proc/sys/kernel/osrelease"),
        loopback_mtu: line("/sys/class/net/lo/mtu").parse().unwrap_or_default(),
        tcp_congestion: line("/proc/sys/net/ipv4/tcp_congestion_control"),
        rustc: output("rustc", &["--version"])
            .and_then(|text| Some(text.split(" (").next()?.to_owned()))
            .unwrap_or_else(|| UNKNOWN.to_owned()),
    }
}

/// The commit of the sources, with a `+` when they were changed after it.
pub(crate) fn commit() -> String {
    let Some(commit) = output("git", &["rev-parse", "--short", "HEAD"]) else {
        return UNKNOWN.to_owned();
    };
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let mark = if changed.is_some_and(|text| text.is_empty()) { "" } else { "+" };
    format!("{commit}{mark}")
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned()
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

const UNKNOWN: &str = "unknown";
