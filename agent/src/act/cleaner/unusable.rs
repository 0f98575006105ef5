//! Roots that cannot be used: a plan for their disk says so, where else nothing would tell why what lies there stays.

use std::path::{Path, PathBuf};

use dogwatch::record::Refusal;
use rustix::io::Errno;

use crate::act::beneath;
use crate::act::policy::ROOT_OFF;
use crate::sample::superblock;

/// Most that a survey tells of; the rest is counted.
const MAX_TOLD: usize = 16;

/// A root that cannot be used though it should be.
#[derive(Debug)]
pub(super) struct Unusable {
    path: PathBuf,
    why: String,
    /// The filesystem that it lies on, or would lie on if it were there; `None`: nobody can tell.
    filesystem: Option<u64>,
}

impl Unusable {
    /// The root at `path`, which is not used for this reason; `None` where it is not meant to be. Only one that was `touched` already is
    /// looked for: where a server stands behind another, the look may never come back.
    pub(super) fn of(path: &Path, why: &str, touched: bool) -> Option<Self> {
        let filesystem = if touched { filesystem(path) } else { None };
        (why != ROOT_OFF).then(|| Self { path: path.to_owned(), why: why.to_owned(), filesystem })
    }
}

/// Where something at `path` lies, or would: there, or in the first folder above that is there. Behind a link it may be
/// anywhere.
fn filesystem(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|at| match beneath::facts_of_root(at) {
        Ok(facts) => Some(Some(superblock::number(facts.device, facts.mount_id))),
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        Err(_) => Some(None),
    })?
}

/// What a survey of the filesystem `device` says of those that lie on it, or may.
pub(super) fn said(all: &[Unusable], device: u64) -> Vec<Refusal> {
    let here = || all.iter().filter(|root| root.filesystem.is_none_or(|f| f == device));
    let one = |root: &Unusable| {
        let perhaps = if root.filesystem.is_none() { ", on whichever disk it lies" } else { "" };
        format!("cleanup root {} cannot be used{perhaps}: {}", root.path.display(), root.why)
    };
    let mut reasons: Vec<String> = here().take(MAX_TOLD).map(one).collect();
    let more = here().count().saturating_sub(MAX_TOLD);
    if more > 0 {
        reasons.push(format!("{more} more cleanup roots cannot be used"));
    }
    reasons.into_iter().map(|reason| Refusal { path: None, reason }).collect()
}
