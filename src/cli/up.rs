//! `conduit up`: every tunnel of a configuration file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::context::{Context, signals, unless_interrupted};
use super::enrol::{read_ticket, remember_move};
use super::prepare::{Prepared, client_file, prepare};
use super::report::{as_json, warn};
use super::service::{self, System};
use super::start::name_of;
use crate::config::{ClientConfig, Loaded, Overrides};
use crate::fleet::{self, Event, Failure, Kind, Launch, Outcome, Output, Ready, exit};
use crate::tunnel::Name;

/// Options of `up`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Enrol with a ticket first: the ticket, a file with it, or - for stdin
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// Supervise the tunnels in the foreground: restart what dies, drain on SIGTERM and Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Print a service file that keeps this file's tunnels running, and start nothing
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["join", "foreground"])]
    service_file: Option<System>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let loaded = load(args.file.as_deref(), context)?;
    if let Some(system) = args.service_file {
        return print_service(&loaded, system, context);
    }
    let file = canonical(loaded.file.as_deref());
    let invitation = read_ticket(args.join.as_deref(), context)?;
    // Held until the end: one supervisor for a file.
    let supervision =
        if args.foreground { Some(context.registry()?.supervise(&file)?) } else { None };
    let code = context.block_on(async {
        let mut signals = signals()?;
        let preparing = prepare(context, loaded, invitation);
        let prepared = unless_interrupted(&mut signals, preparing).await?;
        let log = if args.foreground { Output::Stderr } else { Output::Own };
        let launches = launches(&prepared, context, &file, log, args.foreground)?;
        if args.foreground {
            let watch = |event| report(&event, context);
            return fleet::supervise(launches, signals, watch).await.map(|()| 0);
        }
        let registry = context.registry()?;
        let names: Vec<Name> = launches.iter().map(|launch| launch.spec.name.clone()).collect();
        let work = async { Ok(fleet::bring_up(&registry, launches).await) };
        let outcomes = unless_interrupted(&mut signals, work).await?;
        if outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Failed(_))) {
            remember_move(&context.home()?, &prepared.pin)?;
        }
        for record in fleet::no_longer_declared(&registry, &file, &names) {
            let name = record.name;
            warn(&format!(
                "note: {name} runs and is no longer in the file; `conduit kill --tunnel {name}` ends it"
            ));
        }
        show(&outcomes, &prepared, context)
    });
    drop(supervision);
    code
}

fn load(file: Option<&Path>, context: &Context) -> Result<Loaded<ClientConfig>, Failure> {
    let Some(path) = client_file(file, context)? else {
        let home = context.home()?;
        let message = format!("there is no conduit.toml here, nor in {}", home.root().display());
        return Err(Failure::new(Kind::Config, "no_file", message)
            .with_hint("name one with -f, or `conduit init` writes one"));
    };
    let loaded = ClientConfig::load(Some(&path), &context.environment, &Overrides::new())?;
    if loaded.config.tunnels.is_empty() {
        let message = format!("{} declares no tunnel", path.display());
        return Err(Failure::new(Kind::Config, "no_tunnels", message)
            .with_hint("add a [[tunnels]] with name, source and bind"));
    }
    Ok(loaded)
}

fn launches(
    prepared: &Prepared,
    context: &Context,
    file: &Path,
    log: Output,
    leashed: bool,
) -> Result<Vec<Launch>, Failure> {
    let tunnels = &prepared.config.tunnels;
    let launch = |spec: &crate::tunnel::TunnelSpec| {
        let mut launch = prepared.launch(context, spec.clone(), log.clone())?;
        launch.config_file = Some(file.to_owned());
        launch.leashed = leashed;
        // Two processes that rotate one file would lose each other's lines.
        if let (Output::File(path), true) = (&launch.log, tunnels.len() > 1) {
            launch.log = Output::File(with_name(path, &spec.name));
        }
        Ok(launch)
    };
    tunnels.iter().map(launch).collect()
}

/// `conduit.log` of the tunnel `web` is `conduit-web.log`.
fn with_name(path: &Path, name: &Name) -> PathBuf {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
    let dot = extension.map(|extension| format!(".{extension}")).unwrap_or_default();
    path.with_file_name(format!("{stem}-{name}{dot}"))
}

/// The name under which `down` finds what this file started.
pub(super) fn canonical(file: Option<&Path>) -> PathBuf {
    let file = file.unwrap_or(Path::new(""));
    std::fs::canonicalize(file).or_else(|_| std::path::absolute(file)).unwrap_or(file.to_owned())
}

fn show(
    outcomes: &[(Name, Outcome)],
    prepared: &Prepared,
    context: &Context,
) -> Result<u8, Failure> {
    let mut code = 0;
    let mut documents = Vec::new();
    for (name, outcome) in outcomes {
        if let Outcome::Running { silence: Some(silence), .. } = outcome {
            warn(&format!("warning: {silence}"));
        }
        if let Outcome::Failed(failure) = outcome {
            // One code when all fail for one reason, else the general one.
            code = if code == 0 || code == failure.exit { failure.exit } else { exit::FAILURE };
        }
        if context.json {
            documents.push(as_document(name, outcome));
        } else if context.quiet {
            match outcome {
                Outcome::Started(ready) | Outcome::Restarted(ready) => {
                    context.line(ready.id.as_str())?;
                }
                Outcome::Running { record, .. } => context.line(record.tunnel_id.as_str())?,
                Outcome::Failed(failure) => warn(&format!("error: {name}: {failure}")),
            }
        } else {
            context.line(&as_line(name, outcome))?;
        }
    }
    if context.json {
        let router = prepared.pin.addresses.first();
        let up = json!({"schema": "conduit.up/1", "router": router, "tunnels": documents});
        context.document(&up)?;
    }
    Ok(code)
}

fn as_line(name: &Name, outcome: &Outcome) -> String {
    let line = |ready: &Ready, word: &str| {
        format!(
            "  {name}   {} → {}   {word} ({} ms, {})   pid {}",
            ready.bind, ready.source, ready.ready_ms, ready.carrier, ready.pid
        )
    };
    match outcome {
        Outcome::Started(ready) => line(ready, "started"),
        Outcome::Restarted(ready) => line(ready, "changed → restarted"),
        Outcome::Running { record, supervisor, silence } => {
            let config = &record.config;
            let by = supervisor.map(|pid| format!(" (supervised by pid {pid})"));
            let but = silence.as_ref().map_or("", |_| ", but does not answer");
            let bind = config.bind.as_ref().map(ToString::to_string).unwrap_or_default();
            let source = config.source.as_ref().map(ToString::to_string).unwrap_or_default();
            let by = by.unwrap_or_default();
            format!("  {name}   {bind} → {source}   already running{by}{but}   pid {}", record.pid)
        }
        Outcome::Failed(failure) => {
            let hint = failure.hint.as_ref().map(|hint| format!(" (try: {hint})"));
            format!("  {name}   failed: {failure}{}", hint.unwrap_or_default())
        }
    }
}

fn as_document(name: &Name, outcome: &Outcome) -> Value {
    let started = |ready: &Ready, word: &str| {
        json!({"name": name, "outcome": word, "id": ready.id, "pid": ready.pid, "bind": ready.bind,
            "source": ready.source, "carrier": ready.carrier, "ready_ms": ready.ready_ms})
    };
    match outcome {
        Outcome::Started(ready) => started(ready, "started"),
        Outcome::Restarted(ready) => started(ready, "restarted"),
        Outcome::Running { record, supervisor, silence } => {
            let mut running = json!({"name": name, "outcome": "running",
                "id": record.tunnel_id, "pid": record.pid, "bind": record.config.bind,
                "source": record.config.source});
            if let Some(pid) = supervisor {
                running["supervisor"] = json!(pid);
            }
            if silence.is_some() {
                running["answers"] = json!(false);
            }
            running
        }
        Outcome::Failed(failure) => {
            let error: Value = serde_json::from_str(&as_json(failure)).unwrap_or_default();
            json!({"name": name, "outcome": "failed", "error": error})
        }
    }
}

/// What the supervisor says: on stdout that a tunnel is ready, on stderr what goes wrong.
fn report(event: &Event, context: &Context) {
    match event {
        Event::Ready(_, ready) => {
            let line = if context.json {
                json!({"schema": "conduit.up/1", "event": "ready", "name": name_of(ready),
                    "id": ready.id, "pid": ready.pid, "bind": ready.bind, "source": ready.source})
                .to_string()
            } else {
                format!(
                    "  {}   {} → {}   ready   pid {}",
                    name_of(ready),
                    ready.bind,
                    ready.source,
                    ready.pid
                )
            };
            // A closed stdout is no reason to end what is supervised.
            let _ = context.line(&line);
        }
        Event::Again(name, failure, pause) => {
            warn(&format!("{name}: {failure}; again in {} ms", pause.as_millis()));
        }
        Event::Ended(name) => warn(&format!("{name} was ended, and stays so")),
        Event::TakenOver(name, failure) => {
            warn(&format!("{name} was taken over, and stays so: {failure}"));
        }
        Event::Lost(name, failure) => warn(&format!("{name} cannot be kept: {failure}")),
    }
}

fn print_service(
    loaded: &Loaded<ClientConfig>,
    system: System,
    context: &Context,
) -> Result<u8, Failure> {
    let file = service::absolute(loaded.file.as_deref().unwrap_or(Path::new("conduit.toml")))?;
    let low = loaded.config.tunnels.iter().any(service::binds_low);
    let description = format!("Conduit tunnels of {file}");
    let arguments =
        ["up", "--foreground", "--file", &file].iter().map(|word| (*word).to_owned()).collect();
    service::print(context, system, crate::service::Kind::Fleet, &description, arguments, low)
}

const EXAMPLES: &str = "\
Examples:
  conduit up -f conduit.toml            start what does not run, restart what changed
  conduit up -f conduit.toml -o json
  conduit up --foreground               one supervisor: for containers and systemd
  conduit up --service-file systemd     print the unit that does this

Nothing is started when the file is wrong; every problem is reported with its line.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_of_a_file_has_a_log_of_its_own() {
        let name: Name = "web".parse().expect("a name");
        assert_eq!(with_name(Path::new("/var/log/c.log"), &name), Path::new("/var/log/c-web.log"));
        assert_eq!(with_name(Path::new("/var/log/c"), &name), Path::new("/var/log/c-web"));
    }
}
