//! `--service-file`: a service that does what the command line says, whenever the machine runs.

use std::path::Path;

use super::context::Context;
use crate::fleet::{Failure, Kind};
use crate::service::{self, Unit};

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
    let mut exec = vec![program.to_string_lossy().into_owned()];
    exec.extend(arguments);
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
