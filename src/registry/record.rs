//! The record of one process: what `list` knows of it without asking it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::process::{self, Presence};
use crate::files::{FileError, read_private};
use crate::tunnel::{
    Bind, Direction, HostPort, Name, Protocol, Span, Target, TunnelId, TunnelState,
};

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A tunnel process.
    Tunnel,
    /// A router.
    Router,
}

/// The ends of a tunnel as they were asked for; a router has only `bind`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordConfig {
    /// The router that the tunnel goes to.
    pub router: Option<HostPort>,
    /// What gets dialled.
    pub source: Option<Span<Target>>,
    /// Where users connect; the real port once it is bound. Of a reverse tunnel it is the router's.
    pub bind: Option<Span<Bind>>,
    /// What is carried.
    pub protocol: Option<Protocol>,
    /// Which end listens.
    pub direction: Option<Direction>,
}

/// Where a process listens.
pub type Place = (Protocol, SocketAddr);

impl RecordConfig {
    /// Where a tunnel listens on this machine; of a router and of a reverse tunnel nothing is told.
    pub fn places(&self) -> Vec<Place> {
        let (Some(Direction::Forward), Some(protocol)) = (self.direction, self.protocol) else {
            return Vec::new();
        };
        let binds = self.bind.iter().flat_map(Span::each);
        binds.filter_map(|bind| Some((protocol, bind.socket_addr()?))).collect()
    }
}

/// What somebody who claims a name brings along.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Tunnel or router.
    pub kind: Kind,
    /// The name; no other process of this machine runs under it.
    pub name: Name,
    /// The ends.
    pub config: RecordConfig,
    /// The file that declared it, absolute.
    pub config_file: Option<PathBuf>,
    /// A hash of everything whose change needs a restart; without one it is made of `config`.
    pub config_hash: Option<String>,
}

/// One process: `<id>.json` in the registry's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`Record::SCHEMA`].
    pub schema: String,
    /// The process's id: its name and four hex digits.
    pub tunnel_id: TunnelId,
    /// Tunnel or router.
    pub kind: Kind,
    /// The name.
    pub name: Name,
    /// Its process id; never proof of life by itself.
    pub pid: u32,
    /// When the process started, to tell it from a later one with the same pid; opaque.
    #[serde(default)]
    pub started: Option<String>,
    /// Unique per process start.
    pub instance: Uuid,
    /// RFC 3339, UTC, to the millisecond: it also tells which of two of one name is the later one.
    pub created_at: String,
    /// Path of the control socket, or name of the pipe on Windows.
    pub control_socket: String,
    /// The state that it was in when it last wrote; ask the control socket for the present one.
    pub status: TunnelState,
    /// The ends.
    pub config: RecordConfig,
    /// The file that declared it.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// See [`NewRecord::config_hash`].
    pub config_hash: String,
    /// The process that keeps this one running, when one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<u32>,
    /// The version of Conduit that it runs.
    pub version: String,
    /// RFC 3339; set when it ended in an orderly way, or when somebody found it dead.
    #[serde(default)]
    pub ended_at: Option<String>,
    /// Why it failed, or what last went wrong.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// Why a file is not a record; the message is for the line that `list` prints beside the path.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadRecordError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("it is empty")]
    Empty,
    #[error("it is not JSON: {0}")]
    Json(serde_json::Error),
    #[error("it was written by a newer Conduit ({0}): use that version's command line")]
    Newer(String),
    #[error("its schema is {0}, not {schema}", schema = Record::SCHEMA)]
    Schema(String),
    #[error("it is not a complete record: {0}")]
    Incomplete(serde_json::Error),
    #[error("it names another process, {0}")]
    Misplaced(TunnelId),
}

impl Record {
    /// Whether this is its name or its id, in any case.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.as_str().eq_ignore_ascii_case(name)
            || self.tunnel_id.as_str().eq_ignore_ascii_case(name)
    }

    /// The schema that this version writes and reads.
    pub const SCHEMA: &'static str = "conduit.record/1";
    /// What `last_error` says of a process that vanished.
    pub const DIED: &'static str = "died (killed or crashed)";

    /// A record for this process, which starts now.
    pub(super) fn new(new: NewRecord, tunnel_id: TunnelId, instance: Uuid, socket: String) -> Self {
        let config_hash = new.config_hash.unwrap_or_else(|| new.config.hash());
        Self {
            schema: Self::SCHEMA.to_owned(),
            tunnel_id,
            kind: new.kind,
            name: new.name,
            pid: std::process::id(),
            started: process::own_start(),
            instance,
            created_at: now_with_milliseconds(),
            control_socket: socket,
            status: TunnelState::Starting,
            config: new.config,
            // A path that is no UTF-8 would make the whole record unwritable.
            config_file: new.config_file.map(|path| path.to_string_lossy().into_owned().into()),
            config_hash,
            supervisor: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ended_at: None,
            last_error: None,
        }
    }

    /// Whether the recorded process is in the process table: a hint, the lock is the proof.
    pub fn presence(&self) -> Presence {
        process::presence(self.pid, self.started.as_deref())
    }

    /// Kills exactly this process, at once (SIGKILL); `false` when it was gone. Linux only: elsewhere, and for
    /// a process of another container, an error says that the process cannot be told apart.
    pub fn kill_process(&self) -> std::io::Result<bool> {
        process::kill(self.pid, self.started.as_deref())
    }

    /// Whether this command line and that process are at most one minor version apart.
    pub fn speaks_with_us(&self) -> bool {
        let parts = |version: &str| -> Option<(u64, u64)> {
            let mut numbers = version.split('.');
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        };
        match (parts(&self.version), parts(env!("CARGO_PKG_VERSION"))) {
            (Some(theirs), Some(ours)) => theirs.0 == ours.0 && theirs.1.abs_diff(ours.1) <= 1,
            _ => false,
        }
    }

    /// The record as a dead process leaves it.
    pub(super) fn into_dead(mut self) -> Self {
        self.status = TunnelState::Failed;
        self.last_error = Some(match self.last_error.take() {
            Some(before) if !before.starts_with(Self::DIED) => {
                format!("{}; before that: {before}", Self::DIED)
            }
            _ => Self::DIED.to_owned(),
        });
        self
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and paths that came from text: nothing here that JSON cannot say.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a record: never more than [`MAX_RECORD`] bytes, never a FIFO, never somebody else's file.
    pub(super) fn read(path: &Path) -> Result<Self, ReadRecordError> {
        let bytes = read_whole(path)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ReadRecordError::Empty);
        }
        let schema: SchemaOnly = serde_json::from_slice(&bytes).map_err(ReadRecordError::Json)?;
        check_schema(schema.schema)?;
        let record: Self = serde_json::from_slice(&bytes).map_err(ReadRecordError::Incomplete)?;
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(record.tunnel_id.as_str()) {
            return Err(ReadRecordError::Misplaced(record.tunnel_id));
        }
        Ok(record)
    }
}

impl RecordConfig {
    fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        data_encoding::HEXLOWER.encode(digest.as_ref())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tunnel => "tunnel",
            Self::Router => "router",
        })
    }
}

/// The present moment as records and answers write it.
pub fn now_rfc3339() -> String {
    rfc3339(std::time::SystemTime::now())
}

/// A time, RFC 3339 in UTC.
pub fn rfc3339(at: std::time::SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// Always three digits, so that texts compare as their moments do.
fn now_with_milliseconds() -> String {
    let now = OffsetDateTime::now_utc();
    let seconds = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), now.millisecond())
}

#[derive(Deserialize)]
struct SchemaOnly {
    #[serde(default)]
    schema: Option<String>,
}

fn check_schema(schema: Option<String>) -> Result<(), ReadRecordError> {
    let schema = schema.unwrap_or_else(|| "missing".to_owned());
    let newer = || schema.strip_prefix("conduit.record/")?.parse::<u32>().ok();
    match newer() {
        _ if schema == Record::SCHEMA => Ok(()),
        Some(number) if number > 1 => Err(ReadRecordError::Newer(schema)),
        _ => Err(ReadRecordError::Schema(schema.chars().take(64).collect())),
    }
}

/// A record that is replaced between opening and checking has no name left for a moment: then read the new one.
fn read_whole(path: &Path) -> Result<Vec<u8>, FileError> {
    for _ in 0..16 {
        match read_private(path, MAX_RECORD) {
            Err(FileError::HardLink { links: 0, .. }) => {}
            read => return read,
        }
    }
    read_private(path, MAX_RECORD)
}

/// A record holds a few names and addresses; 1 KiB is usual.
const MAX_RECORD: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_one_minor_apart_work_together() {
        let new = NewRecord {
            kind: Kind::Tunnel,
            name: "web".parse().expect("a name"),
            config: RecordConfig::default(),
            config_file: None,
            config_hash: None,
        };
        let id = TunnelId::new(&new.name, 1);
        let mut record = Record::new(new, id, Uuid::new_v4(), String::new());
        assert!(record.speaks_with_us());
        for (version, expected) in
            [("0.0.9", true), ("0.2.0", true), ("0.3.0", false), ("1.1.0", false), ("x", false)]
        {
            record.version = version.to_owned();
            assert_eq!(record.speaks_with_us(), expected, "{version}");
        }
    }

    #[test]
    fn the_hash_follows_the_configuration() {
        let one = RecordConfig { source: "a:1".parse().ok(), ..RecordConfig::default() };
        let two = RecordConfig { source: "a:2".parse().ok(), ..RecordConfig::default() };
        assert_eq!(one.hash(), one.clone().hash());
        assert_ne!(one.hash(), two.hash());
    }
}
