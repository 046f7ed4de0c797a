//! `conduit doctor`: what a tunnel of this machine would meet, from its own files to the sources behind the router.

mod carriers;
mod mapping;
mod path;
mod processes;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::context::{Context, signals, unless_interrupted};
use super::output::{Table, milliseconds};
use super::prepare::{Prepared, client_file, prepare};
use super::reach::RouterArgs;
use crate::client::{self, Once, Unreached};
use crate::config::ClientConfig;
use crate::ends::{self, DialSettings};
use crate::files;
use crate::fleet::{Failure, exit};
use crate::identity::Keypair;
use crate::policy::Decision;
use crate::transport;
use crate::tunnel::{CarrierChoice, Direction, Protocol, Target, TunnelSpec};

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// Also ask the router to connect here, over TCP; may be given again
    #[arg(long, value_name = "HOST:PORT")]
    source: Vec<Target>,
    /// Also measure how much silence a NAT mapping outlives, up to 25 s; takes up to 30 s
    #[arg(long)]
    nat: bool,
    #[command(flatten)]
    router: RouterArgs,
    /// Look at the settings and tunnels of this file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// `conduit.doctor/1`.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    healthy: bool,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    check: String,
    result: Outcome,
    detail: String,
    /// What to do about it.
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// It works, and could work better.
    Warning,
    Failed,
    /// It cannot be told.
    Unknown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl Report {
    fn new() -> Self {
        Self { schema: "conduit.doctor/1", healthy: true, checks: Vec::new() }
    }

    fn note(&mut self, check: &str, result: Outcome, detail: impl Into<String>, fix: Option<&str>) {
        self.healthy &= result != Outcome::Failed;
        let (check, fix) = (check.to_owned(), fix.map(ToOwned::to_owned));
        self.checks.push(Check { check, result, detail: detail.into(), fix });
    }

    fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.note(check, Outcome::Ok, detail, None);
    }

    fn failed(&mut self, check: &str, failure: &Failure) {
        self.note(check, Outcome::Failed, &failure.message, failure.hint.as_deref());
    }

    fn show(&self, context: &Context) -> Result<u8, Failure> {
        if context.json {
            context.document(self)?;
        } else {
            let mut table = Table::new(["CHECK", "RESULT", "DETAIL"]);
            let shown = self.checks.iter().filter(|it| !context.quiet || it.result != Outcome::Ok);
            for Check { check, result, detail, .. } in shown {
                table.row([check.clone(), result.word().to_owned(), detail.clone()]);
            }
            if !table.is_empty() {
                context.line(&table.render(context))?;
            }
            for check in &self.checks {
                if let Some(fix) = &check.fix {
                    context.line(&format!("\n{}: {fix}", check.check))?;
                }
            }
        }
        Ok(if self.healthy { 0 } else { exit::FAILURE })
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut report = Report::new();
    clock(&mut report, context);
    limits(&mut report);
    disk(&mut report, context);
    let examined = context.block_on(async {
        let mut signals = signals()?;
        unless_interrupted(&mut signals, async {
            let is_router = processes::rows(&mut report, context).await?;
            if let Err((check, failure)) = beyond(args, context, is_router, &mut report).await {
                report.failed(check, &failure);
            }
            Ok(0)
        })
        .await
    });
    examined?;
    report.show(context)
}

/// A clock that is far off makes tickets and tokens look expired.
fn clock(report: &mut Report, context: &Context) {
    let now = SystemTime::now();
    let made = context
        .home()
        .ok()
        .and_then(|home| std::fs::metadata(home.root()).and_then(|home| home.modified()).ok());
    match made.and_then(|made| made.duration_since(now).ok()) {
        Some(ahead) if ahead > Duration::from_secs(60) => {
            let fix = "set the clock: `timedatectl set-ntp true`";
            report.note("clock", Outcome::Failed, "it is behind files made earlier", Some(fix));
        }
        _ => report.ok("clock", crate::registry::rfc3339(now)),
    }
}

/// Whether the home takes what a tunnel writes there.
fn disk(report: &mut Report, context: &Context) {
    let Some(home) = context.home().ok().filter(|home| home.root().is_dir()) else { return };
    let probe = home.root().join(format!(".doctor-{}", std::process::id()));
    let written = files::replace(&probe, &[0; ROOM]);
    match written.and_then(|()| files::remove(&probe)) {
        Ok(()) => report.ok("disk", format!("{} can be written", home.root().display())),
        Err(error) => report.failed("disk", &error.into()),
    }
}

/// What this machine gives a process.
fn limits(report: &mut Report) {
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let detail = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        match limit {
            Some(limit) if limit < FILES => {
                let fix = "raise the hard limit: LimitNOFILE in a unit, or `ulimit -Hn`; each connection takes one";
                report.note("open files", Outcome::Warning, detail, Some(fix));
            }
            _ => report.ok("open files", detail),
        }
    }
    match transport::advice_on_buffers() {
        Ok(None) => report.ok("UDP buffers", "as large as they should be"),
        Ok(Some(advice)) => {
            let (detail, fix) = advice.split_once("; ").unwrap_or((&advice, ""));
            report.note("UDP buffers", Outcome::Warning, detail, Some(fix));
        }
        Err(error) => report.note("UDP buffers", Outcome::Failed, error.to_string(), None),
    }
}

/// Files, router, path and sources: what fails first ends it, because the rest depends on it. A host that is a
/// router (`is_router`) need not be a client.
async fn beyond(
    args: &Args,
    context: &Context,
    is_router: bool,
    report: &mut Report,
) -> Result<(), (&'static str, Failure)> {
    let file = client_file(args.file.as_deref(), context).map_err(|error| ("settings", error))?;
    let overrides = args.router.overrides();
    let loaded = ClientConfig::load(file.as_deref(), &context.environment, &overrides)
        .map_err(|error| ("settings", error.into()))?;
    let read = file.map_or_else(|| "no file, defaults".to_owned(), |it| it.display().to_string());
    report.ok("settings", read);
    let (path, named) = (&loaded.config.private_key_path, loaded.config.private_key_named);
    if is_router && !named && !path.exists() {
        report.note("key", Outcome::Unknown, "none: this host is a router and no client", None);
        return Ok(());
    }
    key(&loaded.config, context).map_err(|error| ("key", error))?;
    report.ok("key", loaded.config.private_key_path.display().to_string());
    let prepared = prepare(context, loaded, None).await.map_err(|error| ("router", error))?;
    let access = prepared.once(&nowhere()).map_err(|error| ("router", error))?.access;
    let [udp, tls] = [CarrierChoice::Quic, CarrierChoice::Tls].map(|carrier| {
        let mut access = access.clone();
        access.transport.carrier = carrier;
        async move { client::examine(&access, PROBES).await }
    });
    let examined = async { (udp.await, tls.await) };
    let ((udp, tls), lifetime) = tokio::join!(examined, mapping::measured(&access, args.nat));
    let over_udp = udp.is_ok();
    let Some(examined) = carriers::rows(report, &prepared.config.tunnels, udp, tls) else {
        return Ok(());
    };
    path::rows(report, &examined);
    mapping::row(report, over_udp.then_some(&lifetime));
    sources(args, &prepared, report).await.map_err(|error| ("sources", error))
}

/// The key is there, and nobody else can read it.
fn key(config: &ClientConfig, context: &Context) -> Result<(), Failure> {
    let path = &config.private_key_path;
    if config.private_key_named {
        Keypair::load_mounted(path)?;
        return Ok(());
    }
    let home = context.home()?;
    // Where there is none yet, the key is what is missing.
    if home.root().exists() {
        files::check_private_dir(home.root())?;
    }
    Keypair::load(path)?;
    Ok(())
}

/// Whether the sources of forward TCP tunnels answer the router, and those of reverse ones this machine.
async fn sources(args: &Args, prepared: &Prepared, report: &mut Report) -> Result<(), Failure> {
    let silent = prepared.config.tunnels.iter().filter(|spec| spec.protocol == Protocol::Udp);
    for target in silent.flat_map(|spec| spec.source.each().take(PORTS_OF_A_ROW)) {
        let unknown = "not looked at: what takes UDP need not answer";
        report.note(&format!("source {target}"), Outcome::Unknown, unknown, None);
    }
    let of = |direction| {
        let tunnels = prepared.config.tunnels.iter();
        let meant =
            move |spec: &&TunnelSpec| (spec.direction, spec.protocol) == (direction, Protocol::Tcp);
        tunnels.filter(meant).flat_map(|spec| spec.source.each().take(PORTS_OF_A_ROW))
    };
    for target in of(Direction::Reverse) {
        let check = format!("source {target}");
        let settings = DialSettings::default();
        match ends::dial(&target, |_| Decision::Allowed, &settings).await {
            Ok(_) => report.ok(&check, "answers here"),
            Err(error) => {
                report.note(&check, Outcome::Failed, error.to_string(), Some("is it running?"));
            }
        }
    }
    let targets: Vec<Target> = args.source.iter().cloned().chain(of(Direction::Forward)).collect();
    for target in targets {
        let once: Once = prepared.once(&target)?;
        let check = format!("source {target}");
        match client::reaches(&once).await {
            Ok(took) => {
                let took = milliseconds(took.as_secs_f64() * 1e3);
                report.ok(&check, format!("the router connects, {took} with the way there"));
            }
            Err(Unreached::Start(error)) => report.failed(&check, &error.into()),
            Err(error) => {
                let fix = "is it running, and may the router's host reach it?";
                report.note(&check, Outcome::Failed, error.to_string(), Some(fix));
            }
        }
    }
    Ok(())
}

/// What an examination has no use for.
fn nowhere() -> Target {
    "127.0.0.1:1".parse().expect("a target")
}

/// Enough for a median and for the packet size to be found out.
const PROBES: usize = 40;
/// Below this a busy tunnel runs out.
#[cfg(unix)]
const FILES: u64 = 4_096;
/// For a record, a key and a piece of a log.
const ROOM: usize = 64 << 10;
/// Of a row of ports the first ones stand for all.
const PORTS_OF_A_ROW: usize = 3;

const EXAMPLES: &str = "\
Examples:
  conduit doctor
      this machine, the way to the enrolled router, and the sources of conduit.toml
  conduit doctor --source 10.2.0.2:8080 -o json
      also one more source, as a document
  conduit doctor --nat
      also how long a NAT on the way remembers who is silent

Exit codes: 0 when nothing failed (warnings do not count), 1 otherwise.";
