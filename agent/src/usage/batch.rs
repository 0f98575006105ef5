//! Entries of a folder, some at a time, in the order of their inodes.
//!
//! A filesystem lists a folder in an order of its own (ext4: by a hash of the names), while inodes lie in the order of their
//! numbers, on the disk and mostly in memory too. Looked at in that order, neighbours come with one read, and a warm walk
//! meets what the CPU has already fetched.
//!
//! Invariant: a batch is bounded by the listing's buffer and by what its caller asks for.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// One entry: where its name begins among the names.
#[derive(Debug, Clone, Copy)]
struct Entry {
    inode: u64,
    at: usize,
    kind: FileType,
}

/// Some entries. It keeps its memory for the next ones.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Each with its NUL.
    names: Vec<u8>,
    entries: Vec<Entry>,
}

impl Batch {
    /// Takes the next entries of `listing`, `most` at most, without `.` and `..`; the position behind the last one, or `None`
    /// at the end of the folder (or where it was removed meanwhile).
    ///
    /// # Errors
    /// The folder cannot be read on. The batch is empty then.
    pub(super) fn fill<Fd: AsFd>(
        &mut self,
        listing: &mut RawDir<'_, Fd>,
        most: usize,
    ) -> Result<Option<u64>, Errno> {
        self.names.clear();
        self.entries.clear();
        let mut behind = None;
        // More is not asked of the kernel while these wait: so it fails before the first, or not at all.
        while behind.is_none() || (!listing.is_buffer_empty() && self.entries.len() < most) {
            let entry = match listing.next() {
                Some(Ok(entry)) => entry,
                None | Some(Err(Errno::NOENT)) => break,
                Some(Err(error)) => return Err(error),
            };
            behind = Some(entry.next_entry_cookie());
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entries.push(Entry { inode: entry.ino(), at: self.names.len(), kind: entry.file_type() });
            self.names.extend_from_slice(name.to_bytes_with_nul());
        }
        self.entries.sort_unstable_by_key(|e| e.inode);
        Ok(behind)
    }

    /// The names of the entries, and what they are as far as the listing told.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&CStr, FileType)> {
        // Each has its NUL.
        self.entries
            .iter()
            .map(|e| (CStr::from_bytes_until_nul(&self.names[e.at..]).unwrap_or_default(), e.kind))
    }
}
