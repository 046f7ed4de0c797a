//! Private folders.

use std::fs::DirBuilder;
use std::path::Path;

use super::write::sync_folder;
use super::{FileError, judge};

/// Creates a folder that only its owner can enter (0700), and its parents likewise; all of them are on disk when it
/// returns, or what is written into them could be lost with them.
///
/// One that exists is checked as [`check_private_dir`] does, and never changed.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    match check_private_dir(path) {
        Err(FileError::NotFound { .. }) => {}
        checked => return checked,
    }
    let named = path.ancestors().filter(|folder| !folder.as_os_str().is_empty());
    let missing: Vec<_> = named.take_while(|folder| !folder.exists()).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, judge::FOLDER_MODE);
    builder.create(path).map_err(|e| FileError::from_io(path, "create", e))?;
    for folder in missing.into_iter().rev() {
        sync_folder(folder)?;
    }
    // Somebody else may have been first: what is there now is what counts.
    check_private_dir(path)
}

/// Refuses a folder that is a symbolic link, belongs to another user or is open to others (mode & 077).
pub fn check_private_dir(path: &Path) -> Result<(), FileError> {
    // Without this `lstat("link/")` would look behind the link.
    let path = path.components().as_path();
    let found = std::fs::symlink_metadata(path).map_err(|e| FileError::from_io(path, "read", e))?;
    judge::private_folder(path, &found)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    #[test]
    fn h100_folders_are_created_for_their_owner_alone() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("a/b/c");
        create_private_dir(&path).expect("created");
        create_private_dir(&path).expect("a second time too");
        for folder in ["a", "a/b", "a/b/c"] {
            let mode = fs::metadata(home.path().join(folder)).expect("there").mode();
            assert_eq!(mode & 0o7777, 0o700, "{folder}");
        }
    }

    #[test]
    fn h100_a_folder_open_to_others_is_refused_with_the_chmod_line() {
        let home = crate::files::private_tempdir();
        for mode in [0o777, 0o755, 0o750, 0o701, 0o1777] {
            fs::set_permissions(home.path(), Permissions::from_mode(mode)).expect("chmod");
            let error = create_private_dir(home.path()).expect_err("refused");
            assert!(matches!(error, FileError::Mode { .. }), "{error}");
            let line = format!("chmod 700 {}", home.path().display());
            assert!(error.to_string().contains(&line), "{error}");
            let kept = fs::metadata(home.path()).expect("there").mode() & 0o7777;
            assert_eq!(kept, mode, "nothing is changed");
        }
    }

    #[test]
    fn h101_a_folder_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let home = crate::files::private_tempdir();
        chown(home.path(), Some(4711), None).expect("chown");
        let error = check_private_dir(home.path()).expect_err("refused");
        assert!(matches!(error, FileError::Owner { owner: 4711, .. }), "{error}");
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn h102_a_link_to_a_folder_is_refused_with_and_without_a_slash() {
        let home = crate::files::private_tempdir();
        let link = home.path().join("link");
        create_private_dir(&home.path().join("real")).expect("created");
        symlink(home.path().join("real"), &link).expect("linked");
        for path in [link.clone(), home.path().join("link/"), home.path().join("link/.")] {
            let error = create_private_dir(&path).expect_err("refused");
            assert!(matches!(error, FileError::Symlink { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let home = crate::files::private_tempdir();
        fs::write(home.path().join("file"), "x").expect("written");
        let error = create_private_dir(&home.path().join("file")).expect_err("refused");
        assert!(error.to_string().ends_with("is a file, not a folder"), "{error}");
        create_private_dir(&home.path().join("file/below")).expect_err("refused");
    }
}
