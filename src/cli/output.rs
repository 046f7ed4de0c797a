//! Data on stdout: lines, JSON and tables.

use std::io::Write;

use serde::Serialize;

use super::context::Context;
use super::report::printable;
use crate::fleet::{Failure, Kind};
use crate::tunnel::TunnelState;

/// Rows with as wide columns as they need: never wrapped, so that `grep` and `awk` work.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![header.into_iter().map(ToOwned::to_owned).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter();
        self.rows.push(cells.map(|cell| printable(&cell).replace('\n', " ")).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The table as text, without a final line break.
    pub(super) fn render(&self, context: &Context) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| {
                    let pad = " ".repeat(width - cell.chars().count());
                    format!("{}{pad}", paint(cell, context))
                })
                .collect();
            lines.push(cells.join("  ").trim_end().to_owned());
        }
        lines.join("\n")
    }
}

impl Context {
    /// Prints a line of data.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .map_err(|error| write_failed(&error))
    }

    /// Prints a JSON document.
    pub(super) fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::new(Kind::System, "output", error.to_string()))?;
        self.line(&text)
    }

    /// Prints bytes as they are.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| write_failed(&error))
    }
}

fn write_failed(error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::BrokenPipe { CLOSED_PIPE } else { "output" };
    Failure::new(Kind::System, code, format!("cannot write to stdout: {error}"))
}

/// Whether whoever read the output has left (`| head`): no failure.
pub(super) fn is_closed_pipe(failure: &Failure) -> bool {
    failure.code == CLOSED_PIPE
}

/// States in colour, where colour is wanted.
fn paint(cell: &str, context: &Context) -> String {
    let colour = match cell {
        "ready" | "ok" | "running" => "32",
        "starting" | "degraded" | "reconnecting" | "draining" | "no answer" => "33",
        "failed" | "down" => "31",
        _ => return cell.to_owned(),
    };
    if context.colour { format!("\u{1b}[{colour}m{cell}\u{1b}[0m") } else { cell.to_owned() }
}

/// `1.4 GiB`
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `3d 4h`, `5m 6s`: the two largest parts.
pub(super) fn age(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut shown = Vec::new();
    for (size, unit) in parts {
        let count = rest / size;
        rest %= size;
        if count > 0 || !shown.is_empty() {
            shown.push(format!("{count}{unit}"));
        }
    }
    shown.truncate(2);
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Seconds since a moment in RFC 3339.
pub(super) fn seconds_since(moment: &str) -> Option<u64> {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    let then = OffsetDateTime::parse(moment, &Rfc3339).ok()?;
    u64::try_from((OffsetDateTime::now_utc() - then).whole_seconds()).ok()
}

/// `1 session`, `2 sessions`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is not known is a dash.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `23 ms`, `0.4 ms`
pub(super) fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.1} ms") } else { format!("{value:.0} ms") }
}

/// A state as a cell.
pub(super) fn state(state: TunnelState) -> String {
    state.to_string()
}

const CLOSED_PIPE: &str = "closed_pipe";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(age(0), "0s");
        assert_eq!(age(59), "59s");
        assert_eq!(age(3_600), "1h 0m");
        assert_eq!(age(90_061), "1d 1h");
        assert_eq!(milliseconds(0.42), "0.4 ms");
        assert_eq!(milliseconds(23.4), "23 ms");
    }

    #[test]
    fn columns_are_aligned_and_cells_are_harmless() {
        let global =
            super::super::args::Global { output: super::super::args::Format::Table, quiet: false };
        let context = Context { colour: false, ..Context::new(&global, Default::default()) };
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["a-long-name".into(), "ready".into()]);
        table.row(["b\u{1b}[2J".into(), "x\ny".into()]);
        assert_eq!(
            table.render(&context),
            "NAME         STATE\na-long-name  ready\nb\\u{1b}[2J   x y"
        );
    }
}
