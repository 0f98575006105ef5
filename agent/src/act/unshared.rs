//! Descriptors of a test's own: a process that another test starts has open, from its fork to its exec, whatever is open in
//! the table of descriptors that it came from. Then a file is in use, and nobody gets a lease on it.

/// One flag for all that ask: a second call would close what the first one's thread has opened since.
pub(crate) use super::races::common::own_descriptors as descriptors;

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
