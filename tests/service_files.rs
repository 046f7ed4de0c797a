//! The rendered service files, judged by the program that reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use conduit::service::{Kind, Unit, systemd};

#[test]
fn systemd_accepts_the_units_of_start_up_and_router() {
    let folder = tempfile::tempdir().expect("a folder");
    for unit in [start(), up(), router()] {
        let file = write(folder.path(), &unit);
        let output = systemd_analyze(&["verify", "--man=no"], &file);
        // It also reports on units of the machine that ours does not touch.
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|line| line.contains(&name)).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}\n{}", systemd(&unit));
    }
}

/// `verify` passes over a line that it cannot read with a warning at most; this shows that it looked at all.
#[test]
fn systemd_would_have_complained() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut unit = router();
    unit.exec[0] = "/nonexistent/conduit".into();
    let output = systemd_analyze(&["verify", "--man=no"], &write(folder.path(), &unit));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/conduit"));
}

/// 0 is sealed, 10 is open; 2.0 is what systemd's own hardened services reach.
#[test]
fn the_services_are_hardened() {
    let folder = tempfile::tempdir().expect("a folder");
    for unit in [start(), up(), router()] {
        let file = write(folder.path(), &unit);
        let output =
            systemd_analyze(&["security", "--offline=yes", "--no-pager", "--threshold=20"], &file);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn start() -> Unit {
    let arguments = [
        "start",
        "--foreground",
        "--name",
        "web",
        "--source",
        "10.2.0.2:8080",
        "--bind",
        "127.0.0.1:80",
    ];
    unit("Conduit tunnel web (100 % \"yours\")", &arguments, Kind::Tunnel)
}

fn up() -> Unit {
    let mut unit = unit(
        "Conduit tunnels",
        &["up", "--foreground", "-f", "/etc/my tunnels/$x;%h.toml"],
        Kind::Fleet,
    );
    unit.home = "/home/aki/.conduit".into();
    unit
}

fn router() -> Unit {
    let mut unit = unit("Conduit router", &["router", "--bind", "0.0.0.0:9999"], Kind::Router);
    unit.user = None;
    unit
}

fn unit(description: &str, arguments: &[&str], kind: Kind) -> Unit {
    let program = env!("CARGO_BIN_EXE_conduit");
    Unit {
        description: description.into(),
        exec: std::iter::once(program)
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect(),
        home: PathBuf::from("/var/lib/conduit"),
        user: Some("daemon".into()),
        low_ports: kind == Kind::Tunnel,
        kind,
    }
}

fn write(folder: &Path, unit: &Unit) -> PathBuf {
    let file = folder.join(format!("conduit-{:?}.service", unit.kind).to_lowercase());
    std::fs::write(&file, systemd(unit)).expect("a written unit");
    file
}

fn systemd_analyze(arguments: &[&str], file: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .expect("systemd-analyze is missing; install it with: apt-get install systemd")
}
