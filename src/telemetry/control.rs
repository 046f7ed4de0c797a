//! Where the log goes, in which form, and how much of it: set at start, the level also later.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::line::LineLayer;
use super::rotate::RotatingFile;

/// What `[logging]` says, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug` or `trace` for Conduit itself (its dependencies stay at `warn`),
    /// or directives like `conduit=debug,quinn=info`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
    /// Where lines go.
    pub output: LogOutput,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `TIME LEVEL target: message field=value …`
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// The standard error stream, for `--foreground`.
    Stderr,
    /// A file of at most `max_bytes` with `keep` older ones beside it: disk use ≤ `max_bytes` × (`keep` + 1).
    File {
        /// The file; created 0600.
        path: PathBuf,
        /// Size at which the file is rotated.
        max_bytes: u64,
        /// How many rotated files stay.
        keep: u32,
    },
}

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a word nor directives.
    #[error(
        "{0:?} is not a log level: use error, warn, info, debug, trace or directives like conduit=debug"
    )]
    Level(String),
    /// The format is unknown.
    #[error("{0:?} is not a log format: use text or json")]
    Format(String),
    /// The log file cannot be opened.
    #[error("cannot open the log file {}: {source}; choose another file in [logging]", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A subscriber is installed already.
    #[error("logging is set up already in this process")]
    Already,
}

/// Changes the level of a running process; clones control the same log.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    dropped: Arc<AtomicU64>,
}

/// Installs the process's log. Once per process; the caller keeps the control.
pub fn init(settings: &LogSettings) -> Result<LogControl, LogError> {
    match &settings.output {
        LogOutput::Stderr => {
            install(subscriber(settings, io::stderr(), Arc::new(AtomicU64::new(0)))?)
        }
        LogOutput::File { path, max_bytes, keep } => {
            let file = RotatingFile::open(path, *max_bytes, *keep)
                .map_err(|source| LogError::Open { path: path.clone(), source })?;
            let dropped = file.dropped();
            install(subscriber(settings, file, dropped)?)
        }
    }
}

impl LogControl {
    /// Takes a level or directives as in [`LogSettings::level`], at once.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.filter.reload(filter(level)?).map_err(|_| LogError::Level(level.to_owned()))
    }

    /// Lines that could not be written to the log file so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl LogSettings {
    /// Size at which a log file is rotated unless configured otherwise.
    pub const DEFAULT_MAX_BYTES: u64 = 10 * 1024 * 1024;
    /// Rotated files kept unless configured otherwise.
    pub const DEFAULT_KEEP: u32 = 3;

    /// Whether [`init`] would take this text as a level.
    pub fn check_level(level: &str) -> Result<(), LogError> {
        filter(level).map(drop)
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, output: LogOutput::Stderr }
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

fn install(
    (log, control): (impl Subscriber + Send + Sync, LogControl),
) -> Result<LogControl, LogError> {
    log.try_init().map_err(|_| LogError::Already)?;
    Ok(control)
}

fn subscriber<W: io::Write + Send + 'static>(
    settings: &LogSettings,
    writer: W,
    dropped: Arc<AtomicU64>,
) -> Result<(impl Subscriber + Send + Sync, LogControl), LogError> {
    let (layer, handle) = reload::Layer::new(filter(&settings.level)?);
    let log =
        tracing_subscriber::registry().with(layer).with(LineLayer::new(settings.format, writer));
    Ok((log, LogControl { filter: handle, dropped }))
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let directives = match level {
        "error" => "error",
        "warn" => "warn",
        // QUIC and TLS libraries say several lines per connection at `info` and per packet below.
        "info" => "warn,conduit=info",
        "debug" => "warn,conduit=debug",
        "trace" => "warn,conduit=trace",
        other if other.contains('=') && other.len() <= LONGEST_DIRECTIVES => other,
        other => return Err(LogError::Level(other.chars().take(64).collect())),
    };
    EnvFilter::try_new(directives).map_err(|_| LogError::Level(level.to_owned()))
}

/// Directives may hold regular expressions: what arrives over the control socket stays small.
const LONGEST_DIRECTIVES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn to_file(path: PathBuf) -> LogSettings {
        let output = LogOutput::File { path, max_bytes: 1 << 20, keep: 1 };
        LogSettings { output, ..LogSettings::default() }
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.log");
        let settings = to_file(path.clone());
        let file = RotatingFile::open(&path, 1 << 20, 1).expect("open");
        let dropped = file.dropped();
        let (log, control) = subscriber(&settings, file, dropped).expect("subscriber");
        tracing::subscriber::with_default(log, || {
            tracing::debug!("hidden");
            control.set_level("debug").expect("a level");
            tracing::debug!("seen");
            tracing::info!(target: "quinn_proto", "a library's chatter");
            assert!(control.set_level("loud").is_err());
            tracing::debug!("still seen");
        });
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(!text.contains("hidden") && !text.contains("chatter"), "{text}");
        assert!(text.contains(": seen\n") && text.contains(": still seen\n"), "{text}");
        assert_eq!(control.dropped(), 0);
    }

    #[test]
    fn levels_and_formats_that_do_not_exist_are_named() {
        for level in ["error", "warn", "info", "debug", "trace", "conduit=debug,quinn=info"] {
            assert!(LogSettings::check_level(level).is_ok(), "{level}");
        }
        for level in ["", "loud", "INFO ", "conduit=loud"] {
            let error = LogSettings::check_level(level).expect_err(level).to_string();
            assert!(error.contains("use error, warn"), "{error}");
        }
        assert!("yaml".parse::<LogFormat>().expect_err("no").to_string().contains("text or json"));
        let error = init(&to_file("/nonexistent/x.log".into())).expect_err("no folder").to_string();
        assert!(error.contains("/nonexistent/x.log"), "{error}");
    }
}
