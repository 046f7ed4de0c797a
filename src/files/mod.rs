//! Private files and folders: checked before they are read, created for their owner alone, replaced atomically.
//!
//! Knows paths, owners and modes; not what the files mean, nor where Conduit keeps them.
//! Implements section 4 of the local control document (`proto-spec/control.md`, "Files").

mod error;
mod folder;
mod judge;
mod mounted;
mod read;
mod write;

pub use error::FileError;
pub(crate) use error::shown;
pub use folder::{check_private_dir, create_private_dir};
pub use mounted::read_mounted_secret;
pub use read::{read_bounded, read_private};
pub use write::{create_private, remove, replace};

/// A temporary folder for tests that is 0700 under every umask.
#[cfg(test)]
pub(crate) fn private_tempdir() -> tempfile::TempDir {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "there are no modes"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(judge::FOLDER_MODE));
    builder.tempdir().expect("a temporary folder")
}
