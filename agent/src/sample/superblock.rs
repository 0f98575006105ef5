//! On which filesystem something lies, by the number that the table of mounts has for it.
//!
//! For most filesystems that is `st_dev`. A btrfs has one `st_dev` for each of its subvolumes and another number in the table,
//! so that what stat(2) says must not be compared with what the table says. statx(2) tells on which mount something lies, and
//! the table's line of that mount tells the number.
//!
//! What the table does not tell (the mount is another namespace's, or the kernel is older than 5.8) goes by its `st_dev`.
//!
//! Deliberately absent: telling one file from another. Two subvolumes have files of the same inode number, which only `st_dev`
//! tells apart.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, major, makedev};
use rustix::io::Errno;

use super::mountinfo::{self, Table};

/// The table is read to here: a container's line takes up to 4 KiB.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// The number of the filesystem that `fd` is open on.
pub(crate) fn of(fd: impl AsFd) -> Result<u64, Errno> {
    at(fd, c"", AtFlags::EMPTY_PATH)
}

/// The same of what is at `path`, links followed.
pub(crate) fn of_path(path: &Path) -> Result<u64, Errno> {
    at(CWD, path, AtFlags::empty())
}

fn at(fd: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> Result<u64, Errno> {
    let facts = rustix::fs::statx(fd, path, flags, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
    let mount = (facts.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(facts.stx_mnt_id);
    Ok(number(makedev(facts.stx_dev_major, facts.stx_dev_minor), mount))
}

/// The number of the filesystem of what has this `st_dev` and lies on the mount with this id.
pub(crate) fn number(st_dev: u64, mount: Option<u64>) -> u64 {
    // What has a block device's number has it in the table too.
    if major(st_dev) != 0 {
        return st_dev;
    }
    let mut text = Vec::new();
    let read = File::open("/proc/thread-self/mountinfo")
        .and_then(|table| table.take(MAX_TABLE_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => in_table(&mountinfo::parse(&text), mount).unwrap_or(st_dev),
        Err(_) => st_dev,
    }
}

fn in_table(table: &Table<'_>, mount: Option<u64>) -> Option<u64> {
    let entry = table.entries.iter().find(|e| Some(u64::from(e.id)) == mount)?;
    Some(makedev(entry.dev_major, entry.dev_minor))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn most_filesystems_have_one_number() {
        let temp = tempfile::tempdir().unwrap();
        for path in [temp.path(), Path::new("/"), Path::new("/proc"), Path::new("/dev")] {
            let st_dev = std::fs::metadata(path).unwrap().dev();
            assert_eq!(of_path(path), Ok(st_dev), "{}", path.display());
            assert_eq!(of(File::open(path).unwrap()), Ok(st_dev), "{}", path.display());
        }
        assert!(of_path(&temp.path().join("none")).is_err());
    }

    #[test]
    fn the_table_decides_by_the_mount_and_what_it_does_not_tell_goes_by_its_st_dev() {
        let text = b"36 35 0:39 /sub /data rw - btrfs /dev/loop0 rw\n37 35 0:50 / /t rw - tmpfs t rw\n";
        let table = mountinfo::parse(text);
        assert_eq!(in_table(&table, Some(36)), Some(makedev(0, 39)));
        assert_eq!(in_table(&table, Some(37)), Some(makedev(0, 50)));
        assert_eq!((in_table(&table, Some(38)), in_table(&table, None)), (None, None));
        assert_eq!(number(makedev(0, 40), None), makedev(0, 40));
        assert_eq!(number(makedev(8, 1), Some(u64::MAX)), makedev(8, 1));
    }
}
