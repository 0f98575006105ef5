//! Who fills a filesystem now: from two looks at the files that are open, what grows, by whom, and how sure that is.
//!
//! Pure. A file's growth is what was allocated for it between two looks. A file's pod is the one that all its writers belong
//! to. Only where none of them is any pod's, as the runtime that writes containers' logs is not, and all see the node's own
//! mounts, does the folder that it lies in tell: what a pod calls a folder of its own accuses nobody. Nothing is guessed: what
//! cannot be told stays untold, and the part of the filesystem's growth that no open file explains is said to be unknown.
//!
//! A process is named as a file's writer only where it was caught at it ([`super::writers`]): to have a file open is not enough.
//! Where several may be the one, none is named; their pod is, if it is one.
//!
//! Limits: a writer that opens, appends and closes between two looks is not seen; what it writes is part of the unknown,
//! unless a [`super::census`] tells which file or folder it is in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use dogwatch::record::Pod;

use super::census::Grown;
use super::open_files::{Holder, OpenFile};
use super::writers::Writers;
use crate::pod;

/// Where the kubelet keeps pods' logs.
const LOG_FOLDER: &str = "/var/log/pods/";
/// Where, within a pod's folder, its volumes of that kind are.
const EMPTY_DIRS: &str = "volumes/kubernetes.io~empty-dir/";
/// Growth that is worth a question: less is what any node does.
const MIN_BYTES_PER_SECOND: f64 = 16.0 * 1024.0;
/// A file that grew by this share of what the filesystem did is the cause.
const MOST: f64 = 0.8;
/// With less than this explained, the cause is unknown.
const PART: f64 = 0.5;
/// Where extents may be shared, files that grow by more than this multiple of what the filesystem did are copies of what is
/// there already.
const TOO_MUCH: f64 = 1.5;
/// Fewer new inodes a second are what any node makes.
const MIN_INODES_PER_SECOND: f64 = 10.0;
/// Files that are told, of those that grow and of those that are deleted.
const MAX_TOLD: usize = 20;
/// Processes that are named with a file.
const MAX_HOLDERS: usize = 5;

/// A moment's files and figures.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// The node's clock, ns since the epoch.
    pub wall_ns: i64,
    /// In use on the filesystem.
    pub used_bytes: u64,
    /// Inodes in use; 0 where they are not counted.
    pub used_inodes: u64,
    /// Whether files may share what is allocated for them.
    pub shares_extents: bool,
    /// Whether it is in memory, so that no page of it counts as made dirty.
    pub in_memory: bool,
    /// Open for writing, or deleted and open.
    pub files: Vec<OpenFile>,
}

/// A process that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its id.
    pub pid: u32,
    /// Its name, as it chose; empty where it could not be asked any more.
    pub name: String,
    /// What it runs, where its name does not say so.
    pub program: Option<String>,
}

/// A file that grows, or that is deleted and still takes room.
#[derive(Debug, Clone, PartialEq)]
pub struct Culprit {
    /// Its path on the node, or what its process calls it.
    pub path: PathBuf,
    /// Whether that is its path on the node.
    pub is_node_path: bool,
    /// Whose it is; `None`: nobody's or unknown.
    pub pod: Option<Pod>,
    /// Who writes it, or, where it does not grow, has it open; some of them. Empty: unknown, or one of several.
    pub openers: Vec<Opener>,
    /// Whether no name leads to it any more: it takes room until it is closed.
    pub is_deleted: bool,
    /// Allocated for it now.
    pub bytes: u64,
    /// At which it grows.
    pub bytes_per_second: f64,
}

/// How sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// One file is most of it.
    Certain,
    /// Several files together are most of it, or one is more than half; or no process was caught, but a file or folder was.
    Likely,
    /// Open files do not explain it.
    Unknown,
    /// It does not grow.
    Still,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Blame {
    /// At which the filesystem grows; negative: it shrinks.
    pub bytes_per_second: f64,
    /// What grows, fastest first.
    pub growing: Vec<Culprit>,
    /// Share of the filesystem's growth that they explain, 0 to 1.
    pub explained: f64,
    /// How sure the first of them is the cause.
    pub confidence: Confidence,
    /// The file or folder that most of it is in, where open files do not explain it.
    pub grown: Option<Grown>,
    /// New inodes a second; negative: they become fewer.
    pub inodes_per_second: f64,
    /// The folder that most of them are in.
    pub multiplied: Option<Grown>,
    /// What is deleted and still open, largest first.
    pub deleted: Vec<Culprit>,
    /// All of that.
    pub deleted_bytes: u64,
}

impl Blame {
    /// Whether a census could tell more.
    pub fn leaves_open(&self) -> bool {
        matches!(self.confidence, Confidence::Unknown | Confidence::Still) || self.inodes_grow()
    }

    /// Whether inodes become more at a pace that is worth a question.
    pub fn inodes_grow(&self) -> bool {
        self.inodes_per_second >= MIN_INODES_PER_SECOND
    }

    /// Whether so much is growth that is worth a question.
    pub fn is_growth(bytes_per_second: f64) -> bool {
        bytes_per_second >= MIN_BYTES_PER_SECOND
    }

    /// What a census found, where open files do not explain it.
    pub fn with_census(&mut self, bytes_per_second: f64, grown: Option<Grown>, multiplied: Option<Grown>) {
        self.multiplied = multiplied;
        let is_open = matches!(self.confidence, Confidence::Unknown | Confidence::Still);
        if is_open && grown.is_some() {
            self.growing.clear();
            self.bytes_per_second = bytes_per_second;
            self.confidence = Confidence::Likely;
            self.grown = grown;
        }
    }
}

/// What names what was seen.
pub struct Names<'n> {
    /// The processes of the second look.
    pub holders: &'n HashMap<u32, Holder>,
    /// A pod by its control group's path.
    pub pods: &'n dyn Fn(&str) -> Option<Pod>,
    /// What the node calls a file; `None`: unknown.
    pub paths: &'n dyn Fn(&OpenFile) -> Option<PathBuf>,
}

/// Compares two looks.
pub fn blame(before: &Look, after: &Look, names: &Names<'_>) -> Blame {
    let seconds = after.boot_ns.saturating_sub(before.boot_ns) as f64 / 1e9;
    let rate = |bytes: f64| if seconds > 0.0 { bytes / seconds } else { 0.0 };
    let old: HashMap<(u64, u64), u64> = before.files.iter().map(|f| (id(f), f.bytes)).collect();
    let mut inodes: BTreeMap<(u64, u64), Vec<&OpenFile>> = BTreeMap::new();
    for file in &after.files {
        inodes.entry(id(file)).or_default().push(file);
    }
    let (mut growing, mut deleted) = (Vec::new(), Vec::new());
    let (mut deleted_bytes, mut by_files) = (0u64, 0u64);
    for files in inodes.values() {
        let Some(file) = files.iter().max_by_key(|f| f.bytes) else { continue };
        let was = match old.get(&id(file)) {
            Some(bytes) => *bytes,
            // Made meanwhile: all of it is growth. An old file that was only opened meanwhile may not have grown at all.
            // What a clock that was ahead gave its time to was not.
            None if file.born_ns.is_some_and(|born| (before.wall_ns..=after.wall_ns).contains(&born)) => 0,
            None => file.bytes,
        };
        let grew = file.bytes.saturating_sub(was);
        if file.is_deleted {
            deleted_bytes = deleted_bytes.saturating_add(file.bytes);
            deleted.push((file.bytes, grew, files, *file));
        }
        if grew > 0 && seconds > 0.0 && files.iter().any(|f| f.is_written) {
            by_files = by_files.saturating_add(grew);
            growing.push((grew, grew, files, *file));
        }
    }
    let grown = growing.iter().map(|(grew, _, _, file): &Found<'_>| (id(file), *grew)).collect();
    let writers = Writers::of(&before.files, &after.files, &grown, after.in_memory);
    type Found<'f> = (u64, u64, &'f Vec<&'f OpenFile>, &'f OpenFile);
    let told = |mut of: Vec<Found<'_>>| {
        of.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.3.path.cmp(&b.3.path)));
        of.truncate(MAX_TOLD);
        let told =
            of.into_iter().map(|(_, grew, files, file)| culprit(files, file, grew, seconds, &writers, names));
        told.collect::<Vec<Culprit>>()
    };
    let (growing, deleted) = (told(growing), told(deleted));
    let grew = rate(after.used_bytes as f64 - before.used_bytes as f64);
    let by_files = rate(by_files as f64);
    let share = |bytes: f64, of: f64| if of > 0.0 { (bytes / of).clamp(0.0, 1.0) } else { 0.0 };
    // While others shrink, files may grow by more than the filesystem does.
    let first = growing.first().map_or(0.0, |c| share(c.bytes_per_second, grew.max(by_files)));
    let explained = share(by_files, grew);
    let confidence = if grew < MIN_BYTES_PER_SECOND {
        Confidence::Still
    } else if after.shares_extents && by_files > TOO_MUCH * grew {
        Confidence::Unknown
    } else if first >= MOST {
        Confidence::Certain
    } else if first >= PART || explained >= MOST {
        Confidence::Likely
    } else {
        Confidence::Unknown
    };
    Blame {
        bytes_per_second: grew,
        growing,
        explained,
        confidence,
        grown: None,
        inodes_per_second: rate(after.used_inodes as f64 - before.used_inodes as f64),
        multiplied: None,
        deleted,
        deleted_bytes,
    }
}

fn id(file: &OpenFile) -> (u64, u64) {
    (file.device, file.inode)
}

fn culprit(
    files: &[&OpenFile],
    file: &OpenFile,
    grew: u64,
    seconds: f64,
    writers: &Writers,
    names: &Names<'_>,
) -> Culprit {
    let holders = names.holders;
    // One name for a file that several call by names of their own: the first that the node knows.
    let (path, is_node_path) = match files.iter().find_map(|f| (names.paths)(f)) {
        Some(path) => (path, true),
        None => (file.path.clone(), false),
    };
    let pods = |pids: &BTreeSet<u32>| -> Vec<Option<Pod>> {
        pids.iter().map(|pid| holders.get(pid).and_then(|h| (names.pods)(&h.cgroup))).collect()
    };
    // Whoever merely inherited or reads a file does not fill it, unless nobody writes it.
    let written = files.iter().any(|f| f.is_written);
    let having: BTreeSet<u32> = files.iter().filter(|f| f.is_written || !written).map(|f| f.pid).collect();
    let named = if grew > 0 { writers.among(id(file), &having) } else { having.clone() };
    let theirs = pods(&named);
    let of_the_node = is_node_path
        && file.upper.is_none()
        && !file.is_deleted
        && having.iter().all(|pid| holders.get(pid).is_some_and(|h| h.sees_the_host))
        && pods(&having).iter().all(Option::is_none);
    let is_one = match theirs.first() {
        Some(Some(first)) => theirs.iter().flatten().filter(|p| p.uid == first.uid).count() == theirs.len(),
        _ => false,
    };
    let pod = if is_one {
        theirs.into_iter().next().flatten()
    } else if of_the_node {
        of_folder(&path)
    } else {
        None
    };
    // Which of several it was, is not known; that all who hold what is deleted keep it, is.
    let is_known = grew == 0 || named.len() == 1;
    let openers = named
        .into_iter()
        .filter(|_| is_known)
        .take(MAX_HOLDERS)
        .map(|pid| opener(pid, holders.get(&pid)))
        .collect();
    let bytes_per_second = if seconds > 0.0 { grew as f64 / seconds } else { 0.0 };
    Culprit {
        path,
        is_node_path,
        pod,
        openers,
        is_deleted: file.is_deleted,
        bytes: file.bytes,
        bytes_per_second,
    }
}

fn opener(pid: u32, holder: Option<&Holder>) -> Opener {
    let Some(holder) = holder else { return Opener { pid, name: String::new(), program: None } };
    // The kernel cuts names at 15 bytes, and an interpreter's has its version at the end.
    let says_so = |program: &String| holder.name.len() >= 3 && program.starts_with(holder.name.as_str());
    let program = holder.program.clone().filter(|p| !says_so(p));
    Opener { pid, name: holder.name.clone(), program }
}

/// The pod whose folder of logs or volumes a path of the node's lies in (the kubelet's layout).
fn of_folder(path: &Path) -> Option<Pod> {
    let text = path.to_str()?;
    if text.starts_with(LOG_FOLDER) {
        return pod::from_log_path(text);
    }
    // Of its volumes an emptyDir is its alone; others may be mounted by several pods, or be anybody's folder.
    let (uid, within) = text.strip_prefix("/var/lib/kubelet/pods/")?.split_once('/')?;
    if within.starts_with("volume") && !within.starts_with(EMPTY_DIRS) {
        return None;
    }
    // As a group of that uid would be called, so that one place knows what a uid is.
    pod::from_cgroup_path(&format!("/kubepods/pod{uid}"))
}

#[cfg(test)]
#[path = "blame_tests.rs"]
mod tests;
