//! What a survey finds, in a bounded number of bytes.
//!
//! Long names and many files must not cost the memory that the agent shares with its executor. Where the bound bites, what
//! can do nothing goes first: what may not go itself (it is young, or open) is only listed because it counts among the
//! newest of its family, so that of each family in a folder only as many of them stay as are kept, and none where nothing
//! else of the family may go. Then the smallest go, of those roots that take more than their share: whoever would hide
//! what fills the disk would have to fill it himself, and no root crowds out a more harmless one.
//!
//! Invariant: what is left out only makes more stay. Of a family without some of its newest, older ones are the newest.
//!
//! Pure.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use super::plan::Candidate;
use super::policy::RootRules;
use super::words;

/// Bytes that a survey's candidates take, by [`cost`]: some seven thousand of usual names, as many as seven cleanups take.
/// The executor has them, and the agent has them twice while it plans.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// What a candidate takes besides itself and its texts: four allocations.
const ALLOCATIONS: usize = 4 * 16;

/// What a survey has found.
pub(super) struct Finds<'r> {
    roots: &'r [RootRules],
    most: usize,
    found: Vec<Found>,
    bytes: usize,
    /// Which folder this is, counted.
    folder: u32,
    /// Of a root nothing that takes no more than this on disk is taken any more.
    floors: HashMap<usize, u64>,
    /// What might have gone, objects and bytes on disk.
    left_out: (u64, u64),
    /// What might not.
    kin_left_out: u64,
}

struct Found {
    candidate: Candidate,
    root: usize,
    folder: u32,
    /// Whether it may go, as far as is known.
    may_go: bool,
}

/// A family in a folder; one of two roots at one place has its own.
type Family<'f> = (u32, usize, &'f [u8]);

impl<'r> Finds<'r> {
    /// Beneath `roots`, within `most` bytes.
    pub(super) fn new(roots: &'r [RootRules], most: usize) -> Self {
        let (found, floors) = (Vec::new(), HashMap::new());
        Self { roots, most, found, bytes: 0, folder: 0, floors, left_out: (0, 0), kin_left_out: 0 }
    }

    /// What comes next lies in another folder.
    pub(super) fn begin_folder(&mut self) {
        self.folder = self.folder.wrapping_add(1);
    }

    /// Forgets what was found in the present folder.
    pub(super) fn forget_folder(&mut self) {
        let folder = self.folder;
        self.found.retain(|f| f.folder != folder);
        self.bytes = self.found.iter().map(|f| cost(&f.candidate)).sum();
    }

    /// Whether there is room for a file of the root at `root` that may go and has so many bytes on disk; where there is
    /// not, it is counted.
    pub(super) fn has_room_for(&mut self, root: usize, allocated_bytes: u64) -> bool {
        let has = self.floors.get(&root).is_none_or(|floor| allocated_bytes > *floor);
        if !has {
            self.leave_out(allocated_bytes);
        }
        has
    }

    /// Takes a file of the root at `root`, in the present folder.
    pub(super) fn take(&mut self, root: usize, candidate: Candidate, may_go: bool) {
        self.bytes += cost(&candidate);
        self.found.push(Found { candidate, root, folder: self.folder, may_go });
        if self.bytes > self.most {
            self.thin_out();
        }
    }

    /// What is left, why that is not all, and what is left out besides, of which nothing could go.
    pub(super) fn finish(self) -> (Vec<Candidate>, Option<String>, Option<String>) {
        let partial = (self.left_out.0 > 0).then(|| {
            format!(
                "a survey keeps {} of what may go, the largest first: {} smaller files with {} are left out",
                words::bytes(self.most as u64),
                self.left_out.0,
                words::bytes(self.left_out.1)
            )
        });
        let kin = self.kin_left_out;
        let kin = (kin > 0).then(|| format!("{kin} more stay: they are too young, or open"));
        (self.found.into_iter().map(|f| f.candidate).collect(), partial, kin)
    }

    fn leave_out(&mut self, allocated_bytes: u64) {
        self.left_out.0 += 1;
        self.left_out.1 = self.left_out.1.saturating_add(allocated_bytes);
    }

    /// Makes room for a quarter of what there is room for at least, so that this is seldom.
    fn thin_out(&mut self) {
        let half = self.most / 2;
        self.drop_kin(true);
        if self.bytes > half {
            self.drop_smallest(half);
            self.drop_kin(true);
        }
        // More of the newest are kept than there is room for.
        if self.bytes > half + half / 2 {
            self.drop_kin(false);
        }
    }

    /// Drops what may not go: all of it, or what `counts` for nothing.
    fn drop_kin(&mut self, counts: bool) {
        let mut stays = vec![true; self.found.len()];
        {
            let may_go = self.found.iter().filter(|f| f.may_go && counts);
            let alive: HashSet<Family<'_>> = may_go.map(|f| f.family(self.roots)).collect();
            let mut kin: HashMap<Family<'_>, Vec<usize>> = HashMap::new();
            for (at, f) in self.found.iter().enumerate().filter(|(_, f)| !f.may_go) {
                let of = f.family(self.roots);
                if alive.contains(&of) {
                    kin.entry(of).or_default().push(at);
                } else {
                    stays[at] = false;
                }
            }
            for (of, mut members) in kin {
                members.sort_unstable_by_key(|at| Reverse(self.found[*at].age()));
                let keep = self.roots.get(of.1).map_or(0, |r| r.policy.keep_newest);
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                members.into_iter().skip(keep).for_each(|at| stays[at] = false);
            }
        }
        self.kin_left_out += self.keep(&stays);
    }

    /// Drops the smallest of what may go until the rest takes `bytes`; a root that takes less than its share keeps all.
    fn drop_smallest(&mut self, bytes: usize) {
        let mut by_root: HashMap<usize, (usize, Vec<usize>)> = HashMap::new();
        for (at, f) in self.found.iter().enumerate().filter(|(_, f)| f.may_go) {
            let (sum, members) = by_root.entry(f.root).or_default();
            *sum += cost(&f.candidate);
            members.push(at);
        }
        let mut frugal_first: Vec<(usize, (usize, Vec<usize>))> = by_root.into_iter().collect();
        frugal_first.sort_unstable_by_key(|(root, (sum, _))| (*sum, *root));
        let (mut stays, mut left, roots) = (vec![true; self.found.len()], bytes, frugal_first.len());
        for (nth, (root, (_, mut members))) in frugal_first.into_iter().enumerate() {
            let share = left / (roots - nth);
            members.sort_by_key(|at| Reverse(self.found[*at].allocated_bytes()));
            let mut sum = 0;
            for at in members {
                let (size, cost) = (self.found[at].allocated_bytes(), cost(&self.found[at].candidate));
                if sum + cost <= share {
                    sum += cost;
                    continue;
                }
                let floor = self.floors.entry(root).or_default();
                *floor = size.max(*floor);
                stays[at] = false;
                self.leave_out(size);
            }
            left -= sum;
        }
        self.keep(&stays);
    }

    /// Keeps what `stays`, in its order; how many went.
    fn keep(&mut self, stays: &[bool]) -> u64 {
        let (before, mut stay) = (self.found.len(), stays.iter());
        self.found.retain(|_| stay.next().is_some_and(|s| *s));
        self.bytes = self.found.iter().map(|f| cost(&f.candidate)).sum();
        (before - self.found.len()) as u64
    }
}

impl Found {
    fn name(&self) -> &[u8] {
        self.candidate.object.path.file_name().unwrap_or_default().as_bytes()
    }

    fn family(&self, roots: &[RootRules]) -> Family<'_> {
        (self.folder, self.root, roots.get(self.root).map_or(&[], |r| r.kind().family(self.name())))
    }

    /// As the newest of a family are reckoned.
    fn age(&self) -> (i64, &[u8]) {
        (self.candidate.object.mtime_ns, self.name())
    }

    fn allocated_bytes(&self) -> u64 {
        self.candidate.object.allocated_bytes
    }
}

/// Bytes of memory that a candidate takes.
pub(super) fn cost(candidate: &Candidate) -> usize {
    let Candidate { object, root, .. } = candidate;
    let texts =
        [object.path.as_os_str().len(), root.as_os_str().len(), object.why_safe.len(), object.cleaner.len()];
    size_of::<Found>() + ALLOCATIONS + texts.iter().sum::<usize>()
}
