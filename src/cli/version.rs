//! `conduit version`: what this program is.

use serde_json::json;

use super::context::Context;
use crate::fleet::Failure;

pub(super) fn run(context: &Context) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if context.json {
        return context
            .document(&json!({
                "schema": "conduit.version/1", "version": version, "commit": COMMIT,
                "target": target, "features": FEATURES, "handover": HANDOVER,
            }))
            .map(|()| 0);
    }
    if context.quiet {
        return context.line(version).map(|()| 0);
    }
    context.line(&format!("conduit {version}"))?;
    if let Some(commit) = COMMIT {
        context.line(&format!("commit    {commit}"))?;
    }
    context.line(&format!("target    {target}"))?;
    context.line(&format!("features  {}", FEATURES.join(" "))).map(|()| 0)
}

/// What whoever builds releases puts into the environment.
const COMMIT: Option<&str> = option_env!("CONDUIT_COMMIT");
/// The format of what one router leaves to the next that this program reads.
#[cfg(unix)]
const HANDOVER: Option<u32> = Some(crate::router::Heritage::FORMAT);
#[cfg(not(unix))]
const HANDOVER: Option<u32> = None;
/// What this version can do, for scripts that have to know.
const FEATURES: &[&str] = &[
    "tcp",
    "udp",
    "reverse",
    "quic",
    "tls",
    "resume",
    #[cfg(unix)]
    "unix-sockets",
    #[cfg(unix)]
    "upgrade",
];
