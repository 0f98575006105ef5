//! Removing one object.
//!
//! Two halves, with the record between them. [`prepare`]: open the folder beneath its root; open the object through a
//! descriptor known to be a regular file; vet it by policy; **claim** it (a write lease: nobody else has it open, and
//! nobody can open it unseen from here on); compare it with the plan; digest it, and hand its content on where that is to
//! be kept, giving way when somebody wants it; compare it again. What was seen is then made durable by the agent, while
//! descriptor and lease stay. [`take`]: compare it and the lease once more; ask once more whether it is held; **move** it
//! into quarantine without replacing; compare what arrived there, and that the lease is whole; **unlink**; look through
//! the still open descriptor what went.
//!
//! Invariants: nothing is unlinked whose identity in quarantine is not the plan's; whatever else was moved goes back to
//! its name, or stays in quarantine and is said; no name is ever replaced.
//!
//! Deliberately absent: deciding which objects, and totals (`cleaner`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dogwatch::record::{Hash, MAX_PIECE_BYTES, PlannedObject};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::age_clock::Present;
use super::beneath::{self, Facts, Opened};
use super::cleaners::Look;
use super::gaps;
pub(super) use super::gaps::Gap;
use super::holder::Holders;
use super::lease::{self, Claim};
use super::mounted::MOUNTED_ON;
use super::policy::{QUARANTINE, RootRules};
use super::quarantine::{Root, entry_name};
use super::vet::{Neighbours, vet};
use super::witness::Verdict;

/// Largest file that is digested whole; of a larger one, the first and last [`DIGEST_ENDS`].
pub(super) const DIGEST_WHOLE: u64 = 64 << 20;
/// What is digested at each end of a larger file.
pub(super) const DIGEST_ENDS: u64 = 1 << 20;
/// What an object is told that could not leave; the executor is started again before the next survey, which makes it.
pub(super) const QUARANTINE_GONE: &str =
    "was removed from its root; it is made again before the next cleanup";
/// Read between two looks at whether somebody wants the file.
const DIGEST_CHUNK: usize = 1 << 20;

/// What a test does at a gap.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnMut(Gap, &PlannedObject)>;

/// Calls into a test at each gap; empty in production.
#[derive(Default)]
pub(super) struct Hooks {
    #[cfg(test)]
    pub(super) at: Option<Hook>,
}

impl Hooks {
    #[cfg(test)]
    pub(super) fn reach(&mut self, gap: Gap, object: &PlannedObject) {
        if let Some(at) = &mut self.at {
            at(gap, object);
        }
        gaps::reach(gap, &object.path);
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the same call as in tests")]
    #[inline]
    pub(super) fn reach(&mut self, gap: Gap, object: &PlannedObject) {
        gaps::reach(gap, &object.path);
    }
}

/// Why an object was not removed.
#[derive(Debug)]
pub(super) enum Left {
    /// It is as it was, because of this; or in quarantine, because its old name or folder was taken from it, and the text
    /// says so.
    Skipped(String),
    /// A system call failed; it is as it was, or where the text says.
    Failed(String),
}

/// What was removed.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) sha256: Hash,
    pub(super) digest_partial: bool,
    pub(super) preserved_bytes: Option<u64>,
    /// Allocated bytes, if this was its last link and nobody had it open; else 0.
    pub(super) freed_bytes: u64,
    /// Why allocated bytes did not come back.
    pub(super) withheld: Option<String>,
    /// What is left of the inode.
    pub(super) after: Facts,
}

impl Removed {
    /// What it counts against budgets: the blocks of an inode go with its last name, whoever has it open yet.
    pub(super) fn spent_bytes(&self) -> u64 {
        if self.after.links > 0 { 0 } else { self.after.allocated_bytes }
    }
}

/// Where an object is to be removed.
pub(super) struct Place<'r> {
    pub(super) rules: &'r RootRules,
    pub(super) root: &'r Root,
    /// The object, relative to the root.
    pub(super) relative: &'r Path,
    /// Where this action already removed another link of the object.
    pub(super) sibling: Option<Sibling>,
    /// Whether it may still go; asked last before it is moved.
    pub(super) last_word: &'r dyn Fn() -> Result<(), String>,
}

/// Removing a link changes the inode: what its change time was in the plan, and what we made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sibling {
    pub(super) planned_ctime_ns: i64,
    pub(super) our_ctime_ns: i64,
}

/// Takes a piece of content, from this offset: whether the content is kept, or why the object has to stay.
pub(super) type Keep<'k> = &'k mut dyn FnMut(u64, &[u8]) -> Result<Verdict, String>;

/// What there is to do while an object is read.
pub(super) struct Tend<'t> {
    /// Takes the content where it is to be kept.
    pub(super) keep: Option<Keep<'t>>,
    /// Called before each piece is read; an error is why to read no further.
    pub(super) meanwhile: &'t mut dyn FnMut() -> Result<(), String>,
}

/// An object that may go once what was seen of it is durable.
pub(super) struct Prepared {
    folder: OwnedFd,
    name: PathBuf,
    entry: OsString,
    file: OwnedFd,
    hold: Hold,
    pub(super) sha256: Hash,
    pub(super) digest_partial: bool,
    /// Bytes of content that are kept.
    pub(super) preserved_bytes: Option<u64>,
    /// What it is now, the access time among it.
    pub(super) facts: Facts,
}

impl Prepared {
    /// Whether somebody waits to open it.
    pub(super) fn is_wanted(&self) -> bool {
        self.hold.is_wanted(&self.file)
    }
}

/// Looks at `object` and claims it; nothing is changed. `neighbours` gives what stays in its folder, `now` is the
/// node's clock, `tend` is attended to while it is read.
pub(super) fn prepare(
    place: &Place<'_>,
    object: &PlannedObject,
    now: Present,
    neighbours: &mut dyn FnMut(&Path, &OwnedFd) -> Rc<Neighbours>,
    tend: Tend<'_>,
    hooks: &mut Hooks,
) -> Result<Prepared, Left> {
    hooks.reach(Gap::Begin, object);
    let (Some(parent), Some(name)) = (place.relative.parent(), place.relative.file_name()) else {
        return Err(Left::Skipped("it is the root itself".to_owned()));
    };
    let folder = beneath::open_folder(&place.root.folder, parent).map_err(|e| lookup("its folder", e))?;
    let folder_facts = beneath::facts_of(&folder).map_err(|e| lookup("its folder", e))?;
    hooks.reach(Gap::FolderOpen, object);

    let (file, seen) = match beneath::open_regular(&folder, Path::new(name)) {
        Ok(Opened::Regular(file, facts)) => (file, facts),
        Ok(Opened::Other(_)) => {
            return Err(Left::Skipped("not what the plan saw: it is no longer a regular file".to_owned()));
        }
        Err(Errno::AGAIN) => return Err(Left::Skipped("open elsewhere".to_owned())),
        Err(Errno::XDEV) => return Err(Left::Skipped(MOUNTED_ON.to_owned())),
        Err(error) => return Err(lookup("it", error)),
    };
    let entry = entry_name(folder_facts.inode, parent, object.inode, name)
        .ok_or_else(|| Left::Skipped("its name is too long to stay recoverable in quarantine".to_owned()))?;
    hooks.reach(Gap::ObjectOpen, object);

    let neighbours = neighbours(parent, &folder);
    let mut judged = seen;
    if let Some(sibling) = place.sibling.filter(|s| s.our_ctime_ns == seen.ctime_ns) {
        judged.ctime_ns = sibling.planned_ctime_ns;
    }
    let look = Look {
        rules: place.rules,
        ground: &place.root.ground,
        relative: place.relative,
        folder: &folder,
        facts: &judged,
    };
    vet(&look, &neighbours, &file, now).map_err(Left::Skipped)?;
    hooks.reach(Gap::Vetted, object);
    let hold = Hold::claim(&file, &seen).map_err(Left::Skipped)?;
    hooks.reach(Gap::Leased, object);
    same(beneath::facts_of(&file), object, false)?;
    hooks.reach(Gap::Claimed, object);

    let file = File::from(file);
    let (sha256, digest_partial, preserved_bytes) = digest(&file, object, &hold, tend, hooks)?;
    let file = OwnedFd::from(file);
    let facts = same(beneath::facts_of(&file), object, false)?;
    hooks.reach(Gap::Seen, object);
    let name = PathBuf::from(name);
    Ok(Prepared { folder, name, entry, file, hold, sha256, digest_partial, preserved_bytes, facts })
}

/// Removes an object of which everything that was seen is durable.
pub(super) fn take(
    place: &Place<'_>,
    object: &PlannedObject,
    prepared: Prepared,
    hooks: &mut Hooks,
) -> Result<Removed, Left> {
    let Prepared { folder, name, entry, file, hold, sha256, digest_partial, preserved_bytes, .. } = prepared;
    let name = name.as_path();
    same(beneath::facts_of(&file), object, false)?;
    if hold.is_wanted(&file) {
        return Err(wanted());
    }
    hooks.reach(Gap::Digested, object);
    (place.last_word)().map_err(Left::Skipped)?;
    hooks.reach(Gap::Asked, object);

    let origin = (&folder, name);
    rustix::fs::renameat_with(&folder, name, &place.root.quarantine, &entry, RenameFlags::NOREPLACE)
        .map_err(|error| match error {
            Errno::NOENT if beneath::facts_at(&folder, name).is_ok() => {
                Left::Failed(format!("{QUARANTINE} {QUARANTINE_GONE}"))
            }
            Errno::NOENT => Left::Skipped("not what the plan saw: its name is gone".to_owned()),
            Errno::EXIST => Left::Failed(format!(
                "quarantine already holds {}: look there first",
                place.root.quarantined(&entry).display()
            )),
            Errno::ACCESS | Errno::PERM => Left::Failed(format!("it may not be moved: {error}")),
            Errno::INVAL => Left::Failed("this filesystem cannot rename without replacing".to_owned()),
            other => Left::Failed(format!("it cannot be moved into quarantine: {other}")),
        })?;
    hooks.reach(Gap::Moved, object);

    // What it is comes last: of all that may change now, only that makes something else go.
    let arrived = (place.last_word)()
        .map_err(Left::Skipped)
        .and_then(|()| if hold.is_whole(&file) { Ok(()) } else { Err(wanted()) })
        .and_then(|()| {
            hooks.reach(Gap::AskedAgain, object);
            same(beneath::facts_of(&file), object, true)
        })
        .and_then(|_| same(beneath::facts_at(&place.root.quarantine, &*entry), object, true))
        // Cheap enough to be the very last: from here on whoever opens it waits until it is unlinked.
        .and_then(|_| if hold.is_wanted(&file) { Err(wanted()) } else { Ok(()) });
    if let Err(why) = arrived {
        hooks.reach(Gap::PuttingBack, object);
        return Err(put_back(place, &entry, origin, why));
    }
    hooks.reach(Gap::Compared, object);

    if let Err(error) = rustix::fs::unlinkat(&place.root.quarantine, &*entry, AtFlags::empty()) {
        let why = Left::Failed(format!("it cannot be unlinked: {error}"));
        hooks.reach(Gap::PuttingBack, object);
        return Err(put_back(place, &entry, origin, why));
    }
    hooks.reach(Gap::Unlinked, object);
    let removed = Removed { preserved_bytes, ..account(&file, object, &hold, sha256, digest_partial) };
    // As many links as before: either one was added, or it was not it that lay there.
    if removed.after.links >= object.links && !its_name_went(&file) {
        return Err(Left::Failed(format!(
            "somebody with root's rights took it out of {QUARANTINE} between its last check and its unlinking, and put \
             something else there, which was unlinked in its place"
        )));
    }
    Ok(removed)
}

/// Whether the name by which `file` was opened, and which was moved with it, is no more. What cannot be told counts as no.
fn its_name_went(file: &OwnedFd) -> bool {
    let now = std::fs::read_link(format!("/proc/thread-self/fd/{}", file.as_raw_fd())).unwrap_or_default();
    // NFS keeps what is open under a name of its own.
    let silly = now.file_name().is_some_and(|n| n.as_bytes().starts_with(b".nfs"));
    silly || now.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// Whether it lies on an overlay, where nobody can tell whether unlinking frees anything: of a file in a lower layer, it
/// hides the name.
fn is_on_overlay(file: &OwnedFd) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of `linux/magic.h`.
    const OVERLAY: i64 = 0x794C_7630;
    rustix::fs::fstatfs(file).is_ok_and(|s| s.f_type & 0xFFFF_FFFF == OVERLAY)
}

/// What went, seen through the descriptor that is still open.
fn account(
    file: &OwnedFd,
    object: &PlannedObject,
    hold: &Hold,
    sha256: Hash,
    digest_partial: bool,
) -> Removed {
    let whole = hold.is_whole(file);
    let (after, freed_bytes, withheld) = match beneath::facts_of(file) {
        Ok(after) if after.links > 0 => {
            let expected = object.links.saturating_sub(1);
            let why = (after.links > expected).then(|| "a hard link to it appeared meanwhile".to_owned());
            (after, 0, why)
        }
        Ok(after) if !whole => (after, 0, Some("somebody opened it at the last moment".to_owned())),
        Ok(after) if is_on_overlay(file) => {
            (after, 0, Some("it lay on an overlay, which does not tell what came free".to_owned()))
        }
        Ok(after) => (after, after.allocated_bytes, None),
        Err(error) => {
            let facts = Facts {
                kind: rustix::fs::FileType::RegularFile,
                device: object.device,
                inode: object.inode,
                size_bytes: object.size_bytes,
                allocated_bytes: 0,
                mtime_ns: object.mtime_ns,
                ctime_ns: object.ctime_ns,
                atime_ns: object.atime_ns.unwrap_or(object.mtime_ns),
                btime_ns: object.btime_ns,
                uid: object.uid,
                gid: object.gid,
                mode: object.mode,
                links: object.links.saturating_sub(1),
                pinned: false,
                mount_id: None,
            };
            (facts, 0, Some(format!("it could not be looked at after it was unlinked: {error}")))
        }
    };
    Removed { sha256, digest_partial, preserved_bytes: None, freed_bytes, withheld, after }
}

/// Our claim that nobody else has the file open.
enum Hold {
    /// By a lease.
    Lease,
    /// By a look through every process, where the filesystem has no leases.
    Looked(Facts),
}

impl Hold {
    fn claim(file: &OwnedFd, facts: &Facts) -> Result<Self, String> {
        match lease::claim(file) {
            Claim::Ours => Ok(Self::Lease),
            Claim::OpenElsewhere => Err("open elsewhere".to_owned()),
            Claim::CannotTell(error) => Self::look(facts)
                .map_err(|why| format!("{why} (there are no leases to ask here: {error})"))
                .map(|()| Self::Looked(*facts)),
        }
    }

    fn look(facts: &Facts) -> Result<(), String> {
        let holders = Holders::scan(Path::new("/proc"), &[std::process::id()], true);
        match (holders.of((facts.device, facts.inode)), holders.incomplete.as_deref()) {
            (Some(holder), _) => Err(format!("open elsewhere: {holder}")),
            (None, Some(why)) => Err(format!("nobody can tell whether it is open: {why}")),
            (None, None) => Ok(()),
        }
    }

    fn is_whole(&self, file: &OwnedFd) -> bool {
        match self {
            Self::Lease => lease::still_ours(file),
            Self::Looked(facts) => Self::look(facts).is_ok(),
        }
    }

    /// Between two chunks of a digest: only what is cheap.
    fn is_wanted(&self, file: impl AsFd) -> bool {
        match self {
            Self::Lease => !lease::still_ours(&file),
            Self::Looked(_) => false,
        }
    }
}

pub(super) fn wanted() -> Left {
    Left::Skipped("open elsewhere: somebody opened it while it was looked at".to_owned())
}

pub(super) fn lookup(what: &str, error: Errno) -> Left {
    match error {
        Errno::NOENT => Left::Skipped(format!("not what the plan saw: {what} is gone")),
        Errno::LOOP | Errno::NOTDIR => {
            Left::Skipped(format!("not what the plan saw: on the way to {what} lies a link or no folder"))
        }
        Errno::XDEV => Left::Skipped(format!("not what the plan saw: {what} leaves the root or its mount")),
        other => Left::Failed(format!("{what} cannot be opened: {other}")),
    }
}

fn same(facts: Result<Facts, Errno>, object: &PlannedObject, renamed: bool) -> Result<Facts, Left> {
    let facts = facts.map_err(|e| Left::Failed(format!("it cannot be looked at: {e}")))?;
    match facts.differs_from(object, renamed) {
        None => Ok(facts),
        Some(how) => Err(Left::Skipped(how)),
    }
}

/// Undoes the move. Where the old name is taken, the object stays in quarantine, and the text says so. That is no failure
/// of ours: whoever may write in the folder can do it, and must not make a cleanup look broken.
fn put_back(place: &Place<'_>, entry: &OsStr, origin: (&OwnedFd, &Path), why: Left) -> Left {
    let back =
        rustix::fs::renameat_with(&place.root.quarantine, entry, origin.0, origin.1, RenameFlags::NOREPLACE);
    let Err(error) = back else { return why };
    let is_there = beneath::facts_at(&place.root.quarantine, entry).is_ok();
    let (Left::Skipped(reason) | Left::Failed(reason)) = &why;
    if error == Errno::NOENT && !is_there {
        return Left::Failed(format!("{reason}; it vanished from {QUARANTINE} before it could be put back"));
    }
    let how = match error {
        Errno::EXIST => "its old name is taken".to_owned(),
        Errno::NOENT => "its folder is gone".to_owned(),
        other => other.to_string(),
    };
    let lies: PathBuf = place.root.quarantined(entry);
    let said = format!("{reason}; it could not be put back ({how}) and lies in {}", lies.display());
    match (error, why) {
        (Errno::EXIST | Errno::NOENT, Left::Skipped(_)) => Left::Skipped(said),
        _ => Left::Failed(said),
    }
}

/// SHA-256 of the file of `object`, whole or of its ends; stops when somebody wants the file. Where it is digested whole,
/// `keep` gets the same bytes, and the last figure is how many it kept.
fn digest(
    file: &File,
    object: &PlannedObject,
    hold: &Hold,
    tend: Tend<'_>,
    hooks: &mut Hooks,
) -> Result<(Hash, bool, Option<u64>), Left> {
    let Tend { mut keep, meanwhile } = tend;
    let size = object.size_bytes;
    let whole = [(0, size)];
    let ends = [(0, DIGEST_ENDS), (size.saturating_sub(DIGEST_ENDS), DIGEST_ENDS)];
    let partial = size > DIGEST_WHOLE;
    let ranges: &[(u64, u64)] = if partial { &ends } else { &whole };
    let mut hasher = Sha256::new();
    let chunk = if keep.is_some() { MAX_PIECE_BYTES } else { DIGEST_CHUNK };
    let mut chunk = vec![0; chunk.min(usize::try_from(size).unwrap_or(chunk))];
    let mut give = |offset: u64, piece: &[u8]| {
        let Some(to) = keep.as_mut() else { return Ok(()) };
        match to(offset, piece) {
            Ok(Verdict::Kept) => {}
            Ok(Verdict::DigestSuffices) => keep = None,
            Err(why) => return Err(Left::Skipped(format!("its content could not be kept: {why}"))),
        }
        Ok(())
    };
    if size == 0 || partial {
        // Nothing to keep still asks whether it may go; what is too large for a digest is too large to be kept.
        give(0, &[])?;
    }
    for (start, length) in ranges {
        let (mut at, end) = (*start, start + length);
        while at < end {
            if hold.is_wanted(file) {
                return Err(wanted());
            }
            meanwhile().map_err(Left::Skipped)?;
            hooks.reach(Gap::Digesting, object);
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            match file.read_at(&mut chunk[..want], at) {
                Ok(0) => return Err(Left::Skipped("not what the plan saw: it became shorter".to_owned())),
                Ok(n) => {
                    hasher.update(&chunk[..n]);
                    if !partial {
                        give(at, &chunk[..n])?;
                    }
                    at += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Left::Failed(format!("it cannot be read for its digest: {error}")));
                }
            }
        }
    }
    let preserved = keep.is_some().then_some(size);
    Ok((Hash(hasher.finalize().into()), partial, preserved))
}
