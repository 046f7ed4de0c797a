//! `conduit logs`: a tunnel's log, also of one that is dead.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::context::{Context, signals};
use super::report::warn;
use crate::fleet::{Failure, Kind, last_lines};
use crate::registry::{Entry, Registry};

/// Options of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tunnel, by name or id; a dead one too
    #[arg(value_name = "NAME|ID")]
    name: String,
    /// Go on with what is written from now on, until Ctrl-C or until the tunnel ends
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to start with; with -o json each is a document of its own
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let registry = context.existing_registry()?;
    let entry = registry.as_ref().and_then(|registry| registry.find(&args.name));
    let (Some(registry), Some(entry)) = (registry, entry) else {
        let message = format!("nothing here is or was called {}", args.name);
        return Err(Failure::new(Kind::Tunnel, "not_found", message)
            .with_hint("`conduit list --all` shows names and ids"));
    };
    let record = match &entry {
        Entry::Live(record) | Entry::Ended(record) => record,
        Entry::Unreadable { path, reason } => {
            let message = format!("{} is no record: {reason}", path.display());
            return Err(Failure::new(Kind::System, "record", message));
        }
    };
    let path = registry.log_path(&record.tunnel_id);
    let is_live = matches!(entry, Entry::Live(_));
    match last_lines(&path, args.lines) {
        Ok((mut lines, end)) => {
            fill_up(&path, args.lines, &mut lines);
            print(context, &lines)?;
            if args.follow && is_live {
                context.block_on(follow(
                    context,
                    &registry,
                    record.tunnel_id.as_str(),
                    path,
                    end,
                ))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{} has no log file", record.tunnel_id);
            let hint = "a tunnel in the foreground logs to its terminal, a supervised one to its supervisor's";
            return Err(Failure::new(Kind::Tunnel, "no_log", message).with_hint(hint));
        }
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            return Err(Failure::new(Kind::System, "log", message));
        }
    }
    if let Entry::Ended(record) = &entry {
        let why = record.last_error.as_deref().unwrap_or("as it was asked to");
        match record.ended_at.as_deref() {
            Some(at) => warn(&format!("{} ended {at}: {why}", record.tunnel_id)),
            None => warn(&format!("{}: {why}", record.tunnel_id)),
        }
    }
    Ok(0)
}

/// A log that was just rotated is short: its predecessor has the lines before.
fn fill_up(path: &Path, wanted: usize, lines: &mut Vec<u8>) {
    let have = lines.iter().filter(|byte| **byte == b'\n').count();
    if have >= wanted {
        return;
    }
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut before = path.into_os_string();
    before.push(".1");
    if let Ok((mut earlier, _)) = last_lines(Path::new(&before), wanted - have) {
        earlier.append(lines);
        *lines = earlier;
    }
}

/// Prints what is appended, across rotations, until a signal or the end of the tunnel.
async fn follow(
    context: &Context,
    registry: &Registry,
    id: &str,
    path: PathBuf,
    mut at: u64,
) -> Result<(), Failure> {
    let mut signals = signals()?;
    let mut file = std::fs::File::open(&path).ok();
    loop {
        let is_over = !matches!(registry.find(id), Some(Entry::Live(_)));
        if let Some(open) = &mut file {
            at = print_from(context, open, at)?;
            if is_rotated(open, &path) {
                // The last lines of the old file, then the new one from its start.
                print_from(context, open, at)?;
                file = None;
            }
        }
        if file.is_none() {
            file = std::fs::File::open(&path).ok();
            at = 0;
            if file.is_some() {
                continue;
            }
        }
        if is_over {
            let record = registry.find(id).and_then(|entry| entry.record().cloned());
            let why = record.and_then(|record| record.last_error);
            warn(&format!("{id} ended: {}", why.as_deref().unwrap_or("as it was asked to")));
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = signals.next() => return Ok(()),
        }
    }
}

fn print_from(context: &Context, file: &mut std::fs::File, at: u64) -> Result<u64, Failure> {
    let mut bytes = Vec::new();
    // A file that cannot be read at this moment is read at the next.
    if file.seek(SeekFrom::Start(at)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return Ok(at);
    }
    Ok(at + print(context, &bytes)? as u64)
}

/// Prints log lines as they are, or each as a JSON document of one line; how many bytes that were. A line that is
/// still being written waits for its end.
fn print(context: &Context, bytes: &[u8]) -> Result<usize, Failure> {
    if !context.json {
        if !bytes.is_empty() {
            context.raw(bytes)?;
        }
        return Ok(bytes.len());
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
        context.line(&json!({"schema": "conduit.log/1", "line": line}).to_string())?;
    }
    Ok(whole)
}

/// Whether the path names another file by now.
#[cfg(unix)]
fn is_rotated(file: &std::fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() != named.ino() || open.dev() != named.dev(),
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

/// Whether the path names another file by now: one that is shorter.
#[cfg(not(unix))]
fn is_rotated(file: &std::fs::File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => named.len() < open.len(),
        _ => false,
    }
}

/// Between two looks at the file.
const PAUSE: Duration = Duration::from_millis(200);
