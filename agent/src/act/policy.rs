//! Policy: what a cleanup may ever touch, and how much of it.
//!
//! A policy is written once, handed to the executor when it starts, and obeyed there whatever the parent says later.
//! What each root's cleaner takes is the cleaner's own affair (`cleaners`).
//!
//! Invariants
//! - What a cleaner always excludes stays whatever the configuration says.
//! - Of a root's mode and the policy's the tighter counts.
//! - The deepest root that holds a path decides about it; of several at one place, the first whose cleaner takes its name.
//! - [`Policy::validate`] names every mistake at once; [`Rules::new`] compiles what validated.
//!
//! Deliberately absent: reading file content, and any decision about how much is enough (`plan`).

mod check;
mod excludes;
mod kept;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use dogwatch::record::CleanupMode;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use self::excludes::Excludes;
pub(super) use self::excludes::can_match;
pub use self::kept::GlobError;
pub(super) use self::kept::Kept;
use super::age_clock::Present;
use super::beneath::Facts;
pub use super::cleaners::Cleaner;
use super::cleaners::{Ground, Kind, NEVER_NAMES, Taken, bare, is_logs, root_of_kind};

/// The folder in each root through which objects leave; never surveyed.
pub const QUARANTINE: &str = ".dogwatch-quarantine";
/// The folder in a root in which files that are held have another name.
pub const HELD: &str = ".dogwatch-held";

/// Deepest that a survey may go beneath a root; each level is an open descriptor.
pub const MAX_DEPTH: u32 = 16;
/// Most roots: each holds up to five descriptors (`confine`) and a Landlock rule.
pub const MAX_ROOTS: usize = 32;
/// Most patterns in one list of a root.
pub const MAX_PATTERNS: usize = 64;
/// Most objects in one action: its record must fit a block.
pub const MAX_OBJECTS: u32 = 1_000;

/// Nobody's id (chown(2)): the owner of a root whose owner's name no user has.
pub const NO_USER: u32 = u32::MAX;

/// Who acts when no person does.
pub const NODE_ACTOR: &str = "node";
/// Why nothing goes from a root that is off.
pub(super) const ROOT_OFF: &str = "its root's mode is off";
/// Why the node leaves alone what a person may remove.
pub(super) const ROOT_PLANS: &str = "its root's mode is plan: the node does not remove it by itself, a responder can (`dogwatch plan`, `dogwatch clean`)";

const NS_PER_SECOND: i64 = 1_000_000_000;
/// What is called a rotated log keeps that name for so long at least before it may go, where its root's `min_age` is longer. Shorter
/// than what a row of files that are older than `min_age` is rotated in.
const MIN_RENAMED_SECONDS: u64 = 600;

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

/// One folder in which a cleaner may work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RootPolicy {
    /// Absolute, without symbolic links on the way.
    pub path: PathBuf,
    /// What may go there.
    pub cleaner: Cleaner,
    /// What people call it; empty where it has no name.
    pub name: String,
    /// What may be done there; of this and the policy's mode the tighter counts.
    pub mode: Option<CleanupMode>,
    /// Tiers are emptied in ascending order; 1 is the most harmless.
    pub tier: u32,
    /// Globs on file names (a custom cleaner's: on paths relative to the root) that may go.
    pub patterns: Vec<String>,
    /// Globs on file names that are rotated logs beside their live log only.
    pub sibling_patterns: Vec<String>,
    /// Globs on names, and on paths relative to the root, of files and folders that stay; a folder with all that lies in it.
    pub excludes: Vec<String>,
    /// Neither content nor inode may have changed for this long.
    pub min_age_seconds: u64,
    /// Nor may it have been read for that long, where the mount keeps access times.
    pub by_access: bool,
    /// Only this user's files; of [`NO_USER`] the root is unusable.
    pub owner: Option<u32>,
    /// So many of the newest of each family stay: rotated logs of one log, cores of one program.
    pub keep_newest: u32,
    /// Folders further down than this are not looked into; 0 is the root itself.
    pub max_depth: u32,
    /// How much may go from here, besides the policy's own budgets.
    pub budgets: Option<Budgets>,
    /// Whether the content of what goes is kept first.
    pub preserve: bool,
    /// What stays of the newest content: in a journal's folder, of a live log.
    pub keep_bytes: u64,
    /// A live log that holds less stays as it is.
    pub min_size_bytes: u64,
    /// The kubelet's folder on the host (its `--root-dir`).
    pub kubelet_dir: PathBuf,
    /// Where the host's files are seen: its package managers' locks, its `tmpfiles.d`.
    pub host_root: PathBuf,
}

impl Default for RootPolicy {
    fn default() -> Self {
        let mut root = Self {
            path: PathBuf::new(),
            cleaner: Cleaner::RotatedLogs,
            name: String::new(),
            mode: None,
            tier: 1,
            patterns: Vec::new(),
            sibling_patterns: Vec::new(),
            excludes: Vec::new(),
            min_age_seconds: 0,
            by_access: false,
            owner: None,
            keep_newest: 0,
            max_depth: 8,
            budgets: None,
            preserve: false,
            keep_bytes: 0,
            min_size_bytes: 0,
            kubelet_dir: PathBuf::from("/var/lib/kubelet"),
            host_root: PathBuf::from("/"),
        };
        root.cleaner.kind().defaults(&mut root);
        root
    }
}

impl RootPolicy {
    /// The shipped policy of rotated logs for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// The shipped policy of `cleaner` for `path`.
    pub fn of(cleaner: Cleaner, path: impl Into<PathBuf>) -> Self {
        root_of_kind(cleaner, path.into())
    }

    /// What may be done there under the policy's mode: the tighter of the two.
    pub fn mode_under(&self, policy: CleanupMode) -> CleanupMode {
        match (self.mode.unwrap_or(policy), policy) {
            (CleanupMode::Off, _) | (_, CleanupMode::Off) => CleanupMode::Off,
            (CleanupMode::Plan, _) | (_, CleanupMode::Plan) => CleanupMode::Plan,
            (CleanupMode::Auto, CleanupMode::Auto) => CleanupMode::Auto,
        }
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

/// The table of users of the host whose files are at `host_root`.
pub fn users_of(host_root: &Path) -> PathBuf {
    host_root.join("etc/passwd")
}

impl Policy {
    /// A policy that allows nothing.
    pub fn off() -> Self {
        Self { mode: CleanupMode::Off, roots: Vec::new(), budgets: Budgets::default() }
    }
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
    pub fn new(policy: Policy) -> Result<Self, GlobError> {
        let roots = policy.roots.iter().cloned().map(RootRules::new).collect::<Result<_, _>>()?;
        Ok(Self { policy, roots })
    }

    /// Rules that allow nothing.
    pub(super) fn nothing() -> Self {
        Self { policy: Policy::off(), roots: Vec::new() }
    }

    /// The root that decides about `path` for the cleaner called `cleaner`, and the path relative to it: of those at the
    /// deepest place, the first of that cleaner that takes its name, else the first of that cleaner, else the first.
    pub(super) fn root_for<'p>(&self, path: &'p Path, cleaner: &str) -> Option<(usize, &'p Path)> {
        let (first, relative) = self.root_of(path)?;
        let place = &self.roots[first].policy.path;
        let there = || {
            let roots = self.roots.iter().enumerate().filter(|(_, r)| r.policy.path == *place);
            roots.filter(|(_, r)| r.policy.cleaner.as_str() == cleaner)
        };
        let taker = there().find(|(_, r)| r.kind().takes(r, relative).is_some());
        let index = taker.or_else(|| there().next()).map_or(first, |(index, _)| index);
        Some((index, relative))
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
        let plain =
            relative.components().all(|c| matches!(c, Component::Normal(n) if n != QUARANTINE && n != HELD));
        (plain && relative.file_name().is_some()).then_some((index, relative))
    }
}

/// What a file's name says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NameVerdict {
    /// The cleaner does not take it.
    NotTaken,
    /// It is excluded, and by what.
    Excluded(String),
    /// The cleaner takes it.
    Taken(Taken),
}

/// A file's times, nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Of its content.
    pub(super) modified_ns: i64,
    /// Of its inode.
    pub(super) changed_ns: i64,
    /// When the inode was made, where its filesystem tells. Nobody can set it.
    pub(super) born_ns: Option<i64>,
    /// When it was last read, where its mount tells.
    pub(super) accessed_ns: Option<i64>,
}

impl Times {
    /// Those of `facts`, on `ground`.
    pub(super) fn of(facts: &Facts, ground: &Ground) -> Self {
        let accessed_ns = ground.accessed_ns(facts);
        let Facts { mtime_ns: modified_ns, ctime_ns: changed_ns, btime_ns: born_ns, .. } = *facts;
        Self { modified_ns, changed_ns, born_ns, accessed_ns }
    }

    /// What the kernel says by itself of when it was changed, in a root with these rules.
    fn told_ns(&self, rules: &RootRules) -> i64 {
        self.born_ns.filter(|_| rules.is_renamed).unwrap_or(self.changed_ns)
    }

    /// By what it goes before others in a root with these rules: the oldest content of what rotations rename, also where it was
    /// restored since; else what is unchanged for longest.
    pub(super) fn order_ns(&self, rules: &RootRules) -> i64 {
        if rules.is_renamed { self.modified_ns } else { self.modified_ns.max(self.changed_ns) }
    }
}

/// One root's rules, compiled.
#[derive(Debug)]
pub(super) struct RootRules {
    /// What it was compiled from.
    pub(super) policy: RootPolicy,
    patterns: GlobSet,
    sibling_patterns: GlobSet,
    excludes: Excludes,
    always_excluded: GlobSet,
    always_excluded_by: Vec<String>,
    is_renamed: bool,
}

impl RootRules {
    fn new(policy: RootPolicy) -> Result<Self, GlobError> {
        let kind = policy.cleaner.kind();
        let always = kind.always_excluded(&policy);
        Ok(Self {
            patterns: matcher(&policy.patterns)?,
            sibling_patterns: matcher(&policy.sibling_patterns)?,
            excludes: Excludes::new(&policy.excludes)?,
            always_excluded: matcher(&always)?,
            always_excluded_by: always,
            is_renamed: kind.is_renamed(&policy),
            policy,
        })
    }

    /// How its cleaner judges.
    pub(super) fn kind(&self) -> &'static dyn Kind {
        self.policy.cleaner.kind()
    }

    /// The first of the root's patterns that matches `path`.
    pub(super) fn pattern_of(&self, path: &Path) -> Option<&str> {
        self.patterns.matches(path).first().map(|i| self.policy.patterns[*i].as_str())
    }

    /// The root's patterns that match `path`.
    pub(super) fn patterns_of(&self, path: &Path) -> impl Iterator<Item = &str> {
        self.patterns.matches(path).into_iter().map(|i| self.policy.patterns[i].as_str())
    }

    /// The first of its sibling patterns that matches `name`.
    pub(super) fn sibling_pattern_of(&self, name: &Path) -> Option<&str> {
        self.sibling_patterns.matches(name).first().map(|i| self.policy.sibling_patterns[*i].as_str())
    }

    /// Judges a path relative to the root by its name.
    pub(super) fn judge_name(&self, relative: &Path) -> NameVerdict {
        let Some(name) = relative.file_name() else { return NameVerdict::NotTaken };
        let Some(taken) = self.kind().takes(self, relative) else { return NameVerdict::NotTaken };
        if let Some(i) = self.always_excluded.matches(name).first() {
            return NameVerdict::Excluded(format!("{} is never touched", self.always_excluded_by[*i]));
        }
        if let Some(glob) = self.never_of(name) {
            return NameVerdict::Excluded(format!("{glob} is never touched, nor is a copy of it"));
        }
        match self.excludes.first(relative) {
            Some(i) => NameVerdict::Excluded(format!("excluded by {:?}", self.policy.excludes[i])),
            None => NameVerdict::Taken(taken),
        }
    }

    /// What must stay, of which `name` is a copy's.
    fn never_of(&self, name: &OsStr) -> Option<&'static str> {
        if !self.kind().keeps_copies() {
            return None;
        }
        let bare = bare(name.as_bytes());
        if is_logs(&bare) {
            return None;
        }
        // What cannot be asked is not known to go.
        let Some(never) = &*NEVER else { return Some("what cannot be told from a key") };
        let met = *never.matches(OsStr::from_bytes(&bare)).first()?;
        NEVER_NAMES.get(met).copied()
    }

    /// Whether anything may go from here under the policy's `mode`; if not, why. `by_itself`: no person asked for it.
    pub(super) fn judge_mode(&self, mode: CleanupMode, by_itself: bool) -> Result<(), String> {
        if self.policy.mode_under(mode) == CleanupMode::Off {
            Err(ROOT_OFF.to_owned())
        } else if by_itself && self.policy.mode == Some(CleanupMode::Plan) {
            Err(ROOT_PLANS.to_owned())
        } else {
            Ok(())
        }
    }

    /// Whether a file of user `uid` may go; if not, why.
    pub(super) fn judge_owner(&self, uid: u32) -> Result<(), String> {
        match self.policy.owner {
            Some(owner) if owner != uid => Err(format!("it is user {uid}'s, not user {owner}'s")),
            _ => Ok(()),
        }
    }

    /// Age in seconds by the latest of the times that count, or why it is too young. A time in the future is young.
    ///
    /// Of what a rotation renames, these are those of the content and of the inode's birth: logrotate renames all rotated files
    /// of a log each time (`app.log.1` to `app.log.2`), which changes their inodes, so that by that nothing that is rotated more
    /// often than `min_age` would ever be old. A copy with a forged time is as young as its inode. One that was moved here as
    /// it is stays for [`MIN_RENAMED_SECONDS`].
    pub(super) fn judge_age(&self, times: &Times, now: impl Into<Present>) -> Result<u64, String> {
        if self.kind().cuts() {
            // What is written to has no age.
            return Ok(0);
        }
        let now = now.into();
        let told = times.told_ns(self);
        let changed = times.modified_ns.max(told);
        let read = times.accessed_ns.filter(|_| self.policy.by_access).unwrap_or(i64::MIN);
        // The kernel's own times count for themselves: where the clock went back, the latest is not the last.
        let all = [changed.max(read), told, read].map(|at| (now.age_ns(at), at));
        let (age_ns, at) = all.into_iter().min().unwrap_or((now.age_ns(changed), changed));
        let was_read = at == read && at != told && at != times.modified_ns;
        let said = |why, at| match now.doubt(at) {
            Some(doubt) => format!("{why} ({doubt})"),
            None => why,
        };
        let was_made = told != times.changed_ns && at == told && at != times.modified_ns;
        let how = match (was_read, was_made) {
            (true, _) => "read",
            (_, true) => "made here, with an older time of change,",
            _ => "changed",
        };
        let age = self.judge_time(how, age_ns).map_err(|why| said(why, at))?;
        if told != times.changed_ns {
            let at = times.changed_ns;
            self.judge_renamed(now.age_ns(at)).map_err(|why| said(why, at))?;
        }
        Ok(age)
    }

    fn judge_renamed(&self, age_ns: i64) -> Result<(), String> {
        let min = self.policy.min_age_seconds.min(MIN_RENAMED_SECONDS);
        let age = age_ns.div_euclid(NS_PER_SECOND);
        if age >= i64::try_from(min).unwrap_or(i64::MAX) {
            return Ok(());
        }
        let min = super::words::seconds(min);
        Err(format!("it was renamed, linked or its mode or owner changed less than {min} ago"))
    }

    fn judge_time(&self, how: &str, age_ns: i64) -> Result<u64, String> {
        if age_ns < 0 {
            return Err(format!("it was {how} in the future of this node's clock"));
        }
        let age = u64::try_from(age_ns / NS_PER_SECOND).unwrap_or(0);
        let min = self.policy.min_age_seconds;
        if age < min {
            let how = if how == "changed" { how.to_owned() } else { format!("was {how}") };
            let (age, min) = (super::words::seconds(age), super::words::seconds(min));
            return Err(format!("it {how} {age} ago, younger than {min}"));
        }
        Ok(age)
    }

    /// The age that [`Self::judge_age`] found, in words that say by which clocks.
    pub(super) fn age_in_words(&self, age: u64, times: &Times) -> String {
        let age = super::words::seconds(age);
        match (self.policy.by_access, times.accessed_ns) {
            (false, _) => format!("unchanged for {age}"),
            (true, Some(_)) => format!("neither read nor changed for {age}"),
            (true, None) => format!("unchanged for {age} (its mount keeps no access times)"),
        }
    }
}

/// [`NEVER_NAMES`], compiled when the first name is asked: an idle node needs none of it.
static NEVER: LazyLock<Option<GlobSet>> = LazyLock::new(|| {
    let names: Vec<String> = NEVER_NAMES.iter().map(|glob| (*glob).to_owned()).collect();
    matcher(&names).ok()
});

fn matcher(globs: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()?);
    }
    set.build()
}

#[cfg(test)]
mod tests;
