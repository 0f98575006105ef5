//! Frames on their way into the index: read from a journal, understood, not folded yet.

use std::sync::Arc;

use dogwatch::block::Block;
use dogwatch::chain::ChainId;
use dogwatch::journal::{Entry, FrameKind, JournalError, Position, Scan};
use dogwatch::record::{Kind, Kinds, Record, Seq};

use super::decision::Decision;
use super::index::{Checkpoint, Draft, Folded, IndexError};
use super::view::{fold_block, fold_decision, fold_unread};
use super::{Notice, truth};

/// Most frames folded into one batch.
const BATCH_FRAMES: u64 = 1024;
/// Most bytes of frames folded into one batch, about.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Which journal.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Urgent,
    Truth,
}

impl Which {
    /// How far it is folded.
    pub(super) fn folded(self, c: &Checkpoint) -> Folded {
        match self {
            Self::Urgent => c.urgent,
            Self::Truth => c.truth,
        }
    }
}

/// A run of frames for one batch.
pub(super) struct Frames {
    /// What of them has a place in the index or is told.
    pub(super) frames: Vec<Frame>,
    /// Where the fold stands after them; `None` if there was none.
    pub(super) folded: Option<Folded>,
    /// All of them.
    pub(super) count: u64,
    /// Those that were not understood.
    pub(super) odd: u64,
    /// Whether no more follow for now.
    pub(super) last: bool,
}

/// A frame that was understood.
pub(super) enum Frame {
    Block {
        at: Position,
        chain: ChainId,
        last_seq: Seq,
        records: Arc<[Record]>,
        fold: bool,
        tell: bool,
    },
    Decision {
        at: Position,
        decision: Arc<Decision>,
        tell: bool,
    },
    /// A decision that cannot be read and may have been about the fleet brake.
    Unread {
        why: String,
    },
}

impl Frames {
    /// Takes the frames behind `from`, up to `upto`, as far as one batch goes. Those behind `told` are told.
    pub(super) fn take(
        scan: &mut Ahead,
        which: Which,
        told: (Position, Position),
        from: Position,
        upto: Position,
    ) -> Result<Self, JournalError> {
        let mut batch = Self { frames: Vec::new(), folded: None, count: 0, odd: 0, last: false };
        let mut bytes = 0;
        let mut newest: Option<Entry> = None;
        while batch.count < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(entry) = scan.next_if(|e| !matches!(e, Ok(e) if e.at > upto)) else {
                batch.last = true;
                break;
            };
            let entry = entry?;
            if entry.at <= from {
                continue;
            }
            if matches!(which, Which::Truth) && scan.passed_damage() {
                batch.odd += 1;
                batch.frames.push(Frame::Unread { why: "the journal is damaged there".to_owned() });
            }
            let understood = match which {
                Which::Urgent => block(&entry, entry.at > told.0),
                Which::Truth => decision(&entry, entry.at > told.1),
            };
            match understood {
                Ok(frame) => {
                    batch.odd += u64::from(matches!(frame, Some(Frame::Unread { .. })));
                    batch.frames.extend(frame);
                }
                Err(Odd) => batch.odd += 1,
            }
            batch.count += 1;
            bytes += entry.payload.len();
            newest = Some(entry);
        }
        batch.folded = newest.map(|e| Folded::after(e.at, &e.payload));
        Ok(batch)
    }
}

impl Frame {
    /// Folds it.
    pub(super) fn fold(&self, draft: &mut Draft<'_>) -> Result<(), IndexError> {
        match self {
            Self::Block { at, chain, last_seq, records, fold: true, .. } => {
                fold_block(draft, *at, chain, *last_seq, records)
            }
            Self::Block { .. } => Ok(()),
            Self::Decision { at, decision, .. } => fold_decision(draft, *at, decision),
            Self::Unread { why } => fold_unread(draft, why),
        }
    }

    /// What subscribers are told of it.
    pub(super) fn told(self) -> Option<Notice> {
        match self {
            Self::Block { chain, records, tell: true, .. } => Some(Notice::Records { chain, records }),
            Self::Decision { decision, tell: true, .. } => Some(Notice::Decided(decision)),
            _ => None,
        }
    }
}

/// Not understood: damaged, or of a newer version.
struct Odd;

/// `None`: nothing for the index, nor to be told.
fn block(entry: &Entry, tell: bool) -> Result<Option<Frame>, Odd> {
    if entry.kind != FrameKind::Block {
        return Ok(None);
    }
    let rows = Kinds::default().with(Kind::Finding).with(Kind::Action);
    let block = Block::decode(entry.payload.clone()).map_err(|_| Odd)?;
    let h = block.header();
    // Told or not, the same blocks are folded: a rebuild, which tells nobody, gives the same bytes.
    let fold = h.kinds.intersects(rows);
    if !tell && !fold {
        return Ok(None);
    }
    let records = block.records(if tell { Kinds(u32::MAX) } else { rows }).map_err(|_| Odd)?;
    Ok(Some(Frame::Block {
        at: entry.at,
        chain: ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream },
        last_seq: h.last_seq,
        records: records.into(),
        fold,
        tell,
    }))
}

/// As [`block`].
fn decision(entry: &Entry, tell: bool) -> Result<Option<Frame>, Odd> {
    if entry.kind != FrameKind::Decision {
        return Ok(None);
    }
    match truth::decode(&entry.payload) {
        Ok(decision) => Ok(Some(Frame::Decision { at: entry.at, decision: Arc::new(decision), tell })),
        Err(error) => {
            tracing::error!(
                segment = entry.at.segment,
                offset = entry.at.offset,
                error,
                "a decision is not understood and has no effect"
            );
            if may_stop(&entry.payload) { Ok(Some(Frame::Unread { why: error })) } else { Err(Odd) }
        }
    }
}

/// Whether a decision that is not understood may have been about the fleet brake: unless it says that it is another kind.
fn may_stop(payload: &[u8]) -> bool {
    let frame = serde_json::from_slice::<serde_json::Value>(payload).unwrap_or_default();
    let kind = frame["decision"]["what"]["kind"].as_str();
    kind.is_none_or(|kind| kind.starts_with("brake-") || kind.starts_with("permit-"))
}

/// A scan of which the next entry can be looked at, and what it passed over.
pub(super) struct Ahead {
    scan: Scan,
    next: Option<Result<Entry, JournalError>>,
    /// Whether something that was whole once was passed over just before `next`.
    damage: bool,
    /// Stretches of damage that were looked at.
    seen: usize,
    /// Whether what is passed over from now on was not told of before.
    new: bool,
}

impl Ahead {
    /// A scan from `from`, behind which nothing is folded yet.
    pub(super) fn new(scan: Scan, from: Position) -> Self {
        Self { scan, next: None, damage: false, seen: 0, new: from == Position::default() }
    }

    fn next_if(
        &mut self,
        wanted: impl Fn(&Result<Entry, JournalError>) -> bool,
    ) -> Option<Result<Entry, JournalError>> {
        if self.next.is_none() {
            self.next = self.scan.next();
            let damaged = self.scan.damaged().get(self.seen..).unwrap_or_default();
            self.seen += damaged.len();
            // What is torn at the end of a file was never acknowledged; a file that cannot be read at all was.
            let here = self.scan.file();
            self.damage |=
                self.new && damaged.iter().any(|(at, _)| at.offset == 0 || Some(at.segment) == here);
            // What stands before the first entry, which was folded already, was told of when it was passed.
            self.new = true;
        }
        self.next.take_if(|next| wanted(next))
    }

    /// Whether something was passed over since this was asked last.
    fn passed_damage(&mut self) -> bool {
        std::mem::take(&mut self.damage)
    }
}
