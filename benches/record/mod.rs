//! What a run of the benchmarks leaves behind: the rounds of every measure, and the machine they were taken on.
//!
//! A run is a file of `benches/runs`. [`compare`] judges two of them, [`page`] shows one. Nothing here measures.
#![allow(dead_code, reason = "each user takes its part")]
#![cfg_attr(
    test,
    allow(unused_imports, reason = "a benchmark has the tests' modules, not the tests")
)]

pub(crate) mod compare;
pub(crate) mod page;
mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// Always [`SCHEMA`].
    pub(crate) schema: String,
    /// When it began, as in `2026-01-31T18:00:00Z`.
    pub(crate) taken: String,
    /// Version of Conduit.
    pub(crate) conduit: String,
    /// What the sources were; ends in `+` when they were changed after that commit.
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// Which part of the processors other programs used before each round. Far from zero, the run says little.
    pub(crate) others: Vec<f64>,
    /// Configuration keys that every router and tunnel of the run had besides the defaults.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

/// What a figure depends on besides the program: the kind of machine, never which one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Bytes; a packet of the relays' TCP on this machine may be as large.
    pub(crate) loopback_mtu: u32,
    /// TCP's congestion control.
    pub(crate) tcp_congestion: String,
    pub(crate) rustc: String,
}

/// One measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Stays the same from run to run.
    pub(crate) id: String,
    /// For people.
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) nature: Nature,
    /// A value for each round, in the order of the rounds: the values of one round belong together.
    pub(crate) rounds: BTreeMap<Way, Vec<f64>>,
}

/// Which way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What of a figure can be compared with that of another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Nature {
    /// The ratio to a baseline of the same round.
    Ratio,
    /// The figure itself: the same on every machine.
    Exact,
    /// Nothing: the machine's own speed, shown beside the others.
    Machine,
}

/// How the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// Straight to the target.
    NoTunnel,
    /// Two processes that copy between TCP connections.
    TcpRelay,
    /// The same with TLS 1.3 between the two, a session for each connection.
    TlsRelay,
    /// A forward tunnel with the settings of the run, `optimize_for = "balanced"` unless those say otherwise.
    Conduit,
    /// `optimize_for = "throughput"`.
    ConduitThroughput,
    /// `optimize_for = "latency"`.
    ConduitLatency,
    /// A reverse tunnel.
    ConduitReverse,
}

impl Way {
    /// What Conduit is measured against.
    pub(crate) const BASELINES: [Self; 3] = [Self::NoTunnel, Self::TcpRelay, Self::TlsRelay];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::NoTunnel => "no tunnel",
            Self::TcpRelay => "TCP relay",
            Self::TlsRelay => "TLS relay",
            Self::Conduit => "Conduit",
            Self::ConduitThroughput => "Conduit, throughput",
            Self::ConduitLatency => "Conduit, latency",
            Self::ConduitReverse => "Conduit, reverse",
        }
    }
}

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// From the first quartile to the third, as a part of the median. One round gone wrong does not move it.
    pub(crate) spread: f64,
    /// How many values there were.
    pub(crate) count: usize,
}

impl Summary {
    /// `None` without values, or when one of them is no number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile = |part: f64| {
            let at = part * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        let median = quantile(0.5);
        let spread = if median == 0.0 { 0.0 } else { (quantile(0.75) - quantile(0.25)) / median };
        Some(Self { median, spread: spread.abs(), count: sorted.len() })
    }
}

impl Row {
    pub(crate) fn summary(&self, way: Way) -> Option<Summary> {
        Summary::of(self.rounds.get(&way)?)
    }

    /// Of the ratios of each round; values of different rounds are never divided.
    pub(crate) fn ratio(&self, way: Way, base: Way) -> Option<Summary> {
        let (values, bases) = (self.rounds.get(&way)?, self.rounds.get(&base)?);
        let ratios: Vec<f64> = values.iter().zip(bases).map(|(value, base)| value / base).collect();
        Summary::of(&ratios)
    }
}

impl Run {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let run: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if run.schema != SCHEMA {
            return Err(format!("the schema is {}, not {SCHEMA}", run.schema));
        }
        Ok(run)
    }

    /// Writes the file; one that is there is replaced.
    pub(crate) fn save(&self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&self.rounded()).expect("plain data is JSON");
        fs::write(path, text_of_rounds_in_one_line(&text) + "\n")
    }

    /// The day on which it was taken, `YYYY-MM-DD`.
    pub(crate) fn date(&self) -> &str {
        self.taken.split('T').next().unwrap_or_default()
    }

    /// How many rounds the measures had at most.
    pub(crate) fn rounds(&self) -> usize {
        let all = self.rows.iter().flat_map(|row| row.rounds.values());
        all.map(Vec::len).max().unwrap_or_default()
    }

    /// The median of what others used, as a part of all processors.
    pub(crate) fn disturbance(&self) -> f64 {
        Summary::of(&self.others).map_or(0.0, |summary| summary.median)
    }

    pub(crate) fn is_disturbed(&self) -> bool {
        self.disturbance() > AT_REST
    }

    pub(crate) fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// Five digits are more than the clock gives, and make a file that can be read.
    fn rounded(&self) -> Self {
        let mut run = self.clone();
        let rounds = run.rows.iter_mut().flat_map(|row| row.rounds.values_mut());
        for value in rounds.flatten().chain(&mut run.others) {
            *value = format!("{value:.4e}").parse().unwrap_or(*value);
        }
        run
    }
}

/// The rounds of one way belong on one line, or a run is thousands of them.
fn text_of_rounds_in_one_line(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    let mut within = false;
    for line in text.lines() {
        let bare = line.trim_start();
        let (opens, closes) = (line.ends_with(": ["), within && bare.starts_with(']'));
        if within && !closes {
            lines.push_str(bare);
            if bare.ends_with(',') {
                lines.push(' ');
            }
            continue;
        }
        let number = opens && !line.contains("\"rows\"");
        lines.push_str(if closes { bare } else { line });
        within = number;
        if !number {
            lines.push('\n');
        }
    }
    lines.truncate(lines.trim_end().len());
    lines
}

/// Every stored run with its file's name, the oldest first.
pub(crate) fn stored() -> Result<Vec<(String, Run)>, String> {
    let entries = fs::read_dir(root().join(RUNS)).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut runs = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, Run::load(&path)?))
        })
        .collect::<Result<Vec<_>, String>>()?;
    runs.sort_by(|(_, one), (_, other)| one.taken.cmp(&other.taken));
    Ok(runs)
}

/// Where the repository lies.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where runs are kept.
pub(crate) const RUNS: &str = "benches/runs";
/// What a machine does by itself.
const AT_REST: f64 = 0.05;
pub(crate) const SCHEMA: &str = "conduit.benchmark/1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_and_what_lies_between_the_quartiles() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { median: 3.0, spread: 0.0, count: 1 }));
        let summary = Summary::of(&[90.0, 110.0, 100.0, 4_000.0, 1.0]).expect("five numbers");
        assert_eq!(
            summary,
            Summary { median: 100.0, spread: 0.2, count: 5 },
            "outliers do not count"
        );
    }

    #[test]
    fn a_ratio_is_that_of_values_of_the_same_round() {
        let row = row([(Way::NoTunnel, vec![100.0, 50.0]), (Way::Conduit, vec![50.0, 25.0])]);
        let ratio = row.ratio(Way::Conduit, Way::NoTunnel);
        assert_eq!(
            ratio,
            Some(Summary { median: 0.5, spread: 0.0, count: 2 }),
            "however slow the machine was"
        );
        assert_eq!(row.ratio(Way::Conduit, Way::TlsRelay), None);
    }

    #[test]
    fn a_run_reads_back_and_rounds_stand_on_one_line() {
        let rounds = [(Way::NoTunnel, vec![31.954_321, 30.0]), (Way::Conduit, vec![1.5, 2.0])];
        let run = run(vec![row(rounds)]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        run.save(&path).expect("saved");
        let text = fs::read_to_string(&path).expect("saved");
        assert!(text.contains("\"no-tunnel\": [31.954, 30.0],\n"), "{text}");
        let mut back = Run::load(&path).expect("it parses");
        back.rows[0].rounds.insert(Way::NoTunnel, vec![31.954_321, 30.0]);
        assert_eq!(back, run);
        assert!(Run::parse(&text.replace("benchmark/1", "benchmark/9")).is_err());
    }

    pub(super) fn row(rounds: impl IntoIterator<Item = (Way, Vec<f64>)>) -> Row {
        Row {
            id: "bulk".to_owned(),
            title: "bulk".to_owned(),
            unit: "Gbit/s".to_owned(),
            better: Better::Higher,
            nature: Nature::Ratio,
            rounds: rounds.into_iter().collect(),
        }
    }

    pub(super) fn run(rows: Vec<Row>) -> Run {
        Run {
            schema: SCHEMA.to_owned(),
            taken: "2026-01-01T12:00:00Z".to_owned(),
            conduit: "0.1.0".to_owned(),
            commit: "0123456".to_owned(),
            machine: Machine {
                cpu: "a processor".to_owned(),
                cores: 2,
                kernel: "6.18".to_owned(),
                loopback_mtu: 65_536,
                tcp_congestion: "bbr".to_owned(),
                rustc: "1.95.0".to_owned(),
            },
            others: vec![0.01],
            settings: BTreeMap::new(),
            rows,
        }
    }
}
