//! Whether a run shows a regression against an older one.
//!
//! What is compared are ratios to the baselines of the same run, never figures of different runs. A change counts when
//! it is larger than what the rounds of both runs lie apart, and when it shows against every baseline that is steady
//! enough to tell: one that had a good day makes nobody slower, and one that went up and down hides nothing.

use super::{Better, Nature, Row, Run, Summary, Way};

/// What became of one figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    /// The row's title and the way.
    pub(crate) what: String,
    /// Ratios to the baseline that speaks best for the new run, or the figures themselves.
    pub(crate) old: f64,
    pub(crate) new: f64,
    /// The baseline, for ratios.
    pub(crate) base: Option<Way>,
    /// How much worse, as a part of the old one; negative is better.
    pub(crate) worse_by: f64,
    /// How much of that the noise explains.
    pub(crate) noise: f64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Same,
    /// The rounds lie so far apart that only a disaster would show.
    Noisy,
    Better,
    Worse,
    /// The new run does not have it: a measure that is gone hides what it would have shown.
    Missing,
}

/// Every figure of Conduit in the old run, beside the new run's.
pub(crate) fn compare(old: &Run, new: &Run) -> Vec<Finding> {
    old.rows
        .iter()
        .filter(|row| row.nature != Nature::Machine)
        .flat_map(|row| {
            let ways = row.rounds.keys().filter(|way| !Way::BASELINES.contains(way));
            ways.map(|way| judge(row, new.row(&row.id), *way))
        })
        .collect()
}

/// Whether a run like that may not pass.
pub(crate) fn is_regression(findings: &[Finding]) -> bool {
    findings.iter().any(|found| matches!(found.outcome, Outcome::Worse | Outcome::Missing))
}

fn judge(old: &Row, new: Option<&Row>, way: Way) -> Finding {
    let what = match way {
        Way::Conduit => old.title.clone(),
        other => format!("{}, {}", old.title, other.title()),
    };
    let missing = Finding {
        what,
        old: f64::NAN,
        new: f64::NAN,
        base: None,
        worse_by: f64::NAN,
        noise: f64::NAN,
        outcome: Outcome::Missing,
    };
    let Some(new) = new else { return missing };
    let sides = |base: Option<Way>| match base {
        Some(base) => Some((old.ratio(way, base)?, new.ratio(way, base)?)),
        None => Some((old.summary(way)?, new.summary(way)?)),
    };
    let bases: Vec<Option<Way>> = match old.nature {
        Nature::Ratio => Way::BASELINES.iter().copied().map(Some).collect(),
        Nature::Exact | Nature::Machine => vec![None],
    };
    let found = bases.into_iter().filter_map(|base| {
        let (before, after) = sides(base)?;
        Some(weigh(old, base, before, after, &missing))
    });
    let found: Vec<Finding> = found.collect();
    let steadiest = found.iter().map(|finding| finding.noise).fold(f64::INFINITY, f64::min);
    let steady = found.into_iter().filter(|finding| finding.noise <= STEADY * steadiest);
    // What lies least beyond the noise decides.
    steady
        .min_by(|a, b| (a.worse_by - a.noise).total_cmp(&(b.worse_by - b.noise)))
        .unwrap_or_else(|| missing.clone())
}

fn weigh(row: &Row, base: Option<Way>, old: Summary, new: Summary, rest: &Finding) -> Finding {
    let worse_by = match row.better {
        Better::Higher => old.median / new.median - 1.0,
        Better::Lower => new.median / old.median - 1.0,
    };
    let least = if base.is_some() { LEAST_NOISE } else { LEAST_NOISE_OF_EXACT };
    // Of a normal distribution that is two and a half standard deviations, and medians of seven rounds of the same
    // program differ by 0.7 of one; those of fewer rounds by more.
    let rounds = old.count.min(new.count) as f64;
    let noise = ((old.spread + new.spread) * (7.0 / rounds).sqrt().max(1.0)).max(least);
    let outcome = match worse_by {
        worse if worse > noise => Outcome::Worse,
        worse if worse < -noise => Outcome::Better,
        _ if noise > MOST_NOISE => Outcome::Noisy,
        _ => Outcome::Same,
    };
    Finding { old: old.median, new: new.median, base, worse_by, noise, outcome, ..rest.clone() }
}

/// A baseline that is so many times as noisy as the steadiest has no say.
const STEADY: f64 = 2.0;
/// Two builds of the same sources differ by some per cent for the place where their functions landed.
const LEAST_NOISE: f64 = 0.05;
/// Who cannot see a third cannot see anything.
const MOST_NOISE: f64 = 0.33;
/// Bytes are counted, not timed, but how often they are acknowledged is a matter of time.
const LEAST_NOISE_OF_EXACT: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::super::tests::{row, run};
    use super::*;

    fn with(direct: &[f64], relay: &[f64], conduit: &[f64]) -> Run {
        run(vec![row([
            (Way::NoTunnel, direct.to_vec()),
            (Way::TcpRelay, relay.to_vec()),
            (Way::Conduit, conduit.to_vec()),
        ])])
    }

    fn outcome(old: &Run, new: &Run) -> Outcome {
        let findings = compare(old, new);
        assert_eq!(findings.len(), 1, "one figure of Conduit: {findings:?}");
        findings[0].outcome
    }

    const STEADY_ROUNDS: [f64; 5] = [10.0, 10.1, 9.9, 10.0, 10.05];

    #[test]
    fn a_slower_machine_is_no_regression() {
        let old = with(&[30.0; 5], &STEADY_ROUNDS, &STEADY_ROUNDS);
        let half = STEADY_ROUNDS.map(|value| value / 2.0);
        assert_eq!(outcome(&old, &with(&[15.0; 5], &half, &half)), Outcome::Same);
    }

    #[test]
    fn a_tenth_slower_beside_the_same_baselines_is_one() {
        let old = with(&[30.0; 5], &STEADY_ROUNDS, &STEADY_ROUNDS);
        let new = with(&[30.0; 5], &STEADY_ROUNDS, &STEADY_ROUNDS.map(|value| value * 0.9));
        assert_eq!(outcome(&old, &new), Outcome::Worse);
        assert!(is_regression(&compare(&old, &new)));
        assert_eq!(outcome(&new, &old), Outcome::Better);
        assert!(!is_regression(&compare(&new, &old)));
    }

    #[test]
    fn what_lies_within_the_noise_of_the_rounds_is_none() {
        let old = with(&[30.0; 5], &[10.0; 5], &[8.0, 9.0, 10.0, 11.0, 12.0]);
        let tenth_slower = with(&[30.0; 5], &[10.0; 5], &[7.2, 8.1, 9.0, 9.9, 10.8]);
        assert_eq!(outcome(&old, &tenth_slower), Outcome::Noisy, "it may be one, nobody can tell");
        let steadier = with(&[30.0; 5], &[10.0; 5], &[8.8, 8.9, 9.0, 9.1, 9.2]);
        assert_eq!(outcome(&old, &steadier), Outcome::Same);
        let halved = with(&[30.0; 5], &[10.0; 5], &[4.0, 4.5, 5.0, 5.5, 6.0]);
        assert_eq!(outcome(&old, &halved), Outcome::Worse);
    }

    #[test]
    fn one_round_gone_wrong_neither_hides_nor_makes_a_regression() {
        let old = with(&[30.0; 5], &[10.0; 5], &STEADY_ROUNDS);
        let stumble = with(&[30.0; 5], &[10.0; 5], &[10.0, 10.1, 1.0, 10.0, 10.05]);
        assert_eq!(outcome(&old, &stumble), Outcome::Same);
        let slower = with(&[30.0; 5], &[10.0; 5], &[8.0, 8.1, 1.0, 8.0, 8.05]);
        assert_eq!(outcome(&old, &slower), Outcome::Worse);
    }

    #[test]
    fn a_baseline_that_got_faster_is_none() {
        let old = with(&[30.0; 5], &STEADY_ROUNDS, &STEADY_ROUNDS);
        let new = with(&[30.0; 5], &STEADY_ROUNDS.map(|value| value * 1.5), &STEADY_ROUNDS);
        assert_eq!(outcome(&old, &new), Outcome::Same, "no tunnel says that Conduit is as fast");
        let both = with(&[45.0; 5], &STEADY_ROUNDS.map(|value| value * 1.5), &STEADY_ROUNDS);
        assert_eq!(outcome(&old, &both), Outcome::Worse, "all say that it fell behind");
    }

    #[test]
    fn a_baseline_that_goes_up_and_down_hides_nothing() {
        let wild = [3.0, 9.0, 30.0, 12.0, 40.0];
        let old = with(&wild, &[10.0; 5], &STEADY_ROUNDS);
        let new = with(&wild, &[10.0; 5], &STEADY_ROUNDS.map(|value| value * 0.8));
        assert_eq!(outcome(&old, &new), Outcome::Worse);
    }

    #[test]
    fn few_rounds_have_to_differ_by_more() {
        let old = with(&[30.0; 3], &[10.0; 3], &[9.5, 10.0, 10.5]);
        let new = with(&[30.0; 3], &[10.0; 3], &[8.5, 8.9, 9.3]);
        assert_eq!(outcome(&old, &new), Outcome::Same);
        let many = |run: [f64; 3]| [run; 3].concat();
        let old = with(&[30.0; 9], &[10.0; 9], &many([9.5, 10.0, 10.5]));
        let new = with(&[30.0; 9], &[10.0; 9], &many([8.0, 8.2, 8.4]));
        assert_eq!(outcome(&old, &new), Outcome::Worse);
    }

    #[test]
    fn less_is_better_where_it_is() {
        let mut old = with(&[64.0; 5], &[98.0; 5], &[100.0; 5]);
        let mut new = with(&[64.0; 5], &[98.0; 5], &[120.0; 5]);
        old.rows[0].better = Better::Lower;
        new.rows[0].better = Better::Lower;
        assert_eq!(outcome(&old, &new), Outcome::Worse);
        assert_eq!(outcome(&new, &old), Outcome::Better);
    }

    #[test]
    fn exact_figures_are_compared_as_they_are_and_the_machines_own_never() {
        let mut old = run(vec![row([(Way::Conduit, vec![1.02])])]);
        let mut new = run(vec![row([(Way::Conduit, vec![1.06])])]);
        for run in [&mut old, &mut new] {
            run.rows[0].better = Better::Lower;
            run.rows[0].nature = Nature::Exact;
        }
        assert_eq!(outcome(&old, &new), Outcome::Worse);
        old.rows[0].nature = Nature::Machine;
        assert_eq!(compare(&old, &new), []);
    }

    #[test]
    fn a_measure_that_is_gone_does_not_pass() {
        let old = with(&[30.0; 5], &[10.0; 5], &STEADY_ROUNDS);
        assert_eq!(outcome(&old, &run(Vec::new())), Outcome::Missing);
        assert_eq!(outcome(&old, &with(&[30.0; 5], &[10.0; 5], &[])), Outcome::Missing);
        assert!(is_regression(&compare(&old, &run(Vec::new()))));
        assert_eq!(
            compare(&run(Vec::new()), &old),
            [],
            "a new measure has nothing to be compared with"
        );
    }
}
