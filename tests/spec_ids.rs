//! Normative lines of `proto-spec/` carry ids like `[SES-3]`; every id is cited where it is obeyed.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

#[test]
fn every_rule_of_the_specification_is_cited_and_every_citation_exists() {
    let rules = rules();
    assert!(rules.len() >= 20, "only {} ids in proto-spec/*.md", rules.len());
    let mut problems = Vec::new();
    for (id, places) in &rules {
        if places.len() > 1 {
            problems.push(format!("[{id}] is given twice: {}", places.join(", ")));
        }
    }
    let prefixes: BTreeSet<&str> =
        rules.keys().filter_map(|id| Some(id.split_once('-')?.0)).collect();
    let mut cited = BTreeSet::new();
    for path in source::files("src", "rs").into_iter().chain(source::files("tests", "rs")) {
        let name = source::relative(&path);
        if name == "tests/spec_ids.rs" {
            continue; // its ids are examples
        }
        let text = fs::read_to_string(&path).expect("a readable source file");
        for (number, line) in text.lines().enumerate() {
            for id in ids(line) {
                let known = rules.contains_key(&id);
                if !known && id.split_once('-').is_some_and(|(prefix, _)| prefixes.contains(prefix))
                {
                    problems.push(format!("{name}:{}: [{id}] is not in proto-spec/", number + 1));
                }
                cited.insert(id);
            }
        }
    }
    for (id, places) in &rules {
        if !cited.contains(id) {
            problems
                .push(format!("{}: [{id}] is cited by no file under src/ or tests/", places[0]));
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn every_paragraph_that_demands_something_has_an_id() {
    let (mut seen, mut without) = (0, Vec::new());
    for_each_paragraph(|place, paragraph| {
        seen += 1;
        let mut words = paragraph.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        if words.any(|word| matches!(word.as_str(), "must" | "shall")) && rule(paragraph).is_none()
        {
            without.push(format!("{place}: {}", paragraph.lines().next().unwrap_or_default()));
        }
    });
    assert!(seen >= 20, "only {seen} paragraphs in proto-spec/*.md");
    assert!(without.is_empty(), "give them an id:\n{}", without.join("\n"));
}

/// Every id with the places that give it: paragraphs, list items and table rows that start with one.
fn rules() -> BTreeMap<String, Vec<String>> {
    let mut rules = BTreeMap::<String, Vec<String>>::new();
    for_each_paragraph(|place, paragraph| {
        if let Some(id) = rule(paragraph) {
            rules.entry(id).or_default().push(place.to_owned());
        }
    });
    rules
}

fn rule(paragraph: &str) -> Option<String> {
    let start =
        paragraph.trim_start_matches(|c: char| c.is_ascii_digit() || " .*-|#`_".contains(c));
    ids(&start[..=start.find(']')?])
        .into_iter()
        .next()
        .filter(|id| start[1..].starts_with(id.as_str()))
}

/// Calls with "file:line" and the text: a new paragraph starts after a blank line, at a list item, a table row or an id.
fn for_each_paragraph(mut each: impl FnMut(&str, &str)) {
    for path in source::files("proto-spec", "md") {
        let text = fs::read_to_string(&path).expect("a readable document");
        let (mut fenced, mut start, mut paragraph) = (false, 0, String::new());
        for (number, line) in text.lines().chain([""]).enumerate() {
            let fence = line.trim_start().starts_with("```");
            let trimmed = line.trim_start();
            let numbered = trimmed
                .split_once(". ")
                .is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            let fresh = trimmed.is_empty()
                || fence
                || numbered
                || trimmed.starts_with(['-', '*', '|', '[', '#', '`']);
            if fresh && !paragraph.is_empty() {
                each(&format!("{}:{start}", source::relative(&path)), &paragraph);
                paragraph.clear();
            }
            fenced ^= fence;
            if !fenced && !fence && !trimmed.is_empty() {
                if paragraph.is_empty() {
                    start = number + 1;
                }
                paragraph.push_str(trimmed);
                paragraph.push('\n');
            }
        }
    }
}

/// `[ABC-12]` in a text: two to six capitals, a hyphen, a number, in brackets.
fn ids(text: &str) -> Vec<String> {
    let is_id = |text: &&str| {
        text.split_once('-').is_some_and(|(prefix, number)| {
            (2..=6).contains(&prefix.len())
                && prefix.bytes().all(|b| b.is_ascii_uppercase())
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        })
    };
    text.split('[')
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(']')?.0))
        .filter(is_id)
        .map(str::to_owned)
        .collect()
}

#[test]
fn ids_are_found_in_text_and_at_the_start_of_rules() {
    assert_eq!(ids("as [SES-3] and [STR-12] say, not [x], [A-1] or [AES]"), ["SES-3", "STR-12"]);
    assert_eq!(rule("- **[SES-3]** The client MUST").as_deref(), Some("SES-3"));
    assert_eq!(rule("| `[ERR-7]` | 7 |").as_deref(), Some("ERR-7"));
    assert_eq!(rule("See [SES-3].").as_deref(), None);
}
