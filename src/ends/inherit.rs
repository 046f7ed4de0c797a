//! Descriptors that the next program of this process inherits, by their numbers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// A copy that stays open when this process becomes another program: its number. Everything else that Conduit opens
/// closes then.
pub fn leave(descriptor: impl AsFd) -> io::Result<u32> {
    // What dup(2) returns is inherited.
    let copy = rustix::io::dup(descriptor)?;
    Ok(copy.into_raw_fd().cast_unsigned())
}

/// The same without a copy, for many: whoever owns the descriptor keeps it open until then.
pub fn leave_open(descriptor: impl AsFd) -> io::Result<u32> {
    rustix::io::fcntl_setfd(&descriptor, FdFlags::empty())?;
    Ok(descriptor.as_fd().as_raw_fd().cast_unsigned())
}

/// Takes what the program before has left. Fails when there is nothing of that number, or it is this program's own.
pub fn adopt(number: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number)
        .ok()
        .filter(|number| *number > LAST_STANDARD)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    #[allow(unsafe_code)]
    // SAFETY: it is borrowed for the two calls below and no longer, and both fail when nothing is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::other(format!("descriptor {number} was not left to this program")));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    #[allow(unsafe_code)]
    // SAFETY: it is open, and nobody else's: all that this program opens itself closes on exec, and so does from here on
    // what was adopted once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Standard input, output and error are everybody's.
const LAST_STANDARD: RawFd = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_adopted_once_and_nothing_else_is() {
        let file = tempfile::tempfile().expect("a file");
        let number = leave(&file).expect("a number");
        let adopted = adopt(number).expect("adopted");
        assert!(adopt(number).is_err(), "it is owned already");
        let own = file.into_raw_fd();
        assert!(adopt(own.cast_unsigned()).is_err(), "std's files close on exec");
        drop(adopted);
        let other = tempfile::tempfile().expect("a file");
        let number = leave_open(&other).expect("a number");
        std::mem::forget(other);
        drop(adopt(number).expect("adopted"));
        for number in [0, 1, 2, 900_000, u32::MAX] {
            assert!(adopt(number).is_err(), "{number}");
        }
    }
}
