//! Which files are locked, from `/proc/locks` (proc_locks(5)).
//!
//! The table is opened before the executor is confined; reading it from its start again shows the locks of that moment.
//! Locks are matched by inode number alone: btrfs shows another device there than `st_dev`, and a mistaken match only
//! keeps a file. From within a PID namespace only that namespace's locks are seen.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Largest table that is read; a longer one cannot be judged. A line has about 60 bytes.
const MAX_TABLE_BYTES: usize = 4 << 20;

/// The table of locks.
#[derive(Debug, Default)]
pub(in crate::act) struct Locks {
    table: Option<File>,
}

impl Locks {
    /// Opens the table of `proc`; without one, every lock is unseen.
    pub(super) fn open(proc: &Path) -> Self {
        Self { table: File::open(proc.join("locks")).ok() }
    }

    /// Whether somebody holds a lock on the file at `path`; one that is not there, or not seen from here, is free.
    ///
    /// # Errors
    /// Why nobody can tell.
    pub(super) fn hold(&self, path: &Path) -> Result<bool, String> {
        let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(false) };
        let Some(table) = &self.table else { return Ok(false) };
        let text = read(table).map_err(|e| format!("nobody can tell who holds {}: {e}", path.display()))?;
        Ok(locked_inodes(&text).any(|inode| inode == file.ino()))
    }
}

fn read(table: &File) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match table.read_at(&mut chunk, text.len() as u64) {
            Ok(0) => return Ok(text),
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if text.len() > MAX_TABLE_BYTES {
            return Err(std::io::Error::other(format!("/proc/locks is longer than {MAX_TABLE_BYTES} bytes")));
        }
    }
}

/// The inodes of `1: POSIX  ADVISORY  WRITE 4711 fe:00:131 0 EOF`; waiting ones (`1: -> …`) name the same inode.
fn locked_inodes(table: &[u8]) -> impl Iterator<Item = u64> {
    table.split(|b| *b == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let place = line.split_ascii_whitespace().find(|word| word.matches(':').count() == 2)?;
        place.rsplit(':').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = b"1: POSIX  ADVISORY  WRITE 4711 fe:00:131 0 EOF\n1: -> POSIX  ADVISORY  WRITE 4712 fe:00:131 0 EOF\n\
                      2: FLOCK  ADVISORY  WRITE 12 00:1a:77 0 EOF\n3: OFDLCK ADVISORY READ -1 08:01:9 0 0\nnonsense\n";
        assert_eq!(locked_inodes(table).collect::<Vec<_>>(), [131, 131, 77, 9]);
    }

    #[test]
    fn a_lock_that_somebody_holds_is_seen_at_the_moment_of_asking() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let locks = Locks::open(Path::new("/proc"));
        assert!(locks.table.is_some(), "this test needs a readable /proc/locks");
        assert_eq!(locks.hold(temp.path()), Ok(false));
        rustix::fs::flock(temp.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(locks.hold(temp.path()), Ok(true));
        rustix::fs::flock(temp.as_file(), rustix::fs::FlockOperation::Unlock).unwrap();
        assert_eq!(locks.hold(temp.path()), Ok(false));
        assert_eq!(locks.hold(Path::new("/nowhere/at/all")), Ok(false));
    }
}
