//! The thread around a [`Tailer`]: looks when a hint comes or time is up, and hands batches to a bounded channel.
//!
//! Hints come from inotify. They only make the next look come sooner; where they fail or come by the thousand (a busy
//! log gives one for each write), they are left off and the looks by the clock go on. Where every folder gives them and
//! nothing else waits, the next look is the next sweep: so late is growth seen of which inotify does not tell (a file that is
//! mapped into memory, another client of the same server).
//!
//! Backpressure: where the channel is full the thread waits, and so does reading; the files are the buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dogwatch::record::Moment;
use notify::event::{ModifyKind, RemoveKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::follow::folder_id;
use super::{CheckpointWriter, Mark, Stats, TailEvent, Tailer};

/// Events in one batch, at most.
const BATCH_EVENTS: usize = 1024;
/// Bytes of lines in one batch, at most (one line more may be in it).
const BATCH_BYTES: usize = 1024 * 1024;
/// Folders watched for hints; the others are seen by the clock.
const MAX_WATCHES: usize = 512;
/// Names that went and are remembered until the watches are put right.
const MAX_MOVED: usize = 4096;
/// Hints in a second beyond which they cost more than they bring.
const MAX_HINTS: u64 = 2000;
/// How long hints stay off after too many of them.
const HINTS_OFF: Duration = Duration::from_secs(10);
/// How long hints are gathered before they are followed,
const COALESCE: Duration = Duration::from_millis(10);
/// and how much longer for each open file, of which asking for its size costs some 0.5 µs.
const COALESCE_A_FILE: Duration = Duration::from_micros(20);
/// How long a full channel is left alone.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// What the thread sends: events in order.
pub type Batch = Vec<TailEvent>;

/// Stops the thread and asks it how it goes.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    rung: Mutex<bool>,
    bell: Condvar,
    hints: AtomicU64,
    /// Whether one of the hints was about a name.
    appeared: AtomicBool,
    /// What went, or changed its name: the watch on such a folder tells of nothing any more, or of another folder.
    moved: Mutex<BTreeSet<PathBuf>>,
    stats: Mutex<Stats>,
}

impl Shared {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Waits for the bell; returns whether it rang.
    fn wait(&self, most: Duration) -> bool {
        let guard = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) =
            self.bell.wait_timeout_while(guard, most, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung)
    }
}

/// Tells how tailing goes; outlives the handle.
#[derive(Debug, Clone)]
pub struct Counts(Arc<Shared>);

impl Counts {
    /// Counts, as of the last turn.
    pub fn get(&self) -> Stats {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handle {
    /// Counts, as of the last turn.
    pub fn stats(&self) -> Stats {
        self.counts().get()
    }

    /// Where the counts are.
    pub fn counts(&self) -> Counts {
        Counts(Arc::clone(&self.shared))
    }

    /// Asks the thread to end, without waiting.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.ring();
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `tailer` on a thread named `tail`. Batches go to `sender`; what the receiver has made durable comes back over
/// `durable`, and `checkpoints`, if given, saves how far that is. The thread ends when it is stopped or when the
/// receiver of the batches is gone. `clock` gives the time.
pub fn run(
    tailer: Tailer,
    sender: SyncSender<Batch>,
    durable: Receiver<Vec<Mark>>,
    checkpoints: Option<CheckpointWriter>,
    clock: impl Fn() -> Moment + Send + 'static,
) -> std::io::Result<Handle> {
    let shared = Arc::new(Shared::default());
    let theirs = Arc::clone(&shared);
    let work =
        Work { tailer, sender, durable, checkpoints, hints: Hints::new(Arc::clone(&shared)), shared: theirs };
    let thread = std::thread::Builder::new().name("tail".to_owned()).spawn(move || work.run(&clock))?;
    Ok(Handle { shared, thread: Some(thread) })
}

struct Work {
    tailer: Tailer,
    sender: SyncSender<Batch>,
    durable: Receiver<Vec<Mark>>,
    checkpoints: Option<CheckpointWriter>,
    hints: Hints,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self, clock: &dyn Fn() -> Moment) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_durable();
            let mut batch = Batch::new();
            let mut bytes = 0;
            let now = clock();
            let turn = self.tailer.turn(now, &mut |event| {
                bytes += match &event {
                    TailEvent::Line { line, .. } => line.line.len() + line.source.len(),
                    _ => 0,
                };
                batch.push(event);
                let full = batch.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES;
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if let Some(problem) = self.checkpoints.as_ref().and_then(CheckpointWriter::problem) {
                batch.push(TailEvent::Problem(problem));
            }
            *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.tailer.stats();
            if self.hints.follow(&self.tailer) {
                // What happened between the sweep and the watch gave no hint.
                self.tailer.hint_new();
            }
            if !batch.is_empty() && self.send(batch).is_err() {
                break;
            }
            self.save(now);
            let rest = self.tailer.rest(now, &self.hints.watched);
            if turn.idle && self.shared.wait(rest.unwrap_or_else(|| self.tailer.poll_interval())) {
                // A busy log rings for each write: let some come together, the more so the more files are asked.
                let open = self.tailer.stats().open_files as u32;
                std::thread::sleep(COALESCE + COALESCE_A_FILE * open);
                self.tailer.hint();
                if self.shared.appeared.swap(false, Ordering::Relaxed) {
                    self.tailer.hint_new();
                }
            }
        }
        self.take_durable();
        if let (Some(writer), Some(checkpoint)) = (&self.checkpoints, self.tailer.checkpoint()) {
            writer.save(checkpoint);
        }
    }

    fn take_durable(&mut self) {
        loop {
            match self.durable.try_recv() {
                Ok(marks) => self.tailer.durable(marks),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn save(&mut self, now: Moment) {
        if let Some(writer) = &self.checkpoints
            && let Some(checkpoint) = self.tailer.checkpoint_due(now)
        {
            writer.save(checkpoint);
        }
    }

    /// Waits for room in the channel, but not beyond a stop.
    fn send(&mut self, batch: Batch) -> Result<(), ()> {
        let mut batch = batch;
        loop {
            match self.sender.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(()),
                Err(TrySendError::Full(back)) => batch = back,
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(());
            }
            self.take_durable();
            std::thread::sleep(FULL_WAIT);
        }
    }
}

/// inotify watches on the folders of the last sweep.
struct Hints {
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    /// The folders of the last sweep,
    asked: BTreeSet<PathBuf>,
    /// and those of them that could be watched, with device and inode.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    off_until: Option<Instant>,
    second: Instant,
}

impl Hints {
    fn new(shared: Arc<Shared>) -> Self {
        let (asked, watched) = (BTreeSet::new(), BTreeMap::new());
        Self { shared, watcher: None, asked, watched, off_until: None, second: Instant::now() }
    }

    /// Watches what `tailer` found; returns whether there is a new watch. Failures are no problem: the clock sees
    /// everything.
    fn follow(&mut self, tailer: &Tailer) -> bool {
        let now = Instant::now();
        if self.off_until.is_some_and(|until| now < until) {
            return false;
        }
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            if self.shared.hints.swap(0, Ordering::Relaxed) > MAX_HINTS {
                (self.watcher, self.off_until) = (None, Some(now + HINTS_OFF));
                self.asked.clear();
                self.watched.clear();
                return false;
            }
        }
        if self.watcher.is_none() {
            let shared = Arc::clone(&self.shared);
            self.watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // What only looks (our own sweeps among it) is no hint.
                let Ok(event) = event else { return };
                if !matches!(event.kind, EventKind::Access(_)) {
                    let name =
                        !matches!(event.kind, EventKind::Modify(k) if !matches!(k, ModifyKind::Name(_)));
                    shared.appeared.fetch_or(name, Ordering::Relaxed);
                    if takes_a_name(event.kind) {
                        let mut moved = shared.moved.lock().unwrap_or_else(PoisonError::into_inner);
                        if moved.len() < MAX_MOVED {
                            moved.extend(event.paths);
                        }
                    }
                    shared.hints.fetch_add(1, Ordering::Relaxed);
                    shared.ring();
                }
            })
            .ok();
            if self.watcher.is_none() {
                self.off_until = Some(now + HINTS_OFF);
                return false;
            }
        }
        let moved = std::mem::take(&mut *self.shared.moved.lock().unwrap_or_else(PoisonError::into_inner));
        // Of more than are kept any may be meant.
        self.asked.retain(|folder| moved.len() < MAX_MOVED && !moved.contains(folder));
        let same = self.asked.iter().map(PathBuf::as_path).eq(tailer.folders().take(MAX_WATCHES));
        if same && self.watched.keys().all(|folder| self.asked.contains(folder)) {
            return false;
        }
        let wanted: BTreeSet<PathBuf> = tailer.folders().take(MAX_WATCHES).map(PathBuf::from).collect();
        let more = !wanted.is_subset(&self.asked);
        if let Some(watcher) = &mut self.watcher {
            let kept: BTreeSet<PathBuf> = self.asked.intersection(&wanted).cloned().collect();
            for gone in self.watched.keys().filter(|folder| !kept.contains(*folder)) {
                let _ = watcher.unwatch(gone);
            }
            self.watched.retain(|folder, _| kept.contains(folder));
            for new in wanted.difference(&kept) {
                // Looked up first: of another folder that comes in between files are not taken for watched.
                if let Some(id) = folder_id(new)
                    && watcher.watch(new, RecursiveMode::NonRecursive).is_ok()
                {
                    self.watched.insert(new.clone(), id);
                }
            }
        }
        self.asked = wanted;
        more
    }
}

/// Whether what it tells of may have been a watched folder, which is one no more.
fn takes_a_name(kind: EventKind) -> bool {
    match kind {
        EventKind::Remove(what) => what != RemoveKind::File,
        EventKind::Modify(ModifyKind::Name(mode)) => mode != RenameMode::To,
        _ => false,
    }
}
