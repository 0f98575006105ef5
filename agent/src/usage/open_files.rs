//! Files that processes have open for writing, and files that are deleted and still open, from `/proc`.
//!
//! What such a file occupies is seen although no folder names it. A container's files lie on an overlay, which is a device of
//! its own; they are told as what they are on the filesystem beneath, where the overlay keeps what is written.
//!
//! Invariants: no file is opened. A descriptor is asked for what the kernel has cached, so that a server that does not answer
//! holds nobody up.
//!
//! Limits: [`MAX_LOOKED_AT`] descriptors and [`MAX_KEPT`] files a scan; what bites is said in [`OpenFiles::incomplete`], as is
//! a process that could not be looked at. A file that is mapped but has no descriptor left is not seen.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::sample::mountinfo;
use crate::sample::processes::stat::cgroup_path;

/// Descriptors looked at in one scan: a second or two of one CPU.
const MAX_LOOKED_AT: usize = 1_000_000;
/// Files kept from one scan, some 300 bytes each.
const MAX_KEPT: usize = 20_000;
/// Longest mount table of a process that is read.
const MAX_TABLE_BYTES: usize = 4 << 20;

/// A file in the hands of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// `st_dev` of the filesystem that it fills; that beneath for an overlay's.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Who has it open.
    pub pid: u32,
    /// Its name as the process sees it, within [`OpenFile::upper`] where that is told.
    pub path: PathBuf,
    /// Where the overlay that it lies on keeps it, on the host.
    pub upper: Option<PathBuf>,
    /// Whether no name leads to it any more.
    pub is_deleted: bool,
    /// Whether it is open for writing.
    pub is_written: bool,
    /// Allocated for it.
    pub bytes: u64,
    /// When it was made, ns since the epoch, where the filesystem tells.
    pub born_ns: Option<i64>,
}

/// What one scan found.
#[derive(Debug, Clone, Default)]
pub struct OpenFiles {
    /// A file for each process that has it open.
    pub files: Vec<OpenFile>,
    /// Why some may have been missed.
    pub incomplete: Option<String>,
}

/// Looks through the descriptors of every process under `proc` for what is written, or deleted, on the filesystem `device`
/// (`st_dev`). `rootfs` is where the node's root is mounted, `/` for an agent that is no container.
pub fn scan(proc: &Path, rootfs: &Path, device: u64) -> OpenFiles {
    let mut scan =
        Scan { rootfs, device, overlays: HashMap::new(), budget: MAX_LOOKED_AT, found: OpenFiles::default() };
    let entries = match std::fs::read_dir(proc) {
        Ok(entries) => entries,
        Err(error) => {
            scan.found.incomplete = Some(format!("{} cannot be listed: {error}", proc.display()));
            return scan.found;
        }
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if scan.budget == 0 {
            scan.miss(format!("more than {MAX_LOOKED_AT} descriptors are open"));
            break;
        }
        scan.process(&entry.path(), pid);
    }
    scan.found
}

struct Scan<'s> {
    rootfs: &'s Path,
    device: u64,
    /// By an overlay's device: what it writes to, if that is on the filesystem in question.
    overlays: HashMap<u64, Option<PathBuf>>,
    budget: usize,
    found: OpenFiles,
}

impl Scan<'_> {
    fn miss(&mut self, why: String) {
        self.found.incomplete.get_or_insert(why);
    }

    fn process(&mut self, process: &Path, pid: u32) {
        let descriptors = match std::fs::read_dir(process.join("fd")) {
            Ok(descriptors) => descriptors,
            // It ended meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.miss(format!("process {pid} cannot be looked at: {error}")),
        };
        for descriptor in descriptors.flatten().take(self.budget) {
            self.budget -= 1;
            self.descriptor(process, pid, &descriptor.path());
        }
    }

    fn descriptor(&mut self, process: &Path, pid: u32, link: &Path) {
        // The link's own mode says how the file was opened (proc_pid_fd(5)).
        let Ok(how) = rustix::fs::lstat(link) else { return };
        let is_written = how.st_mode & 0o200 != 0;
        let Ok(facts) = look(link) else { return };
        if FileType::from_raw_mode(u32::from(facts.stx_mode)) != FileType::RegularFile {
            return;
        }
        let is_deleted = facts.stx_nlink == 0;
        if !is_written && !is_deleted {
            return;
        }
        let on = rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor);
        let upper = if on == self.device {
            None
        } else if facts.stx_dev_major == 0 {
            match self.upper(process, on) {
                Some(upper) => Some(upper),
                None => return,
            }
        } else {
            return;
        };
        if self.found.files.len() >= MAX_KEPT {
            return self.miss(format!("more than {MAX_KEPT} files are open for writing"));
        }
        let Ok(name) = rustix::fs::readlink(link, Vec::new()) else { return };
        let name = name.to_bytes();
        let name = if is_deleted { name.strip_suffix(b" (deleted)").unwrap_or(name) } else { name };
        self.found.files.push(OpenFile {
            device: self.device,
            inode: facts.stx_ino,
            pid,
            path: PathBuf::from(OsStr::from_bytes(name)),
            upper,
            is_deleted,
            is_written,
            bytes: facts.stx_blocks.saturating_mul(512),
            born_ns: (facts.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| {
                let at = &facts.stx_btime;
                at.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(at.tv_nsec))
            }),
        });
    }

    /// Where the overlay `device` writes to, if the process sees such a one and it fills the filesystem in question.
    fn upper(&mut self, process: &Path, device: u64) -> Option<PathBuf> {
        if let Some(known) = self.overlays.get(&device) {
            return known.clone();
        }
        let table = read_bounded(&process.join("mountinfo")).ok()?;
        let mut found = None;
        for entry in mountinfo::parse(&table).entries {
            let of = rustix::fs::makedev(entry.dev_major, entry.dev_minor);
            let Some(upper) = entry.upper_folder().filter(|_| of == device) else { continue };
            let upper = PathBuf::from(OsStr::from_bytes(&upper));
            let seen = self.rootfs.join(upper.strip_prefix("/").unwrap_or(&upper));
            found = rustix::fs::stat(&seen).ok().filter(|s| s.st_dev == self.device).map(|_| upper);
            break;
        }
        self.overlays.insert(device, found.clone());
        found
    }
}

fn look(link: &Path) -> Result<Statx, Errno> {
    let mask =
        StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::BLOCKS | StatxFlags::BTIME;
    rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, mask)
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_TABLE_BYTES as u64).read_to_end(&mut text)?;
    Ok(text)
}

/// A process by its name and its control group, as far as it can still be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Its name, 15 bytes of it.
    pub name: String,
    /// Its control group's path; empty where unknown.
    pub cgroup: String,
}

/// Who `pid` is.
pub fn holder(proc: &Path, pid: u32) -> Option<Holder> {
    let process = proc.join(pid.to_string());
    let name = std::fs::read(process.join("comm")).ok()?;
    let name = String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned();
    let cgroup = read_bounded(&process.join("cgroup")).ok().and_then(|text| cgroup_path(&text));
    Some(Holder { name, cgroup: cgroup.unwrap_or_default() })
}

#[cfg(test)]
#[path = "open_files_tests.rs"]
mod tests;
