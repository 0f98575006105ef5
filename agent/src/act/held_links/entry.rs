//! The folder of links: its entries, whose name is their record (`<hold>.<inode>.<name>`), and what they keep.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use dogwatch::record::{ObjectOutcome, PlannedObject};
use rustix::io::Errno;

use super::MAX_LINKS;
use crate::act::beneath::{self, Facts};

/// Longest file name that Linux's filesystems take, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest id of a hold that becomes a part of a name.
const MAX_ID_BYTES: usize = 32;

/// One entry of the folder.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) hold: String,
    pub(super) facts: Facts,
}

/// The entries of the folder that bear a name of ours.
pub(super) fn list(held: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(held)?.take(MAX_LINKS * 2) {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        let Some((hold, inode)) = parse(&name) else { continue };
        let Ok(facts) = beneath::facts_at(held, &name) else { continue };
        if facts.inode == inode {
            found.push(Entry { hold, name, facts });
        }
    }
    Ok(found)
}

/// Allocated bytes of files that have no name but ours, by hold.
pub(super) fn kept_bytes(entries: &[Entry]) -> HashMap<String, u64> {
    let mut bytes: HashMap<String, u64> = HashMap::new();
    for entry in deleted(entries) {
        *bytes.entry(entry.hold.clone()).or_default() += entry.facts.allocated_bytes;
    }
    bytes
}

/// The same for all holds together: a file that several hold counts once.
pub(super) fn kept_by_all(entries: &[Entry]) -> u64 {
    let files: HashMap<u64, u64> =
        deleted(entries).map(|e| (e.facts.inode, e.facts.allocated_bytes)).collect();
    files.values().sum()
}

fn deleted(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let mut ours: HashMap<u64, u64> = HashMap::new();
    entries.iter().for_each(|e| *ours.entry(e.facts.inode).or_default() += 1);
    entries.iter().filter(move |e| ours.get(&e.facts.inode) == Some(&e.facts.links))
}

/// The name of a link of `hold`; `None` if it would be none that can be read back.
pub(super) fn entry_name(hold: &str, inode: u64, name: &OsStr) -> Option<OsString> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if hold.is_empty() || hold.len() > MAX_ID_BYTES || !hold.bytes().all(fits) {
        return None;
    }
    let mut entry = format!("{hold}.{inode:x}.").into_bytes();
    entry.extend_from_slice(name.as_bytes());
    (entry.len() <= MAX_NAME_BYTES).then(|| OsString::from_vec(entry))
}

fn parse(entry: &OsStr) -> Option<(String, u64)> {
    let mut parts = entry.as_bytes().splitn(3, |b| *b == b'.');
    let hold = std::str::from_utf8(parts.next()?).ok().filter(|h| h.starts_with("hold-"))?;
    let inode = u64::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 16).ok()?;
    parts.next().filter(|n| !n.is_empty())?;
    Some((hold.to_owned(), inode))
}

/// A file as the record has it.
pub(super) fn object(path: PathBuf, facts: &Facts) -> PlannedObject {
    PlannedObject {
        path,
        device: facts.device,
        inode: facts.inode,
        size_bytes: facts.size_bytes,
        allocated_bytes: facts.allocated_bytes,
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
        uid: facts.uid,
        gid: facts.gid,
        mode: facts.mode,
        links: facts.links,
        cleaner: "hold".to_owned(),
        tier: 1,
        why_safe: String::new(),
        outcome: ObjectOutcome::Pending,
        sha256: None,
        digest_partial: false,
        image: None,
        cut: None,
        atime_ns: Some(facts.atime_ns),
        btime_ns: facts.btime_ns,
        preserved_bytes: None,
    }
}
