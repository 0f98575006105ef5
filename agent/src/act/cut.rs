//! Cutting one live log to its tail, in place.
//!
//! Order: open its folder beneath the root, and it as a regular file; vet it by policy; see that it is still the log of
//! the plan, as large or larger, with one name; work out again what may go, and that it is what the plan says; digest
//! that again, so that what goes is what was recorded; see that its name still leads to it; see by what it holds now
//! whether budgets let it; ask once more whether it is held or the action is to stop; compare it; punch the hole. `live` says why a hole.
//!
//! Invariants: nothing after the plan's end of the cut changes; no byte goes whose digest is not in the durable record
//! (where the digest is partial, whose ends are not); the file is never truncated, moved, or opened for writing before
//! every check has passed.
//!
//! Deliberately absent: a fallback where the filesystem cannot punch holes; there the log stays.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dogwatch::record::PlannedObject;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::age_clock::Present;
use super::beneath::{self, Facts, Opened};
use super::cleaners::Look;
use super::live::{self, Range};
use super::remove::{Gap, Hooks, Left, Place, lookup};
use super::vet::{Neighbours, vet};

/// Longest second look at what goes: it took the survey no longer.
const DIGEST_TIME: Duration = Duration::from_secs(30);

/// Cuts `object`, and gives the allocated bytes that went. `neighbours` gives what stays in its folder, `within` whether so
/// many bytes may go.
pub(super) fn cut(
    place: &Place<'_>,
    object: &PlannedObject,
    now: Present,
    neighbours: &mut dyn FnMut(&Path, &OwnedFd) -> Rc<Neighbours>,
    within: &mut dyn FnMut(u64) -> Result<(), String>,
    hooks: &mut Hooks,
) -> Result<u64, Left> {
    hooks.reach(Gap::Begin, object);
    let (Some(parent), Some(name)) = (place.relative.parent(), place.relative.file_name()) else {
        return Err(Left::Skipped("it is the root itself".to_owned()));
    };
    let folder = beneath::open_folder(&place.root.folder, parent).map_err(|e| lookup("its folder", e))?;
    hooks.reach(Gap::FolderOpen, object);
    let (file, seen) = match beneath::open_regular(&folder, Path::new(name)) {
        Ok(Opened::Regular(file, facts)) => (file, facts),
        Ok(Opened::Other(_)) => {
            return Err(Left::Skipped("not what the plan saw: it is no longer a regular file".to_owned()));
        }
        Err(Errno::AGAIN) => return Err(Left::Skipped("somebody has a lease on it".to_owned())),
        Err(error) => return Err(lookup("it", error)),
    };
    hooks.reach(Gap::ObjectOpen, object);

    let neighbours = neighbours(parent, &folder);
    let look = Look {
        rules: place.rules,
        ground: &place.root.ground,
        relative: place.relative,
        folder: &folder,
        facts: &seen,
    };
    vet(&look, &neighbours, &file, now).map_err(Left::Skipped)?;
    still_the_log(&seen, object)?;
    let file = File::from(file);
    let range = agreed(&file, &seen, place, object)?;
    let until = Instant::now() + DIGEST_TIME;
    let digest = live::digest(&file, range, !object.digest_partial, until).map_err(Left::Failed)?;
    if digest.is_none() {
        return Err(Left::Skipped("what is to go could not be compared with its record in time".to_owned()));
    }
    if digest != object.sha256 {
        return Err(Left::Skipped("not what the plan saw: what is to go was changed".to_owned()));
    }
    hooks.reach(Gap::Digested, object);

    let writable = beneath::reopen_for_writing(&file)
        .map_err(|e| Left::Failed(format!("it may not be written to: {e}")))?;
    let named = beneath::facts_at(&folder, name).map_err(|e| lookup("it", e))?;
    still_the_log(&named, object)?;
    // Not what the plan says of it, whose maker may lie; nor what a cut is worth, which takes the tail to be without holes.
    let at_most = facts_of(&writable)?.allocated_bytes.min(range.to - range.from);
    within(at_most).map_err(Left::Skipped)?;
    (place.last_word)().map_err(Left::Skipped)?;
    hooks.reach(Gap::Asked, object);
    let before = facts_of(&writable)?;
    still_the_log(&before, object)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&writable, flags, range.from, range.to - range.from).map_err(|e| match e {
        Errno::OPNOTSUPP | Errno::NOSYS => {
            Left::Skipped("its filesystem cannot free the middle of a file".to_owned())
        }
        other => Left::Failed(format!("it cannot be cut: {other}")),
    })?;
    hooks.reach(Gap::Unlinked, object);
    let after = facts_of(&writable)?;
    Ok(before.allocated_bytes.saturating_sub(after.allocated_bytes))
}

fn facts_of(file: &OwnedFd) -> Result<Facts, Left> {
    beneath::facts_of(file).map_err(|e| Left::Failed(format!("it cannot be looked at: {e}")))
}

/// A live log changes all the time; what must not have changed is which file it is, whose, and that it only grew.
fn still_the_log(facts: &Facts, object: &PlannedObject) -> Result<(), Left> {
    let checks = [
        (facts.device == object.device && facts.inode == object.inode, "another file has its name"),
        (facts.size_bytes >= object.size_bytes, "it became shorter"),
        (facts.uid == object.uid && facts.gid == object.gid, "its owner changed"),
        (facts.mode == object.mode, "its mode changed"),
        (facts.links == 1 && object.links == 1, "it has another name"),
    ];
    match checks.iter().find(|(same, _)| !same) {
        Some((_, how)) => Err(Left::Skipped(format!("not what the plan saw: {how}"))),
        None => Ok(()),
    }
}

/// The plan's range, if by our own policy all of it may go.
fn agreed(file: &File, seen: &Facts, place: &Place<'_>, object: &PlannedObject) -> Result<Range, Left> {
    let planned =
        object.cut.as_ref().ok_or_else(|| Left::Skipped("its plan does not say what goes".to_owned()))?;
    let planned = Range { from: planned.from, to: planned.to };
    if live::permits(file, seen.size_bytes, place.rules.policy.keep_bytes, planned) {
        Ok(planned)
    } else {
        Err(Left::Skipped("its plan would take more than may go".to_owned()))
    }
}
