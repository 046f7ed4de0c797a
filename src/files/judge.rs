//! The rules for what may hold a secret: kind, owner, mode, number of names.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::FileError;

/// The folder that a path is in; `.` for a bare file name.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Refuses what is not an ordinary file.
pub(super) fn ordinary(path: &Path, found: &Metadata) -> Result<(), FileError> {
    if found.is_file() {
        return Ok(());
    }
    Err(FileError::Kind { path: path.to_owned(), found: kind(found), wanted: "file" })
}

/// Refuses a file that somebody else could read, write or reach under another name.
#[cfg(unix)]
pub(super) fn private_file(path: &Path, found: &Metadata) -> Result<(), FileError> {
    use std::os::unix::fs::MetadataExt;
    ordinary(path, found)?;
    mine(path, found, FILE_MODE)?;
    if found.nlink() != 1 {
        return Err(FileError::HardLink { path: path.to_owned(), links: found.nlink() });
    }
    closed(path, found, FILE_MODE)
}

/// Refuses a folder that somebody else could list or change; `found` must come from `lstat`.
#[cfg(unix)]
pub(super) fn private_folder(path: &Path, found: &Metadata) -> Result<(), FileError> {
    if found.is_symlink() {
        return Err(FileError::Symlink { path: path.to_owned(), wanted: FOLDER_MODE });
    }
    folder(path, found)?;
    mine(path, found, FOLDER_MODE)?;
    closed(path, found, FOLDER_MODE)
}

/// Refuses a folder in which somebody else (but root) could put another file in the place of `path`.
///
/// A sticky folder (`/tmp`) is refused as well: there others can be first.
#[cfg(unix)]
pub(super) fn folder_around(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::MetadataExt;
    let around = folder_of(path);
    let found = std::fs::metadata(&around).map_err(|e| FileError::from_io(&around, "read", e))?;
    folder(&around, &found)?;
    if found.uid() != 0 {
        mine(&around, &found, FOLDER_MODE)?;
    }
    let mode = found.mode() & PERMISSIONS;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::FolderMode { path: path.to_owned(), folder: around, mode });
    }
    Ok(())
}

#[cfg(unix)]
fn mine(path: &Path, found: &Metadata, wanted: u32) -> Result<(), FileError> {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    if found.uid() == me {
        return Ok(());
    }
    Err(FileError::Owner { path: path.to_owned(), owner: found.uid(), me, wanted })
}

#[cfg(unix)]
fn closed(path: &Path, found: &Metadata, wanted: u32) -> Result<(), FileError> {
    use std::os::unix::fs::MetadataExt;
    let mode = found.mode() & PERMISSIONS;
    if mode & USABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(FileError::Mode { path: path.to_owned(), mode, wanted })
}

/// On Windows files in a user's profile inherit a list of rights that leaves other users out.
#[cfg(not(unix))]
pub(super) fn private_file(path: &Path, found: &Metadata) -> Result<(), FileError> {
    ordinary(path, found)
}

/// On Windows only the kind is checked, for the reason given at `private_file`.
#[cfg(not(unix))]
pub(super) fn private_folder(path: &Path, found: &Metadata) -> Result<(), FileError> {
    if found.is_symlink() {
        return Err(FileError::Symlink { path: path.to_owned(), wanted: FOLDER_MODE });
    }
    folder(path, found)
}

/// On Windows only the kind is checked, for the reason given at `private_file`.
#[cfg(not(unix))]
pub(super) fn folder_around(path: &Path) -> Result<(), FileError> {
    let around = folder_of(path);
    let found = std::fs::metadata(&around).map_err(|e| FileError::from_io(&around, "read", e))?;
    folder(&around, &found)
}

fn folder(path: &Path, found: &Metadata) -> Result<(), FileError> {
    if found.is_dir() {
        return Ok(());
    }
    Err(FileError::Kind { path: path.to_owned(), found: kind(found), wanted: "folder" })
}

/// What a thing is, in words.
fn kind(found: &Metadata) -> &'static str {
    if found.is_dir() {
        return "folder";
    }
    if found.is_symlink() {
        return "symbolic link";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = found.file_type();
        if kind.is_fifo() {
            return "FIFO";
        }
        if kind.is_socket() {
            return "socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "device";
        }
    }
    if found.is_file() { "file" } else { "special file" }
}

/// What a private file's mode should be.
pub(super) const FILE_MODE: u32 = 0o600;
/// What a private folder's mode should be.
pub(super) const FOLDER_MODE: u32 = 0o700;
#[cfg(unix)]
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;
#[cfg(unix)]
const USABLE_BY_OTHERS: u32 = 0o077;
/// The bits of `st_mode` that `chmod` sets.
#[cfg(unix)]
const PERMISSIONS: u32 = 0o7777;
