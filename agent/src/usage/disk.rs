//! Which device numbers are one filesystem's. A btrfs has one for each of its subvolumes, and all of them fill it.
//!
//! Limit: what a process has open in a subvolume that is no mount is known by the mount that it is reached through, in the
//! node's own table; by a mount of another namespace, such as a container's, it is not.

use std::collections::HashSet;

use rustix::fs::{Statx, StatxFlags, major, makedev};

use super::open_files::read_bounded;
use super::place::{local, seen};
use crate::sample::{Roots, mountinfo};

/// A filesystem, by all numbers that it goes by.
#[derive(Debug)]
pub(super) struct Disk {
    st_devs: HashSet<u64>,
    /// Where it is mounted on the node, by their ids.
    mounts: HashSet<u64>,
}

impl Disk {
    /// The filesystem that the table of mounts calls by this `number`.
    pub(super) fn of(roots: &Roots, number: u64) -> Self {
        let mut disk = Self { st_devs: HashSet::from([number]), mounts: HashSet::new() };
        // What has a block device's number has no other.
        if major(number) != 0 {
            return disk;
        }
        let Ok(text) = read_bounded(&roots.mountinfo) else { return disk };
        let table = mountinfo::parse(&text);
        let is_it =
            |e: &&mountinfo::Entry<'_>| *e.fs == *b"btrfs" && makedev(e.dev_major, e.dev_minor) == number;
        for entry in table.entries.iter().filter(is_it) {
            disk.mounts.insert(u64::from(entry.id));
            let Ok(path) = std::str::from_utf8(&entry.path) else { continue };
            // What another mount hides, and what is reached over a server, is not looked at.
            if local(&table.entries, path).is_ok_and(|shown| shown.id == entry.id)
                && let Ok(there) = rustix::fs::stat(seen(roots, path.as_ref()))
            {
                disk.st_devs.insert(there.st_dev);
            }
        }
        disk
    }

    /// Whether what statx(2) says this of lies on it; its mount should have been asked for.
    pub(super) fn has(&self, facts: &Statx) -> bool {
        let st_dev = makedev(facts.stx_dev_major, facts.stx_dev_minor);
        let by_mount =
            || facts.stx_mask & StatxFlags::MNT_ID.bits() != 0 && self.mounts.contains(&facts.stx_mnt_id);
        self.st_devs.contains(&st_dev) || by_mount()
    }
}
