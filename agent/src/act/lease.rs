//! Whether anybody else has a file open, asked of the kernel: a write lease is granted to the only opener alone.
//!
//! While it is held, whoever opens (or truncates by path) waits until it is released, or for the kernel's
//! `lease-break-time`; the holder sees the wish at once ([`still_ours`]) and gives way. Closing the descriptor releases
//! the lease.
//!
//! Deliberately absent: O_PATH descriptors. The kernel does not count them; a file that only they refer to is unlinked
//! and its bytes show as unexplained.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `F_SETSIG` of `asm-generic/fcntl.h`, which libc does not export.
const F_SETSIG: libc::c_int = 10;

/// The kernel's answer.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nobody else has it open, and nobody can without our seeing it.
    Ours,
    /// Somebody has it open (or runs it).
    OpenElsewhere,
    /// The filesystem has no leases, or this process may not take one here.
    CannotTell(io::Error),
}

/// Asks for a write lease on `fd`, which must be open for reading only.
pub(super) fn claim(fd: &OwnedFd) -> Claim {
    // The default signal for a broken lease, SIGIO, kills; SIGURG is ignored by default. We poll and need neither.
    // SAFETY: fcntl with integer arguments on a descriptor that we own.
    if unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) } < 0 {
        return Claim::CannotTell(io::Error::last_os_error());
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } == 0 {
        return Claim::Ours;
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ETXTBSY | libc::EBUSY) => Claim::OpenElsewhere,
        _ => Claim::CannotTell(error),
    }
}

/// Whether the lease on `fd` is whole: held, and nobody waits for it.
pub(super) fn still_ours(fd: impl AsFd) -> bool {
    // SAFETY: fcntl without a third argument on a descriptor that is borrowed for the call.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETLEASE) == libc::F_WRLCK }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_lease_tells_who_else_has_it_open() {
        crate::act::unshared::descriptors();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let mine = OwnedFd::from(File::open(&path).unwrap());
        let theirs = File::open(&path).unwrap();
        assert!(matches!(claim(&mine), Claim::OpenElsewhere));
        drop(theirs);
        assert!(matches!(claim(&mine), Claim::Ours));
        assert!(still_ours(&mine));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let refused = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::AGAIN);
        assert!(!still_ours(&mine), "somebody waits, and it shows");
    }
}
