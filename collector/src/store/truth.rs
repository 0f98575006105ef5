//! The truth journal: decisions, durable before they have effect.
//!
//! A decision is a JSON frame with a version. Nothing expires: the journal is small (some 300 bytes a decision), and
//! what the collector decided is not receipt-dated evidence. It is bounded by its number of segments; a decision that
//! no longer fits is refused with the remedy. Compaction (a decision that holds the state so far) is deliberately
//! absent: a gigabyte holds some three million decisions.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dogwatch::journal::{FrameKind, JournalError, Position};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use super::board::Board;
use super::decision::Decision;
use super::seat::Seat;
use super::{Clock, DecideError};

/// Layout of a frame.
const VERSION: u32 = 1;
/// Most calls that wait for a sync; more wait for their turn.
const WAITING: usize = 1024;
/// Most calls under one sync.
const BATCH_CALLS: usize = 256;

/// A frame of the truth journal.
#[derive(Serialize, Deserialize)]
struct Frame<D> {
    v: u32,
    decision: D,
}

/// A frame's bytes.
pub(super) fn encode(decision: &Decision) -> Result<Vec<u8>, DecideError> {
    serde_json::to_vec(&Frame { v: VERSION, decision })
        .map_err(|e| DecideError::Refused { reason: format!("it does not encode: {e}") })
}

/// A decision from a frame's bytes; the error names what is not understood.
pub(super) fn decode(bytes: &[u8]) -> Result<Decision, String> {
    let frame: Frame<Decision> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if frame.v == VERSION { Ok(frame.decision) } else { Err(format!("version {} is not {VERSION}", frame.v)) }
}

enum Job {
    Decide { frames: Vec<Vec<u8>>, reply: oneshot::Sender<Result<Position, DecideError>> },
    Stop,
}

/// The way to the thread that writes the truth journal.
pub(super) struct TruthWriter {
    jobs: Sender<Job>,
    turn: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    failing: Failing,
}

/// Why the journal took nothing the last time, if it did not.
type Failing = Arc<Mutex<Option<String>>>;

impl TruthWriter {
    pub(super) fn start(seat: Seat, dir: PathBuf, board: Arc<Board>, clock: Clock) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let failing = Failing::default();
        let told = Arc::clone(&failing);
        let thread = std::thread::Builder::new()
            .name("store-truth".to_owned())
            .spawn(move || run(seat, &dir, &board, &clock, &inbox, &told))?;
        Ok(Self { jobs, turn: Arc::new(Semaphore::new(WAITING)), thread: Mutex::new(Some(thread)), failing })
    }

    /// Why it took nothing the last time, if it did not.
    pub(super) fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the decisions durable, all under one sync; where the last of them stands.
    pub(super) async fn decide(&self, decisions: &[Decision]) -> Result<Option<Position>, DecideError> {
        if decisions.is_empty() {
            return Ok(None);
        }
        let frames = decisions.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let _turn = self.turn.acquire().await.map_err(|_| DecideError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Decide { frames, reply }).map_err(|_| DecideError::Closed)?;
        answer.await.map_err(|_| DecideError::Closed)?.map(Some)
    }

    pub(super) fn stop(&self) {
        // A thread that is gone already has nothing left to stop.
        let _ = self.jobs.send(Job::Stop);
        self.turn.close();
        if let Some(t) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && t.join().is_err()
        {
            tracing::error!("the writer of the truth journal had panicked");
        }
    }
}

fn run(
    mut seat: Seat,
    dir: &std::path::Path,
    board: &Board,
    clock: &Clock,
    inbox: &Receiver<Job>,
    failing: &Mutex<Option<String>>,
) {
    let tell = |why: Option<String>| *failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    let mut stop = false;
    while !stop {
        let Ok(first) = inbox.recv() else { break };
        let mut batch = vec![first];
        while batch.len() < BATCH_CALLS {
            let Ok(job) = inbox.try_recv() else { break };
            batch.push(job);
        }
        let mut waiting = Vec::new();
        let mut last = None;
        for job in batch {
            match job {
                Job::Stop => stop = true,
                Job::Decide { frames, reply } => match append(&mut seat, &frames, clock) {
                    Ok(at) => {
                        last = Some(at);
                        waiting.push((reply, at));
                    }
                    Err(e) => {
                        tell(Some(e.to_string()));
                        drop(reply.send(Err(e)));
                    }
                },
            }
        }
        let Some(last) = last else { continue };
        let synced = match seat.journal() {
            Ok(j) => j.sync().map_err(|e| seat.fail(&e)),
            Err(why) => Err(why),
        };
        if synced.is_ok() {
            board.truth(last);
        }
        tell(synced.as_ref().err().map(ToString::to_string));
        for (reply, at) in waiting {
            let outcome = match &synced {
                Ok(()) => Ok(at),
                Err(why) => Err(DecideError::Uncertain { reason: Arc::clone(why) }),
            };
            // Whoever stopped waiting misses nothing: the decision stands.
            let _ = reply.send(outcome);
        }
    }
    if let Err(error) = seat.close() {
        tracing::error!(journal = %dir.display(), %error, "the truth journal did not close cleanly");
    }
}

fn append(seat: &mut Seat, frames: &[Vec<u8>], clock: &Clock) -> Result<Position, DecideError> {
    let mut last = Position::default();
    for (i, frame) in frames.iter().enumerate() {
        let journal = seat.journal().map_err(|reason| DecideError::Uncertain { reason })?;
        match journal.append(FrameKind::Decision, frame, clock()) {
            Ok(at) => last = at,
            Err(e @ JournalError::Failed { .. }) => {
                return Err(DecideError::Uncertain { reason: seat.fail(&e) });
            }
            // Anything else changes nothing in the journal; but what went before it in this call stands.
            Err(e) if i > 0 => return Err(DecideError::Uncertain { reason: e.to_string().into() }),
            Err(e @ JournalError::Full { .. }) => {
                let remedy = "free space, or raise max_bytes of the truth journal, of which nothing expires";
                return Err(DecideError::Refused { reason: format!("{e}; {remedy}") });
            }
            Err(e) => return Err(DecideError::Refused { reason: e.to_string() }),
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::super::decision::What;
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_stranger_is_named() {
        let d = Decision {
            wall_ns: 5,
            actor: "collector".to_owned(),
            what: What::NoteAdded { id: "inc-2026-01-01-001".to_owned(), text: "hm".to_owned() },
        };
        let bytes = encode(&d).unwrap();
        assert_eq!(decode(&bytes).unwrap(), d);
        let golden = r#"{"v":1,"decision":{"wall_ns":5,"actor":"collector","what":{"kind":"note-added","id":"inc-2026-01-01-001","text":"hm"}}}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), golden);
        assert!(
            decode(golden.replace("note-added", "song-sung").as_bytes()).unwrap_err().contains("song-sung")
        );
        assert!(decode(golden.replace("\"v\":1", "\"v\":9").as_bytes()).unwrap_err().contains("version 9"));
    }
}
