//! A Unix socket that listens, and the file that stands for it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::{ListenError, Listening};
use crate::ends::{Peer, Stream};
use crate::tunnel::{Bind, UnixPath};

/// A Unix socket that listens, for the user that this process runs as. Its file goes with it.
#[derive(Debug)]
pub(super) struct UnixSocket {
    // Dropped first: as long as the socket is open, no other file can get the number that `place` remembers.
    _place: Place,
    listener: UnixListener,
}

/// The file of a socket that was bound here; removed on drop, unless another one has taken its place.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixSocket {
    /// Binds and listens. A socket that nobody listens on makes way; anything else stays as it is.
    pub(super) fn bind(path: &UnixPath, backlog: u32) -> Result<Self, ListenError> {
        let end = Bind::Unix(path.clone());
        let path = path.path();
        let _turn = path.parent().and_then(turn);
        make_way(&end, path)?;
        listening(path, backlog).map_err(|source| ListenError::new(&end, source))
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match stream.peer_cred() {
            Ok(peer) => Peer::Unix { pid: peer.pid(), uid: Some(peer.uid()) },
            Err(_) => Peer::Unix { pid: None, uid: None },
        };
        Ok((stream.into(), peer))
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn listening(path: &Path, backlog: u32) -> io::Result<UnixSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let place = Place::of(path)?;
    // Whatever the umask has left: nobody can connect before it listens.
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    if !place.is_private() {
        return Err(io::Error::other("its file cannot be kept from other users"));
    }
    socket.listen(Listening::backlog(backlog))?;
    Ok(UnixSocket { _place: place, listener: UnixListener::from_std(socket.into())? })
}

/// Keeps others who do the same from looking before this one has bound. Where the folder cannot be locked, the look
/// has to do; so it has when somebody sits on the lock, which any user may who can read the folder.
fn turn(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    for _ in 0..TURN_TRIES {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_PAUSE),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Removes a socket that nobody listens on; says what else is in the way.
fn make_way(end: &Bind, path: &Path) -> Result<(), ListenError> {
    let occupied = |what| Err(ListenError::Occupied { end: end.to_string(), what });
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| ListenError::new(end, source))?.file_type(),
    };
    if found.is_symlink() {
        return occupied("a symbolic link");
    }
    if found.is_dir() {
        return occupied("a folder");
    }
    if !found.is_socket() {
        return occupied("a file that is no socket");
    }
    match knock(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| ListenError::new(end, source))
        }
        _ => Err(ListenError::InUse { end: end.to_string() }),
    }
}

/// Connects, without waiting for whoever does not come to accept.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    fn found(&self) -> Option<fs::Metadata> {
        let found = fs::symlink_metadata(&self.path).ok()?;
        (found.dev() == self.device && found.ino() == self.inode).then_some(found)
    }

    fn is_private(&self) -> bool {
        let is_private = |found: fs::Metadata| {
            found.file_type().is_socket() && found.permissions().mode() & 0o777 == PRIVATE
        };
        self.found().is_some_and(is_private)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.found().is_some() {
            // A socket that stays is in nobody's way: the next listener replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connecting takes the right to write.
const PRIVATE: u32 = 0o600;
/// Binding takes microseconds: so many of them can go before this one.
const TURN_TRIES: u32 = 100;
/// A tenth of a second in all, at the start of a tunnel.
const TURN_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
