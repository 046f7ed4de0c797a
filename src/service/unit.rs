//! What a service file is rendered from, the same for every init system.

use std::path::{Path, PathBuf};

/// A service to be: what runs, as whom, and where its state lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// One line for people, shown by the service manager.
    pub description: String,
    /// The program, as an absolute path, and the arguments that keep it in the foreground. Enrolment does not
    /// belong here: see [`Unit::command`].
    pub exec: Vec<String>,
    /// The service's `CONDUIT_HOME`: keys, enrolled routers, records. It exists and belongs to `user`.
    pub home: PathBuf,
    /// The account to run as. With `None` the service manager makes an account of its own where it can, and
    /// keeps the state in a folder of its own that is called like `home`.
    pub user: Option<String>,
    /// Whether a port below 1024 is bound: the service then gets that one capability, and no other.
    pub low_ports: bool,
    /// What kind of process it is.
    pub kind: Kind,
}

/// Which of the long-running commands a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `conduit start --foreground`: one tunnel.
    Tunnel,
    /// `conduit up --foreground`: a supervisor with a process per tunnel of a file.
    Fleet,
    /// `conduit router`.
    Router,
}

impl Unit {
    /// The command line without anything secret: everyone on the machine can read a service file and the
    /// arguments of a process.
    ///
    /// `--join` and its ticket are left out, and so is any other argument that is a ticket or a token. The
    /// service starts with the key that was enrolled before.
    pub fn command(&self) -> Vec<&str> {
        let mut arguments = self.exec.iter().map(String::as_str);
        let mut kept = Vec::with_capacity(self.exec.len());
        while let Some(argument) = arguments.next() {
            if argument == "--join" {
                arguments.next();
            } else if !argument.starts_with("--join=") && !is_secret(argument) {
                kept.push(argument);
            }
        }
        kept
    }

    /// Whether the home, the program or an argument lies where people's homes are.
    pub(super) fn needs_homes(&self) -> bool {
        let beneath = |path: &Path| HOMES.iter().any(|folder| path.starts_with(folder));
        beneath(&self.home) || self.exec.iter().any(|argument| beneath(Path::new(argument)))
    }
}

/// Whether an argument, or what stands behind its `=`, is a ticket or a token and not just a name that looks alike.
fn is_secret(argument: &str) -> bool {
    let value = argument.split_once('=').map_or(argument, |(_, value)| value);
    let mut rests = SECRETS.iter().filter_map(|prefix| value.strip_prefix(prefix));
    rests.any(|rest| rest.len() >= SHORTEST_SECRET)
}

/// How tickets and tokens start.
const SECRETS: [&str; 2] = ["cdt1_", "cdp_"];

/// Characters after the prefix: both carry at least 128 secret bits in base32.
const SHORTEST_SECRET: usize = 26;

/// The folders that systemd's `ProtectHome` covers.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_and_tokens_never_reach_the_command_line() {
        let secret = "a".repeat(SHORTEST_SECRET);
        let (ticket, token) = (format!("cdt1_{secret}"), format!("cdp_{secret}"));
        let (joined, given) = (format!("--join={ticket}"), format!("--x={token}"));
        let exec = ["/bin/conduit", "start", "--join", &ticket, &joined, &given, &token];
        let kept = ["--name", "cdp_web"];
        let unit = Unit {
            description: String::new(),
            exec: exec.into_iter().chain(kept).map(str::to_owned).collect(),
            home: "/var/lib/conduit".into(),
            user: None,
            low_ports: false,
            kind: Kind::Tunnel,
        };
        assert_eq!(unit.command(), ["/bin/conduit", "start", "--name", "cdp_web"]);
    }
}
