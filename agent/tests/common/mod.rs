//! A filesystem of its own for a test: made in a file, mounted on a loop device, gone when the guard is dropped.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

thread_local! {
    static HAS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread, and those that it starts from now on, a table of descriptors of their own, with the standard ones: a
/// process that another test starts has open, from its fork to its exec, whatever is open in the table that it came from, and
/// a file that is open elsewhere stays. To be called before this thread opens anything.
pub fn own_descriptors() {
    // Tests that run in the main thread run one by one.
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    if is_main || HAS_OWN.replace(true) {
        return;
    }
    // SAFETY: a plain system call, and what it takes from this thread is in use by others alone.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// A temporary folder, for files that only this test has open.
pub fn folder() -> tempfile::TempDir {
    own_descriptors();
    tempfile::tempdir().expect("a temp folder")
}

/// A mounted filesystem; unmounted and its loop device released on drop, also when the test panics.
pub struct LoopFs {
    temp: Option<tempfile::TempDir>,
    mount: PathBuf,
}

impl LoopFs {
    /// A fresh ext4 of `mib` MiB.
    pub fn ext4(mib: u64) -> Self {
        own_descriptors();
        Self::ext4_for_all(mib)
    }

    /// The same, for a test that keeps the table of descriptors of its process: tokio has some that its runtimes share.
    pub fn ext4_for_all(mib: u64) -> Self {
        let temp = tempfile::tempdir().expect("a temp folder");
        let image = temp.path().join("image");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(mib << 20).expect("a sparse image");
        // Lazy initialisation would change the free space in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run("mkfs.ext4", &["-q", "-F", "-E", options, path(&image)]);
        Self::mount(temp, &["-o", "loop", path(&image)])
    }

    /// A fresh XFS, of the least size that `mkfs.xfs` makes; the image is sparse.
    pub fn xfs() -> Self {
        let temp = folder();
        let image = temp.path().join("image");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(320 << 20).expect("a sparse image");
        run("mkfs.xfs", &["-q", "-f", "-K", path(&image)]);
        Self::mount(temp, &["-o", "loop", path(&image)])
    }

    /// A fresh btrfs of `mib` MiB; the image is sparse.
    pub fn btrfs(mib: u64) -> Self {
        let temp = folder();
        let image = temp.path().join("image");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(mib << 20).expect("a sparse image");
        run("mkfs.btrfs", &["-q", path(&image)]);
        Self::mount(temp, &["-o", "loop", path(&image)])
    }

    /// A fresh tmpfs of `mib` MiB.
    pub fn tmpfs(mib: u64) -> Self {
        let temp = folder();
        let size = format!("size={mib}m");
        Self::mount(temp, &["-t", "tmpfs", "-o", &size, "dogwatch-test"])
    }

    fn mount(temp: tempfile::TempDir, args: &[&str]) -> Self {
        let mount = temp.path().join("mnt");
        std::fs::create_dir(&mount).expect("a mount point");
        let mut args = args.to_vec();
        args.push(path(&mount));
        let guard = Self { temp: Some(temp), mount: mount.clone() };
        run("mount", &args);
        guard
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let recursive = Command::new("umount").args(["-R", path(&self.mount)]).output();
        if !recursive.is_ok_and(|o| o.status.success()) {
            // Somebody still holds it: take it out of the tree; the loop device goes with the last user.
            let _ = Command::new("umount").args(["-R", "-l", path(&self.mount)]).output();
        }
        // Never remove what lies beneath a mount that would not go.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(path(&self.mount))
            && let Some(temp) = self.temp.take()
        {
            let _ = temp.keep();
        }
    }
}

/// Mounts a tmpfs at `at`, beneath a [`LoopFs`] (which unmounts it too).
pub fn mount_tmpfs(at: &Path) {
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "dogwatch-test", path(at)]);
}

/// The number of the filesystem that `path` lies on, as the table of mounts has it and findmnt(8) reads it.
pub fn filesystem(path: &Path) -> u64 {
    let args = ["--noheadings", "--output", "MAJ:MIN", "--target", self::path(path)];
    let said = String::from_utf8(run("findmnt", &args).stdout).expect("a number");
    let (major, minor) = said.trim().split_once(':').expect("two numbers");
    rustix::fs::makedev(major.parse().expect("a number"), minor.parse().expect("a number"))
}

/// Runs a program that must succeed.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output();
    let Ok(output) = output else { unreachable!("these tests need {program}: {output:?}") };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} failed; these tests need root and loop devices: {stderr}");
    output
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temp folders are UTF-8")
}
