//! What is wrong with a configuration: every problem with its place, all of them at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value, or a problem with it, comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A position in a file; line and column count characters from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// A file as a whole (it is missing, or too large).
    WholeFile(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// An option of the command line.
    Flag(String),
}

/// One problem: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong and what would be legal.
    pub message: String,
}

/// Every problem of a configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl Problem {
    /// A problem at a place.
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl ConfigErrors {
    /// The errors of a configuration that has just this problem.
    pub(crate) fn one(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }

    /// `Ok` without problems; else all of them, ordered by place.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        problems.dedup();
        Err(Self { problems })
    }

    /// The problems, ordered by place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "option {flag}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl fmt::Display for ConfigErrors {
    /// One problem per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// How a value that somebody wrote is quoted in a message: control characters escaped, long ones cut.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Problems printed: more than a screen helps nobody.
const SHOWN: usize = 40;

/// Characters of a value that a message repeats.
const QUOTED: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_no_control_characters_and_no_novels() {
        assert_eq!(quoted("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
        assert!(quoted(&"x".repeat(100_000)).chars().count() < 100);
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let at = |line| Place::File { path: "a.toml".into(), line, column: 1 };
        let errors = ConfigErrors::check(vec![
            Problem::new(at(10), "later"),
            Problem::new(at(2), "first"),
            Problem::new(at(10), "later"),
        ])
        .expect_err("two problems");
        assert_eq!(errors.to_string(), "a.toml:2:1: first\na.toml:10:1: later");
    }
}
