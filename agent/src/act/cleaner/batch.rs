//! Objects that are looked at one by one, recorded together, and then go one by one.
//!
//! Bounds: so many objects, bytes and so much time a batch. Objects keep lease and descriptors until they go, so none waits
//! while the content of another is kept, or while a log is cut: either may take as long as a disk does. While another is
//! digested, one that somebody opens gives way at once.

use std::time::{Duration, Instant};

use dogwatch::record::PlannedObject;

use crate::act::remove::{Prepared, Sibling};

/// Objects that are made durable together: each holds [`DESCRIPTORS`] and a lease until then.
pub(in crate::act) const MAX_BATCH: usize = 48;
/// What an object holds open: its folder and itself.
pub(in crate::act) const DESCRIPTORS: usize = 2;
/// Bytes after which what was digested is made durable, so that leases do not last long.
const MAX_BATCH_BYTES: u64 = 64 << 20;
/// How long an object may wait for others.
const MAX_BATCH_TIME: Duration = Duration::from_millis(250);

/// An object that is claimed and digested, and waits for that to be durable.
pub(super) struct Waiting {
    pub(super) at: usize,
    pub(super) index: usize,
    pub(super) expected: PlannedObject,
    pub(super) sibling: Option<Sibling>,
    pub(super) prepared: Prepared,
}

/// What became of a look at an object.
pub(super) enum Ready {
    Waits(Box<Waiting>),
    /// It was cut, and so many allocated bytes went.
    Cut(u64),
}

/// Objects that are made durable together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) waiting: Vec<Waiting>,
    pub(super) bytes: u64,
    pub(super) since: Option<Instant>,
    /// Objects that somebody opened while they waited, by their place in the action.
    pub(super) gave_way: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes = self.bytes.saturating_add(waiting.expected.size_bytes);
        self.waiting.push(waiting);
    }

    /// Whether it has to be settled before `next`, whose content `is_kept` or not, is looked at: for one inode a second
    /// claim would find the first.
    pub(super) fn is_full(&self, next: &PlannedObject, is_kept: bool) -> bool {
        let same = |w: &Waiting| (w.expected.device, w.expected.inode) == (next.device, next.inode);
        let is_long = is_kept || next.cut.is_some();
        self.waiting.len() >= MAX_BATCH
            || self.bytes >= MAX_BATCH_BYTES
            || self.since.is_some_and(|at| at.elapsed() > MAX_BATCH_TIME)
            || self.waiting.iter().any(|w| same(w) || w.prepared.preserved_bytes.is_some())
            || is_long && !self.waiting.is_empty()
    }

    /// Lets go of those that somebody wants to open.
    pub(super) fn give_way(&mut self) {
        let gave_way = &mut self.gave_way;
        self.waiting.retain(|waiting| {
            let is_wanted = waiting.prepared.is_wanted();
            if is_wanted {
                gave_way.push(waiting.at);
            }
            !is_wanted
        });
    }
}

impl Waiting {
    /// The object as it was seen just now, for the record.
    pub(super) fn seen(&self) -> PlannedObject {
        PlannedObject {
            sha256: Some(self.prepared.sha256),
            digest_partial: self.prepared.digest_partial,
            atime_ns: Some(self.prepared.facts.atime_ns),
            btime_ns: self.prepared.facts.btime_ns,
            preserved_bytes: self.prepared.preserved_bytes,
            ..self.expected.clone()
        }
    }
}
