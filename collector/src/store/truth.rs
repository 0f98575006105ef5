//! The truth journal: decisions, durable before they have effect.
//!
//! A decision is a JSON frame with a version. Nothing expires: the journal is small (some 300 bytes a decision), and
//! what the collector decided is not receipt-dated evidence. It is bounded by its number of segments; a decision that
//! no longer fits is refused with the remedy. The last of them ([`KEPT_SEGMENTS`]) are kept for what people decide and for
//! what the fleet brake must ([`Decision::is_kept_room_for`]): however many decisions nodes cause, a stop finds room.
//! Compaction (a decision that holds the state so far) is deliberately absent: a gigabyte holds some three million decisions.

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

/// Segments that are kept for what people and the brake need: 16 MiB, some 50,000 stops, releases and holds.
const KEPT_SEGMENTS: u32 = 2;
/// A file more than decisions may fill: an opening makes small segments one, also where all are in use, so that starts use
/// up nothing.
pub(super) const MERGE_SEGMENTS: u32 = 1;
/// No more than one in so many is: a journal that is set small takes other decisions, too.
const KEPT_OF: u32 = 4;
/// Why it takes nothing else then.
const FULL: &str =
    "the journal of decisions is full but for what is kept for stops, releases, holds and people's orders";
/// What to do about that.
const REMEDY: &str =
    "of which nothing expires: raise retention.truth.max_bytes and start the collector again";

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
    /// `kept`: of the room that is kept, too.
    Decide {
        frames: Vec<Vec<u8>>,
        kept: bool,
        reply: oneshot::Sender<Result<Position, DecideError>>,
    },
    Stop,
}

/// The way to the thread that writes the truth journal.
pub(super) struct TruthWriter {
    jobs: Sender<Job>,
    turn: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    standing: Arc<Mutex<TruthStatus>>,
}

/// How the truth journal does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TruthStatus {
    /// Why it took nothing the last time, if it did not.
    pub failing: Option<String>,
    /// Bytes of its segments that are in use.
    pub used_bytes: u64,
    /// Most bytes that they may have.
    pub max_bytes: u64,
}

impl TruthWriter {
    pub(super) fn start(seat: Seat, dir: PathBuf, board: Arc<Board>, clock: Clock) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let mut seat = seat;
        let standing = Arc::new(Mutex::new(TruthStatus::default()));
        measure(&mut seat, &standing);
        let told = Arc::clone(&standing);
        let thread = std::thread::Builder::new()
            .name("store-truth".to_owned())
            .spawn(move || run(seat, &dir, &board, &clock, &inbox, &told))?;
        Ok(Self { jobs, turn: Arc::new(Semaphore::new(WAITING)), thread: Mutex::new(Some(thread)), standing })
    }

    /// How it does.
    pub(super) fn status(&self) -> TruthStatus {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the decisions durable, all under one sync; where the last of them stands.
    pub(super) async fn decide(&self, decisions: &[Decision]) -> Result<Option<Position>, DecideError> {
        if decisions.is_empty() {
            return Ok(None);
        }
        let frames = decisions.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let kept = decisions.iter().any(Decision::is_kept_room_for);
        let _turn = self.turn.acquire().await.map_err(|_| DecideError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Decide { frames, kept, reply }).map_err(|_| DecideError::Closed)?;
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
    standing: &Mutex<TruthStatus>,
) {
    let tell = |why: Option<String>| standing.lock().unwrap_or_else(PoisonError::into_inner).failing = why;
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
                Job::Decide { frames, kept, reply } => match append(&mut seat, &frames, kept, clock) {
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
        measure(&mut seat, standing);
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

/// Says how full the journal is.
fn measure(seat: &mut Seat, standing: &Mutex<TruthStatus>) {
    let (segment, most) = (seat.segment_bytes(), most_segments(seat));
    let used = seat.journal().ok().map(|journal| journal.used_segments() as u64);
    let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
    standing.max_bytes = segment.saturating_mul(u64::from(most));
    if let Some(used) = used {
        standing.used_bytes = segment.saturating_mul(used);
    }
    // What it takes of people does not say that it takes anything else.
    if standing.failing.is_none() && is_full(seat).is_ok_and(|full| full) {
        standing.failing = Some(full());
    }
}

/// Whether all but what is kept for people and the brake is in use.
fn is_full(seat: &mut Seat) -> Result<bool, DecideError> {
    let most = most_segments(seat);
    let journal = seat.journal().map_err(|reason| DecideError::Uncertain { reason })?;
    let left = (most as usize).saturating_sub(journal.used_segments());
    Ok(left < KEPT_SEGMENTS.min(most / KEPT_OF) as usize)
}

/// Segments that decisions may fill.
fn most_segments(seat: &Seat) -> u32 {
    seat.max_segments().saturating_sub(MERGE_SEGMENTS)
}

fn full() -> String {
    format!("{FULL}; {REMEDY}")
}

fn append(seat: &mut Seat, frames: &[Vec<u8>], kept: bool, clock: &Clock) -> Result<Position, DecideError> {
    if !kept && is_full(seat)? {
        return Err(DecideError::Refused { reason: full() });
    }
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
                return Err(DecideError::Refused { reason: format!("{e}; free space, or {REMEDY}") });
            }
            Err(e) => return Err(DecideError::Refused { reason: e.to_string() }),
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use dogwatch::journal::Options;

    use super::super::decision::{PermitEnd, What};
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

    #[test]
    fn what_nodes_cause_leaves_room_for_stops_releases_holds_and_people() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, max_segments: 9, preallocate_segments: 1 };
        let open = || Seat::open(dir.path().join("truth"), options).unwrap().0;
        let clock: Clock = Arc::new(|| 5);
        let decide = |seat: &mut Seat, actor: &str, what: What| {
            let decision = Decision { wall_ns: 5, actor: actor.to_owned(), what };
            let frame = encode(&decision).unwrap();
            append(seat, &[frame], decision.is_kept_room_for(), &clock).map_err(|e| e.to_string())
        };
        let mut seat = open();
        let caused = || What::NodeSpoke {
            node: "n1".parse().unwrap(),
            agent_version: "x".repeat(60_000),
            mode: None,
            policy: None,
        };
        let mut bytes = 0;
        let refused = loop {
            match decide(&mut seat, "collector", caused()) {
                Ok(_) => bytes += 60_000u64,
                Err(why) => break why,
            }
            assert!(bytes < 8 << 20, "no room is kept");
        };
        assert!(
            refused.contains("kept for stops") && refused.contains("retention.truth.max_bytes"),
            "{refused}"
        );
        assert!(bytes > 5 << 20, "{bytes} bytes are too few to be refused");
        let reason = || "look".to_owned();
        let (node, action): (dogwatch::record::NodeName, _) = ("n1".parse().unwrap(), "a-1".to_owned());
        let needed = || {
            let (node, action) = (node.clone(), action.clone());
            [
                What::BrakePaused { reason: reason() },
                What::BrakeReleased { reason: reason(), past: Vec::new() },
                What::PermitEnded { node, action, how: PermitEnd::Well },
                What::HoldReleased { hold: "hold-1".to_owned(), reason: reason() },
            ]
        };
        // Starts use up nothing of it.
        for _ in 0..20 {
            for what in needed() {
                decide(&mut seat, "collector", what).unwrap();
            }
            let note = What::NoteAdded { id: "inc-2026-01-01-001".to_owned(), text: "hm".to_owned() };
            decide(&mut seat, "ada", note).unwrap();
            assert!(decide(&mut seat, "collector", caused()).is_err());
            seat.close().unwrap();
            seat = open();
        }
        let standing = Mutex::new(TruthStatus::default());
        measure(&mut seat, &standing);
        let standing = standing.into_inner().unwrap();
        assert_eq!((standing.used_bytes, standing.max_bytes), (7 << 20, 8 << 20));
        assert!(standing.failing.unwrap().contains("kept for stops"));
    }
}
