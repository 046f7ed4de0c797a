//! The last files that a process may have are not for its users: the operator still has to be answered, and the
//! connection to the router may need a new socket.

use std::io;

/// Whether `opened` is one of the last files that this process may have, and no other one is free.
#[cfg(unix)]
pub(super) fn are_scarce(opened: impl std::os::fd::AsFd) -> bool {
    use std::os::fd::AsRawFd;

    use rustix::process::{Resource, getrlimit};

    // Asked each time: somebody may change it (prlimit).
    let Some(limit) = getrlimit(Resource::Nofile).current else { return false };
    let is_last = |number: i32| u64::try_from(number).is_ok_and(|it| it + KEPT_FREE >= limit);
    // The system gives the lowest number that is free.
    is_last(opened.as_fd().as_raw_fd())
        && rustix::io::fcntl_dupfd_cloexec(&opened, 0)
            .map_or(true, |next| is_last(next.as_raw_fd()))
}

/// Files do not run out there.
#[cfg(not(unix))]
pub(super) fn are_scarce<T>(_: T) -> bool {
    false
}

/// What is said then.
pub(super) fn scarce() -> io::Error {
    #[cfg(unix)]
    return rustix::io::Errno::MFILE.into();
    #[cfg(not(unix))]
    io::Error::other("too many open files")
}

/// For three commands that ask at once, two calls each, and a socket for either carrier.
#[cfg(unix)]
const KEPT_FREE: u64 = 8;

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn files_are_not_scarce_where_there_are_thousands() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(!are_scarce(&file));
        assert_eq!(scarce().raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    }
}
