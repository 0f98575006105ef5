//! The ballast's files: made, measured, given up.
//!
//! Layout of the folder `ballast` (0700): `bytes`, allocated and never written; `inode-NNNN`, empty. Whatever is there
//! counts, so that a crash in the midst of making it costs nothing. Links are never followed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, StatVfs, fallocate, statfs, statvfs};
use rustix::io::Errno;

use super::COPY_ON_WRITE;
use super::scale::{Weight, Weights};
use crate::sample::superblock;

/// Its name in the state folder.
pub const FOLDER: &str = "ballast";
const BYTES: &str = "bytes";
const INODE: &str = "inode-";
/// What `st_blocks` counts in: stat(2).
const BLOCK: u64 = 512;
/// Written at once where a filesystem cannot allocate without writing.
const PIECE: usize = 1 << 20;

/// Whether a file of that name in the folder is ours.
pub fn is_ours(name: &str) -> bool {
    let digits = |n: &str| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit());
    name == BYTES || name.strip_prefix(INODE).is_some_and(digits)
}

/// Where the ballast lies.
#[derive(Debug)]
pub(super) struct Hold {
    state_dir: PathBuf,
    folder: PathBuf,
}

impl Hold {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), folder: state_dir.join(FOLDER) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// The state folder's filesystem, as the table of mounts numbers it; 0 where it cannot be looked at.
    pub(super) fn device(&self) -> u64 {
        superblock::of_path(&self.state_dir).unwrap_or(0)
    }

    pub(super) fn statvfs(&self) -> io::Result<StatVfs> {
        Ok(statvfs(&self.state_dir)?)
    }

    /// The filesystem's name, if it copies on write.
    pub(super) fn copies_on_write(&self) -> Option<&'static str> {
        let kind = statfs(&self.state_dir).ok()?.f_type as u64 & 0xFFFF_FFFF;
        COPY_ON_WRITE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
    }

    /// What is held, as the filesystem counts it.
    pub(super) fn measure(&self) -> Weights {
        let bytes = fs::symlink_metadata(self.folder.join(BYTES))
            .ok()
            .filter(fs::Metadata::is_file)
            // Some filesystems round up, some add blocks that lead to blocks.
            .map_or(0, |m| m.blocks().saturating_mul(BLOCK).min(m.len()));
        Weights { bytes, inodes: self.inodes().len() as u64 }
    }

    /// Brings it down to `wanted` where there is more; nothing wanted leaves nothing, not even the folder.
    pub(super) fn shrink_to(&self, wanted: Weights) {
        let held = self.measure();
        let shrunk = || -> io::Result<()> {
            if held.bytes > 0 && wanted.bytes == 0 {
                self.give_up(Weight::Bytes)?;
            } else if held.bytes > wanted.bytes {
                self.open()?.set_len(wanted.bytes)?;
            }
            for path in self.inodes().into_iter().skip(usize::try_from(wanted.inodes).unwrap_or(usize::MAX)) {
                gone(fs::remove_file(path))?;
            }
            if !wanted.any() {
                gone(fs::remove_dir(&self.folder))?;
            }
            Ok(())
        };
        if let Err(error) = shrunk() {
            tracing::warn!(%error, folder = %self.folder.display(), "ballast that is not wanted any more stays");
        }
    }

    /// Lets one weight go.
    pub(super) fn give_up(&self, what: Weight) -> io::Result<()> {
        match what {
            Weight::Bytes => gone(fs::remove_file(self.folder.join(BYTES))),
            Weight::Inodes => {
                self.inodes().into_iter().map(|path| gone(fs::remove_file(path))).fold(Ok(()), Result::and)
            }
        }
    }

    /// Brings what is held up to `wanted`; what could not be taken whole is not taken.
    pub(super) fn make(&self, wanted: Weights) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let held = self.measure();
        if held.bytes < wanted.bytes {
            let made = self.open().and_then(|file| allocate(&file, wanted.bytes));
            if made.is_err() {
                self.give_up(Weight::Bytes)?;
            }
            made?;
        }
        for n in 0..wanted.inodes {
            let made = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(self.folder.join(format!("{INODE}{n:04}")));
            if let Err(e) = made {
                self.give_up(Weight::Inodes)?;
                return Err(e);
            }
        }
        File::open(&self.folder)?.sync_all()
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(self.folder.join(BYTES))
    }

    fn inodes(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let ours = |name: &str| name.starts_with(INODE) && is_ours(name);
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| e.file_name().to_str().is_some_and(ours) && e.file_type().is_ok_and(|t| t.is_file()))
            .map(|e| e.path())
            .collect();
        paths.sort();
        paths
    }
}

/// A file that is gone already was given up.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Allocates without writing, or by writing where the filesystem cannot.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let piece = vec![0u8; PIECE];
            let mut at = 0;
            while at < bytes {
                let length = (bytes - at).min(PIECE as u64);
                file.write_all_at(&piece[..length as usize], at)?;
                at += length;
            }
        }
        Err(e) => return Err(e.into()),
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_what_the_filesystem_counts_and_what_is_foreign_stays() {
        let temp = tempfile::tempdir().unwrap();
        let hold = Hold::new(temp.path());
        assert_eq!(hold.measure(), Weights::default());
        hold.make(Weights { bytes: 3 << 20, inodes: 7 }).unwrap();
        assert_eq!(hold.measure(), Weights { bytes: 3 << 20, inodes: 7 });
        let foreign = hold.path().join("inode-x");
        fs::write(&foreign, "").unwrap();
        std::os::unix::fs::symlink(&foreign, hold.path().join("inode-9999")).unwrap();
        hold.give_up(Weight::Bytes).unwrap();
        hold.give_up(Weight::Inodes).unwrap();
        assert_eq!(hold.measure(), Weights::default());
        assert!(foreign.exists() && hold.path().join("inode-9999").is_symlink());
        // A hole is no ballast, however long.
        File::create(hold.path().join(BYTES)).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(hold.measure().bytes, 0);
    }
}
