//! Surveys: what lies beneath the roots of one device.
//!
//! A walk by descriptors that follows nothing, crosses no mount, and looks only at regular files whose names are rotated
//! logs; whatever else bears such a name is passed over with a reason. Runs in the executor.
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
use super::forbidden;
use super::holder::Holders;
use super::lease::{self, Claim};
use super::plan::{Candidate, Survey};
use super::policy::{NameVerdict, QUARANTINE, RootRules, Rules};
use super::quarantine::Root;

/// Most folder entries read in one survey: a million took half a second.
const MAX_ENTRIES: u64 = 4_000_000;
/// Most candidates in one survey; each costs the parent about 400 bytes.
const MAX_CANDIDATES: usize = 20_000;
/// Most objects passed over by name; the rest is counted.
const MAX_PASSED_OVER: usize = 200;
/// Longest survey.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Lists the candidates beneath those of `roots` that lie on `device`.
pub(super) fn survey(rules: &Rules, roots: &[Option<Root>], device: u64, now_wall_ns: i64) -> Survey {
    let mut surveyor = Surveyor {
        rules,
        device,
        now_wall_ns,
        began: Instant::now(),
        entries: 0,
        holders: None,
        unnamed: 0,
        survey: Survey::default(),
    };
    for (index, root) in roots.iter().enumerate() {
        let Some(root) = root else { continue };
        if root.facts.device == device {
            surveyor.root(index, root);
        }
    }
    surveyor.finish()
}

struct Surveyor<'r> {
    rules: &'r Rules,
    device: u64,
    now_wall_ns: i64,
    began: Instant,
    entries: u64,
    holders: Option<Holders>,
    unnamed: u64,
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
        folders.visit(&root.folder, &mut |relative, folder| self.folder(rules, root, relative, folder));
        for (relative, reason) in skipped {
            self.pass_over(root.path.join(relative), reason);
        }
    }

    /// Lists one folder; `false` ends the walk.
    fn folder(&mut self, rules: &RootRules, root: &Root, relative: &Path, folder: &OwnedFd) -> bool {
        if self.survey.partial.is_some() {
            return false;
        }
        let entries = match rustix::fs::Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.pass_over(root.path.join(relative), format!("the folder cannot be read: {error}"));
                return true;
            }
        };
        let (from_candidates, from_passed) = (self.survey.candidates.len(), self.survey.passed_over.len());
        for entry in entries {
            self.entries += 1;
            if let Some(bound) = self.bound() {
                self.survey.partial = Some(bound);
                return false;
            }
            let Ok(entry) = entry else {
                self.pass_over(
                    root.path.join(relative),
                    "the folder could not be read to its end".to_owned(),
                );
                break;
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if forbidden::is_database_marker(name.as_bytes()) && entry.file_type() != FileType::Directory {
                self.survey.candidates.truncate(from_candidates);
                self.survey.passed_over.truncate(from_passed);
                let reason = format!("{} marks the folder as a database's", name.display());
                self.pass_over(root.path.join(relative), reason);
                return true;
            }
            self.entry(rules, root, relative, folder, name);
        }
        true
    }

    fn entry(&mut self, rules: &RootRules, root: &Root, relative: &Path, folder: &OwnedFd, name: &OsStr) {
        let path = relative.join(name);
        let (pattern, live) = match rules.judge_name(&path) {
            NameVerdict::NotRotated => return,
            NameVerdict::Excluded(reason) => return self.pass_over(root.path.join(path), reason),
            NameVerdict::Rotated { pattern, live } => (pattern, live),
        };
        let absolute = root.path.join(&path);
        let facts = match beneath::facts_at(folder, name) {
            Ok(facts) => facts,
            Err(Errno::NOENT) => return,
            Err(error) => return self.pass_over(absolute, format!("it cannot be looked at: {error}")),
        };
        if let Err(reason) = may_be_judged(&facts, self.device) {
            return self.pass_over(absolute, reason);
        }
        if let Some(live) = &live
            && !has_regular(folder, live)
        {
            let reason = format!("no log {:?} lies beside it, so it may not be a rotated one", lossy(live));
            return self.pass_over(absolute, reason);
        }
        let old_enough = rules.judge_age(facts.mtime_ns, facts.ctime_ns, self.now_wall_ns).is_ok();
        let open_elsewhere = if old_enough {
            match self.is_open(folder, Path::new(name)) {
                Ok(open) => open,
                Err(reason) => return self.pass_over(absolute, reason),
            }
        } else {
            false
        };
        let object = planned(absolute, &facts, rules, &pattern);
        self.survey.candidates.push(Candidate { object, root: root.path.clone(), open_elsewhere });
    }

    fn is_open(&mut self, folder: &OwnedFd, name: &Path) -> Result<bool, String> {
        let (fd, facts) = match beneath::open_regular(folder, name) {
            Ok(Opened::Regular(fd, facts)) => (fd, facts),
            Ok(Opened::Other(facts)) => return Err(kind_in_words(facts.kind).to_owned()),
            // Somebody else holds a lease on it.
            Err(Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(format!("it cannot be opened to see whether it is in use: {error}")),
        };
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

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
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
        why_safe: format!("rotated log ({pattern})"),
        outcome: ObjectOutcome::Pending,
        sha256: None,
        digest_partial: false,
        atime_ns: facts.atime_ns,
        btime_ns: facts.btime_ns,
        preserved_bytes: None,
    }
}

/// A walk over folders, parents first, that follows nothing and crosses no mount.
pub(super) struct Folders<'s> {
    max_depth: u32,
    /// Folders, relative to the root, that are left out.
    pub(super) leave_out: Vec<PathBuf>,
    /// Where folders go that could not be entered, and why.
    pub(super) skipped: Option<&'s mut Vec<(PathBuf, String)>>,
}

impl Folders<'_> {
    /// Down to `max_depth` folders beneath the root; 0 is the root alone.
    pub(super) fn new(max_depth: u32) -> Self {
        Self { max_depth, leave_out: Vec::new(), skipped: None }
    }

    /// Calls `see` with each folder's path relative to `root` and a descriptor, until it says `false`.
    pub(super) fn visit(&mut self, root: &OwnedFd, see: &mut dyn FnMut(&Path, &OwnedFd) -> bool) {
        self.enter(root, Path::new(""), 0, see);
    }

    fn enter(
        &mut self,
        folder: &OwnedFd,
        relative: &Path,
        depth: u32,
        see: &mut dyn FnMut(&Path, &OwnedFd) -> bool,
    ) -> bool {
        if !see(relative, folder) {
            return false;
        }
        if depth >= self.max_depth {
            return true;
        }
        for name in subfolders(folder) {
            let path = relative.join(&name);
            if (depth == 0 && name == QUARANTINE) || self.leave_out.contains(&path) {
                continue;
            }
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
