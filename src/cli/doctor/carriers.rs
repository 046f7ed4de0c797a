//! Whether a session comes about over each carrier.

use super::super::output::milliseconds;
use super::{Outcome, Report};
use crate::client::{Examination, StartError};
use crate::tunnel::{CarrierChoice, TunnelSpec};

/// A row for each carrier, and one for what `tunnels` cannot do without; what the better one has found, if one works.
pub(super) fn rows(
    report: &mut Report,
    tunnels: &[TunnelSpec],
    udp: Result<Examination, StartError>,
    tls: Result<Examination, StartError>,
) -> Option<Examination> {
    let found = match (udp, tls) {
        (Err(udp), Err(tls)) => {
            let (failed, over_tcp) = (step(&udp), tls.to_string());
            // What the router itself refuses it refuses over both.
            let is_same = over_tcp == udp.to_string();
            report.failed(failed, &udp.into());
            if !is_same {
                let fix = "what mends the failure above mends this";
                report.note(OVER_TCP, Outcome::Warning, over_tcp, Some(fix));
            }
            return None;
        }
        (Ok(udp), Ok(tls)) => {
            report.ok(OVER_UDP, answers(&udp));
            report.ok(OVER_TCP, answers(&tls));
            udp
        }
        (Ok(udp), Err(error)) => {
            report.ok(OVER_UDP, answers(&udp));
            let fix = "from networks without UDP nobody gets to this router: open its TCP port too";
            misses(report, (OVER_TCP, fix), &error, needing(tunnels, CarrierChoice::Tls));
            udp
        }
        (Err(error), Ok(tls)) => {
            let fix = "tunnels work over TLS meanwhile; where UDP gets through they are faster and lose no order";
            misses(report, (OVER_UDP, fix), &error, needing(tunnels, CarrierChoice::Quic));
            report.ok(OVER_TCP, answers(&tls));
            tls
        }
    };
    report.ok("router's identity", "it shows the key that is pinned");
    Some(found)
}

fn answers(found: &Examination) -> String {
    let admitted = milliseconds(found.admitted_in.as_secs_f64() * 1e3);
    let rate = found.rate.map(|rate| format!(", {:.0} Mbit/s there and back", rate / 1e6));
    format!("{} answers, admitted in {admitted}{}", found.addr, rate.unwrap_or_default())
}

/// One carrier is missing: a failure where a tunnel may use no other.
fn misses(
    report: &mut Report,
    (check, fix): (&str, &str),
    error: &StartError,
    needing: Option<&TunnelSpec>,
) {
    match needing {
        None => report.note(check, Outcome::Warning, error.to_string(), Some(fix)),
        Some(TunnelSpec { name, options, .. }) => {
            let detail = format!("{error}; the tunnel {name} uses nothing else");
            let fix = format!(
                "with `carrier = \"auto\"` {name} uses what works, instead of {}",
                options.carrier
            );
            report.note(check, Outcome::Failed, detail, Some(&fix));
        }
    }
}

/// The first tunnel that uses this carrier only.
fn needing(tunnels: &[TunnelSpec], carrier: CarrierChoice) -> Option<&TunnelSpec> {
    tunnels.iter().find(|spec| spec.options.carrier == carrier)
}

/// How far a session came.
fn step(error: &StartError) -> &'static str {
    match error {
        StartError::Resolve { .. } => "router's name",
        StartError::WrongKey { .. } => "router's identity",
        StartError::Refused { .. } | StartError::TicketRefused { .. } => "admission",
        StartError::Unsupported { .. } => "versions",
        _ => OVER_UDP,
    }
}

const OVER_UDP: &str = "router over UDP";
const OVER_TCP: &str = "router over TCP";
