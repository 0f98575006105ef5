//! What an executor that was killed left in quarantine: put back under its old name, by those that come after it.
//!
//! An entry's name says from which folder it came, by number and a digest of its path; where that lies now, a walk over
//! the folders of its root tells, one for all entries. It goes in steps, between which surveys and cleanups are done: a
//! million folders, or somebody who makes as many, must not keep an executor from its work.
//!
//! Bounds: folders and time of a step, which walks one folder at least, folders of a walk, entries of a quarantine; of what is beyond them it is said that
//! nobody looked.
//!
//! Invariants
//! - No name is ever replaced. What cannot go back stays, and is told by every executor.
//! - Roots that are one folder (for several cleaners, or by a bind mount) have one quarantine: it is looked through once,
//!   as deep as any of them goes.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::beneath;
use super::folders::{Folders, Way};
use super::gaps::{self, Gap};
use super::policy::{Policy, QUARANTINE};
use super::quarantine::{Origin, Root, path_digest};

/// Most entries of one quarantine that are looked at; a killed executor leaves one.
const MAX_ENTRIES: usize = 1_024;
/// Most folders that are walked for the entries of one quarantine: some minutes' work in steps.
const MAX_FOLDERS: u64 = 4_000_000;
/// How long a step walks: a survey or a cleanup that comes meanwhile waits as long.
const STEP: Duration = Duration::from_millis(500);
/// Folders that a step walks though its time is over: to find the place where the last one ended may take as long as a step
/// has, and each listing of a large folder gives some two thousand.
const LEAST_FOLDERS: u64 = 2_048;
/// The end of a step however few folders it walked (one at least), since its first one: on a slow disk each may take long, and a
/// step that comes to no end costs the executor, and with it the place where the walk is.
const LATEST: Duration = Duration::from_secs(2);
/// Most that one step tells, so that it fits a message.
const MAX_TOLD: usize = 64;

/// Something that an earlier run left in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Where it lies, or lay; lossy where not UTF-8.
    pub quarantined: String,
    /// Where it came from, where that is known; lossy where not UTF-8.
    pub original: Option<String>,
    /// Whether it is back under its old name.
    pub restored: bool,
    /// What happened, in words.
    pub detail: String,
    /// Of its root.
    pub device: u64,
}

/// What went back: the device that it lies on, its inode and its name, lossy where not UTF-8. Its folder is no part of it, which has several names where
/// a root is a bind mount of another; its name is, since of two names of one inode one may have gone.
pub(super) type Back = (u64, u64, String);

impl Leftover {
    /// The object that it was set aside for, where that is back and its name says which one it was.
    pub(super) fn went_back(&self) -> Option<Back> {
        let origin = Origin::parse(Path::new(&self.quarantined).file_name()?.as_bytes())?;
        let name = String::from_utf8_lossy(origin.name).into_owned();
        self.restored.then_some((self.device, origin.inode, name))
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Of which it is known what became.
    pub leftovers: Vec<Leftover>,
    /// Whether there may be more; ask again.
    pub more: bool,
}

/// What is still to be put back.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// Roots by their place, with how deep each is walked.
    roots: VecDeque<(usize, u32)>,
    at: Option<Pass>,
    untold: VecDeque<Leftover>,
    step: Duration,
    latest: Duration,
}

/// One quarantine.
#[derive(Debug, Default)]
struct Pass {
    /// By the number of the folder that they came from.
    lost: HashMap<u64, Vec<Lost>>,
    /// Where the last step ended, relative to the root.
    from: Option<PathBuf>,
    folders: u64,
}

/// What a step has walked.
#[derive(Debug)]
struct Walked {
    until: Instant,
    /// How long after its first folder it ends.
    latest: Duration,
    began: Option<Instant>,
    folders: u64,
}

impl Walked {
    fn is_over(&self) -> bool {
        let very_late = self.began.is_some_and(|at| at.elapsed() >= self.latest);
        very_late || self.folders >= LEAST_FOLDERS && Instant::now() >= self.until
    }
}

/// An entry whose folder is looked for.
#[derive(Debug)]
struct Lost {
    entry: OsString,
    folder_digest: u32,
    name: PathBuf,
    /// What is said once it is back.
    said: &'static str,
}

impl Leftovers {
    /// What lies in the quarantines of `roots`, which are those of `policy`.
    pub(super) fn new(roots: &[Option<Root>], policy: &Policy) -> Self {
        let mut each: Vec<(usize, &Root, u32)> = Vec::new();
        for (index, (root, policy)) in roots.iter().zip(&policy.roots).enumerate() {
            let Some(root) = root else { continue };
            let same = |r: &Root| (r.facts.device, r.facts.inode) == (root.facts.device, root.facts.inode);
            match each.iter_mut().find(|(_, r, _)| same(r)) {
                Some((_, _, depth)) => *depth = policy.max_depth.max(*depth),
                None => each.push((index, root, policy.max_depth)),
            }
        }
        let roots = each.into_iter().map(|(index, _, depth)| (index, depth)).collect();
        Self { roots, at: None, untold: VecDeque::new(), step: STEP, latest: LATEST }
    }

    /// Goes on with it for a while.
    pub(super) fn step(&mut self, roots: &[Option<Root>]) -> Restored {
        let mut walked =
            Walked { until: Instant::now() + self.step, latest: self.latest, began: None, folders: 0 };
        while self.untold.len() < MAX_TOLD
            && let Some(&(index, depth)) = self.roots.front()
        {
            let Some(root) = roots.get(index).and_then(Option::as_ref) else {
                self.roots.pop_front();
                continue;
            };
            let mut pass = self.at.take().unwrap_or_else(|| self.look_into(root));
            if !pass.lost.is_empty() && !self.walk(root, depth, &mut pass, &mut walked) {
                self.at = Some(pass);
                break;
            }
            let gone = pass.lost.into_values().flatten();
            let why = if pass.folders < MAX_FOLDERS {
                "the folder that it came from is gone, was moved, or cannot be come to".to_owned()
            } else {
                format!("the folder that it came from is not among the first {MAX_FOLDERS} of its root")
            };
            self.untold.extend(gone.map(|l| stays(root, &l.entry, Some(&l.name), &why)));
            self.roots.pop_front();
        }
        let told = self.untold.len().min(MAX_TOLD);
        let leftovers = self.untold.drain(..told).collect();
        Restored { leftovers, more: !self.untold.is_empty() || !self.roots.is_empty() }
    }

    /// Lists a quarantine.
    fn look_into(&mut self, root: &Root) -> Pass {
        let mut pass = Pass::default();
        let (names, more) = match entry_names(&root.quarantine) {
            Ok(names) => names,
            Err(error) => {
                let detail = format!("the quarantine cannot be listed: {error}");
                self.untold.push_back(of_all(root, detail));
                return pass;
            }
        };
        for entry in names {
            match look_at(root, &entry) {
                Ok((folder, lost)) => pass.lost.entry(folder).or_default().push(lost),
                Err((name, why)) => self.untold.push_back(stays(root, &entry, name.as_deref(), &why)),
            }
        }
        if more {
            let detail = format!(
                "more than {MAX_ENTRIES} entries lie here, and nobody looked at the others; \
                 move or delete by hand what stays"
            );
            self.untold.push_back(of_all(root, detail));
        }
        pass
    }

    /// Walks on over the folders of `root`, as far as the step goes; whether it is at its end.
    fn walk(&mut self, root: &Root, depth: u32, pass: &mut Pass, walked: &mut Walked) -> bool {
        let mut folders = Folders::new(depth);
        folders.from = pass.from.take();
        let (untold, mut end) = (&mut self.untold, None);
        folders.visit(&root.folder, &mut |relative, folder| {
            // At the latest before a folder is looked at: what a step began with is not its beginning.
            if walked.is_over() || untold.len() >= MAX_TOLD {
                end = Some(relative.to_owned());
                return Way::Stop;
            }
            walked.began.get_or_insert_with(Instant::now);
            (walked.folders, pass.folders) = (walked.folders + 1, pass.folders + 1);
            if pass.folders >= MAX_FOLDERS {
                return Way::Stop;
            }
            let Ok(inode) = beneath::facts_of(folder).map(|f| f.inode) else { return Way::On };
            let Some(lost) = pass.lost.remove(&inode) else { return Way::On };
            let digest = path_digest(relative);
            let (here, others): (Vec<Lost>, _) = lost.into_iter().partition(|l| l.folder_digest == digest);
            if !others.is_empty() {
                pass.lost.insert(inode, others);
            }
            untold.extend(here.into_iter().map(|lost| put_back(root, (relative, folder), lost)));
            if pass.lost.is_empty() { Way::Stop } else { Way::On }
        });
        pass.from = end;
        pass.from.is_none()
    }
}

/// Where an entry came from, by its name, and what it is; or why that is not known, with its old name if that is.
fn look_at(root: &Root, entry: &OsStr) -> Result<(u64, Lost), (Option<PathBuf>, String)> {
    let origin = Origin::parse(entry.as_bytes())
        .ok_or_else(|| (None, "its name does not say where it came from".to_owned()))?;
    let name = PathBuf::from(OsStr::from_bytes(origin.name));
    // Another inode: it was put in the object's place before the move, and goes back as it would have without the crash.
    let said = match beneath::facts_at(&root.quarantine, entry) {
        Ok(facts) if facts.inode == origin.inode => "it is back",
        Ok(_) => "another file than the plan's had its name by then, and is back",
        Err(error) => return Err((Some(name), format!("it cannot be looked at: {error}"))),
    };
    gaps::reach(Gap::LeftoverSeen, Path::new(entry));
    let lost = Lost { entry: entry.to_owned(), folder_digest: origin.folder_digest, name, said };
    Ok((origin.folder_inode, lost))
}

/// Moves an entry back into its folder, if its old name is free.
fn put_back(root: &Root, (relative, folder): (&Path, &OwnedFd), lost: Lost) -> Leftover {
    let Lost { entry, name, said, .. } = lost;
    gaps::reach(Gap::LeftoverPlaced, Path::new(&entry));
    let original = relative.join(&name);
    match rustix::fs::renameat_with(&root.quarantine, &entry, folder, &name, RenameFlags::NOREPLACE) {
        Ok(()) => Leftover {
            quarantined: root.quarantined(&entry).display().to_string(),
            original: Some(root.path.join(original).display().to_string()),
            restored: true,
            detail: format!("an earlier run was stopped between moving and removing it; {said}"),
            device: root.facts.device,
        },
        Err(Errno::EXIST) => stays(root, &entry, Some(&original), "its old name is taken"),
        Err(error) => stays(root, &entry, Some(&original), &format!("it cannot be moved back: {error}")),
    }
}

fn stays(root: &Root, entry: &OsStr, original: Option<&Path>, why: &str) -> Leftover {
    Leftover {
        quarantined: root.quarantined(entry).display().to_string(),
        original: original.map(|p| root.path.join(p).display().to_string()),
        restored: false,
        detail: format!("{why}; it stays here: move or delete it by hand"),
        device: root.facts.device,
    }
}

/// What is said of a whole quarantine.
fn of_all(root: &Root, detail: String) -> Leftover {
    let quarantined = root.path.join(QUARANTINE).display().to_string();
    Leftover { quarantined, original: None, restored: false, detail, device: root.facts.device }
}

/// The names in a folder, as many as are looked at, and whether there are more.
fn entry_names(folder: &OwnedFd) -> Result<(Vec<OsString>, bool), Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() == MAX_ENTRIES {
            return Ok((names, true));
        }
        names.push(OsString::from_vec(name));
    }
    Ok((names, false))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::act::policy::{Budgets, RootPolicy};
    use crate::act::quarantine::entry_name;

    struct Scene {
        temp: tempfile::TempDir,
        roots: Vec<Option<Root>>,
        policy: Policy,
    }

    impl Scene {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let root = RootPolicy::new(temp.path());
            let roots = vec![Some(Root::open(&root).unwrap())];
            let policy = Policy { roots: vec![root], budgets: Budgets::default(), ..Policy::off() };
            Self { temp, roots, policy }
        }

        /// Leaves `name` of the folder `at` in quarantine.
        fn leave(&self, at: &str, name: &str) {
            let folder = self.temp.path().join(at);
            fs::create_dir_all(&folder).unwrap();
            let path = self.temp.path().join(QUARANTINE).join("making");
            fs::write(&path, name).unwrap();
            let (inode, of) = (fs::metadata(&path).unwrap().ino(), fs::metadata(&folder).unwrap().ino());
            let entry = entry_name(of, Path::new(at), inode, OsStr::new(name)).unwrap();
            fs::rename(&path, path.with_file_name(entry)).unwrap();
        }

        fn leftovers(&self) -> Leftovers {
            Leftovers::new(&self.roots, &self.policy)
        }

        fn whole(&self) -> Vec<Leftover> {
            let (mut leftovers, mut told) = (self.leftovers(), Vec::new());
            loop {
                let step = leftovers.step(&self.roots);
                told.extend(step.leftovers);
                if !step.more {
                    return told;
                }
            }
        }
    }

    #[test]
    fn leftovers_go_back_or_stay_and_are_told() {
        let scene = Scene::new();
        let folder = scene.temp.path().join("a/b");
        scene.leave("a/b", "free.log.1");
        scene.leave("a/b", "taken.log.1");
        scene.leave("gone", "lost.log.1");
        fs::remove_dir(scene.temp.path().join("gone")).unwrap();
        fs::write(folder.join("taken.log.1"), "newer").unwrap();
        fs::write(scene.temp.path().join(QUARANTINE).join("stranger"), "").unwrap();
        let told = scene.whole();
        assert_eq!(told.len(), 4);
        assert_eq!(told.iter().filter(|l| l.restored).count(), 1, "{told:#?}");
        assert_eq!(fs::read_to_string(folder.join("free.log.1")).unwrap(), "free.log.1");
        assert_eq!(fs::read_to_string(folder.join("taken.log.1")).unwrap(), "newer");
        for why in ["name is taken", "its name does", "is gone, was moved"] {
            assert!(told.iter().any(|l| l.detail.contains(why)), "{why}: {told:#?}");
        }
        assert_eq!(scene.whole().len(), 3, "what stays is told at every start");
    }

    #[test]
    fn steps_end_in_time_go_on_where_the_last_one_ended_and_find_all_in_one_walk() {
        let scene = Scene::new();
        let count = 5 * LEAST_FOLDERS;
        for n in 0..count {
            fs::create_dir_all(scene.temp.path().join(format!("{:02}/{n:05}", n % 7))).unwrap();
        }
        // Spread over the walk, and one of which the folder is gone: the walk goes to its end.
        for at in ["00/00000", "03/00801", "06/01224", "gone"] {
            scene.leave(at, "app.log.1");
        }
        fs::remove_dir(scene.temp.path().join("gone")).unwrap();
        let mut leftovers = scene.leftovers();
        (leftovers.step, leftovers.latest) = (Duration::ZERO, Duration::MAX);
        let (mut steps, mut told) = (0, Vec::new());
        loop {
            let step = leftovers.step(&scene.roots);
            (steps, told) = (steps + 1, [told, step.leftovers].concat());
            if !step.more {
                break;
            }
        }
        // The folders, the seven above them and the root; the least of them in each step, of which one was looked at before.
        let folders = count + 8;
        assert_eq!(steps, folders.div_ceil(LEAST_FOLDERS), "one walk for all of them");
        let back: Vec<bool> = told.iter().map(|l| l.restored).collect();
        assert_eq!(back, [true, true, true, false], "{told:#?}");
    }

    #[test]
    fn a_step_among_folders_that_take_long_ends_after_one_and_the_walk_comes_to_its_end() {
        let scene = Scene::new();
        for n in 0..40 {
            fs::create_dir_all(scene.temp.path().join(format!("{:02}/{n:02}", n % 4))).unwrap();
        }
        for at in ["00/00", "01/37", "03/39", "gone"] {
            scene.leave(at, "app.log.1");
        }
        fs::remove_dir(scene.temp.path().join("gone")).unwrap();
        let mut leftovers = scene.leftovers();
        leftovers.latest = Duration::ZERO;
        let (mut steps, mut told) = (0, Vec::new());
        loop {
            let step = leftovers.step(&scene.roots);
            (steps, told) = (steps + 1, [told, step.leftovers].concat());
            if !step.more {
                break;
            }
        }
        assert_eq!(steps, 40 + 4 + 1, "a folder each, and none of them twice");
        let back: Vec<bool> = told.iter().map(|l| l.restored).collect();
        assert_eq!(back, [true, true, true, false], "{told:#?}");
    }

    #[test]
    fn more_than_a_message_takes_is_told_in_several_and_what_nobody_looked_at_is_counted() {
        let scene = Scene::new();
        let quarantine = scene.temp.path().join(QUARANTINE);
        for n in 0..=MAX_ENTRIES {
            fs::write(quarantine.join(format!("stranger {n}")), "").unwrap();
        }
        let first = scene.leftovers().step(&scene.roots);
        assert_eq!((first.leftovers.len(), first.more), (MAX_TOLD, true));
        let told = scene.whole();
        assert_eq!(told.len(), MAX_ENTRIES + 1);
        assert!(told.last().unwrap().detail.contains("nobody looked at the others"), "{:?}", told.last());
    }
}
