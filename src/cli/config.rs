//! `conduit config`: checks, shows and writes configuration files.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::context::Context;
use super::output::Table;
use super::prepare::client_file;
use crate::config::{
    self, ClientConfig, Entry, FileKind, Overrides, Problem, RouterConfig, Validated, detect,
};
use crate::fleet::{Failure, exit};

/// What to do with a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check a file, and report every problem with its line
    Validate(FileArgs),
    /// Print every setting as it is in force
    Show {
        #[command(flatten)]
        file: FileArgs,
        /// Also where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print a commented file with every key
    Generate {
        /// A router's file instead of a client's
        #[arg(long)]
        router: bool,
    },
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// The same as an option
    #[arg(short, long, value_name = "FILE", conflicts_with = "path")]
    file: Option<PathBuf>,
    /// Read it as a router's file, whatever it looks like
    #[arg(long)]
    router: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    match &args.verb {
        Verb::Validate(file) => validate(file, context),
        Verb::Show { file, origin } => show(file, *origin, context),
        Verb::Generate { router } => {
            let kind = if *router { FileKind::Router } else { FileKind::Client };
            context.raw(config::generate(kind, &[], &[])?.as_bytes()).map(|()| 0)
        }
    }
}

fn validate(args: &FileArgs, context: &Context) -> Result<u8, Failure> {
    let Some(path) = args.path(context)? else {
        return Err(Failure::usage("there is no conduit.toml here: name a file"));
    };
    let kind = args.router.then_some(FileKind::Router);
    let outcome = config::validate(&path, kind, &context.environment);
    if context.json {
        let problems: Vec<_> = match &outcome {
            Ok(_) => Vec::new(),
            Err(errors) => errors.problems().iter().map(as_document).collect(),
        };
        context.document(&json!({"schema": "conduit.validate/1", "file": path,
            "valid": outcome.is_ok(), "problems": problems}))?;
        return Ok(if outcome.is_ok() { 0 } else { exit::CONFIG });
    }
    let (what, tunnels) = match outcome? {
        Validated::Client(loaded) => ("a client's file", Some(loaded.config.tunnels.len())),
        Validated::Router(_) => ("a router's file", None),
    };
    if context.quiet {
        return Ok(0);
    }
    let tunnels = tunnels.map(|count| format!(", {count} tunnels")).unwrap_or_default();
    context.line(&format!("{} is sound ({what}{tunnels})", path.display())).map(|()| 0)
}

fn as_document(problem: &Problem) -> serde_json::Value {
    json!({"place": problem.place.to_string(), "message": problem.message})
}

fn show(args: &FileArgs, origin: bool, context: &Context) -> Result<u8, Failure> {
    let path = args.path(context)?;
    let is_router = args.router
        || path.as_deref().map(detect).transpose()?.is_some_and(|kind| kind == FileKind::Router);
    let (environment, none) = (&context.environment, Overrides::new());
    let (file, entries) = if is_router {
        let loaded = RouterConfig::load(path.as_deref(), environment, &none)?;
        (loaded.file, loaded.entries)
    } else {
        let loaded = ClientConfig::load(path.as_deref(), environment, &none)?;
        (loaded.file, loaded.entries)
    };
    if context.json {
        let shown = json!({"schema": "conduit.config/1", "file": file, "settings": entries});
        return context.document(&shown).map(|()| 0);
    }
    let table = table(&entries, origin);
    context.line(&table.render(context)).map(|()| 0)
}

fn table(entries: &[Entry], origin: bool) -> Table {
    let mut table =
        if origin { Table::new(["KEY", "VALUE", "ORIGIN"]) } else { Table::new(["KEY", "VALUE"]) };
    for entry in entries {
        let value = match (&entry.value, entry.meaning) {
            (Some(value), _) => value.clone(),
            (None, Some(meaning)) => format!("({meaning})"),
            (None, None) => "-".to_owned(),
        };
        if origin {
            table.row([entry.key.clone(), value, entry.origin.to_string()]);
        } else {
            table.row([entry.key.clone(), value]);
        }
    }
    table
}

impl FileArgs {
    fn path(&self, context: &Context) -> Result<Option<PathBuf>, Failure> {
        let named = self.path.as_deref().or(self.file.as_deref());
        match named {
            None if self.router => {
                let path = context.home()?.config_file(FileKind::Router);
                Ok(Some(path).filter(|path: &PathBuf| Path::is_file(path)))
            }
            named => client_file(named, context),
        }
    }
}
