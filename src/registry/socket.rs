//! Where a control socket is, who may be on the other side of it, and what may be in its place.

use std::io;
use std::path::Path;

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon;
use uuid::Uuid;

use super::folder::RegistryError;

pub(super) use platform::{connect, place, remove};

/// Binds the socket or pipe. Must run within tokio.
pub(super) fn bind(place: &str) -> Result<Listener, RegistryError> {
    platform::make_way(place)?;
    platform::listen(place).map_err(|source| match source.kind() {
        // Somebody came between the look and the bind.
        io::ErrorKind::AddrInUse => {
            RegistryError::SocketTaken { path: place.into(), reason: "it is in use" }
        }
        _ => RegistryError::Socket { path: place.to_owned(), source },
    })
}

/// Whether the other end belongs to the user that this process runs as, or to root [CTL-3].
pub(super) fn is_trusted(stream: &Stream) -> bool {
    #[cfg(unix)]
    {
        let ours = rustix::process::geteuid().as_raw();
        let theirs = stream.peer_creds().ok().and_then(|peer| peer.euid());
        theirs.is_some_and(|uid| uid == ours || uid == 0)
    }
    // The pipe's access list lets nobody else in.
    #[cfg(not(unix))]
    stream.peer_creds().is_ok()
}

/// Eight hex digits: the path of a socket must fit into 104 bytes.
fn short(instance: Uuid) -> String {
    instance.simple().to_string()[..8].to_owned()
}

#[cfg(unix)]
mod platform {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use interprocess::local_socket::tokio::prelude::*;
    use interprocess::local_socket::{GenericFilePath, ListenerOptions};

    use super::*;
    use crate::files::create_private_dir;

    /// The socket's path: beside the record, else in the runtime folder, else in the temporary one [CTL-1].
    pub(in crate::registry) fn place(
        folder: &Path,
        runtime_dir: Option<&Path>,
        instance: Uuid,
    ) -> Result<String, RegistryError> {
        let file = format!("{}.sock", short(instance));
        let beside = folder.join(&file);
        if let Some(path) = fitting(&beside) {
            return Ok(path);
        }
        let uid = rustix::process::geteuid().as_raw();
        let elsewhere = [
            runtime_dir.map(|dir| dir.join("conduit")),
            Some(std::env::temp_dir().join(format!("conduit-{uid}"))),
        ];
        let mut refused = None;
        for dir in elsewhere.into_iter().flatten() {
            let Some(path) = fitting(&dir.join(&file)) else { continue };
            match create_private_dir(&dir) {
                Ok(()) => return Ok(path),
                // Somebody else's folder of that name: the next one may do.
                Err(error) => refused = Some(error),
            }
        }
        Err(match refused {
            Some(error) => error.into(),
            None => RegistryError::SocketPathTooLong { path: beside, max: MAX_PATH },
        })
    }

    fn fitting(path: &Path) -> Option<String> {
        path.to_str().filter(|text| text.len() <= MAX_PATH).map(str::to_owned)
    }

    /// Removes a socket that nobody listens on; anything else in its place is left alone and reported [CTL-6].
    pub(super) fn make_way(place: &str) -> Result<(), RegistryError> {
        let path = PathBuf::from(place);
        let taken = |reason| Err(RegistryError::SocketTaken { path: path.clone(), reason });
        let failed = |source| RegistryError::Socket { path: place.to_owned(), source };
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(failed)?.file_type(),
        };
        if found.is_symlink() {
            return taken("a symbolic link is there");
        }
        if found.is_dir() {
            return taken("a folder is there");
        }
        if !found.is_socket() {
            return taken("a file that is no socket is there");
        }
        match UnixStream::connect(&path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&path).map_err(failed)
            }
            _ => taken("a process listens there"),
        }
    }

    pub(super) fn listen(place: &str) -> io::Result<Listener> {
        let name = place.to_fs_name::<GenericFilePath>()?;
        let listener = ListenerOptions::new().name(name).create_tokio()?;
        // The folder keeps others out already; this is for who copies the folder.
        fs::set_permissions(place, Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    pub(in crate::registry) async fn connect(place: &str) -> io::Result<Stream> {
        Stream::connect(place.to_fs_name::<GenericFilePath>()?).await
    }

    /// Removes the socket of a process that is known to be dead, or of this one; only ever a socket.
    pub(in crate::registry) fn remove(place: &str) {
        let path = Path::new(place);
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            // A socket that stays is in nobody's way: the next process takes another name.
            let _ = fs::remove_file(path);
        }
    }

    /// `sun_path` has 108 bytes on Linux and 104 on macOS, the closing zero among them.
    const MAX_PATH: usize = 100;

    #[cfg(test)]
    mod tests {
        use super::*;

        /// [CTL-1]
        #[test]
        fn h77_a_path_too_long_for_a_socket_goes_elsewhere() {
            let dir = tempfile::tempdir().expect("tempdir");
            let instance = Uuid::new_v4();
            let near = place(dir.path(), None, instance).expect("a place");
            assert_eq!(Path::new(&near).parent(), Some(dir.path()));
            let long = dir.path().join("x".repeat(90));
            let far = place(&long, Some(dir.path()), instance).expect("a place");
            assert_eq!(Path::new(&far).parent(), Some(dir.path().join("conduit").as_path()));
            assert!(far.len() <= MAX_PATH && far.ends_with(".sock"));
            let mode =
                fs::metadata(dir.path().join("conduit")).expect("a folder").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            let temporary = place(&long, Some(&long), instance).expect("a place");
            assert!(Path::new(&temporary).starts_with(std::env::temp_dir()), "{temporary}");
        }

        /// [CTL-1] [CTL-6]
        #[tokio::test]
        async fn h77_only_a_dead_socket_is_replaced() {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().join("x.sock");
            let place = path.to_str().expect("UTF-8");
            drop(
                std::os::unix::net::UnixListener::bind(&path).expect("a socket that stays behind"),
            );
            assert!(path.exists());
            let living = bind(place).expect("the dead one is replaced");
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
            let error = bind(place).expect_err("somebody listens").to_string();
            assert!(error.contains("listens there") && error.contains(place), "{error}");
            drop(living);
            assert!(!path.exists(), "a listener takes its socket with it");

            let target = dir.path().join("precious");
            fs::write(&target, "precious").expect("written");
            std::os::unix::fs::symlink(&target, &path).expect("linked");
            assert!(bind(place).expect_err("a link").to_string().contains("symbolic link"));
            remove(place);
            fs::remove_file(&path).expect("the link is still there");
            fs::create_dir(&path).expect("a folder");
            assert!(bind(place).expect_err("a folder").to_string().contains("a folder is there"));
            fs::remove_dir(&path).expect("the folder is still there");
            fs::write(&path, "notes").expect("written");
            assert!(bind(place).expect_err("a file").to_string().contains("no socket"));
            remove(place);
            assert_eq!(fs::read_to_string(&path).expect("still there"), "notes");
            assert_eq!(fs::read_to_string(&target).expect("still there"), "precious");
        }
    }
}

#[cfg(windows)]
mod platform {
    use interprocess::local_socket::tokio::prelude::*;
    use interprocess::local_socket::{GenericNamespaced, ListenerOptions};
    use interprocess::os::windows::local_socket::ListenerOptionsExt;
    use interprocess::os::windows::security_descriptor::SecurityDescriptor;
    use widestring::u16cstr;

    use super::*;

    /// The pipe is `\\.\pipe\conduit-<instance>` [CTL-2].
    pub(in crate::registry) fn place(
        _: &Path,
        _: Option<&Path>,
        instance: Uuid,
    ) -> Result<String, RegistryError> {
        Ok(format!("conduit-{}", short(instance)))
    }

    /// A pipe goes with its process.
    pub(super) fn make_way(_: &str) -> Result<(), RegistryError> {
        Ok(())
    }

    pub(super) fn listen(place: &str) -> io::Result<Listener> {
        let name = place.to_ns_name::<GenericNamespaced>()?;
        // A protected list with two entries: everything for the owner and for the system [CTL-3].
        let owner_only = u16cstr!("D:P(A;;GA;;;OW)(A;;GA;;;SY)");
        let descriptor = SecurityDescriptor::deserialize(owner_only)?;
        ListenerOptions::new().name(name).security_descriptor(descriptor).create_tokio()
    }

    pub(in crate::registry) async fn connect(place: &str) -> io::Result<Stream> {
        Stream::connect(place.to_ns_name::<GenericNamespaced>()?).await
    }

    pub(in crate::registry) fn remove(_: &str) {}
}
