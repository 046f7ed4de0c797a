//! A router that runs, from its first word to its last, or until another program goes on.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::invite::PRIVATE;
use super::place;
use super::succession::Succession;
use crate::cli::context::Context;
use crate::cli::report::warn;
use crate::fleet::{
    BROKEN, CUT_OFF, DRAIN, Failure, Kind, Signals, serve_control, tell_ready, tell_stopping,
};
use crate::registry::{Claim, ControlListener, InviteParams};
use crate::router::{Advertised, Running};
use crate::store::Store;
use crate::task::Tasks;
use crate::telemetry::LogControl;
use crate::tunnel::{Bind, BindAddr, TunnelState};

/// A router that was started.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) control: ControlListener,
    pub(super) log: LogControl,
    pub(super) store: Store,
    pub(super) advertised: Advertised,
    /// The configuration file, if there is one.
    pub(super) file: Option<PathBuf>,
    /// The version whose place it has taken.
    pub(super) before: Option<String>,
}

impl Started {
    pub(super) async fn serve(
        self,
        mut claim: Claim,
        mut signals: Signals,
        context: &Context,
    ) -> Result<(), Failure> {
        let Self { running, control, log, store, advertised, file, before } = self;
        let bind = BindAddr::from(running.local_addr());
        // Before anybody can know that it runs. Only invitations that are made while no router runs lack it.
        if let Err(failure) = place::note_bind(running.local_addr(), &context.home()?) {
            tracing::warn!(%failure, "the address was not noted for invitations while no router runs");
        }
        let recorded = claim.update(|record| {
            record.status = TunnelState::Ready;
            record.config.bind = Some(Bind::Addr(bind).into());
        });
        match recorded {
            // Whoever serves already does not end for that.
            Err(error) if before.is_some() => {
                tracing::error!(%error, "the router is not recorded as it is")
            }
            recorded => recorded?,
        }
        let tasks = Tasks::new();
        let succession = Succession::of(&control, file);
        serve_control(control, running.calls(), log, &tasks);
        match before {
            Some(before) => tracing::info!(before, now = env!("CARGO_PKG_VERSION"), "upgraded"),
            None => announce(&running, &advertised, &store, context).await?,
        }
        tell_ready(&tasks);
        let mut upgrades = running.upgrades();
        let ended = loop {
            tokio::select! {
                is_drained = running.ended() => break Some(is_drained),
                () = running.broken() => {
                    tracing::error!(BROKEN);
                    running.shutdown(Duration::ZERO).await;
                    claim.end(TunnelState::Failed, Some(BROKEN.to_owned()))?;
                    return Err(Failure::new(Kind::System, "broken", BROKEN));
                }
                () = signals.next() => break None,
                Some(call) = upgrades.recv() => {
                    if succession.asked(&running, &mut claim, &mut signals, call).await?.is_break() {
                        break None;
                    }
                }
            }
        };
        // From here on nobody takes its place.
        drop(upgrades);
        let is_drained = match ended {
            Some(is_drained) => is_drained,
            None => {
                warn("draining; a second signal ends at once");
                tell_stopping();
                tokio::select! {
                    is_drained = running.shutdown(DRAIN) => is_drained,
                    () = signals.next() => running.shutdown(Duration::ZERO).await,
                }
            }
        };
        tasks.shutdown(FAREWELL).await;
        let reason = (!is_drained).then(|| CUT_OFF.to_owned());
        Ok(claim.end(TunnelState::Stopped, reason)?)
    }
}

/// Says who and where the router is, and how the first client comes in.
async fn announce(
    running: &Running,
    advertised: &Advertised,
    store: &Store,
    context: &Context,
) -> Result<(), Failure> {
    let (identity, bind) = (running.identity(), running.local_addr());
    if context.json {
        return context.document(&json!({"schema": "conduit.router/1", "identity": identity,
            "bind": bind, "advertise": advertised.addresses, "pid": std::process::id()}));
    }
    if context.quiet {
        return context.line(&identity.to_string());
    }
    let addresses: Vec<String> = advertised.addresses.iter().map(ToString::to_string).collect();
    context.line(&format!("  identity   {identity}"))?;
    context.line(&format!("  listening  {bind}"))?;
    context.line(&format!("  addresses  {}", addresses.join(", ")))?;
    if advertised.all_private {
        warn(PRIVATE);
    }
    if !store.clients().await?.is_empty() {
        return Ok(());
    }
    context.line("")?;
    // A ticket must not end up in a log that others read.
    if !std::io::stdout().is_terminal() {
        return context
            .line("no client yet: `conduit router invite` prints a ticket for the first one");
    }
    let advertise = advertised.addresses.clone();
    let invitation =
        running.admin().invite(InviteParams { advertise, ..InviteParams::default() }).await?;
    context.line(
        "On the client (an owner: it may reach what this host reaches, loopback included):",
    )?;
    context.line("")?;
    let ticket = &invitation.ticket;
    context.line(&format!(
        "  conduit start --join {ticket} --source HOST:PORT --bind 127.0.0.1:PORT"
    ))?;
    context.line("")?;
    let until = &invitation.expires_at;
    context.line(&format!(
        "The ticket works once, until {until}; `conduit router invite` prints others."
    ))
}

/// For the control socket's last answers.
const FAREWELL: Duration = Duration::from_secs(2);
