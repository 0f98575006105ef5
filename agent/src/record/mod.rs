//! The record: three journals on the node, one thread that writes them, and a handle that never blocks.
//!
//! ```text
//! push ─→ Queue (bounded) ─→ seal ─→ append ─→ sync ─→ durable ─→ uplink ─→ acknowledge ─→ release
//! ```
//!
//! Invariants:
//! - [`Recorder::push`] never waits for the disk; [`Recorder::settlement`] says whether an urgent record is durable, which
//!   is how an action is refused when its record cannot be kept.
//! - Urgent records seal at once, the others at 256 KiB or 10 s.
//! - Whatever is given up comes out as a gap in the urgent stream, at most one per source and second.
//!
//! Deliberately absent: the network, and any decision about what is worth recording.

mod lane;
mod queue;
pub(crate) mod slots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::{Predecessor, SEAL_BYTES, Start};
use dogwatch::chain::SignedReceipt;
use dogwatch::clock;
use dogwatch::journal::{JournalError, Options, Position, Reader};
use dogwatch::record::{
    Body, Finding, FindingState, Gap, Incarnation, Kind, Kinds, LogLine, Moment, NodeName, Record, Seq,
    Stream,
};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use lane::Lane;
use queue::Queue;
use slots::Slots;

/// Evidence and recorder records are sealed when the oldest has waited this long.
pub const SEAL_AFTER: Duration = Duration::from_secs(10);
/// Chain heads are signed at least this often while the chain moves.
pub const SIGN_EVERY: Duration = Duration::from_secs(10);
/// After a failed write, the disk is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Gaps of running losses are told this often at most.
const TELL_LOSSES_EVERY: Duration = Duration::from_secs(1);
/// Records that one block holds at most.
const MAX_RECORDS_PER_BLOCK: usize = 20_000;
/// Blocks set aside that are kept; the oldest goes first.
const MAX_ASIDE: usize = 16;
/// Newest blocks of a stream in which the last line of each log is looked up at start. The tail's own checkpoint is at
/// most a second behind, so a few would do.
const LOOK_BACK_BLOCKS: usize = 64;
/// Lost urgent records that are remembered; whoever waits for one asks within seconds.
const MAX_LOST_REMEMBERED: usize = 1024;
/// Share of the evidence ring above which samples that nothing cites are no longer spooled.
const THIN_ABOVE: f64 = 0.75;

/// How the record is kept.
#[derive(Debug, Clone)]
pub struct RecordConfig {
    /// The agent's state folder; journals are in `journal/` beneath it.
    pub state_dir: PathBuf,
    /// Whose record it is.
    pub node: NodeName,
    /// Segment size of each journal, bytes.
    pub segment_bytes: u64,
    /// Bytes that the urgent journal may take.
    pub urgent_bytes: u64,
    /// Bytes that the evidence journal may take.
    pub evidence_bytes: u64,
    /// Bytes that the recorder journal may take.
    pub recorder_bytes: u64,
}

impl RecordConfig {
    /// The folder that holds the three journals.
    pub fn journal_dir(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    fn options(&self, stream: Stream) -> Options {
        let bytes = match stream {
            Stream::Urgent => self.urgent_bytes,
            Stream::Evidence => self.evidence_bytes,
            Stream::Recorder => self.recorder_bytes,
        };
        // Two segments are the least: one to write, one to recycle.
        let segments = (bytes / self.segment_bytes.max(1)).max(2) as u32;
        Options { segment_bytes: self.segment_bytes, max_segments: segments, preallocate_segments: segments }
    }
}

/// Why the record cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A folder or file of the state could not be made or read.
    #[error("{what} {path}: {source}; check the folder's owner and that its filesystem is writable")]
    State {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A journal could not be opened.
    #[error("the {stream} journal: {source}")]
    Journal {
        /// Which.
        stream: Stream,
        /// Why.
        #[source]
        source: JournalError,
    },
}

/// What became of an urgent record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It is durable.
    Durable,
    /// It could not be kept, and why.
    Lost(String),
    /// It waits for the disk; what the disk said last, if that was an error.
    Waiting(Option<String>),
}

/// What the record knew when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// This run.
    pub incarnation: Incarnation,
    /// 1 for the first start with this state folder.
    pub start_counter: u64,
    /// Findings that were active when the last run ended.
    pub active: Vec<Finding>,
    /// For each file and stream, the newest line that is durable.
    pub newest_lines: Vec<(Stream, LogLine)>,
    /// In words: what was found damaged, missing or smaller than asked for.
    pub remarks: Vec<String>,
}

/// A chunk of acknowledged or kept incarnations, for the uplink's Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRange {
    /// Which run.
    pub incarnation: Incarnation,
    /// First seq still held and not acknowledged.
    pub first_seq: Seq,
    /// Last seq held.
    pub last_seq: Seq,
    /// Where its first unacknowledged block stands.
    pub from: Position,
}

/// Figures of the record, for metrics and status.
#[derive(Debug, Clone, Default)]
pub struct RecordStats {
    /// Records pushed, by stream.
    pub pushed: [u64; 3],
    /// Records given up; each is told in a gap.
    pub dropped: u64,
    /// Bytes that wait in memory.
    pub queue_bytes: u64,
    /// Blocks that wait for an acknowledgement, by stream.
    pub unacked_blocks: [u64; 3],
    /// Newest durable seq, by stream.
    pub durable_seq: [Seq; 3],
    /// What the disk said last, if the last attempt failed.
    pub failing: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    acks: Vec<(Stream, Incarnation, Seq, SignedReceipt)>,
    aside: Vec<(Stream, Incarnation, Seq, Seq, String)>,
    durable_urgent: Seq,
    failing: Option<String>,
    lost_urgent: Vec<Seq>,
    pressure: f64,
    stats: RecordStats,
    kept: [Vec<KeptRange>; 3],
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    durable: watch::Sender<[Seq; 3]>,
    journal_dir: PathBuf,
    node: NodeName,
    incarnation: Incarnation,
    start_counter: u64,
}

impl State {
    /// Remembers the newest urgent records that were lost, for [`Recorder::settlement`].
    fn note_lost(&mut self, seqs: &[Seq]) {
        self.lost_urgent.extend(seqs);
        if self.lost_urgent.len() > MAX_LOST_REMEMBERED {
            let surplus = self.lost_urgent.len() - MAX_LOST_REMEMBERED;
            self.lost_urgent.drain(..surplus);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves counts that are at worst stale; recording must go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle through which everything is recorded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    /// Takes a record in and gives it its seq. Never blocks.
    pub fn push(&self, stream: Stream, at: Moment, body: Body) -> Seq {
        let mut state = self.shared.lock();
        let dropped = state.queue.dropped();
        let seq = state.queue.push(stream, at, body);
        if stream == Stream::Urgent && state.queue.dropped() > dropped {
            state.note_lost(&[seq]);
        }
        state.stats.pushed[stream.index()] += 1;
        let wake = stream == Stream::Urgent || state.queue.bytes(stream) >= SEAL_BYTES;
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
        seq
    }

    /// Takes a sample that nothing cites for the evidence stream; under pressure it is given up, and told as a gap.
    pub fn push_routine_sample(&self, at: Moment, body: Body) {
        let mut state = self.shared.lock();
        if state.pressure > THIN_ABOVE {
            state.queue.skip(
                Stream::Evidence,
                at,
                body,
                "the evidence ring is nearly full of what the collector has not acknowledged; samples give way to logs",
            );
            return;
        }
        drop(state);
        self.push(Stream::Evidence, at, body);
    }

    /// What became of an urgent record by now.
    pub fn settlement(&self, seq: Seq) -> Settlement {
        let mut state = self.shared.lock();
        if let Some(lost) = state.lost_urgent.iter().position(|s| *s == seq) {
            state.lost_urgent.swap_remove(lost);
            return Settlement::Lost(
                state.failing.clone().unwrap_or_else(|| "there was no room for it".to_owned()),
            );
        }
        if state.durable_urgent >= seq {
            return Settlement::Durable;
        }
        Settlement::Waiting(state.failing.clone())
    }

    /// Takes the collector's acknowledgement in.
    pub fn acknowledge(
        &self,
        stream: Stream,
        incarnation: Incarnation,
        last_seq: Seq,
        receipt: SignedReceipt,
    ) {
        let mut state = self.shared.lock();
        // Only the newest of a chain counts, so this list is as long as there are chains.
        state.acks.retain(|(s, i, _, _)| (*s, *i) != (stream, incarnation));
        state.acks.push((stream, incarnation, last_seq, receipt));
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Sets a block aside that the collector will never take, and tells the gap. It no longer blocks its stream.
    pub fn set_aside(&self, stream: Stream, incarnation: Incarnation, first: Seq, last: Seq, reason: String) {
        let mut state = self.shared.lock();
        state.aside.push((stream, incarnation, first, last, reason));
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Newest durable seq of this incarnation, by stream; changes wake whoever watches.
    pub fn durable(&self) -> watch::Receiver<[Seq; 3]> {
        self.shared.durable.subscribe()
    }

    /// What the stream holds that is not acknowledged, oldest incarnation first.
    pub fn kept(&self, stream: Stream) -> Vec<KeptRange> {
        self.shared.lock().kept[stream.index()].clone()
    }

    /// Figures of now.
    pub fn stats(&self) -> RecordStats {
        let state = self.shared.lock();
        let mut stats = state.stats.clone();
        stats.dropped = state.queue.dropped();
        stats.queue_bytes = Stream::ALL.iter().map(|s| state.queue.bytes(*s) as u64).sum();
        stats.failing = state.failing.clone();
        stats
    }

    /// The folder of one stream's journal, for readers.
    pub fn journal_dir(&self, stream: Stream) -> PathBuf {
        self.shared.journal_dir.join(stream.as_str())
    }

    /// Whose record it is.
    pub fn node(&self) -> &NodeName {
        &self.shared.node
    }

    /// This run.
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// 1 for the first start with this state folder.
    pub fn start_counter(&self) -> u64 {
        self.shared.start_counter
    }

    /// The seq that the next record pushed to `stream` will have. Of use only to the one pusher of a stream.
    pub fn next_seq(&self, stream: Stream) -> Seq {
        self.shared.lock().queue.last_seq(stream) + 1
    }

    /// Asks the writer to seal everything, close the journals and end.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
    }
}

/// The writer; its [`Writer::run`] is a thread's whole life.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    lanes: [Lane; 3],
    key: SigningKey,
    entropy: fn() -> [u8; 16],
    aside_dir: PathBuf,
}

/// Opens the record: recovers the journals, begins an incarnation, tells the gap since the last one.
///
/// # Errors
/// [`RecordError`] when the state folder cannot be used at all.
pub fn open(
    config: &RecordConfig,
    key: SigningKey,
    boot_id: [u8; 16],
    entropy: fn() -> [u8; 16],
) -> Result<(Recorder, Writer, Opened), RecordError> {
    let dir = config.journal_dir();
    std::fs::create_dir_all(&dir).map_err(|source| RecordError::State {
        what: "making the folder",
        path: dir.display().to_string(),
        source,
    })?;
    let incarnation = Incarnation(entropy());
    let (start_counter, mut remarks) = count_start(&config.state_dir)?;

    let open_lane = |stream| {
        Lane::open(&dir, stream, config.options(stream), &config.node, incarnation)
            .map_err(|source| RecordError::Journal { stream, source })
    };
    let (mut urgent, urgent_opened) = open_lane(Stream::Urgent)?;
    let (mut evidence, evidence_opened) = open_lane(Stream::Evidence)?;
    let (mut recorder, recorder_opened) = open_lane(Stream::Recorder)?;

    let now = clock::now();
    let mut queue = Queue::default();
    let opened =
        [(&mut urgent, urgent_opened), (&mut evidence, evidence_opened), (&mut recorder, recorder_opened)];
    for (lane, o) in opened {
        remarks.extend(o.recovered.remarks.iter().map(|r| format!("{} journal: {r}", lane.stream)));
        let asked = config.options(lane.stream).preallocate_segments;
        if o.recovered.preallocated_segments < asked {
            remarks.push(format!(
                "{} journal: room for {} of {asked} segments; free space and restart for the rest",
                lane.stream, o.recovered.preallocated_segments
            ));
        }
        lane.begin(Start {
            counter: start_counter,
            boot_id,
            predecessor: o.predecessor.map(|(p, _)| p),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        if let Some((before, wall_ns)) = o.predecessor {
            queue.push(
                Stream::Urgent,
                now,
                Body::Gap(gap_since(lane.stream, before, wall_ns, now, o.recovered.clean)),
            );
        }
    }
    let reader_error = |stream| move |source| RecordError::Journal { stream, source };
    let active = active_findings(&dir).map_err(reader_error(Stream::Urgent))?;
    let mut newest = newest_lines(&dir, Stream::Evidence).map_err(reader_error(Stream::Evidence))?;
    newest.extend(newest_lines(&dir, Stream::Recorder).map_err(reader_error(Stream::Recorder))?);

    let shared = Arc::new(Shared {
        state: Mutex::new(State { queue, ..State::default() }),
        wake: Condvar::new(),
        durable: watch::Sender::new([0; 3]),
        journal_dir: dir,
        node: config.node.clone(),
        incarnation,
        start_counter,
    });
    let writer = Writer {
        shared: shared.clone(),
        lanes: [urgent, evidence, recorder],
        key,
        entropy,
        aside_dir: config.state_dir.join("aside"),
    };
    writer.publish();
    Ok((
        Recorder { shared },
        writer,
        Opened { incarnation, start_counter, active, newest_lines: newest, remarks },
    ))
}

/// Adds one to the start counter. A counter that cannot be written costs only its number.
fn count_start(state_dir: &Path) -> Result<(u64, Vec<String>), RecordError> {
    let path = state_dir.join("starts");
    let failed = |what| {
        let path = path.display().to_string();
        move |source| RecordError::State { what, path, source }
    };
    let (mut slots, value) = Slots::open(&path).map_err(failed("opening the start counter"))?;
    let before = value.and_then(|v| v.try_into().ok()).map_or(0, u64::from_le_bytes);
    let counter = before + 1;
    let mut remarks = Vec::new();
    if let Err(e) = slots.write(&counter.to_le_bytes()) {
        remarks.push(format!("the start counter {} could not be written: {e}", path.display()));
    }
    Ok((counter, remarks))
}

fn gap_since(stream: Stream, before: Predecessor, wall_ns: i64, now: Moment, clean: bool) -> Gap {
    let reason = if clean {
        "the agent was not running; it had stopped in order".to_owned()
    } else {
        format!(
            "the agent or its node stopped without closing the journal; what was not yet sealed (at most {} s, urgent \
             records at most what was being written) is lost, and nothing was recorded until now",
            SEAL_AFTER.as_secs()
        )
    };
    Gap {
        stream,
        source: "journal".to_owned(),
        after_seq: Some(before.last_seq),
        before_seq: None,
        count: if clean { Some(0) } else { None },
        from_wall_ns: wall_ns.min(now.wall_ns),
        to_wall_ns: now.wall_ns,
        reason,
        incarnation: Some(before.incarnation),
    }
}

/// Findings whose newest record in the urgent journal is not `cleared`.
fn active_findings(dir: &Path) -> Result<Vec<Finding>, JournalError> {
    let wanted = Kinds::default().with(Kind::Finding);
    let reader = Reader::open(&dir.join(Stream::Urgent.as_str()))?;
    let mut active: Vec<Finding> = Vec::new();
    for (at, info) in reader.blocks()? {
        if !info.kinds.intersects(wanted) {
            continue;
        }
        for record in read_records(&reader, at, wanted) {
            if let Body::Finding(f) = record.body {
                active.retain(|a| a.id != f.id);
                if f.state != FindingState::Cleared {
                    active.push(*f);
                }
            }
        }
    }
    Ok(active)
}

/// For each file, the newest line that is durable in the stream's journal.
fn newest_lines(dir: &Path, stream: Stream) -> Result<Vec<(Stream, LogLine)>, JournalError> {
    let wanted = Kinds::default().with(Kind::Log);
    let reader = Reader::open(&dir.join(stream.as_str()))?;
    let blocks: Vec<_> =
        reader.blocks()?.into_iter().filter(|(_, info)| info.kinds.intersects(wanted)).collect();
    let mut newest: BTreeMap<(String, u64), LogLine> = BTreeMap::new();
    for (at, _) in blocks.iter().rev().take(LOOK_BACK_BLOCKS).rev() {
        for record in read_records(&reader, *at, wanted) {
            if let Body::Log(line) = record.body {
                newest.insert((line.source.clone(), line.inode), line);
            }
        }
    }
    Ok(newest.into_values().map(|line| (stream, line)).collect())
}

fn read_records(reader: &Reader, at: Position, wanted: Kinds) -> Vec<Record> {
    let Ok(Some(entry)) = reader.read_at(at) else { return Vec::new() };
    dogwatch::block::Block::decode(entry.payload).and_then(|b| b.records(wanted)).unwrap_or_default()
}

impl Writer {
    /// Seals, writes and syncs until [`Recorder::stop`].
    ///
    /// # Errors
    /// Only when closing the journals fails at the end; a failing disk is tried again for ever.
    pub fn run(mut self) -> Result<(), String> {
        let mut signed_at = Instant::now();
        let mut told_at: Option<Instant> = None;
        let mut retry_at: Option<Instant> = None;
        loop {
            let stopping = self.wait(retry_at, signed_at);
            self.settle_acks();
            let (found_urgent, mut failed) = self.write_urgent();
            for i in 1..3 {
                if let Err(e) = self.write_bulk(i, stopping) {
                    failed.get_or_insert(e);
                }
            }
            let now = Instant::now();
            let sign_now = found_urgent || stopping || now.duration_since(signed_at) >= SIGN_EVERY;
            if sign_now && failed.is_none() {
                for lane in &mut self.lanes {
                    if let Err(e) = lane.sign(&self.key, clock::wall_ns()) {
                        failed.get_or_insert(e.to_string());
                    }
                }
                signed_at = now;
            }
            self.publish();
            retry_at = failed.as_ref().map(|_| now + RETRY_AFTER);
            self.note_failure(failed.clone());
            if failed.is_none() && told_at.is_none_or(|t| now.duration_since(t) >= TELL_LOSSES_EVERY) {
                told_at = Some(now);
                self.tell_losses();
            }
            if stopping {
                let mut state = self.shared.lock();
                let drained =
                    Stream::ALL.iter().all(|s| state.queue.bytes(*s) == 0) && !state.queue.has_losses();
                if drained || failed.is_some() {
                    state.failing.get_or_insert("the agent is stopping".to_owned());
                    break;
                }
            }
        }
        let mut result = Ok(());
        for lane in self.lanes {
            let stream = lane.stream;
            if let Err(e) = lane.close() {
                result = Err(format!("closing the {stream} journal: {e}"));
            }
        }
        result
    }

    /// Sleeps until there is something to do; says whether it is time to stop.
    fn wait(&self, retry_at: Option<Instant>, signed_at: Instant) -> bool {
        let mut state = self.shared.lock();
        loop {
            if state.stop {
                return true;
            }
            let now = Instant::now();
            let backing_off = retry_at.is_some_and(|t| t > now);
            let unsynced = self.lanes.iter().any(Lane::has_unsynced);
            let bulk_full =
                [Stream::Evidence, Stream::Recorder].into_iter().any(|s| state.queue.bytes(s) >= SEAL_BYTES);
            let ready =
                state.queue.bytes(Stream::Urgent) > 0 || bulk_full || state.queue.has_losses() || unsynced;
            if !backing_off && (ready || !state.acks.is_empty() || !state.aside.is_empty()) {
                return false;
            }
            let boot = clock::now().boot_ns;
            let due = [Stream::Evidence, Stream::Recorder]
                .into_iter()
                .filter_map(|s| state.queue.oldest_boot_ns(s))
                .map(|t| SEAL_AFTER.saturating_sub(Duration::from_nanos(boot.saturating_sub(t))))
                .min()
                .unwrap_or(SEAL_AFTER);
            let sign = SIGN_EVERY.saturating_sub(signed_at.elapsed());
            let mut left = due.min(sign);
            if let Some(t) = retry_at.filter(|_| backing_off) {
                left = t.saturating_duration_since(now);
            }
            if left.is_zero() {
                return false;
            }
            state = self.shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn settle_acks(&mut self) {
        let mut state = self.shared.lock();
        let (acks, aside) = (std::mem::take(&mut state.acks), std::mem::take(&mut state.aside));
        drop(state);
        let wall_ns = clock::wall_ns();
        for (stream, incarnation, seq, receipt) in acks {
            self.lanes[stream.index()].acknowledge(incarnation, seq, receipt, wall_ns);
        }
        for (stream, incarnation, first, last, reason) in aside {
            self.put_aside(stream, incarnation, first, last, &reason);
        }
    }

    fn put_aside(&mut self, stream: Stream, incarnation: Incarnation, first: Seq, last: Seq, reason: &str) {
        let lane = &self.lanes[stream.index()];
        let found = lane
            .unacked()
            .iter()
            .find(|u| u.incarnation == incarnation && u.first_seq == first && u.last_seq == last)
            .cloned();
        let kept = found
            .as_ref()
            .and_then(|u| lane.read(u.at))
            .and_then(|bytes| self.keep_file(stream, first, &bytes).ok());
        let now = clock::now();
        let gap = Gap {
            stream,
            source: "uplink".to_owned(),
            after_seq: Some(first.saturating_sub(1)),
            before_seq: Some(last + 1),
            count: Some(last + 1 - first),
            from_wall_ns: found.as_ref().map_or(now.wall_ns, |u| u.first_wall_ns),
            to_wall_ns: found.as_ref().map_or(now.wall_ns, |u| u.last_wall_ns),
            reason: match kept {
                Some(path) => {
                    format!("the collector refused the block: {reason}; it is kept in {}", path.display())
                }
                None => format!("the collector refused the block: {reason}; it could not be kept aside"),
            },
            incarnation: Some(incarnation),
        };
        self.shared.lock().queue.push(Stream::Urgent, now, Body::Gap(gap));
    }

    fn keep_file(&self, stream: Stream, first: Seq, bytes: &[u8]) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&self.aside_dir)?;
        let mut old: Vec<PathBuf> = std::fs::read_dir(&self.aside_dir)?.flatten().map(|e| e.path()).collect();
        old.sort();
        while old.len() >= MAX_ASIDE {
            std::fs::remove_file(old.remove(0))?;
        }
        let path = self.aside_dir.join(format!("{:020}-{stream}-{first}.block", clock::wall_ns()));
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Seals and writes everything urgent. Returns whether a finding or an action was among it, and what failed.
    fn write_urgent(&mut self) -> (bool, Option<String>) {
        let mut important = false;
        loop {
            let run = self.shared.lock().queue.take_run(Stream::Urgent, SEAL_BYTES, MAX_RECORDS_PER_BLOCK);
            if run.is_empty() {
                break;
            }
            important |= run.iter().any(|r| matches!(r.body.kind(), Kind::Finding | Kind::Action));
            self.seal(0, run);
        }
        if !self.lanes[0].has_unsynced() {
            return (important, None);
        }
        match self.lanes[0].flush(clock::wall_ns()) {
            Ok(()) => {
                let durable = self.lanes[0].head().last_seq;
                self.shared.lock().durable_urgent = durable;
                (important, None)
            }
            Err(e) => (important, Some(e.to_string())),
        }
    }

    /// Seals and writes one of the other streams, as far as it is due.
    fn write_bulk(&mut self, i: usize, all: bool) -> Result<(), String> {
        let stream = Stream::ALL[i];
        loop {
            // What is sealed already goes first; sealing more would only make memory grow.
            if self.lanes[i].has_unsynced() {
                self.flush_making_room(i)?;
            }
            let run = {
                let mut state = self.shared.lock();
                let waited = state
                    .queue
                    .oldest_boot_ns(stream)
                    .map(|t| Duration::from_nanos(clock::now().boot_ns.saturating_sub(t)));
                let due =
                    all || state.queue.bytes(stream) >= SEAL_BYTES || waited.is_some_and(|w| w >= SEAL_AFTER);
                if !due {
                    return Ok(());
                }
                state.queue.take_run(stream, SEAL_BYTES, MAX_RECORDS_PER_BLOCK)
            };
            if run.is_empty() {
                return Ok(());
            }
            self.seal(i, run);
        }
    }

    fn flush_making_room(&mut self, i: usize) -> Result<(), String> {
        let mut evicted = Vec::new();
        let result = loop {
            match self.lanes[i].flush(clock::wall_ns()) {
                Ok(()) => break Ok(()),
                Err(e @ JournalError::Full { .. }) => {
                    let gone = self.lanes[i].evict_oldest_segment();
                    if gone.is_empty() {
                        break Err(e.to_string());
                    }
                    evicted.extend(gone);
                }
                Err(e) => break Err(e.to_string()),
            }
        };
        let mut state = self.shared.lock();
        let now = clock::now();
        for run in merge(evicted) {
            let gap = Gap {
                stream: Stream::ALL[i],
                source: "journal".to_owned(),
                after_seq: Some(run.first_seq.saturating_sub(1)),
                before_seq: Some(run.last_seq + 1),
                count: Some(run.last_seq + 1 - run.first_seq),
                from_wall_ns: run.from_wall_ns,
                to_wall_ns: run.to_wall_ns,
                reason:
                    "the ring was full of what the collector had not acknowledged; the oldest was given up"
                        .to_owned(),
                incarnation: Some(run.incarnation),
            };
            state.queue.push(Stream::Urgent, now, Body::Gap(gap));
        }
        result
    }

    /// Seals a run, in halves while it is over a block's size; a single record that is, is given up and told.
    fn seal(&mut self, i: usize, run: Vec<Record>) {
        let entropy = self.entropy;
        let mut waiting = vec![run];
        while let Some(mut run) = waiting.pop() {
            if let Err(e) = self.lanes[i].seal(&run, &mut || entropy()) {
                if run.len() > 1 {
                    let tail = run.split_off(run.len() / 2);
                    waiting.push(tail);
                    waiting.push(run);
                    continue;
                }
                tracing::error!(stream = %Stream::ALL[i], error = %e, "a record cannot be sealed and is given up");
                let mut state = self.shared.lock();
                state.queue.give_up(Stream::ALL[i], &run, "the record does not fit a block");
                if i == 0 {
                    let seqs: Vec<Seq> = run.iter().map(|r| r.seq).collect();
                    state.note_lost(&seqs);
                }
            }
        }
    }

    fn tell_losses(&mut self) {
        let mut state = self.shared.lock();
        if state.queue.has_losses() {
            let now = clock::now();
            for gap in state.queue.take_losses() {
                state.queue.push(Stream::Urgent, now, Body::Gap(gap));
            }
        }
    }

    fn note_failure(&self, failed: Option<String>) {
        let mut state = self.shared.lock();
        match (&state.failing, &failed) {
            (None, Some(error)) => {
                tracing::error!(error, "the journal cannot be written; records wait in memory")
            }
            (Some(_), None) => tracing::info!("the journal can be written again"),
            _ => {}
        }
        state.failing = failed;
    }

    /// Tells others what is durable and what is kept.
    fn publish(&self) {
        let mut durable = [0; 3];
        let mut state = self.shared.lock();
        for (i, lane) in self.lanes.iter().enumerate() {
            let behind = if lane.has_unsynced() { state.stats.durable_seq[i] } else { lane.head().last_seq };
            durable[i] = behind;
            state.stats.durable_seq[i] = behind;
            state.stats.unacked_blocks[i] = lane.unacked().len() as u64;
            let mut kept: Vec<KeptRange> = Vec::new();
            for u in lane.unacked() {
                match kept.iter_mut().find(|k| k.incarnation == u.incarnation) {
                    Some(k) => k.last_seq = k.last_seq.max(u.last_seq),
                    None => kept.push(KeptRange {
                        incarnation: u.incarnation,
                        first_seq: u.first_seq,
                        last_seq: u.last_seq,
                        from: u.at,
                    }),
                }
            }
            state.kept[i] = kept;
        }
        state.pressure = self.lanes[Stream::Evidence.index()].pressure();
        drop(state);
        self.shared.durable.send_if_modified(|d| {
            let changed = *d != durable;
            *d = durable;
            changed
        });
    }
}

/// Joins neighbours of one incarnation.
fn merge(evicted: Vec<lane::Evicted>) -> Vec<lane::Evicted> {
    let mut out: Vec<lane::Evicted> = Vec::new();
    for e in evicted {
        match out.last_mut() {
            Some(last) if last.incarnation == e.incarnation => {
                last.last_seq = e.last_seq;
                last.to_wall_ns = last.to_wall_ns.max(e.to_wall_ns);
            }
            _ => out.push(e),
        }
    }
    out
}
