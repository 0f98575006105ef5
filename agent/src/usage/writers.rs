//! Who wrote a file that grew, of those that have it open for writing.
//!
//! Pure. What a process wrote is known of all its files together, and where each of its descriptors stands. So somebody is
//! said to have written a file only if all of this holds between two looks:
//!
//! - A descriptor of the file moved by about as much as it grew, and where each write goes to the end, stood near the end both
//!   times: one who adds a line now and then to what another fills is carried along, and lags. Or it stands still, as with
//!   pwrite(2) and mappings, and then the process wrote as much as its files grew, nothing else, and knows no other place.
//! - Its process made that much of the disk dirty, after what its other files took, and not much more than all of them took.
//!   What was written through calls (to sockets and pipes, too) says nothing of a disk. A filesystem in memory counts
//!   nothing as dirty: there all that the process wrote through calls must be what its descriptors moved by.
//! - Through a descriptor that may be read, its process read little: one that follows a file and writes what it read to
//!   elsewhere moves as a writer does, and writes as much.
//! - Nobody else who has the file open could have written a part of weight: processes share descriptors (a shell's
//!   redirection, a service manager's), and with them the position. Several are judged as one; they are told of together,
//!   never one of them by name.
//!
//! Limits: what this leaves out stays unknown: `fallocate` and reflinks, which dirty nothing; a process that fills files of
//! several disks, or opens and closes files by the dozen; one that reads as it writes, through a descriptor for both; one that
//! had no file open here at the first look. Who writes in turn with another, at once after it, and as much to elsewhere through
//! files that it closes again, would pass for it.

use std::collections::{BTreeSet, HashMap};

use super::open_files::OpenFile;
use super::traces::{Trace, Written};

/// Less than this share of a file's growth written is no part in it.
const SHARE: f64 = 0.1;
/// A writer wrote at least this share of the growth, and its descriptor moved by that.
const MOST: f64 = 0.5;
/// A writer made no more dirty than this multiple of what its files grew by: pages are dirtied again once they were written
/// back.
const ALIKE: f64 = 2.0;
/// What must be the same differs by no more than this share: looks are not taken in an instant.
const EXACT: f64 = 0.1;
/// One whose descriptor stands still is believed where what it wrote differs by no more than this share from the growth.
const CLOSE: f64 = 0.25;
/// Who reads more than this share of the growth may be one that copies.
const READS: f64 = 0.25;

/// Who appends stands no further behind the end than this share of what it moved by, and than [`MAX_LAG`].
const LAG: f64 = 0.05;
/// As long as one write is, of those that write much, in bytes.
const MAX_LAG: u64 = 1 << 20;

/// A file by its device and inode.
pub(super) type Id = (u64, u64);

/// What a process did to one file, as far as its descriptors show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hand {
    /// By how many bytes a descriptor moved that moves by writing.
    moved: u64,
    /// Whether any moved, whyever.
    has_moved: bool,
    /// Whether one may be written at any place.
    places: bool,
    /// Whether one may be read.
    reads: bool,
    is_told: bool,
}

impl Hand {
    /// `None`: it did nothing. `before`: the same descriptor on the same file at the first look.
    fn of(before: Option<&Trace>, after: &Trace, grew: u64) -> Option<Self> {
        let was = before.and_then(|b| b.position).unwrap_or(0);
        let position = after.position.unwrap_or(0);
        let is_told = after.position.is_some() && before.is_none_or(|b| b.position.is_some());
        let has_moved = position != was || !is_told;
        if after.appends && !has_moved {
            return None;
        }
        let moved = position.saturating_sub(was);
        // Where it was opened meanwhile, how far it moved is not known.
        let moved = if before.is_none() { moved.min(grew) } else { moved };
        // While a write goes on, the file is longer already, and the position is still where it began.
        let most_behind = (LAG * moved as f64).min(MAX_LAG as f64);
        let is_behind = |t: &Trace| t.size.saturating_sub(t.position.unwrap_or(0)) as f64 > most_behind;
        let lags = after.appends && (is_behind(after) || before.is_some_and(is_behind));
        let moved = if lags { 0 } else { moved };
        Some(Self { moved, has_moved, places: !after.appends, reads: after.reads, is_told })
    }

    fn and(self, other: Self) -> Self {
        Self {
            moved: self.moved.max(other.moved),
            has_moved: self.has_moved || other.has_moved,
            places: self.places || other.places,
            reads: self.reads || other.reads,
            is_told: self.is_told && other.is_told,
        }
    }
}

/// What a process did altogether between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Deeds {
    called: u64,
    dirtied: u64,
    read: u64,
    /// What its files of other filesystems grew by.
    elsewhere: u64,
    /// What those of its files here grew by that it may have written, and by how much their descriptors moved.
    grew: u64,
    moved: u64,
    /// Whether it was seen both times: else the figures are those of its life.
    is_told: bool,
}

impl Deeds {
    fn between(before: Option<Written>, after: Option<Written>) -> Self {
        let is_told = before.is_some() && after.is_some();
        let was = before.unwrap_or_default();
        // Of what is not known, anything may be true.
        let all = Written { called: u64::MAX, dirtied: u64::MAX, ..Written::default() };
        let is = after.unwrap_or(all);
        Self {
            called: is.called.saturating_sub(was.called),
            dirtied: is.dirtied.saturating_sub(was.dirtied),
            read: is.read.saturating_sub(was.read),
            elsewhere: is.elsewhere.saturating_sub(was.elsewhere),
            grew: 0,
            moved: 0,
            is_told,
        }
    }

    /// Both as one, of a file of which each has a hand in the same `grew` and `moved`.
    fn and(self, other: Self) -> Self {
        Self {
            called: self.called.saturating_add(other.called),
            dirtied: self.dirtied.saturating_add(other.dirtied),
            read: self.read.saturating_add(other.read),
            elsewhere: self.elsewhere.saturating_add(other.elsewhere),
            grew: self.grew.saturating_add(other.grew),
            moved: self.moved.saturating_add(other.moved),
            is_told: self.is_told && other.is_told,
        }
    }

    /// Without the file that `hand` is about, which grew by so much.
    fn beside(self, hand: &Hand, grew: u64) -> Self {
        Self { grew: self.grew.saturating_sub(grew), moved: self.moved.saturating_sub(hand.moved), ..self }
    }
}

/// Who did what between two looks at a filesystem.
#[derive(Debug)]
pub(super) struct Writers {
    hands: HashMap<(Id, u32), Hand>,
    deeds: HashMap<u32, Deeds>,
    /// What was written to each file that grew, in bytes.
    grown: HashMap<Id, u64>,
    in_memory: bool,
}

impl Writers {
    /// From what was open at both looks, and by how much each file grew on disk.
    pub(super) fn of(
        before: &[OpenFile],
        after: &[OpenFile],
        grown: &HashMap<Id, u64>,
        in_memory: bool,
    ) -> Self {
        let traces: HashMap<(u32, u32, Id), &Trace> =
            before.iter().map(|f| ((f.pid, f.trace.descriptor, id(f)), &f.trace)).collect();
        let written: HashMap<u32, Written> =
            before.iter().filter_map(|f| Some((f.pid, f.trace.written?))).collect();
        let grown = written_of(before, after, grown);
        let (hands, deeds) = (HashMap::new(), HashMap::new());
        let mut all = Self { hands, deeds, grown, in_memory };
        for file in after.iter().filter(|f| f.is_written) {
            let Some(grew) = all.grown.get(&id(file)) else { continue };
            let before = traces.get(&(file.pid, file.trace.descriptor, id(file))).copied();
            if let Some(hand) = Hand::of(before, &file.trace, *grew) {
                let kept = all.hands.entry((id(file), file.pid)).or_insert(hand);
                *kept = kept.and(hand);
                let was = written.get(&file.pid).copied();
                all.deeds.entry(file.pid).or_insert_with(|| Deeds::between(was, file.trace.written));
            }
        }
        for ((file, pid), hand) in &all.hands {
            if let Some(deeds) = all.deeds.get_mut(pid) {
                deeds.grew = deeds.grew.saturating_add(all.grown.get(file).copied().unwrap_or(0));
                deeds.moved = deeds.moved.saturating_add(hand.moved);
            }
        }
        all
    }

    /// Those, of `pids`, of whom one or several wrote the file that grew; empty: that is not known of any.
    pub(super) fn among(&self, file: Id, pids: &BTreeSet<u32>) -> BTreeSet<u32> {
        let grew = self.grown.get(&file).copied().unwrap_or(0);
        let of_weight: Vec<(u32, Hand, Deeds)> = pids
            .iter()
            .filter_map(|pid| Some((*pid, *self.hands.get(&(file, *pid))?, *self.deeds.get(pid)?)))
            .map(|(pid, hand, deeds)| (pid, hand, deeds.beside(&hand, grew)))
            .filter(|(_, hand, beside)| self.weight(hand, beside) as f64 >= SHARE * grew as f64)
            .collect();
        let as_one = of_weight.iter().map(|(_, hand, deeds)| (*hand, *deeds));
        let as_one = as_one.reduce(|(hand, deeds), (other, its)| (hand.and(other), deeds.and(its)));
        if as_one.is_some_and(|(hand, beside)| self.is_proven(&hand, &beside, grew)) {
            of_weight.into_iter().map(|(pid, ..)| pid).collect()
        } else {
            BTreeSet::new()
        }
    }

    /// How much of a file it may have written at most. One that moves may have written it though others grew.
    fn weight(&self, hand: &Hand, beside: &Deeds) -> u64 {
        match (self.in_memory, hand.has_moved) {
            (true, _) => beside.called,
            (false, true) => beside.dirtied,
            (false, false) => beside.dirtied.saturating_sub(beside.grew).saturating_sub(beside.elsewhere),
        }
    }

    /// `beside`: what is known of it but for this file.
    fn is_proven(&self, hand: &Hand, beside: &Deeds, grew: u64) -> bool {
        let least = |part: f64, of: u64, bytes: u64| bytes as f64 >= part * of as f64;
        let most = |multiple: f64, of: u64, bytes: u64| bytes as f64 <= multiple * of as f64;
        let may_copy = hand.reads && !most(READS, grew, beside.read);
        if grew == 0 || !hand.is_told || !beside.is_told || may_copy {
            return false;
        }
        let moves = least(MOST, grew, hand.moved);
        let moved = beside.moved.saturating_add(hand.moved);
        let only_here = least(1.0 - EXACT, moved, beside.called) && most(1.0 + EXACT, moved, beside.called);
        if self.in_memory {
            return moves && only_here;
        }
        let own = beside.dirtied.saturating_sub(beside.grew);
        let all = beside.grew.saturating_add(grew);
        if moves {
            // What is compressed, or written and synchronised line by line, takes less than is made dirty.
            let is_no_more = most(ALIKE, all.max(moved), beside.dirtied) || only_here;
            return least(MOST, grew, own) && is_no_more;
        }
        hand.places
            && least(1.0 - CLOSE, grew, own.saturating_sub(beside.elsewhere))
            && most(1.0 + CLOSE, all, beside.dirtied)
    }
}

/// What was written to the files that grew. One that had no hole at either look grew by what it got longer: XFS takes room
/// beyond the end before anybody writes there, as much as the file has, and gives it back later.
fn written_of(before: &[OpenFile], after: &[OpenFile], grown: &HashMap<Id, u64>) -> HashMap<Id, u64> {
    // It may have grown between two looks at its descriptors.
    let largest = |files: &[OpenFile]| {
        let mut of: HashMap<Id, (u64, u64)> = HashMap::new();
        for file in files.iter().filter(|f| grown.contains_key(&id(f))) {
            let (bytes, size) = of.entry(id(file)).or_default();
            (*bytes, *size) = (file.bytes.max(*bytes), file.trace.size.max(*size));
        }
        of
    };
    let (old, new) = (largest(before), largest(after));
    let lengthened = |file: &Id| {
        let ((had, was), (has, is)) = (old.get(file).copied().unwrap_or_default(), *new.get(file)?);
        (had >= was && has >= is).then(|| is.saturating_sub(was))
    };
    let written = |(file, grew): (&Id, &u64)| (*file, lengthened(file).map_or(*grew, |by| by.min(*grew)));
    grown.iter().map(written).collect()
}

fn id(file: &OpenFile) -> Id {
    (file.device, file.inode)
}

#[cfg(test)]
#[path = "writers_tests.rs"]
mod tests;
