//! The last lines of a log, without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The last `count` lines of a file and where it ended; never more than a bounded number of bytes.
pub fn last_lines(path: &Path, count: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let end = file.seek(SeekFrom::End(0))?;
    let mut tail = Vec::new();
    let mut start = end;
    while start > 0 && end - start < MOST && newlines(&tail) <= count {
        let step = BLOCK.min(start);
        start -= step;
        file.seek(SeekFrom::Start(start))?;
        let mut block = Vec::new();
        (&mut file).take(step).read_to_end(&mut block)?;
        block.extend_from_slice(&tail);
        tail = block;
    }
    let ends_in_newline = tail.last() == Some(&b'\n');
    let surplus = (newlines(&tail) + usize::from(!ends_in_newline)).saturating_sub(count);
    if surplus > 0 && !tail.is_empty() {
        let mut breaks = tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let cut = breaks.nth(surplus - 1).map_or(tail.len(), |(at, _)| at + 1);
        tail.drain(..cut);
    }
    Ok((tail, end))
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Read at once from the end.
const BLOCK: u64 = 64 * 1024;
/// Read at most.
const MOST: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let text: String = (0..30_000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&path, &text).expect("written");
        for count in [0, 1, 5, 20_000, 30_000, 40_000] {
            let (lines, end) = last_lines(&path, count).expect("read");
            let wanted: Vec<&str> = text.lines().skip(30_000_usize.saturating_sub(count)).collect();
            let lines = String::from_utf8(lines).expect("text");
            assert_eq!(lines.lines().collect::<Vec<_>>(), wanted);
            assert_eq!(end, text.len() as u64);
        }
        std::fs::write(&path, "a\nb\nhalf").expect("written");
        assert_eq!(last_lines(&path, 2).expect("read").0, b"b\nhalf");
    }
}
