//! `conduit list`: the tunnels of this machine.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::context::Context;
use super::output::{Table, age, bytes, milliseconds, or_dash, seconds_since, state};
use super::running::{ask_each, find};
use crate::fleet::Failure;
use crate::registry::{self, CallError, ConnectionStatus, Depth, Record, Request, TunnelStatus};
use crate::tunnel::{Direction, Protocol, TunnelState};

/// Options of `list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = NOTES)]
pub(super) struct Args {
    /// Also tunnels that ended within the last seven days, and why
    #[arg(short, long)]
    all: bool,
    /// Also the live connections of each tunnel
    #[arg(short, long)]
    connections: bool,
}

/// One tunnel of the list.
struct Row {
    status: TunnelStatus,
    ended_at: Option<String>,
    /// It lives and does not answer.
    is_silent: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let found = find(context)?;
    let records = found.tunnels.clone();
    let (mut rows, connections) = context.block_on(async {
        // Both questions at once: the command is over within a second.
        let connections = async {
            if args.connections { connections(records.clone()).await } else { Vec::new() }
        };
        let status = Request::Status(Depth::Known);
        let (answers, connections) = tokio::join!(ask_each(records.clone(), &status), connections);
        Ok((answers.into_iter().map(living).collect::<Vec<_>>(), connections))
    })?;
    if args.all {
        let is_tunnel = |record: &Record| record.kind == registry::Kind::Tunnel;
        rows.extend(found.ended.into_iter().filter(is_tunnel).map(ended));
    }
    if context.json {
        return document(
            &rows,
            args.connections.then_some(&connections),
            &found.unreadable,
            context,
        );
    }
    if context.quiet {
        return rows.iter().try_for_each(|row| context.line(row.status.id.as_str())).map(|()| 0);
    }
    let table = table(&rows, args.all);
    if table.is_empty() {
        let hint = if args.all { "" } else { " (`--all` shows ended ones too)" };
        return context.line(&format!("no tunnel runs{hint}")).map(|()| 0);
    }
    context.line(&table.render(context))?;
    if args.connections {
        context.line("")?;
        context.line(&connection_table(&connections).render(context))?;
    }
    Ok(0)
}

/// What a process says of itself, or the record where it says nothing.
pub(super) fn answered(record: &Record, answer: Result<Value, CallError>) -> (TunnelStatus, bool) {
    let read = |value: Value| serde_json::from_value::<TunnelStatus>(value).ok();
    match answer.map(read) {
        Ok(Some(mut status)) => {
            // The record is what every other command shows.
            status.created_at.clone_from(&record.created_at);
            status.pid = record.pid;
            (status, false)
        }
        Ok(None) => silent(record, "its answer is none that this version reads".to_owned()),
        Err(error) => silent(record, error.to_string()),
    }
}

fn silent(record: &Record, why: String) -> (TunnelStatus, bool) {
    let mut status = TunnelStatus::from_record(record);
    status.state = if_silent(status.state);
    status.last_error = Some(why);
    (status, true)
}

/// The state of a process that does not answer: whoever trusts in `ready` must not be told so.
pub(super) fn if_silent(last: TunnelState) -> TunnelState {
    if last.is_serving() { TunnelState::Degraded } else { last }
}

fn living((record, answer): (Record, Result<Value, CallError>)) -> Row {
    let (status, is_silent) = answered(&record, answer);
    Row { status, ended_at: None, is_silent }
}

fn ended(record: Record) -> Row {
    Row {
        status: TunnelStatus::from_record(&record),
        ended_at: record.ended_at.or(Some(String::new())),
        is_silent: false,
    }
}

async fn connections(records: Vec<Record>) -> Vec<ConnectionStatus> {
    // Silent ones are named by the other question.
    let answers = registry::ask_all(records, &Request::Connections, super::context::ANSWER).await;
    answers.into_iter().filter_map(|(_, answer)| answer.ok()).flat_map(read_connections).collect()
}

fn read_connections(value: Value) -> Vec<ConnectionStatus> {
    let list = value.get("connections").cloned().unwrap_or(value);
    serde_json::from_value(list).unwrap_or_default()
}

fn document(
    rows: &[Row],
    connections: Option<&Vec<ConnectionStatus>>,
    unreadable: &[(PathBuf, String)],
    context: &Context,
) -> Result<u8, Failure> {
    let tunnels = rows.iter().map(Item::new).collect();
    let unreadable = unreadable.iter().map(|(path, reason)| Unreadable { path, reason }).collect();
    context.document(&Document { schema: "conduit.list/1", tunnels, connections, unreadable })?;
    Ok(0)
}

/// `conduit.list/1`.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    tunnels: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<&'a Vec<ConnectionStatus>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(flatten)]
    status: &'a TunnelStatus,
    /// Of one that ended in an orderly way.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<&'a str>,
    /// `false` for one that lives and does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<bool>,
}

#[derive(Serialize)]
struct Unreadable<'a> {
    path: &'a Path,
    reason: &'a str,
}

impl<'a> Item<'a> {
    fn new(row: &'a Row) -> Self {
        Self {
            status: &row.status,
            ended_at: row.ended_at.as_deref().filter(|at| !at.is_empty()),
            answers: row.is_silent.then_some(false),
        }
    }
}

fn table(rows: &[Row], with_reasons: bool) -> Table {
    let mut table = if with_reasons {
        Table::new(["ID", "STATE", "CARRIER", "BIND → SOURCE", "AGE", "WHY"])
    } else {
        Table::new([
            "ID",
            "STATE",
            "CARRIER",
            "BIND → SOURCE",
            "AGE",
            "CONNS",
            "UP",
            "DOWN",
            "RTT",
            "LOSS",
            "WINDOW",
            "MTU",
        ])
    };
    for Row { status, ended_at, is_silent } in rows {
        let ends = ends(status);
        let shown = if *is_silent { "no answer".to_owned() } else { state(status.state) };
        let carrier = or_dash(status.carrier.as_ref());
        let id = status.id.to_string();
        if with_reasons {
            let age = match ended_at {
                Some(at) => {
                    or_dash(seconds_since(at).map(|past| format!("ended {} ago", age(past))))
                }
                None => or_dash(seconds_since(&status.created_at).map(age)),
            };
            table.row([id, shown, carrier, ends, age, or_dash(status.last_error.as_ref())]);
        } else {
            table.row([
                id,
                shown,
                carrier,
                ends,
                or_dash(seconds_since(&status.created_at).map(age)),
                status.active_connections.to_string(),
                bytes(status.bytes_up),
                bytes(status.bytes_down),
                or_dash(status.rtt_ms.map(milliseconds)),
                or_dash(status.loss_percent.map(|loss| format!("{loss:.1} %"))),
                or_dash(status.path.as_ref().map(|path| bytes(path.congestion_window))),
                or_dash(status.mtu),
            ]);
        }
    }
    table
}

/// `127.0.0.1:8080 → 10.2.0.2:8080`; users of a reverse tunnel connect at the router, and of UDP it is said.
pub(super) fn ends(status: &TunnelStatus) -> String {
    let udp = if status.protocol == Some(Protocol::Udp) { "/udp" } else { "" };
    let at = if status.direction == Some(Direction::Reverse) { " (router)" } else { "" };
    let (bind, source) = (or_dash(status.bind.as_ref()), or_dash(status.source.as_ref()));
    format!("{bind}{udp}{at} → {source}")
}

fn connection_table(connections: &[ConnectionStatus]) -> Table {
    let mut table = Table::new(["CONNECTION", "PROTOCOL", "PEER", "STATE", "AGE", "UP", "DOWN"]);
    for connection in connections {
        table.row([
            connection.id.clone(),
            connection.protocol.to_string(),
            connection.peer.clone(),
            connection.state.clone(),
            age(connection.age_seconds),
            bytes(connection.bytes_up),
            bytes(connection.bytes_down),
        ]);
    }
    table
}

const NOTES: &str = "\
States: starting, ready, degraded, reconnecting, draining, stopped, failed.

A tunnel whose process runs and does not answer within 800 ms is shown as `no answer`;
with -o json it has \"answers\": false and the state \"degraded\", never \"ready\", and
last_error says what to do. A tunnel that answers has no member \"answers\".";
