//! Mistakes in a policy: every one, with what to do.
//!
//! Two kinds. What the text alone says is a mistake of whoever wrote it, and refuses the whole configuration. What a look at
//! the node says (a link in the way, a database's marker above, a mount, a user that is gone) anybody may bring about who may
//! write there: it makes that one root unusable and nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use dogwatch::record::CleanupMode;

use super::{
    Budgets, HELD, MAX_DEPTH, MAX_OBJECTS, MAX_PATTERNS, MAX_ROOTS, NO_USER, Policy, Problem, QUARANTINE,
    RootPolicy, excludes, matcher, users_of,
};
use crate::act::cleaners::{Cleaner, why_kept, why_private};
use crate::act::forbidden::{self, Renamed};

/// Names of logs that somebody writes to; a configured pattern that matches one of them is refused.
pub(super) const LIVE_LOGS: &[&str] = &[
    "0.log",
    "app.log",
    "access.log",
    "access_log",
    "audit.log",
    "auth.log",
    "btmp",
    "catalina.out",
    "daemon.log",
    "error.log",
    "error_log",
    "kern.log",
    "kubelet.log",
    "lastlog",
    "maillog",
    "messages",
    "secure",
    "stderr",
    "stdout",
    "syslog",
    "system.journal",
    "wtmp",
    "java0.log.0",
];

/// What to do about a root that may not be where it is.
const REMEDY: &str = "name a folder that holds only what may go, such as /var/log";
/// Longest name of a root, bytes: it stands in each object's reason.
const MAX_NAME_BYTES: usize = 64;

impl Policy {
    /// Every problem of both kinds, none if all of the policy may be used. `state_dir` is the agent's own state folder.
    pub fn validate(&self, state_dir: &Path) -> Vec<Problem> {
        let mut problems = self.mistakes(state_dir);
        problems.extend(self.unusable(state_dir));
        problems
    }

    /// Roots that cannot be used by a look at the node: its disks, mounts and users. A root that does not exist is none.
    pub fn unusable(&self, state_dir: &Path) -> Vec<Problem> {
        let roots = self.roots.iter().enumerate();
        roots.flat_map(|(index, root)| root.unusable(index, state_dir)).collect()
    }

    /// Roots that are in use and do not exist on this machine, with their places.
    pub fn absent(&self) -> impl Iterator<Item = (usize, &Path)> {
        let used = move |(_, root): &(usize, &RootPolicy)| {
            self.mode != CleanupMode::Off && root.mode != Some(CleanupMode::Off)
        };
        let is_absent = |path: &Path| {
            std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        };
        let roots = self.roots.iter().enumerate().filter(used);
        roots.filter_map(move |(index, root)| Some((index, root.path.as_path())).filter(|r| is_absent(r.1)))
    }

    /// Every mistake that the text alone has; looks at nothing.
    pub fn mistakes(&self, state_dir: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.roots.len() > MAX_ROOTS {
            problems.push(Problem {
                key: "roots".to_owned(),
                value: format!("{} roots", self.roots.len()),
                reason: format!("at most {MAX_ROOTS} are kept open"),
                remedy: "name folders further up".to_owned(),
            });
        }
        for (index, root) in self.roots.iter().enumerate() {
            let earlier = self.roots[..index].iter().any(|other| {
                (&other.path, other.cleaner, &other.name) == (&root.path, root.cleaner, &root.name)
            });
            problems.extend(root.mistakes(index, earlier, state_dir));
        }
        problems.extend(self.budgets.problems());
        problems
    }
}

impl RootPolicy {
    /// Problems of both kinds in the root that stands at `index`.
    pub(in crate::act) fn problems(&self, index: usize, state_dir: &Path) -> Vec<Problem> {
        let mut problems = self.mistakes(index, false, state_dir);
        problems.extend(self.unusable(index, state_dir));
        problems
    }

    /// Why the root that stands at `index` cannot be used by a look at the node.
    fn unusable(&self, index: usize, state_dir: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |field: &str, value: String, reason: String, remedy: &str| {
            let key = format!("roots[{index}].{field}");
            problems.push(Problem { key, value, reason, remedy: remedy.to_owned() });
        };
        if self.owner == Some(NO_USER) {
            let reason = format!("no user of that name stands in {}", users_of(&self.host_root).display());
            say("owner", "a name".to_owned(), reason, "write the user's id");
        }
        // A place that the text rules out is not looked at.
        if check_name(self, state_dir).is_err() {
            return problems;
        }
        let path = || self.path.display().to_string();
        let renamed = Renamed::now(self, state_dir);
        if let Err((reason, remedy)) = check_place(self, state_dir) {
            say("path", path(), reason, remedy);
        } else if let Some(reason) = renamed.as_ref().and_then(Renamed::why_root_is_out) {
            say("path", path(), reason, REMEDY);
        }
        if let Some(reason) = forbidden::why_marked_above(&self.path, &self.host_root)
            .or_else(|| renamed.as_ref()?.why_marked_above().map(str::to_owned))
        {
            say("path", path(), reason, "leave it to what keeps its data there");
        }
        problems
    }

    /// Mistakes that the text of the root that stands at `index` has.
    fn mistakes(&self, index: usize, named_before: bool, state_dir: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |field: &str, value: String, reason: String, remedy: &str| {
            let key = format!("roots[{index}].{field}");
            problems.push(Problem { key, value, reason, remedy: remedy.to_owned() });
        };
        let path = self.path.display().to_string();
        if let Err((reason, remedy)) = check_name(self, state_dir) {
            say("path", path.clone(), reason, remedy);
        }
        if named_before {
            say("path", path, "it is named twice for one cleaner".to_owned(), "merge the two roots");
        }
        if self.tier == 0 {
            say("tier", "0".to_owned(), "tiers begin at 1".to_owned(), "use 1 for the most harmless");
        }
        if self.max_depth > MAX_DEPTH {
            let reason = format!("at most {MAX_DEPTH} folders are held open");
            say("max_depth", self.max_depth.to_string(), reason, "name a root further down");
        }
        if self.name.len() > MAX_NAME_BYTES || self.name.chars().any(char::is_control) {
            let reason = format!("a name has at most {MAX_NAME_BYTES} bytes and no control characters");
            say("name", self.name.escape_debug().to_string(), reason, "use a word or two");
        }
        let why_private = if self.cleaner == Cleaner::RotatedLogs { why_kept } else { why_private };
        if let Some(reason) = why_private(&self.path) {
            say("path", self.path.display().to_string(), reason, "leave it to its owner");
        }
        let mistakes = self.cleaner.kind().mistakes(self);
        for mistake in &mistakes {
            say(mistake.field, mistake.value.clone(), mistake.reason.clone(), &mistake.remedy);
        }
        let told = |field: &str, glob: &str| mistakes.iter().any(|m| m.field == field && m.value == glob);
        if self.cleaner == Cleaner::RotatedLogs
            && self.patterns.is_empty()
            && self.sibling_patterns.is_empty()
        {
            say(
                "patterns",
                "[]".to_owned(),
                "nothing could ever match".to_owned(),
                "name a pattern or drop the root",
            );
        }
        let lists = [
            ("patterns", &self.patterns),
            ("sibling_patterns", &self.sibling_patterns),
            ("excludes", &self.excludes),
        ];
        for (field, globs) in lists {
            if globs.len() > MAX_PATTERNS {
                let reason = format!("at most {MAX_PATTERNS} are matched");
                say(field, format!("{} patterns", globs.len()), reason, "merge them with {a,b}");
            }
        }
        for entry in &self.excludes {
            if let Some((reason, remedy)) = excludes::mistake(&self.path, entry) {
                say("excludes", entry.clone(), reason, &remedy);
            }
        }
        // The other kinds know their names, or judge their patterns themselves.
        let by_name = self.cleaner == Cleaner::RotatedLogs;
        for (field, glob) in lists[..2].iter().flat_map(|(f, globs)| globs.iter().map(move |g| (*f, g))) {
            match matcher(std::slice::from_ref(glob)) {
                Err(error) => {
                    let reason = format!("it is no glob: {error}");
                    say(field, glob.clone(), reason, "use *, ?, [a-z] and {a,b}");
                }
                Ok(_) if told(field, glob) || !by_name => {}
                Ok(_) if glob.contains('/') => {
                    let reason = "patterns are matched against file names".to_owned();
                    say(field, glob.clone(), reason, "name the folder as a root");
                }
                Ok(set) => {
                    if let Some(live) = LIVE_LOGS.iter().find(|live| set.is_match(Path::new(live))) {
                        let reason = format!("it matches {live:?}, a log that is written to");
                        let remedy = "demand what only a rotation appends, e.g. *.log.[1-9]*";
                        say(field, glob.clone(), reason, remedy);
                    }
                }
            }
        }
        let budgets = self.budgets.iter().flat_map(Budgets::problems);
        problems.extend(budgets.map(|p| Problem { key: format!("roots[{index}].{}", p.key), ..p }));
        problems
    }
}

impl Budgets {
    pub(in crate::act) fn problems(&self) -> Vec<Problem> {
        let zero = [
            ("max_objects", u64::from(self.max_objects)),
            ("max_bytes", self.max_bytes),
            ("max_objects_per_hour", u64::from(self.max_objects_per_hour)),
            ("max_bytes_per_hour", self.max_bytes_per_hour),
        ];
        let mut problems: Vec<Problem> = zero
            .iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, _)| Problem {
                key: format!("budgets.{key}"),
                value: "0".to_owned(),
                reason: "nothing could ever go".to_owned(),
                remedy: "set mode: off to forbid cleanup".to_owned(),
            })
            .collect();
        if self.max_objects > MAX_OBJECTS {
            problems.push(Problem {
                key: "budgets.max_objects".to_owned(),
                value: self.max_objects.to_string(),
                reason: format!("an action's record holds at most {MAX_OBJECTS} objects"),
                remedy: format!("use {MAX_OBJECTS} or fewer; what is left goes with the next action"),
            });
        }
        problems
    }
}

/// Whether `root` may be at a place of that name; if not, why and what to do.
fn check_name(root: &RootPolicy, state_dir: &Path) -> Result<(), (String, &'static str)> {
    let path = root.path.as_path();
    if !path.is_absolute() {
        return Err(("it is not absolute".to_owned(), REMEDY));
    }
    if path.to_str().is_none() {
        return Err(("it is not UTF-8".to_owned(), REMEDY));
    }
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let canonical: PathBuf = path.components().collect();
    if !plain || canonical.as_os_str() != path.as_os_str() {
        return Err((
            "it is not written plainly".to_owned(),
            "write it without '.', '..', '//' and trailing '/'",
        ));
    }
    if path.components().any(|c| c.as_os_str() == QUARANTINE || c.as_os_str() == HELD) {
        return Err(("it lies in dogwatch's own quarantine".to_owned(), REMEDY));
    }
    if let Some(reason) = forbidden::why_out_of_reach(root, state_dir) {
        return Err((reason, REMEDY));
    }
    Ok(())
}

/// Whether what is at the path of `root` may be one; if not, why and what to do.
fn check_place(root: &RootPolicy, state_dir: &Path) -> Result<(), (String, &'static str)> {
    let path = root.path.as_path();
    let mut so_far = PathBuf::new();
    for component in path.components() {
        so_far.push(component);
        match std::fs::symlink_metadata(&so_far) {
            Ok(there) if there.file_type().is_symlink() => {
                let reason = format!("{} is a symbolic link", so_far.display());
                return Err((reason, "name the folder that it leads to"));
            }
            Ok(there) if !there.is_dir() => {
                return Err((format!("{} is not a folder", so_far.display()), REMEDY));
            }
            Ok(there) if so_far == path => {
                if let Some(reason) =
                    forbidden::why_same_directory((there.dev(), there.ino()), root, state_dir)
                {
                    return Err((reason, REMEDY));
                }
            }
            // What is not there yet, or cannot be looked at, the executor judges when it opens the root.
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}
