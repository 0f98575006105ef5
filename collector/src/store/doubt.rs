//! Doubt about the truth journal that must outlive this run: whether decisions that were durable once may be missing.
//!
//! What shows that some are missing goes away at a start itself: small segments become one without their damaged stretches,
//! an index that knew more is built anew, and the first decision ends a journal that was empty. So what is found is
//! written here *before* that, and taken back once somebody made it a decision ([`Doubt::settle`]). A collector that is
//! killed at any moment between finds it at its next start.
//!
//! The file is one block of fixed size, made once and written in place: no room is needed for a doubt on a full disk. It
//! holds a line of JSON with a version; what cannot be read is a doubt itself. Where there is none yet (a new store, one of
//! an earlier version) there is nothing in doubt. A start that ends while the journal is being opened leaves the mark
//! `opening`, and so does a run that ends while it opens a journal anew that failed: that counts as damage that may have been left out, which says something only where the index is new too, or a
//! stop is in force.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The file's name in the store's folder.
const FILE: &str = "doubt";
/// A new one, until it is whole.
const NEW_FILE: &str = "doubt.new";
/// Layout of the line.
const VERSION: u32 = 1;
/// Size of the file: a block, so that writing in place takes no room and tears nothing that matters.
const BYTES: usize = 4096;
/// Longest reason that is kept, in characters: with every one of them escaped it fits the file.
const MAX_WHY_CHARS: usize = 300;

/// What is in doubt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    v: u32,
    /// A start began to open the journal and did not say how that ended.
    opening: bool,
    /// Damaged stretches that were left out when the journal was put in order.
    left_out: u64,
    /// Why decisions may be missing; `None`: nothing says so.
    why: Option<String>,
}

/// The store's doubt about its decisions, as it is and as it is kept.
#[derive(Debug)]
pub(super) struct Doubt {
    path: PathBuf,
    line: Mutex<Line>,
}

impl Doubt {
    /// Takes up what an earlier start left in `dir`, and notes that the journal is being opened.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let mut line = match fs::read(&path) {
            Ok(bytes) => read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The first write makes it.
                Line::default()
            }
            Err(error) => in_doubt(format!("{} cannot be read: {error}", path.display())),
        };
        if line.opening {
            line.left_out = line.left_out.max(1);
        }
        line.opening = true;
        let doubt = Self { path, line: Mutex::new(line) };
        doubt.keep(&doubt.lock());
        doubt
    }

    /// The journal is being opened anew at work.
    pub(super) fn opening(&self) {
        let mut line = self.lock();
        if !line.opening {
            line.opening = true;
            self.keep(&line);
        }
    }

    /// The journal is open: how many damaged stretches were left out.
    pub(super) fn opened(&self, left_out: u64) {
        let mut line = self.lock();
        line.opening = false;
        line.left_out = line.left_out.max(left_out);
        self.keep(&line);
    }

    /// Decisions may be missing; the first reason stays.
    pub(super) fn raise(&self, why: &str) {
        let mut line = self.lock();
        if line.why.is_none() {
            line.why = Some(why.chars().take(MAX_WHY_CHARS).collect());
            self.keep(&line);
        }
    }

    /// The index is new: what was left out before was folded by nobody.
    pub(super) fn index_is_new(&self) {
        let left_out = self.lock().left_out;
        if left_out > 0 {
            self.raise(&left_out_words(left_out));
        }
    }

    /// Why decisions may be missing, if so. `in_force`: the index knows of a stop that may be among what was left out, and
    /// the next that is built would not.
    pub(super) fn why(&self, in_force: bool) -> Option<String> {
        let line = self.lock();
        line.why.clone().or_else(|| (in_force && line.left_out > 0).then(|| left_out_words(line.left_out)))
    }

    /// Whether something was left out that nobody settled.
    pub(super) fn has_left_out(&self) -> bool {
        self.lock().left_out > 0
    }

    /// It was dealt with, `dealt` being what [`Doubt::why`] said: a decision says so from now on, or there was none.
    ///
    /// # Errors
    /// What the filesystem says; then the next start finds it again.
    pub(super) fn settle(&self, dealt: Option<&str>) -> io::Result<()> {
        let mut line = self.lock();
        if line.why.is_some() && line.why.as_deref() != dealt {
            // Another one came meanwhile.
            return Ok(());
        }
        let settled = Line { opening: line.opening, ..Line::default() };
        if *line != settled {
            write(&self.path, &settled)?;
            *line = settled;
        }
        Ok(())
    }

    fn keep(&self, line: &Line) {
        write(&self.path, line).unwrap_or_else(|error| tell(&self.path, &error));
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left_out_words(stretches: u64) -> String {
    format!("{stretches} damaged stretches of their journal were left out when it was put in order")
}

fn tell(path: &Path, error: &io::Error) {
    tracing::error!(
        path = %path.display(), %error,
        "whether decisions of this collector may be missing cannot be kept over a restart"
    );
}

fn in_doubt(why: String) -> Line {
    Line { why: Some(why), ..Line::default() }
}

fn read(bytes: &[u8]) -> Line {
    match serde_json::from_slice::<Line>(bytes) {
        Ok(line) if line.v == VERSION => line,
        Ok(line) => {
            in_doubt(format!("what was noted about the journal of decisions is of version {}", line.v))
        }
        Err(error) => in_doubt(format!("what was noted about the journal of decisions is damaged: {error}")),
    }
}

fn block(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Line { v: VERSION, ..line.clone() }).map_err(io::Error::other)?;
    // Blanks behind a value are no part of it.
    bytes.resize(BYTES.max(bytes.len()), b' ');
    Ok(bytes)
}

/// Durable when this returns.
fn write(path: &Path, line: &Line) -> io::Result<()> {
    let bytes = block(line)?;
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, &bytes),
        Err(error) => Err(error),
    }
}

/// Puts the file there, whole from the start.
fn make(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_file_name(NEW_FILE);
    fs::write(&new, bytes)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt_outlives_every_start_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let doubt = Doubt::open(dir.path());
            doubt.opened(0);
            doubt
        };
        assert_eq!(start().why(true), None, "a new store has nothing to be in doubt about");
        start().raise("ü\"\n".repeat(500).as_str());
        start().raise("another");
        for _ in 0..3 {
            let why = start().why(false).unwrap();
            assert_eq!(why.chars().count(), MAX_WHY_CHARS, "the first reason stays");
        }
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), BYTES as u64, "its size is fixed");
        let doubt = start();
        doubt.settle(Some("another")).unwrap();
        assert!(doubt.why(false).is_some(), "that was not the one that was dealt with");
        doubt.settle(doubt.why(false).as_deref()).unwrap();
        assert_eq!((doubt.why(true), start().why(true)), (None, None));
    }

    #[test]
    fn damage_that_was_left_out_counts_where_the_index_is_new_or_a_stop_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        Doubt::open(dir.path()).opened(2);
        // Killed before anybody made it a decision.
        let doubt = Doubt::open(dir.path());
        doubt.opened(0);
        assert_eq!(doubt.why(false), None);
        assert!(doubt.why(true).unwrap().starts_with("2 damaged stretches"));
        doubt.index_is_new();
        drop(doubt);
        let doubt = Doubt::open(dir.path());
        assert!(doubt.why(false).is_some(), "and the index is not new any more");
        doubt.settle(doubt.why(false).as_deref()).unwrap();
        drop(doubt);
        // Killed while the journal was put in order: nobody knows what was left out.
        let doubt = Doubt::open(dir.path());
        assert_eq!(doubt.why(false), None);
        assert!(doubt.why(true).is_some());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_doubt() {
        let golden = r#"{"v":1,"opening":false,"left_out":0,"why":"golden"}"#;
        for (bytes, words) in [
            (&b""[..], "damaged"),
            (&[0; BYTES][..], "damaged"),
            (br#"{"v":9,"opening":false,"left_out":0,"why":null}"#, "version 9"),
            (golden.as_bytes(), "golden"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), bytes).unwrap();
            for _ in 0..2 {
                let why = Doubt::open(dir.path()).why(false).unwrap();
                assert!(why.contains(words), "{why}");
            }
        }
    }
}
