//! `conduit status`: health as seen through the data path.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::context::{ANSWER, Context};
use super::list::{answered, ends, if_silent};
use super::output::{Table, counted, milliseconds, or_dash, state};
use super::paths::Paths;
use super::running::{Found, ask_each, find};
use crate::fleet::{Failure, Kind, NEVER_READY, exit};
use crate::registry::{
    self, CallError, Depth, Probe, Record, Request, RouterStatus, TunnelStatus, ask_all,
};
use crate::tunnel::{Bind, Name, Span, TunnelId, TunnelState};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this tunnel or router, by name or id
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    look: Look,
}

/// How closely health is looked at.
#[derive(Debug, clap::Args)]
pub(super) struct Look {
    /// Also connect to the source of each TCP tunnel, and hang up; takes up to 15 s
    #[arg(long)]
    dial_source: bool,
}

impl Look {
    pub(super) fn depth(&self) -> Depth {
        if self.dial_source { Depth::Source } else { Depth::Probe }
    }
}

/// One thing that can be up or down.
pub(super) struct Health {
    pub(super) id: String,
    pub(super) is_up: bool,
    pub(super) state: String,
    rtt: Option<f64>,
    /// How long connecting to its sources took.
    dial: Option<f64>,
    /// What it does, or why it is not up.
    pub(super) detail: String,
    document: Report,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut found = find(context)?;
    if let Some(name) = &args.name {
        let is_meant = |record: &Record| record.is_called(name);
        found.tunnels.retain(is_meant);
        found.routers.retain(is_meant);
        found.ended.retain(is_meant);
    }
    let crashed = crashed(&found);
    let mut records = found.routers;
    records.extend(found.tunnels);
    let mut all = context.block_on(async { Ok(health_of(records, args.look.depth()).await) })?;
    all.extend(crashed.iter().map(dead));
    if let (Some(name), true) = (&args.name, all.is_empty()) {
        let message = format!("nothing that runs is called {name}");
        return Err(Failure::new(Kind::Tunnel, "not_found", message)
            .with_hint("`conduit list --all` shows names and ids"));
    }
    show(&all, args.look.depth(), context)?;
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
    /// A router that does not answer, or died: what its record says.
    Silent {
        id: TunnelId,
        name: Name,
        pid: u32,
        bind: Option<Span<Bind>>,
        state: TunnelState,
        last_error: Option<String>,
    },
}

impl Report {
    fn silent(record: &Record, state: TunnelState, why: &str) -> Self {
        Self::Silent {
            id: record.tunnel_id.clone(),
            name: record.name.clone(),
            pid: record.pid,
            bind: record.config.bind.clone(),
            state,
            last_error: Some(why.to_owned()),
        }
    }
}

type Answer = (Record, Result<Value, CallError>);

/// How living processes are, by a probe through each at least.
pub(super) async fn health_of(records: Vec<Record>, depth: Depth) -> Vec<Health> {
    ask(records, depth).await.into_iter().map(health).collect()
}

/// Asks each twice at once: a path that is silent must not make its tunnel look as if it hung.
async fn ask(records: Vec<Record>, depth: Depth) -> Vec<Answer> {
    let (plain, probe) = (Request::Status(Depth::Known), Request::Status(depth));
    let limit = if depth == Depth::Source { DIALLED } else { ANSWER };
    let (plain, probed) =
        tokio::join!(ask_each(records.clone(), &plain), ask_all(records, &probe, limit));
    let better = |((record, plain), (_, probed)): (Answer, Answer)| match (plain, probed) {
        (_, Ok(probed)) => (record, Ok(probed)),
        (Ok(mut plain), Err(error)) => {
            if record.kind == registry::Kind::Tunnel {
                let why = match error {
                    CallError::TimedOut { .. } => {
                        format!("the router did not answer through the tunnel within {limit:?}")
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

/// What was up, ended without being asked to, and did not come back.
pub(super) fn crashed(found: &Found) -> Vec<Record> {
    let living = found.tunnels.iter().chain(&found.routers);
    let living: HashSet<&Name> = living.map(|record| &record.name).collect();
    let mut seen = HashSet::new();
    let mut ended: Vec<&Record> = found.ended.iter().collect();
    // Of each name the last one counts. An older version wrote whole seconds: within one, who has no end yet is
    // the last one, because whoever takes a name writes down the end of those before.
    ended.sort_by_key(|record| {
        let was_stopped = record.status == TunnelState::Stopped;
        Reverse((&record.created_at, record.ended_at.is_none(), &record.ended_at, was_stopped))
    });
    let is_crash = |record: &&Record| {
        let reason = record.last_error.as_deref().unwrap_or_default();
        let was_up = match record.kind {
            registry::Kind::Tunnel => !reason.starts_with(NEVER_READY),
            // A router that could not start said why to whoever started it.
            registry::Kind::Router => reason.starts_with(Record::DIED),
        };
        seen.insert(record.name.clone())
            && !living.contains(&record.name)
            && record.status == TunnelState::Failed
            && was_up
    };
    ended.into_iter().filter(is_crash).cloned().collect()
}

fn health((record, answer): (Record, Result<Value, CallError>)) -> Health {
    if record.kind == registry::Kind::Router {
        return router_health(&record, answer);
    }
    let (status, is_silent) = answered(&record, answer);
    let (probe, dial) = (status.probe.as_ref(), status.source_probe.as_ref());
    let is_passed = |probe: Option<&Probe>| probe.is_none_or(|probe| probe.ok);
    // Degraded is not up: it serves, and what it serves does not arrive.
    let is_up =
        !is_silent && status.state == TunnelState::Ready && is_passed(probe) && is_passed(dial);
    let of_probe = [probe, dial].into_iter().flatten().find_map(|probe| probe.error.clone());
    let draining = status.drain_seconds.map(|left| draining(status.active_connections, left));
    // While there is no session the probe says only that, and the session's end says why.
    let problem = if draining.is_some() {
        let said: Vec<String> = status.last_error.clone().into_iter().chain(draining).collect();
        Some(said.join("; "))
    } else if status.state.is_serving() {
        of_probe.or_else(|| status.last_error.clone())
    } else {
        status.last_error.clone().or(of_probe)
    };
    Health {
        id: status.id.to_string(),
        is_up,
        state: if is_silent { "no answer".to_owned() } else { state(status.state) },
        rtt: probe.and_then(|probe| probe.rtt_ms),
        dial: dial.and_then(|dial| dial.rtt_ms),
        detail: if is_up { detail(&status) } else { or_dash(problem) },
        document: Report::Tunnel(Box::new(status)),
    }
}

/// What is worth a look although it works: reasons for which connections were refused.
fn detail(status: &TunnelStatus) -> String {
    let mut detail = ends(status);
    if let Some(refusal) = status.refusals.first() {
        detail.push_str(&format!("; refused {}×, last: {}", refusal.count, refusal.reason));
    }
    let packets = status.packets.as_ref().filter(|packets| !packets.dropped.is_empty());
    if let Some(packets) = packets {
        let each = packets.dropped.iter().map(|(reason, count)| format!("{count} {reason}"));
        let each: Vec<String> = each.collect();
        detail.push_str(&format!("; packets dropped: {}", each.join(", ")));
    }
    detail
}

/// What still runs when nobody else is wanted.
fn draining(connections: u64, seconds: u64) -> String {
    if connections == 0 {
        return "ending".to_owned();
    }
    let connections = counted(connections, "connection");
    let left = humantime::format_duration(Duration::from_secs(seconds));
    format!("{connections} may finish within {left}")
}

fn router_health(record: &Record, answer: Result<Value, CallError>) -> Health {
    let silent = |why: String| {
        let document = Report::silent(record, if_silent(record.status), &why);
        (false, "no answer".to_owned(), why, document)
    };
    let (is_up, shown, detail, document) = match answer {
        Ok(value) => match serde_json::from_value::<RouterStatus>(value) {
            Ok(status) => {
                let clients: HashSet<_> = status.sessions.iter().map(|it| it.identity).collect();
                let served = status.published.iter().filter(|port| port.servers > 0).count();
                let mut detail = format!(
                    "{}, {} with {}, {}, {} published",
                    status.bind,
                    counted(clients.len() as u64, "client"),
                    counted(status.sessions.len() as u64, "session"),
                    counted(status.active_streams, "connection"),
                    counted(served as u64, "port"),
                );
                if let Some(left) = status.drain_seconds {
                    detail.push_str("; ");
                    detail.push_str(&draining(status.active_streams, left));
                }
                let document = Report::Router(Box::new(status.clone()));
                let wrong = status.last_error.as_ref();
                if let Some(wrong) = wrong {
                    detail.push_str(&format!("; {wrong}"));
                }
                (
                    status.state.is_serving() && wrong.is_none(),
                    state(status.state),
                    detail,
                    document,
                )
            }
            Err(error) => silent(error.to_string()),
        },
        Err(error) => silent(error.to_string()),
    };
    let id = record.tunnel_id.to_string();
    Health { id, is_up, state: shown, rtt: None, dial: None, detail, document }
}

fn dead(record: &Record) -> Health {
    let document = match (record.kind, &record.last_error) {
        (registry::Kind::Router, Some(why)) => Report::silent(record, record.status, why),
        _ => Report::Tunnel(Box::new(TunnelStatus::from_record(record))),
    };
    Health {
        id: record.tunnel_id.to_string(),
        is_up: false,
        state: state(record.status),
        rtt: None,
        dial: None,
        detail: or_dash(record.last_error.clone()),
        document,
    }
}

fn show(all: &[Health], depth: Depth, context: &Context) -> Result<(), Failure> {
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
    context.line(&table(all, depth).render(context))?;
    let mut paths = Paths::new();
    for health in all {
        match &health.document {
            Report::Tunnel(status) => paths.tunnel(status),
            Report::Router(status) => {
                status.sessions.iter().for_each(|session| paths.client(session))
            }
            Report::Silent { .. } => {}
        }
    }
    let Some(paths) = paths.table() else { return Ok(()) };
    context.line("")?;
    context.line(&paths.render(context))
}

fn table(all: &[Health], depth: Depth) -> Table {
    let dialled = (depth == Depth::Source).then_some("SOURCE");
    let heads = ["ID", "HEALTH", "STATE", "PROBE"].into_iter().chain(dialled).chain(["DETAIL"]);
    let mut table = Table::new(heads);
    for health in all {
        let first = [
            health.id.clone(),
            if health.is_up { "ok" } else { "down" }.to_owned(),
            health.state.clone(),
            or_dash(health.rtt.map(milliseconds)),
        ];
        let dialled = dialled.map(|_| or_dash(health.dial.map(milliseconds)));
        table.row(first.into_iter().chain(dialled).chain([health.detail.clone()]));
    }
    table
}

/// A process gives up on its sources before.
const DIALLED: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: &str, status: &str, at: &str, end: Option<&str>) -> Record {
        let record = json!({
            "schema": Record::SCHEMA, "tunnel_id": id, "kind": "tunnel", "name": "web", "pid": 1,
            "instance": "00000000-0000-0000-0000-000000000000", "created_at": at, "ended_at": end,
            "control_socket": "/x", "status": status, "config": {}, "config_hash": "",
            "version": "0.1.0", "last_error": Record::DIED,
        });
        serde_json::from_value(record).expect("a record")
    }

    #[test]
    fn of_a_name_only_the_last_one_that_ended_counts() {
        let second = "2025-11-20T00:00:00Z";
        let ids = |ended: Vec<Record>| -> Vec<String> {
            let found = Found { ended, ..Found::default() };
            crashed(&found).iter().map(|record| record.tunnel_id.to_string()).collect()
        };
        let died = ended("web-0001", "failed", second, Some(second));
        let stopped = ended("web-0002", "stopped", second, Some(second));
        assert!(ids(vec![died.clone(), stopped.clone()]).is_empty());
        assert!(ids(vec![stopped.clone(), died.clone()]).is_empty());
        let last = ended("web-0003", "failed", second, None);
        assert_eq!(ids(vec![stopped.clone(), last]), ["web-0003"]);
        let early = ended("web-0004", "stopped", "2025-11-20T00:00:00.001Z", Some(second));
        let late = ended("web-0005", "failed", "2025-11-20T00:00:00.010Z", Some(second));
        assert_eq!(ids(vec![early, late]), ["web-0005"]);
    }
}
