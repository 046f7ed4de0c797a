//! The tunnels and the router of this machine.

use super::super::context::Context;
use super::super::running::find;
use super::super::status::{crashed, health_of};
use super::{Outcome, Report};
use crate::config::{FileKind, Overrides, RouterConfig};
use crate::fleet::Failure;
use crate::registry::Depth;

/// A row for each process that runs, whose sources are connected to, and for each that died; whether this host is a router.
pub(super) async fn rows(report: &mut Report, context: &Context) -> Result<bool, Failure> {
    let mut found = find(context)?;
    let dead = crashed(&found);
    let runs_router = !found.routers.is_empty();
    found.routers.append(&mut found.tunnels);
    for health in health_of(found.routers, Depth::Source).await {
        let check = format!("running {}", health.id);
        match health.is_up {
            true => report.ok(&check, health.detail),
            false => {
                fails(report, &check, &health.id, format!("{}: {}", health.state, health.detail))
            }
        }
    }
    for record in dead {
        let id = record.tunnel_id.as_str();
        let why = record.last_error.as_deref().unwrap_or("it does not say why");
        fails(report, &format!("ended {id}"), id, why.to_owned());
    }
    let home = context.home()?;
    let is_router = runs_router || home.router_key().exists();
    let file = home.config_file(FileKind::Router);
    if file.exists() {
        match RouterConfig::load(Some(&file), &context.environment, &Overrides::new()) {
            Ok(_) => report.ok("router's settings", file.display().to_string()),
            Err(error) => report.failed("router's settings", &error.into()),
        }
    }
    Ok(is_router)
}

fn fails(report: &mut Report, check: &str, id: &str, detail: String) {
    let fix = format!("`conduit logs {id}` shows what it has met");
    report.note(check, Outcome::Failed, detail, Some(&fix));
}
