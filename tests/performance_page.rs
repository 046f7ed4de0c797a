//! Runs of the benchmarks can be read, and `docs/performance.md` shows the newest one. The comparison of runs is tested
//! here too: benchmarks have no tests of their own.

#[path = "../benches/record/mod.rs"]
mod record;

use std::fs;

use record::page::{PAGE, PLOTS, Page};
use record::{RUNS, Run, root, stored};

#[test]
fn every_stored_run_can_be_read_and_names_no_machine() {
    let runs = stored().unwrap_or_else(|error| panic!("{error}"));
    assert!(!runs.is_empty(), "no run is stored");
    for (name, run) in runs {
        assert!(name.starts_with(run.date()), "{name} begins with its date, {}", run.date());
        assert!(run.rows.len() > 20, "{name}: only {} rows", run.rows.len());
        let text = fs::read_to_string(root().join(RUNS).join(&name)).expect("it was read before");
        for word in ["/home", "/root", "/work", "/tmp"] {
            assert!(!text.contains(word), "{name} holds a path: {word}");
        }
    }
}

#[test]
fn the_page_shows_the_newest_run() {
    let (file, run) = newest();
    let made = Page::of(&run, &file);
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let same = made.put_into(&page).is_some_and(|again| again == page);
    assert!(same, "{PAGE} does not show {file}: {AGAIN}");
}

#[test]
fn the_plots_show_the_newest_run() {
    let (file, run) = newest();
    let made = Page::of(&run, &file);
    assert!(!made.plots.is_empty(), "a page without plots");
    for (name, svg) in &made.plots {
        let kept = fs::read_to_string(root().join(PLOTS).join(name)).unwrap_or_default();
        assert!(kept == *svg, "{PLOTS}/{name} does not show {file}: {AGAIN}");
    }
    let kept = fs::read_dir(root().join(PLOTS)).expect("the plots").count();
    assert_eq!(kept, made.plots.len(), "a plot that the page does not show");
}

#[test]
fn every_row_of_the_newest_run_is_on_the_page() {
    let (file, run) = newest();
    let page = Page::of(&run, &file).text;
    for row in &run.rows {
        let line = format!("| {}, {} |", row.title, row.unit);
        assert!(page.contains(&line), "{} is measured and not shown", row.id);
    }
}

fn newest() -> (String, Run) {
    stored().unwrap_or_else(|error| panic!("{error}")).pop().expect("a run")
}

const AGAIN: &str = "cargo bench --bench runs -- page";
