//! `--service-file`: a service that does what the command line says, whenever the machine runs.

use std::path::Path;

use super::context::Context;
use super::prepare::client_file;
use super::report::warn;
use crate::config::FileKind;
use crate::fleet::{Failure, Kind};
use crate::service::{self, Unit};
use crate::tunnel::{Direction, Numbered, TunnelSpec};

/// The init systems that a service file can be printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum System {
    /// A unit for /etc/systemd/system
    Systemd,
}

/// Prints the service file of this program with these arguments.
pub(super) fn print(
    context: &Context,
    system: System,
    kind: service::Kind,
    description: &str,
    arguments: Vec<String>,
    low_ports: bool,
) -> Result<u8, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(Kind::System, "program", format!("cannot tell where conduit lies: {error}"))
    })?;
    let home = context.home()?.root().to_owned();
    if !home.exists() {
        warn(&format!(
            "warning: {} does not exist yet, and the service needs it: `conduit {}` makes it",
            home.display(),
            if kind == service::Kind::Router { "init --router" } else { "init" }
        ));
    }
    for variable in left_behind(kind, context) {
        warn(&format!("note: {variable} is set here, and the service does not get it"));
    }
    let mut exec = vec![program.to_string_lossy().into_owned()];
    exec.extend(arguments);
    if let Some(file) = file_here(kind, &exec, context)? {
        exec.extend(["--file".to_owned(), file]);
    }
    let unit = Unit {
        description: description.to_owned(),
        exec,
        user: owner(&home),
        home,
        low_ports,
        kind,
    };
    let text = match system {
        System::Systemd => service::systemd(&unit),
    };
    context.raw(text.as_bytes()).map(|()| 0)
}

/// The configuration that the command would find in this folder; the service runs in another one.
fn file_here(
    kind: service::Kind,
    exec: &[String],
    context: &Context,
) -> Result<Option<String>, Failure> {
    if kind == service::Kind::Router || exec.iter().any(|word| word == "--file") {
        return Ok(None);
    }
    let (found, home) = (client_file(None, context)?, context.home()?);
    // The one in the home is found by the service too.
    let elsewhere = found.filter(|path| path.parent() != Some(home.root()));
    elsewhere.map(|path| absolute(&path)).transpose()
}

/// Variables that have an effect on this command here, and are not in the service file: they may be secret.
fn left_behind(kind: service::Kind, context: &Context) -> Vec<String> {
    let keys = if kind == service::Kind::Router { FileKind::Router } else { FileKind::Client };
    let mut names: Vec<String> = keys.keys().filter_map(|key| key.variable()).collect();
    names.push("CONDUIT_TICKET".to_owned());
    // Kubernetes sets CONDUIT_ROUTER_PORT=tcp://… for a service, which has no effect.
    let is_set = |name: &String| {
        let value = context.environment.variable(name);
        value.is_some_and(|value| !value.to_string_lossy().contains("://"))
    };
    names.retain(is_set);
    names
}

/// A path that means the same to a service.
pub(super) fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Whether a port needs a capability.
pub(super) fn is_low(port: u16) -> bool {
    (1..1024).contains(&port)
}

/// Whether this machine binds a port for the tunnel that needs a capability.
pub(super) fn binds_low(spec: &TunnelSpec) -> bool {
    spec.direction == Direction::Forward
        && spec.bind.each().any(|bind| bind.port().is_some_and(is_low))
}

/// Whoever the home belongs to runs the service: the keys in it are theirs. Without a home yet, this user.
#[cfg(unix)]
fn owner(home: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let uid = std::fs::metadata(home).map_or(own, |metadata| metadata.uid());
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut names = accounts.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    // systemd takes a number where a name is not known.
    Some(names.next().unwrap_or_else(|| uid.to_string()))
}

#[cfg(not(unix))]
fn owner(_: &Path) -> Option<String> {
    None
}
