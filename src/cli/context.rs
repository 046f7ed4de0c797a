//! What every verb is run with: where the files are, and how to print.

use std::future::Future;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{Format, Global};
use crate::config::{Environment, Home};
use crate::fleet::{self, Failure, Kind, Signals};
use crate::registry::Registry;

/// The surroundings of a verb.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) environment: Environment,
    pub(super) json: bool,
    pub(super) quiet: bool,
    /// Whether stdout is a terminal that wants colour.
    pub(super) colour: bool,
}

impl Context {
    pub(super) fn new(global: &Global, environment: Environment) -> Self {
        let colour = std::io::stdout().is_terminal() && environment.variable("NO_COLOR").is_none();
        Self { environment, json: global.output == Format::Json, quiet: global.quiet, colour }
    }

    /// `CONDUIT_HOME`.
    pub(super) fn home(&self) -> Result<Home, Failure> {
        Ok(Home::from_environment(&self.environment)?)
    }

    pub(super) fn runtime_dir(&self) -> Option<PathBuf> {
        self.environment.variable("XDG_RUNTIME_DIR").map(PathBuf::from)
    }

    /// The registry to start processes in; creates its folders.
    pub(super) fn registry(&self) -> Result<Registry, Failure> {
        Ok(Registry::open(self.home()?.root())?.with_runtime_dir(self.runtime_dir()))
    }

    /// The registry to look into; `None` when nothing was ever started here.
    pub(super) fn existing_registry(&self) -> Result<Option<Registry>, Failure> {
        let registry = Registry::open_existing(self.home()?.root())?;
        Ok(registry.map(|registry| registry.with_runtime_dir(self.runtime_dir())))
    }

    /// Runs `work` to its end.
    pub(super) fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.block_on_threads(None, work)
    }

    /// The same on as many threads as the configuration asks for.
    pub(super) fn block_on_threads<T>(
        &self,
        threads: Option<usize>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let runtime = fleet::runtime(threads)
            .map_err(|error| Failure::new(Kind::System, "runtime", error.to_string()))?;
        let outcome = runtime.block_on(work);
        runtime.shutdown_background();
        outcome
    }
}

/// Starts to listen for signals.
pub(super) fn signals() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| {
        Failure::new(Kind::System, "signals", format!("cannot listen for signals: {error}"))
    })
}

/// Runs `work`, unless a signal comes first.
pub(super) async fn unless_interrupted<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = work => outcome,
        () = signals.next() => Err(Failure::new(Kind::System, "interrupted", "interrupted")),
    }
}

/// How long running processes have to answer: the whole command is over within a second.
pub(super) const ANSWER: Duration = Duration::from_millis(800);
