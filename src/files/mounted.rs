//! Secrets that something else put there: a container's mounted secret, a service manager's credential.

use std::path::Path;

use super::{FileError, read};

/// Reads a private file, or a secret that was mounted for this process to read and not to write.
///
/// A private file is what [`super::read_private`] accepts. Otherwise the file, behind any link, is accepted
/// when neither it nor the folders it was found in can be written by this process: because they are on a
/// read-only mount, or because root owns them, nobody else may write them and this process is not root.
/// The second value says that the file was accepted as a mounted one.
///
/// Only for files that the configuration names. The error is that of the private reading.
pub fn read_mounted_secret(path: &Path, max: u64) -> Result<(Vec<u8>, bool), FileError> {
    let refused = match read::read_private(path, max) {
        Ok(bytes) => return Ok((bytes, false)),
        Err(refused) if refused.is_unsafe() => refused,
        Err(other) => return Err(other),
    };
    match read_mounted(path, max) {
        Some(read) => Ok((read?, true)),
        None => Err(refused),
    }
}

/// The bytes of a mounted secret; nothing when the path is not one.
#[cfg(unix)]
fn read_mounted(path: &Path, max: u64) -> Option<Result<Vec<u8>, FileError>> {
    let real = std::fs::canonicalize(path).ok()?;
    for folder in [super::judge::folder_of(path), super::judge::folder_of(&real)] {
        if !is_out_of_reach(&read::open(&folder, read::Links::Followed).ok()?)? {
            return None;
        }
    }
    let file = read::open(&real, read::Links::Refused).ok()?;
    let found = file.metadata().ok().filter(|found| found.is_file())?;
    if !is_out_of_reach(&file)? {
        return None;
    }
    Some(read::read_all(path, file, found.len(), max))
}

/// Whether an opened file or folder can be written neither by this process nor by any user but root.
#[cfg(unix)]
fn is_out_of_reach(file: &std::fs::File) -> Option<bool> {
    use rustix::fs::{StatVfsMountFlags, fstatvfs};
    use std::os::unix::fs::MetadataExt;
    let mount = fstatvfs(file).ok()?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some(true);
    }
    let found = file.metadata().ok()?;
    let me = rustix::process::geteuid();
    // Root writes whatever is not mounted read-only, and an owner can give itself the right.
    let writable = me.is_root() || found.mode() & super::judge::WRITABLE_BY_OTHERS != 0;
    // A second name may be in a folder that was not looked at.
    let one_name = found.is_dir() || found.nlink() == 1;
    Some(!writable && found.uid() == 0 && one_name)
}

/// Windows has no mounted secrets of this sort.
#[cfg(not(unix))]
fn read_mounted(_path: &Path, _max: u64) -> Option<Result<Vec<u8>, FileError>> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    /// A folder as Kubernetes mounts a secret: `key` → `..data/key`, `..data` → `..1/`, all of it root's.
    fn secret_in(folder: &Path) -> PathBuf {
        fs::create_dir(folder.join("..1")).expect("created");
        fs::write(folder.join("..1/key"), "secret").expect("written");
        symlink("..1", folder.join("..data")).expect("linked");
        symlink("..data/key", folder.join("key")).expect("linked");
        for (what, mode) in [("", 0o755), ("..1", 0o755), ("..1/key", 0o644)] {
            chmod(&folder.join(what), mode);
        }
        folder.join("key")
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    /// Reads as a user who is not root; Linux changes the user of one thread.
    fn read_as_user(path: &Path) -> Result<(Vec<u8>, bool), FileError> {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let user = rustix::process::Uid::from_raw(USER);
                rustix::thread::set_thread_res_uid(user, user, user).expect("another user");
                read_mounted_secret(path, 100)
            });
            reader.join().expect("ran")
        })
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Gives this thread mounts of its own, and what mounts something at `folder` there; nothing when the
    /// machine forbids it.
    fn own_mounts(folder: &Path) -> Option<impl Fn(&[&str])> {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        // SAFETY: only the mounts of this thread become its own; no file descriptor is affected.
        #[allow(unsafe_code)]
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.ok()?;
        let private = Command::new("mount").args(["--make-rprivate", "/"]).status();
        assert!(private.expect("mount runs").success());
        Some(move |arguments: &[&str]| {
            let status = Command::new("mount").args(arguments).arg(folder).status();
            assert!(status.expect("mount runs").success(), "{arguments:?}");
        })
    }

    #[test]
    fn a_private_file_is_not_a_mounted_one() {
        let home = crate::files::private_tempdir();
        let path = home.path().join("key");
        crate::files::create_private(&path, b"secret").expect("created");
        assert_eq!(read_mounted_secret(&path, 100).expect("read"), (b"secret".to_vec(), false));
        chmod(&path, 0o644);
        let error = read_mounted_secret(&path, 100).expect_err("one's own file has to be private");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let error = read_mounted_secret(&home.path().join("none"), 100).expect_err("refused");
        assert!(error.is_not_found(), "{error}");
    }

    #[test]
    fn a_secret_of_root_that_only_root_can_change_is_accepted() {
        if !is_root() {
            return;
        }
        let home = crate::files::private_tempdir();
        let path = secret_in(home.path());
        for mode in [0o444, 0o644] {
            chmod(&path, mode);
            assert_eq!(read_as_user(&path).expect("read"), (b"secret".to_vec(), true));
            let real = home.path().join("..1/key");
            assert_eq!(read_as_user(&real).expect("read"), (b"secret".to_vec(), true));
        }
        let error = read_mounted_secret(&path, 100).expect_err("root could write it");
        assert!(matches!(error, FileError::Symlink { .. }), "{error}");
    }

    #[test]
    fn a_secret_that_somebody_else_could_change_is_refused() {
        if !is_root() {
            return;
        }
        let home = crate::files::private_tempdir();
        let path = secret_in(home.path());
        let inner = home.path().join("..1");
        for (what, mode, usual) in [
            (home.path(), 0o1777, 0o755),
            (home.path(), 0o775, 0o755),
            (inner.as_path(), 0o777, 0o755),
            (path.as_path(), 0o666, 0o644),
            (path.as_path(), 0o664, 0o644),
        ] {
            chmod(what, mode);
            read_as_user(&path).expect_err("refused");
            chmod(what, usual);
        }
        for owner in [USER, USER + 1] {
            for what in [home.path(), inner.as_path(), path.as_path()] {
                chown(what, Some(owner), None).expect("chown");
                assert!(read_as_user(&path).expect_err("refused").is_unsafe());
                chown(what, Some(0), None).expect("chown");
            }
        }
        fs::hard_link(inner.join("key"), home.path().join("second")).expect("linked");
        read_as_user(&path).expect_err("refused");
        fs::remove_file(home.path().join("second")).expect("removed");
        read_as_user(&path).expect("as it was");
    }

    #[test]
    fn a_read_only_mount_is_accepted_for_root_too() {
        if !is_root() {
            return;
        }
        let home = crate::files::private_tempdir();
        let folder = home.path().to_owned();
        let in_its_own_mounts = move || {
            let Some(mount) = own_mounts(&folder) else { return };
            mount(&["-t", "tmpfs", "none"]);
            let path = secret_in(&folder);
            chmod(&folder, 0o1777);
            read_mounted_secret(&path, 100).expect_err("still writable");
            mount(&["-o", "remount,ro"]);
            assert_eq!(read_mounted_secret(&path, 100).expect("read"), (b"secret".to_vec(), true));
            let error = read_mounted_secret(&path, 3).expect_err("refused");
            assert!(matches!(error, FileError::TooLarge { .. }), "{error}");
            let error = crate::files::create_private(&folder.join("new"), b"x");
            error.expect_err("refused");
            let error = crate::files::replace(&folder.join("key"), b"x").expect_err("refused");
            assert!(matches!(error, FileError::ReadOnly { .. }), "{error}");
        };
        std::thread::spawn(in_its_own_mounts).join().expect("ran");
    }

    #[test]
    fn h74_a_full_disk_is_named_and_what_was_there_stays() {
        if !is_root() {
            return;
        }
        let home = crate::files::private_tempdir();
        let folder = home.path().to_owned();
        let in_its_own_mounts = move || {
            let Some(mount) = own_mounts(&folder) else { return };
            mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "none"]);
            let path = folder.join("key");
            crate::files::create_private(&path, b"old").expect("created");
            let large = vec![b'x'; 2 << 20];
            let new = folder.join("new");
            for (path, error) in [
                (&path, crate::files::replace(&path, &large)),
                (&new, crate::files::create_private(&new, &large)),
            ] {
                let error = error.expect_err("refused");
                assert!(matches!(error, FileError::Full { .. }), "{error}");
                assert_eq!(error.path(), path);
            }
            assert_eq!(crate::files::read_private(&path, 100).expect("kept"), b"old");
            assert_eq!(fs::read_dir(&folder).expect("listed").count(), 1);
        };
        std::thread::spawn(in_its_own_mounts).join().expect("ran");
    }

    const USER: u32 = 4711;
}
