//! Conduit beside no tunnel, a TCP relay and a TLS relay, on loopback, through the real binary:
//! `cargo bench --bench tunnel`.
//!
//! Every round starts all processes anew and takes every measure of every way, one after the other: a slow moment of
//! the machine, and the luck of a process's start, meet all of them. What counts are the ratios within a round; the run
//! is written down for `cargo bench --bench runs`.
//!
//! * `-- --store NAME` keeps the run in `benches/runs`; otherwise it lies beside what Cargo builds.
//! * `-- --quick` takes one short round: does everything work?
//! * `-- --only WORD` takes the measures whose names contain the word.
//! * `-- --set performance.max_packet=1452` sets a key of the configuration for every router and tunnel.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a benchmark prints")]

#[path = "../harness/mod.rs"]
mod harness;
mod machine;
mod measures;
mod overhead;
#[path = "../record/mod.rs"]
mod record;
mod sheet;

use std::path::PathBuf;

use harness::target::Target;
use harness::ways::Running;
use harness::{allow_many_files, relay, usage};
use measures::{Effort, MEASURES, packets, parts};
use record::{RUNS, Run, SCHEMA, Way, root};
use sheet::Sheet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn main() {
    relay::serve_if_asked();
    let options = Options::of(std::env::args().skip(1));
    if !options.is_asked_for {
        println!("a benchmark, not a test: cargo bench --bench tunnel");
        return;
    }
    allow_many_files();
    let (start, target) = (OffsetDateTime::now_utc(), Target::start());
    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let (mut others, mut sheet) = (Vec::new(), Sheet::default());
    // Before anybody edits a file while this runs.
    let commit = machine::commit();
    for round in 0..effort.rounds {
        eprintln!("round {} of {}", round + 1, effort.rounds);
        others.push(usage::others());
        take_round(round, &options, effort, &target, &mut sheet);
    }
    let run = Run {
        schema: SCHEMA.to_owned(),
        taken: start.truncate_to_second().format(&Rfc3339).expect("a time of our days"),
        conduit: env!("CARGO_PKG_VERSION").to_owned(),
        commit,
        machine: machine::machine(),
        others,
        settings: options.settings.iter().cloned().collect(),
        rows: sheet.rows(),
    };
    sheet::print(&run);
    let path = options.path(run.date());
    run.save(&path).expect("the run is written");
    println!("\n{}", path.display());
}

fn take_round(round: usize, options: &Options, effort: Effort, target: &Target, sheet: &mut Sheet) {
    let mut ways: Vec<Running> =
        WAYS.iter().map(|way| Running::start(*way, target.addr, &options.settings)).collect();
    // No way is always the first after the pause.
    ways.rotate_left(round % WAYS.len());
    for measure in MEASURES.iter().filter(|measure| options.wants(measure.name)) {
        for way in ways.iter().filter(|way| measure.ways.contains(&way.way)) {
            for (id, value) in (measure.take)(way, target, effort) {
                sheet.put(id, way.way, value);
            }
        }
    }
    drop(ways);
    if round < effort.rounds_of_packets {
        if options.wants("udp") {
            packets(&options.settings, effort, sheet);
        }
        if options.wants("parts") {
            parts(target, sheet);
        }
    }
}

/// What the command line asks for.
struct Options {
    /// Cargo says that this is `cargo bench`; `cargo test --benches` does not.
    is_asked_for: bool,
    quick: bool,
    only: Option<String>,
    store: Option<String>,
    settings: Vec<(String, String)>,
}

impl Options {
    fn of(mut words: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            is_asked_for: false,
            quick: false,
            only: None,
            store: None,
            settings: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} wants a value"));
            match word.as_str() {
                "--bench" => options.is_asked_for = true,
                "--quick" => options.quick = true,
                "--only" => options.only = Some(value()),
                "--store" => options.store = Some(value()),
                "--set" => {
                    let pair = value();
                    let (key, value) = pair.split_once('=').expect("--set KEY=VALUE");
                    options.settings.push((key.to_owned(), value.to_owned()));
                }
                other => {
                    panic!("{other} is not known here; see the head of benches/tunnel/main.rs")
                }
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|word| name.contains(word.as_str()))
    }

    fn path(&self, date: &str) -> PathBuf {
        match &self.store {
            Some(name) => root().join(RUNS).join(format!("{date}-{name}.json")),
            None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("benchmark.json"),
        }
    }
}

const WAYS: [Way; 6] = [
    Way::NoTunnel,
    Way::TcpRelay,
    Way::TlsRelay,
    Way::Conduit,
    Way::ConduitThroughput,
    Way::ConduitLatency,
];
