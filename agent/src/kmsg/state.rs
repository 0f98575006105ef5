//! How far the record of the kernel's log is durable, on disk.
//!
//! The value lies in two slots written in turn ([`crate::record`]'s small values), so that a torn write costs at most
//! the newest one and a full disk none. Layout of the value, little-endian: version 1 (one byte), boot id (16), next
//! (u64), then 1 and the newest message of the evidence stream (u64), or 0. Anything else is no value.
//!
//! It is written by a thread of its own, at most once a second: a sync can take for ever.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::Mark;
use crate::record::slots::Slots;

/// The file's name in the agent's state folder.
pub const CHECKPOINT_FILE: &str = "kmsg-checkpoint";
const VERSION: u8 = 1;
/// No more than one sync in this time.
const EVERY: Duration = Duration::from_secs(1);

/// How far it was durable, on which boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The boot that the numbers belong to.
    pub boot_id: [u8; 16],
    /// How far.
    pub mark: Mark,
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&self.mark.next.to_le_bytes());
        out.push(u8::from(self.mark.evidence_to.is_some()));
        out.extend(self.mark.evidence_to.iter().flat_map(|seq| seq.to_le_bytes()));
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (boot_id, rest) = value.strip_prefix(&[VERSION])?.split_first_chunk::<16>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let evidence_to = match rest {
            [0] => None,
            [1, seq @ ..] => Some(u64::from_le_bytes(seq.try_into().ok()?)),
            _ => return None,
        };
        Some(Self { boot_id: *boot_id, mark: Mark { next: u64::from_le_bytes(*next), evidence_to } })
    }
}

/// The thread that keeps the checkpoint. It ends when every sender of marks is gone, and nobody waits for that: what it
/// did not write is in the journal.
#[derive(Debug)]
pub struct Keeper;

impl Keeper {
    /// Reads what was kept in `path`, and starts a thread that keeps what the sender is given for `boot_id`.
    ///
    /// # Errors
    /// Those of starting a thread. A file that cannot be made or read is told in the third place, in words; reading
    /// goes on without it.
    pub fn start(
        path: PathBuf,
        boot_id: [u8; 16],
    ) -> std::io::Result<(Sender<Mark>, Option<Checkpoint>, Option<String>)> {
        let (slots, value, problem) = match Slots::open(&path) {
            Ok((slots, value)) => (Some(slots), value, None),
            Err(e) => {
                let what = format!(
                    "{}: {e}; after a crash the kernel's log is continued from the journal alone",
                    path.display()
                );
                (None, None, Some(what))
            }
        };
        let (sender, marks) = channel();
        std::thread::Builder::new()
            .name("kmsg-checkpoint".to_owned())
            .spawn(move || keep(slots, boot_id, &marks))?;
        Ok((sender, value.as_deref().and_then(Checkpoint::decode), problem))
    }
}

fn keep(mut slots: Option<Slots>, boot_id: [u8; 16], marks: &Receiver<Mark>) {
    let mut failing = false;
    while let Ok(mut mark) = marks.recv() {
        if let Some(slots) = &mut slots {
            match slots.write(&Checkpoint { boot_id, mark }.encode()) {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the checkpoint of the kernel's log cannot be written");
                }
                Err(_) => {}
            }
        }
        let until = Instant::now() + EVERY;
        let mut newer = false;
        loop {
            match marks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => (mark, newer) = (next, true),
                Err(RecvTimeoutError::Timeout) if !newer => break,
                Err(end) => {
                    if newer && let Some(slots) = &mut slots {
                        // What fails here is told with the next mark, or lies in the journal.
                        let _ = slots.write(&Checkpoint { boot_id, mark }.encode());
                    }
                    if end == RecvTimeoutError::Disconnected {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_garbage_is_not() {
        for evidence_to in [None, Some(5)] {
            let kept = Checkpoint { boot_id: [7; 16], mark: Mark { next: 9, evidence_to } };
            let value = kept.encode();
            assert_eq!(Checkpoint::decode(&value), Some(kept));
            for cut in 0..value.len() {
                assert_eq!(Checkpoint::decode(&value[..cut]), None);
            }
            assert_eq!(Checkpoint::decode(&[&[2], &value[1..]].concat()), None);
        }
    }

    #[test]
    fn the_newest_mark_is_on_disk_soon_after_the_sender_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT_FILE);
        let (marks, none, problem) = Keeper::start(path.clone(), [1; 16]).unwrap();
        assert_eq!((none, problem), (None, None));
        for next in 1..=50 {
            marks.send(Mark { next, evidence_to: Some(next / 2) }).unwrap();
        }
        drop(marks);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let value = Slots::open(&path).unwrap().1;
            if value.as_deref().and_then(Checkpoint::decode).is_some_and(|c| c.mark.next == 50) {
                break;
            }
            assert!(Instant::now() < deadline, "{value:?}");
            std::thread::yield_now();
        }
        // A torn file is no obstacle.
        std::fs::write(&path, b"DWSL garbage").unwrap();
        let (_marks, none, problem) = Keeper::start(path, [1; 16]).unwrap();
        assert_eq!((none, problem), (None, None));
    }
}
