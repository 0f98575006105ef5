//! Runaway live logs: which of them may be cut, where, and what is kept of it before.
//!
//! A log that somebody writes to is cut by punching a hole (`FALLOC_FL_PUNCH_HOLE`, fallocate(2)) from behind its head
//! to before its tail. Why so, and not by copying the tail forward, truncating, or collapsing the range:
//! - offsets stay. A writer that does not append would leave a hole after a truncation or a collapse, and every reader
//!   (ours, `tail -f`, `kubectl logs -f`) keeps its place and loses no line of the tail;
//! - nothing that is written while it happens can be lost: no byte that stays is moved;
//! - the head stays, by which readers know a file again.
//!
//! The price: the apparent size stays, only the blocks go; and who reads from the beginning reads zeros in between.
//!
//! Invariants
//! - Where the cut ends, a line ends: the newline before the tail's first line stays. A file in which no line ends there
//!   is no text log, and stays.
//! - The digest of what goes, and the newest lines, are in the plan's record, which is durable before anything is cut.
//! - A cut is worth it: the log is over its size in allocated bytes, and grows, or its mount is nearly full.
//!
//! Deliberately absent: cutting (`cut`), and deciding whether space is needed (`plan`).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dogwatch::record::{Cut, Hash, PlannedObject, Refusal};
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::beneath::{self, Facts};
use super::plan::Candidate;
use super::remove::DIGEST_ENDS;
use super::words;

/// What stays at the beginning: readers know a file again by its first bytes, and no common filesystem has larger blocks.
pub(super) const HEAD_KEPT: u64 = 64 << 10;
/// How far behind the place of the cut the end of a line is looked for.
const LINE_WINDOW: usize = 64 << 10;
/// Most of a log's newest content that is kept in the record.
pub(super) const TAIL_RECORDED: usize = 64 << 10;
/// Most logs in one survey: their tails must fit an action's record, and each is open while it is watched.
pub(super) const MAX_WATCHED: usize = 8;
/// Between two looks at a log's size.
const GROWTH_SPAN: Duration = Duration::from_secs(1);
/// Longest that the digests of one survey may take; of what is not read by then, the ends are digested.
const DIGEST_TIME: Duration = Duration::from_secs(15);
/// Read at a time.
const CHUNK: usize = 1 << 20;
/// A mount with less available than this part of it is nearly full: the shipped `space.critical_used`.
const CRITICAL_PART: u64 = 20;

/// A live log that a survey has met.
pub(super) struct Watched {
    pub(super) object: PlannedObject,
    pub(super) root: PathBuf,
    /// That the root lies on.
    pub(super) filesystem: u64,
    pub(super) accessed_ns: Option<i64>,
    /// What of its end stays.
    pub(super) keep_bytes: u64,
    pub(super) file: OwnedFd,
}

/// Live logs of one survey.
#[derive(Default)]
pub(super) struct Live {
    watched: Vec<(Watched, Instant)>,
    left_out: u64,
}

impl Live {
    /// Watches one more.
    pub(super) fn watch(&mut self, log: Watched) {
        if self.watched.len() < MAX_WATCHED {
            self.watched.push((log, Instant::now()));
        } else {
            self.left_out += 1;
        }
    }

    /// What is watched up to here, for [`Self::back_to`].
    pub(super) fn mark(&self) -> (usize, u64) {
        (self.watched.len(), self.left_out)
    }

    /// Watches nothing more of what came since: their folder turned out to be a database's.
    pub(super) fn back_to(&mut self, (watched, left_out): (usize, u64)) {
        self.watched.truncate(watched);
        self.left_out = left_out;
    }

    /// Looks a second time, and makes candidates of those that may be cut; of the others, why not.
    pub(super) fn settle(self) -> (Vec<Candidate>, Vec<Refusal>) {
        let mut candidates = Vec::new();
        let mut refused = Vec::new();
        let Some((_, last)) = self.watched.last() else { return (candidates, refused) };
        std::thread::sleep(GROWTH_SPAN.saturating_sub(last.elapsed()));
        let until = Instant::now() + DIGEST_TIME;
        for (log, since) in self.watched {
            let path = log.object.path.clone();
            match log.judged(since, until) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => refused.push(Refusal { path: Some(path), reason }),
            }
        }
        if self.left_out > 0 {
            let reason =
                format!("{} more live logs were left out: {MAX_WATCHED} are looked at", self.left_out);
            refused.push(Refusal { path: None, reason });
        }
        (candidates, refused)
    }
}

impl Watched {
    fn judged(self, since: Instant, until: Instant) -> Result<Candidate, String> {
        let Self { mut object, root, filesystem, accessed_ns, keep_bytes, file } = self;
        let facts = beneath::facts_of(&file).map_err(|e| format!("it cannot be looked at: {e}"))?;
        let grown = facts.size_bytes.saturating_sub(object.size_bytes);
        let pace = grown as f64 / since.elapsed().as_secs_f64();
        let reason = match (grown, nearly_full(&file)) {
            (1.., _) => format!("it grows by {} a second", words::bytes(pace as u64)),
            (0, true) => "its mount is nearly full".to_owned(),
            (0, false) => return Err("it does not grow, and its mount is not nearly full".to_owned()),
        };
        let file = File::from(file);
        let cut = range(&file, facts.size_bytes, keep_bytes)?;
        let (sha256, partial) = match digest(&file, cut, true, until)? {
            Some(whole) => (whole, false),
            None => (digest_ends(&file, cut)?, true),
        };
        note(&mut object, &facts);
        object.allocated_bytes = worth(&facts, cut);
        object.sha256 = Some(sha256);
        object.digest_partial = partial;
        object.cut = Some(Cut { from: cut.from, to: cut.to, tail: tail(&file, cut.to, facts.size_bytes)? });
        object.why_safe =
            format!("{}; {reason}; its last {} stay", object.why_safe, words::bytes(keep_bytes));
        Ok(Candidate { object, root, open_elsewhere: false, accessed_ns, filesystem })
    }
}

fn note(object: &mut PlannedObject, facts: &Facts) {
    object.size_bytes = facts.size_bytes;
    object.mtime_ns = facts.mtime_ns;
    object.ctime_ns = facts.ctime_ns;
}

fn nearly_full(file: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|s| s.f_bavail.saturating_mul(CRITICAL_PART) < s.f_blocks)
}

/// What goes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What may go of a file of `size` bytes, of which the last `keep_bytes` stay; or why nothing may.
pub(super) fn range(file: &File, size: u64, keep_bytes: u64) -> Result<Range, String> {
    const NOTHING: &str = "nothing lies before the tail that stays";
    let data = match rustix::fs::seek(file, SeekFrom::Data(HEAD_KEPT)) {
        Ok(at) => at,
        Err(Errno::NXIO) => return Err(NOTHING.to_owned()),
        // Not every filesystem tells holes.
        Err(_) => HEAD_KEPT,
    };
    let from = data - data % HEAD_KEPT;
    let wanted = size.saturating_sub(keep_bytes);
    let mut window = vec![0; LINE_WINDOW];
    let n = read_full(file, &mut window, wanted).map_err(|e| format!("its tail cannot be read: {e}"))?;
    let Some(end) = window[..n].iter().position(|b| *b == b'\n') else {
        return Err(format!(
            "no line ends in {} where the tail begins: it is no text log",
            words::bytes(n as u64)
        ));
    };
    if window[..n].contains(&0) || !is_text(file) {
        return Err("it holds NUL bytes: it is no text log".to_owned());
    }
    let to = wanted + end as u64;
    if to <= from { Err(NOTHING.to_owned()) } else { Ok(Range { from, to }) }
}

/// Whether what a file begins with could be text: a database or an image of a disk has a NUL there.
fn is_text(file: &File) -> bool {
    let mut head = [0; 4_096];
    read_full(file, &mut head, 0).is_ok_and(|n| !head[..n].contains(&0))
}

/// Allocated bytes that a cut of `range` gives back, within a block at either end, of a file of which this is known. Its tail
/// counts as if it had no holes: a guess for plans, no bound.
fn worth(facts: &Facts, range: Range) -> u64 {
    let stays = facts.size_bytes.saturating_sub(range.to).saturating_add(HEAD_KEPT);
    facts.allocated_bytes.saturating_sub(stays).min(range.to - range.from)
}

/// Whether `range` may go of a file of `size` bytes of which the last `keep_bytes` stay, whoever says so.
pub(super) fn permits(file: &File, size: u64, keep_bytes: u64, range: Range) -> bool {
    let latest = size.saturating_sub(keep_bytes).saturating_add(LINE_WINDOW as u64);
    let mut end = [0];
    let in_bounds = range.from >= HEAD_KEPT && range.from < range.to && range.to < latest && range.to < size;
    in_bounds && is_text(file) && read_full(file, &mut end, range.to).is_ok_and(|n| n == 1) && end == *b"\n"
}

/// SHA-256 of the range, whole or of its ends; `None` if the time was up before.
pub(super) fn digest(file: &File, range: Range, whole: bool, until: Instant) -> Result<Option<Hash>, String> {
    if !whole {
        return digest_ends(file, range).map(Some);
    }
    let mut hasher = Sha256::new();
    let mut at = range.from;
    while at < range.to {
        if Instant::now() > until {
            return Ok(None);
        }
        let next = range.to.min(at + CHUNK as u64);
        absorb(file, at, next, &mut hasher)?;
        at = next;
    }
    Ok(Some(Hash(hasher.finalize().into())))
}

fn digest_ends(file: &File, range: Range) -> Result<Hash, String> {
    let mut hasher = Sha256::new();
    let middle = range.to.min(range.from + DIGEST_ENDS);
    absorb(file, range.from, middle, &mut hasher)?;
    absorb(file, middle.max(range.to.saturating_sub(DIGEST_ENDS)), range.to, &mut hasher)?;
    Ok(Hash(hasher.finalize().into()))
}

fn absorb(file: &File, from: u64, to: u64, hasher: &mut Sha256) -> Result<(), String> {
    let mut chunk = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(CHUNK).min(CHUNK)];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(CHUNK).min(chunk.len());
        match read_full(file, &mut chunk[..want], at) {
            Ok(n) if n == want => hasher.update(&chunk[..n]),
            Ok(_) => return Err("not what the plan saw: it became shorter".to_owned()),
            Err(e) => return Err(format!("it cannot be read for its digest: {e}")),
        }
        // Gigabytes read once must not push out what others need.
        let length = std::num::NonZeroU64::new(want as u64);
        let _ = rustix::fs::fadvise(file, at, length, Advice::DontNeed);
        at += want as u64;
    }
    Ok(())
}

/// The newest whole lines after `to`, as far as the record takes them.
fn tail(file: &File, to: u64, size: u64) -> Result<Vec<u8>, String> {
    let first = to + 1;
    let start = first.max(size.saturating_sub(TAIL_RECORDED as u64));
    let length = usize::try_from(size.saturating_sub(start)).unwrap_or(0).min(TAIL_RECORDED);
    let mut bytes = vec![0; length];
    let n = read_full(file, &mut bytes, start).map_err(|e| format!("its tail cannot be read: {e}"))?;
    bytes.truncate(n);
    Ok(whole_lines(&bytes, start > first).to_vec())
}

/// `bytes` without a last line that is not complete, and (where it is `torn`) without the rest of a first one.
fn whole_lines(bytes: &[u8], torn: bool) -> &[u8] {
    let begin =
        if torn { bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1) } else { 0 };
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(begin, |at| at + 1);
    &bytes[begin.min(end)..end]
}

/// Masks each line of a cut's tail by `mask`; where that makes it longer than a record takes, the oldest lines go.
pub(super) fn mask_tail(tail: &mut Vec<u8>, mut mask: impl FnMut(&mut Vec<u8>)) {
    let mut masked = Vec::with_capacity(tail.len());
    for line in tail.split_inclusive(|b| *b == b'\n') {
        let mut bare = line.strip_suffix(b"\n").unwrap_or(line).to_vec();
        mask(&mut bare);
        masked.extend_from_slice(&bare);
        masked.push(b'\n');
    }
    let over = masked.len().saturating_sub(TAIL_RECORDED);
    *tail = whole_lines(&masked[over..], over > 0).to_vec();
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(n: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        (0..n).for_each(|i| writeln!(file, "line {i:08} of a log").unwrap());
        file
    }

    #[test]
    fn a_cut_ends_where_a_line_ends() {
        let file = lines(40_000);
        let size = file.metadata().unwrap().len();
        let keep = 100_000;
        let cut = range(&file, size, keep).unwrap();
        assert_eq!(cut.from, HEAD_KEPT);
        assert!(size - cut.to <= keep && size - cut.to > keep - 64, "{cut:?} of {size}");
        let mut around = [0; 6];
        file.read_exact_at(&mut around, cut.to).unwrap();
        assert_eq!(&around, b"\nline ", "the newline stays, and a whole line follows");
        assert!(range(&file, size, size).unwrap_err().contains("nothing"));
        assert!(range(&file, size, size - HEAD_KEPT / 2).is_err(), "the head stays");
        let tail = tail(&file, cut.to, size).unwrap();
        assert!(tail.starts_with(b"line ") && tail.ends_with(b"of a log\n") && tail.len() <= TAIL_RECORDED);
        assert!(tail.len() > TAIL_RECORDED - 64);
    }

    #[test]
    fn what_has_no_lines_is_no_log() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
        assert!(range(&file, 1 << 20, 1 << 18).unwrap_err().contains("no text log"));
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(1 << 30).unwrap();
        assert!(range(&sparse, 1 << 30, 1 << 18).is_err());
    }

    #[test]
    fn a_digest_covers_what_goes_or_its_ends() {
        let file = lines(200_000);
        let cut = Range { from: HEAD_KEPT, to: 4_000_000 };
        let mut content = vec![0; 4_000_000 - HEAD_KEPT as usize];
        file.read_exact_at(&mut content, HEAD_KEPT).unwrap();
        let later = Instant::now() + DIGEST_TIME;
        let sha = |bytes: &[u8]| Hash(Sha256::digest(bytes).into());
        assert_eq!(digest(&file, cut, true, later).unwrap(), Some(sha(&content)));
        let mib = DIGEST_ENDS as usize;
        let ends = [&content[..mib], &content[content.len() - mib..]].concat();
        assert_eq!(digest(&file, cut, false, later).unwrap(), Some(sha(&ends)));
        let small = Range { from: HEAD_KEPT, to: HEAD_KEPT + 1_000_000 };
        assert_eq!(digest(&file, small, false, later).unwrap(), Some(sha(&content[..1_000_000])));
        assert_eq!(digest(&file, cut, true, Instant::now() - Duration::from_millis(1)).unwrap(), None);
        assert!(digest(&file, Range { from: 0, to: 1 << 40 }, false, later).unwrap_err().contains("shorter"));
    }

    #[test]
    fn a_tail_is_masked_line_by_line_and_stays_bounded() {
        let mut tail = b"a secret\nb\n".to_vec();
        mask_tail(&mut tail, |line| {
            if line.ends_with(b"secret") {
                line.truncate(2);
                line.extend_from_slice(b"[masked]");
            }
        });
        assert_eq!(tail, b"a [masked]\nb\n");
        let mut long = b"0123456789\n".repeat(TAIL_RECORDED / 11);
        mask_tail(&mut long, |line| line.extend_from_slice(b"0123456789"));
        assert!(long.len() <= TAIL_RECORDED && long.starts_with(b"0123456789") && long.ends_with(b"9\n"));
        let mut one = vec![b'x'; TAIL_RECORDED];
        mask_tail(&mut one, |line| line.extend_from_slice(b"more"));
        assert!(one.len() <= TAIL_RECORDED);
    }
}
