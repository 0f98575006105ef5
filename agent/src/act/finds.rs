//! What a survey finds, in a bounded number of bytes.
//!
//! Long names and many files must not cost the memory that the agent shares with its executor. Where the bound bites, what
//! can do nothing goes first: what may not go itself (it is young, open or held) is only listed because it counts among the
//! newest of its family, so that of each family in a folder only as many of them stay as are kept, and none where nothing
//! else of the family may go. Then the smallest go, of those roots that take more than their share: whoever would hide
//! what fills the disk would have to fill it himself, and no root crowds out a more harmless one. A file's bytes count once,
//! spread over its names, and those stay or go together: with some of them alone nothing would come free.
//!
//! Invariant: what is left out only makes more stay. Of a family without some of its newest, older ones are the newest.
//!
//! Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use super::beneath::Facts;
use super::hold::Hold;
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
    /// Of a root nothing of which a name takes no more than this on disk is taken any more.
    floors: HashMap<usize, u64>,
    /// Inodes with more names than there is room for.
    crowds: HashSet<u64>,
    /// What might have gone, objects and bytes on disk.
    left_out: (u64, u64),
    /// What might not, and why.
    kin_left_out: BTreeMap<Kin, u64>,
}

/// Why a file may not go, so that it only counts among the newest of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kin {
    /// It is too young, or somebody has it open.
    InUse,
    /// The hold at this place holds it.
    Held(usize),
}

struct Found {
    candidate: Candidate,
    root: usize,
    folder: u32,
    /// Why it may not go, as far as is known.
    kin: Option<Kin>,
}

/// A family in a folder; one of two roots at one place has its own.
type Family<'f> = (u32, usize, &'f [u8]);

impl<'r> Finds<'r> {
    /// Beneath `roots`, within `most` bytes.
    pub(super) fn new(roots: &'r [RootRules], most: usize) -> Self {
        Self {
            roots,
            most,
            found: Vec::new(),
            bytes: 0,
            folder: 0,
            floors: HashMap::new(),
            crowds: HashSet::new(),
            left_out: (0, 0),
            kin_left_out: BTreeMap::new(),
        }
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

    /// Whether there is room for a name, beneath the root at `root`, of a file that may go; where there is not, it is
    /// counted.
    pub(super) fn has_room_for(&mut self, root: usize, file: &Facts) -> bool {
        let bytes = a_name(file.allocated_bytes, file.links);
        let has = self.floors.get(&root).is_none_or(|floor| bytes > *floor)
            && (file.links < 2 || !self.crowds.contains(&file.inode));
        if !has {
            self.leave_out(bytes);
        }
        has
    }

    /// Takes a file of the root at `root`, in the present folder.
    pub(super) fn take(&mut self, root: usize, candidate: Candidate, kin: Option<Kin>) {
        self.bytes += cost(&candidate);
        self.found.push(Found { candidate, root, folder: self.folder, kin });
        if self.bytes > self.most {
            self.thin_out();
        }
    }

    /// What is left, why that is not all, and what is left out besides, of which nothing could go, by `holds` for one.
    pub(super) fn finish(self, holds: &[Hold]) -> (Vec<Candidate>, Option<String>, Vec<String>) {
        let partial = (self.left_out.0 > 0).then(|| {
            format!(
                "a survey keeps {} of what may go, the largest first: {} smaller files with {} are left out",
                words::bytes(self.most as u64),
                self.left_out.0,
                words::bytes(self.left_out.1)
            )
        });
        let why = |kin: Kin| match kin {
            Kin::InUse => "they are too young, or open".to_owned(),
            Kin::Held(at) => holds.get(at).map(Hold::said).unwrap_or_default(),
        };
        let kin = self.kin_left_out.iter().map(|(kin, n)| format!("{n} more stay: {}", why(*kin))).collect();
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
            let may_go = self.found.iter().filter(|f| f.kin.is_none() && counts);
            let alive: HashSet<Family<'_>> = may_go.map(|f| f.family(self.roots)).collect();
            let mut kin: HashMap<Family<'_>, Vec<usize>> = HashMap::new();
            for (at, f) in self.found.iter().enumerate().filter(|(_, f)| f.kin.is_some()) {
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
        self.keep(&stays);
    }

    /// Drops the smallest of what may go until the rest takes `bytes`; a root that takes less than its share keeps all. The
    /// names of one file stay or go together.
    fn drop_smallest(&mut self, bytes: usize) {
        let mut by_root: HashMap<usize, (usize, BTreeMap<u64, Vec<usize>>)> = HashMap::new();
        for (at, f) in self.found.iter().enumerate().filter(|(_, f)| f.kin.is_none()) {
            let (sum, inodes) = by_root.entry(f.root).or_default();
            *sum += cost(&f.candidate);
            inodes.entry(f.candidate.object.inode).or_default().push(at);
        }
        let mut frugal_first: Vec<_> = by_root.into_iter().collect();
        frugal_first.sort_unstable_by_key(|(root, (sum, _))| (*sum, *root));
        let (mut stays, mut left, roots) = (vec![true; self.found.len()], bytes, frugal_first.len());
        for (nth, (root, (_, inodes))) in frugal_first.into_iter().enumerate() {
            let share = left / (roots - nth);
            let mut inodes: Vec<(u64, Vec<usize>)> = inodes.into_iter().collect();
            inodes.sort_by_key(|(_, names)| (Reverse(self.found[names[0]].bytes_a_name()), names[0]));
            let mut sum = 0;
            for (inode, names) in inodes {
                let size = self.found[names[0]].bytes_a_name();
                let cost: usize = names.iter().map(|at| cost(&self.found[*at].candidate)).sum();
                if sum + cost <= share {
                    sum += cost;
                    continue;
                }
                // What there will never be room for keeps out nothing that is smaller.
                if cost > share && names.len() > 1 {
                    self.crowds.insert(inode);
                } else {
                    let floor = self.floors.entry(root).or_default();
                    *floor = size.max(*floor);
                }
                for at in names {
                    stays[at] = false;
                    self.leave_out(size);
                }
            }
            left -= sum;
        }
        self.keep(&stays);
    }

    /// Keeps what `stays`, in its order.
    fn keep(&mut self, stays: &[bool]) {
        let kin_left_out = &mut self.kin_left_out;
        let mut stay = stays.iter();
        self.found.retain(|found| {
            let stays = stay.next().is_some_and(|s| *s);
            if let Some(kin) = found.kin.filter(|_| !stays) {
                *kin_left_out.entry(kin).or_default() += 1;
            }
            stays
        });
        self.bytes = self.found.iter().map(|f| cost(&f.candidate)).sum();
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

    fn bytes_a_name(&self) -> u64 {
        a_name(self.candidate.object.allocated_bytes, self.candidate.object.links)
    }
}

/// What each of a file's names takes on disk.
fn a_name(allocated_bytes: u64, links: u64) -> u64 {
    allocated_bytes / links.max(1)
}

/// Bytes of memory that a candidate takes.
pub(super) fn cost(candidate: &Candidate) -> usize {
    let Candidate { object, root, .. } = candidate;
    let texts =
        [object.path.as_os_str().len(), root.as_os_str().len(), object.why_safe.len(), object.cleaner.len()];
    size_of::<Found>() + ALLOCATIONS + texts.iter().sum::<usize>()
}
