//! The processes of this machine, as the verbs see them: found in the registry, asked all at once.

use std::path::PathBuf;

use super::context::{ANSWER, Context};
use super::report::warn;
use crate::fleet::{Failure, Kind};
use crate::registry::{self, CallError, Entry, Record, Registry, Request, ask_all};

/// Everything that the registry holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Living tunnels.
    pub(super) tunnels: Vec<Record>,
    /// Living routers: one, or none.
    pub(super) routers: Vec<Record>,
    /// What ended, tunnels and routers.
    pub(super) ended: Vec<Record>,
    /// Files that are no records.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

/// Looks through the registry; files that cannot be read are reported on stderr.
pub(super) fn find(context: &Context) -> Result<Found, Failure> {
    let mut found = Found::default();
    let Some(registry) = context.existing_registry()? else { return Ok(found) };
    for entry in registry.scan() {
        match entry {
            Entry::Live(record) if record.kind == registry::Kind::Router => {
                found.routers.push(record);
            }
            Entry::Live(record) => found.tunnels.push(record),
            Entry::Ended(record) => found.ended.push(record),
            Entry::Unreadable { path, reason } => found.unreadable.push((path, reason)),
        }
    }
    for (path, reason) in &found.unreadable {
        warn(&format!("warning: {} is no record: {reason}", path.display()));
    }
    Ok(found)
}

/// Asks all of them at once; who does not answer is named on stderr.
pub(super) async fn ask_each(
    records: Vec<Record>,
    request: &Request,
) -> Vec<(Record, Result<serde_json::Value, CallError>)> {
    let answers = ask_all(records, request, ANSWER).await;
    for (_, answer) in &answers {
        if let Err(error) = answer {
            warn(&format!("warning: {error}"));
        }
    }
    answers
}

/// The living process that is called so, or why there is none.
pub(super) fn living(registry: Option<&Registry>, name: &str) -> Result<Record, Failure> {
    match registry.and_then(|registry| registry.find(name)) {
        Some(Entry::Live(record)) => Ok(record),
        Some(Entry::Ended(record)) => {
            let why = record.last_error.as_deref().unwrap_or("as it was asked to");
            let when = record.ended_at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
            let message = format!("{} does not run: it ended{when}: {why}", record.tunnel_id);
            Err(Failure::new(Kind::Tunnel, "not_running", message)
                .with_hint(format!("`conduit logs {name}` shows its log")))
        }
        Some(Entry::Unreadable { path, reason }) => {
            let message = format!("{} is no record: {reason}", path.display());
            Err(Failure::new(Kind::System, "record", message))
        }
        None => {
            Err(Failure::new(Kind::Tunnel, "not_found", format!("nothing here is called {name}"))
                .with_hint("`conduit list --all` shows names and ids"))
        }
    }
}
