//! Policy: what a cleanup may ever touch, and how much of it.
//!
//! A policy is written once, handed to the executor when it starts, and obeyed there whatever the parent says later.
//!
//! Invariants
//! - A *live* log never matches. Names that are rotated logs on their face ([`DEFAULT_PATTERNS`]) carry `.log` and a
//!   rotation's mark after it; names that only look rotated ([`DEFAULT_SIBLING_PATTERNS`], e.g. `syslog.1`) count only
//!   while the log that they were rotated from lies beside them.
//! - The built-in excludes ([`ALWAYS_EXCLUDED`]) hold whatever the configuration says.
//! - [`Policy::validate`] names every mistake at once; [`Rules::new`] compiles what validated.
//!
//! Deliberately absent: reading file content, and any decision about how much is enough (`plan`).

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use dogwatch::record::CleanupMode;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::forbidden;
use super::rotation::live_name;

/// The folder in each root through which objects leave; never surveyed.
pub const QUARANTINE: &str = ".dogwatch-quarantine";

/// Names that are rotated logs on their face. Each has `.log` followed by what only a rotation appends.
///
/// - `*.log.[1-9]*`: `app.log.1`, `app.log.2.gz`, `0.log.20240612-101112` (kubelet), `app.log.2024-06-12` (log4j,
///   Python). Not `.log.0`: java.util.logging writes to that one.
/// - `*.log-[1-9]*`: logrotate's `dateext`, `app.log-20240612`, compressed or not.
/// - `*.log.gz` and the like: nobody appends to a compressed log; one that is being compressed is open.
/// - `*.log.old`: `Xorg.0.log.old`, `boot.log.old`.
pub const DEFAULT_PATTERNS: &[&str] = &["*.log.[1-9]*", "*.log-[1-9]*", "*.log.{gz,bz2,xz,zst}", "*.log.old"];

/// Names that are rotated logs only beside the log that they came from: `syslog.1` and `syslog.2.gz` beside `syslog`,
/// `messages-20240612` beside `messages`, `dmesg.old` beside `dmesg`. Without it, `tool-1.2` or a dated dump would match.
pub const DEFAULT_SIBLING_PATTERNS: &[&str] = &[
    "*.[1-9]",
    "*.[1-9][0-9]",
    "*.[1-9].{gz,bz2,xz,zst}",
    "*.[1-9][0-9].{gz,bz2,xz,zst}",
    "*-[12][0-9][0-9][0-9][01][0-9][0-3][0-9]",
    "*-[12][0-9][0-9][0-9][01][0-9][0-3][0-9].{gz,bz2,xz,zst}",
    "*.old",
];

/// Never touched, whatever the patterns say: locks, pid files, and files in the making.
pub const ALWAYS_EXCLUDED: &[&str] =
    &["*.lck", "*.lock", "*.pid", "*.tmp", "*.part", "*.swp", "*.journal", "*.wal"];

/// Names of logs that somebody writes to; a configured pattern that matches one of them is refused.
const LIVE_LOGS: &[&str] = &[
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

/// Deepest that a survey may go beneath a root; each level is an open descriptor.
pub const MAX_DEPTH: u32 = 16;
/// Most roots: each holds two descriptors and a Landlock rule.
pub const MAX_ROOTS: usize = 32;
/// Most patterns in one list of a root.
pub const MAX_PATTERNS: usize = 64;
/// Most objects in one action: its record must fit a block.
pub const MAX_OBJECTS: u32 = 1_000;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// What a node's cleanup may do, where, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `off`: nothing; `plan`: only what a person applies; `auto`: triggers apply.
    pub mode: CleanupMode,
    /// Where, and what there. The deepest root that holds a path decides about it.
    pub roots: Vec<RootPolicy>,
    /// How much.
    #[serde(default)]
    pub budgets: Budgets,
}

/// The cleaners that exist so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaner {
    /// Logs that a rotation has put aside.
    #[default]
    RotatedLogs,
}

impl Cleaner {
    /// The word in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RotatedLogs => "rotated-logs",
        }
    }
}

/// One folder in which a cleaner may work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RootPolicy {
    /// Absolute, without symbolic links on the way.
    pub path: PathBuf,
    /// What may go there.
    pub cleaner: Cleaner,
    /// Tiers are emptied in ascending order; 1 is the most harmless.
    pub tier: u32,
    /// Globs on file names that are rotated logs on their face.
    pub patterns: Vec<String>,
    /// Globs on file names that are rotated logs beside their live log only.
    pub sibling_patterns: Vec<String>,
    /// Globs on file names, and on paths relative to the root, that stay.
    pub excludes: Vec<String>,
    /// Neither content nor inode may have changed for this long.
    pub min_age_seconds: u64,
    /// So many of the newest rotated logs of each log stay.
    pub keep_newest: u32,
    /// Folders further down than this are not looked into; 0 is the root itself.
    pub max_depth: u32,
    /// Whether what goes here leaves its content in the evidence.
    pub preserve: bool,
}

impl Default for RootPolicy {
    fn default() -> Self {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        Self {
            path: PathBuf::new(),
            cleaner: Cleaner::RotatedLogs,
            tier: 1,
            patterns: owned(DEFAULT_PATTERNS),
            sibling_patterns: owned(DEFAULT_SIBLING_PATTERNS),
            excludes: Vec::new(),
            min_age_seconds: 24 * 3_600,
            keep_newest: 1,
            max_depth: 8,
            preserve: false,
        }
    }
}

impl RootPolicy {
    /// The shipped policy for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

/// Bounds on what goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// Objects in one action; at most [`MAX_OBJECTS`].
    pub max_objects: u32,
    /// Allocated bytes in one action.
    pub max_bytes: u64,
    /// Objects in any 60 minutes.
    pub max_objects_per_hour: u32,
    /// Allocated bytes in any 60 minutes.
    pub max_bytes_per_hour: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            max_objects: MAX_OBJECTS,
            max_bytes: 64 * GIB,
            max_objects_per_hour: 10_000,
            max_bytes_per_hour: 256 * GIB,
        }
    }
}

/// A mistake in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value:?}: {reason}; {remedy}")]
pub struct Problem {
    /// Where, relative to the policy, e.g. `roots[0].path`.
    pub key: String,
    /// What stands there.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Policy {
    /// A policy that allows nothing.
    pub fn off() -> Self {
        Self { mode: CleanupMode::Off, roots: Vec::new(), budgets: Budgets::default() }
    }

    /// Every mistake, none if the policy may be used. Looks at the roots on disk (symbolic links, directories under
    /// another name); a root that does not exist is no mistake. `state_dir` is the agent's own state folder.
    pub fn validate(&self, state_dir: &Path) -> Vec<Problem> {
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
            let earlier = self.roots[..index].iter().any(|other| other.path == root.path);
            problems.extend(root.problems(index, earlier, state_dir));
        }
        problems.extend(self.budgets.problems());
        problems
    }
}

impl RootPolicy {
    pub(super) fn problems(&self, index: usize, named_before: bool, state_dir: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |field: &str, value: String, reason: String, remedy: &str| {
            let key = format!("roots[{index}].{field}");
            problems.push(Problem { key, value, reason, remedy: remedy.to_owned() });
        };
        let path = self.path.display().to_string();
        if let Err((reason, remedy)) = check_place(&self.path, state_dir) {
            say("path", path.clone(), reason, remedy);
        }
        if named_before {
            say("path", path, "it is named twice".to_owned(), "merge the two roots");
        }
        if self.tier == 0 {
            say("tier", "0".to_owned(), "tiers begin at 1".to_owned(), "use 1 for the most harmless");
        }
        if self.max_depth > MAX_DEPTH {
            let reason = format!("at most {MAX_DEPTH} folders are held open");
            say("max_depth", self.max_depth.to_string(), reason, "name a root further down");
        }
        if self.patterns.is_empty() && self.sibling_patterns.is_empty() {
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
            for glob in globs {
                match matcher(std::slice::from_ref(glob)) {
                    Err(error) => {
                        say(
                            field,
                            glob.clone(),
                            format!("it is no glob: {error}"),
                            "use *, ?, [a-z] and {a,b}",
                        );
                    }
                    Ok(_) if field != "excludes" && glob.contains('/') => {
                        let reason = "patterns are matched against file names".to_owned();
                        say(field, glob.clone(), reason, "name the folder as a root");
                    }
                    Ok(set) if field != "excludes" => {
                        if let Some(live) = LIVE_LOGS.iter().find(|live| set.is_match(Path::new(live))) {
                            let reason = format!("it matches {live:?}, a log that is written to");
                            say(
                                field,
                                glob.clone(),
                                reason,
                                "demand what only a rotation appends, e.g. *.log.[1-9]*",
                            );
                        }
                    }
                    Ok(_) => {}
                }
            }
        }
        problems
    }
}

impl Budgets {
    fn problems(&self) -> Vec<Problem> {
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

/// Whether a root may be at `path`; if not, why and what to do.
fn check_place(path: &Path, state_dir: &Path) -> Result<(), (String, &'static str)> {
    const REMEDY: &str = "name a folder that holds only logs, such as /var/log";
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
    if path.components().any(|c| c.as_os_str() == QUARANTINE) {
        return Err(("it lies in dogwatch's own quarantine".to_owned(), REMEDY));
    }
    if let Some(reason) = forbidden::why_out_of_reach(path, state_dir) {
        return Err((reason, REMEDY));
    }
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
                if let Some(reason) = forbidden::why_same_directory(there.dev(), there.ino(), state_dir) {
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

/// A policy, compiled.
#[derive(Debug)]
pub struct Rules {
    /// What it was compiled from.
    pub policy: Policy,
    roots: Vec<RootRules>,
}

impl Rules {
    /// Compiles `policy`; a glob that does not compile is the error ([`Policy::validate`] finds it first).
    pub fn new(policy: Policy) -> Result<Self, globset::Error> {
        let roots = policy.roots.iter().cloned().map(RootRules::new).collect::<Result<_, _>>()?;
        Ok(Self { policy, roots })
    }

    /// Rules that allow nothing.
    pub(super) fn nothing() -> Self {
        Self { policy: Policy::off(), roots: Vec::new() }
    }

    /// Every root, in the policy's order.
    pub(super) fn roots(&self) -> &[RootRules] {
        &self.roots
    }

    /// The deepest root that holds `path`, by index, and the path relative to it; `None` for a path that is the root
    /// itself, leaves it (`..`), or passes through the quarantine.
    pub(super) fn root_of<'p>(&self, path: &'p Path) -> Option<(usize, &'p Path)> {
        let (index, relative) = self
            .roots
            .iter()
            .enumerate()
            .filter_map(|(i, r)| path.strip_prefix(&r.policy.path).ok().map(|rel| (i, rel)))
            .min_by_key(|(_, relative)| relative.components().count())?;
        let plain = relative.components().all(|c| matches!(c, Component::Normal(n) if n != QUARANTINE));
        (plain && relative.file_name().is_some()).then_some((index, relative))
    }
}

/// What a file's name says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NameVerdict {
    /// No pattern matches.
    NotRotated,
    /// It is excluded, and by what.
    Excluded(String),
    /// It is a rotated log, by the pattern given; where `live` is set, only beside a file of that name.
    Rotated {
        /// The pattern.
        pattern: String,
        /// The log that must lie beside it.
        live: Option<Vec<u8>>,
    },
}

/// One root's rules, compiled.
#[derive(Debug)]
pub(super) struct RootRules {
    /// What it was compiled from.
    pub(super) policy: RootPolicy,
    patterns: GlobSet,
    sibling_patterns: GlobSet,
    excludes: GlobSet,
    always_excluded: GlobSet,
}

impl RootRules {
    fn new(policy: RootPolicy) -> Result<Self, globset::Error> {
        let always: Vec<String> = ALWAYS_EXCLUDED.iter().map(|p| (*p).to_owned()).collect();
        Ok(Self {
            patterns: matcher(&policy.patterns)?,
            sibling_patterns: matcher(&policy.sibling_patterns)?,
            excludes: matcher(&policy.excludes)?,
            always_excluded: matcher(&always)?,
            policy,
        })
    }

    /// Judges a path relative to the root by its name.
    pub(super) fn judge_name(&self, relative: &Path) -> NameVerdict {
        let Some(name) = relative.file_name() else { return NameVerdict::NotRotated };
        let face = self.patterns.matches(name).first().map(|i| (self.policy.patterns[*i].clone(), None));
        let rotated = face.or_else(|| {
            let index = *self.sibling_patterns.matches(name).first()?;
            let live = live_name(name.as_bytes())?;
            Some((self.policy.sibling_patterns[index].clone(), Some(live.to_vec())))
        });
        let Some((pattern, live)) = rotated else { return NameVerdict::NotRotated };
        if let Some(i) = self.always_excluded.matches(name).first() {
            return NameVerdict::Excluded(format!("{} is never touched", ALWAYS_EXCLUDED[*i]));
        }
        let mut excluded = self.excludes.matches(name);
        excluded.extend(self.excludes.matches(relative));
        // An excluded folder excludes what lies in it.
        excluded.extend(relative.ancestors().skip(1).flat_map(|folder| self.excludes.matches(folder)));
        match excluded.first() {
            Some(i) => NameVerdict::Excluded(format!("excluded by {:?}", self.policy.excludes[*i])),
            None => NameVerdict::Rotated { pattern, live },
        }
    }

    /// Age in seconds by the later of modification and change, or why it is too young. A time in the future is young.
    pub(super) fn judge_age(&self, mtime_ns: i64, ctime_ns: i64, now_wall_ns: i64) -> Result<u64, String> {
        let age_ns = now_wall_ns.saturating_sub(mtime_ns.max(ctime_ns));
        let min = self.policy.min_age_seconds;
        if age_ns < 0 {
            return Err("it was changed in the future of this node's clock".to_owned());
        }
        let age = u64::try_from(age_ns / NS_PER_SECOND).unwrap_or(0);
        if age < min {
            let (age, min) = (super::words::seconds(age), super::words::seconds(min));
            return Err(format!("it changed {age} ago, younger than {min}"));
        }
        Ok(age)
    }
}

fn matcher(globs: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()?);
    }
    set.build()
}

#[cfg(test)]
mod tests;
