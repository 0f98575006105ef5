//! Files that processes have open for writing, and files that are deleted and still open, from `/proc`.
//!
//! What such a file occupies is seen although no folder names it. A container's files lie on an overlay, which is a device of
//! its own; they are told as what they are on the filesystem beneath, where the overlay keeps what is written. Which overlays
//! there are is read from the node's own table of mounts, where the runtime makes them: one that a process made in a namespace
//! of its own could name any folder, and is nobody's.
//!
//! Invariants: no file is opened. A descriptor is asked for what the kernel has cached, and no folder on a filesystem that is
//! served from elsewhere is looked at, so that a server that does not answer holds nobody up.
//!
//! Limits: [`MAX_LOOKED_AT`] descriptors and [`MAX_KEPT`] files a scan; what bites is said in [`OpenFiles::incomplete`], as is
//! a process that could not be looked at. A file that is mapped but has no descriptor left is not seen.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::host_path::{self, Named};
use super::traces::{self, Trace, Written};
use crate::sample::processes::stat::cgroup_path;
use crate::sample::{Roots, mountinfo};

/// Descriptors looked at in one scan: a second or two of one CPU.
const MAX_LOOKED_AT: usize = 1_000_000;
/// Files kept from one scan, some 300 bytes each.
const MAX_KEPT: usize = 20_000;
/// Looks at the descriptors of a process that writes meanwhile, at most.
const LOOKS: usize = 3;
/// What a process may write from before its descriptors are looked at until after, in bytes, and not be looked at again.
const BETWEEN: u64 = 64 << 10;
/// Longest table of mounts, or list of groups, that is read.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// A file in the hands of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// `st_dev` as it is seen: of the filesystem that it fills, or of the overlay above it. An overlay shows the inode number
    /// of the layer that a file came from, so that the number alone tells no file from its copy in another container.
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
    /// What shows whether this process writes it.
    pub trace: Trace,
}

/// What one scan found.
#[derive(Debug, Clone, Default)]
pub struct OpenFiles {
    /// A file for each process that has it open.
    pub files: Vec<OpenFile>,
    /// Why some may have been missed.
    pub incomplete: Option<String>,
}

/// Looks through the descriptors of every process of `roots` for what is written, or deleted, on the filesystem `device`
/// (its number in the table of mounts).
pub fn scan(roots: &Roots, device: u64) -> OpenFiles {
    let disk = Disk::of(roots, device);
    let overlays = overlays(roots, &disk);
    let mut scan = Scan { disk, overlays, budget: MAX_LOOKED_AT, elsewhere: 0, found: OpenFiles::default() };
    let proc = &roots.proc;
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

struct Scan {
    disk: Disk,
    /// By an overlay's device: where on the filesystem in question it keeps what is written.
    overlays: HashMap<u64, PathBuf>,
    budget: usize,
    /// Allocated for files of other filesystems that the process at hand has open for writing.
    elsewhere: u64,
    found: OpenFiles,
}

impl Scan {
    fn miss(&mut self, why: String) {
        self.found.incomplete.get_or_insert(why);
    }

    /// Where its descriptors stand is compared with what it wrote altogether. On a busy node this thread may have no CPU for
    /// long between the two, and then they are looked at again.
    fn process(&mut self, process: &Path, pid: u32) {
        let first = self.found.files.len();
        let mut before = traces::of_process(process);
        for _ in 0..LOOKS {
            let budget = self.budget;
            self.found.files.truncate(first);
            self.descriptors(process, pid);
            if self.found.files.len() == first {
                return;
            }
            let written = traces::of_process(process).map(|w| Written { elsewhere: self.elsewhere, ..w });
            for file in self.found.files.iter_mut().skip(first) {
                file.trace.written = written;
            }
            let is_near = |(b, w): (Written, Written)| w.called.saturating_sub(b.called) <= BETWEEN;
            // What was found is kept where another look could not see all of it.
            if before.zip(written).is_none_or(is_near) || self.budget < budget - self.budget {
                return;
            }
            before = written;
        }
    }

    fn descriptors(&mut self, process: &Path, pid: u32) {
        let descriptors = match std::fs::read_dir(process.join("fd")) {
            Ok(descriptors) => descriptors,
            // It ended meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.miss(format!("process {pid} cannot be looked at: {error}")),
        };
        self.elsewhere = 0;
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
        let upper = self.overlays.get(&on).cloned();
        let bytes = facts.stx_blocks.saturating_mul(512);
        if upper.is_none() && !self.disk.has(&facts) {
            self.elsewhere = self.elsewhere.saturating_add(if is_written { bytes } else { 0 });
            return;
        }
        if self.found.files.len() >= MAX_KEPT {
            return self.miss(format!("more than {MAX_KEPT} files are open for writing"));
        }
        let Ok(name) = rustix::fs::readlink(link, Vec::new()) else { return };
        let name = name.to_bytes();
        let name = if is_deleted { name.strip_suffix(b" (deleted)").unwrap_or(name) } else { name };
        let number = link.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        let trace = number.map(|n| traces::of_descriptor(process, n, facts.stx_size)).unwrap_or_default();
        self.found.files.push(OpenFile {
            device: on,
            inode: facts.stx_ino,
            pid,
            path: PathBuf::from(OsStr::from_bytes(name)),
            upper,
            is_deleted,
            is_written,
            bytes,
            born_ns: (facts.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| {
                let at = &facts.stx_btime;
                at.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(at.tv_nsec))
            }),
            trace,
        });
    }
}

/// The overlays of the node that fill `disk`.
pub(super) fn overlays(roots: &Roots, disk: &Disk) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    // Without the table, what containers write stays unexplained.
    let Ok(text) = read_bounded(&roots.mountinfo) else { return found };
    let table = mountinfo::parse(&text);
    for entry in &table.entries {
        let Some(upper) = entry.upper_folder() else { continue };
        let upper = Path::new(OsStr::from_bytes(&upper));
        let holds = |e: &&mountinfo::Entry<'_>| upper.starts_with(OsStr::from_bytes(&e.path));
        let beneath = table.entries.iter().filter(holds).max_by_key(|e| e.path.len());
        if beneath.is_none_or(|e| e.is_remote()) {
            continue;
        }
        let seen = roots.rootfs.join(upper.strip_prefix("/").unwrap_or(upper));
        if look(&seen).is_ok_and(|facts| disk.has(&facts)) {
            found.insert(rustix::fs::makedev(entry.dev_major, entry.dev_minor), upper.to_owned());
        }
    }
    found
}

/// What is at `path`, links followed.
fn look(path: &Path) -> Result<Statx, Errno> {
    let mask = StatxFlags::TYPE
        | StatxFlags::NLINK
        | StatxFlags::INO
        | StatxFlags::SIZE
        | StatxFlags::BLOCKS
        | StatxFlags::BTIME
        | StatxFlags::MNT_ID;
    rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, mask)
}

pub(super) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_TABLE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// A process by its name and its control group, as far as it can still be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Its name, 15 bytes of it, which it may choose.
    pub name: String,
    /// The file name of what it runs, which it may not; `None`: unknown.
    pub program: Option<String>,
    /// Its control group's path; empty where unknown.
    pub cgroup: String,
    /// Whether it sees the mounts that the node's process 1 sees, so that its paths are the node's.
    pub sees_the_host: bool,
}

/// Who `pid` is.
pub fn holder(proc: &Path, pid: u32) -> Option<Holder> {
    let process = proc.join(pid.to_string());
    let name = std::fs::read(process.join("comm")).ok()?;
    let name = String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned();
    let cgroup = read_bounded(&process.join("cgroup")).ok().and_then(|text| cgroup_path(&text));
    let mounts = |of: &Path| rustix::fs::readlink(of.join("ns/mnt"), Vec::new()).ok();
    let own = mounts(&process);
    let sees_the_host = own.is_some() && own == mounts(&proc.join("1"));
    let program = rustix::fs::readlink(process.join("exe"), Vec::new()).ok().and_then(|exe| {
        let exe = exe.to_bytes();
        let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
        Some(Path::new(OsStr::from_bytes(exe)).file_name()?.to_string_lossy().into_owned())
    });
    Some(Holder { name, program, cgroup: cgroup.unwrap_or_default(), sees_the_host })
}

/// What the node calls `file`, or called it where it is deleted; beneath `mount` where several names lead to it. `None`:
/// unknown.
pub fn node_path(
    roots: &Roots,
    mount: Option<&Path>,
    file: &OpenFile,
    holder: Option<&Holder>,
) -> Option<PathBuf> {
    let named = Named {
        mount,
        path: &file.path,
        upper: file.upper.as_deref(),
        device: file.device,
        inode: file.inode,
        is_deleted: file.is_deleted,
        pid: file.pid,
        sees_the_host: holder.is_some_and(|h| h.sees_the_host),
    };
    host_path::on_host(roots, named)
}

#[cfg(test)]
#[path = "open_files_tests.rs"]
mod tests;
