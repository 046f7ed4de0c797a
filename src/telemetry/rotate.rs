//! A log file that never grows beyond its limit: `x.log`, then `x.log.1`, `x.log.2` …

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A size-rotated file, 0600. Every `write` is one append; one that fails (a full disk) drops its bytes.
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    size: u64,
    dropped: Arc<AtomicU64>,
    unreported: u64,
}

impl RotatingFile {
    /// Opens or creates `path`. At most `max_bytes` per file, and `keep` older files beside it.
    pub fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let (file, size) = open_append(path)?;
        let dropped = Arc::new(AtomicU64::new(0));
        Ok(Self { path: path.into(), max_bytes, keep, file, size, dropped, unreported: 0 })
    }

    /// How many writes were dropped so far; shared with whoever wants to tell.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        match (&self.file).write_all(bytes) {
            Ok(()) => self.size += bytes.len() as u64,
            Err(error) => {
                // Half a line would glue itself to the next one.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Another process with the same file may have rotated it already: then ours is an older one.
        if is_same_file(&self.path, &self.file) && self.shift().is_err() {
            // A folder that lets nothing be renamed still must not let the file grow for ever.
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        (self.file, self.size) = open_append(&self.path)?;
        Ok(())
    }

    fn shift(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Write for RotatingFile {
    /// Never fails: what cannot be written is counted, and the next line that can says how many are missing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unreported > 0 {
            let note = format!("({} log lines could not be written here)\n", self.unreported);
            if self.append(note.as_bytes()).is_ok() {
                self.unreported = 0;
            }
        }
        if self.unreported > 0 || self.append(bytes).is_err() {
            self.unreported += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A symlink would send the log elsewhere; opening a FIFO without a reader would block.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

#[cfg(unix)]
fn is_same_file(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(_: &Path, _: &File) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_within_its_size() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.log");
        let mut log = RotatingFile::open(&path, 100, 2).expect("open");
        for number in 0..100 {
            log.write_all(format!("line {number:03} of many\n").as_bytes()).expect("write");
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .expect("dir")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["x.log", "x.log.1", "x.log.2"]);
        for name in names {
            let text = fs::read_to_string(dir.path().join(name)).expect("read");
            assert!(text.len() <= 100 && text.ends_with("of many\n"), "{text:?}");
        }
        assert!(fs::read_to_string(&path).expect("read").contains("line 099"));
    }

    #[test]
    fn an_existing_log_is_continued_and_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.log");
        for text in ["one\n", "two\n"] {
            let mut log = RotatingFile::open(&path, 100, 0).expect("open");
            log.write_all(text.as_bytes()).expect("write");
        }
        assert_eq!(fs::read_to_string(&path).expect("read"), "one\ntwo\n");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_symlink_or_a_fifo_is_not_a_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        let link = dir.path().join("link.log");
        std::os::unix::fs::symlink("/dev/null", &link).expect("symlink");
        assert!(RotatingFile::open(&link, 100, 1).is_err());
        let fifo = dir.path().join("fifo.log");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
            .expect("fifo");
        assert!(RotatingFile::open(&fifo, 100, 1).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn h74_a_full_disk_drops_lines_and_says_so_afterwards() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.log");
        let mut log = RotatingFile::open(&path, 1000, 1).expect("open");
        let real = std::mem::replace(
            &mut log.file,
            OpenOptions::new().append(true).open("/dev/full").expect("/dev/full"),
        );
        writeln!(log, "lost").expect("the process lives");
        writeln!(log, "lost too").expect("the process lives");
        assert_eq!(log.dropped().load(Ordering::Relaxed), 2);
        log.file = real;
        writeln!(log, "back").expect("write");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, "(2 log lines could not be written here)\nback\n");
    }
}
