//! Surveys: what lies beneath the roots of one device.
//!
//! A walk by descriptors that follows nothing, crosses no mount, and looks only at regular files whose names a root's
//! cleaner takes; whatever else bears such a name is passed over with a reason. Runs in the executor.
//!
//! Bounds: folders deep ([`super::policy::MAX_DEPTH`]), entries, candidates, reasons and time; where one bites, the
//! survey is partial and says so.
//!
//! Deliberately absent: judging age and kinship (`plan` does, and the executor again before it acts).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::{ObjectOutcome, PlannedObject, Refusal};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath::{self, Facts, Opened};
use super::cleaners::{Cleaner, Look};
use super::forbidden::{self, Renamed};
use super::gaps::{self, Gap};
use super::holder::Holders;
use super::lease::{self, Claim};
use super::live::{Live, Watched};
use super::plan::{Candidate, Survey};
use super::policy::{HELD, NameVerdict, QUARANTINE, RootRules, Rules, Times};
use super::quarantine::Root;

/// Most folder entries read in one survey: a million took half a second.
const MAX_ENTRIES: u64 = 4_000_000;
/// Most candidates in one survey; each costs the parent about 400 bytes.
const MAX_CANDIDATES: usize = 20_000;
/// Most objects passed over by name; the rest is counted.
const MAX_PASSED_OVER: usize = 200;
/// Longest survey.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Lists the candidates beneath those of `roots`, which have other names too, that lie on `device`.
pub(super) fn survey(
    rules: &Rules,
    (roots, renamed): (&[Option<Root>], &[Renamed]),
    device: u64,
    now_wall_ns: i64,
) -> Survey {
    let mut surveyor = Surveyor {
        rules,
        renamed,
        device,
        now_wall_ns,
        began: Instant::now(),
        entries: 0,
        holders: None,
        unnamed: 0,
        live: Live::default(),
        survey: Survey::default(),
    };
    let mut order: Vec<(usize, &Root)> =
        roots.iter().enumerate().filter_map(|(i, r)| r.as_ref().map(|r| (i, r))).collect();
    // Where a bound ends the survey, the costlier tiers are what is missing.
    order.sort_by_key(|(index, _)| rules.roots()[*index].policy.tier);
    for (index, root) in order.into_iter().filter(|(_, root)| root.facts.device == device) {
        surveyor.root(index, root);
    }
    surveyor.finish()
}

/// Where a walk is.
struct Place<'p> {
    index: usize,
    rules: &'p RootRules,
    root: &'p Root,
}

struct Surveyor<'r> {
    rules: &'r Rules,
    /// The roots, by index.
    renamed: &'r [Renamed],
    device: u64,
    now_wall_ns: i64,
    began: Instant,
    entries: u64,
    holders: Option<Holders>,
    unnamed: u64,
    live: Live,
    survey: Survey,
}

impl Surveyor<'_> {
    fn root(&mut self, index: usize, root: &Root) {
        let rules = &self.rules.roots()[index];
        let others: Vec<&Path> = self.rules.policy.roots.iter().map(|r| r.path.as_path()).collect();
        let mut folders = Folders::new(rules.policy.max_depth);
        // A root within a root speaks for itself.
        folders.leave_out =
            others.iter().filter_map(|p| p.strip_prefix(&root.path).ok()).map(Path::to_owned).collect();
        let mut skipped = Vec::new();
        folders.skipped = Some(&mut skipped);
        let place = Place { index, rules, root };
        folders.visit(&root.folder, &mut |relative, folder| self.folder(&place, relative, folder));
        for (relative, reason) in skipped {
            self.pass_over(root.path.join(relative), reason);
        }
    }

    /// Lists one folder.
    fn folder(&mut self, place: &Place<'_>, relative: &Path, folder: &OwnedFd) -> Way {
        let Place { index, rules, root } = *place;
        if self.survey.partial.is_some() {
            return Way::Stop;
        }
        let out = forbidden::why_folder_is_out(&root.path.join(relative), rules.policy.cleaner)
            .or_else(|| self.renamed.get(index)?.why_out(relative))
            .or_else(|| rules.kind().shuns(&root.ground, folder, relative));
        if let Some(reason) = out {
            self.pass_over(root.path.join(relative), reason);
            return Way::NotBelow;
        }
        let entries = match rustix::fs::Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.pass_over(root.path.join(relative), format!("the folder cannot be read: {error}"));
                return Way::On;
            }
        };
        let (from_candidates, from_passed) = (self.survey.candidates.len(), self.survey.passed_over.len());
        let from_live = self.live.mark();
        for entry in entries {
            self.entries += 1;
            if let Some(bound) = self.bound() {
                self.survey.partial = Some(bound);
                return Way::Stop;
            }
            let Ok(entry) = entry else {
                self.pass_over(
                    root.path.join(relative),
                    "the folder could not be read to its end".to_owned(),
                );
                break;
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if let Some(marker) = forbidden::marker(folder, name, entry.file_type()) {
                self.survey.candidates.truncate(from_candidates);
                self.survey.passed_over.truncate(from_passed);
                self.live.back_to(from_live);
                let reason = format!("{marker} marks the folder as a database's");
                self.pass_over(root.path.join(relative), reason);
                return if rules.kind().keeps_away_from_databases(&rules.policy) {
                    Way::NotBelow
                } else {
                    Way::On
                };
            }
            self.entry(place, relative, folder, name);
        }
        Way::On
    }

    fn entry(&mut self, place: &Place<'_>, relative: &Path, folder: &OwnedFd, name: &OsStr) {
        let Place { index, rules, root } = *place;
        let path = relative.join(name);
        let absolute = root.path.join(&path);
        let taken = match rules.judge_name(&path) {
            NameVerdict::NotTaken => return,
            NameVerdict::Excluded(reason) => return self.pass_over(absolute, reason),
            NameVerdict::Taken(taken) => taken,
        };
        let decides = self.rules.root_for(&absolute, rules.policy.cleaner.as_str());
        if decides.is_some_and(|(first, _)| first != index) {
            return;
        }
        let facts = match beneath::facts_at(folder, name) {
            Ok(facts) => facts,
            Err(Errno::NOENT) => return,
            Err(error) => return self.pass_over(absolute, format!("it cannot be looked at: {error}")),
        };
        gaps::reach(Gap::SurveySeen, &absolute);
        // Where any name goes, a folder is nothing to remark on: the walk comes to it.
        if facts.kind == FileType::Directory && rules.policy.cleaner != Cleaner::RotatedLogs {
            return;
        }
        let look = Look { rules, ground: &root.ground, relative: &path, folder, facts: &facts };
        let fit = may_be_judged(&facts, self.device)
            .and_then(|()| rules.kind().demand(&look))
            .and_then(|()| rules.judge_owner(facts.uid));
        if let Err(reason) = fit {
            return self.pass_over(absolute, reason);
        }
        if rules.kind().cuts() {
            return self.watch(place, &look, absolute, &taken.pattern);
        }
        let mut open_elsewhere = false;
        match rules.judge_age(&Times::of(&facts, &root.ground), self.now_wall_ns) {
            Ok(_) => match self.is_open(&look, Path::new(name)) {
                Ok(open) => open_elsewhere = open,
                Err(reason) => return self.pass_over(absolute, reason),
            },
            // Young rotated logs count among the newest of their log; a folder of young temp files would crowd out all else.
            Err(reason) if rules.policy.keep_newest == 0 && rules.policy.cleaner != Cleaner::RotatedLogs => {
                return self.pass_over(absolute, reason);
            }
            Err(_) => {}
        }
        let object = planned(absolute, &facts, rules, &taken.pattern);
        let accessed_ns = root.ground.accessed_ns(&facts);
        let candidate = Candidate { object, root: root.path.clone(), open_elsewhere, accessed_ns };
        self.survey.candidates.push(candidate);
    }

    /// Keeps a live log open until the walk is over, to see whether it grows.
    fn watch(&mut self, place: &Place<'_>, look: &Look<'_>, path: PathBuf, pattern: &str) {
        let name = Path::new(look.relative.file_name().unwrap_or_default());
        let (file, facts) = match beneath::open_regular(look.folder, name) {
            Ok(Opened::Regular(file, facts)) => (file, facts),
            Ok(Opened::Other(facts)) => return self.pass_over(path, kind_in_words(facts.kind).to_owned()),
            Err(error) => return self.pass_over(path, format!("it cannot be opened: {error}")),
        };
        self.live.watch(Watched {
            object: planned(path, &facts, look.rules, pattern),
            root: place.root.path.clone(),
            accessed_ns: place.root.ground.accessed_ns(&facts),
            keep_bytes: look.rules.policy.keep_bytes,
            file,
        });
    }

    /// Whether anybody has it open; an error is why it stays.
    fn is_open(&mut self, look: &Look<'_>, name: &Path) -> Result<bool, String> {
        let (fd, facts) = match beneath::open_regular(look.folder, name) {
            Ok(Opened::Regular(fd, facts)) => (fd, facts),
            Ok(Opened::Other(facts)) => return Err(kind_in_words(facts.kind).to_owned()),
            // Somebody else holds a lease on it.
            Err(Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(format!("it cannot be opened to see whether it is in use: {error}")),
        };
        look.rules.kind().demand_content(look, &fd)?;
        match lease::claim(&fd) {
            Claim::Ours => Ok(false),
            Claim::OpenElsewhere => Ok(true),
            Claim::CannotTell(error) => {
                drop(fd);
                let holders = self
                    .holders
                    .get_or_insert_with(|| Holders::scan(Path::new("/proc"), &[std::process::id()], true));
                match (&holders.incomplete, holders.of((facts.device, facts.inode))) {
                    (_, Some(_)) => Ok(true),
                    (None, None) => Ok(false),
                    (Some(why), None) => {
                        Err(format!("nobody can tell whether it is open: no lease ({error}), and {why}"))
                    }
                }
            }
        }
    }

    fn bound(&self) -> Option<String> {
        if self.survey.candidates.len() >= MAX_CANDIDATES {
            Some(format!("the survey stopped at {MAX_CANDIDATES} candidates"))
        } else if self.entries > MAX_ENTRIES {
            Some(format!("the survey stopped after {MAX_ENTRIES} entries"))
        } else if self.entries.is_multiple_of(256) && self.began.elapsed() > MAX_TIME {
            Some(format!("the survey stopped after {} s", MAX_TIME.as_secs()))
        } else {
            None
        }
    }

    fn pass_over(&mut self, path: PathBuf, reason: String) {
        if self.survey.passed_over.len() < MAX_PASSED_OVER {
            self.survey.passed_over.push(Refusal { path: Some(path), reason });
        } else {
            self.unnamed += 1;
        }
    }

    fn finish(mut self) -> Survey {
        let (cuttable, refused) = std::mem::take(&mut self.live).settle();
        self.survey.candidates.extend(cuttable);
        self.survey.passed_over.extend(refused);
        if self.unnamed > 0 {
            let reason = format!("{} more were passed over", self.unnamed);
            self.survey.passed_over.push(Refusal { path: None, reason });
        }
        self.survey
    }
}

/// Whether an inode may be judged at all: a regular file on the right device that can be unlinked.
pub(super) fn may_be_judged(facts: &Facts, device: u64) -> Result<(), String> {
    if facts.kind != FileType::RegularFile {
        Err(kind_in_words(facts.kind).to_owned())
    } else if facts.device != device {
        Err("it lies on another filesystem".to_owned())
    } else if facts.pinned {
        Err("it is immutable or append-only".to_owned())
    } else {
        Ok(())
    }
}

/// Whether `folder` has a regular file called `name`.
pub(super) fn has_regular(folder: &OwnedFd, name: &[u8]) -> bool {
    beneath::facts_at(folder, OsStr::from_bytes(name)).is_ok_and(|f| f.kind == FileType::RegularFile)
}

fn kind_in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "it is a file",
        FileType::Directory => "it is a folder",
        FileType::Symlink => "it is a symbolic link",
        FileType::Fifo => "it is a FIFO",
        FileType::Socket => "it is a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device",
        FileType::Unknown => "its type is unknown",
    }
}

fn planned(path: PathBuf, facts: &Facts, rules: &RootRules, pattern: &str) -> PlannedObject {
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
        cleaner: rules.policy.cleaner.as_str().to_owned(),
        tier: rules.policy.tier,
        why_safe: rules.kind().why_safe(&rules.policy, pattern),
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

/// How a walk goes on after a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Into its folders.
    On,
    /// To the next folder that is not beneath it.
    NotBelow,
    /// Not at all.
    Stop,
}

/// A walk over folders, parents first, that follows nothing and crosses no mount.
pub(super) struct Folders<'s> {
    max_depth: u32,
    /// Folders, relative to the root, that are left out.
    pub(super) leave_out: Vec<PathBuf>,
    /// The folder, relative to the root, with which the walk begins: those before it are passed by, those above it gone
    /// through without a call. One that is gone stands for the next one.
    pub(super) from: Option<PathBuf>,
    /// Where folders go that could not be entered, and why.
    pub(super) skipped: Option<&'s mut Vec<(PathBuf, String)>>,
}

impl Folders<'_> {
    /// Down to `max_depth` folders beneath the root; 0 is the root alone.
    pub(super) fn new(max_depth: u32) -> Self {
        Self { max_depth, leave_out: Vec::new(), from: None, skipped: None }
    }

    /// Calls `see` with each folder's path relative to `root` and a descriptor, and goes on as it says.
    pub(super) fn visit(&mut self, root: &OwnedFd, see: &mut dyn FnMut(&Path, &OwnedFd) -> Way) {
        self.enter(root, Path::new(""), 0, see);
    }

    fn enter(
        &mut self,
        folder: &OwnedFd,
        relative: &Path,
        depth: u32,
        see: &mut dyn FnMut(&Path, &OwnedFd) -> Way,
    ) -> bool {
        // Paths compare by their parts, and so does the order of the walk.
        let is_above = self.from.as_ref().is_some_and(|from| relative < from.as_path());
        let way = if is_above { Way::On } else { see(relative, folder) };
        if way == Way::Stop {
            return false;
        }
        if way == Way::NotBelow || depth >= self.max_depth {
            return true;
        }
        for name in subfolders(folder) {
            let path = relative.join(&name);
            let ours = depth == 0 && (name == QUARANTINE || name == HELD);
            let before = self.from.as_ref().is_some_and(|from| path < *from && !from.starts_with(&path));
            if ours || before || self.leave_out.contains(&path) {
                continue;
            }
            gaps::reach(Gap::FolderListed, &path);
            match beneath::open_folder(folder, Path::new(&name)) {
                Ok(inner) => {
                    if !self.enter(&inner, &path, depth + 1, see) {
                        return false;
                    }
                }
                // Gone, or no folder any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => {
                    let reason = match error {
                        Errno::XDEV => "another filesystem is mounted there".to_owned(),
                        other => format!("the folder cannot be entered: {other}"),
                    };
                    if let Some(skipped) = self.skipped.as_deref_mut().filter(|s| s.len() < MAX_PASSED_OVER) {
                        skipped.push((path, reason));
                    }
                }
            }
        }
        true
    }
}

/// The names of the folders in `folder`; a folder that cannot be read has none.
fn subfolders(folder: &OwnedFd) -> Vec<std::ffi::OsString> {
    let Ok(entries) = rustix::fs::Dir::read_from(folder) else { return Vec::new() };
    let is_folder = |entry: &rustix::fs::DirEntry| match entry.file_type() {
        FileType::Directory => true,
        FileType::Unknown => {
            beneath::facts_at(folder, entry.file_name()).is_ok_and(|f| f.kind == FileType::Directory)
        }
        _ => false,
    };
    let names = entries.flatten().take(usize::try_from(MAX_ENTRIES).unwrap_or(usize::MAX));
    let mut names: Vec<_> = names
        .filter(|e| e.file_name() != c"." && e.file_name() != c".." && is_folder(e))
        .map(|e| std::ffi::OsString::from_vec(e.file_name().to_bytes().to_vec()))
        .collect();
    names.sort_unstable();
    names
}
