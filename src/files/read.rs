//! Reading: bounded, never blocking, and of private files only what is private.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{FileError, judge};

/// Reads a file that only its owner can use.
///
/// Refused are symbolic links, FIFOs and other special files, files of another user, modes with a bit for
/// group or others, files with a second name, folders that others can write, and more than `max` bytes.
/// What is checked is the opened file, so that nobody can exchange it in between. The caller wipes the bytes.
pub fn read_private(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    judge::folder_around(path)?;
    let file = open(path, Links::Refused)?;
    let found = file.metadata().map_err(|e| FileError::from_io(path, "read", e))?;
    judge::private_file(path, &found)?;
    read_all(path, file, found.len(), max)
}

/// Reads any ordinary file of at most `max` bytes, through links too; a FIFO or a folder is refused at once.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path, Links::Followed)?;
    let found = file.metadata().map_err(|e| FileError::from_io(path, "read", e))?;
    judge::ordinary(path, &found)?;
    read_all(path, file, found.len(), max)
}

/// What to do when the last part of a path is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Followed,
    Refused,
}

/// Opens a file for reading without waiting for a FIFO's writer and without taking a terminal.
#[cfg(unix)]
pub(super) fn open(path: &Path, links: Links) -> Result<File, FileError> {
    use rustix::fs::{Mode, OFlags};
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if links == Links::Refused {
        flags |= OFlags::NOFOLLOW;
    }
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        Err(errno) => Err(refusal(path, links, errno.into())),
    }
}

/// Opens a file for reading.
#[cfg(not(unix))]
pub(super) fn open(path: &Path, links: Links) -> Result<File, FileError> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if links == Links::Refused && is_link {
        return Err(FileError::Symlink { path: path.to_owned(), wanted: judge::FILE_MODE });
    }
    File::open(path).map_err(|e| FileError::from_io(path, "read", e))
}

/// Says more than the operating system does about a file that cannot be opened (`ELOOP` for a link, `ENXIO`
/// for a socket, `EACCES` for somebody else's key).
#[cfg(unix)]
fn refusal(path: &Path, links: Links, source: std::io::Error) -> FileError {
    let error = FileError::from_io(path, "read", source);
    let Ok(found) = std::fs::symlink_metadata(path) else { return error };
    if found.is_symlink() {
        if links == Links::Refused {
            return FileError::Symlink { path: path.to_owned(), wanted: judge::FILE_MODE };
        }
        return error;
    }
    if let Err(kind) = judge::ordinary(path, &found) {
        return kind;
    }
    match judge::private_file(path, &found) {
        Err(owner @ FileError::Owner { .. }) if links == Links::Refused => owner,
        _ => error,
    }
}

/// Reads up to `max` bytes into a buffer that is large enough from the start: growing it would leave a copy
/// of a secret behind.
pub(super) fn read_all(path: &Path, file: File, size: u64, max: u64) -> Result<Vec<u8>, FileError> {
    let too_large = || FileError::TooLarge { path: path.to_owned(), max };
    if size > max {
        return Err(too_large());
    }
    let room = usize::try_from(size).map_err(|_| too_large())?.saturating_add(SPARE);
    let mut bytes = Vec::with_capacity(room);
    match file.take(max.saturating_add(1)).read_to_end(&mut bytes) {
        Ok(count) if count as u64 > max => Err(too_large()),
        Ok(_) => Ok(bytes),
        Err(source) => Err(FileError::from_io(path, "read", source)),
    }
}

/// Room beyond a file's size, so that the end of the file is seen without growing the buffer.
const SPARE: usize = 64;

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::files::create_private;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    fn secret() -> (tempfile::TempDir, PathBuf) {
        let home = crate::files::private_tempdir();
        let path = home.path().join("secret");
        create_private(&path, b"secret").expect("created");
        assert_eq!(read_private(&path, 6).expect("read"), b"secret");
        (home, path)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    fn fifo(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
    }

    #[test]
    fn h100_a_file_open_to_others_is_refused_with_the_chmod_line() {
        let (_home, path) = secret();
        for mode in [0o644, 0o660, 0o604, 0o640, 0o601, 0o777] {
            chmod(&path, mode);
            let error = read_private(&path, 100).expect_err("refused");
            assert!(matches!(error, FileError::Mode { .. }) && error.is_unsafe(), "{error}");
            let line = format!("`chmod 600 {}`", path.display());
            assert!(error.to_string().contains(&line), "{error}");
        }
        chmod(&path, 0o400);
        read_private(&path, 100).expect("stricter is fine");
    }

    #[test]
    fn h101_a_file_in_a_folder_that_others_can_write_is_refused_with_the_chmod_line() {
        let (home, path) = secret();
        let chmod_line = format!("`chmod go-w {}`", home.path().display());
        let move_line = "`mkdir -m 700 NAME`".to_owned();
        for (mode, line) in
            [(0o777, &chmod_line), (0o770, &chmod_line), (0o702, &chmod_line), (0o1777, &move_line)]
        {
            chmod(home.path(), mode);
            let error = read_private(&path, 100).expect_err("refused");
            assert!(error.to_string().contains(line), "{error}");
            let error = create_private(&home.path().join("new"), b"x").expect_err("refused");
            assert!(error.to_string().contains(line), "{error}");
            assert!(!home.path().join("new").exists());
        }
        chmod(home.path(), 0o755);
        read_private(&path, 100).expect("others may list the folder");
    }

    #[test]
    fn h102_a_file_or_folder_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (home, path) = secret();
        chown(&path, Some(4711), None).expect("chown");
        let error = read_private(&path, 100).expect_err("refused");
        assert!(matches!(error, FileError::Owner { owner: 4711, me: 0, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        chown(&path, Some(0), None).expect("chown");
        chown(home.path(), Some(4711), None).expect("chown");
        let error = read_private(&path, 100).expect_err("refused");
        assert!(error.to_string().starts_with(&home.path().display().to_string()), "{error}");
    }

    #[test]
    fn h103_links_are_refused() {
        let (home, path) = secret();
        let link = home.path().join("link");
        symlink(&path, &link).expect("linked");
        let error = read_private(&link, 100).expect_err("refused");
        assert!(matches!(error, FileError::Symlink { .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert_eq!(read_bounded(&link, 100).expect("an ordinary read follows"), b"secret");
        fs::hard_link(&path, home.path().join("second")).expect("linked");
        let error = read_private(&path, 100).expect_err("refused");
        assert!(matches!(error, FileError::HardLink { links: 2, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn h104_special_files_are_refused_without_waiting() {
        let (home, path) = secret();
        let pipe = home.path().join("pipe");
        fifo(&pipe);
        let socket = home.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let folder = home.path().join("folder");
        fs::create_dir(&folder).expect("created");
        for (path, kind) in [
            (pipe.as_path(), "FIFO"),
            (folder.as_path(), "folder"),
            (socket.as_path(), "socket"),
            (Path::new("/dev/null"), "device"),
        ] {
            for error in [read_private(path, 100), read_bounded(path, 100)] {
                let text = error.expect_err("refused").to_string();
                assert!(text.contains(&format!("is a {kind}, not a file")), "{text}");
            }
        }
        assert_eq!(read_bounded(&path, 100).expect("read"), b"secret");
    }

    #[test]
    fn more_than_the_bound_is_not_read() {
        let (home, path) = secret();
        let error = read_private(&path, 5).expect_err("refused");
        assert!(matches!(error, FileError::TooLarge { max: 5, .. }), "{error}");
        // The size that the system reports may be 0 for a file that has bytes.
        let error = read_bounded(Path::new("/proc/self/status"), 5).expect_err("refused");
        assert!(matches!(error, FileError::TooLarge { .. } | FileError::NotFound { .. }));
        let error = read_private(&home.path().join("none"), 5).expect_err("refused");
        assert!(error.is_not_found(), "{error}");
    }
}
