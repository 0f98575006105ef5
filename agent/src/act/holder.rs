//! Who has a file open, from `/proc`: names a holder for people, and answers where a filesystem has no leases.
//!
//! Invariant: a descriptor is asked for what the kernel has cached (`AT_STATX_DONT_SYNC`), so that a server of NFS or FUSE that
//! does not answer holds nobody up.
//!
//! Limits: 9p asks its server when its files are met by a descriptor, whatever was asked for; the table of a process's
//! mappings waits for its lock. Whoever may not wait has a scan made apart ([`super::aside`]).
//!
//! Deliberately absent: any claim to know when some process could not be read; [`Holders::incomplete`] says so.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, makedev};

/// Most descriptors and mappings looked at in one scan.
const MAX_LOOKED_AT: usize = 1_000_000;
/// Inode of the initial PID namespace; from any other, not every process can be seen.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A device and inode.
pub(super) type FileId = (u64, u64);

/// What one scan of `/proc` found.
#[derive(Debug, Default)]
pub(super) struct Holders {
    open: HashMap<FileId, String>,
    mapped_inodes: HashSet<u64>,
    /// Why some holder may have been missed.
    pub(super) incomplete: Option<String>,
}

impl Holders {
    /// Looks through the descriptors (and with `mappings`, the mapped files) of every process under `proc` but `skip`.
    pub(super) fn scan(proc: &Path, skip: &[u32], mappings: bool) -> Self {
        let mut found = Self::default();
        let namespace = std::fs::metadata(proc.join("self/ns/pid")).map(|m| m.ino());
        if namespace.ok() != Some(INITIAL_PID_NAMESPACE) {
            found.incomplete = Some("not every process is visible from this PID namespace".to_owned());
        }
        let entries = match std::fs::read_dir(proc) {
            Ok(entries) => entries,
            Err(error) => {
                found.incomplete = Some(format!("{} cannot be listed: {error}", proc.display()));
                return found;
            }
        };
        let mut budget = MAX_LOOKED_AT;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            if skip.contains(&pid) {
                continue;
            }
            if budget == 0 {
                found.incomplete = Some(format!("more than {MAX_LOOKED_AT} descriptors are open"));
                break;
            }
            found.look_at(&entry.path(), pid, mappings, &mut budget);
        }
        found
    }

    fn look_at(&mut self, process: &Path, pid: u32, mappings: bool, budget: &mut usize) {
        let descriptors = match std::fs::read_dir(process.join("fd")) {
            Ok(descriptors) => descriptors,
            // It ended meanwhile: it holds nothing.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.incomplete.get_or_insert_with(|| format!("process {pid} cannot be looked at: {error}"));
                return;
            }
        };
        let mut name = None;
        for descriptor in descriptors.flatten().take(*budget) {
            *budget -= 1;
            if let Some(file) = regular_file(&descriptor.path()) {
                let name = name.get_or_insert_with(|| process_name(process, pid));
                self.open.entry(file).or_insert_with(|| name.clone());
            }
        }
        if mappings {
            let Ok(maps) = std::fs::read(process.join("maps")) else {
                if process.exists() {
                    self.incomplete
                        .get_or_insert_with(|| format!("mappings of process {pid} cannot be read"));
                }
                return;
            };
            let inodes = maps.split(|b| *b == b'\n').filter_map(|line| {
                let inode = line.split(|b| *b == b' ').nth(4)?;
                std::str::from_utf8(inode).ok()?.parse::<u64>().ok().filter(|i| *i != 0)
            });
            self.mapped_inodes.extend(inodes);
        }
    }

    /// Who has it open, in words. A mapping is known by inode alone, since the device in `maps` is not always
    /// `st_dev`.
    pub(super) fn of(&self, file: FileId) -> Option<&str> {
        let mapped = || self.mapped_inodes.contains(&file.1).then_some("a process that has it mapped");
        self.open.get(&file).map(String::as_str).or_else(mapped)
    }
}

/// Which regular file a descriptor is open on, if it is one: no server is asked.
fn regular_file(descriptor: &Path) -> Option<FileId> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let facts = rustix::fs::statx(CWD, descriptor, flags, StatxFlags::TYPE | StatxFlags::INO).ok()?;
    let is_file = FileType::from_raw_mode(u32::from(facts.stx_mode)) == FileType::RegularFile;
    is_file.then(|| (makedev(facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino))
}

/// A process by its number and name.
pub(super) fn process_name(process: &Path, pid: u32) -> String {
    let comm = std::fs::read(process.join("comm")).unwrap_or_default();
    format!("process {pid} ({})", String::from_utf8_lossy(&comm).trim_end().escape_debug())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use rustix::fs::{Mode, OFlags};

    use super::*;
    use crate::act::unshared;
    use crate::own_mounts::{in_own_mounts, mount_dead};

    #[test]
    fn a_descriptor_on_a_dead_server_keeps_no_scan_waiting() {
        in_own_mounts(|base| {
            let share = base.join("share");
            std::fs::create_dir(&share).unwrap();
            let local = tempfile::tempfile().unwrap();
            let server = mount_dead(&share);
            // That takes no word of the server's. By another process, since this thread has descriptors of its own.
            let held = rustix::fs::open(&share, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let mut holder = Command::new("sleep");
            holder.arg("600").stdin(local.try_clone().unwrap()).stdout(held);
            let mut holder = holder.spawn().unwrap();
            let (told, scanned) = channel();
            let scan = std::thread::spawn(move || {
                let _ = told.send(Holders::scan(Path::new("/proc"), &[], false));
            });
            let found = scanned.recv_timeout(Duration::from_secs(60));
            // Whoever waits for it waits until then.
            drop(server);
            scan.join().unwrap();
            holder.kill().unwrap();
            holder.wait().unwrap();
            let file = local.metadata().unwrap();
            assert!(found.expect("it waits for the server").of((file.dev(), file.ino())).is_some());
        });
    }

    #[test]
    fn an_open_file_has_a_named_holder() {
        unshared::descriptors();
        let temp = tempfile::tempfile().unwrap();
        let file = temp.metadata().unwrap();
        let id = (file.dev(), file.ino());
        let mut child = Command::new("sleep").arg("600").stdin(temp).spawn().unwrap();
        let pid = child.id();
        // Until it runs its program it has its parent's name.
        while process_name(&Path::new("/proc").join(pid.to_string()), pid) != format!("process {pid} (sleep)")
        {
            std::thread::yield_now();
        }
        let holders = Holders::scan(Path::new("/proc"), &[], true);
        let but_for_it = Holders::scan(Path::new("/proc"), &[pid], false);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holders.of(id), Some(&*format!("process {pid} (sleep)")));
        assert_eq!(but_for_it.of(id), None);
        assert!(Holders::scan(Path::new("/nowhere"), &[], false).incomplete.is_some());
    }
}
