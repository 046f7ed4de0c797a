//! One event becomes one line: collected from tracing, written as text or JSON with a single write.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;
use super::escape::{is_harmful, write_escaped, write_value};

/// The layer that writes lines. A failed write drops the line: logging never stops a process.
pub(super) struct LineLayer<W> {
    format: LogFormat,
    writer: Mutex<W>,
}

/// Fields in the order in which they were recorded.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl<W: Write> LineLayer<W> {
    pub(super) fn new(format: LogFormat, writer: W) -> Self {
        Self { format, writer: Mutex::new(writer) }
    }
}

impl<S, W> Layer<S> for LineLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(recorded) = span.extensions().get::<Fields>() {
                fields.0.extend(recorded.0.iter().cloned());
            }
        }
        let message = own.take("message").unwrap_or_default();
        // Events of the `log` crate (rustls) carry their origin in fields of their own.
        let origin = own.take("log.target");
        own.0.retain(|(name, _)| !name.starts_with("log."));
        fields.0.append(&mut own.0);

        let target = origin.as_deref().unwrap_or(event.metadata().target());
        let level = *event.metadata().level();
        let line = match self.format {
            LogFormat::Text => text_line(&now(), level, target, &message, &fields.0),
            LogFormat::Json => json_line(now(), level, target, &message, fields.0),
        };
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // There is nowhere to report that the log cannot be written; the writer counts it.
        let _ = writer.write_all(line.as_bytes());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, old)) => *old = value,
            None => self.0.push((field.name(), value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(field, _)| *field == name)?;
        Some(plain(self.0.remove(at).1))
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.put(field, text.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

fn text_line(
    now: &str,
    level: Level,
    target: &str,
    message: &str,
    fields: &[(&str, Value)],
) -> String {
    let mut line = format!("{now} {level:>5} ");
    write_escaped(&mut line, target, VALUE_LIMIT);
    line.push_str(": ");
    write_escaped(&mut line, message, VALUE_LIMIT);
    for (name, value) in fields {
        let before = line.len();
        line.push(' ');
        line.push_str(name);
        line.push('=');
        write_value(&mut line, &plain(value.clone()), VALUE_LIMIT);
        if line.len() + MARK.len() + 1 > LINE_LIMIT {
            line.truncate(before);
            line.push_str(MARK);
            break;
        }
    }
    line.push('\n');
    line
}

fn json_line(
    now: String,
    level: Level,
    target: &str,
    message: &str,
    fields: Vec<(&str, Value)>,
) -> String {
    let mut event = Map::new();
    event.insert("timestamp".into(), now.into());
    event.insert("level".into(), level.as_str().to_ascii_lowercase().into());
    event.insert("target".into(), target.into());
    event.insert("message".into(), clean(message).into());
    let mut size = target.len() + message.len().min(VALUE_LIMIT) + 128;
    for (name, value) in fields {
        let value = match value {
            Value::String(text) => clean(&text).into(),
            other => other,
        };
        size += name.len() + 6 + value.to_string().len();
        if size > LINE_LIMIT {
            event.insert("truncated".into(), true.into());
            break;
        }
        event.entry(name).or_insert(value);
    }
    let mut line = Value::Object(event).to_string();
    line.push('\n');
    line
}

/// JSON escapes line ends and ESC by itself but leaves what turns text around; long values are cut.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() + c.len_utf8() > VALUE_LIMIT {
            out.push('…');
            break;
        }
        out.push(if is_harmful(c) && !c.is_ascii() { char::REPLACEMENT_CHARACTER } else { c });
    }
    out
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(TIMESTAMP).unwrap_or_default()
}

/// RFC 3339, UTC, milliseconds.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
/// One value is at most this long, so that a 64 KiB name cannot push the rest of its line away.
const VALUE_LIMIT: usize = 384;
/// A line is at most this long (hostile.md V26); fields that do not fit are left out, and the line says so.
const LINE_LIMIT: usize = 1024;
const MARK: &str = " …";

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let layer = LineLayer::new(format, sink.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let writes = sink.0.lock().expect("lock").clone();
        writes.into_iter().map(|line| String::from_utf8(line).expect("UTF-8")).collect()
    }

    #[test]
    fn an_event_is_one_line_of_text() {
        let lines = lines(LogFormat::Text, || {
            let span =
                tracing::info_span!("tunnel", tunnel = "web-00ab", peer = tracing::field::Empty);
            span.record("peer", "r 1");
            let _entered = span.enter();
            tracing::info!(carrier = "quic", streams = 3, "session up");
        });
        assert_eq!(lines.len(), 1, "one write per event");
        let (time, rest) = lines[0].split_once("  INFO ").expect("a level");
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        assert!(
            rest.ends_with(": session up tunnel=web-00ab peer=\"r 1\" carrier=quic streams=3\n"),
            "{rest}"
        );
    }

    #[test]
    fn v26_values_cannot_forge_or_swell_a_line() {
        let evil = format!("a\n2025 INFO forged\u{1b}[2J\u{202e}{}", "x".repeat(64 * 1024));
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = lines(format, || {
                tracing::warn!(name = %evil, agent = ?evil, third = evil, fourth = evil, "bad {evil}");
            });
            assert_eq!(lines.len(), 1);
            let line = lines[0].strip_suffix('\n').expect("a line end");
            assert!(!line.chars().any(is_harmful), "{format:?}: {line:?}");
            assert!(line.len() <= 1024, "{format:?}: {} bytes", line.len());
        }
    }

    #[test]
    fn json_lines_are_objects_with_typed_fields() {
        let lines =
            lines(LogFormat::Json, || tracing::error!(bytes = 7_u64, ok = false, "it \"broke\""));
        let value: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(value["level"], "error");
        assert_eq!(value["message"], "it \"broke\"");
        assert_eq!((value["bytes"].as_u64(), value["ok"].as_bool()), (Some(7), Some(false)));
    }
}
