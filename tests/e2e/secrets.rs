//! Planted secrets must turn up nowhere: arguments, environments, logs, records, answers.

use std::fs;

use crate::world::{Service, World, echo, files_below, processes_of};

#[test]
fn tickets_and_tokens_turn_up_in_no_process_no_log_and_no_answer() {
    let world = World::new();
    let target = Service::echo();
    let router =
        world.router_with("[policy]\nrequire_token = true\n[logging]\nlevel = \"trace\"\n");
    let create = ["token", "create", "--quiet", "ci"];
    let token = router.command(&create).succeeds().stdout.trim().to_owned();
    let tickets = [router.invite(&[]), router.invite(&[])];
    let (by_stdin, by_environment) = (world.client("A"), world.client("B"));
    let trace = |run: crate::world::Run| {
        run.env("CONDUIT_SECURITY_TOKEN", &token).env("CONDUIT_LOGGING_LEVEL", "trace")
    };
    let first = by_stdin.started(&trace(by_stdin.join(&tickets[0], target.addr())).succeeds());
    let second = by_environment.start(target.addr()).env("CONDUIT_TICKET", &tickets[1]);
    let second = by_environment.started(&trace(second).succeeds());
    for tunnel in [&first, &second] {
        echo(&tunnel.connect(), b"work").expect("the same bytes");
    }
    let secret = |text: &str| {
        [&tickets[0], &tickets[1], &token].iter().any(|secret| text.contains(&secret[6..40]))
    };

    let processes = processes_of(world.path());
    assert_eq!(processes.len(), 3, "a router and two tunnels");
    for pid in processes {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).expect("a live process");
            assert!(!secret(&String::from_utf8_lossy(&text)), "/proc/{pid}/{file}");
        }
    }
    let mut logs = 0;
    for file in files_below(world.path()).iter().filter(|file| file.is_file()) {
        let text = fs::read(file).expect("a file");
        logs += usize::from(
            file.extension().is_some_and(|e| e == "log" || e == "err") && !text.is_empty(),
        );
        assert!(!secret(&String::from_utf8_lossy(&text)), "{}", file.display());
    }
    assert!(logs >= 3, "{logs} logs with something in them");
    for client in [&by_stdin, &by_environment] {
        for command in [
            &["list", "-o", "json"][..],
            &["status", "-o", "json"],
            &["logs", &first.name],
            &["config", "show"],
        ] {
            let outcome = client.conduit(command).env("CONDUIT_SECURITY_TOKEN", &token).ends();
            assert!(!secret(&outcome.stdout) && !secret(&outcome.stderr), "{command:?}");
        }
    }
    for command in [&["clients", "-o", "json"][..], &["token", "list", "-o", "json"]] {
        assert!(!secret(&router.command(command).succeeds().stdout), "{command:?}");
    }
}

#[test]
fn a_tunnel_process_is_on_its_own() {
    let world = World::new();
    let target = Service::echo();
    let (_router, _client, tunnel) = world.tunnel_to(target.addr());
    let stat = fs::read_to_string(format!("/proc/{}/stat", tunnel.pid)).expect("a live process");
    let fields: Vec<_> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!(session, tunnel.pid.to_string(), "its own session");
    assert_eq!(terminal, "0", "no terminal");
    assert_eq!(
        fs::read_link(format!("/proc/{}/cwd", tunnel.pid)).expect("a folder"),
        std::path::Path::new("/")
    );
    let pipes = |pid: &str| -> Vec<_> {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
        let open =
            open.filter(|fd| fd.file_name() != "0").filter_map(|fd| fs::read_link(fd.path()).ok());
        open.filter(|to| to.to_string_lossy().starts_with("pipe:")).collect()
    };
    // Stdin is the pipe by which it got its settings. What whoever runs the tests left open for every process
    // below it is nobody's mistake here.
    let inherited = pipes("self");
    let held: Vec<_> = pipes(&tunnel.pid.to_string())
        .into_iter()
        .filter(|pipe| !inherited.contains(pipe))
        .collect();
    assert!(held.is_empty(), "pipes of whoever started it: {held:?}");
}
