//! The indexer: the thread that keeps the index what the journals say.
//!
//! It reads the journals themselves, up to the marks that the writers put up, so building anew, catching up after a
//! start and following what is committed are one path, in bounded memory. Whatever goes wrong with an index (an error,
//! a panic, a hang, a digest that does not match) has one answer: the folder is moved aside, a fresh index is built
//! from the beginning, and ingest goes on meanwhile. After [`MAX_ON_DISK`] failures none of which it had recovered from
//! ([`STEADY`]) the index stays in memory, and status says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::journal::{JournalError, Position, Reader};
use tokio::sync::{broadcast, watch};

use super::Notice;
use super::board::{Board, Goal};
use super::doubt::Doubt;
use super::expire::expire;
use super::index::{Checkpoint, Draft, Folded, Index, IndexError, Opener, examine};
use super::memory_index::MemoryIndex;
use super::unfolded::{Ahead, Frame, Frames, Which};
use super::watchdog::{Deadlines, Watched};

/// Failures of an index on disk before it stays in memory: a third would not end better than two.
const MAX_ON_DISK: u32 = 3;
/// An index that did well for so long has recovered: what fails later is another story. Longer than any build.
const STEADY: Duration = Duration::from_secs(3600);
/// Between flushes of an index that changed; what was not flushed is folded again after a crash.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Pause after a journal could not be read.
const READ_RETRY: Duration = Duration::from_millis(200);

/// How the index does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexStatus {
    /// `sled` or `memory`.
    pub engine: &'static str,
    /// Whether it answers; false while it is built.
    pub ready: bool,
    /// How often it was built anew since start.
    pub rebuilds: u32,
    /// Why it was last built anew, or why it is in memory.
    pub reason: Option<String>,
    /// Whether it stays in memory because the one on disk kept failing.
    pub fallback: bool,
    /// Frames folded since start.
    pub folded_frames: u64,
    /// Frames that could not be understood since start: damaged, or of a newer version.
    pub odd_frames: u64,
    /// How long the last build took.
    pub build_time: Duration,
    /// When it was opened or built; `None` while it is.
    pub ready_since: Option<Instant>,
    /// How far it is behind what is durable and what expired: the time since it had caught up last; zero where it has.
    pub lag: Duration,
}

/// Where the current index is found.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<SlotState>,
    ready: Condvar,
}

#[derive(Debug)]
struct SlotState {
    index: Option<Arc<dyn Index>>,
    generation: u64,
    status: IndexStatus,
    /// How far the urgent and the truth journal are folded.
    folded: (Position, Position),
    /// First urgent segment that the rows account for.
    floor: u64,
    /// When everything was that was durable then.
    caught_up: Instant,
}

impl Slot {
    pub(super) fn new() -> Self {
        let status = IndexStatus {
            engine: "none",
            ready: false,
            rebuilds: 0,
            reason: None,
            fallback: false,
            folded_frames: 0,
            odd_frames: 0,
            build_time: Duration::ZERO,
            ready_since: None,
            lag: Duration::ZERO,
        };
        let state = SlotState {
            index: None,
            generation: 0,
            status,
            folded: Default::default(),
            floor: 0,
            caught_up: Instant::now(),
        };
        Self { state: Mutex::new(state), ready: Condvar::new() }
    }

    /// The index and its generation, waiting for it at most `patience`.
    pub(super) fn current(&self, patience: Duration) -> Option<(Arc<dyn Index>, u64)> {
        let (guard, _) = self
            .ready
            .wait_timeout_while(self.lock(), patience, |s| s.index.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        guard.index.clone().map(|i| (i, guard.generation))
    }

    /// Whether everything up to `goal` is folded and told.
    pub(super) fn reached(&self, goal: &Goal) -> bool {
        let s = self.lock();
        s.folded.0 >= goal.urgent && s.folded.1 >= goal.truth
    }

    /// How it does; `goal`: what is durable.
    pub(super) fn status(&self, goal: &Goal) -> IndexStatus {
        let s = self.lock();
        let behind = s.folded.0 < goal.urgent || s.folded.1 < goal.truth || s.floor < goal.floor;
        let lag = if behind { s.caught_up.elapsed() } else { Duration::ZERO };
        IndexStatus { lag, ..s.status.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread is made of.
pub(super) struct Indexer {
    pub(super) dir: PathBuf,
    pub(super) opener: Opener,
    pub(super) deadlines: Deadlines,
    pub(super) urgent: Reader,
    pub(super) truth: Reader,
    pub(super) board: Arc<Board>,
    pub(super) slot: Arc<Slot>,
    pub(super) doubt: Arc<Doubt>,
    pub(super) notices: broadcast::Sender<Notice>,
    pub(super) folded: watch::Sender<Position>,
    /// Nothing up to these is told to subscribers: it was there before they could subscribe.
    pub(super) told: (Position, Position),
}

/// An index that is kept up.
struct Held {
    index: Arc<dyn Index>,
    checkpoint: Checkpoint,
    dirty: bool,
    flushed: Instant,
}

/// Why work on an index stopped.
#[derive(Debug)]
pub(super) enum WorkError {
    /// The index failed: build it anew.
    Index(IndexError),
    /// A journal could not be read: try again.
    Journal(JournalError),
    /// The store closes.
    Stopping,
}

impl From<IndexError> for WorkError {
    fn from(e: IndexError) -> Self {
        Self::Index(e)
    }
}

impl From<JournalError> for WorkError {
    fn from(e: JournalError) -> Self {
        Self::Journal(e)
    }
}

impl Indexer {
    /// Runs until the store closes.
    pub(super) fn run(mut self) {
        let mut failures = Failures::default();
        let mut why: Option<String> = None;
        while let Some(held) = self.build(&mut failures, &mut why) {
            match self.follow(held) {
                Some(e) => {
                    failures.count(Instant::now());
                    why = Some(e);
                }
                None => return,
            }
        }
    }

    /// Keeps the index up until it fails (the reason) or the store closes.
    fn follow(&mut self, mut held: Held) -> Option<String> {
        loop {
            let goal = self.board.wait(FLUSH_EVERY);
            let broken =
                goal.broken.clone().filter(|(generation, _)| *generation == self.slot.lock().generation);
            let outcome = match broken {
                Some((_, why)) => return Some(why),
                None => self.reach(&mut held, &goal).and_then(|()| Ok(held.flush(goal.stop)?)),
            };
            match outcome {
                Ok(()) if goal.stop => return None,
                Ok(()) => {}
                Err(WorkError::Stopping) => {
                    // What could not be flushed is folded again at the next start.
                    let _ = held.flush(true);
                    return None;
                }
                Err(WorkError::Index(e)) => return Some(e.to_string()),
                Err(WorkError::Journal(error)) => {
                    tracing::error!(%error, "the indexer cannot read a journal; it tries again");
                    if goal.stop {
                        return None;
                    }
                    std::thread::sleep(READ_RETRY);
                    self.board.retry();
                }
            }
        }
    }

    /// Opens the index, or builds one, and makes it the current one. `None`: the store closes.
    fn build(&mut self, failures: &mut Failures, why: &mut Option<String>) -> Option<Held> {
        loop {
            let begun = Instant::now();
            if let Some(reason) = why.as_ref() {
                tracing::warn!(
                    reason,
                    failures = failures.count,
                    "the index is built anew from the journals"
                );
                let mut s = self.slot.lock();
                let old = s.index.take();
                s.status.ready = false;
                s.status.ready_since = None;
                s.folded = Default::default();
                s.status.rebuilds += 1;
                s.status.reason = Some(reason.clone());
                drop(s);
                // Closing may wait for an engine that hangs.
                drop(old);
                move_aside(&self.dir);
            }
            let fallback = failures.count >= MAX_ON_DISK;
            let goal = self.board.goal();
            let outcome = self.open(fallback, &goal).and_then(|mut held| {
                self.reach(&mut held, &goal)?;
                Ok(held)
            });
            match outcome {
                Ok(held) => {
                    let mut s = self.slot.lock();
                    s.index = Some(Arc::clone(&held.index));
                    s.generation += 1;
                    s.status.ready = true;
                    s.status.fallback = fallback;
                    s.status.engine = held.index.engine();
                    s.status.build_time = begun.elapsed();
                    s.status.ready_since = Some(Instant::now());
                    failures.built(Instant::now());
                    self.slot.ready.notify_all();
                    return Some(held);
                }
                Err(WorkError::Stopping) => return None,
                Err(WorkError::Index(e)) => {
                    failures.count(Instant::now());
                    *why = Some(e.to_string());
                }
                Err(WorkError::Journal(error)) => {
                    tracing::error!(%error, "the index cannot be built; the indexer tries again");
                    if self.board.stopping() {
                        return None;
                    }
                    std::thread::sleep(READ_RETRY);
                }
            }
        }
    }

    fn open(&self, fallback: bool, goal: &Goal) -> Result<Held, WorkError> {
        let index: Arc<dyn Index> = if fallback {
            Arc::new(MemoryIndex::default())
        } else {
            Arc::new(Watched::open(&self.dir, self.deadlines, &self.opener)?)
        };
        let fresh = Checkpoint { floor: goal.floor, ..Checkpoint::empty() };
        let checkpoint = match examine(&*index)? {
            None => {
                // Nobody folded what was there before.
                self.doubt.index_is_new();
                fresh
            }
            Some(c) => {
                self.same_journal(&self.truth, c.truth, goal.truth).inspect_err(|e| {
                    if matches!(e, WorkError::Index(_)) {
                        // Before the index that shows it is moved aside.
                        self.doubt
                            .raise("the journal of its decisions no longer holds the newest that it knew");
                    }
                })?;
                self.same_journal(&self.urgent, c.urgent, goal.urgent)?;
                if c.floor > goal.floor {
                    return Err(IndexError::Mismatch("it is ahead of the urgent journal".to_owned()).into());
                }
                c
            }
        };
        Ok(Held { index, checkpoint, dirty: false, flushed: Instant::now() })
    }

    /// Whether what the index folded last is still where it was.
    fn same_journal(&self, reader: &Reader, folded: Folded, durable: Position) -> Result<(), WorkError> {
        let at = folded.position();
        if at == Position::default() {
            return Ok(());
        }
        let same = at <= durable
            && reader.read_at(at)?.is_some_and(|e| Folded::after(at, &e.payload).frame == folded.frame);
        if same {
            Ok(())
        } else {
            let detail = "the journal no longer holds what the index folded last".to_owned();
            Err(IndexError::Mismatch(detail).into())
        }
    }

    /// Brings the index up to the marks.
    fn reach(&mut self, held: &mut Held, goal: &Goal) -> Result<(), WorkError> {
        if goal.floor > held.checkpoint.floor {
            held.dirty = true;
            let stopping = || self.board.stopping();
            expire(&*held.index, &mut held.checkpoint, &self.urgent, goal.floor, stopping)?;
        }
        self.advance(held, Which::Truth, goal.truth)?;
        self.folded.send_replace(held.checkpoint.truth.position());
        self.advance(held, Which::Urgent, goal.urgent)?;
        let mut s = self.slot.lock();
        s.folded = (held.checkpoint.urgent.position(), held.checkpoint.truth.position());
        s.floor = held.checkpoint.floor;
        s.caught_up = Instant::now();
        Ok(())
    }

    fn advance(&mut self, held: &mut Held, which: Which, upto: Position) -> Result<(), WorkError> {
        let from = which.folded(&held.checkpoint).position();
        if from >= upto {
            return Ok(());
        }
        let mut frames = Ahead::new(
            match which {
                Which::Urgent => self.urgent.scan(from),
                Which::Truth => self.truth.scan(from),
            },
            from,
        );
        let index = Arc::clone(&held.index);
        let mut more = true;
        while more {
            if self.board.stopping() && self.slot.lock().index.is_none() {
                // Closing need not wait for a build; the next start goes on from here.
                return Err(WorkError::Stopping);
            }
            let batch = Frames::take(&mut frames, which, self.told, from, upto)?;
            more = !batch.last;
            let Some(last) = batch.folded else { continue };
            let mut draft = Draft::patient(&*index);
            loop {
                for frame in &batch.frames {
                    frame.fold(&mut draft)?;
                }
                if draft.learn()? {
                    break;
                }
            }
            let mut next = held.checkpoint.clone();
            match which {
                Which::Urgent => next.urgent = last,
                Which::Truth => next.truth = last,
            }
            draft.apply(&mut next)?;
            held.checkpoint = next;
            held.dirty = true;
            let mark = match which {
                Which::Urgent => &mut self.told.0,
                Which::Truth => &mut self.told.1,
            };
            *mark = (*mark).max(last.position());
            for notice in batch.frames.into_iter().filter_map(Frame::told) {
                // Nobody listening is no error.
                let _ = self.notices.send(notice);
            }
            let mut s = self.slot.lock();
            s.status.folded_frames += batch.count;
            s.status.odd_frames += batch.odd;
        }
        Ok(())
    }
}

/// Failures of the index on disk since it was last seen to have recovered.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    built: Option<Instant>,
}

impl Failures {
    /// It answers, from now on.
    fn built(&mut self, now: Instant) {
        self.built = Some(now);
    }

    /// It failed.
    fn count(&mut self, now: Instant) {
        if self.built.take().is_some_and(|since| now.saturating_duration_since(since) >= STEADY) {
            self.count = 0;
        }
        self.count += 1;
    }
}

impl Held {
    fn flush(&mut self, now: bool) -> Result<(), IndexError> {
        if self.dirty && (now || self.flushed.elapsed() >= FLUSH_EVERY) {
            self.index.flush()?;
            self.dirty = false;
            self.flushed = Instant::now();
        }
        Ok(())
    }
}

/// Moves a failed index out of the way; the one moved before it goes.
fn move_aside(dir: &Path) {
    let broken = dir.with_file_name("index.broken-1");
    let moved = match fs::remove_dir_all(&broken) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => fs::rename(dir, &broken),
    };
    if let Err(error) = moved
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(index = %dir.display(), %error, "the failed index could not be moved aside; it is removed");
        // If even that fails, opening fails, too, and the index stays in memory.
        let _ = fs::remove_dir_all(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_and_then_did_well_for_long_has_its_tries_again() {
        let t0 = Instant::now();
        let mut failures = Failures::default();
        for month in 1..=10 {
            let begun = t0 + STEADY * 700 * month;
            failures.built(begun);
            failures.count(begun + STEADY);
            assert_eq!(failures.count, 1, "month {month}");
        }
        // Built again and again, and never well for long; nor does a failure while it is built take the count back.
        let begun = t0 + STEADY * 8_000;
        failures.built(begun);
        failures.count(begun + STEADY / 2);
        failures.count(begun + STEADY * 2);
        assert_eq!(failures.count, MAX_ON_DISK);
    }
}
