//! What the way to the router is like.

use std::time::Duration;

use super::super::output::milliseconds;
use super::{Outcome, Report};
use crate::client::Examination;

/// Versions, clocks, encryption, and what packets meet.
pub(super) fn rows(report: &mut Report, found: &Examination) {
    let own = env!("CARGO_PKG_VERSION");
    let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    let theirs = &found.terms.peer_version;
    let versions = format!("{own} here, {theirs} there");
    if minor(own) == minor(theirs) {
        report.ok("versions", versions);
    } else {
        report.note("versions", Outcome::Warning, versions, Some("upgrade the older one"));
    }
    clocks(report, found);
    if let Some(tls) = &found.tls {
        report.ok("encryption", format!("{}, {}", tls.cipher_suite, tls.key_exchange));
    }
    if let Some(why) = &found.failed {
        let fix = "packets get lost behind the handshake: look at firewalls that drop larger or later UDP packets";
        report.note("data path", Outcome::Failed, why, Some(fix));
    }
    if let (Some(median), Some(jitter)) = (found.median(), found.jitter()) {
        let [median, jitter] = [median, jitter].map(|it| milliseconds(it.as_secs_f64() * 1e3));
        let count = found.round_trips.len();
        report.ok("round trip", format!("{median}, jitter {jitter} ({count} probes)"));
    }
    let loss = found.path.loss_percent();
    let detail = format!("{loss:.1} % of {} packets sent", found.path.sent);
    match loss < LOSSY {
        true => report.ok("loss", detail),
        false => report.note(
            "loss",
            Outcome::Warning,
            detail,
            Some("Conduit copes; other programs on this path do not"),
        ),
    }
    let mtu = found.path.mtu;
    match mtu > SMALLEST_MTU {
        true => report.ok("packet size", format!("{mtu} bytes")),
        false => {
            let detail = format!("{mtu} bytes: nothing larger gets through");
            let fix = "somewhere on the way the MTU is below 1,500; everything works, for more processor time";
            report.note("packet size", Outcome::Warning, detail, Some(fix));
        }
    }
}

/// Whether both ends have the same time: tickets and tokens expire by the router's.
fn clocks(report: &mut Report, found: &Examination) {
    let Some(ahead) = found.clock_ahead else { return };
    let (by, whose) = (ahead.abs(), if ahead > 0.0 { "ahead" } else { "behind" });
    if by < SAME_TIME {
        return report.ok("router's clock", "as this one");
    }
    let by = humantime::format_duration(Duration::from_secs(by as u64));
    let detail = format!("{by} {whose} of this one");
    let fix = "let both hosts ask a time server: tickets and tokens expire by the router's clock";
    report.note("router's clock", Outcome::Warning, detail, Some(fix));
}

/// Per cent.
const LOSSY: f64 = 1.0;
/// Seconds that nobody need care about.
const SAME_TIME: f64 = 5.0;
/// What QUIC takes for granted.
const SMALLEST_MTU: u16 = 1_200;
