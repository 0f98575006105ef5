//! What one action of the executor did, in figures: what it spent of its budgets, what came free, and what that leaves
//! unexplained. Pure.
//!
//! Invariant: the blocks of an inode count once, with the name that went last; a name whose inode stays counts as an object
//! and with no bytes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use dogwatch::record::{Action, ObjectOutcome, Refusal, Unexplained};

use crate::act::remove::{Left, Removed};
use crate::act::vet::Neighbours;
use crate::act::words;

/// Most reasons of one kind in a text.
const MAX_REASONS: usize = 3;

/// What else may be where less came free than went: nobody saw these.
const WHAT_KEEPS: &str = ", or what went is still open, mounted or kept by a snapshot";

/// A filesystem's room, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) available: u64,
    pub(super) free: u64,
}

/// What is left of an inode after we unlinked one of its names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) links: u64,
    pub(super) ctime_ns: i64,
    allocated_bytes: u64,
}

/// What was done to an object.
pub(super) enum Gone {
    Removed(Removed),
    /// Cut, and so many allocated bytes went.
    Cut(u64),
}

/// One action as it goes.
#[derive(Default)]
pub(super) struct Run {
    /// Objects of which it is known what became of them.
    pub(super) settled: u64,
    /// What it spent of its budgets: objects and bytes.
    spent: (u64, u64),
    /// The same of each root.
    by_root: HashMap<usize, (u64, u64)>,
    pub(super) freed_bytes: u64,
    withheld: Vec<String>,
    pub(super) inodes: HashMap<(u64, u64), Rest>,
    pub(super) neighbours: HashMap<(usize, PathBuf), Rc<Neighbours>>,
}

impl Run {
    /// What it spent, of all and of the root at `index`.
    pub(super) fn spent(&self, index: usize) -> ((u64, u64), (u64, u64)) {
        (self.spent, self.by_root.get(&index).copied().unwrap_or_default())
    }

    /// Counts an object of the root at `index` against the action's budgets.
    pub(super) fn spend(&mut self, index: usize, bytes: u64) {
        for spent in [&mut self.spent, self.by_root.entry(index).or_default()] {
            *spent = (spent.0 + 1, spent.1.saturating_add(bytes));
        }
    }

    /// Notes in `action` what became of the object at `at`. Its allocated bytes are then what went with it.
    pub(super) fn note(&mut self, action: &mut Action, at: usize, gone: Result<Gone, Left>) {
        self.settled += 1;
        let object = &mut action.objects[at];
        let reason = match gone {
            Ok(Gone::Cut(bytes)) => {
                object.outcome = ObjectOutcome::Cut;
                object.allocated_bytes = bytes;
                self.freed_bytes = self.freed_bytes.saturating_add(bytes);
                return;
            }
            Ok(Gone::Removed(removed)) => {
                object.outcome = ObjectOutcome::Removed;
                object.sha256 = Some(removed.sha256);
                object.digest_partial = removed.digest_partial;
                object.preserved_bytes = removed.preserved_bytes;
                object.allocated_bytes = removed.spent_bytes();
                self.freed_bytes = self.freed_bytes.saturating_add(removed.freed_bytes);
                let left = Rest {
                    links: removed.after.links,
                    ctime_ns: removed.after.ctime_ns,
                    allocated_bytes: removed.after.allocated_bytes,
                };
                self.inodes.insert((object.device, object.inode), left);
                if let Some(why) = removed.withheld {
                    self.withheld.push(format!("{} of {}: {why}", words::bytes(left.allocated_bytes), {
                        object.path.display()
                    }));
                }
                return;
            }
            Err(Left::Skipped(reason)) => {
                object.outcome = ObjectOutcome::Skipped;
                reason
            }
            Err(Left::Failed(reason)) => {
                object.outcome = ObjectOutcome::Failed;
                reason
            }
        };
        action.refused.push(Refusal { path: Some(object.path.clone()), reason });
    }

    /// Bytes that stay with links that did not go.
    fn linked_bytes(&self) -> u64 {
        self.inodes.values().filter(|l| l.links > 0).map(|l| l.allocated_bytes).sum()
    }
}

/// after − before − freed, and why. `is_late`: the filesystem frees in the background, and not everything showed by then.
pub(super) fn unexplained(before: Space, after: Space, run: &Run, is_late: bool) -> Unexplained {
    let change = |after: u64, before: u64| {
        let change = i128::from(after) - i128::from(before);
        i64::try_from(change).unwrap_or(if change < 0 { i64::MIN } else { i64::MAX })
    };
    let freed = i64::try_from(run.freed_bytes).unwrap_or(i64::MAX);
    let available = change(after.available, before.available);
    let bytes = available.saturating_sub(freed);
    let to_reserve = change(after.free, before.free).saturating_sub(available);
    let mut reasons = Vec::new();
    let mut rest = bytes;
    if bytes != 0 && to_reserve != 0 {
        rest = rest.saturating_add(to_reserve);
        let amount = words::bytes(to_reserve.unsigned_abs());
        let way = if to_reserve > 0 { "went back to" } else { "came from" };
        reasons.push(format!("{amount} {way} the blocks that are reserved for root"));
    }
    match rest {
        0 => {}
        ..0 => {
            let kept = if freed > 0 { WHAT_KEEPS } else { "" };
            let late =
                if is_late { ", or come free later: this filesystem frees in the background" } else { "" };
            let amount = words::bytes(rest.unsigned_abs());
            reasons.push(format!("{amount} were written by others meanwhile{kept}{late}"));
        }
        1.. => reasons.push(format!(
            "{} came free by others, or with what the removed files shared",
            words::bytes(rest.unsigned_abs())
        )),
    }
    let linked = run.linked_bytes();
    if linked > 0 {
        reasons.push(format!("{} stay with other hard links", words::bytes(linked)));
    }
    reasons.extend(run.withheld.iter().take(MAX_REASONS).cloned());
    if run.withheld.len() > MAX_REASONS {
        reasons.push(format!("{} more were withheld", run.withheld.len() - MAX_REASONS));
    }
    Unexplained { bytes, reason: reasons.join("; ") }
}
