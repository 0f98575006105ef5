//! The content of files that a link does not protect, kept in the evidence once a run, piece by piece.
//!
//! A file that is not read to its end within a step is gone on with in the next one; what lies before that place is looked
//! at again, so that a log that was cut meanwhile is not put together from two.
//!
//! Bounds: so many files are remembered; what is not among them is not kept, and that is said.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch::record::{FileContent, FileSeen, Hash, MAX_PIECE_BYTES, PlannedObject};
use sha2::{Digest, Sha256};

use super::Spent;
use super::entry::object;
use crate::act::beneath::Facts;
use crate::act::cleaner::Parent;
use crate::act::witness::Verdict;

/// Files whose content was kept because a link does not do, remembered so that it is kept once a run.
const MAX_CONTENTS: usize = 4_096;
/// What did not fit is tried again after so long: the span of the budget of preserved content.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Bytes before the place where reading goes on that must still be the same.
const OVERLAP: usize = 4 << 10;

/// A file for a hold: on filesystems of their own inodes have the same numbers, and a number comes again.
type Key = (String, u64, u64, Option<i64>);

/// What is remembered of files between steps and sweeps.
#[derive(Debug, Default)]
pub(super) struct Contents(HashMap<Key, Kept>);

#[derive(Debug)]
enum Kept {
    /// All of it.
    Whole,
    /// Nothing that counts, since then.
    Not(String, Instant),
    /// The first part.
    Part(Box<Part>),
}

#[derive(Debug)]
struct Part {
    /// As it was when reading began.
    object: PlannedObject,
    at: u64,
    hasher: Sha256,
    /// The bytes before `at`.
    last: Vec<u8>,
}

/// What came of a look at one file.
pub(super) enum Said<'c> {
    /// Its content is kept.
    Whole,
    /// It is not, and why.
    Not(&'c str),
    /// The step is over before the file is.
    Unfinished,
}

impl Contents {
    /// Keeps the content of the file at `path` for the hold `id`, as far as the step goes.
    pub(super) fn keep(
        &mut self,
        (id, path): (&str, &Path),
        facts: &Facts,
        open: impl FnOnce() -> Option<(File, Facts)>,
        parent: &dyn Parent,
        spent: &mut Spent,
    ) -> Said<'_> {
        let key = (id.to_owned(), facts.device, facts.inode, facts.btime_ns);
        let before = match self.0.get(&key) {
            Some(Kept::Whole) => return Said::Whole,
            Some(Kept::Not(_, since)) if since.elapsed() < AGAIN => return self.said(&key),
            None if self.0.len() >= MAX_CONTENTS => return Said::Not(TOO_MANY),
            _ => self.0.remove(&key),
        };
        let part = match before {
            Some(Kept::Part(part)) => Some(part),
            _ => None,
        };
        let kept = match open() {
            Some((file, facts)) => go_on(part, &file, &facts, (id, path), parent, spent),
            None => Err("it cannot be opened".to_owned()),
        };
        let kept = match kept {
            Ok(None) => Kept::Whole,
            Ok(Some(part)) => Kept::Part(part),
            Err(why) => Kept::Not(why, Instant::now()),
        };
        self.0.insert(key.clone(), kept);
        self.said(&key)
    }

    /// Forgets files whose hold is none of `ids` any more, and what was not read to its end.
    pub(super) fn end_sweep(&mut self, ids: &[&str]) {
        self.0.retain(|(id, ..), kept| ids.contains(&id.as_str()) && !matches!(kept, Kept::Part(_)));
    }

    fn said(&self, key: &Key) -> Said<'_> {
        match self.0.get(key) {
            Some(Kept::Whole) => Said::Whole,
            Some(Kept::Not(why, _)) => Said::Not(why),
            Some(Kept::Part(_)) | None => Said::Unfinished,
        }
    }
}

const TOO_MANY: &str =
    "that of 4096 files was kept already since this executor began, and no more are remembered";

/// Reads on from `part`, or from the beginning; `None` once the whole is kept.
fn go_on(
    part: Option<Box<Part>>,
    file: &File,
    facts: &Facts,
    (id, path): (&str, &Path),
    parent: &dyn Parent,
    spent: &mut Spent,
) -> Result<Option<Box<Part>>, String> {
    const CUT: &str = "it became shorter or was written anew while it was read";
    let mut part = part.unwrap_or_else(|| {
        let object = object(path.to_owned(), facts);
        Box::new(Part { object, at: 0, hasher: Sha256::new(), last: Vec::new() })
    });
    // What is written meanwhile comes with the lines that the tail reads, or not at all.
    let size = part.object.size_bytes;
    let mut now = vec![0; part.last.len()];
    let from = part.at - part.last.len() as u64;
    if facts.size_bytes < size || file.read_exact_at(&mut now, from).is_err() || now != part.last {
        return Err(CUT.to_owned());
    }
    let mut piece = vec![0; MAX_PIECE_BYTES];
    while part.at < size {
        let want = usize::try_from(size - part.at).unwrap_or(usize::MAX).min(piece.len());
        let n = file.read_at(&mut piece[..want], part.at).map_err(|e| e.to_string())?;
        if n == 0 {
            return Err(CUT.to_owned());
        }
        part.hasher.update(&piece[..n]);
        let content = FileContent::compress(&part.object, part.at, &piece[..n]).map_err(|e| e.to_string())?;
        let seen = FileSeen { cause: id.to_owned(), objects: Vec::new(), content: Some(content) };
        if parent.witness(seen)? == Verdict::DigestSuffices {
            return Err("it is over the budget of preserved content".to_owned());
        }
        part.at += n as u64;
        part.last = piece[n.saturating_sub(OVERLAP)..n].to_vec();
        spent.bytes += n as u64;
        if part.at < size && spent.is_over() {
            return Ok(Some(part));
        }
    }
    let Part { mut object, hasher, .. } = *part;
    object.sha256 = Some(Hash(hasher.finalize().into()));
    object.preserved_bytes = Some(size);
    parent.witness(FileSeen { cause: id.to_owned(), objects: vec![object], content: None })?;
    Ok(None)
}
