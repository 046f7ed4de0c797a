//! Writing: a file is there whole or not at all, and never open to others, not even for a moment.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::{FileError, judge};

/// Creates a file for its owner alone (0600); what exists already, a dangling link too, is left as it is.
///
/// The bytes are on disk under a temporary name before the file appears, so that no reader meets half a key
/// and no crash leaves one. A folder that others can write is refused as in [`super::read_private`].
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(FileError::AlreadyExists { path: path.to_owned() });
    }
    judge::folder_around(path)?;
    let written = write_beside(path, bytes)?;
    written.persist_noclobber(path).map_err(|e| FileError::from_io(path, "create", e.error))?;
    sync_folder(path)
}

/// Puts a file (0600) in the place of another one, or of nothing, atomically.
///
/// Until the new bytes are on disk the old ones stay; a full disk leaves them untouched. A crash may leave
/// a `.NAME.….new` beside the file, which nothing reads.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let written = write_beside(path, bytes)?;
    written.persist(path).map_err(|e| FileError::from_io(path, "replace", e.error))?;
    sync_folder(path)
}

/// Removes a file, if there is one, for good: a power cut does not bring it back.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(FileError::from_io(path, "remove", e)),
        Ok(()) => sync_folder(path),
    }
}

/// Writes the bytes to a new file in the same folder, created exclusively; it goes away when dropped.
fn write_beside(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, FileError> {
    let folder = judge::folder_of(path);
    let Some(name) = path.file_name() else {
        return Err(FileError::Kind { path: path.to_owned(), found: "folder", wanted: "file" });
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".new");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(judge::FILE_MODE));
    let in_folder = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => FileError::NotFound { path: folder.clone() },
        _ => FileError::from_io(path, "create", e),
    };
    let mut file = builder.tempfile_in(&folder).map_err(in_folder)?;
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    written.map_err(|e| FileError::from_io(path, "write", e))?;
    Ok(file)
}

/// Makes a new name durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), FileError> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    // A folder may be writable and not readable; then its file system decides when the name is durable.
    let Ok(folder) = File::open(judge::folder_of(path)) else { return Ok(()) };
    match folder.sync_all() {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(|e| FileError::from_io(path, "write", e)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::files::read_private;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn h100_files_are_created_for_their_owner_alone() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("key");
        create_private(&path, b"one").expect("created");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        replace(&path, b"two").expect("replaced");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        assert_eq!(read_private(&path, 100).expect("read"), b"two");
        assert_eq!(names(home.path()), ["key"], "nothing is left behind");
    }

    #[test]
    fn h103_what_exists_is_never_overwritten() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("key");
        create_private(&path, b"one").expect("created");
        let error = create_private(&path, b"two").expect_err("refused");
        assert!(error.already_exists(), "{error}");
        assert_eq!(read_private(&path, 100).expect("read"), b"one");
        let dangling = home.path().join("dangling");
        symlink(home.path().join("elsewhere"), &dangling).expect("linked");
        let error = create_private(&dangling, b"two").expect_err("refused");
        assert!(error.already_exists(), "{error}");
        assert!(!home.path().join("elsewhere").exists());
    }

    #[test]
    fn of_many_that_create_one_file_one_wins_and_all_see_it_whole() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("key");
        let won = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8u8)
                .map(|n| {
                    let path = path.clone();
                    scope.spawn(move || {
                        let created = create_private(&path, &[n; 4096]);
                        let seen = read_private(&path, 4096).expect("whole");
                        assert!(seen.len() == 4096 && seen.iter().all(|b| *b == seen[0]));
                        created.is_ok()
                    })
                })
                .collect();
            racers.into_iter().map(|r| r.join().expect("ran")).filter(|w| *w).count()
        });
        assert_eq!(won, 1);
        assert_eq!(names(home.path()), ["key"]);
    }

    #[test]
    fn replacing_exchanges_a_link_and_not_what_it_points_to() {
        let home = crate::files::private_tempdir();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        create_private(&real, b"one").expect("created");
        symlink(&real, &link).expect("linked");
        replace(&link, b"two").expect("replaced");
        assert_eq!(read_private(&real, 100).expect("read"), b"one");
        assert_eq!(read_private(&link, 100).expect("read"), b"two");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("none/key");
        for error in [create_private(&path, b"x"), replace(&path, b"x")] {
            let text = error.expect_err("refused").to_string();
            assert!(text.ends_with("none does not exist"), "{text}");
        }
    }
}
