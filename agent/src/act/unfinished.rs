//! Cleanups that an earlier run began, and of which nobody said how they ended: the agent was killed in their midst, or its
//! node was. The next run says it, before it begins another.
//!
//! [`Open`] picks them from the urgent stream's own records; [`Unfinished::close`] looks what became of each object.
//!
//! Invariants
//! - Whatever has no end in the record gets one at the next start, and one that has an end gets none: as long as the end
//!   is not durable it is found again, also after another kill.
//! - *Removed* is what was recorded as about to go, and lies neither under its name nor in quarantine, on a filesystem
//!   that is there. What was not so recorded this cleanup did not remove. Everything else is said to be unknown.
//! - What has the end spends no budget a second time: [`super::ledger`] counts by the same records.
//!
//! The executor of the killed agent is told to die by the kernel; a call that it is still in holds the lock of the folder
//! that it changes, for which whoever lists or looks into that folder waits. What it left in quarantine is put back for some
//! time before anything is looked at here; what still lies there then may go back later.
//!
//! Limits: a disk that does not answer in time makes everything of that action unknown; of the room before and after nobody knows; images may have gone or not; what somebody else removed in the moment
//! between a record and the kill counts as ours.
//!
//! Deliberately absent: carrying on with it. The need is measured anew, and what is still there is planned again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dogwatch::record::{Action, ActionState, Body, ObjectOutcome, PlannedObject, Refusal};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::aside::Aside;
use super::handle::recall;
use super::leftovers::Back;
use super::plan::bounded;
use super::policy::QUARANTINE;
use super::quarantine::is_entry_of;
use super::words;

/// Most of them that one start looks after, the newest: there is one for each kill, and each holds at most a plan's objects.
/// The others have no end yet, so that the next start finds them.
const MAX_UNFINISHED: usize = 32;
/// Entries of one quarantine that are looked through; it is empty but for what could not be put back.
const MAX_ENTRIES: usize = 10_000;

/// The actions that are open, as records come.
#[derive(Debug, Default)]
pub struct Open(Vec<Unfinished>);

impl Open {
    /// Takes what the next record of the urgent stream says, in the order in which they were written.
    pub fn take(&mut self, body: &Body) {
        match body {
            Body::Action(action) => match action.state {
                ActionState::Planned => {}
                ActionState::Started => {
                    self.0.retain(|open| open.action.id != action.id);
                    if self.0.len() == MAX_UNFINISHED {
                        self.0.remove(0);
                    }
                    self.0.push(Unfinished { action: (**action).clone(), seen: Vec::new() });
                }
                ActionState::Done | ActionState::Failed | ActionState::Refused => {
                    self.0.retain(|open| open.action.id != action.id);
                }
            },
            Body::File(file) => {
                if let Some(open) = self.0.iter_mut().find(|open| open.action.id == file.cause) {
                    open.seen.extend(file.objects.iter().cloned());
                }
            }
            _ => {}
        }
    }

    /// Those without an end, the oldest first.
    pub fn unfinished(self) -> Vec<Unfinished> {
        self.0
    }
}

/// An action that began, and has no end.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// As it began.
    action: Action,
    /// What was recorded of its objects before they would go.
    seen: Vec<PlannedObject>,
}

/// What is said of an image.
const IMAGE_UNKNOWN: &str = "whether it went is not known: `crictl images` lists those that stayed";

/// What became of an object, as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It lies under its name.
    There,
    /// It stays, and the content that the plan named is gone.
    Cut,
    /// It is not there any more.
    Gone,
    /// The same, and it went back there after the agent ended.
    GoneAgain,
    /// It lies in quarantine, from where it was not put back so far.
    Aside(PathBuf),
    /// Nobody can tell, for this reason.
    Unknown(String),
}

impl Unfinished {
    /// The action with its end; `back` is what went back from quarantine since. Looks at each object's name, at most a plan's
    /// worth; for a thread that may wait for a disk: see [`Unfinished::close_apart`].
    pub fn close(self, back: &HashSet<Back>) -> Action {
        let Self { mut action, seen } = self;
        recall(&mut action, &seen);
        let by_name: HashMap<&Path, &PlannedObject> = seen.iter().map(|s| (s.path.as_path(), s)).collect();
        let mut quarantines = Quarantines::default();
        let fates: Vec<(Fate, bool)> = action
            .objects
            .iter()
            .map(|object| {
                let seen = by_name.get(object.path.as_path()).filter(|s| s.inode == object.inode);
                let fate = match fate(seen.map_or(object, |s| s), &mut quarantines) {
                    Fate::Gone if back.contains(&key(object)) => Fate::GoneAgain,
                    other => other,
                };
                (fate, seen.is_some())
            })
            .collect();
        settle(&mut action, &fates);
        action
    }

    /// The same within a bound of time: of what lies on a disk or a server that does not answer nobody can tell.
    pub fn close_apart(self, back: &HashSet<Back>, aside: &Aside) -> Action {
        let (looked, back) = (self.clone(), back.clone());
        let closed = aside.look(Path::new(&self.action.mount), move || looked.close(&back));
        closed.unwrap_or_else(|why| self.close_unseen(&why))
    }

    fn close_unseen(self, why: &str) -> Action {
        let Self { mut action, seen } = self;
        recall(&mut action, &seen);
        let of = |object: &PlannedObject| match object.image {
            Some(_) => IMAGE_UNKNOWN.to_owned(),
            None => format!("nobody can tell what became of it: {why}"),
        };
        let fates: Vec<_> = action.objects.iter().map(|o| (Fate::Unknown(of(o)), false)).collect();
        settle(&mut action, &fates);
        action
    }
}

/// What `object` would be among what went back.
fn key(object: &PlannedObject) -> Back {
    let name = object.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (object.device, object.inode, name)
}

/// Says in `action` what `fates` are: of each object in its order, and whether it was recorded as about to go.
fn settle(action: &mut Action, fates: &[(Fate, bool)]) {
    let (mut unknown, mut others, mut there) = (Vec::new(), Vec::new(), Vec::new());
    let (mut removed, mut cut) = (0usize, 0usize);
    for (object, (fate, seen)) in action.objects.iter_mut().zip(fates) {
        let say = |to: &mut Vec<Refusal>, outcome, reason: String| {
            to.push(Refusal { path: Some(object.path.clone()), reason });
            outcome
        };
        use ObjectOutcome::{Cut, Failed, Removed, Skipped};
        object.outcome = match fate {
            Fate::Cut => {
                cut += 1;
                Cut
            }
            Fate::Gone if *seen => {
                removed += 1;
                Removed
            }
            Fate::Gone => say(
                &mut others,
                Skipped,
                "is not there any more, and this cleanup had not recorded that it would go, without which nothing goes: \
                 somebody else removed or replaced it"
                    .to_owned(),
            ),
            Fate::GoneAgain => say(
                &mut others,
                Skipped,
                "went back from quarantine after the agent ended, and somebody else removed or replaced it since".to_owned(),
            ),
            Fate::There => say(&mut there, Skipped, "still there after the agent ended".to_owned()),
            Fate::Aside(at) => {
                let at = at.display();
                let why = format!(
                    "lies in quarantine, as {at}: it goes back by itself where its folder is found and its name is free; else the \
                     agent's log says that it stays, to be moved or deleted by hand"
                );
                say(&mut unknown, Failed, why)
            }
            Fate::Unknown(why) => say(&mut unknown, Failed, why.clone()),
        };
    }
    action.freed_bytes = Some(freed(&action.objects));
    let total = action.objects.len();
    let mut found = vec![format!(
        "{removed} of {total} objects went, which freed {}",
        words::bytes(action.freed_bytes.unwrap_or(0))
    )];
    let more = [
        (cut, "were cut"),
        (there.len(), "are still there"),
        (others.len(), "went without it"),
        (unknown.len(), "are in quarantine, or nobody can tell what became of them"),
    ];
    found.extend(more.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    action.interrupt(&found.join("; "));
    // What people must look after first: a record holds so many.
    let planned = std::mem::take(&mut action.refused);
    action.refused = bounded([unknown, others, there, planned].concat());
}

/// What went with the objects: of an inode that other names keep, nothing.
fn freed(objects: &[PlannedObject]) -> u64 {
    let mut inodes: BTreeMap<(u64, u64), (u64, u64, u64)> = BTreeMap::new();
    let mut freed = 0u64;
    for object in objects {
        match object.outcome {
            ObjectOutcome::Cut => freed = freed.saturating_add(object.allocated_bytes),
            ObjectOutcome::Removed => {
                let (names, links, bytes) = inodes.entry((object.device, object.inode)).or_default();
                *names += 1;
                (*links, *bytes) = (object.links.max(*links), object.allocated_bytes.max(*bytes));
            }
            _ => {}
        }
    }
    let whole = inodes.into_values().filter(|(names, links, _)| names >= links).map(|(_, _, bytes)| bytes);
    whole.fold(freed, u64::saturating_add)
}

/// Looks what became of `object`.
fn fate(object: &PlannedObject, quarantines: &mut Quarantines) -> Fate {
    if object.image.is_some() {
        return Fate::Unknown(IMAGE_UNKNOWN.to_owned());
    }
    match fs::symlink_metadata(&object.path) {
        Ok(found) if is_it(&found, object) => {
            return if object.cut.is_some() { fate_of_cut(object) } else { Fate::There };
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => return Fate::Unknown(format!("cannot be looked at: {error}")),
    }
    if object.cut.is_some() {
        let why = "another file has its name by now; whether it was cut before is not known";
        return Fate::Unknown(why.to_owned());
    }
    match quarantines.find(object) {
        Ok(Some(at)) => return Fate::Aside(at),
        Ok(None) => {}
        Err(why) => return Fate::Unknown(why),
    }
    // A disk that is not mounted has lost nothing. After a boot it may have another number; then nobody can tell either.
    let lies_on = object.path.ancestors().skip(1).find_map(|a| fs::symlink_metadata(a).ok());
    match lies_on {
        Some(here) if here.dev() == object.device => Fate::Gone,
        _ => Fate::Unknown(
            "not under its name; its filesystem is not mounted here, or was mounted anew since, so that nobody can tell \
             whether it went"
                .to_owned(),
        ),
    }
}

/// Whether what has the object's name is the object. Numbers of inodes are given out again, those of devices at each boot.
fn is_it(found: &Metadata, object: &PlannedObject) -> bool {
    let born = found.created().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let born_ns = born.and_then(|t| i64::try_from(t.as_nanos()).ok());
    let same_birth = born_ns.zip(object.btime_ns).is_none_or(|(found, then)| found == then);
    let modified_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
    let same_content = modified_ns == object.mtime_ns && found.size() == object.size_bytes;
    found.ino() == object.inode && same_birth && (found.dev() == object.device || same_content)
}

/// Whether what a cut would take of a log that is there is a hole: a plan names only what holds data.
fn fate_of_cut(object: &PlannedObject) -> Fate {
    let Some(cut) = &object.cut else { return Fate::There };
    let unknown = |why: String| Fate::Unknown(format!("it may have been cut: {why}"));
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(&object.path) {
        Ok(file) => file,
        Err(error) => return unknown(format!("it cannot be opened: {error}")),
    };
    match file.metadata() {
        Ok(found) if found.is_file() && is_it(&found, object) => {}
        _ => return unknown("another file has its name".to_owned()),
    }
    match rustix::fs::seek(&file, SeekFrom::Data(cut.from)) {
        Ok(data) if data >= cut.to => Fate::Cut,
        Ok(data) if data <= cut.from => Fate::There,
        Ok(_) => unknown("some of what would go is gone".to_owned()),
        Err(Errno::NXIO) if file.metadata().is_ok_and(|m| m.len() >= cut.to) => Fate::Cut,
        Err(error) => unknown(error.to_string()),
    }
}

/// What quarantines hold, each listed once.
#[derive(Debug, Default)]
struct Quarantines(HashMap<PathBuf, Result<Vec<OsString>, String>>);

impl Quarantines {
    /// Where `object` lies in the quarantine of whichever root it was taken from: the policy may have others by now.
    fn find(&mut self, object: &PlannedObject) -> Result<Option<PathBuf>, String> {
        let Some(name) = object.path.file_name() else { return Ok(None) };
        for root in object.path.ancestors().skip(1) {
            let folder = root.join(QUARANTINE);
            let listed = self.0.entry(folder.clone()).or_insert_with(|| list(&folder));
            let entries = listed.as_ref().map_err(|why| {
                format!(
                    "not under its name: removed, or in {}, which cannot be listed ({why})",
                    folder.display()
                )
            })?;
            if let Some(entry) = entries.iter().find(|entry| is_entry_of(entry, object.inode, name)) {
                return Ok(Some(folder.join(entry)));
            }
        }
        Ok(None)
    }
}

fn list(folder: &Path) -> Result<Vec<OsString>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.to_string()),
    };
    let names: Result<Vec<_>, _> = entries.take(MAX_ENTRIES + 1).map(|e| e.map(|e| e.file_name())).collect();
    match names {
        Ok(names) if names.len() > MAX_ENTRIES => Err(format!("it has more than {MAX_ENTRIES} entries")),
        other => other.map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests;
