//! What nobody knows: messages for unknown sections, keys and variables, with what was probably meant.

use toml::de::DeValue;

use super::error::quoted;
use super::schema::{FileKind, Key};
use super::value::nearest;

/// The notice about a variable that is no key; none when it is one of the other kind of file.
pub(super) fn unknown_variable(kind: FileKind, variable: &str) -> Option<String> {
    let names = |kind: FileKind| kind.keys().filter_map(Key::variable);
    if names(kind.other()).any(|name| name == variable) {
        return None;
    }
    let known: Vec<String> = names(kind).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = nearest(variable, &known).map(|hint| format!(" ({hint})")).unwrap_or_default();
    Some(format!("{variable} is no setting of Conduit: ignored{hint}"))
}

/// The message for something at the top of a file that is no section of its kind.
pub(super) fn unknown_section(
    kind: FileKind,
    name: &str,
    value: &toml::Spanned<DeValue<'_>>,
) -> String {
    let other = kind.other();
    if other.sections().contains(&name) {
        return format!(
            "[{name}] belongs into {}, not into {}",
            other.file_name(),
            kind.file_name()
        );
    }
    if !matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) {
        let homes: Vec<String> =
            kind.keys().filter(|key| key.name == name).map(|key| key.section.to_owned()).collect();
        if let Some(section) = homes.first() {
            return format!("unknown key {}: it belongs into [{section}]", quoted(name));
        }
        return format!("unknown key {}: every key stands in a section", quoted(name));
    }
    let hint = nearest(name, &kind.sections())
        .unwrap_or_else(|| format!("the sections are {}", kind.sections().join(", ")));
    format!("unknown section {}: {hint}", quoted(name))
}

/// The message for a key that the section does not have.
pub(super) fn unknown_key(kind: FileKind, section: &str, name: &str) -> String {
    let here: Vec<&str> =
        kind.keys().filter(|key| key.section == section).map(|key| key.name).collect();
    let elsewhere = kind.keys().find(|key| key.name == name).map(|key| key.section);
    let hint = match (elsewhere, nearest(name, &here)) {
        (Some(elsewhere), _) => format!("it belongs into [{elsewhere}]"),
        (None, Some(near)) => near,
        (None, None) => format!("the keys are {}", here.join(", ")),
    };
    format!("unknown key {} in [{section}]: {hint}", quoted(name))
}
