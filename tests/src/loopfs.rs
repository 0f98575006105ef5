//! A filesystem of its own in a file: to fill it, to freeze it, to cut its power.
//!
//! [`LoopFs`] makes an image in a temporary folder, mounts it through a loop device and takes everything away again
//! when dropped, also while a test unwinds. The loop device is bound with autoclear, so that it goes with the mount.
//!
//! [`LoopFs::shutdown`] is the power cut: from then on the filesystem writes nothing, neither data nor its log. What
//! reached the image before stays, what was only in memory is gone after [`LoopFs::remount`]. Writes that the image
//! had accepted are never lost or torn by it: a disk that lies about its own cache is not imitated here.
//!
//! Needs root and `mkfs`, `mount`, `umount` of the filesystem at hand, and says so when it lacks one.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN` and its twins of XFS and f2fs: `_IOR('X', 125, __u32)`.
const IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither data nor log is written: what a power cut does.
const SHUTDOWN_NOLOGFLUSH: u32 = 2;
/// `_IOWR('X', 119, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// `_IOWR('X', 120, int)`.
const FITHAW: libc::c_ulong = 0xc004_5878;
/// How long an unmount waits for the last descriptor of a process that is ending.
const UNMOUNT_WAIT: Duration = Duration::from_secs(60);
/// How long a mount waits for the last copy of the one before it.
const HELD_ELSEWHERE: Duration = Duration::from_secs(60);
/// Pause between two attempts at it.
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A file of that name, through a loop device.
    Image { path: PathBuf, fstype: String },
    /// Memory, of that many bytes; gone with the mount.
    Memory { bytes: u64 },
}

/// A mounted filesystem that a test owns.
#[derive(Debug)]
pub struct LoopFs {
    source: Source,
    mount_point: PathBuf,
    mounted: Cell<bool>,
    frozen: Cell<bool>,
    /// Holds image and mount point; its own drop comes after the unmount in [`Drop`].
    _folder: TempDir,
}

impl LoopFs {
    /// Makes a filesystem of `bytes` with `mkfs.<fstype> <mkfs_options>` and mounts it. The image is sparse, so a
    /// large one costs what is written to it.
    pub fn create(bytes: u64, fstype: &str, mkfs_options: &[&str]) -> Result<Self> {
        require_root()?;
        let (folder, mount_point) = folder()?;
        let image = folder.path().join("image");
        File::create(&image)
            .and_then(|f| f.set_len(bytes))
            .with_context(|| format!("cannot make an image of {bytes} bytes at {}", image.display()))?;
        run(Command::new(format!("mkfs.{fstype}")).args(mkfs_options).arg("-q").arg(&image))?;
        let source = Source::Image { path: image, fstype: fstype.to_owned() };
        let fs = Self {
            source,
            mount_point,
            mounted: Cell::new(false),
            frozen: Cell::new(false),
            _folder: folder,
        };
        fs.mount()?;
        Ok(fs)
    }

    /// Mounts a tmpfs of `bytes`: quick to fill, but without a power cut.
    pub fn memory(bytes: u64) -> Result<Self> {
        require_root()?;
        let (folder, mount_point) = folder()?;
        let source = Source::Memory { bytes };
        let fs = Self {
            source,
            mount_point,
            mounted: Cell::new(false),
            frozen: Cell::new(false),
            _folder: folder,
        };
        fs.mount()?;
        Ok(fs)
    }

    /// The mount's root.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power: nothing is written from here on, every call on the filesystem fails. [`LoopFs::remount`]
    /// brings back what had reached the image.
    pub fn shutdown(&self) -> Result<()> {
        let mut flags = SHUTDOWN_NOLOGFLUSH;
        self.control("shut down", IOC_SHUTDOWN, &raw mut flags)
    }

    /// Holds every write, as a stalled disk does: writers block until what is given back is thawed or dropped.
    pub fn freeze(&self) -> Result<Frozen<'_>> {
        let mut unused = 0u32;
        self.control("freeze", FIFREEZE, &raw mut unused)?;
        self.frozen.set(true);
        Ok(Frozen(self))
    }

    fn thaw(&self) -> Result<()> {
        let mut unused = 0u32;
        self.control("thaw", FITHAW, &raw mut unused)?;
        self.frozen.set(false);
        Ok(())
    }

    /// Unmounts and mounts again, so that nothing but the image remembers. Every process with an open file beneath
    /// must have ended or be ending. A [`LoopFs::memory`] comes back empty.
    ///
    /// A mount namespace that somebody made meanwhile holds a copy of the mount, and with that the filesystem as it was
    /// shut down: it is waited for.
    pub fn remount(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.unmount()?;
            self.mount()?;
            match File::open(&self.mount_point).and_then(|root| root.sync_all()) {
                Err(e) if e.raw_os_error() == Some(libc::EIO) && begun.elapsed() < HELD_ELSEWHERE => {
                    std::thread::sleep(UNMOUNT_PAUSE);
                }
                synced => {
                    return synced.with_context(|| format!("cannot sync {}", self.mount_point.display()));
                }
            }
        }
    }

    /// Writes one file, `filler`, until the filesystem has no byte left for anybody, root's reserve included.
    pub fn fill(&self) -> Result<()> {
        use std::io::Write;
        let path = self.mount_point.join("filler");
        let mut file = File::options().create(true).append(true).open(&path)?;
        let mut piece = vec![0u8; 1 << 20];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                    // Ever smaller pieces find the last block; delayed allocation may still give it back, so sync.
                    file.sync_all().ok();
                    let half = piece.len() / 2;
                    piece.truncate(half);
                }
                Err(e) => return Err(e).with_context(|| format!("cannot fill {}", path.display())),
            }
        }
        file.sync_all().with_context(|| format!("cannot sync {}", path.display()))
    }

    /// Removes what [`LoopFs::fill`] wrote.
    pub fn unfill(&self) -> Result<()> {
        let path = self.mount_point.join("filler");
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn control(&self, what: &str, request: libc::c_ulong, argument: *mut u32) -> Result<()> {
        let root = File::open(&self.mount_point)
            .with_context(|| format!("cannot open {} to {what} it", self.mount_point.display()))?;
        // SAFETY: each of the three requests reads or writes at most the one int that `argument` points to, which the
        // caller owns for the length of the call; the descriptor is open.
        let rc = unsafe { libc::ioctl(root.as_raw_fd(), request, argument) };
        if rc < 0 {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("cannot {what} {}", self.mount_point.display()));
        }
        Ok(())
    }

    fn mount(&self) -> Result<()> {
        ensure!(!self.mounted.get(), "{} is mounted already", self.mount_point.display());
        let mut command = Command::new("mount");
        match &self.source {
            Source::Image { path, fstype } => {
                command.args(["-t", fstype, "-o", "loop"]).arg(path);
            }
            Source::Memory { bytes } => {
                command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "dogwatch-test"]);
            }
        }
        run(command.arg(&self.mount_point))?;
        self.mounted.set(true);
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        if !self.mounted.get() {
            return Ok(());
        }
        if self.frozen.get() {
            self.thaw()?;
        }
        let until = Instant::now() + UNMOUNT_WAIT;
        loop {
            match run(Command::new("umount").arg(&self.mount_point)) {
                Ok(()) => break,
                Err(e) if Instant::now() >= until => return Err(e),
                Err(_) => std::thread::sleep(UNMOUNT_PAUSE),
            }
        }
        self.mounted.set(false);
        Ok(())
    }
}

/// A filesystem that stands still for as long as this is held.
///
/// To be declared after every process that may write to it, so that it goes first while a test unwinds: a process that
/// waits for the filesystem cannot be killed, and whoever ends it waits with it.
#[must_use = "the filesystem is thawed when this is dropped"]
#[derive(Debug)]
pub struct Frozen<'fs>(&'fs LoopFs);

impl Frozen<'_> {
    /// Lets writes go on.
    pub fn thaw(self) -> Result<()> {
        self.0.thaw()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if self.0.frozen.get()
            && let Err(e) = self.0.thaw()
        {
            eprintln!("{e:#}");
        }
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if let Err(e) = self.unmount() {
            // A detached mount goes when its last user does; better than one that outlives the test for good.
            let detached = run(Command::new("umount").arg("--lazy").arg(&self.mount_point));
            eprintln!("{}: {e:#}; detached instead: {detached:?}", self.mount_point.display());
        }
    }
}

fn folder() -> Result<(TempDir, PathBuf)> {
    let folder = TempDir::with_prefix("dogwatch-fs-").context("cannot make a temporary folder")?;
    let mount_point = folder.path().join("mnt");
    std::fs::create_dir(&mount_point).context("cannot make a mount point")?;
    Ok((folder, mount_point))
}

fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this test mounts filesystems and so must run as root (sudo -E cargo test …)"
    );
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}; is it installed?", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn mounts() -> String {
        std::fs::read_to_string("/proc/self/mounts").unwrap()
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_drops_what_was_not() {
        let fs = LoopFs::create(32 << 20, "ext4", &[]).unwrap();
        let mut kept = File::create(fs.path().join("kept")).unwrap();
        kept.write_all(b"durable").unwrap();
        kept.sync_all().unwrap();
        File::open(fs.path()).unwrap().sync_all().unwrap();
        std::fs::write(fs.path().join("lost"), vec![7u8; 1 << 16]).unwrap();
        drop(kept);

        fs.shutdown().unwrap();
        assert!(std::fs::write(fs.path().join("after"), b"x").is_err(), "a write after the cut went through");
        fs.remount().unwrap();

        assert_eq!(std::fs::read(fs.path().join("kept")).unwrap(), b"durable");
        assert!(!fs.path().join("lost").exists());
    }

    #[test]
    fn a_full_filesystem_takes_not_one_byte() {
        let fs = LoopFs::create(32 << 20, "ext4", &["-m", "0"]).unwrap();
        fs.fill().unwrap();
        let more = File::create(fs.path().join("more")).and_then(|mut f| {
            f.write_all(&[1; 8192])?;
            f.sync_all()
        });
        assert_eq!(more.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        fs.unfill().unwrap();
        std::fs::write(fs.path().join("more"), [1; 8192]).unwrap();
    }

    #[test]
    fn a_panicking_test_thaws_before_it_ends_a_writer_that_waits() {
        let fs = LoopFs::create(32 << 20, "ext4", &[]).unwrap();
        let path = fs.path().join("blocked");
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let frozen = fs.freeze().unwrap();
            let _writer = Writer(Some(std::thread::spawn(move || std::fs::write(path, b"late"))));
            let _first_to_go = frozen;
            panic!("a test fails");
        }));
        assert!(unwound.is_err());
        assert_eq!(std::fs::read(fs.path().join("blocked")).unwrap(), b"late");
    }

    /// Waited for when dropped, as a process is.
    struct Writer(Option<std::thread::JoinHandle<std::io::Result<()>>>);

    impl Drop for Writer {
        fn drop(&mut self) {
            self.0.take().unwrap().join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_panicking_test_leaves_no_mount_and_a_frozen_one_goes_too() {
        let fs = LoopFs::create(32 << 20, "ext4", &[]).unwrap();
        let at = fs.path().to_owned();
        std::mem::forget(fs.freeze().unwrap());
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _owned = fs;
            panic!("a test fails");
        }));
        assert!(unwound.is_err());
        assert!(!mounts().contains(at.to_str().unwrap()));
        assert!(!at.exists());
    }
}
