//! Habits that a compiler does not check: what may be called where, and how long a file may be.

mod source;

use source::Source;

#[test]
fn what_one_place_owns_is_called_nowhere_else() {
    let sources = source::product();
    let mut found = Vec::new();
    for (word, allowed, why) in OWNED {
        for source in sources
            .iter()
            .filter(|source| !allowed.iter().any(|place| source.path.starts_with(place)))
        {
            found.extend(
                calls(source, word).map(|line| format!("{}:{line}: {word}: {why}", source.path)),
            );
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = source::product()
        .iter()
        .filter(|source| {
            !source.text.lines().next().is_some_and(|line| line.contains("@generated"))
        })
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > LONGEST_FILE)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "above {LONGEST_FILE} lines look for the second noun: {long:?}");
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = source::product()
        .into_iter()
        .filter(|source| source.path.ends_with("/mod.rs") && !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert!(
        silent.is_empty(),
        "open them with `//!`: what it is, what it is not, which chapter it implements: {silent:?}"
    );
}

#[test]
fn no_test_is_switched_off() {
    let mark = concat!("#[", "ignore");
    let mut seen = 0;
    for path in source::files("src", "rs").into_iter().chain(source::files("tests", "rs")) {
        let text = std::fs::read_to_string(&path).expect("a readable source file");
        seen += text.matches("#[test]").count() + text.matches("#[tokio::test").count();
        assert!(!text.contains(mark), "{}: mend the test or delete it", source::relative(&path));
    }
    assert!(seen > 10, "only {seen} tests seen");
}

#[test]
fn links_in_documents_lead_somewhere() {
    let (mut seen, mut dead) = (0, Vec::new());
    let own = std::fs::read_dir(source::root())
        .expect("the repository")
        .map(|entry| entry.expect("an entry").path());
    let own = own.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let folders = ["docs", "proto-spec", "packaging", "configs", "examples"];
    for path in own.chain(folders.iter().flat_map(|folder| source::files(folder, "md"))) {
        let text = std::fs::read_to_string(&path).expect("a readable document");
        let folder = path.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if link.is_empty() || link.contains("://") {
                continue;
            }
            seen += 1;
            if !folder.join(link).exists() {
                dead.push(format!("{}: {link}", source::relative(&path)));
            }
        }
    }
    assert!(seen >= 20, "only {seen} links seen");
    assert!(dead.is_empty(), "{dead:?}");
}

/// Lines where a word stands as a path of its own, not as the end of a longer name.
fn calls<'a>(source: &'a Source, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    source.lines().filter_map(move |(number, line)| {
        let mut places = line.match_indices(word).map(|(at, _)| &line[..at]);
        places
            .any(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            .then_some(number)
    })
}

/// What, where it is allowed, and why only there.
const OWNED: &[(&str, &[&str], &str)] = &[
    ("tokio::spawn", &["src/task/"], "a task that nobody owns outlives the stop; use task::Tasks"),
    ("task::spawn(", &["src/task/"], "a task that nobody owns outlives the stop; use task::Tasks"),
    ("env::var", &["src/config/"], "config is the only reader of the environment"),
    ("process::exit", &["src/main.rs"], "destructors would not run; return the exit code"),
    ("println!", &["src/cli/", "src/main.rs"], "only the command line writes to the terminal"),
    ("print!", &["src/cli/", "src/main.rs"], "only the command line writes to the terminal"),
    ("eprintln!", &["src/cli/", "src/main.rs"], "log an event instead"),
    (
        "use anyhow",
        &["src/cli/", "src/main.rs"],
        "errors that callers branch on have a type of their own",
    ),
    (
        "anyhow::",
        &["src/cli/", "src/main.rs"],
        "errors that callers branch on have a type of their own",
    ),
];

const LONGEST_FILE: usize = 400;
