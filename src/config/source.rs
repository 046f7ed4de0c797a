//! The text of a file and the positions in it.

use std::path::{Path, PathBuf};

use super::error::{ConfigErrors, Place, Problem};
use crate::files::read_bounded;

/// A file's text, ready to be parsed.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
    /// Byte offsets of the starts of lines.
    lines: Vec<usize>,
}

impl Source {
    /// Reads a file of at most 1 MiB.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let bytes = read_bounded(path, MAX_FILE).map_err(|error| {
            let message = match error.is_not_found() {
                true => "the file does not exist".to_owned(),
                // The place names the file already.
                false => match error.to_string().strip_prefix(&path.display().to_string()) {
                    Some(rest) => format!("this{rest}"),
                    None => error.to_string(),
                },
            };
            ConfigErrors::one(Problem::new(Place::WholeFile(path.to_owned()), message))
        })?;
        Self::from_bytes(path, bytes)
    }

    /// The text of a file, checked for being UTF-8; a byte order mark at the start is dropped.
    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigErrors> {
        let (text, broken_at) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned(), Some(valid))
            }
        };
        let source = Self::from_text(path, &text);
        match broken_at {
            None => Ok(source),
            Some(_) => {
                let place = source.place(source.text.len());
                let message = "the file is not UTF-8 here: save it as UTF-8";
                Err(ConfigErrors::one(Problem::new(place, message)))
            }
        }
    }

    /// The text of a file.
    pub(super) fn from_text(path: &Path, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { path: path.to_owned(), text, lines }
    }

    /// The text, without a byte order mark.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The line and column, from 1, of a byte.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let before = &self.text.as_bytes()[start..offset];
        // Characters, not bytes: continuation bytes of UTF-8 do not count.
        let column = before.iter().filter(|b| **b & 0xC0 != 0x80).count();
        (line, column + 1)
    }

    /// The place of a byte.
    pub(super) fn place(&self, offset: usize) -> Place {
        let (line, column) = self.position(offset);
        Place::File { path: self.path.clone(), line, column }
    }
}

/// Bytes of a configuration file: ten thousand tunnels fit.
pub(super) const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let source = Source::from_text(Path::new("a"), "\u{feff}ä = 1\r\nöb\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position("ä".len()), (1, 2));
        assert_eq!(source.position("ä = 1\r\n".len()), (2, 1));
        assert_eq!(source.position("ä = 1\r\nö".len()), (2, 2));
        assert_eq!(source.position(10_000), (3, 1));
    }

    #[test]
    fn the_first_byte_that_is_not_utf8_is_named() {
        let errors = Source::from_bytes(Path::new("a.toml"), b"x = 1\ny = \"\xff\"\n".to_vec())
            .expect_err("not UTF-8");
        assert!(errors.to_string().starts_with("a.toml:2:6: "), "{errors}");
    }
}
