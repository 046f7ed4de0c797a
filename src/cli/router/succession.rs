//! The router's own side of an upgrade: makes sure that the other program can go on, and becomes it.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::fleet::{Failure, Signals};
use crate::registry::{Claim, ControlListener, RpcError};
use crate::router::{Running, UpgradeCall};

/// Lets another program go on in this one's place.
pub(super) struct Succession {
    #[cfg(unix)]
    control: std::io::Result<std::os::fd::OwnedFd>,
    #[cfg(unix)]
    file: Option<PathBuf>,
}

impl Succession {
    /// `file` is the configuration, which the other program has to like.
    #[cfg(unix)]
    pub(super) fn of(control: &ControlListener, file: Option<PathBuf>) -> Self {
        Self { control: control.descriptor(), file }
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &ControlListener, _: Option<PathBuf>) -> Self {
        Self {}
    }

    /// Goes on when the other program cannot, and nothing has changed; breaks when a signal has come meanwhile, which ends
    /// the router instead. An error is the end of this process, which has stopped serving. [UPG-1]
    #[cfg(unix)]
    pub(super) async fn asked(
        &self,
        running: &Running,
        claim: &mut Claim,
        signals: &mut Signals,
        call: UpgradeCall,
    ) -> Result<ControlFlow<()>, Failure> {
        let UpgradeCall { program, reply } = call;
        let examined = tokio::select! {
            examined = unix::examined(&program, self.file.as_deref()) => examined,
            () = signals.next() => {
                // Who asked may have gone.
                let _ = reply.send(Err(refused("the router was told to end".to_owned())));
                return Ok(ControlFlow::Break(()));
            }
        };
        // Asked afterwards: it may have been stopped meanwhile.
        let ready = examined.and_then(|to| match running.cannot_leave() {
            Some(why) => Err(refused(why.to_owned())),
            None => Ok((to, self.leaves(claim)?)),
        });
        let (to, left) = match ready {
            Ok(ready) => ready,
            Err(refused) => {
                tracing::warn!(program = %program.display(), reason = refused.message, "no upgrade");
                let _ = reply.send(Err(refused));
                return Ok(ControlFlow::Continue(()));
            }
        };
        tracing::info!(program = %program.display(), to, "upgrading");
        let from = env!("CARGO_PKG_VERSION");
        let _ = reply.send(Ok(serde_json::json!({"from": from, "to": to})));
        crate::fleet::tell_upgrading();
        let file = running.leave(left).await.map_err(crate::router::StartError::from)?;
        let has_come = tokio::select! {
            biased;
            () = signals.next() => true,
            () = std::future::ready(()) => false,
        };
        if has_come {
            // The next program would not hear of it.
            return Ok(ControlFlow::Break(()));
        }
        let error = unix::becomes(&program, file);
        let message = format!("cannot become {}: {error}", program.display());
        Err(Failure::new(crate::fleet::Kind::System, "upgrade", message))
    }

    #[cfg(unix)]
    fn leaves(&self, claim: &mut Claim) -> Result<crate::wire::handover::Claim, RpcError> {
        let control = self.control.as_ref().map_err(|error| refused(error.to_string()))?;
        // The next program writes the record, too: where it cannot, this one goes on.
        claim.update(|_| ()).map_err(|error| refused(error.to_string()))?;
        claim.leave(control).map_err(|error| refused(error.to_string()))
    }

    #[cfg(not(unix))]
    pub(super) async fn asked(
        &self,
        _: &Running,
        _: &mut Claim,
        _: &mut Signals,
        call: UpgradeCall,
    ) -> Result<ControlFlow<()>, Failure> {
        let why = "this system cannot hand sockets over: restart the router";
        let _ = call.reply.send(Err(refused(why.to_owned())));
        Ok(ControlFlow::Continue(()))
    }
}

fn refused(message: String) -> RpcError {
    RpcError::new(RpcError::UNSUPPORTED, message)
}

#[cfg(unix)]
mod unix {
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::Duration;

    use serde::Deserialize;

    use super::refused;
    use crate::config::Environment;
    use crate::registry::RpcError;
    use crate::router::Heritage;

    /// What a program says of itself.
    #[derive(Debug, Deserialize)]
    struct Version {
        version: String,
        #[serde(default)]
        handover: Option<u32>,
    }

    /// Whether `program` starts here, reads what this one leaves and likes the configuration: its version. Nothing has changed
    /// when it does not. [UPG-1]
    pub(super) async fn examined(program: &Path, file: Option<&Path>) -> Result<String, RpcError> {
        let said = run(program, &["version", "-o", "json"]).await?;
        let version: Version = serde_json::from_slice(&said.stdout).map_err(|_| {
            refused(format!("{} does not say a version: is it Conduit?", program.display()))
        })?;
        if version.handover != Some(Heritage::FORMAT) {
            let theirs = version.version;
            return Err(refused(format!(
                "conduit {theirs} cannot go on with what this one ({}) leaves: restart the router instead",
                env!("CARGO_PKG_VERSION")
            )));
        }
        if let Some(file) = file {
            let file = file.to_string_lossy();
            run(program, &["config", "validate", "-f", &file]).await?;
        }
        Ok(version.version)
    }

    async fn run(program: &Path, arguments: &[&str]) -> Result<Output, RpcError> {
        let failed = |why: String| {
            refused(format!("{} {} failed: {why}", program.display(), arguments.join(" ")))
        };
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .env_remove(Environment::HANDOVER)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(EXAMINATION, child).await;
        let output = output
            .map_err(|_| failed(format!("it takes longer than {} s", EXAMINATION.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(said.trim().chars().take(SAID_MOST).collect()));
        }
        Ok(output)
    }

    /// This process becomes `program`, with the arguments that it was started with; returns only when that fails, and then
    /// this program cannot go on either way but as itself, anew. `file` is what was left.
    pub(super) fn becomes(program: &Path, file: u32) -> std::io::Error {
        let into = |program: &Path| {
            Command::new(program)
                .args(std::env::args_os().skip(1))
                .env(Environment::HANDOVER, file.to_string())
                .exec()
        };
        let error = into(program);
        tracing::error!(program = %program.display(), %error, "cannot become it; starting this program anew");
        into(Path::new(ITSELF))
    }

    /// The program that runs, also when its file was replaced.
    const ITSELF: &str = "/proc/self/exe";
    /// It starts in a few milliseconds.
    const EXAMINATION: Duration = Duration::from_secs(5);
    /// Of what the other program says on its way out.
    const SAID_MOST: usize = 1_000;
}
