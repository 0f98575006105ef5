//! What folders grew by between walks of their mount, and since when.
//!
//! Pure. Kept are the folders that the newest walk told by themselves, at most [`MAX_FOLDERS`], each with what it held when it
//! began to grow. A folder that the walk before did not tell held less than what was told then: it is said to have grown by
//! what it is above that, *at least*. So nothing is ever said to have grown by more than it did.
//!
//! A rise is over when two walks in a row saw no growth, or when a quarter of it went again.
//!
//! Limits: growth that came and went between two walks is not seen; a folder that grows only through ever new folders that
//! are each too small to be told is told as the first folder above them that is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::tally::Folder;

/// Folders of one mount that are remembered, some 200 bytes each: a share of a five-hundredth of the mount makes fewer.
pub const MAX_FOLDERS: usize = 1_000;
/// Growth that is worth a word.
pub const MIN_GROWN_BYTES: u64 = 1 << 20;
/// Folders that are told.
pub const MAX_TOLD: usize = 10;
/// A folder of whose growth so much lies in one folder in it is not told beside that.
const SAME_AS_ITS_CHILD: f64 = 0.8;
/// Walks without growth after which a rise is over.
const CALM_WALKS: u8 = 2;
/// Deepest folder that is remembered: a path of more parts tells a reader nothing.
const MAX_DEPTH: usize = 64;

/// When a walk was: folders are met between its beginning and its end, each at the same part of the way every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its beginning, the node's clock, ns since the epoch.
    pub began_wall_ns: i64,
    /// Its middle, CLOCK_BOOTTIME.
    pub middle_boot_ns: u64,
}

/// A folder that grows.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// Beneath the mount; empty: the mount's own folder.
    pub path: PathBuf,
    /// By so much.
    pub grown_bytes: u64,
    /// Whether it may be more: it was too small to be remembered when it began.
    pub at_least: bool,
    /// Since this walk began, ns since the epoch.
    pub since_wall_ns: i64,
    /// Over the newest interval between two walks.
    pub bytes_per_second: f64,
    /// What it holds now.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    base_bytes: u64,
    base_wall_ns: i64,
    at_least: bool,
    bytes_per_second: f64,
    /// Walks in a row that saw no growth.
    calm: u8,
}

/// The folders of one mount.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    last: Option<At>,
    folders: HashMap<PathBuf, Kept>,
    /// A folder that is not among them held less at the newest walk.
    floor_bytes: u64,
}

impl Ledger {
    /// When the newest walk was that is in it.
    pub fn last(&self) -> Option<At> {
        self.last
    }

    /// Takes the walk that found `root`, of which every folder with `told_bytes` is told by itself.
    pub fn take(&mut self, at: At, root: &Folder, told_bytes: u64) {
        let mut seen = Vec::new();
        flatten(root, &PathBuf::new(), 0, &mut seen);
        seen.sort_by(|a: &(PathBuf, u64), b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let beyond = seen.get(MAX_FOLDERS).map_or(0, |(_, bytes)| bytes.saturating_add(1));
        seen.truncate(MAX_FOLDERS);
        let before = std::mem::take(&mut self.folders);
        let seconds =
            self.last.map(|last| at.middle_boot_ns.saturating_sub(last.middle_boot_ns) as f64 / 1e9);
        for (path, bytes) in seen {
            let kept = match (self.last.zip(seconds), before.get(&path)) {
                (None, _) => Kept::fresh(at, bytes),
                (Some((_, seconds)), Some(kept)) => kept.then(at, bytes, seconds),
                (Some((last, seconds)), None) => {
                    let was = self.floor_bytes.min(bytes);
                    let unknown = Kept { at_least: true, ..Kept::fresh(last, was) };
                    unknown.then(at, bytes, seconds)
                }
            };
            self.folders.insert(path, kept);
        }
        self.floor_bytes = told_bytes.max(beyond);
        self.last = Some(at);
    }

    /// What the mount as a whole grew by; `None`: by nothing that is worth a word.
    pub fn whole(&self) -> Option<Growth> {
        let root = Path::new("");
        self.folders.get(root).filter(|k| k.grown() >= MIN_GROWN_BYTES).map(|k| k.told(root))
    }

    /// What grows, most first: of folders within one another the deepest that holds most of the growth.
    pub fn growth(&self) -> Vec<Growth> {
        let mut found: Vec<Growth> = self
            .folders
            .iter()
            .filter(|(_, kept)| kept.grown() >= MIN_GROWN_BYTES)
            .map(|(path, kept)| kept.told(path))
            .collect();
        // The deepest first, so that a folder is told or passed over before those above it.
        found.sort_by_key(|g| std::cmp::Reverse(g.path.components().count()));
        let mut told: Vec<Growth> = Vec::new();
        for folder in found {
            let within = |g: &&Growth| g.path != folder.path && g.path.starts_with(&folder.path);
            let largest = told.iter().filter(within).map(|g| g.grown_bytes).max().unwrap_or(0);
            if (largest as f64) < SAME_AS_ITS_CHILD * folder.grown_bytes as f64 {
                told.push(folder);
            }
        }
        told.sort_by(|a, b| b.grown_bytes.cmp(&a.grown_bytes).then_with(|| a.path.cmp(&b.path)));
        told.truncate(MAX_TOLD);
        told
    }
}

impl Kept {
    fn fresh(at: At, bytes: u64) -> Self {
        Self {
            bytes,
            base_bytes: bytes,
            base_wall_ns: at.began_wall_ns,
            at_least: false,
            bytes_per_second: 0.0,
            calm: 0,
        }
    }

    fn grown(&self) -> u64 {
        self.bytes.saturating_sub(self.base_bytes)
    }

    fn told(&self, path: &Path) -> Growth {
        Growth {
            path: path.to_owned(),
            grown_bytes: self.grown(),
            at_least: self.at_least,
            since_wall_ns: self.base_wall_ns,
            bytes_per_second: self.bytes_per_second,
            bytes: self.bytes,
        }
    }

    fn then(self, at: At, bytes: u64, seconds: f64) -> Self {
        let rose = bytes.saturating_sub(self.bytes);
        let calm = if rose > 0 { 0 } else { self.calm + 1 };
        let lost = self.bytes.saturating_sub(bytes);
        if calm >= CALM_WALKS || (lost > 0 && lost >= self.grown() / 4) {
            return Self::fresh(at, bytes);
        }
        // Without growth so far there is no reason to keep an old beginning.
        if self.grown() == 0 && rose == 0 {
            return Self { calm, ..Self::fresh(at, bytes) };
        }
        let bytes_per_second = if seconds > 0.0 { rose as f64 / seconds } else { 0.0 };
        Self { bytes, calm, bytes_per_second, ..self }
    }
}

fn flatten(folder: &Folder, path: &Path, depth: usize, seen: &mut Vec<(PathBuf, u64)>) {
    seen.push((path.to_owned(), folder.bytes));
    if depth < MAX_DEPTH {
        for child in &folder.folders {
            flatten(child, &path.join(&child.name), depth + 1, seen);
        }
    }
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
