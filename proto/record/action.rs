//! Actions: what a cleanup planned, did, refused and changed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Hash, InvalidValue};

/// What a node's cleanup may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupMode {
    /// Nothing is planned and nothing removed.
    Off,
    /// Triggers make plans; only a responder's `clean` removes.
    Plan,
    /// Triggers make plans and carry them out.
    Auto,
}

impl CleanupMode {
    /// The word in configuration and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Plan => "plan",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for CleanupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CleanupMode {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "off" => Ok(Self::Off),
            "plan" => Ok(Self::Plan),
            "auto" => Ok(Self::Auto),
            _ => Err(InvalidValue::new("cleanup mode", s, "must be off, plan or auto")),
        }
    }
}

/// Where an action is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// The plan exists; nothing was touched.
    Planned,
    /// Its record is durable and the executor has it.
    Started,
    /// The executor reported; every object has its outcome.
    Done,
    /// The executor could not carry it out or died, or the agent did; objects say what is known.
    Failed,
    /// Nothing was touched, and why.
    Refused,
}

impl ActionState {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Started => "started",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// What became of one object of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectOutcome {
    /// Not tried yet.
    Pending,
    /// Its name is gone.
    Removed,
    /// Left as it was, because a check failed; the refusal says which. Where somebody took its old name or folder meanwhile, it
    /// is whole and lies in quarantine, and the refusal says where.
    Skipped,
    /// Tried, and the system call failed; the refusal says how.
    Failed,
    /// It stays under its name; what [`PlannedObject::cut`] names of its content is gone.
    Cut,
}

/// What goes of a file that stays: a runaway log's older content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Offset of the first byte that goes.
    pub from: u64,
    /// Offset of the first byte after it that stays.
    pub to: u64,
    /// The newest lines after `to` when it was planned, secrets masked.
    pub tail: Vec<u8>,
}

/// One object that a cleanup would touch, as the survey saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedObject {
    /// Absolute path; not necessarily UTF-8.
    pub path: PathBuf,
    /// `st_dev` of its filesystem.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_size`.
    pub size_bytes: u64,
    /// `st_blocks` × 512: what unlinking is expected to give back; for a cut, its share of that.
    pub allocated_bytes: u64,
    /// Modification time, wall ns.
    pub mtime_ns: i64,
    /// Change time, wall ns.
    pub ctime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `st_mode`.
    pub mode: u32,
    /// `st_nlink`.
    pub links: u64,
    /// The cleaner that named it, e.g. `rotated-logs`.
    pub cleaner: String,
    /// 1 is the most harmless.
    pub tier: u32,
    /// Why it may go.
    pub why_safe: String,
    /// What became of it.
    pub outcome: ObjectOutcome,
    /// SHA-256 of what was removed; of head and tail where `digest_partial`.
    pub sha256: Option<Hash>,
    /// Whether the digest covers the first and last MiB only.
    pub digest_partial: bool,
    /// The container image that it is, if it is one; then inode, owner, mode, links and digest say nothing, the size is
    /// the runtime's, and the times are since when it was seen unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Box<PlannedImage>>,
    /// Where the object stays and only loses content; `sha256` is then of that content, taken when it was planned.
    pub cut: Option<Cut>,
    /// Access time, wall ns; `None` where the filesystem does not say. Looking at it here does not change it.
    pub atime_ns: Option<i64>,
    /// Time of birth, wall ns; `None` where the filesystem does not say.
    pub btime_ns: Option<i64>,
    /// How many bytes of its content, which is all of it, are kept in records of kind `file`; `None`: not kept.
    pub preserved_bytes: Option<u64>,
}

/// A container image as an object of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedImage {
    /// The runtime's id, by which alone it is removed.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// About so many inodes: those of the runtime's store, shared out by size.
    pub inodes: u64,
}

/// What the container runtime said of its store, around an action that removed images (CRI v1, `ImageFsInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStore {
    /// The folder on the host whose filesystem it is.
    pub mount_point: String,
    /// Sizes of the images that went, as the runtime lists them; what images share counts in each.
    pub listed_bytes: u64,
    /// What it said that its store takes, before.
    pub used_before_bytes: u64,
    /// And afterwards; `None`: it did not say.
    pub used_after_bytes: Option<u64>,
    /// Inodes, before.
    pub inodes_before: u64,
    /// And afterwards; `None`: it did not say.
    pub inodes_after: Option<u64>,
}

/// Something that was not done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The object; `None` when the whole action was refused.
    pub path: Option<PathBuf>,
    /// Why, in words.
    pub reason: String,
}

/// The part of a mount's change that the action's own removals do not explain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unexplained {
    /// after − before − freed; negative when others wrote meanwhile.
    pub bytes: i64,
    /// Why, where known.
    pub reason: String,
}

/// How the detail of an action begins that its agent could not end, because it ended itself: killed, or with its node. The
/// next run says so, with what became of each object as far as can be known; the action is then [`ActionState::Failed`].
const INTERRUPTED: &str = "the agent ended in the midst of this cleanup";

/// A cleanup, from plan to outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// `a-` and 16 hex digits.
    pub id: String,
    /// The mount that it is to relieve.
    pub mount: String,
    /// The node's mode when it was made.
    pub mode: CleanupMode,
    /// Where in its life.
    pub state: ActionState,
    /// Why it was made, in words.
    pub reason: String,
    /// The finding that triggered it, if one did.
    pub finding_id: Option<String>,
    /// `node`, or the name in a person's certificate.
    pub actor: String,
    /// What the plan expects to free.
    pub planned_bytes: u64,
    /// What the objects held whose last link and descriptor went.
    pub freed_bytes: Option<u64>,
    /// `f_bavail` just before.
    pub available_before_bytes: Option<u64>,
    /// `f_bavail` just after.
    pub available_after_bytes: Option<u64>,
    /// The rest, if before and after are known.
    pub unexplained: Option<Unexplained>,
    /// The low-water mark as available bytes: what the plan aims for.
    pub target_available_bytes: u64,
    /// Exactly what it would touch or touched.
    pub objects: Vec<PlannedObject>,
    /// What it would not or did not.
    pub refused: Vec<Refusal>,
    /// Wall ns after which the plan may not be applied.
    pub expires_wall_ns: i64,
    /// Anything more, in words.
    pub detail: String,
    /// What the container runtime said, where images were among the objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_store: Option<Box<ImageStore>>,
}

/// Shortest lease of a permit that a collector may be set to give.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(15);
/// For so long after the end of a lease the collector waits for how its cleanup ended, and then stops all cleanups. A node ends by
/// itself when its lease does, after the object that it is just at. The longest is an image, of which the runtime is waited for
/// 90 s and its room for 15 more; what remains is its record's way to the collector. An agent that was ended in the midst of a
/// cleanup has lease and grace to come back and to say so.
pub const LEASE_GRACE: Duration = Duration::from_secs(120);

impl Action {
    /// Makes it one that its agent could not end; `found` says what is known of it by now.
    pub fn interrupt(&mut self, found: &str) {
        self.state = ActionState::Failed;
        self.detail = format!("{INTERRUPTED}: {found}");
    }

    /// Whether it failed for no other reason than that its agent ended in its midst.
    pub fn is_interrupted(&self) -> bool {
        self.state == ActionState::Failed && self.detail.starts_with(INTERRUPTED)
    }
}
