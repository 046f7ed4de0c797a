//! How a row is told.

use std::time::Duration;

/// `H52 PASS outage of 90 s, seeds 0 to 19, 20 runs: transfer p50 412 ms, p95 620 ms`. What fails has panicked before.
pub(crate) fn row(name: &str, what: &str, columns: &[(&str, Vec<Duration>)]) {
    let figures: Vec<String> = columns
        .iter()
        .map(|(column, times)| {
            let mut sorted = times.clone();
            sorted.sort();
            let at = |share: usize| sorted[(sorted.len() - 1) * share / 100].as_millis();
            format!("{column} p50 {} ms, p95 {} ms", at(50), at(95))
        })
        .collect();
    let runs = columns[0].1.len();
    println!("{name} PASS {what}, {runs} runs: {}", figures.join("; "));
}

/// A row whose figures are no times.
pub(crate) fn told(name: &str, what: &str, figures: &str) {
    println!("{name} PASS {what}: {figures}");
}
