//! The systemd unit, for systemd 247 (2020) and later.

use std::fmt::Write as _;
use std::path::Path;

use super::{Kind, Unit};

/// Renders a hardened unit for `/etc/systemd/system/`.
///
/// It restarts for ever, except after a wrong command line (2) or a wrong configuration (78), which a restart
/// does not mend. Nothing secret is in it: see [`Unit::command`].
pub fn systemd(unit: &Unit) -> String {
    let mut text = String::with_capacity(4096);
    section(&mut text, "Unit", &about(unit));
    section(&mut text, "Service", &service(unit));
    section(&mut text, "Install", &[("WantedBy", "multi-user.target".into())]);
    text
}

type Lines = Vec<(&'static str, String)>;

fn section(text: &mut String, name: &str, lines: &[(&'static str, String)]) {
    let separator = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{separator}[{name}]");
    for (key, value) in lines {
        // A line with an empty key is a comment for the person who reads the unit.
        let _ = if key.is_empty() {
            writeln!(text, "# {value}")
        } else {
            writeln!(text, "{key}={value}")
        };
    }
}

fn about(unit: &Unit) -> Lines {
    vec![
        ("Description", plain(&unit.description)),
        ("Wants", "network-online.target".into()),
        ("After", "network-online.target nss-lookup.target".into()),
        ("", "Never give up: a router may be away for longer than systemd counts restarts.".into()),
        ("StartLimitIntervalSec", "0".into()),
    ]
}

fn service(unit: &Unit) -> Lines {
    let command = unit.command();
    let words = command
        .iter()
        .enumerate()
        .map(|(index, word)| if index == 0 { program(word) } else { argument(word) });
    let mut lines: Lines = vec![
        ("", "It says when it is ready, and twice a minute that it works.".into()),
        ("Type", "notify".into()),
        ("NotifyAccess", "main".into()),
        ("WatchdogSec", "60".into()),
        ("ExecStart", words.collect::<Vec<_>>().join(" ")),
    ];
    if let (Kind::Router, Some(own)) = (unit.kind, command.first()) {
        let (run, own) = (program(own), argument(own));
        lines.push((
            "",
            "It becomes the program that is there now, and connections stay open.".into(),
        ));
        lines.push(("ExecReload", format!("{run} router upgrade --program {own}")));
    }
    lines.extend([
        ("Restart", "always".into()),
        ("RestartSec", "2".into()),
        ("", "A wrong command line or configuration stays wrong until somebody mends it.".into()),
        ("RestartPreventExitStatus", "2 78".into()),
        ("", "SIGTERM drains for up to 30 s.".into()),
        ("KillMode", "mixed".into()),
        ("TimeoutStopSec", "40".into()),
    ]);
    lines.extend(account(unit));
    lines.extend(capabilities(unit));
    lines.extend(limits(unit.kind));
    lines.extend(SANDBOX.iter().map(|(key, value)| (*key, (*value).into())));
    lines
}

/// Who runs it, and where it may write.
fn account(unit: &Unit) -> Lines {
    let homes = if unit.needs_homes() { "read-only" } else { "yes" };
    let mut lines: Lines = Vec::new();
    match &unit.user {
        Some(user) => {
            let home = path(&unit.home);
            lines.push(("User", plain(user)));
            lines.push(("Environment", quoted(&format!("CONDUIT_HOME={}", unit.home.display()))));
            lines.push(("WorkingDirectory", home.clone()));
            lines.push(("ReadWritePaths", quoted(&unit.home.display().to_string())));
        }
        None => {
            let name = state_name(&unit.home);
            lines.push((
                "",
                format!("An account made by systemd; its state is in /var/lib/private/{name}."),
            ));
            lines.push(("DynamicUser", "yes".into()));
            lines.push(("StateDirectory", name.clone()));
            lines.push(("StateDirectoryMode", "0700".into()));
            lines.push(("Environment", format!("CONDUIT_HOME=%S/private/{name}")));
            lines.push(("WorkingDirectory", format!("%S/private/{name}")));
        }
    }
    lines.push(("ProtectHome", homes.into()));
    lines
}

fn capabilities(unit: &Unit) -> Lines {
    if unit.low_ports {
        let bind = || String::from("CAP_NET_BIND_SERVICE");
        vec![
            ("", "For a port below 1024.".into()),
            ("AmbientCapabilities", bind()),
            ("CapabilityBoundingSet", bind()),
        ]
    } else {
        vec![("CapabilityBoundingSet", String::new())]
    }
}

fn limits(kind: Kind) -> Lines {
    let mut lines: Lines = vec![("LimitNOFILE", "524288".into()), ("LimitCORE", "0".into())];
    match kind {
        Kind::Tunnel => lines.push(("MemoryMax", "1G".into())),
        // One process per tunnel in one group: how many there are is the file's business.
        Kind::Fleet => {}
        Kind::Router => {
            lines.push(("MemoryMax", "2G".into()));
            lines.push((
                "",
                "Cloud metadata. Remove this line where /etc/resolv.conf names such an address."
                    .into(),
            ));
            lines.push(("IPAddressDeny", "169.254.0.0/16".into()));
        }
    }
    lines
}

/// A name for `/var/lib/…` from the last part of the home: `/home/a/.conduit` → `conduit`.
fn state_name(home: &Path) -> String {
    let last = home.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = last.trim_start_matches('.').chars().filter(allowed).collect();
    if name.is_empty() { "conduit".into() } else { name }
}

/// One line; `%` would start a specifier.
fn plain(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.trim().trim_end_matches('\\').replace('%', "%%")
}

/// A path where systemd takes the rest of the line as it is.
fn path(path: &Path) -> String {
    plain(&path.display().to_string())
}

/// The program: no variable is expanded in it, so `$` stays as it is.
fn program(word: &str) -> String {
    if is_bare(word) { word.to_owned() } else { quoted(word) }
}

/// An argument: `$` would expand a variable.
fn argument(word: &str) -> String {
    if is_bare(word) { word.to_owned() } else { quoted(word).replace('$', "$$") }
}

fn is_bare(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@+[]".contains(c))
}

/// systemd's quoting (systemd.syntax(7)): C escapes inside double quotes, `%` doubled.
fn quoted(word: &str) -> String {
    let mut text = String::with_capacity(word.len() + 2);
    text.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// What neither a tunnel nor a router needs.
const SANDBOX: &[(&str, &str)] = &[
    ("UMask", "0077"),
    ("NoNewPrivileges", "yes"),
    ("ProtectSystem", "strict"),
    ("PrivateTmp", "yes"),
    ("PrivateDevices", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("", "Netlink tells the addresses of this machine, which the policy has to know."),
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX AF_NETLINK"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RemoveIPC", "yes"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @resources"),
    ("", "For cpu_affinity and the limit of open files."),
    ("SystemCallFilter", "sched_setaffinity setrlimit prlimit64"),
    ("SystemCallErrorNumber", "EPERM"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(exec: &[&str]) -> Unit {
        Unit {
            description: "Conduit".into(),
            exec: exec.iter().map(|word| (*word).to_owned()).collect(),
            home: "/var/lib/conduit".into(),
            user: Some("conduit".into()),
            low_ports: false,
            kind: Kind::Tunnel,
        }
    }

    fn line(text: &str, key: &str) -> String {
        let start = format!("{key}=");
        let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&start)).collect();
        assert_eq!(found.len(), 1, "{key} in {text}");
        found[0].to_owned()
    }

    #[test]
    fn arguments_reach_the_process_as_they_were_given() {
        for (given, rendered) in [
            ("--bind", "--bind"),
            ("[::1]:80", "[::1]:80"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            (";", r#"";""#),
            ("$HOME ${X}", r#""$$HOME $${X}""#),
            ("100%", r#""100%%""#),
            (r#"say "no""#, r#""say \"no\"""#),
            (r"back\slash", r#""back\\slash""#),
            ("two\nlines\u{1b}", r#""two\nlines\x1b""#),
            ("名前", "\"名前\""),
            ("it's", "\"it's\""),
        ] {
            let exec = line(&systemd(&unit(&["/usr/bin/conduit", given])), "ExecStart");
            assert_eq!(exec, format!("/usr/bin/conduit {rendered}"));
        }
    }

    #[test]
    fn no_description_can_add_a_line() {
        let mut evil = unit(&["/usr/bin/conduit", "x\n[Service]\nExecStart=/bin/sh"]);
        evil.description = "a\nExecStart=/bin/sh\\".into();
        evil.user = Some("root\nExecStart=/bin/sh".into());
        let text = systemd(&evil);
        assert_eq!(text.lines().filter(|line| line.starts_with("ExecStart=")).count(), 1);
        assert_eq!(line(&text, "Description"), "a ExecStart=/bin/sh");
    }

    #[test]
    fn homes_are_hidden_unless_the_service_lives_there() {
        let mut unit = unit(&["/usr/bin/conduit", "router"]);
        assert_eq!(line(&systemd(&unit), "ProtectHome"), "yes");
        unit.home = "/home/aki/.conduit".into();
        assert_eq!(line(&systemd(&unit), "ProtectHome"), "read-only");
        assert_eq!(line(&systemd(&unit), "ReadWritePaths"), "\"/home/aki/.conduit\"");
    }

    #[test]
    fn without_an_account_systemd_makes_one() {
        let mut unit = unit(&["/usr/bin/conduit", "router"]);
        unit.user = None;
        unit.home = "/home/aki/.conduit".into();
        let text = systemd(&unit);
        assert_eq!(line(&text, "DynamicUser"), "yes");
        assert_eq!(line(&text, "StateDirectory"), "conduit");
        assert_eq!(line(&text, "Environment"), "CONDUIT_HOME=%S/private/conduit");
    }

    #[test]
    fn only_a_low_port_brings_a_capability() {
        let mut unit = unit(&["/usr/bin/conduit", "router"]);
        assert_eq!(line(&systemd(&unit), "CapabilityBoundingSet"), "");
        unit.low_ports = true;
        assert_eq!(line(&systemd(&unit), "AmbientCapabilities"), "CAP_NET_BIND_SERVICE");
        assert_eq!(line(&systemd(&unit), "CapabilityBoundingSet"), "CAP_NET_BIND_SERVICE");
    }
}
