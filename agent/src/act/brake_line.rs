//! The way that a stop takes: to the executor at once, and to the disk.
//!
//! What the collector said last is kept in a file of fixed size that is written in place ([`Slots`]): no room is needed
//! once it exists, so that a node with a full disk stays stopped over a restart. A thread of its own does both, since an
//! executor that is busy and a disk that stalls may be waited for; the executor comes first.
//!
//! Limits: before the file exists it needs 8 KiB; without them the word is in force and a restart forgets it, which is said.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use serde::{Deserialize, Serialize};

use super::hold_line::HoldLine;
use super::permit::Word;
use crate::record::Slots;

/// The file's name in the state folder.
pub const BRAKE_FILE: &str = "brake";
/// Layout of what it holds.
const VERSION: u32 = 1;
/// Longest reason that is kept, in characters: a slot holds 4 KiB.
const MAX_REASON_CHARS: usize = 500;

#[derive(Serialize, Deserialize)]
struct Kept<W> {
    v: u32,
    word: W,
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

/// What the last run kept in `state_dir`; `None` where nothing was ever heard, or it cannot be read.
pub fn read(state_dir: &Path) -> Option<Word> {
    let path = state_dir.join(BRAKE_FILE);
    // Opening makes the file now, while there is room for it.
    match Slots::open(&path) {
        Ok((_, Some(bytes))) => match serde_json::from_slice::<Kept<Word>>(&bytes) {
            Ok(kept) if kept.v == VERSION => Some(kept.word),
            Ok(kept) => {
                tracing::error!(path = %path.display(), version = kept.v, "what the collector said of cleanups last is of another version");
                None
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "what the collector said of cleanups last is not understood");
                None
            }
        },
        Ok((_, None)) => None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "what the collector says of cleanups cannot be kept over a restart");
            None
        }
    }
}

/// Keeps `word` in `state_dir`; durable when this returns.
fn keep(state_dir: &Path, word: &Word) -> Result<(), String> {
    let mut word = word.clone();
    word.reason = word.reason.chars().take(MAX_REASON_CHARS).collect();
    let bytes = serde_json::to_vec(&Kept { v: VERSION, word }).map_err(|e| e.to_string())?;
    let (mut slots, _) = Slots::open(&state_dir.join(BRAKE_FILE)).map_err(|e| e.to_string())?;
    slots.write(&bytes).map_err(|e| e.to_string())
}

/// Starts the thread; it ends when the sender is gone.
///
/// # Errors
/// When there can be no thread.
pub fn start(state_dir: PathBuf, holds: HoldLine) -> std::io::Result<Sender<BrakeJob>> {
    let (jobs_tx, jobs) = channel();
    std::thread::Builder::new().name("brake".to_owned()).spawn(move || run(&state_dir, &holds, &jobs))?;
    Ok(jobs_tx)
}

fn run(state_dir: &Path, holds: &HoldLine, jobs: &Receiver<BrakeJob>) {
    while let Ok(first) = jobs.recv() {
        let mut newest = None;
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                BrakeJob::Halt { action, why } => holds.halt(action, why),
                BrakeJob::Keep(word) => newest = Some(word),
            }
        }
        if let Some(word) = newest
            && let Err(error) = keep(state_dir, &word)
        {
            tracing::error!(
                error,
                "what the collector says of cleanups is in force, and a restart of the agent would forget it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::Hash;

    use super::*;
    use crate::act::permit::BrakeState;

    #[test]
    fn what_was_said_last_is_read_again_and_golden_bytes_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        for revision in 1..4 {
            let word = Word {
                revision,
                state: BrakeState::Tripped,
                reason: "ü".repeat(2_000),
                proven: Some(Hash([9; 32])),
            };
            keep(dir.path(), &word).unwrap();
            let back = read(dir.path()).unwrap();
            assert_eq!((back.revision, back.state, back.proven), (revision, word.state, word.proven));
            assert_eq!(back.reason.chars().count(), MAX_REASON_CHARS);
        }
        assert_eq!(std::fs::metadata(dir.path().join(BRAKE_FILE)).unwrap().len(), 8192, "its size is fixed");
        let golden = r#"{"v":1,"word":{"revision":3,"state":"paused","reason":"r","proven":null}}"#;
        let (mut slots, _) = Slots::open(&dir.path().join(BRAKE_FILE)).unwrap();
        slots.write(golden.as_bytes()).unwrap();
        let word = read(dir.path()).unwrap();
        assert_eq!(
            word,
            Word { revision: 3, state: BrakeState::Paused, reason: "r".to_owned(), proven: None }
        );
    }
}
