//! `conduit init`: a key and a commented configuration file.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::context::Context;
use crate::config::{FileKind, Home, generate};
use crate::files;
use crate::fleet::{Failure, Kind};
use crate::identity::Keypair;

/// Options of `init`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// For a router instead of a client
    #[arg(long)]
    router: bool,
    /// Where to [default: CONDUIT_HOME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Overwrite an existing key and configuration: the old identity is lost
    #[arg(long)]
    force: bool,
}

/// Where the two files go, and how the one names the other.
struct Places {
    kind: FileKind,
    key: PathBuf,
    config: PathBuf,
    /// In the configuration; nothing where the default says it already.
    key_in_config: Option<&'static str>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let places = places(args, context)?;
    let has_key = exists(&places.key);
    if exists(&places.config) && !args.force {
        let what = if has_key { "is set up already" } else { "exists already" };
        let message = format!("{} {what}; nothing was changed", places.config.display());
        return Err(Failure::new(Kind::System, "exists", message).with_hint(
            "--force overwrites it, and the key: peers then have to admit the new one",
        ));
    }
    files::create_private_dir(folder(&places.config))?;
    files::create_private_dir(folder(&places.key))?;
    let keypair = if args.force {
        Keypair::replace(&places.key)?
    } else {
        // A key may be there from an enrolment: it is the one that the router knows.
        Keypair::load_or_create(&places.key)?.0
    };
    let set: Vec<(&str, &str)> =
        places.key_in_config.map(|path| ("security.private_key_path", path)).into_iter().collect();
    let text = generate(places.kind, &set, &[])?;
    if args.force {
        files::replace(&places.config, text.as_bytes())?;
    } else {
        files::create_private(&places.config, text.as_bytes())?;
    }
    show(&places, &keypair, has_key && !args.force, context)
}

fn places(args: &Args, context: &Context) -> Result<Places, Failure> {
    let kind = if args.router { FileKind::Router } else { FileKind::Client };
    let Some(dir) = &args.dir else {
        let home: Home = context.home()?;
        let key = if args.router { home.router_key() } else { home.client_key() };
        return Ok(Places { kind, key, config: home.config_file(kind), key_in_config: None });
    };
    let dir = std::path::absolute(dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
    let (name, in_config) = match kind {
        FileKind::Router => ("router.key", "./router.key"),
        FileKind::Client => ("client.key", "./client.key"),
    };
    Ok(Places {
        kind,
        key: dir.join(name),
        config: dir.join(kind.file_name()),
        key_in_config: Some(in_config),
    })
}

fn show(
    places: &Places,
    keypair: &Keypair,
    is_kept: bool,
    context: &Context,
) -> Result<u8, Failure> {
    let identity = keypair.identity();
    if context.json {
        return context
            .document(&json!({
                "schema": "conduit.init/1", "identity": identity, "key": places.key,
                "config": places.config, "key_kept": is_kept,
            }))
            .map(|()| 0);
    }
    if context.quiet {
        return context.line(&identity.to_string()).map(|()| 0);
    }
    let kept = if is_kept { "   (was there, kept)" } else { "" };
    context.line(&format!("  identity   {identity}"))?;
    context.line(&format!("  key        {}{kept}", places.key.display()))?;
    context.line(&format!("  config     {}", places.config.display()))?;
    context.line("")?;
    let file = places.config.display();
    match places.kind {
        FileKind::Client => context.line(&format!(
            "next: `conduit start --join TICKET --source HOST:PORT --bind PORT`, or on the router\n\
             `conduit router authorize {identity} --name NAME`, tunnels into the file, and\n\
             `conduit up -f {file}`"
        )),
        FileKind::Router => context.line(&format!("next: `conduit router -f {file}`")),
    }
    .map(|()| 0)
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Also a dangling link is something that must not be overwritten.
fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

const EXAMPLES: &str = "\
Examples:
  conduit init                    a client in CONDUIT_HOME (default ~/.conduit)
  conduit init --router           a router there
  conduit init --dir ./keys -q    a client elsewhere; prints the identity alone";
