//! Opening: from a folder and figures to a running store.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dogwatch::chain::{ChainId, Head};
use dogwatch::journal::{Journal, JournalError, Options, Position, Reader, Recovered};
use dogwatch::record::Stream;
use ed25519_dalek::SigningKey;
use tokio::sync::{broadcast, watch};

use super::aside::Aside;
use super::board::Board;
use super::catalog::{self, Catalog};
use super::doubt::Doubt;
use super::held::{GROWTH, Spans};
use super::index::Opener;
use super::indexer::{Indexer, Slot};
use super::retention::Retention;
use super::seat::Seat;
use super::truth::{MERGE_SEGMENTS, TruthWriter};
use super::watchdog::Deadlines;
use super::writer::{BlockWriter, Parts, Shared};
use super::{Clock, Inner, OpenError, Store, frames, sled_index};

/// Smallest segment that a journal takes, and the granularity of its size.
const SEGMENT_MIN: u64 = 1024 * 1024;
/// Segment sizes are multiples of this.
const SEGMENT_UNIT: u64 = 4096;
/// Bytes that may wait for a sync, by stream: 64 MiB together, so that bulk never takes the room of what is urgent.
const QUEUE_BYTES: [usize; 3] = [8 << 20, 40 << 20, 16 << 20];
/// Notices that a subscriber may lag behind before it must reconsider.
const NOTICES: usize = 4096;
/// Arrivals that a subscriber may lag behind before it is told how many it missed; some 40 bytes each.
const ARRIVALS: usize = 4096;

/// Long enough for an index that works, short enough for whoever waits for what they ordered.
const FOLD_PATIENCE: Duration = Duration::from_secs(5);

/// One journal's figures.
#[derive(Debug, Clone, Copy)]
pub struct JournalConfig {
    /// Size of a segment file in bytes: at least 1 MiB, a multiple of 4096.
    pub segment_bytes: u64,
    /// Most bytes of all segment files; at least two segments.
    pub max_bytes: u64,
    /// Age by time of receipt after which a segment expires; `None`: only size decides. The truth journal never
    /// expires and ignores it.
    pub max_age: Option<Duration>,
}

/// The store's figures.
#[derive(Clone)]
pub struct StoreConfig {
    /// Its folder; made if missing.
    pub dir: PathBuf,
    /// Findings, actions, gaps.
    pub urgent: JournalConfig,
    /// Logs and samples.
    pub evidence: JournalConfig,
    /// Windows at full rate.
    pub recorder: JournalConfig,
    /// The collector's decisions.
    pub truth: JournalConfig,
    /// Segments of each journal that are made at open.
    pub preallocate_segments: u32,
    /// Free space below which no block is accepted.
    pub reserve_free_bytes: u64,
    /// How long the index's engine may take.
    pub index_deadlines: Deadlines,
    /// Longest wait for the index to take in a decision that is durable already. Beyond it (a rebuild is under way) the
    /// decision stands and the rows follow.
    pub fold_patience: Duration,
    /// Opens the index's engine; `None`: sled.
    pub index_opener: Option<Opener>,
    /// Whether nothing expires until [`Store::keep_spans`] said what is held.
    pub expires_once_told: bool,
}

impl StoreConfig {
    /// What suits a collector of a few hundred nodes, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let journal = |segment_mib: u64, max_gib: u64, days: u32| JournalConfig {
            segment_bytes: segment_mib << 20,
            max_bytes: max_gib << 30,
            max_age: Some(DAY * days),
        };
        Self {
            dir: dir.into(),
            urgent: journal(16, 4, 90),
            evidence: journal(64, 32, 14),
            recorder: journal(64, 8, 7),
            truth: JournalConfig { max_age: None, ..journal(8, 1, 0) },
            preallocate_segments: 1,
            reserve_free_bytes: 1 << 30,
            index_deadlines: Deadlines::default(),
            fold_patience: FOLD_PATIENCE,
            index_opener: None,
            expires_once_told: false,
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        let journals = [
            ("urgent", &self.urgent),
            ("evidence", &self.evidence),
            ("recorder", &self.recorder),
            ("truth", &self.truth),
        ];
        for (name, j) in journals {
            let wrong = |key: &str, rule| Err(OpenError::Config { key: format!("{name}.{key}"), rule });
            if j.segment_bytes < SEGMENT_MIN || j.segment_bytes % SEGMENT_UNIT != 0 {
                return wrong("segment_bytes", "must be at least 1 MiB and a multiple of 4096");
            }
            if j.max_bytes < 2 * j.segment_bytes {
                return wrong("max_bytes", "must hold at least two segments");
            }
        }
        Ok(())
    }
}

/// What was found at open.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// Each journal by name, and what it recovered.
    pub journals: Vec<(&'static str, Recovered)>,
    /// Blocks that the journals hold.
    pub blocks: usize,
    /// Free bytes of the folder's filesystem.
    pub free_bytes: u64,
}

impl OpenReport {
    /// Whether the last collector closed the store in order, or there was none.
    pub fn clean(&self) -> bool {
        self.journals.iter().all(|(_, r)| r.clean)
    }
}

impl Store {
    /// Opens the store and starts its threads. Returns as soon as blocks can be committed; the index may still be
    /// catching up, questions wait for it.
    ///
    /// # Errors
    /// [`OpenError`]: a journal that is in use or cannot be made, a folder that cannot be made, figures without sense.
    pub fn open(
        config: StoreConfig,
        receipt_key: SigningKey,
        clock: Clock,
    ) -> Result<(Self, OpenReport), OpenError> {
        config.check()?;
        let dir = &config.dir;
        let io = |what, path: PathBuf| move |source| OpenError::Io { what, path, source };
        fs::create_dir_all(dir).map_err(io("create", dir.clone()))?;
        let aside_dir = dir.join("aside");
        let aside = Arc::new(Mutex::new(Aside::open(&aside_dir).map_err(io("open", aside_dir.clone()))?));
        let board = Arc::new(Board::default());
        let mut report = OpenReport {
            free_bytes: super::space::free_bytes(dir).map_err(io("measure", dir.clone()))?,
            ..OpenReport::default()
        };

        let (arrivals, _) = broadcast::channel(ARRIVALS);
        let mut writers = Vec::with_capacity(Stream::ALL.len());
        for stream in Stream::ALL {
            let figures = match stream {
                Stream::Urgent => &config.urgent,
                Stream::Evidence => &config.evidence,
                Stream::Recorder => &config.recorder,
            };
            let name = stream.as_str();
            let journal = |source| OpenError::Journal { journal: name, source };
            let path = dir.join(name);
            let retention =
                Retention { max_bytes: figures.max_bytes, max_age_ns: figures.max_age.map(as_ns) };
            // One more than retention keeps, so that a batch that begins a new segment finds a place; and room for what
            // may not expire.
            let most = retention.max_segments(figures.segment_bytes).saturating_mul(GROWTH).saturating_add(1);
            let (seat, recovered) = seat(&path, figures, most, &config).map_err(journal)?;
            let reader = Reader::open(&path).map_err(journal)?;
            let mut catalog = Catalog::new(stream, catalog::MAX_BLOCKS);
            // A journal may forget heads of chains that are silent for long; its blocks know them, too.
            let mut heads: HashMap<ChainId, Head> = recovered.heads.iter().cloned().collect();
            for (at, info) in reader.blocks().map_err(journal)? {
                catalog.add(at, &info);
                let head = heads.entry(info.chain).or_default();
                if head.last_seq < info.last_seq {
                    *head = Head { last_seq: info.last_seq, hash: info.hash };
                }
            }
            report.blocks += catalog.len();
            let shared = Arc::new(Shared::new(stream, path, reader, catalog, arrivals.clone()));
            *shared.heads() = heads;
            report.journals.push((name, recovered));
            writers.push((shared, seat, retention));
        }
        let truth_journal = |source| OpenError::Journal { journal: "truth", source };
        let truth_dir = dir.join("truth");
        let most = u32::try_from(config.truth.max_bytes / config.truth.segment_bytes).unwrap_or(u32::MAX);
        let most = most.saturating_add(MERGE_SEGMENTS);
        // What the journal and the index show of lost decisions, opening them may take away.
        let doubt = Arc::new(Doubt::open(dir));
        let (mut truth_seat, recovered) =
            seat(&truth_dir, &config.truth, most, &config).map_err(truth_journal)?;
        doubt.opened(recovered.left_out);
        truth_seat.keep_doubt(Arc::clone(&doubt));
        report.journals.push(("truth", recovered));
        for (name, r) in &report.journals {
            for remark in &r.remarks {
                tracing::warn!(journal = name, remark, "while opening the store");
            }
        }

        // Marks before threads: nothing is appended between looking and starting.
        let open_reader = |name: &'static str, path: &Path| {
            Reader::open(path).map_err(|source| OpenError::Journal { journal: name, source })
        };
        let urgent_reader = open_reader("urgent", &dir.join("urgent"))?;
        let truth_reader = open_reader("truth", &truth_dir)?;
        let mut told = (Position::default(), Position::default());
        if let Some((_, seat, _)) = writers.first_mut()
            && let Ok(journal) = seat.journal()
        {
            told.0 = end(journal, &urgent_reader)
                .map_err(|source| OpenError::Journal { journal: "urgent", source })?;
            board.urgent(told.0);
            let floor = frames::floor(&urgent_reader)
                .map_err(|source| OpenError::Journal { journal: "urgent", source })?;
            board.floor(floor.unwrap_or(0));
        }
        if let Ok(journal) = truth_seat.journal() {
            told.1 = end(journal, &truth_reader).map_err(truth_journal)?;
            board.truth(told.1);
        }

        let slot = Arc::new(Slot::new());
        // A node is let in by a decision before it can send a block.
        if told.1 == Position::default() && report.blocks > 0 {
            doubt.raise("there are blocks of nodes and not one decision");
        }
        let (notices, _) = broadcast::channel(NOTICES);
        let (folded_tx, folded) = watch::channel(Position::default());
        let indexer = Indexer {
            dir: dir.join("index"),
            opener: config.index_opener.clone().unwrap_or_else(sled_index::opener),
            deadlines: config.index_deadlines,
            urgent: urgent_reader,
            truth: open_reader("truth", &truth_dir)?,
            board: Arc::clone(&board),
            slot: Arc::clone(&slot),
            doubt: Arc::clone(&doubt),
            notices: notices.clone(),
            folded: folded_tx,
            told,
        };
        let spawn = |source| OpenError::Io { what: "start a thread for", path: dir.clone(), source };
        let truth = TruthWriter::start(truth_seat, truth_dir, Arc::clone(&board), Arc::clone(&clock))
            .map_err(spawn)?;
        let spans = Spans::default();
        if !config.expires_once_told {
            spans.set(Vec::new());
        }
        let mut streams = Vec::with_capacity(Stream::ALL.len());
        for ((shared, seat, retention), budget) in writers.into_iter().zip(QUEUE_BYTES) {
            let parts = Parts {
                shared: Arc::clone(&shared),
                seat,
                aside: Arc::clone(&aside),
                board: Arc::clone(&board),
                retention,
                reserve_free_bytes: config.reserve_free_bytes,
                receipt_key: receipt_key.clone(),
                clock: Arc::clone(&clock),
                spans: spans.clone(),
            };
            streams.push((shared, BlockWriter::start(parts, budget).map_err(spawn)?));
        }
        let thread = std::thread::Builder::new()
            .name("store-indexer".to_owned())
            .spawn(move || indexer.run())
            .map_err(spawn)?;
        let streams: [(Arc<Shared>, BlockWriter); 3] = match streams.try_into() {
            Ok(three) => three,
            Err(_) => unreachable!("one writer is made for each of the three streams"),
        };
        let inner = Inner {
            streams,
            truth,
            truth_reader,
            board,
            slot,
            doubt,
            folded,
            fold_patience: config.fold_patience,
            notices,
            arrivals,
            aside,
            spans,
            read_last: Mutex::default(),
            indexer: Mutex::new(Some(thread)),
        };
        Ok((Self { inner: Arc::new(inner) }, report))
    }
}

fn seat(
    path: &Path,
    figures: &JournalConfig,
    max_segments: u32,
    config: &StoreConfig,
) -> Result<(Seat, Recovered), JournalError> {
    let options = Options {
        segment_bytes: figures.segment_bytes,
        max_segments,
        preallocate_segments: config.preallocate_segments.min(max_segments),
    };
    Seat::open(path.to_owned(), options)
}

/// Where the last frame stands that is there before anything is appended.
fn end(journal: &Journal, reader: &Reader) -> Result<Position, JournalError> {
    // The newest segment may be empty, or hold frames that keep positions of earlier ones: look further back then.
    let numbers = journal.segments().into_iter().map(|s| s.number).rev().chain([0]);
    for segment in numbers {
        let mut last = None;
        for entry in reader.scan(Position { segment, offset: 0 }) {
            last = Some(entry?.at);
        }
        if let Some(at) = last {
            return Ok(at);
        }
    }
    Ok(Position::default())
}

fn as_ns(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}
