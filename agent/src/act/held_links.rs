//! Held files, linked aside: neither the kubelet nor logrotate knows of holds.
//!
//! What is held beneath a cleanup root gets another name in `.dogwatch-held`, a 0700 folder of the same root and mount
//! that only we can enter: the link follows rotations (a rename keeps the inode) and outlives a deletion. A sweep lets go
//! of what is not held any more ([`release`]), and links what appeared since; what would then be gone for good is recorded
//! with its digest first. Runs in the executor, which makes no folder and writes no file; so each entry's *name* is its
//! record ([`entry`]).
//!
//! A link protects from deletion, not from truncation. A log that seems to be rotated by copying and truncating, and a file
//! that cannot be linked, leaves its content in the evidence instead ([`content`]), within the budget of preserved content;
//! what does not fit is said.
//!
//! A sweep goes in steps, so that surveys and cleanups need not wait for it, and each step goes on where the last one
//! ended, however many files there are. Another set of holds begins it anew.
//!
//! Bounds: entries, bytes and time of a step, of which the time does not count before its first entry, and up to
//! [`LATEST`] may go for [`LEAST_ENTRIES`] of them; links a root, and the share of the filesystem that deleted files may take for
//! the sake of holds: a hold must not fill the disk. Where one of these two bites, it is said.
//!
//! Invariants: nothing in the folder is looked at by surveys or cleanups; an entry goes only when its hold is over, and
//! that is durable; what is held is known; every step gets on, so that a sweep ends.

mod content;
mod entry;
mod release;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use self::content::{Contents, Said};
use self::entry::{Entry, entry_name, kept_by_all, kept_bytes, list};
use super::beneath::{self, Facts, Opened};
use super::cleaner::Parent;
use super::folders::{Folders, Way};
use super::hold::{HeldPlace, Hold, NodeHold};
use super::policy::{HELD, MAX_DEPTH};
use super::quarantine::Root;

use super::words;

/// Most links in one root's folder.
const MAX_LINKS: usize = 8_192;
/// Deleted files may take this share of a filesystem for the sake of holds; beyond it nothing more is linked.
const MAX_KEPT_SHARE: u64 = 10;
/// Most reasons of one hold; the rest is counted.
const MAX_LACKS: usize = 4;
/// What one step may take: a survey or a cleanup that comes meanwhile waits as long, and for the file that is being read.
const STEP: Budget = Budget { entries: 50_000, bytes: 16 << 20, time: Duration::from_millis(500) };
/// Entries of folders that a step looks at though its time is over: to find the place where the last one ended may cost more
/// than a step has, and where each entry does, a sweep of one entry a step would not end before what it is to link is gone.
const LEAST_ENTRIES: u64 = 256;
/// The end of a step however few entries it had (one at least): a cleanup waits for it.
const LATEST: Duration = Duration::from_secs(2);

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

/// What one step of a sweep says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// At the sweep's end every hold, and those that are over; before that only these, with what went of them so far.
    pub holds: Vec<HeldAside>,
    /// Whether the sweep goes on with the next step.
    pub more: bool,
}

/// What a step may take.
#[derive(Debug, Clone, Copy)]
struct Budget {
    entries: u64,
    bytes: u64,
    time: Duration,
}

/// What a step has taken.
#[derive(Debug)]
struct Spent {
    budget: Budget,
    /// Since the first entry.
    began: Option<Instant>,
    entries: u64,
    bytes: u64,
}

impl Spent {
    fn new(budget: Budget) -> Self {
        Self { budget, began: None, entries: 0, bytes: 0 }
    }

    /// An entry is looked at.
    fn begin(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// Whether the step is over for whatever takes its time by itself, as reading does.
    fn is_over(&self) -> bool {
        let late = self.began.is_some_and(|at| at.elapsed() >= self.budget.time);
        late || self.is_used_up()
    }

    /// Whether it is over for the next entry of a folder, of which each step looks at [`LEAST_ENTRIES`].
    fn is_over_for_entries(&self) -> bool {
        let very_late = self.began.is_some_and(|at| at.elapsed() >= LATEST);
        self.is_used_up() || very_late || self.entries >= LEAST_ENTRIES && self.is_over()
    }

    fn is_used_up(&self) -> bool {
        self.entries >= self.budget.entries || self.bytes >= self.budget.bytes
    }
}

/// Sweeps, and where the present one is.
#[derive(Debug)]
pub(super) struct Sweeps {
    contents: Contents,
    pass: Option<Pass>,
    budget: Budget,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self { contents: Contents::default(), pass: None, budget: STEP }
    }
}

impl Sweeps {
    /// One step: links aside what `holds` (resolved: `places`) hold beneath `roots`, and where `may_release`, lets go of
    /// the rest.
    pub(super) fn step(
        &mut self,
        roots: &[Option<Root>],
        (holds, places): (&[NodeHold], &[Hold]),
        may_release: bool,
        parent: &dyn Parent,
    ) -> Step {
        let all: Vec<&Root> = roots.iter().flatten().collect();
        let mut seen = HashSet::new();
        let each: Vec<&Root> =
            all.iter().copied().filter(|r| seen.insert((r.facts.device, r.facts.inode))).collect();
        let mut pass = match self.pass.take() {
            Some(pass) if pass.holds == holds => pass,
            other => Pass::new(holds, other),
        };
        let spent = Spent::new(self.budget);
        let mut sweep = Sweep { places, pass: &mut pass, contents: &mut self.contents, parent, spent };
        while let Some(root) = each.get(sweep.pass.root) {
            if !sweep.root(root, &all, may_release) {
                let over = pass.told.iter().filter(|(_, told)| told.released);
                let holds = over.map(|(hold, told)| told.clone().finish(hold.clone())).collect();
                self.pass = Some(pass);
                return Step { holds, more: true };
            }
            sweep.pass.root += 1;
            sweep.pass.at = None;
        }
        let ids: Vec<&str> = holds.iter().map(|h| h.id.as_str()).collect();
        self.contents.end_sweep(&ids);
        Step { holds: pass.told.into_iter().map(|(hold, told)| told.finish(hold)).collect(), more: false }
    }
}

/// One sweep, between its steps.
#[derive(Debug)]
struct Pass {
    /// For which it is.
    holds: Vec<NodeHold>,
    /// The root that it is at, among those that are not the same folder.
    root: usize,
    /// Where in that.
    at: Option<Cursor>,
    told: BTreeMap<String, Told>,
    /// Entries that stay although their hold is over, by root.
    stuck: HashSet<(usize, OsString)>,
}

impl Pass {
    /// Begins anew; what `earlier` let go of is told with the rest.
    fn new(holds: &[NodeHold], earlier: Option<Self>) -> Self {
        let gone = earlier.into_iter().flat_map(|p| p.told).filter(|(_, told)| told.released);
        let mut told: BTreeMap<String, Told> = gone.collect();
        told.extend(holds.iter().map(|h| (h.id.clone(), Told::default())));
        Self { holds: holds.to_vec(), root: 0, at: None, told, stuck: HashSet::new() }
    }
}

/// A place within a root: a folder, and how far its entries were looked at (`d_off`, getdents(2)).
#[derive(Debug)]
struct Cursor {
    folder: PathBuf,
    offset: i64,
}

#[derive(Debug, Clone, Default)]
struct Told {
    files: u64,
    kept_bytes: u64,
    lacks: Vec<String>,
    unnamed: usize,
    released: bool,
}

impl Told {
    fn lack(&mut self, why: String) {
        if self.lacks.contains(&why) {
            // A file that took several steps is met in each of them.
        } else if self.lacks.len() < MAX_LACKS {
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

/// One step of a sweep.
struct Sweep<'s> {
    places: &'s [Hold],
    pass: &'s mut Pass,
    contents: &'s mut Contents,
    parent: &'s dyn Parent,
    spent: Spent,
}

impl Sweep<'_> {
    /// Sweeps a root, as far as the step goes; whether that was all of it.
    fn root(&mut self, root: &Root, all: &[&Root], may_release: bool) -> bool {
        let held = match &root.held {
            Ok(held) => held,
            Err(why) => {
                self.all_lack(&format!("beneath {} nothing is linked: {why}", root.path.display()));
                return true;
            }
        };
        let entries = match list(held) {
            Ok(entries) => entries,
            Err(error) => {
                self.all_lack(&format!("{HELD} in {} cannot be listed: {error}", root.path.display()));
                return true;
            }
        };
        let (kept, mut over): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|e| !may_release || self.pass.told.get(&e.hold).is_some_and(|t| !t.released));
        over.retain(|e| !self.pass.stuck.contains(&(self.pass.root, e.name.clone())));
        if !self.let_go_all(root, held, &over) {
            return false;
        }
        if self.places.is_empty() {
            return true;
        }
        let mut linked: HashSet<(String, u64)> =
            kept.iter().map(|e| (e.hold.clone(), e.facts.inode)).collect();
        let (room, deleted) = (root_room(root), kept_by_all(&kept));
        if deleted > room {
            let (have, most) = (words::bytes(deleted), words::bytes(room));
            self.all_lack(&format!(
                "beneath {} deleted files take {have} for the sake of holds, over {most}: nothing more is linked there",
                root.path.display()
            ));
        } else if !self.link_all(root, held, all, &mut linked) {
            return false;
        }
        let Ok(now) = list(held) else { return true };
        for (hold, bytes) in kept_bytes(&now) {
            if let Some(told) = self.pass.told.get_mut(&hold).filter(|t| !t.released) {
                told.kept_bytes += bytes;
            }
        }
        for entry in now {
            if let Some(told) = self.pass.told.get_mut(&entry.hold).filter(|t| !t.released) {
                told.files += 1;
            }
        }
        true
    }

    /// Links what is held and is not linked yet, from where the last step ended; whether that was all.
    fn link_all(
        &mut self,
        root: &Root,
        held: &OwnedFd,
        all: &[&Root],
        linked: &mut HashSet<(String, u64)>,
    ) -> bool {
        let mut folders = Folders::new(MAX_DEPTH);
        let inner = all.iter().filter_map(|r| r.path.strip_prefix(&root.path).ok());
        folders.leave_out = inner.filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
        let mut begin = self.pass.at.take();
        folders.from = begin.as_ref().map(|c| c.folder.clone());
        // What is held must be kept wherever it lies.
        folders.max_entries = usize::MAX;
        folders.visit(&root.folder, &mut |relative, folder| {
            let Ok(mut names) = rustix::fs::Dir::read_from(folder) else { return Way::On };
            // Where that folder is gone, what follows it is looked at from its beginning.
            let mut offset = match begin.take().filter(|c| c.folder == relative) {
                Some(at) if names.seek(at.offset).is_ok() => at.offset,
                _ => 0,
            };
            while let Some(Ok(name)) = names.next() {
                if linked.len() >= MAX_LINKS {
                    self.all_lack(&format!("only {MAX_LINKS} files are linked in a root; hold less"));
                    return Way::Stop;
                }
                self.spent.begin();
                let done = self.file(root, held, (relative, folder), &name, linked);
                self.spent.entries += 1;
                if done {
                    offset = name.offset();
                }
                if !done || self.spent.is_over_for_entries() {
                    self.pass.at = Some(Cursor { folder: relative.to_owned(), offset });
                    return Way::Stop;
                }
            }
            Way::On
        });
        self.pass.at.is_none()
    }

    /// Looks at one entry of a folder; whether it needs no further step.
    fn file(
        &mut self,
        root: &Root,
        held: &OwnedFd,
        (relative, folder): (&Path, &OwnedFd),
        name: &rustix::fs::DirEntry,
        linked: &mut HashSet<(String, u64)>,
    ) -> bool {
        let name = OsStr::from_bytes(name.file_name().to_bytes());
        let path = root.path.join(relative).join(name);
        let covers = |h: &&Hold| match h.place {
            HeldPlace::Everywhere => looks_like_a_log(name.as_bytes()),
            _ => h.covers(&path),
        };
        let by: HashSet<&str> = self.places.iter().filter(covers).map(|h| h.id.as_str()).collect();
        if by.is_empty() {
            return true;
        }
        let Ok(facts) = beneath::facts_at(folder, name) else { return true };
        if facts.kind != FileType::RegularFile || facts.device != root.facts.device {
            return true;
        }
        let mut done = true;
        for id in by {
            if self.pass.told.contains_key(id) && linked.insert((id.to_owned(), facts.inode)) {
                done &= self.link(held, folder, name, (id, &path), &facts);
            }
            if truncates(folder, name, &facts) {
                let why = "it is rotated by copying and truncating, from which a link does not protect";
                done &= self.keep_content(folder, name, (id, &path), &facts, why);
            }
        }
        done
    }

    fn link(
        &mut self,
        held: &OwnedFd,
        folder: &OwnedFd,
        name: &OsStr,
        (id, path): (&str, &Path),
        facts: &Facts,
    ) -> bool {
        let Some(entry) = entry_name(id, facts.inode, name) else {
            return self.keep_content(folder, name, (id, path), facts, "its name is too long for a link");
        };
        match rustix::fs::linkat(folder, name, held, &entry, AtFlags::empty()) {
            Ok(()) => {
                // Somebody may have put another in its place; what was linked then is not what is held.
                let same = beneath::facts_at(held, &entry)
                    .is_ok_and(|f| f.inode == facts.inode && f.kind == FileType::RegularFile);
                if !same {
                    let _ = rustix::fs::unlinkat(held, &entry, AtFlags::empty());
                }
                true
            }
            // It went, and the next sweep sees what came in its place.
            Err(Errno::EXIST | Errno::NOENT) => true,
            Err(error) => {
                let why = format!("it cannot be linked ({error})");
                self.keep_content(folder, name, (id, path), facts, &why)
            }
        }
    }

    /// Keeps the content of a file that a link does not protect, as far as the step goes; whether that was all of it.
    fn keep_content(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        (id, path): (&str, &Path),
        facts: &Facts,
        why: &str,
    ) -> bool {
        let open = || match beneath::open_regular(folder, Path::new(name)) {
            Ok(Opened::Regular(file, now)) if now.inode == facts.inode => Some((File::from(file), now)),
            _ => None,
        };
        let said = match self.contents.keep((id, path), facts, open, self.parent, &mut self.spent) {
            Said::Whole => format!("{}: {why}; its content until then is in the evidence", path.display()),
            Said::Not(not) => format!("{}: {why}, and its content is not kept: {not}", path.display()),
            Said::Unfinished => return false,
        };
        if let Some(told) = self.pass.told.get_mut(id) {
            told.lack(said);
        }
        true
    }

    fn all_lack(&mut self, why: &str) {
        self.pass.told.values_mut().filter(|t| !t.released).for_each(|t| t.lack(why.to_owned()));
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

/// What deleted files may take of the root's filesystem, bytes.
fn root_room(root: &Root) -> u64 {
    rustix::fs::fstatvfs(&root.folder).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize) / MAX_KEPT_SHARE)
}
