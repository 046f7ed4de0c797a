//! Replays the fuzz targets' corpora through the very same bodies, without libFuzzer.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_corpus_is_replayed_by_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in bodies::TARGETS {
        let mut seen = 0;
        for file in fs::read_dir(folder.join(name)).expect(name) {
            let path = file.expect("a readable folder").path();
            bodies::run(name, &fs::read(&path).expect("a readable file"));
            seen += 1;
        }
        assert!(seen >= 3, "{name}: only {seen} files in its corpus");
    }
}

#[test]
fn every_input_is_taken_cut_anywhere_and_with_any_byte_changed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut runs = 0;
    for (name, _) in bodies::TARGETS {
        for file in fs::read_dir(folder.join(name)).expect(name) {
            let whole = fs::read(file.expect("a readable folder").path()).expect("a readable file");
            // Long inputs are changed here and there, short ones everywhere.
            for at in (0..whole.len()).step_by(whole.len() / PLACES + 1) {
                bodies::run(name, &whole[..at]);
                for change in [0x01, 0x20, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] ^= change;
                    bodies::run(name, &changed);
                }
                runs += 5;
            }
        }
    }
    assert!(runs > 10_000, "only {runs} inputs");
}

#[test]
fn every_corpus_and_every_program_has_a_target_and_the_reverse() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).expect(folder);
        let paths = entries.map(|entry| entry.expect("a readable folder").path());
        paths.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    let targets: BTreeSet<String> =
        bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("targets"), targets);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzz package");
    for name in targets {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_sequence_of_claims_and_withdrawals_breaks_the_table_of_routes(
        steps in proptest::collection::vec(proptest::num::u8::ANY, 0..1_200),
    ) {
        bodies::run("routes", &steps);
    }

    #[test]
    fn no_sequence_of_pieces_breaks_what_puts_them_together(
        steps in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
    ) {
        bodies::run("reassembly", &steps);
    }

    #[test]
    fn no_sequence_of_senders_breaks_the_table_of_flows(
        steps in proptest::collection::vec(proptest::num::u8::ANY, 0..1_200),
    ) {
        bodies::run("flow_table", &steps);
    }
}

/// Places of one input that are changed.
const PLACES: usize = 250;
