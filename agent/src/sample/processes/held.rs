//! `/proc/PID/stat` of all processes, with the descriptors of most of them kept open.
//!
//! Of what reading a process costs, half is the kernel's finding the file and letting it go again; on a node that idles it
//! was the largest part of all that the agent did. So the descriptors stay open, up to a bound: each pins some 6 KiB of
//! the kernel's memory, of which the text's page is the most, and that is charged to the agent's control group.
//!
//! An open file keeps neither the process nor its number: once the process is gone reading it says ESRCH, also when another
//! one has its number. So a descriptor can tell no wrong figures, only none, and then the number is looked up anew.
//!
//! Invariants: at most `max` descriptors, only on a proc filesystem (a folder's file would outlive its folder), and only of
//! processes that two scans have met: those that come and go cost nothing more than before.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, PROC_SUPER_MAGIC, fstatfs};
use rustix::io::{Errno, pread};

use super::stat::{open_beneath, read_beneath};

/// Descriptors that may stay open, however high the limit: 3 MiB of the kernel's memory, and every process of most nodes.
const MAX_HELD: u64 = 512;
/// Of what the process may have open at most, one part in this many: control groups and logs want most.
const SHARE: u64 = 8;

/// What is open.
pub(super) struct Held {
    by_pid: HashMap<u32, Open>,
    max: usize,
    scan: u32,
    /// Whether the folder is a proc filesystem; found out at the first use.
    is_proc: Option<bool>,
}

struct Open {
    stat: OwnedFd,
    scan: u32,
}

impl Held {
    /// None yet; as many as this process's limit of open files lets be.
    pub(super) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::at_most(MAX_HELD.min(limit.unwrap_or(u64::MAX) / SHARE) as usize)
    }

    fn at_most(max: usize) -> Self {
        Self { by_pid: HashMap::new(), max, scan: 0, is_proc: None }
    }

    /// Reads `PID/stat` beneath `dir` into `buf`. `known`: the last scan has met that number too.
    pub(super) fn read(
        &mut self,
        dir: BorrowedFd<'_>,
        pid: u32,
        known: bool,
        buf: &mut [u8],
    ) -> io::Result<usize> {
        if let Some(open) = self.by_pid.get_mut(&pid) {
            match read_again(&open.stat, buf) {
                Ok(len) if len > 0 => {
                    open.scan = self.scan;
                    return Ok(len);
                }
                // Gone; another process may have its number already.
                _ => drop(self.by_pid.remove(&pid)),
            }
        }
        let has_room = known && self.by_pid.len() < self.max;
        if !has_room || !*self.is_proc.get_or_insert_with(|| is_proc(dir)) {
            return read_beneath(dir, pid, c"/stat", buf);
        }
        let stat = open_beneath(dir, pid, c"/stat", OFlags::empty())?;
        let len = read_again(&stat, buf)?;
        self.by_pid.insert(pid, Open { stat, scan: self.scan });
        Ok(len)
    }

    /// Ends a scan: what it has not met is closed.
    pub(super) fn end_scan(&mut self) {
        let scan = self.scan;
        self.by_pid.retain(|_, open| open.scan == scan);
        self.scan = self.scan.wrapping_add(1);
    }
}

fn is_proc(dir: BorrowedFd<'_>) -> bool {
    fstatfs(dir).is_ok_and(|f| f.f_type == PROC_SUPER_MAGIC)
}

fn read_again(stat: &OwnedFd, buf: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match pread(stat, &mut *buf, 0) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use super::*;
    use crate::sample::processes::parse_stat;

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("300").spawn().unwrap())
        }

        fn end(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn starts(held: &mut Held, dir: &File, pid: u32, known: bool) -> Option<u64> {
        let mut buf = [0; 4096];
        let len = held.read(dir.as_fd(), pid, known, &mut buf).ok()?;
        parse_stat(&buf[..len]).map(|s| s.start_ticks)
    }

    #[test]
    fn a_process_that_ended_gives_no_more_figures_and_its_descriptor_back() {
        let proc = File::open("/proc").unwrap();
        let mut held = Held::at_most(8);
        let mut sleeper = Sleeper::start();
        let pid = sleeper.0.id();
        let first = starts(&mut held, &proc, pid, false).unwrap();
        assert!(held.by_pid.is_empty(), "met once");
        assert_eq!(starts(&mut held, &proc, pid, true), Some(first));
        assert_eq!(held.by_pid.len(), 1);
        assert_eq!(starts(&mut held, &proc, pid, true), Some(first), "from the descriptor that is held");
        sleeper.end();
        assert_eq!(starts(&mut held, &proc, pid, true), None);
        assert!(held.by_pid.is_empty());
    }

    #[test]
    fn what_a_scan_has_not_met_is_closed_and_the_bound_holds() {
        let proc = File::open("/proc").unwrap();
        let mut held = Held::at_most(2);
        let sleepers: Vec<Sleeper> = (0..3).map(|_| Sleeper::start()).collect();
        for s in &sleepers {
            assert!(starts(&mut held, &proc, s.0.id(), true).is_some());
        }
        assert_eq!(held.by_pid.len(), 2);
        held.end_scan();
        assert!(starts(&mut held, &proc, sleepers[1].0.id(), true).is_some());
        held.end_scan();
        assert_eq!(held.by_pid.keys().collect::<Vec<_>>(), [&sleepers[1].0.id()]);
    }

    #[test]
    fn files_of_folders_are_not_held() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("7")).unwrap();
        std::fs::write(dir.path().join("7/stat"), "7 (x) S").unwrap();
        let folder = File::open(dir.path()).unwrap();
        let mut held = Held::at_most(2);
        assert_eq!(held.read(folder.as_fd(), 7, true, &mut [0; 64]).unwrap(), 7);
        assert!(held.by_pid.is_empty());
    }
}
