//! The record: three journals on the node, one thread that writes them, and a handle that never blocks.
//!
//! ```text
//! push ─→ Queue (bounded) ─→ seal ─→ append ─→ sync ─→ durable ─→ uplink ─→ acknowledge ─→ release
//! ```
//!
//! Invariants:
//! - [`Recorder::push`] never waits for the disk; [`Recorder::settlement`] says whether an urgent record is durable, which
//!   is how an action is refused when its record cannot be kept.
//! - Urgent records seal at once, the others at 256 KiB or 10 s, and evidence that a finding cites soon after it.
//! - Whatever is given up comes out as a gap in the urgent stream, once and soon ([`telling`]), at most one per source,
//!   reason and five seconds; a gap that finds no room itself is not forgotten. What a ring gave up and a killed agent had not
//!   told, whoever sends the ring tells after the restart ([`Recorder::untold`]); the end of an earlier run, of which then
//!   nothing is left, is told as it goes.
//!
//! Deliberately absent: the network, and any decision about what is worth recording.

mod before;
mod given_up;
mod lane;
mod losses;
mod queue;
mod recall;
pub(crate) mod slots;
mod telling;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::{SEAL_BYTES, Start};
use dogwatch::chain::SignedReceipt;
use dogwatch::clock;
use dogwatch::journal::{JournalError, Options, Position};
use dogwatch::record::{Body, Finding, Incarnation, Kind, LogLine, Moment, NodeName, Seq, Stream};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

pub(crate) use before::was_started;
use before::{count_start, gap_since, newest_lines, urgent_before};
use given_up::GivenUp;
use lane::Lane;
use queue::Queue;
pub(crate) use slots::Slots;

pub use writer::Writer;

/// Evidence and recorder records are sealed when the oldest has waited this long.
pub const SEAL_AFTER: Duration = Duration::from_secs(10);
/// Evidence that a finding cites is sealed so soon after it: long enough for the lines behind a matched one, and short
/// enough that whoever is told of the finding finds them.
pub const CITED_SEAL_AFTER: Duration = Duration::from_millis(500);
/// Lost urgent records that are remembered; whoever waits for one asks within seconds.
const MAX_LOST_REMEMBERED: usize = 1024;
/// Share of the evidence ring above which samples that nothing cites are no longer spooled.
const THIN_ABOVE: f64 = 0.75;
/// Why the oldest blocks of a ring are gone. Read back at the start, so that it is told once ([`GivenUp`]).
const RING_FULL: &str =
    "the ring was full of what the collector had not acknowledged; the oldest was given up";
/// Why records are missing that whoever sends a ring does not find there. Read back too.
pub(crate) const NOT_HELD: &str =
    "the collector does not have these records, and the node no longer holds them";

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
    /// Whether a collector takes the record over. Without one nothing waits for an acknowledgement: each ring keeps the
    /// newest that fits.
    pub handed_over: bool,
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
    /// The same, by stream.
    pub queued_bytes: [u64; 3],
    /// Bytes in the rings, by stream; as of the last second.
    pub journal_used_bytes: [u64; 3],
    /// Sizes of the rings, by stream.
    pub journal_limit_bytes: [u64; 3],
    /// Gaps sealed, by class of reason.
    pub gaps: BTreeMap<&'static str, u64>,
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
    lost: Vec<(Stream, Seq)>,
    pressure: f64,
    /// Since when evidence that waits is cited by a finding, boot ns.
    cited_boot_ns: Option<u64>,
    stats: RecordStats,
    kept: [Vec<KeptRange>; 3],
    given_up: [GivenUp; 3],
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Something became durable, or will not.
    settled: Condvar,
    durable: watch::Sender<[Seq; 3]>,
    news: [watch::Sender<u64>; 3],
    journal_dir: PathBuf,
    node: NodeName,
    incarnation: Incarnation,
    start_counter: u64,
}

impl State {
    /// How long what waits in `stream` may wait on at `boot_ns`; `None` where nothing does.
    fn due_in(&self, stream: Stream, boot_ns: u64) -> Option<Duration> {
        let left = |since: u64, most: Duration| {
            most.saturating_sub(Duration::from_nanos(boot_ns.saturating_sub(since)))
        };
        let usual = left(self.queue.oldest_boot_ns(stream)?, SEAL_AFTER);
        let cited = self.cited_boot_ns.filter(|_| stream == Stream::Evidence);
        Some(cited.map_or(usual, |since| usual.min(left(since, CITED_SEAL_AFTER))))
    }

    /// Whether anything that is not urgent has waited long enough, or is enough for a block.
    fn bulk_is_due(&self, boot_ns: u64) -> bool {
        [Stream::Evidence, Stream::Recorder].into_iter().any(|s| {
            self.queue.bytes(s) >= SEAL_BYTES || self.due_in(s, boot_ns).is_some_and(|left| left.is_zero())
        })
    }

    /// Remembers the newest records that were lost, for [`Recorder::settlement`].
    fn note_lost(&mut self, stream: Stream, seqs: &[Seq]) {
        self.lost.extend(seqs.iter().map(|seq| (stream, *seq)));
        if self.lost.len() > MAX_LOST_REMEMBERED {
            let surplus = self.lost.len() - MAX_LOST_REMEMBERED;
            self.lost.drain(..surplus);
        }
    }

    fn settlement(&mut self, stream: Stream, seq: Seq) -> Settlement {
        if let Some(lost) = self.lost.iter().position(|l| *l == (stream, seq)) {
            self.lost.swap_remove(lost);
            return Settlement::Lost(
                self.failing.clone().unwrap_or_else(|| "there was no room for it".to_owned()),
            );
        }
        let durable = match stream {
            Stream::Urgent => self.durable_urgent,
            Stream::Evidence | Stream::Recorder => self.stats.durable_seq[stream.index()],
        };
        if durable >= seq { Settlement::Durable } else { Settlement::Waiting(self.failing.clone()) }
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
        // Somebody waits for content, and for whatever is urgent; the rest may be lost without being asked for.
        let awaited = stream == Stream::Urgent || body.kind() == Kind::File;
        let seq = state.queue.push(stream, at, body);
        if awaited && !state.queue.took(stream, seq) {
            state.note_lost(stream, &[seq]);
        }
        if awaited && stream == Stream::Evidence {
            // As if it had waited its time already.
            state.cited_boot_ns = Some(0);
        }
        state.stats.pushed[stream.index()] += 1;
        let wake = awaited || state.queue.bytes(stream) >= SEAL_BYTES;
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
        seq
    }

    /// A finding of `at` cites evidence: what waits of it is sealed within [`CITED_SEAL_AFTER`]. The record of the finding
    /// is to be pushed next; that wakes the writer.
    pub fn cited(&self, at: Moment) {
        let mut state = self.shared.lock();
        if state.queue.bytes(Stream::Evidence) > 0 {
            state.cited_boot_ns.get_or_insert(at.boot_ns);
        }
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
        self.shared.lock().settlement(Stream::Urgent, seq)
    }

    /// Waits until a record of [`Kind::File`] is durable; for whoever may wait for a disk. Such a record is never given up
    /// for the sake of another.
    ///
    /// # Errors
    /// Why it was lost, or was not durable within `patience`.
    pub fn await_durable(&self, stream: Stream, seq: Seq, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            let why = match state.settlement(stream, seq) {
                Settlement::Durable => return Ok(()),
                Settlement::Lost(why) => return Err(why),
                Settlement::Waiting(why) => why,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(why.unwrap_or_else(|| format!("the disk did not answer within {patience:?}")));
            }
            state = self.shared.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the evidence ring is so full of what the collector has not acknowledged that only lines may still go there.
    pub fn evidence_is_tight(&self) -> bool {
        self.shared.lock().pressure > THIN_ABOVE
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

    /// How many blocks and signed heads of `stream` became durable since the start; changes wake whoever watches. One
    /// for each stream, since whoever reads a journal should not look at it for the sake of another.
    pub fn news(&self, stream: Stream) -> watch::Receiver<u64> {
        self.shared.news[stream.index()].subscribe()
    }

    /// Newest durable seq of this incarnation, by stream.
    pub fn durable(&self) -> watch::Receiver<[Seq; 3]> {
        self.shared.durable.subscribe()
    }

    /// What the stream holds that is not acknowledged, oldest incarnation first.
    pub fn kept(&self, stream: Stream) -> Vec<KeptRange> {
        self.shared.lock().kept[stream.index()].clone()
    }

    /// Of the seqs `first` to `last` of `incarnation`, which this node does not hold, the runs of which no gap record
    /// tells that the ring gave them up.
    pub fn untold(&self, stream: Stream, incarnation: Incarnation, first: Seq, last: Seq) -> Vec<(Seq, Seq)> {
        self.shared.lock().given_up[stream.index()].untold(incarnation, first, last)
    }

    /// Figures of now.
    pub fn stats(&self) -> RecordStats {
        let state = self.shared.lock();
        let mut stats = state.stats.clone();
        stats.dropped = state.queue.dropped();
        stats.queued_bytes = Stream::ALL.map(|s| state.queue.bytes(s) as u64);
        stats.queue_bytes = stats.queued_bytes.iter().sum();
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
        let spooled = config.handed_over && stream != Stream::Recorder;
        Lane::open(&dir, stream, config.options(stream), &config.node, incarnation, spooled)
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
    let (active, given_up) = urgent_before(&dir).map_err(reader_error(Stream::Urgent))?;
    let mut newest = newest_lines(&dir, Stream::Evidence).map_err(reader_error(Stream::Evidence))?;
    newest.extend(newest_lines(&dir, Stream::Recorder).map_err(reader_error(Stream::Recorder))?);

    let shared = Arc::new(Shared {
        state: Mutex::new(State { queue, given_up, ..State::default() }),
        wake: Condvar::new(),
        settled: Condvar::new(),
        durable: watch::Sender::new([0; 3]),
        news: std::array::from_fn(|_| watch::Sender::new(0)),
        journal_dir: dir,
        node: config.node.clone(),
        incarnation,
        start_counter,
    });
    let mut writer = Writer {
        shared: shared.clone(),
        lanes: [urgent, evidence, recorder],
        key,
        entropy,
        aside_dir: config.state_dir.join("aside"),
        measured: None,
        tell_now: false,
    };
    writer.publish();
    Ok((
        Recorder { shared },
        writer,
        Opened { incarnation, start_counter, active, newest_lines: newest, remarks },
    ))
}

#[cfg(test)]
mod tests;
