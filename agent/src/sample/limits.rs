//! What the kernel has a limit for: `/proc/sys/fs/file-nr` each tick; `kernel.pid_max` and `kernel.threads-max` rarely.
//!
//! The number of tasks stands in `/proc/loadavg`, which [`super::cpu`] reads; it is handed in. Since Linux 6.14 each PID
//! namespace has a `pid_max`: it is the host's where the agent shares the host's PID namespace.
//!
//! Deliberately absent: limits of one process or one control group.

use std::path::Path;

use dogwatch::record::Limits;

use super::Failures;
use super::procfile::{ProcFile, fields, number};
use super::rare::RareNumber;

const PROBE: &str = "limits";

/// Reader of the kernel's limits.
pub(super) struct LimitsProbe {
    file_nr: ProcFile,
    pid_max: RareNumber,
    threads_max: RareNumber,
}

impl LimitsProbe {
    /// A reader beneath `proc`.
    pub(super) fn new(proc: &Path) -> Self {
        let sysctls = proc.join("sys");
        Self {
            file_nr: ProcFile::new(sysctls.join("fs/file-nr"), 4096),
            pid_max: RareNumber::new(sysctls.join("kernel/pid_max")),
            threads_max: RareNumber::new(sysctls.join("kernel/threads-max")),
        }
    }

    /// The reading, with `tasks` as counted elsewhere; `None` where nothing at all is known.
    pub(super) fn read(&mut self, tasks: Option<u64>, failed: &mut Failures) -> Option<Limits> {
        let (open_files, open_files_max) = self.files(failed).unzip();
        let limits = Limits {
            open_files,
            open_files_max,
            tasks,
            pid_max: self.pid_max.read(PROBE, failed),
            threads_max: self.threads_max.read(PROBE, failed),
        };
        (limits != Limits::default()).then_some(limits)
    }

    fn files(&mut self, failed: &mut Failures) -> Option<(u64, u64)> {
        let error = match self.file_nr.read() {
            Ok(text) => match parse_file_nr(text) {
                Some(files) => return Some(files),
                None => self.file_nr.malformed("not three numbers"),
            },
            Err(e) if e.is_absent() => return None,
            Err(e) => e,
        };
        failed.push(PROBE, &error);
        None
    }
}

/// Handles in use and their limit. The second number, handles allocated but free, is 0 since Linux 2.6.
fn parse_file_nr(text: &[u8]) -> Option<(u64, u64)> {
    let mut words = fields(text);
    let mut next = || number(words.next()?);
    let (allocated, free, max) = (next()?, next()?, next()?);
    Some((allocated.saturating_sub(free), max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(file_nr: &[u8], pid_max: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["sys/fs", "sys/kernel"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("sys/fs/file-nr"), file_nr).unwrap();
        std::fs::write(dir.path().join("sys/kernel/pid_max"), pid_max).unwrap();
        dir
    }

    #[test]
    fn what_is_known_is_told_and_what_is_absent_is_not() {
        let dir = host(b"591\t0\t9223372036854775807\n", b"4194304\n");
        let mut failed = Failures::default();
        let limits = LimitsProbe::new(dir.path()).read(Some(94), &mut failed).unwrap();
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        let expected = Limits {
            open_files: Some(591),
            open_files_max: Some(i64::MAX as u64),
            tasks: Some(94),
            pid_max: Some(4_194_304),
            threads_max: None,
        };
        assert_eq!(limits, expected);
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(LimitsProbe::new(nothing.path()).read(None, &mut Failures::default()), None);
    }

    #[test]
    fn nonsense_costs_its_part_and_is_said() {
        let dir = host(b"\xff 1", b"many");
        let mut failed = Failures::default();
        let limits = LimitsProbe::new(dir.path()).read(Some(1), &mut failed);
        assert_eq!(limits, Some(Limits { tasks: Some(1), ..Limits::default() }));
        let failed = failed.into_vec();
        assert!(
            failed[0].contains("file-nr: not three numbers") && failed[1].contains("pid_max"),
            "{failed:?}"
        );
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        let limits = LimitsProbe::new(Path::new("/proc")).read(None, &mut failed).unwrap();
        assert!(limits.open_files > Some(0) && limits.pid_max > Some(0) && limits.threads_max > Some(0));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..256)) {
            parse_file_nr(&text);
        }

        #[test]
        fn no_numbers_make_it_panic(words in prop::collection::vec("[0-9]{1,24}|-1", 0..5)) {
            parse_file_nr(words.join("\t").as_bytes());
        }
    }
}
