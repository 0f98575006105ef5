//! Files that change rarely and therefore are read rarely: single numbers of `/proc/sys`, attributes of `/sys`.
//!
//! Deliberately absent: change events. Neither sysctls nor most attributes have any.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Failures;
use super::procfile::{ProcFile, number};

/// Ticks between two readings of a limit that only an administrator changes: at 1 Hz a minute, in which nobody misses
/// it and after which a finding speaks of the new one.
pub(super) const LIMIT_TICKS: u32 = 60;

/// An attribute of sysfs is a word or a number; the kernel allows a page.
const MAX_ATTRIBUTE: usize = 64;

/// One number in a file of its own, read each [`LIMIT_TICKS`]th time.
pub(super) struct RareNumber {
    file: ProcFile,
    value: Option<u64>,
    wait: u32,
}

impl RareNumber {
    /// The number in the file at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { file: ProcFile::new(path, 4096), value: None, wait: 0 }
    }

    /// The number; `None` where the kernel has none. Another error goes to `failed` under `probe`, and the next call
    /// tries again.
    pub(super) fn read(&mut self, probe: &str, failed: &mut Failures) -> Option<u64> {
        if self.wait > 0 {
            self.wait -= 1;
            return self.value;
        }
        self.value = match self.file.read() {
            Ok(text) => match number(text.trim_ascii()) {
                Some(value) => Some(value),
                None => {
                    failed.push(probe, &self.file.malformed("not a number"));
                    return None;
                }
            },
            Err(e) if e.is_absent() => None,
            Err(e) => {
                failed.push(probe, &e);
                return None;
            }
        };
        self.wait = LIMIT_TICKS - 1;
        self.value
    }
}

/// The value of a sysfs attribute, its blanks trimmed; `None` where the device or its driver has none. Another error
/// goes to `failed` under `probe`.
pub(super) fn attribute<T>(
    path: &Path,
    probe: &str,
    failed: &mut Failures,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut buf = [0; MAX_ATTRIBUTE];
    let read = File::open(path).and_then(|mut file| file.read(&mut buf));
    match read {
        Ok(len) => parse(buf[..len].trim_ascii()),
        Err(e) if is_none(&e) => None,
        Err(e) => {
            failed.push(probe, &format!("reading {}: {e}", path.display()));
            None
        }
    }
}

/// Errors by which the kernel says that there is no such value, or no such device any more.
fn is_none(e: &io::Error) -> bool {
    let none = [Errno::NOENT, Errno::NOTDIR, Errno::INVAL, Errno::OPNOTSUPP, Errno::NODEV, Errno::NXIO];
    none.iter().any(|n| e.raw_os_error() == Some(n.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid_max");
        std::fs::write(&path, "32768\n").unwrap();
        let (mut rare, mut failed) = (RareNumber::new(path.clone()), Failures::default());
        assert_eq!(rare.read("limits", &mut failed), Some(32_768));
        std::fs::write(&path, "65536\n").unwrap();
        for _ in 1..LIMIT_TICKS {
            assert_eq!(rare.read("limits", &mut failed), Some(32_768));
        }
        assert_eq!(rare.read("limits", &mut failed), Some(65_536));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_said_each_time_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid_max");
        std::fs::write(&path, [0xff, 0, 7]).unwrap();
        let (mut rare, mut failed) = (RareNumber::new(path.clone()), Failures::default());
        assert_eq!((rare.read("limits", &mut failed), rare.read("limits", &mut failed)), (None, None));
        assert_eq!(failed.into_vec().len(), 2);
        std::fs::write(&path, "7").unwrap();
        assert_eq!(rare.read("limits", &mut Failures::default()), Some(7));
    }

    #[test]
    fn an_attribute_that_is_a_folder_is_a_failure_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut failed = Failures::default();
        assert_eq!(attribute(&dir.path().join("ro"), "disks", &mut failed, number), None);
        assert_eq!(std::mem::take(&mut failed).into_vec(), Vec::<String>::new());
        assert_eq!(attribute(dir.path(), "disks", &mut failed, number), None);
        assert!(failed.into_vec()[0].starts_with("disks: reading /"));
    }
}
