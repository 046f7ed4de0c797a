//! Text that came from somewhere else, made harmless for one line of a log or a terminal.

use std::fmt::Write;

/// Writes `text` with every character that could start a new line, move a cursor or turn text around escaped.
pub(super) fn write_escaped(out: &mut String, text: &str, limit: usize) {
    let end = out.len() + limit;
    for c in text.chars() {
        if out.len() + c.len_utf8() > end {
            out.push('…');
            return;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_harmful(c) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// Writes a field's value: bare when it is one plain word, else in quotes with `"` and `\` escaped.
pub(super) fn write_value(out: &mut String, text: &str, limit: usize) {
    let plain = !text.is_empty() && !text.contains([' ', '"', '=', '\\']);
    if plain {
        return write_escaped(out, text, limit);
    }
    out.push('"');
    write_escaped(out, &text.replace('\\', "\\\\").replace('"', "\\\""), limit);
    out.push('"');
}

/// Controls, line and paragraph separators, bidirectional overrides, the byte order mark, tag characters.
pub(super) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_harmful_survives() {
        for bad in ["\n", "\r", "\u{1b}[31m", "\u{9b}31m", "\u{202e}", "\u{2028}", "\0", "\u{7f}"] {
            let mut out = String::new();
            write_escaped(&mut out, &format!("a{bad}b"), 100);
            assert!(!out.chars().any(is_harmful), "{out:?}");
            assert!(out.starts_with("a\\") && out.ends_with('b'), "{out:?}");
        }
    }

    #[test]
    fn values_are_cut_and_quoted() {
        let mut out = String::new();
        write_value(&mut out, &"ä".repeat(70_000), 100);
        assert!(out.len() <= 100 + '…'.len_utf8() && out.ends_with('…'), "{}", out.len());
        for (value, written) in
            [("quic", "quic"), ("", "\"\""), ("a b", "\"a b\""), ("x=\"\\", "\"x=\\\"\\\\\"")]
        {
            let mut out = String::new();
            write_value(&mut out, value, 100);
            assert_eq!(out, written);
        }
    }
}
