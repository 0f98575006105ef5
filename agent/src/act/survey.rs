//! Surveys: what lies beneath the roots of one device.
//!
//! A walk by descriptors that follows nothing, crosses no mount, and looks only at regular files whose names a root's
//! cleaner takes; whatever else bears such a name is passed over with a reason. Runs in the executor.
//!
//! Bounds: folders deep ([`super::policy::MAX_DEPTH`]), entries and time, of which each root has its share before any gets
//! what another left; bytes of what is found ([`super::finds`]), and reasons. A root whose share ends is gone on with
//! behind the place where it ended, in the same survey where something is left, else in the next one: nobody hides the
//! rest behind a folder of his own. Where a bound bites, the survey is partial and says so.
//!
//! Deliberately absent: judging age and kinship (`plan` does, and the executor again before it acts).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::{ObjectOutcome, PlannedObject, Refusal};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::age_clock::Present;
use super::beneath::{self, Facts, Opened};
use super::cleaners::{Cleaner, Look};
use super::finds::{self, Finds, Kin};
use super::folders::{Folders, Way};
use super::forbidden::{self, Renamed};
use super::gaps::{self, Gap};
use super::hold::Hold;
use super::holder::Holders;
use super::lease::{self, Claim};
use super::live::{Live, Watched};
use super::mounted::MOUNTED_ON;
use super::plan::{Candidate, Survey};
use super::policy::{NameVerdict, RootRules, Rules, Times};
use super::quarantine::Root;
use super::vet::MAX_FOLDER_ENTRIES;

/// What one survey may take. A million entries took half a second.
const LIMITS: Limits =
    Limits { entries: 4_000_000, time: LONGEST, reading: READING, bytes: finds::MAX_BYTES };
/// The longest that a survey takes where the disk answers.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// Least entries and time for which roots are gone on with.
const LEAST_ENTRIES: u64 = 1_000;
const LEAST_TIME: Duration = Duration::from_millis(200);
/// Longest that one survey reads what files begin with. Behind that they are taken unseen: whoever removes one looks again.
const READING: Duration = Duration::from_secs(5);
/// Entries between two looks at the time.
const ENTRIES_A_LOOK: u64 = 256;
/// Most objects passed over by name; the rest is counted.
const MAX_PASSED_OVER: usize = 200;

/// What one survey may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Entries of folders.
    pub(super) entries: u64,
    pub(super) time: Duration,
    /// To read what files begin with.
    pub(super) reading: Duration,
    /// Of what is found.
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        LIMITS
    }
}

/// Where surveys ended that did not come to the end of a root, by its place in the policy.
pub(super) type Ends = BTreeMap<usize, End>;

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// In this folder, relative to the root.
    folder: PathBuf,
    /// In its midst. It is gone on with behind it: one that nobody comes to the end of must not hide what follows.
    is_begun: bool,
}

impl End {
    /// Whether a walk that went on here was at `folder`, or behind it, and listed it whole.
    fn is_behind(&self, folder: &Path) -> bool {
        folder > self.folder.as_path() || folder == self.folder && !self.is_begun
    }

    /// Whether a walk that goes on here has been at `folder`.
    fn is_past(&self, folder: &Path) -> bool {
        folder < self.folder.as_path() || folder == self.folder && self.is_begun
    }
}

/// The roots as they are open, by their place in the policy, and what is known of them now.
#[derive(Clone, Copy)]
pub(super) struct Roots<'r> {
    pub(super) open: &'r [Option<Root>],
    /// What other names they have.
    pub(super) renamed: &'r [Renamed],
    /// Why they are not where they were opened, if they are not.
    pub(super) astray: &'r [Option<String>],
    pub(super) holds: &'r [Hold],
}

/// Lists the candidates beneath those of `roots` that lie on the filesystem `device`, within `limits`. Of a root that is astray nothing is
/// listed, and that is told first of all, whatever disk it was on: what lies at its path now may be what was asked for. What
/// is held takes no room from what may go. `ends` is where the last survey ended, and then where this one did.
pub(super) fn survey(
    rules: &Rules,
    roots: Roots<'_>,
    device: u64,
    now: Present,
    (limits, ends): (Limits, &mut Ends),
) -> Survey {
    let Roots { open, renamed, astray, holds } = roots;
    let began = Instant::now();
    let is_astray = |index: usize| astray.get(index).is_some_and(Option::is_some);
    let mut told: Vec<Refusal> = Vec::new();
    for (root, why) in open.iter().zip(astray) {
        let (Some(root), Some(why)) = (root, why) else { continue };
        // A folder may be several cleaners' root.
        if !told.iter().any(|r| r.path.as_ref() == Some(&root.path)) {
            told.push(Refusal { path: Some(root.path.clone()), reason: why.clone() });
        }
    }
    let surveyor = Surveyor {
        rules,
        renamed,
        holds,
        now,
        limits,
        until: began + limits.time,
        entries: 0,
        share: (0, began),
        holders: None,
        reading: Duration::ZERO,
        unnamed: 0,
        live: Live::default(),
        finds: Finds::new(rules.roots(), limits.bytes),
        survey: Survey { passed_over: told, ..Survey::default() },
    };
    let usable = open.iter().enumerate().filter_map(|(index, root)| Some((index, root.as_ref()?)));
    let is_asked = |(index, root): &(usize, &Root)| root.filesystem == device && !is_astray(*index);
    let mut order: Vec<(usize, &Root)> = usable.filter(is_asked).collect();
    // Where a bound ends the survey, the costlier tiers are what is missing.
    order.sort_by_key(|(index, _)| rules.roots()[*index].policy.tier);
    let walks = order.into_iter().map(|(index, root)| {
        let rules = &rules.roots()[index];
        let from = ends.remove(&index);
        let began = from.clone();
        Walk { index, rules, root, from, began, before: None }
    });
    let (survey, left) = surveyor.run(walks.collect());
    ends.extend(left);
    survey
}

/// One walk through a root.
struct Walk<'w> {
    index: usize,
    rules: &'w RootRules,
    root: &'w Root,
    /// Where it begins, or goes on.
    from: Option<End>,
    /// Where it began in this survey, if that was where the last one ended.
    began: Option<End>,
    /// It is over there: from there on the root was walked before. A folder that was listed in part is listed again.
    before: Option<End>,
}

struct Surveyor<'r> {
    rules: &'r Rules,
    /// The roots, by index.
    renamed: &'r [Renamed],
    holds: &'r [Hold],
    now: Present,
    limits: Limits,
    until: Instant,
    entries: u64,
    /// The entry and the moment at which a walk's share ends.
    share: (u64, Instant),
    holders: Option<Holders>,
    /// How long files were read.
    reading: Duration,
    unnamed: u64,
    live: Live,
    finds: Finds<'r>,
    survey: Survey,
}

impl Surveyor<'_> {
    /// Each walk within its share, then again those that did not come to their end within what the others left. What was
    /// found, and where the walks ended that are not at their end.
    fn run(mut self, mut walks: Vec<Walk<'_>>) -> (Survey, Ends) {
        loop {
            let (count, mut again) = (walks.len(), Vec::new());
            for (nth, walk) in walks.into_iter().enumerate() {
                self.begin_share(count - nth);
                again.extend(match (self.root(&walk), walk.began.clone()) {
                    (Some(end), _) => Some(Walk { from: Some(end), ..walk }),
                    // It began in the midst of the root: what lies before that is still to be walked.
                    (None, Some(began)) => {
                        Some(Walk { from: None, began: None, before: Some(began), ..walk })
                    }
                    (None, None) => None,
                });
            }
            walks = again;
            let entries = self.limits.entries.saturating_sub(self.entries);
            let time = self.until.saturating_duration_since(Instant::now());
            if walks.is_empty() || entries < LEAST_ENTRIES || time < LEAST_TIME {
                break;
            }
        }
        self.finish(walks)
    }

    /// Gives the next walk its share, where so many are still to come.
    fn begin_share(&mut self, walks: usize) {
        let walks = u32::try_from(walks).unwrap_or(u32::MAX).max(1);
        let entries = self.limits.entries.saturating_sub(self.entries) / u64::from(walks);
        let now = Instant::now();
        self.share = (self.entries + entries, now + self.until.saturating_duration_since(now) / walks);
    }

    fn is_over(&self) -> bool {
        self.entries >= self.share.0 || Instant::now() >= self.share.1
    }

    /// Walks through a root; where that ended, if not at its end.
    fn root(&mut self, walk: &Walk<'_>) -> Option<End> {
        let Walk { rules, root, .. } = walk;
        let host = &rules.policy.host_root;
        if let Some(reason) = root.why_astray().or_else(|| forbidden::why_marked_above(&root.path, host)) {
            self.pass_over(root.path.clone(), reason);
            return None;
        }
        let others: Vec<&Path> = self.rules.policy.roots.iter().map(|r| r.path.as_path()).collect();
        let mut folders = Folders::new(rules.policy.max_depth);
        // A root within a root speaks for itself.
        folders.leave_out =
            others.iter().filter_map(|p| p.strip_prefix(&root.path).ok()).map(Path::to_owned).collect();
        folders.from = walk.from.as_ref().map(|end| end.folder.clone());
        // They may be out of reach since.
        folders.shows_above = true;
        let mut skipped = Vec::new();
        folders.skipped = Some(&mut skipped);
        let mut end = None;
        folders.visit(&root.folder, &mut |relative, folder| {
            if walk.before.as_ref().is_some_and(|end| end.is_behind(relative)) {
                return Way::Stop;
            }
            if walk.from.as_ref().is_some_and(|from| from.is_past(relative)) {
                return if self.is_out(walk, relative, folder) { Way::NotBelow } else { Way::On };
            }
            if self.is_over() {
                end = Some(End { folder: relative.to_owned(), is_begun: false });
                return Way::Stop;
            }
            let way = self.folder(walk, relative, folder);
            if way == Way::Stop {
                end = Some(End { folder: relative.to_owned(), is_begun: true });
            }
            way
        });
        for (relative, reason) in skipped {
            self.pass_over(root.path.join(relative), reason);
        }
        end
    }

    /// Whether nothing in a folder or beneath it may go; that is told. A marker is asked for by its name: a reading of the
    /// folder may end before it comes, and would open what is the database's until then.
    fn is_out(&mut self, walk: &Walk<'_>, relative: &Path, folder: &OwnedFd) -> bool {
        let Walk { index, rules, root, .. } = *walk;
        let out = why_in_another_subvolume(root, folder)
            .or_else(|| forbidden::why_folder_is_out(&root.path.join(relative), &rules.policy))
            .or_else(|| self.renamed.get(index)?.why_out(relative))
            .or_else(|| Some(forbidden::storage_marker_in(folder)?.said("the folder")))
            .or_else(|| forbidden::database_marker_in(folder).map(said_of_marker))
            .or_else(|| rules.kind().shuns(&root.ground, folder, relative));
        let is_out = out.is_some();
        if let Some(reason) = out {
            self.pass_over(root.path.join(relative), reason);
        }
        is_out
    }

    /// Lists one folder; stops where the share ends in its midst.
    fn folder(&mut self, walk: &Walk<'_>, relative: &Path, folder: &OwnedFd) -> Way {
        if self.is_out(walk, relative, folder) {
            return Way::NotBelow;
        }
        let root = walk.root;
        let entries = match rustix::fs::Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.pass_over(root.path.join(relative), format!("the folder cannot be read: {error}"));
                return Way::On;
            }
        };
        self.finds.begin_folder();
        let (from_passed, from_live) = (self.survey.passed_over.len(), self.live.mark());
        let forget = |surveyor: &mut Self| {
            surveyor.finds.forget_folder();
            surveyor.survey.passed_over.truncate(from_passed);
            surveyor.live.back_to(from_live);
        };
        for (count, entry) in entries.enumerate() {
            self.entries += 1;
            if self.entries.is_multiple_of(ENTRIES_A_LOOK) && self.is_over() || self.entries > self.share.0 {
                let reason =
                    format!("its share of the survey ended after {count} entries: the rest is not looked at");
                self.pass_over(root.path.join(relative), reason);
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
            // It came since, or nobody may ask for it by its name.
            if let Some(marker) = forbidden::marker(folder, name, entry.file_type()) {
                forget(self);
                self.pass_over(root.path.join(relative), said_of_marker(marker));
                return Way::NotBelow;
            }
            // Nothing in such a folder goes. It is read on, since a marker keeps what lies beneath as well.
            if count == MAX_FOLDER_ENTRIES {
                forget(self);
                let reason = format!("it has more than {MAX_FOLDER_ENTRIES} entries");
                self.pass_over(root.path.join(relative), reason);
            }
            if count < MAX_FOLDER_ENTRIES {
                self.entry(walk, relative, folder, name);
            }
        }
        Way::On
    }

    fn entry(&mut self, walk: &Walk<'_>, relative: &Path, folder: &OwnedFd, name: &OsStr) {
        let Walk { index, rules, root, .. } = *walk;
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
        let fit = may_be_judged(&facts, root.facts.device)
            .and_then(|()| rules.kind().demand(&look))
            .and_then(|()| rules.judge_owner(facts.uid));
        if let Err(reason) = fit {
            return self.pass_over(absolute, reason);
        }
        if rules.kind().cuts() {
            return self.watch(walk, &look, absolute, &taken.pattern);
        }
        if let Some(reason) = self.renamed.get(index).and_then(|renamed| renamed.why_mounted(&path)) {
            return self.pass_over(absolute, reason);
        }
        let (mut open_elsewhere, mut is_young) = (false, false);
        let times = Times::of(&facts, &root.ground);
        match rules.judge_age(&times, self.now) {
            Ok(_) if !self.finds.has_room_for(index, &facts) => return,
            Ok(_) => match self.is_open(&look, Path::new(name)) {
                Ok(open) => open_elsewhere = open,
                Err(reason) => return self.pass_over(absolute, reason),
            },
            // Young rotated logs count among the newest of their log; a folder of young temp files would crowd out all else.
            // Whoever plans judges by the wall clock: what is old by that one, and is not, is not shown to it.
            Err(reason)
                if rules.judge_age(&times, self.now.wall_ns()).is_ok()
                    || rules.policy.keep_newest == 0 && rules.policy.cleaner != Cleaner::RotatedLogs =>
            {
                return self.pass_over(absolute, reason);
            }
            Err(_) => is_young = true,
        }
        // While nobody can tell what is held, everything is, and a plan says so.
        let held = self.holds.iter().position(|hold| !hold.is_unknown() && hold.covers(&absolute));
        let kin = held.map(Kin::Held).or((is_young || open_elsewhere).then_some(Kin::InUse));
        let object = planned(absolute, &facts, rules, &taken.pattern);
        let accessed_ns = root.ground.accessed_ns(&facts);
        let (root, filesystem) = (root.path.clone(), root.filesystem);
        let candidate = Candidate { object, root, open_elsewhere, accessed_ns, filesystem };
        self.finds.take(index, candidate, kin);
    }

    /// Keeps a live log open until the walk is over, to see whether it grows.
    fn watch(&mut self, walk: &Walk<'_>, look: &Look<'_>, path: PathBuf, pattern: &str) {
        let name = Path::new(look.relative.file_name().unwrap_or_default());
        let (file, facts) = match beneath::open_regular(look.folder, name) {
            Ok(Opened::Regular(file, facts)) => (file, facts),
            Ok(Opened::Other(facts)) => return self.pass_over(path, kind_in_words(facts.kind).to_owned()),
            Err(Errno::XDEV) => return self.pass_over(path, MOUNTED_ON.to_owned()),
            Err(error) => return self.pass_over(path, format!("it cannot be opened: {error}")),
        };
        if let Err(reason) = self.demand_content(look, &file) {
            return self.pass_over(path, reason);
        }
        self.live.watch(Watched {
            object: planned(path, &facts, look.rules, pattern),
            root: walk.root.path.clone(),
            filesystem: walk.root.filesystem,
            accessed_ns: walk.root.ground.accessed_ns(&facts),
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
            Err(Errno::XDEV) => return Err(MOUNTED_ON.to_owned()),
            Err(error) => return Err(format!("it cannot be opened to see whether it is in use: {error}")),
        };
        self.demand_content(look, &fd)?;
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

    fn demand_content(&mut self, look: &Look<'_>, file: &OwnedFd) -> Result<(), String> {
        // Where it shows, to have been read here would make a file young.
        let shows = look.rules.policy.by_access && !beneath::is_read_unseen(file);
        if shows || self.reading >= self.limits.reading {
            return Ok(());
        }
        let began = Instant::now();
        let judged = look.rules.kind().demand_content(look, file);
        self.reading += began.elapsed();
        judged
    }

    fn pass_over(&mut self, path: PathBuf, reason: String) {
        if self.survey.passed_over.len() < MAX_PASSED_OVER {
            self.survey.passed_over.push(Refusal { path: Some(path), reason });
        } else {
            self.unnamed += 1;
        }
    }

    fn finish(self, not_at_their_end: Vec<Walk<'_>>) -> (Survey, Ends) {
        let (found, left_out, kin) = self.finds.finish(self.holds);
        let (cuttable, refused) = self.live.settle();
        let mut survey = self.survey;
        survey.candidates = found;
        survey.candidates.extend(cuttable);
        survey.passed_over.extend(refused);
        if self.unnamed > 0 {
            let reason = format!("{} more were passed over", self.unnamed);
            survey.passed_over.push(Refusal { path: None, reason });
        }
        survey.passed_over.extend(kin.into_iter().map(|reason| Refusal { path: None, reason }));
        let ended = not_at_their_end.iter().map(|walk| {
            let at = walk.from.as_ref().map_or(Path::new(""), |end| &end.folder);
            let until = walk.before.as_ref().map_or(String::new(), |b| format!(" (until {})", b.folder.display()));
            format!(
                "beneath {} the survey stopped at {:?}{until} after {} entries in all; the next one goes on there",
                walk.root.path.display(),
                at,
                self.entries
            )
        });
        let partial: Vec<String> = ended.chain(left_out).collect();
        survey.partial = (!partial.is_empty()).then(|| partial.join("; "));
        let ends = not_at_their_end.into_iter().filter_map(|walk| Some((walk.index, walk.from?)));
        (survey, ends.collect())
    }
}

fn said_of_marker(marker: &str) -> String {
    format!("{marker} marks the folder as a database's")
}

/// Why nothing goes from `folder`, which is on the mount of `root` and has another `st_dev`: no rename leads from one subvolume
/// of a btrfs to another, so that nothing there comes into the root's quarantine.
fn why_in_another_subvolume(root: &Root, folder: &OwnedFd) -> Option<String> {
    match beneath::facts_of(folder) {
        Ok(facts) if facts.device == root.facts.device => None,
        Ok(_) => Some("it is a subvolume of its own: only a root within it cleans there".to_owned()),
        Err(error) => Some(format!("the folder cannot be looked at: {error}")),
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

#[cfg(test)]
mod tests;
