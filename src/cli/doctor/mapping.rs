//! How much silence a NAT or a firewall on the way to the router puts up with.

use std::time::Duration;

use super::{Outcome, Report};
use crate::client::{self, Access, Lifetime};

/// What was measured, and against what.
#[derive(Debug)]
pub(super) struct Measured {
    /// Silence that tunnels of these settings leave.
    keep_alive: Duration,
    lifetime: Lifetime,
}

/// A silence a little longer than between two keep-alives, and longer ones where somebody wants to know.
pub(super) async fn measured(access: &Access, longer: bool) -> Measured {
    let keep_alive = access.transport.keep_alive_interval();
    let first = keep_alive + MARGIN;
    let longer = LONGER.into_iter().filter(|silence| longer && *silence > first);
    let silences: Vec<Duration> = std::iter::once(first).chain(longer).collect();
    let lifetime = client::lifetime(access, &silences).await;
    Measured { keep_alive, lifetime }
}

/// `None`: UDP does not get to the router at all.
pub(super) fn row(report: &mut Report, measured: Option<&Measured>) {
    let (outcome, detail, fix) = match measured {
        Some(Measured { keep_alive, lifetime }) => judged(*keep_alive, lifetime),
        None => (Outcome::Unknown, "without UDP there is nothing to measure".to_owned(), None),
    };
    report.note(CHECK, outcome, detail, fix.as_deref());
}

fn judged(keep_alive: Duration, lifetime: &Lifetime) -> (Outcome, String, Option<String>) {
    let every = seconds(keep_alive);
    match lifetime {
        Lifetime { lived: Some(lived), lapsed: None, untold } => {
            let mut detail = format!("outlives {} of silence", seconds(*lived));
            match untold {
                Some(why) => detail.push_str(&format!("; beyond that it cannot be told: {why}")),
                None if *lived + MARGIN > LONGEST => detail.push_str(" at least"),
                None => detail.push_str(&format!(", keep-alives leave every {every}")),
            }
            (Outcome::Ok, detail, None)
        }
        Lifetime { lived: Some(lived), lapsed: Some(lapsed), .. } => {
            let [lived, lapsed] = [lived, lapsed].map(|silence| seconds(*silence));
            let detail = format!("outlives {lived} of silence, and not {lapsed}");
            let fix = format!(
                "keep-alives every {every} hold it; what else uses UDP here is better off when the NAT or firewall waits \
                 two minutes (RFC 4787)"
            );
            (Outcome::Warning, detail, Some(fix))
        }
        Lifetime { lived: None, lapsed: Some(lapsed), .. } => {
            let detail = format!("forgotten within {} of silence", seconds(*lapsed));
            if *lapsed > keep_alive + MARGIN {
                return (Outcome::Warning, detail, None);
            }
            let sooner = (keep_alive * 5 / 3).as_secs().max(1);
            let fix = format!(
                "visitors and idle connections wait up to {every} for the next keep-alive: raise the UDP timeout of the \
                 NAT or firewall, or set idle_timeout = \"{sooner}s\" in [performance], or go by --carrier tls"
            );
            (Outcome::Failed, detail, Some(fix))
        }
        Lifetime { lived: None, lapsed: None, untold } => {
            let why = untold.as_deref().unwrap_or("nothing was measured");
            (Outcome::Unknown, format!("cannot be told: {why}"), None)
        }
    }
}

/// Tenths where there are any.
fn seconds(time: Duration) -> String {
    let text = format!("{:.1}", time.as_secs_f64());
    format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
}

const CHECK: &str = "NAT mapping";
/// What a keep-alive may be late, and what the measurement may fall short.
const MARGIN: Duration = Duration::from_secs(1);
/// Limits of routers and firewalls that are met lie between them: 10, 15, 20 and 30 s.
const LONGER: [Duration; 3] = [Duration::from_secs(12), Duration::from_secs(18), LONGEST];
/// The idle limit of a connection is 30 s.
const LONGEST: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mapping_that_keep_alives_do_not_hold_is_a_failure() {
        let second = Duration::from_secs;
        let why = || Some("the router is old".to_owned());
        let found = |lived: Option<u64>, lapsed: Option<u64>, untold| {
            let [lived, lapsed] = [lived, lapsed].map(|seconds| seconds.map(second));
            let (outcome, detail, fix) = judged(second(6), &Lifetime { lived, lapsed, untold });
            (outcome, detail, fix.is_some())
        };
        for (lived, lapsed, untold, outcome, said) in [
            (
                Some(7),
                None,
                None,
                Outcome::Ok,
                "outlives 7 s of silence, keep-alives leave every 6 s",
            ),
            (Some(25), None, None, Outcome::Ok, "outlives 25 s of silence at least"),
            (
                Some(12),
                None,
                why(),
                Outcome::Ok,
                "beyond that it cannot be told: the router is old",
            ),
            (Some(12), Some(18), None, Outcome::Warning, "outlives 12 s of silence, and not 18 s"),
            (None, Some(7), None, Outcome::Failed, "forgotten within 7 s of silence"),
            (None, None, why(), Outcome::Unknown, "cannot be told: the router is old"),
        ] {
            let (result, detail, has_fix) = found(lived, lapsed, untold);
            assert_eq!(result, outcome, "{detail}");
            assert!(detail.contains(said), "{detail}");
            assert_eq!(has_fix, matches!(outcome, Outcome::Warning | Outcome::Failed), "{detail}");
        }
        let (outcome, _, fix) =
            judged(second(6), &Lifetime { lapsed: Some(second(12)), ..Lifetime::default() });
        assert_eq!((outcome, fix), (Outcome::Warning, None), "keep-alives may well hold it");
        assert_eq!(seconds(Duration::from_millis(6_970)), "7 s");
        assert_eq!(seconds(Duration::from_millis(1_240)), "1.2 s");
    }

    #[test]
    fn what_cannot_be_told_is_neither_well_nor_a_failure() {
        let mut report = Report::new();
        row(&mut report, None);
        let check = report.checks.last().expect("a row");
        assert_eq!((check.result, check.fix.as_ref()), (Outcome::Unknown, None));
        assert!(check.detail.contains("without UDP"), "{check:?}");
        assert!(report.healthy);
    }
}
