//! Held files, linked aside: neither the kubelet nor logrotate knows of holds.
//!
//! What is held beneath a cleanup root gets another name in `.dogwatch-held`, a 0700 folder of the same root and mount
//! that only we can enter: the link follows rotations (a rename keeps the inode) and outlives a deletion. A sweep links
//! what appeared since, and lets go of what is not held any more; what would then be gone for good is recorded with its
//! digest first. Runs in the executor, which makes no folder and writes no file; so each entry's *name* is its record:
//! `<hold>.<inode>.<name>`.
//!
//! A link protects from deletion, not from truncation. A log that seems to be rotated by copying and truncating, and a file
//! that cannot be linked, leaves its content in the evidence instead, within the budget of preserved content; what does not
//! fit is said.
//!
//! Bounds: entries looked at, links a root, time, and the share of the filesystem that deleted files may take for the sake
//! of holds: a hold must not fill the disk. Where one bites, it is said.
//!
//! Invariants: nothing in the folder is looked at by surveys or cleanups; an entry goes only when its hold is over, and
//! that is durable; what is held is known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::{FileContent, FileSeen, Hash, MAX_PIECE_BYTES, ObjectOutcome, PlannedObject};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::beneath::{self, Facts, Opened};
use super::cleaner::Parent;
use super::hold::{HeldPlace, Hold, NodeHold};
use super::policy::HELD;
use super::quarantine::Root;
use super::remove::{DIGEST_ENDS, DIGEST_WHOLE};
use super::survey::{Folders, Way};
use super::witness::Verdict;
use super::words;

/// Most links in one root's folder.
const MAX_LINKS: usize = 8_192;
/// Most folder entries that one sweep looks at.
const MAX_ENTRIES: u64 = 400_000;
/// Longest sweep.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Deleted files may take this share of a filesystem for the sake of holds; beyond it nothing more is linked.
const MAX_KEPT_SHARE: u64 = 10;
/// Longest file name that Linux's filesystems take, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest id of a hold that becomes a part of a name.
const MAX_ID_BYTES: usize = 32;
/// Files that are let go of together, and recorded together.
const MAX_BATCH: usize = 48;
/// Most reasons of one hold; the rest is counted.
const MAX_LACKS: usize = 4;
/// Files whose content was kept because a link does not do, remembered so that it is kept once a run.
const MAX_CONTENTS: usize = 4_096;

/// What is kept aside for one hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldAside {
    /// The hold.
    pub hold: String,
    /// Files that are linked aside, or that were, where it is released.
    pub files: u64,
    /// Allocated bytes of those that have no other name: what releasing the hold frees, or freed.
    pub kept_bytes: u64,
    /// What could not be kept aside and why; empty: everything is.
    pub lacks: String,
    /// Whether the hold is over and its links went.
    pub released: bool,
}

/// What is remembered between sweeps: files (hold, inode) whose content was kept, or was found not to fit.
#[derive(Debug, Default)]
pub(super) struct Contents(HashMap<(String, u64), Result<(), String>>);

/// One entry of the folder.
struct Entry {
    name: OsString,
    hold: String,
    facts: Facts,
}

/// Links aside what `holds` (resolved: `places`) hold beneath `roots`, and where `may_release`, lets go of the rest.
pub(super) fn sweep(
    roots: &[Option<Root>],
    (holds, places): (&[NodeHold], &[Hold]),
    may_release: bool,
    contents: &mut Contents,
    parent: &dyn Parent,
) -> Vec<HeldAside> {
    let mut sweep =
        Sweep { places, told: BTreeMap::new(), contents, parent, began: Instant::now(), looked: 0 };
    for hold in holds {
        sweep.told.insert(hold.id.clone(), Told::default());
    }
    let mut seen = HashSet::new();
    let all: Vec<&Root> = roots.iter().flatten().collect();
    for root in &all {
        if seen.insert((root.facts.device, root.facts.inode)) {
            sweep.root(root, &all, may_release);
        }
    }
    sweep.told.into_iter().map(|(hold, told)| told.finish(hold)).collect()
}

#[derive(Default)]
struct Told {
    files: u64,
    kept_bytes: u64,
    lacks: Vec<String>,
    unnamed: usize,
    released: bool,
}

impl Told {
    fn lack(&mut self, why: String) {
        if self.lacks.len() < MAX_LACKS {
            self.lacks.push(why);
        } else {
            self.unnamed += 1;
        }
    }

    fn finish(mut self, hold: String) -> HeldAside {
        if self.unnamed > 0 {
            self.lacks.push(format!("and {} more", self.unnamed));
        }
        let lacks = self.lacks.join("; ");
        HeldAside { hold, files: self.files, kept_bytes: self.kept_bytes, lacks, released: self.released }
    }
}

struct Sweep<'s> {
    places: &'s [Hold],
    told: BTreeMap<String, Told>,
    contents: &'s mut Contents,
    parent: &'s dyn Parent,
    began: Instant,
    looked: u64,
}

impl Sweep<'_> {
    fn root(&mut self, root: &Root, all: &[&Root], may_release: bool) {
        let held = match &root.held {
            Ok(held) => held,
            Err(why) => {
                self.all_lack(&format!("beneath {} nothing is linked: {why}", root.path.display()));
                return;
            }
        };
        let entries = match entries(held) {
            Ok(entries) => entries,
            Err(error) => {
                self.all_lack(&format!("{HELD} in {} cannot be listed: {error}", root.path.display()));
                return;
            }
        };
        let (kept, over): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|e| !may_release || self.told.get(&e.hold).is_some_and(|t| !t.released));
        for batch in over.chunks(MAX_BATCH) {
            self.let_go(root, held, batch);
        }
        let mut linked: HashSet<(String, u64)> =
            kept.iter().map(|e| (e.hold.clone(), e.facts.inode)).collect();
        let room = root_room(root);
        let deleted: u64 = kept_bytes(&kept).values().sum();
        if self.places.is_empty() {
            return;
        }
        if deleted > room {
            let (have, most) = (words::bytes(deleted), words::bytes(room));
            self.all_lack(&format!(
                "beneath {} deleted files take {have} for the sake of holds, over {most}: nothing more is linked there",
                root.path.display()
            ));
        } else {
            self.link_all(root, held, all, &mut linked);
        }
        let Ok(now) = self::entries(held) else { return };
        for (hold, bytes) in kept_bytes(&now) {
            if let Some(told) = self.told.get_mut(&hold) {
                told.kept_bytes += bytes;
            }
        }
        for entry in now {
            if let Some(told) = self.told.get_mut(&entry.hold).filter(|t| !t.released) {
                told.files += 1;
            }
        }
    }

    fn link_all(&mut self, root: &Root, held: &OwnedFd, all: &[&Root], linked: &mut HashSet<(String, u64)>) {
        let mut folders = Folders::new(super::policy::MAX_DEPTH);
        let inner = all.iter().filter_map(|r| r.path.strip_prefix(&root.path).ok());
        folders.leave_out = inner.filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
        let mut cut = None;
        folders.visit(&root.folder, &mut |relative, folder| {
            let Ok(names) = rustix::fs::Dir::read_from(folder) else { return Way::On };
            for name in names.flatten() {
                self.looked += 1;
                cut = self.bound(linked.len());
                if cut.is_some() {
                    return Way::Stop;
                }
                let name = OsStr::from_bytes(name.file_name().to_bytes());
                let path = root.path.join(relative).join(name);
                let covers = |h: &&Hold| match h.place {
                    HeldPlace::Everywhere => looks_like_a_log(name.as_bytes()),
                    _ => h.covers(&path),
                };
                let by: HashSet<&str> = self.places.iter().filter(covers).map(|h| h.id.as_str()).collect();
                if by.is_empty() {
                    continue;
                }
                let Ok(facts) = beneath::facts_at(folder, name) else { continue };
                if facts.kind != FileType::RegularFile || facts.device != root.facts.device {
                    continue;
                }
                for id in by {
                    if self.told.contains_key(id) && linked.insert((id.to_owned(), facts.inode)) {
                        self.link(held, folder, name, (id, &path), &facts);
                    }
                    if truncates(folder, name, &facts) {
                        self.keep_content(
                            folder,
                            name,
                            (id, &path),
                            &facts,
                            "it is rotated by copying and truncating, from which a link does not protect",
                        );
                    }
                }
            }
            Way::On
        });
        if let Some(cut) = cut {
            self.all_lack(&cut);
        }
    }

    fn link(
        &mut self,
        held: &OwnedFd,
        folder: &OwnedFd,
        name: &OsStr,
        (id, path): (&str, &Path),
        facts: &Facts,
    ) {
        let Some(entry) = entry_name(id, facts.inode, name) else {
            self.keep_content(folder, name, (id, path), facts, "its name is too long for a link");
            return;
        };
        match rustix::fs::linkat(folder, name, held, &entry, AtFlags::empty()) {
            Ok(()) => {
                // Somebody may have put another in its place; what was linked then is not what is held.
                let same = beneath::facts_at(held, &entry)
                    .is_ok_and(|f| f.inode == facts.inode && f.kind == FileType::RegularFile);
                if !same {
                    let _ = rustix::fs::unlinkat(held, &entry, AtFlags::empty());
                }
            }
            // It went, and the next sweep sees what came in its place.
            Err(Errno::EXIST | Errno::NOENT) => {}
            Err(error) => {
                let why = format!("it cannot be linked ({error})");
                self.keep_content(folder, name, (id, path), facts, &why);
            }
        }
    }

    /// Keeps the content of a file that a link does not protect, once a run.
    fn keep_content(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        (id, path): (&str, &Path),
        facts: &Facts,
        why: &str,
    ) {
        let key = (id.to_owned(), facts.inode);
        if !self.contents.0.contains_key(&key) {
            if self.contents.0.len() >= MAX_CONTENTS {
                self.contents.0.clear();
            }
            let kept = self.copy(folder, name, id, path);
            self.contents.0.insert(key.clone(), kept);
        }
        let Some(told) = self.told.get_mut(id) else { return };
        match self.contents.0.get(&key) {
            Some(Ok(())) => {
                told.lack(format!("{}: {why}; its content until then is in the evidence", path.display()))
            }
            Some(Err(not)) => {
                told.lack(format!("{}: {why}, and its content is not kept: {not}", path.display()))
            }
            None => {}
        }
    }

    fn copy(&self, folder: &OwnedFd, name: &OsStr, id: &str, path: &Path) -> Result<(), String> {
        let Ok(Opened::Regular(file, facts)) = beneath::open_regular(folder, Path::new(name)) else {
            return Err("it cannot be opened".to_owned());
        };
        let file = File::from(file);
        let mut object = object(path.to_owned(), &facts);
        let (mut piece, mut at, mut hasher) = (vec![0; MAX_PIECE_BYTES], 0, Sha256::new());
        // What is written meanwhile comes with the lines that the tail reads, or not at all.
        while at < facts.size_bytes {
            let want = usize::try_from(facts.size_bytes - at).unwrap_or(usize::MAX).min(piece.len());
            let n = file.read_at(&mut piece[..want], at).map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("it became shorter while it was read".to_owned());
            }
            hasher.update(&piece[..n]);
            let content = FileContent::compress(&object, at, &piece[..n]).map_err(|e| e.to_string())?;
            let seen = FileSeen { cause: id.to_owned(), objects: Vec::new(), content: Some(content) };
            if self.parent.witness(seen)? == Verdict::DigestSuffices {
                return Err("it is over the budget of preserved content".to_owned());
            }
            at += n as u64;
        }
        object.sha256 = Some(Hash(hasher.finalize().into()));
        object.preserved_bytes = Some(facts.size_bytes);
        self.parent.witness(FileSeen { cause: id.to_owned(), objects: vec![object], content: None }).map(drop)
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
            let told = self.told.entry(hold.to_owned()).or_default();
            told.released = true;
            if let Err(why) = recorded {
                told.lack(format!("its links stay, since what would go could not be recorded: {why}"));
                continue;
            }
            for entry in batch.iter().filter(|e| e.hold == hold && !unread.contains(&e.name)) {
                let now = beneath::facts_at(held, &entry.name);
                let same =
                    now.is_ok_and(|f| f.inode == entry.facts.inode && f.mtime_ns == entry.facts.mtime_ns);
                if same && rustix::fs::unlinkat(held, &entry.name, AtFlags::empty()).is_ok() {
                    told.files += 1;
                    if entry.facts.links == 1 {
                        told.kept_bytes += entry.facts.allocated_bytes;
                    }
                }
            }
        }
    }

    fn bound(&self, links: usize) -> Option<String> {
        if links >= MAX_LINKS {
            Some(format!("only {MAX_LINKS} files are linked in a root; hold less"))
        } else if self.looked > MAX_ENTRIES {
            Some(format!("a sweep looks at {MAX_ENTRIES} files only; hold a folder of them"))
        } else if self.looked.is_multiple_of(256) && self.began.elapsed() > MAX_TIME {
            Some(format!("a sweep ends after {} s; the next goes on", MAX_TIME.as_secs()))
        } else {
            None
        }
    }

    fn all_lack(&mut self, why: &str) {
        self.told.values_mut().filter(|t| !t.released).for_each(|t| t.lack(why.to_owned()));
    }
}

/// Whether a name is a log's, for a hold of a whole node: rotated ones bear the live one's name in theirs.
fn looks_like_a_log(name: &[u8]) -> bool {
    const KNOWN: [&[u8]; 6] = [b"syslog", b"messages", b"secure", b"kern", b"auth", b"audit"];
    name.windows(4).any(|w| w == b".log") || KNOWN.iter().any(|k| name.starts_with(k))
}

/// Whether the log `name` seems to be rotated by copying and truncating: its newest rotated copy was born after it. One
/// that is rotated by renaming is younger than that.
fn truncates(folder: &OwnedFd, name: &OsStr, facts: &Facts) -> bool {
    let mut copy = name.to_owned();
    copy.push(".1");
    let born = |f: Facts| f.btime_ns.zip(facts.btime_ns).is_some_and(|(copy, live)| copy > live);
    beneath::facts_at(folder, &copy).is_ok_and(born)
}

/// The entries of the folder that bear a name of ours.
fn entries(held: &OwnedFd) -> Result<Vec<Entry>, Errno> {
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
fn kept_bytes(entries: &[Entry]) -> HashMap<String, u64> {
    let mut ours: HashMap<u64, u64> = HashMap::new();
    entries.iter().for_each(|e| *ours.entry(e.facts.inode).or_default() += 1);
    let mut bytes: HashMap<String, u64> = HashMap::new();
    for entry in entries.iter().filter(|e| ours.get(&e.facts.inode) == Some(&e.facts.links)) {
        *bytes.entry(entry.hold.clone()).or_default() += entry.facts.allocated_bytes;
    }
    bytes
}

/// What deleted files may take of the root's filesystem, bytes.
fn root_room(root: &Root) -> u64 {
    rustix::fs::fstatvfs(&root.folder).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize) / MAX_KEPT_SHARE)
}

fn entry_name(hold: &str, inode: u64, name: &OsStr) -> Option<OsString> {
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

fn object(path: PathBuf, facts: &Facts) -> PlannedObject {
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
