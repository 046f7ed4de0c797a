//! `config validate`: which kind of file is this, and is it sound?

use std::path::Path;

use super::client::ClientConfig;
use super::document::parse;
use super::environment::Environment;
use super::error::ConfigErrors;
use super::layers::{Loaded, Overrides, Resolved};
use super::router::RouterConfig;
use super::schema::FileKind;
use super::source::Source;

/// A sound file of either kind.
#[derive(Debug, Clone)]
pub enum Validated {
    /// A `conduit.toml`.
    Client(Loaded<ClientConfig>),
    /// A `router.toml`.
    Router(Loaded<RouterConfig>),
}

/// The kind of a file, by its sections: `[listen]`, `[policy]` and `[limits]` make it a router's.
pub fn detect(path: &Path) -> Result<FileKind, ConfigErrors> {
    kind_of(&Source::read(path)?)
}

/// Reads a file of this kind, or of the kind that it looks like, and reports every problem at once.
pub fn validate(
    path: &Path,
    kind: Option<FileKind>,
    environment: &Environment,
) -> Result<Validated, ConfigErrors> {
    let source = Source::read(path)?;
    let kind = match kind {
        Some(kind) => kind,
        None => kind_of(&source)?,
    };
    let resolved = Resolved::from_source(kind, Some(&source), environment, &Overrides::new())?;
    match kind {
        FileKind::Client => ClientConfig::finish(resolved, environment).map(Validated::Client),
        FileKind::Router => RouterConfig::finish(resolved, environment).map(Validated::Router),
    }
}

fn kind_of(source: &Source) -> Result<FileKind, ConfigErrors> {
    let table = parse(source)?;
    let router = ROUTER_ONLY.iter().any(|section| table.contains_key(*section));
    Ok(if router { FileKind::Router } else { FileKind::Client })
}

/// Sections that only a router's file has.
const ROUTER_ONLY: [&str; 3] = ["listen", "policy", "limits"];
