//! Letting go: links whose hold is over. What would be gone for good is recorded first.
//!
//! Bounds: so many files and bytes at a time; a file of up to [`DIGEST_WHOLE`] is digested in one go. What cannot be let go
//! of stays, and is left alone for the rest of the sweep.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dogwatch::record::{FileSeen, Hash, MAX_PIECE_BYTES, PlannedObject};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::Sweep;
use super::entry::{Entry, object};
use crate::act::beneath::{self, Opened};
use crate::act::policy::HELD;
use crate::act::quarantine::Root;
use crate::act::remove::{DIGEST_ENDS, DIGEST_WHOLE};

/// Files that are let go of together, and recorded together.
const MAX_BATCH: usize = 48;

impl Sweep<'_> {
    /// Lets go of `over`, as far as the step goes; whether that was all.
    pub(super) fn let_go_all(&mut self, root: &Root, held: &OwnedFd, over: &[Entry]) -> bool {
        let mut rest = over;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |e: &&Entry| {
                let fits = bytes < self.spent.budget.bytes;
                bytes += to_digest(e);
                fits
            };
            let count = rest.iter().take(MAX_BATCH).take_while(fits).count();
            let (batch, more) = rest.split_at(count);
            self.spent.begin();
            self.let_go(root, held, batch);
            self.spent.bytes += batch.iter().map(to_digest).sum::<u64>();
            self.spent.entries += batch.len() as u64;
            rest = more;
            if !rest.is_empty() && self.spent.is_over() {
                return false;
            }
        }
        true
    }

    /// Lets go of entries whose hold is over; files that have no other name are recorded first.
    fn let_go(&mut self, root: &Root, held: &OwnedFd, batch: &[Entry]) {
        let mut objects: BTreeMap<&str, Vec<PlannedObject>> = BTreeMap::new();
        let mut unread = HashSet::new();
        for entry in batch.iter().filter(|e| e.facts.kind == FileType::RegularFile) {
            let path = root.path.join(HELD).join(&entry.name);
            match digest(held, &entry.name) {
                Ok((sha256, digest_partial)) => {
                    let why_safe = format!("{} is released", entry.hold);
                    let object = PlannedObject {
                        sha256: Some(sha256),
                        digest_partial,
                        why_safe,
                        ..object(path, &entry.facts)
                    };
                    objects.entry(entry.hold.as_str()).or_default().push(object);
                }
                Err(_) => drop(unread.insert(entry.name.clone())),
            }
        }
        for (hold, objects) in objects {
            let seen = FileSeen { cause: hold.to_owned(), objects, content: None };
            let recorded = self.parent.witness(seen);
            let told = self.pass.told.entry(hold.to_owned()).or_default();
            told.released = true;
            if let Err(why) = recorded {
                told.lack(format!("its links stay, since what would go could not be recorded: {why}"));
                continue;
            }
            for entry in batch.iter().filter(|e| e.hold == hold && !unread.contains(&e.name)) {
                let Ok(now) = beneath::facts_at(held, &entry.name) else { continue };
                // What has another name lives on under that, and is a log that is written to all the time.
                let same =
                    now.inode == entry.facts.inode && (now.links > 1 || now.mtime_ns == entry.facts.mtime_ns);
                if !same {
                    told.lack(format!("{} is still written to and has no other name", entry.name.display()));
                } else if rustix::fs::unlinkat(held, &entry.name, AtFlags::empty()).is_ok() {
                    told.files += 1;
                    if now.links == 1 {
                        told.kept_bytes += now.allocated_bytes;
                    }
                }
            }
        }
        let stay = batch.iter().filter(|e| beneath::facts_at(held, &e.name).is_ok());
        let root = self.pass.root;
        self.pass.stuck.extend(stay.map(|e| (root, e.name.clone())));
    }
}

/// Bytes that are read to record an entry.
fn to_digest(entry: &Entry) -> u64 {
    let size = entry.facts.size_bytes;
    if size > DIGEST_WHOLE { 2 * DIGEST_ENDS } else { size }
}

/// SHA-256 of an entry, whole or of its ends.
fn digest(held: &OwnedFd, name: &OsStr) -> Result<(Hash, bool), Errno> {
    let Opened::Regular(file, facts) = beneath::open_regular(held, Path::new(name))? else {
        return Err(Errno::INVAL);
    };
    let file = File::from(file);
    let size = facts.size_bytes;
    let partial = size > DIGEST_WHOLE;
    let ranges: &[(u64, u64)] =
        if partial { &[(0, DIGEST_ENDS), (size - DIGEST_ENDS, size)] } else { &[(0, size)] };
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; MAX_PIECE_BYTES]);
    for (start, end) in ranges {
        let mut at = *start;
        while at < *end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            match file.read_at(&mut chunk[..want], at) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    hasher.update(&chunk[..n]);
                    at += n as u64;
                }
                Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            }
        }
    }
    Ok((Hash(hasher.finalize().into()), partial))
}
