//! Descriptors of a test's own: a process that another test starts has open, from its fork to its exec, whatever is open in
//! the table of descriptors that it came from. Then a file is in use, and nobody gets a lease on it.

use std::cell::Cell;

thread_local! {
    static DONE: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread, and those that it starts from now on, a table of descriptors of their own, with the standard ones. It
/// must have no others yet.
pub(crate) fn descriptors() {
    // Tests that run in the main thread run one by one.
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    if is_main || DONE.replace(true) {
        return;
    }
    // SAFETY: a plain system call, and what it takes from this thread is in use by others alone.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::act::lease::{Claim, claim};

    #[test]
    fn what_others_start_takes_no_file_along() {
        const STARTS: usize = 100;
        let started = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=STARTS {
                    assert!(Command::new("true").status().unwrap().success());
                    started.store(n, Ordering::Relaxed);
                }
            });
            descriptors();
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("f");
            while started.load(Ordering::Relaxed) < STARTS {
                fs::write(&path, "x").unwrap();
                let claimed = claim(&OwnedFd::from(File::open(&path).unwrap()));
                assert!(matches!(claimed, Claim::Ours), "{claimed:?}");
            }
        });
    }
}
