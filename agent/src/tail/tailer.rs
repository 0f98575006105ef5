//! Tails all files, a bounded turn at a time.
//!
//! A turn walks the globs when that is due, asks the files for their sizes when that is due, and then reads one chunk
//! of each file that has something to read, round and round, until its share is used up. So no file can keep another
//! one waiting for longer than a round of chunks.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dogwatch::record::Moment;

use super::checkpoint::{Checkpoint, FileState};
use super::deliver::Next;
use super::discover::Discovery;
use super::follow::{Followed, Place, mtime_ns};
use super::mask::Masker;
use super::matcher::Matcher;
use super::runtime::Unwrapped;
use super::{Journaled, Mark, Resume, Stats, TailConfig, TailEvent, Turn};

/// Bytes read from one file before it is another one's turn.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes read in one turn, so that the caller can look at its other duties.
const TURN_BYTES: u64 = 8 * 1024 * 1024;
/// The globs are not walked more often than this however many hints come,
const MIN_SWEEP_NS: u64 = 100_000_000;
/// and less often the more files there are: a walk costs some 2 µs for each, so hints cost at most 4 % of a CPU.
const MIN_SWEEP_NS_A_FILE: u64 = 50_000;
/// A checkpoint is offered at most this often.
const CHECKPOINT_NS: u64 = 1_000_000_000;
/// A gap is said at the latest this long after the first line that it lacks.
const GAP_NS: u64 = 1_000_000_000;
/// A message of which no part came for this long is handed on as it is. Runtimes write the parts of one together.
const PART_NS: u64 = 30_000_000_000;
/// Events of a sweep that wait to be taken; more are dropped and counted as problems.
const MAX_PENDING: usize = 4096;

/// Why a tailer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// A glob is none.
    #[error(transparent)]
    Glob(#[from] super::GlobError),
    /// An extra mask is none.
    #[error(transparent)]
    Mask(#[from] super::MaskError),
}

/// So much in each second.
#[derive(Debug, Default)]
pub(super) struct Budget {
    per_second: u64,
    used: u64,
    second: u64,
}

impl Budget {
    fn new(per_second: u64) -> Self {
        Self { per_second, ..Self::default() }
    }

    fn tick(&mut self, now: Moment) {
        let second = now.boot_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.used) = (second, 0);
        }
    }

    pub(super) fn left(&self) -> bool {
        self.used < self.per_second
    }

    /// Takes `bytes` if anything is left; the last taker may take more than that.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let left = self.left();
        if left {
            self.used += bytes;
        }
        left
    }
}

/// Tails the files of a configuration. Not `Sync`: one thread drives it.
#[derive(Debug)]
pub struct Tailer {
    pub(super) config: TailConfig,
    pub(super) discovery: Discovery,
    pub(super) masker: Masker,
    /// One matcher for each selection of rules that some source needs.
    matchers: HashMap<Vec<u16>, Option<Arc<Matcher>>>,
    pub(super) files: BTreeMap<u64, Followed>,
    pub(super) identities: HashMap<(u64, u64), u64>,
    ready: VecDeque<u64>,
    pub(super) next_key: u64,
    /// Files of the checkpoint that were not met yet.
    pub(super) resume: Vec<FileState>,
    pub(super) journaled: Vec<Journaled>,
    pub(super) had_checkpoint: bool,
    pub(super) first_sweep: bool,
    /// What was said about a path, and when it is tried again.
    pub(super) reported: HashMap<PathBuf, (String, u64)>,
    pub(super) read_budget: Budget,
    pub(super) evidence_budget: Budget,
    pub(super) recorder_budget: Budget,
    pub(super) buffer: Vec<u8>,
    pub(super) unwrapped: Unwrapped,
    pub(super) stats: Stats,
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) pending: VecDeque<TailEvent>,
    swept_ns: Option<u64>,
    polled_ns: Option<u64>,
    hinted: bool,
    hinted_new: bool,
    pub(super) swept_files: u64,
    pub(super) dirty: bool,
    offered_ns: u64,
}

impl Tailer {
    /// Ready to tail; nothing is opened before the first turn.
    pub fn new(config: TailConfig, resume: Resume) -> Result<Self, TailError> {
        // Four times the files: most of what a glob names is rotated and closed.
        let discovery = Discovery::new(
            &config.globs,
            &config.exclude,
            config.max_entries,
            config.max_files.saturating_mul(4),
        )?;
        let masker = Masker::new(config.rules.masks())?;
        let rules = config.rules.rules().len();
        Ok(Self {
            discovery,
            masker,
            matchers: HashMap::new(),
            files: BTreeMap::new(),
            identities: HashMap::new(),
            ready: VecDeque::new(),
            next_key: 1,
            had_checkpoint: resume.checkpoint.is_some(),
            resume: resume.checkpoint.map(|c| c.files).unwrap_or_default(),
            journaled: resume.journaled,
            first_sweep: true,
            reported: HashMap::new(),
            read_budget: Budget::new(config.bytes_per_second),
            evidence_budget: Budget::new(config.evidence_bytes_per_second),
            recorder_budget: Budget::new(config.recorder_bytes_per_second),
            buffer: vec![0; CHUNK_BYTES],
            unwrapped: Unwrapped::default(),
            stats: Stats { rule_matches: vec![0; rules], ..Stats::default() },
            folders: BTreeSet::new(),
            pending: VecDeque::new(),
            swept_ns: None,
            polled_ns: None,
            hinted: false,
            hinted_new: false,
            swept_files: 0,
            dirty: false,
            offered_ns: 0,
            config,
        })
    }

    /// Does a bounded amount of work at `now`. Events go to `out`; an event given to it counts as handed over, and
    /// `Break` ends the turn after it.
    pub fn turn(&mut self, now: Moment, out: &mut dyn FnMut(TailEvent) -> ControlFlow<()>) -> Turn {
        for budget in [&mut self.read_budget, &mut self.evidence_budget, &mut self.recorder_budget] {
            budget.tick(now);
        }
        let due = |last: Option<u64>, ns: u64| last.is_none_or(|l| now.boot_ns.saturating_sub(l) >= ns);
        let least = MIN_SWEEP_NS + MIN_SWEEP_NS_A_FILE * self.swept_files;
        if due(self.swept_ns, self.config.sweep.as_nanos() as u64)
            || (self.hinted_new && due(self.swept_ns, least))
        {
            self.swept_ns = Some(now.boot_ns);
            self.hinted_new = false;
            self.sweep(now);
            self.polled_ns = None;
        }
        if self.drain(out).is_break() {
            return Turn { bytes: 0, idle: false };
        }
        if self.hinted || due(self.polled_ns, self.config.poll.as_nanos() as u64) {
            self.polled_ns = Some(now.boot_ns);
            self.hinted = false;
            if self.poll(now, out).is_break() {
                return Turn { bytes: 0, idle: false };
            }
        }
        let before = self.stats.bytes;
        let mut stopped = false;
        while !stopped && self.stats.bytes - before < TURN_BYTES && self.read_budget.left() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(mut file) = self.files.remove(&key) else { continue };
            file.queued = false;
            let next = self.advance(&mut file, now, out);
            let again = !matches!(next, Next::Done);
            stopped = matches!(next, Next::Stopped);
            self.files.insert(key, file);
            if again {
                self.queue(key);
            }
            stopped |= self.drain(out).is_break();
        }
        let idle = !stopped && (self.ready.is_empty() || !self.read_budget.left());
        Turn { bytes: self.stats.bytes - before, idle }
    }

    /// A file in one of the [`Tailer::folders`] was written to: the next turn asks the files for their sizes.
    pub fn hint(&mut self) {
        self.hinted = true;
    }

    /// A file appeared in, left or changed its name in one of the [`Tailer::folders`]: the globs are walked soon.
    pub fn hint_new(&mut self) {
        (self.hinted, self.hinted_new) = (true, true);
    }

    /// How long nothing needs to be done after an idle turn.
    pub fn poll_interval(&self) -> std::time::Duration {
        // A hint that came too soon after a sweep is followed once enough time has passed.
        let least = std::time::Duration::from_nanos(MIN_SWEEP_NS + MIN_SWEEP_NS_A_FILE * self.swept_files);
        if self.hinted_new { self.config.poll.min(least) } else { self.config.poll }
    }

    /// How long after the turn of `now` nothing need be done where hints come from each of the `watched` folders (with device
    /// and inode): until the next sweep, if all that was read is durable and nothing waits for a time. `None`: files are to
    /// be asked as often as configured.
    pub fn rest(&self, now: Moment, watched: &BTreeMap<PathBuf, (u64, u64)>) -> Option<std::time::Duration> {
        let idle = !self.first_sweep && !self.dirty && !self.hinted_new && self.ready.is_empty();
        let rests = idle && self.pending.is_empty() && self.files.values().all(|f| f.rests(watched));
        let since_ns = now.boot_ns.saturating_sub(self.swept_ns?);
        rests.then(|| self.config.sweep.saturating_sub(std::time::Duration::from_nanos(since_ns)))
    }

    /// The folders in which files can appear or grow, as of the last sweep.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// Everything up to `marks` is durable. The checkpoint moves on this alone.
    pub fn durable(&mut self, marks: impl IntoIterator<Item = Mark>) {
        for mark in marks {
            let Some(file) = self.files.get_mut(&mark.file) else { continue };
            let newer = mark.offset > file.committed.0 || mark.done > file.committed_done;
            if file.generation == mark.generation && newer {
                file.committed = (mark.offset, mark.after);
                file.committed_done = mark.done;
                self.dirty = true;
            }
        }
    }

    /// Where reading stands durably. `None` before the first sweep, when there is nothing to say yet.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        if self.first_sweep {
            return None;
        }
        let mut files: Vec<&Followed> = self.files.values().collect();
        files.sort_by_key(|f| std::cmp::Reverse(f.active_ns));
        Some(Checkpoint { files: files.into_iter().map(Followed::state).collect() })
    }

    /// A checkpoint to save, if there is something new and the last one was offered a second ago.
    pub fn checkpoint_due(&mut self, now: Moment) -> Option<Checkpoint> {
        if !self.dirty || now.boot_ns.saturating_sub(self.offered_ns) < CHECKPOINT_NS {
            return None;
        }
        let checkpoint = self.checkpoint()?;
        (self.dirty, self.offered_ns) = (false, now.boot_ns);
        Some(checkpoint)
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        let open = self.files.values().filter(|f| f.file.is_some()).count();
        Stats { open_files: open, known_files: self.files.len(), ..self.stats.clone() }
    }

    pub(super) fn matcher(&mut self, source: &str) -> Option<Arc<Matcher>> {
        let selection = self.config.rules.selection(source);
        let rules = &self.config.rules;
        self.matchers.entry(selection).or_insert_with_key(|s| rules.matcher(s)).clone()
    }

    pub(super) fn queue(&mut self, key: u64) {
        if let Some(file) = self.files.get_mut(&key)
            && !file.queued
        {
            file.queued = true;
            self.ready.push_back(key);
        }
    }

    pub(super) fn say(&mut self, event: TailEvent) {
        match &event {
            TailEvent::Gap(_) => self.stats.gaps += 1,
            TailEvent::Problem(_) => self.stats.problems += 1,
            _ => {}
        }
        // Gaps are kept in any case: there is at most one for each file.
        if self.pending.len() < MAX_PENDING || matches!(event, TailEvent::Gap(_)) {
            self.pending.push_back(event);
        }
    }

    fn drain(&mut self, out: &mut dyn FnMut(TailEvent) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(event) = self.pending.pop_front() {
            out(event)?;
        }
        ControlFlow::Continue(())
    }

    /// Asks every open file for its size; ends those that are rotated and quiet.
    fn poll(&mut self, now: Moment, out: &mut dyn FnMut(TailEvent) -> ControlFlow<()>) -> ControlFlow<()> {
        let quiet_ns = self.config.rotated_quiet.as_nanos() as u64;
        let keys: Vec<u64> = self.files.keys().copied().collect();
        for key in keys {
            let Some(mut file) = self.files.remove(&key) else { continue };
            let mut flow = ControlFlow::Continue(());
            let mut changed = false;
            if let Some(Ok(metadata)) = file.file.as_ref().map(std::fs::File::metadata) {
                let mtime = mtime_ns(&metadata);
                changed =
                    metadata.len() != file.size || mtime != file.mtime_ns || metadata.len() != file.scan;
                if metadata.len() != file.size || mtime != file.mtime_ns {
                    file.active_ns = now.boot_ns;
                }
                // What was seen last says how much a truncation took, so it never shrinks before that is known.
                file.size = file.size.max(metadata.len());
                file.mtime_ns = mtime;
                // A partial line at the end of a file that does not grow waits: it was read already.
                let waiting = metadata.len() == file.size
                    && file.waiting_at == Some(metadata.len())
                    && now.boot_ns != file.active_ns;
                changed &= !waiting;
                let quiet = now.boot_ns.saturating_sub(file.active_ns) >= quiet_ns;
                if !changed && quiet && matches!(file.place, Place::Rotated | Place::Gone) {
                    flow = self.finish(&mut file, now, out);
                }
            }
            if flow.is_continue() && file.joiner.is_stale(now.boot_ns, PART_NS) {
                flow = self.cut(&mut file, now, out);
            }
            let old = |d: Option<super::follow::Dropped>| {
                d.is_some_and(|d| now.boot_ns.saturating_sub(d.since_ns) >= GAP_NS)
            };
            if flow.is_continue() && (old(file.dropped_evidence) || old(file.dropped_recorder)) {
                flow = self.say_dropped(&mut file, out);
            }
            if file.file.is_none() && file.place == Place::Gone {
                self.identities.remove(&(file.device, file.inode));
            }
            self.files.insert(key, file);
            if changed {
                self.queue(key);
            }
            flow?;
        }
        ControlFlow::Continue(())
    }
}
