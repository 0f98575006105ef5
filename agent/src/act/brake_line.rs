//! The way that a stop takes: to the executor at once, and to the disk.
//!
//! What the collector said last is kept in a file of fixed size that is written in place ([`Slots`]): no room is needed
//! once it exists, so that a node with a full disk stays stopped over a restart. A thread of its own does both, since an
//! executor that is busy and a disk that stalls may be waited for; the executor comes first. What cannot be written is
//! written again until it can.
//!
//! In doubt the node is stopped: a file that is gone from a state folder that was in use, one that was cut, a slot that was
//! torn while a newer word was written, a version that is not known. The collector's next word ends that, and nothing else:
//! in place of a file that is gone comes one that says so. A state folder that is new has nothing to be in doubt about;
//! that is known by the agent's count of starts. Every start makes the file before that count, with a collector or
//! without, so that neither a start that fails nor a collector that is named later leaves a doubt. It appears whole under
//! its name; a whole one of zeros alone, which earlier versions left, was never written to.
//!
//! Limits: before the file exists it needs 8 KiB; without them the word is in force, and a restart is in doubt. A folder of
//! an agent that knew of no brake has no file, and is in doubt until the first word.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hold_line::HoldLine;
use super::permit::{Kept, Word};
use crate::record::Slots;
use crate::record::slots::FILE_BYTES;

/// The file's name in the state folder.
pub const BRAKE_FILE: &str = "brake";
/// A new one, until it is whole.
pub const NEW_FILE: &str = "brake.new";
/// Layout of what it holds.
const VERSION: u32 = 1;
/// The same of a file that stands in for one that was lost; an agent that does not know it is in doubt too.
const VERSION_LOST: u32 = 2;
/// Longest reason that is kept, in characters: a slot holds 4 KiB.
const MAX_REASON_CHARS: usize = 500;
/// Between two attempts to keep what could not be: a disk that is full or stalls is not asked more often.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Written<W> {
    v: u32,
    /// `null`: the file was made, and nothing was heard yet.
    word: Option<W>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrakeJob {
    /// The action ends before its next object, or does not begin.
    Halt {
        /// Which.
        action: String,
        /// Why.
        why: String,
    },
    /// Keep what the collector said.
    Keep(Word),
}

/// Why a restart would not know what the collector said last; `None`: it would.
pub type Unkept = Arc<Mutex<Option<String>>>;

/// Makes the file, where there is none, for a node that has no collector: one that it gets later finds that nothing was
/// heard.
pub fn make(state_dir: &Path) {
    let path = state_dir.join(BRAKE_FILE);
    if let Ok(false) = path.try_exists() {
        lay_aloud(state_dir, VERSION);
    }
}

/// What the last run kept in `state_dir`; `used`: whether there was one. What is not there is made.
pub fn read(state_dir: &Path, used: bool) -> Kept {
    let path = state_dir.join(BRAKE_FILE);
    let doubt = |why: String, older| {
        let shown = path.display();
        tracing::error!(path = %shown, why, "what the collector said of cleanups last is not known");
        let why = format!(
            "what the collector said of cleanups last is not known ({shown}: {why}), so that nothing is cleaned until it says it \
             again; where it never will, take `collector` out of this node's configuration"
        );
        Kept::Doubt { why, older }
    };
    // The next start must not take what is made in its place for one that nothing was ever written to.
    let lost = |why: &str| {
        lay_aloud(state_dir, VERSION_LOST);
        doubt(why.to_owned(), None)
    };
    let bytes = match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && found.len() == 0 => return lost("it is empty"),
        Ok(found) => found.len(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return doubt(error.to_string(), None),
        Err(_) if used => return lost("it is gone, and the state folder is not new"),
        Err(_) => {
            lay_aloud(state_dir, VERSION);
            return Kept::Nothing;
        }
    };
    let found = match Slots::open_telling(&path) {
        Ok((_, found)) => found,
        Err(error) => return doubt(error.to_string(), None),
    };
    match found.value.map(|value| decode(&value)) {
        Some(Err(why)) => doubt(why, None),
        Some(Ok(older)) if found.damaged || bytes != FILE_BYTES => {
            doubt("it is damaged where the newest word may have been".to_owned(), older)
        }
        Some(Ok(Some(word))) => Kept::Word(word),
        Some(Ok(None)) => Kept::Nothing,
        // With both slots damaged one word would mend but one.
        None if found.damaged || bytes != FILE_BYTES => lost("there is no word in it"),
        None => Kept::Nothing,
    }
}

/// Puts a file without a word in the place of what is there, whole from the start and durable when this returns.
fn lay(state_dir: &Path, version: u32) -> std::io::Result<()> {
    let new = state_dir.join(NEW_FILE);
    // What a start left that ended here.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Slots::open(&new)?.0.write(&encode(version, None)?)?;
    std::fs::rename(&new, state_dir.join(BRAKE_FILE))?;
    std::fs::File::open(state_dir)?.sync_all()
}

fn lay_aloud(state_dir: &Path, version: u32) {
    if let Err(error) = lay(state_dir, version) {
        let path = state_dir.join(BRAKE_FILE);
        tracing::error!(path = %path.display(), %error, "what the collector says of cleanups cannot be kept over a restart yet");
    }
}

fn encode(v: u32, word: Option<&Word>) -> std::io::Result<Vec<u8>> {
    serde_json::to_vec(&Written { v, word }).map_err(std::io::Error::other)
}

fn decode(bytes: &[u8]) -> Result<Option<Word>, String> {
    let written: Written<Word> =
        serde_json::from_slice(bytes).map_err(|e| format!("it is not understood: {e}"))?;
    match written.v {
        VERSION => Ok(written.word),
        VERSION_LOST => Err("it was lost before an earlier start, and no word came since".to_owned()),
        other => Err(format!("it is of version {other}")),
    }
}

/// Keeps `word` in `state_dir`; durable when this returns.
fn keep(state_dir: &Path, word: &Word) -> Result<(), String> {
    let mut word = word.clone();
    word.reason = word.reason.chars().take(MAX_REASON_CHARS).collect();
    let path = state_dir.join(BRAKE_FILE);
    let write = || {
        let (mut slots, _) = Slots::open(&path)?;
        slots.write(&encode(VERSION, Some(&word))?)
    };
    write().map_err(|e| format!("{}: {e}", path.display()))
}

/// Starts the thread; it ends when the sender is gone. The other end says what could not be kept.
///
/// # Errors
/// When there can be no thread.
pub fn start(state_dir: PathBuf, holds: HoldLine) -> std::io::Result<(Sender<BrakeJob>, Unkept)> {
    let (jobs_tx, jobs) = channel();
    let unkept = Unkept::default();
    let told = Arc::clone(&unkept);
    std::thread::Builder::new()
        .name("brake".to_owned())
        .spawn(move || run(&state_dir, &holds, &jobs, &told))?;
    Ok((jobs_tx, unkept))
}

fn run(state_dir: &Path, holds: &HoldLine, jobs: &Receiver<BrakeJob>, unkept: &Mutex<Option<String>>) {
    let mut newest: Option<Word> = None;
    loop {
        let job = match &newest {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => jobs.recv_timeout(AGAIN),
        };
        if matches!(job, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        for job in job.into_iter().chain(jobs.try_iter()) {
            match job {
                BrakeJob::Halt { action, why } => holds.halt(action, why),
                BrakeJob::Keep(word) => newest = Some(word),
            }
        }
        let Some(word) = &newest else { continue };
        let outcome = keep(state_dir, word);
        if outcome.is_ok() {
            newest = None;
        }
        let mut told = unkept.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Err(why), None) = (&outcome, told.as_ref()) {
            tracing::error!(
                why,
                "what the collector says of cleanups is in force, and cannot be kept over a restart yet"
            );
        }
        *told = outcome.err();
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::Hash;

    use super::*;
    use crate::act::permit::BrakeState;

    fn word(revision: u64, state: BrakeState) -> Word {
        let reason = "ü".repeat(2_000);
        Word { revision, lineage: 11, state, reason, proven: Some(Hash([9; 32])) }
    }

    fn doubts(kept: &Kept, words: &str) -> Option<Word> {
        match kept {
            Kept::Doubt { why, older } => {
                assert!(why.contains(words), "{why}");
                older.clone()
            }
            other => unreachable!("{words}: {other:?}"),
        }
    }

    #[test]
    fn what_was_said_last_is_read_again_and_golden_bytes_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), false), Kept::Nothing);
        assert_eq!(read(dir.path(), true), Kept::Nothing, "nothing was heard yet, and that was kept");
        for revision in 1..4 {
            let word = word(revision, BrakeState::Tripped);
            keep(dir.path(), &word).unwrap();
            let Kept::Word(back) = read(dir.path(), true) else { unreachable!("{revision}") };
            assert_eq!((back.revision, back.lineage, back.state), (revision, 11, word.state));
            assert_eq!(back.proven, word.proven);
            assert_eq!(back.reason.chars().count(), MAX_REASON_CHARS);
        }
        assert_eq!(
            std::fs::metadata(dir.path().join(BRAKE_FILE)).unwrap().len(),
            FILE_BYTES,
            "its size is fixed"
        );
        let golden = r#"{"v":1,"word":{"revision":3,"state":"paused","reason":"r","proven":null}}"#;
        let (mut slots, _) = Slots::open(&dir.path().join(BRAKE_FILE)).unwrap();
        slots.write(golden.as_bytes()).unwrap();
        let word =
            Word { revision: 3, lineage: 0, state: BrakeState::Paused, reason: "r".to_owned(), proven: None };
        assert_eq!(read(dir.path(), true), Kept::Word(word));
    }

    #[test]
    fn in_doubt_it_is_not_known_and_the_next_word_ends_that() {
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(read(dir.path(), false), Kept::Nothing);
            keep(dir.path(), &word(4, BrakeState::Open)).unwrap();
            keep(dir.path(), &word(5, BrakeState::Paused)).unwrap();
            let path = dir.path().join(BRAKE_FILE);
            (dir, path)
        };
        type Harm = fn(&Path);
        let harms: [(&str, Harm, Option<u64>); 8] = [
            ("is gone", |path| std::fs::remove_file(path).unwrap(), None),
            ("is empty", |path| cut(path, 0), None),
            ("no word in it", |path| std::fs::write(path, [0; 4096]).unwrap(), None),
            ("no word in it", |path| std::fs::write(path, [b'x'; 8192]).unwrap(), None),
            // The slot of the stop is the second that was written after the first, which said that nothing was heard.
            ("is damaged", |path| flip(path, 4_096 + 40), Some(4)),
            ("is damaged", |path| cut(path, 4_096), Some(4)),
            ("not understood", |path| put(path, b"song"), None),
            ("of version 9", |path| put(path, br#"{"v":9,"word":null}"#), None),
        ];
        for (words, harm, older) in harms {
            let (dir, path) = fresh();
            harm(&path);
            let kept = read(dir.path(), true);
            assert_eq!(doubts(&kept, words).map(|w| w.revision), older, "{words}");
            doubts(&read(dir.path(), true), "");
            keep(dir.path(), &word(6, BrakeState::Open)).unwrap();
            let Kept::Word(back) = read(dir.path(), true) else { unreachable!("{words}") };
            assert_eq!(back.revision, 6, "{words}");
        }
        let (dir, path) = fresh();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        doubts(&read(dir.path(), true), "directory");
    }

    #[test]
    fn what_was_never_written_to_leaves_no_doubt() {
        // Earlier versions left zeros.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BRAKE_FILE);
        std::fs::write(&path, [0; FILE_BYTES as usize]).unwrap();
        assert_eq!(read(dir.path(), true), Kept::Nothing);

        // A node ran without a collector, and gets one.
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        assert_eq!(read(dir.path(), true), Kept::Nothing);
        keep(dir.path(), &word(5, BrakeState::Paused)).unwrap();
        make(dir.path());
        assert!(matches!(read(dir.path(), true), Kept::Word(_)), "what was said stays");

        // What a start left that was cut off while it made the file.
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NEW_FILE), "torn").unwrap();
        assert_eq!(read(dir.path(), false), Kept::Nothing);
        assert_eq!(read(dir.path(), true), Kept::Nothing);
        assert!(!dir.path().join(NEW_FILE).exists());
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 0x40;
        std::fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path, to: usize) {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..to]).unwrap();
    }

    fn put(path: &Path, value: &[u8]) {
        Slots::open(path).unwrap().0.write(value).unwrap();
    }

    #[test]
    fn what_could_not_be_kept_is_told_and_kept_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BRAKE_FILE);
        std::fs::create_dir(&path).unwrap();
        let holds = HoldLine::open(dir.path(), dir.path());
        let (jobs, unkept) = start(dir.path().to_owned(), holds).unwrap();
        jobs.send(BrakeJob::Keep(word(7, BrakeState::Paused))).unwrap();
        let told = || unkept.lock().unwrap().clone();
        until(|| told().is_some());
        std::fs::remove_dir(&path).unwrap();
        until(|| told().is_none());
        let Kept::Word(back) = read(dir.path(), true) else { unreachable!("it was not kept") };
        assert_eq!(back.revision, 7);
    }

    fn until(done: impl Fn() -> bool) {
        let since = std::time::Instant::now();
        while !done() {
            assert!(since.elapsed() < Duration::from_secs(60), "it did not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
