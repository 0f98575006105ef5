//! A btrfs for a test, with a subvolume that is mounted by itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use crate::sample::mountinfo;

/// A btrfs of 256 MiB, gone at the end.
pub(crate) struct Btrfs {
    /// Where all of it is mounted.
    pub(crate) whole: PathBuf,
    /// Where its subvolume `own` is mounted by itself.
    pub(crate) own: PathBuf,
}

impl Btrfs {
    /// Made and mounted in the folder `at`, on a thread with mounts of its own.
    pub(crate) fn new(at: &Path) -> Self {
        let (image, whole, own) = (at.join("image"), at.join("whole"), at.join("own"));
        File::create(&image).unwrap().set_len(256 << 20).unwrap();
        [&whole, &own].into_iter().for_each(|at| fs::create_dir(at).unwrap());
        run("mkfs.btrfs", &["-q", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&whole)]);
        let made = Self { whole, own };
        made.subvolume("own");
        // By the same loop device: it is the same filesystem.
        let table = fs::read("/proc/thread-self/mountinfo").unwrap();
        let table = mountinfo::parse(&table);
        let source = table.mount_of(text(&made.whole).as_bytes()).unwrap().source.to_vec();
        let source = String::from_utf8(source).unwrap();
        run("mount", &["-o", "subvol=own", &source, text(&made.own)]);
        made
    }

    /// Makes a subvolume at this path beneath the whole, which is no mount.
    pub(crate) fn subvolume(&self, name: &str) -> PathBuf {
        let at = self.whole.join(name);
        run("btrfs", &["subvolume", "create", text(&at)]);
        at
    }

    /// Has everything that is on its way written, freed blocks too.
    pub(crate) fn sync(&self) {
        run("btrfs", &["filesystem", "sync", text(&self.whole)]);
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        for at in [&self.own, &self.whole] {
            let _ = unmount(at, UnmountFlags::DETACH);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).stdout(Stdio::null()).status().unwrap();
    assert!(done.success(), "{program} {args:?}; these tests run as root, with btrfs-progs");
}
