//! What to do with runs of the benchmarks: `cargo bench --bench runs -- compare OLD NEW` and `… -- page`.
#![allow(clippy::disallowed_macros, reason = "a tool prints")]

mod record;

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use record::compare::{Finding, Outcome, compare, is_regression};
use record::page::{PAGE, PLOTS, Page};
use record::{Run, root, stored};

fn main() -> ExitCode {
    // Cargo adds a flag that says that this is a benchmark.
    let arguments: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["compare", old, new] => compare_files(Path::new(old), Path::new(new)),
        ["page"] => make_page(),
        [] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(USAGE.to_owned()),
    };
    done.unwrap_or_else(|message| {
        eprintln!("{message}");
        ExitCode::from(2)
    })
}

/// Fails when the new run shows a regression.
fn compare_files(old: &Path, new: &Path) -> Result<ExitCode, String> {
    let (old, new) = (Run::load(old)?, Run::load(new)?);
    if let Some(run) = [&old, &new].into_iter().find(|run| run.rounds() < FEWEST_ROUNDS) {
        let (rounds, commit) = (run.rounds(), &run.commit);
        return Err(format!("{rounds} rounds at {commit} do not show the noise: take a whole run"));
    }
    if old.machine != new.machine {
        println!("the machines differ: {:?}, {:?}", old.machine, new.machine);
    }
    if old.settings != new.settings {
        println!("the settings differ: {:?}, {:?}", old.settings, new.settings);
    }
    for run in [&old, &new].into_iter().filter(|run| run.is_disturbed()) {
        let percent = run.disturbance() * 100.0;
        println!(
            "other programs used {percent:.0} % of the processors during the run of {}",
            run.commit
        );
    }
    let findings = compare(&old, &new);
    println!("{:<66}{:>9}{:>9}  {:<12}{:>8}{:>8}", "", "old", "new", "÷", "change", "noise");
    for found in &findings {
        println!("{}", line(found));
    }
    let noisy = findings.iter().filter(|found| found.outcome == Outcome::Noisy).count();
    if noisy > 0 {
        println!("{noisy} of {} figures are too noisy to tell", findings.len());
    }
    if is_regression(&findings) {
        println!(
            "{} → {}: slower than the noise explains, or not measured",
            old.commit, new.commit
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("{} → {}: no regression", old.commit, new.commit);
    Ok(ExitCode::SUCCESS)
}

fn line(found: &Finding) -> String {
    let word = match found.outcome {
        Outcome::Same => "",
        Outcome::Noisy => "too noisy to tell",
        Outcome::Better => "better",
        Outcome::Worse => "WORSE",
        Outcome::Missing => "MISSING",
    };
    format!(
        "{:<66}{:>9.3}{:>9.3}  {:<12}{:>+7.1}%{:>7.1}%  {word}",
        found.what,
        found.old,
        found.new,
        found.base.map_or("itself", record::Way::title),
        found.worse_by * -100.0,
        found.noise * 100.0,
    )
}

/// Writes the newest stored run into the page.
fn make_page() -> Result<ExitCode, String> {
    let newest = stored()?.pop();
    let (file, run) = newest.ok_or("no run is stored: `make bench STORE=name` stores one")?;
    let made = Page::of(&run, &file);
    let page = root().join(PAGE);
    let text = fs::read_to_string(&page).map_err(|error| format!("{PAGE}: {error}"))?;
    let text = made.put_into(&text).ok_or_else(|| format!("{PAGE} has lost its marks"))?;
    fs::create_dir_all(root().join(PLOTS)).map_err(|error| format!("{PLOTS}: {error}"))?;
    fs::write(&page, text).map_err(|error| format!("{PAGE}: {error}"))?;
    for (name, svg) in made.plots {
        let path = root().join(PLOTS).join(name);
        fs::write(path, svg).map_err(|error| format!("{name}: {error}"))?;
    }
    println!("{PAGE} shows {file}");
    Ok(ExitCode::SUCCESS)
}

/// Quartiles of fewer are no spread.
const FEWEST_ROUNDS: usize = 3;
const USAGE: &str = "cargo bench --bench runs -- compare OLD NEW   fails when NEW is slower than the noise explains
cargo bench --bench runs -- page              writes the newest stored run into docs/performance.md";
