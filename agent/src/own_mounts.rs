//! A mount namespace of a test's own, in which it may mount what it likes.

mod btrfs;

use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::act::unshared;

pub(crate) use btrfs::Btrfs;

/// Runs `scene` on a thread with a mount namespace of its own, with a folder for it to mount things in: nothing of that
/// is seen outside or left behind, and nobody else meets what hangs.
pub(crate) fn in_own_mounts<T: Send + 'static>(scene: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    // Removed from outside, where no mount keeps it busy.
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    let thread = std::thread::spawn(move || {
        // SAFETY: only the mount namespace (and with it the working directory) of this thread is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
            .expect("a mount namespace needs root (CAP_SYS_ADMIN): run the tests as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        unshared::descriptors();
        scene(&at)
    });
    thread.join().unwrap()
}

/// Mounts a filesystem whose server never answers; what waits for it waits until that is dropped.
pub(crate) fn mount_dead(at: &Path) -> std::fs::File {
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    let server = server.expect("needs /dev/fuse and root");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = std::ffi::CString::new(options).unwrap();
    mount("dead", at, "fuse", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    server
}

/// So many mounts at `at` that the next one is not read any more.
pub(crate) fn fill_the_table(at: &Path) {
    std::fs::create_dir(at).unwrap();
    mount_bind(at, at).unwrap();
    // Each time as many again.
    for doubling in 0..14 {
        let copy = at.join(doubling.to_string());
        std::fs::create_dir(&copy).unwrap();
        mount_bind_recursive(at, copy).unwrap();
    }
}
