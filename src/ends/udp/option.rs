//! Socket options that no library here knows.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

/// Sets an integer option to 0.
pub(super) fn switch_off(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<()> {
    let off: libc::c_int = 0;
    let length = size_of_val(&off) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads `length` bytes of `off`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const off).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_MEMINFO` (Linux, `sock_diag.h`).
pub(super) fn memory(socket: &impl AsRawFd) -> io::Result<[u32; 9]> {
    let mut memory = [0u32; 9];
    let mut length = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            (&raw mut memory).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(memory) } else { Err(io::Error::last_os_error()) }
}

const SO_MEMINFO: libc::c_int = 55;
/// `SK_MEMINFO_DROPS`.
pub(super) const DROPS: usize = 8;
