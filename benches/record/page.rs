//! A run as the page `docs/performance.md` shows it: tables, and plots beside them.

use super::plot::Bars;
use super::{Better, Row, Run, Way};

/// What is made of a run.
pub(crate) struct Page {
    /// Between the marks of the page.
    pub(crate) text: String,
    /// Names and contents of files in [`PLOTS`].
    pub(crate) plots: Vec<(&'static str, String)>,
}

impl Page {
    /// `file` is the run's name in `benches/runs`.
    pub(crate) fn of(run: &Run, file: &str) -> Self {
        let mut text = about(run, file);
        let mut plots = Vec::new();
        for section in SECTIONS {
            let rows: Vec<&Row> = section.rows.iter().filter_map(|id| run.row(id)).collect();
            if rows.is_empty() {
                continue;
            }
            text += &format!("\n### {}\n\n{}\n", section.title, section.text);
            if let Some((plot, base)) = section.plot {
                text += &format!("\n![{}]({FOLDER}/{plot})\n", section.title);
                plots.push((plot, bars(section, base, &rows).svg()));
            }
            text.push_str(&table(section, &rows));
        }
        Self { text, plots }
    }

    /// The page with this between its marks; `None` when the marks are not there.
    pub(crate) fn put_into(&self, page: &str) -> Option<String> {
        let (before, rest) = page.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n{}{END}{after}", self.text))
    }
}

/// One heading of the page.
struct Section {
    title: &'static str,
    text: &'static str,
    /// A file, and the way that is 1 in it.
    plot: Option<(&'static str, Way)>,
    /// Columns, the baselines first.
    ways: &'static [Way],
    /// More columns: the first divided by the second, round by round.
    ratios: &'static [(Way, Way)],
    /// Identifiers of rows.
    rows: &'static [&'static str],
}

fn about(run: &Run, file: &str) -> String {
    let machine = &run.machine;
    let mut text = format!(
        "Measured on {}: {} cores of {}, Linux {}, loopback MTU {}, TCP with {}; {}. Conduit {} at `{}`, \
         medians of {} interleaved rounds: [{file}](../benches/runs/{file}).\n",
        run.date(),
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.loopback_mtu,
        machine.tcp_congestion,
        machine.rustc,
        run.conduit,
        run.commit,
        run.rounds(),
    );
    if run.is_disturbed() {
        let percent = run.disturbance() * 100.0;
        text += &format!(
            "\nOther programs used {percent:.0} % of the processors meanwhile: **these figures are too low, and \
                 their ratios uncertain.**\n"
        );
    }
    if !run.settings.is_empty() {
        let settings: Vec<String> =
            run.settings.iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
        text += &format!("\nWith {}.\n", settings.join(", "));
    }
    text
}

fn table(section: &Section, rows: &[&Row]) -> String {
    let present = |way: &Way| rows.iter().any(|row| row.summary(*way).is_some());
    let ways: Vec<Way> = section.ways.iter().copied().filter(present).collect();
    let both = |(way, base): &(Way, Way)| present(way) && present(base);
    let ratios: Vec<(Way, Way)> = section.ratios.iter().copied().filter(both).collect();
    let mut text = String::from("\n| |");
    for way in &ways {
        text += &format!(" {} |", way.title());
    }
    for (way, base) in &ratios {
        text += &format!(" {} ÷ {} |", way.title(), base.title());
    }
    text += &format!("\n|---|{}\n", "--:|".repeat(ways.len() + ratios.len()));
    for row in rows {
        text += &format!("| {}, {} |", row.title, row.unit);
        for way in &ways {
            let summary = row.summary(*way);
            let text_of = summary.map_or("–".to_owned(), |summary| figure(summary.median));
            text += &format!(" {text_of} |");
        }
        for (way, base) in &ratios {
            let ratio = row.ratio(*way, *base).map_or("–".to_owned(), |ratio| {
                format!("**{}** ±{:.0} %", figure(ratio.median), ratio.spread * 50.0)
            });
            text += &format!(" {ratio} |");
        }
        text.push('\n');
    }
    text
}

/// Bars of what each way has of the baseline; no tunnel is out of sight beside a relay.
fn bars(section: &Section, base: Way, rows: &[&Row]) -> Bars {
    let is_shown = |way: &Way| *way != Way::NoTunnel || *way == base;
    let shown: Vec<Way> = section.ways.iter().copied().filter(is_shown).collect();
    let groups = rows.iter().map(|row| {
        let values = shown.iter().enumerate();
        let values = values.filter_map(|(at, way)| Some((at, row.ratio(*way, base)?.median)));
        (row.title.clone(), values.collect::<Vec<_>>())
    });
    let groups = groups.filter(|(_, bars)| !bars.is_empty());
    let sense = match rows.first().map(|row| row.better) {
        Some(Better::Lower) => "less is better",
        _ => "more is better",
    };
    Bars {
        title: format!("{}, {} = 1: {sense}", section.title, base.title()),
        groups: groups.collect(),
        series: shown.iter().map(|way| way.title()).collect(),
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    let whole = |value: f64| {
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    };
    match value.abs() {
        // Beyond three digits the rest is noise.
        size if size >= 10_000.0 => whole((value / 100.0).round() * 100.0),
        size if size >= 100.0 || value.fract() == 0.0 => whole(value),
        size if size >= 10.0 => format!("{value:.1}"),
        // Four for a figure near one, or an overhead of two per cent would be none.
        size if (0.95..1.1).contains(&size) => format!("{value:.3}"),
        size if size >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// In front of what is made, behind what people write.
pub(crate) const BEGIN: &str =
    "<!-- made from the newest file of benches/runs by `cargo bench --bench runs -- page` -->";
pub(crate) const END: &str = "<!-- until here -->";
/// Where the plots lie, seen from the page.
const FOLDER: &str = "performance";
pub(crate) const PAGE: &str = "docs/performance.md";
pub(crate) const PLOTS: &str = "docs/performance";

const RELAYS_AND_CONDUIT: &[Way] = &[Way::NoTunnel, Way::TcpRelay, Way::TlsRelay, Way::Conduit];

const BESIDE_BASELINES: &[(Way, Way)] =
    &[(Way::Conduit, Way::NoTunnel), (Way::Conduit, Way::TcpRelay), (Way::Conduit, Way::TlsRelay)];

const SECTIONS: &[Section] = &[
    Section {
        title: "Throughput",
        text: "Streams that send as fast as they can, up (user to target) or down.",
        plot: Some(("throughput.svg", Way::TcpRelay)),
        ways: RELAYS_AND_CONDUIT,
        ratios: BESIDE_BASELINES,
        rows: &[
            "bulk-up-1",
            "bulk-down-1",
            "bulk-up-8",
            "bulk-down-8",
            "bulk-up-64",
            "bulk-down-64",
            "connections",
            "requests",
        ],
    },
    Section {
        title: "Latency",
        text: "One byte on a new connection, and 64 bytes on an open one, one after the other; then 1,000 echoes of 64 \
               bytes on 20 quiet connections while two streams carry what they can.",
        plot: Some(("latency.svg", Way::TcpRelay)),
        ways: RELAYS_AND_CONDUIT,
        ratios: BESIDE_BASELINES,
        rows: &["first-byte", "echo-p50", "echo-p99", "beside-p50", "beside-p99"],
    },
    Section {
        title: "Cost",
        text: "What both processes use: time of the processors while bulk runs, resident memory for each of 2,000 \
               connections that have said something once. The relays keep two buffers of 64 KiB for each in each \
               process, as relays made for speed do.",
        plot: Some(("cost.svg", Way::TcpRelay)),
        ways: RELAYS_AND_CONDUIT,
        ratios: BESIDE_BASELINES,
        rows: &["cpu-up-1", "cpu-up-8", "memory"],
    },
    Section {
        title: "What `optimize_for` does",
        text: "One stream up, and echoes beside two streams of bulk, for each value.",
        plot: None,
        ways: &[Way::NoTunnel, Way::Conduit, Way::ConduitThroughput, Way::ConduitLatency],
        ratios: &[(Way::ConduitThroughput, Way::Conduit), (Way::ConduitLatency, Way::Conduit)],
        rows: &["bulk-up-1", "beside-p50", "beside-p99"],
    },
    Section {
        title: "UDP",
        text: "The highest rate at which at most one packet in a thousand is lost, one way, packets in trains; three \
               rounds. The relays carry none.",
        plot: Some(("udp.svg", Way::NoTunnel)),
        ways: &[Way::NoTunnel, Way::Conduit, Way::ConduitReverse],
        ratios: &[(Way::Conduit, Way::NoTunnel), (Way::ConduitReverse, Way::NoTunnel)],
        rows: &["udp-64", "udp-1400", "udp-64-cpu", "udp-1400-cpu"],
    },
    Section {
        title: "The protocol by itself",
        text: "Counted by the connection of a tunnel on loopback, UDP and IP headers left out.",
        plot: None,
        ways: &[Way::Conduit],
        ratios: &[],
        rows: &[
            "wire-up-1452",
            "wire-back-1452",
            "wire-up-loopback",
            "wire-back-loopback",
            "wire-connection",
            "header",
            "report",
        ],
    },
    Section {
        title: "The cryptography by itself",
        text: "Sealing and opening packets of that many bytes with the suite that is negotiated, one core.",
        plot: None,
        ways: &[Way::Conduit],
        ratios: &[],
        rows: &["crypto-1200", "crypto-1452", "crypto-6550", "crypto-13000"],
    },
];

#[cfg(test)]
mod tests {
    use super::super::tests::{row, run};
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let texts = [31.94, 5.678, 1.0234, 0.0213, 38_512.0, 1_234_567.0, 14.0].map(figure);
        assert_eq!(texts, ["31.9", "5.68", "1.023", "0.021", "38,500", "1,234,600", "14"]);
    }

    #[test]
    fn a_page_keeps_what_people_wrote() {
        let mut bulk = row([
            (Way::NoTunnel, vec![30.0, 32.0]),
            (Way::TcpRelay, vec![10.0, 10.0]),
            (Way::Conduit, vec![12.0, 12.0]),
        ]);
        bulk.id = "bulk-up-1".to_owned();
        let made = Page::of(&run(vec![bulk]), "2026-01-01-first.json");
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nwritten by hand\n");
        let page = made.put_into(&page).expect("the marks are there");
        assert!(page.starts_with("# Title\n") && page.ends_with("written by hand\n"));
        assert!(!page.contains("old"));
        assert!(
            page.contains("| bulk, Gbit/s | 31 | 10 | 12 | **0.39** ±2 % | **1.20** ±0 % |"),
            "{page}"
        );
        assert!(page.contains("![Throughput](performance/throughput.svg)"));
        assert_eq!(made.plots.len(), 1);
        assert_eq!(made.put_into("no marks"), None);
        assert_eq!(made.put_into(&page), Some(page), "made twice it stays the same");
    }
}
