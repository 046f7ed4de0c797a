//! `conduit status`: health as seen through the data path.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::context::{ANSWER, Context};
use super::list::answered;
use super::output::{Table, milliseconds, or_dash, state};
use super::running::{Found, ask_each, find};
use crate::fleet::{Failure, Kind, NEVER_READY, exit};
use crate::registry::{
    self, CallError, Probe, Record, Request, RouterStatus, TunnelStatus, ask_all,
};
use crate::tunnel::{BindAddr, Name, TunnelId, TunnelState};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this tunnel or router, by name or id
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// One thing that can be up or down.
struct Health {
    id: String,
    is_up: bool,
    state: String,
    rtt: Option<f64>,
    detail: String,
    document: Report,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut found = find(context)?;
    if let Some(name) = &args.name {
        let is_meant = |record: &Record| is_called(record, name);
        found.tunnels.retain(is_meant);
        found.routers.retain(is_meant);
        found.ended.retain(is_meant);
    }
    let crashed = crashed(&found);
    let mut records = found.routers;
    records.extend(found.tunnels);
    let mut all: Vec<Health> =
        context.block_on(async { Ok(ask(records).await) })?.into_iter().map(health).collect();
    all.extend(crashed.iter().map(dead));
    if let (Some(name), true) = (&args.name, all.is_empty()) {
        let message = format!("nothing that runs is called {name}");
        return Err(Failure::new(Kind::Tunnel, "not_found", message)
            .with_hint("`conduit list --all` shows names and ids"));
    }
    show(&all, context)?;
    Ok(if all.iter().all(|health| health.is_up) { 0 } else { exit::FAILURE })
}

/// `conduit.status/1`.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    healthy: bool,
    router: Option<Item>,
    tunnels: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    #[serde(flatten)]
    report: Report,
    healthy: bool,
}

/// What a process says of itself.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Report {
    Tunnel(Box<TunnelStatus>),
    Router(Box<RouterStatus>),
    /// A router that does not answer: what its record says.
    Silent {
        id: TunnelId,
        name: Name,
        pid: u32,
        bind: Option<BindAddr>,
    },
}

impl Report {
    fn silent(record: &Record) -> Self {
        Self::Silent {
            id: record.tunnel_id.clone(),
            name: record.name.clone(),
            pid: record.pid,
            bind: record.config.bind,
        }
    }
}

type Answer = (Record, Result<Value, CallError>);

/// Asks each twice at once: a path that is silent must not make its tunnel look as if it hung.
async fn ask(records: Vec<Record>) -> Vec<Answer> {
    let (plain, probe) = (Request::Status { probe: false }, Request::Status { probe: true });
    let (plain, probed) =
        tokio::join!(ask_each(records.clone(), &plain), ask_all(records, &probe, ANSWER));
    let better = |((record, plain), (_, probed)): (Answer, Answer)| match (plain, probed) {
        (_, Ok(probed)) => (record, Ok(probed)),
        (Ok(mut plain), Err(error)) => {
            if record.kind == registry::Kind::Tunnel {
                let limit = ANSWER.as_millis();
                let why = match error {
                    CallError::TimedOut { .. } => {
                        format!("the router did not answer through the tunnel within {limit} ms")
                    }
                    error => error.to_string(),
                };
                plain["probe"] = json!(Probe { ok: false, rtt_ms: None, error: Some(why) });
            }
            (record, Ok(plain))
        }
        (Err(error), Err(_)) => (record, Err(error)),
    };
    plain.into_iter().zip(probed).map(better).collect()
}

/// Tunnels that were up, ended without being asked to, and did not come back.
fn crashed(found: &Found) -> Vec<Record> {
    let living: HashSet<&Name> = found.tunnels.iter().map(|record| &record.name).collect();
    let mut seen = HashSet::new();
    let mut ended: Vec<&Record> = found.ended.iter().collect();
    // Of each name the last one counts.
    ended.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    let is_crash = |record: &&Record| {
        let reason = record.last_error.as_deref().unwrap_or_default();
        record.kind == registry::Kind::Tunnel
            && seen.insert(record.name.clone())
            && !living.contains(&record.name)
            && record.status == TunnelState::Failed
            && !reason.starts_with(NEVER_READY)
    };
    ended.into_iter().filter(is_crash).cloned().collect()
}

fn health((record, answer): (Record, Result<Value, CallError>)) -> Health {
    if record.kind == registry::Kind::Router {
        return router_health(&record, answer);
    }
    let (status, is_silent) = answered(&record, answer);
    let probe = status.probe.as_ref();
    let is_up = !is_silent && status.state.is_serving() && probe.is_none_or(|probe| probe.ok);
    let of_probe = probe.and_then(|probe| probe.error.clone());
    // While there is no session the probe says only that, and the session's end says why.
    let problem = if status.state.is_serving() {
        of_probe.or_else(|| status.last_error.clone())
    } else {
        status.last_error.clone().or(of_probe)
    };
    Health {
        id: status.id.to_string(),
        is_up,
        state: if is_silent { "no answer".to_owned() } else { state(status.state) },
        rtt: probe.and_then(|probe| probe.rtt_ms),
        detail: if is_up { detail(&status) } else { or_dash(problem) },
        document: Report::Tunnel(Box::new(status)),
    }
}

/// What is worth a look although it works: reasons for which connections were refused.
fn detail(status: &TunnelStatus) -> String {
    let ends = format!("{} → {}", or_dash(status.bind), or_dash(status.source.as_ref()));
    match status.refusals.first() {
        Some(refusal) => {
            let target = refusal.target.as_deref().unwrap_or_default();
            format!("{ends}; refused {}×, last: {target} {}", refusal.count, refusal.reason)
        }
        None => ends,
    }
}

fn router_health(record: &Record, answer: Result<Value, CallError>) -> Health {
    let (is_up, shown, detail, document) = match answer {
        Ok(value) => match serde_json::from_value::<RouterStatus>(value) {
            Ok(status) => {
                let detail = format!(
                    "{}/udp, {} clients connected, {} connections",
                    status.bind,
                    status.sessions.len(),
                    status.active_streams
                );
                let document = Report::Router(Box::new(status.clone()));
                (status.state.is_serving(), state(status.state), detail, document)
            }
            Err(error) => {
                (false, "no answer".to_owned(), error.to_string(), Report::silent(record))
            }
        },
        Err(error) => (false, "no answer".to_owned(), error.to_string(), Report::silent(record)),
    };
    let id = record.tunnel_id.to_string();
    Health { id, is_up, state: shown, rtt: None, detail, document }
}

fn dead(record: &Record) -> Health {
    let status = TunnelStatus::from_record(record);
    Health {
        id: status.id.to_string(),
        is_up: false,
        state: state(status.state),
        rtt: None,
        detail: or_dash(status.last_error.clone()),
        document: Report::Tunnel(Box::new(status)),
    }
}

fn show(all: &[Health], context: &Context) -> Result<(), Failure> {
    let is_healthy = all.iter().all(|health| health.is_up);
    if context.json {
        let item =
            |health: &'_ Health| Item { report: health.document.clone(), healthy: health.is_up };
        let (routers, tunnels): (Vec<&Health>, Vec<&Health>) =
            all.iter().partition(|health| !matches!(health.document, Report::Tunnel(_)));
        return context.document(&Document {
            schema: "conduit.status/1",
            healthy: is_healthy,
            router: routers.first().map(|health| item(health)),
            tunnels: tunnels.into_iter().map(item).collect(),
        });
    }
    if context.quiet {
        let down = all.iter().filter(|health| !health.is_up);
        return down.map(|health| health.id.as_str()).try_for_each(|id| context.line(id));
    }
    if all.is_empty() {
        return context.line("no router and no tunnel runs here");
    }
    let mut table = Table::new(["ID", "HEALTH", "STATE", "PROBE", "DETAIL"]);
    for health in all {
        table.row([
            health.id.clone(),
            if health.is_up { "ok" } else { "down" }.to_owned(),
            health.state.clone(),
            or_dash(health.rtt.map(milliseconds)),
            health.detail.clone(),
        ]);
    }
    context.line(&table.render(context))
}

fn is_called(record: &Record, name: &str) -> bool {
    record.name.as_str().eq_ignore_ascii_case(name)
        || record.tunnel_id.as_str().eq_ignore_ascii_case(name)
}
