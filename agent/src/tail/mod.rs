//! Tails log files: follows them through rotation, finds the lines that rules name, and hands them on, masked.
//!
//! Modules stand in the order in which a line passes them: [`discover`] finds files, [`follow`] keeps hold of one
//! through renames and truncation, [`holes`] passes over what was cut out of it, [`pattern`], [`rules`] and [`matcher`] say which lines matter, [`lines`] adds their
//! context, [`mask`] takes secrets out, [`tailer`] does this for all files within budgets, [`checkpoint`] remembers how
//! far it got, [`watch`] is the thread around it.
//!
//! Invariants
//! - A line is handed on at most once for each stream while the agent runs. Over a crash, reading goes on from the
//!   checkpoint, which moves only over what the caller says is durable ([`Tailer::durable`]), and skips what the
//!   caller's journal holds already ([`Resume`]): together that is exactly once.
//! - What is skipped (truncated or cut out before it was read, over a budget, deleted unread) is said as a [`TailGap`], and no
//!   [`Mark`] passes a gap that was not said.
//! - Memory does not depend on what a log holds: one buffer of 256 KiB, and some hundred bytes for each file.
//!
//! Files of pods are in the CRI log format: rules see the messages in them, joined from their parts ([`runtime`], `pods`);
//! of these, a message of which no further part comes is handed on cut when its file is rotated or after half a minute.
//!
//! Deliberately absent: tokio, a clock (time comes in as an argument), parsing of other log formats (lines of Docker's
//! json-file driver stay as they are), joining of lines that a program wrote apart. A line of a file whose last line has no newline yet is handed on once the newline comes or the file is rotated.
//! Losses that leave no trace are not seen: what is written and truncated away between two looks, where no copy of the
//! file lies beside it.

pub mod checkpoint;
mod deliver;
mod discover;
mod follow;
mod holes;
mod judge;
mod lines;
pub mod mask;
mod matcher;
mod pattern;
mod pods;
mod reconcile;
pub mod rules;
mod runtime;
mod tailer;
pub mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::{LogLine, Stream};

pub use checkpoint::{CHECKPOINT_FILE, Checkpoint, CheckpointStore, CheckpointWriter};
pub use discover::GlobError;
pub(crate) use judge::Judge;
pub use mask::{MaskError, Masker};
pub use rules::{Mistake, Rule, RuleSet, RulesError};
pub use tailer::{TailError, Tailer};
pub use watch::{Batch, Counts, Handle, run};

/// Where to begin with files that are there at the very first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With what is written from now on.
    #[default]
    End,
    /// With what is there.
    Beginning,
}

/// What to tail, and within which bounds.
#[derive(Debug, Clone)]
pub struct TailConfig {
    /// Absolute paths with wildcards.
    pub globs: Vec<String>,
    /// Globs of paths that are left out even where one of `globs` matches.
    pub exclude: Vec<String>,
    /// Folders besides those of `globs` into which symbolic links may lead. Links elsewhere are refused, for whoever
    /// can write into a log folder could otherwise have any file of the node sent away.
    pub link_roots: Vec<PathBuf>,
    /// Where to begin at the very first start.
    pub start: Start,
    /// Which lines are evidence, and extra masks.
    pub rules: RuleSet,
    /// Whether unmatched lines are handed on as well, for the recorder stream.
    pub emit_all: bool,
    /// Files followed at once; each holds a descriptor.
    pub max_files: usize,
    /// Folder entries looked at in one sweep.
    pub max_entries: usize,
    /// Longest line kept, in bytes; of a longer one this much is kept and marked as truncated.
    pub max_line_bytes: usize,
    /// Bytes read in a second, over all files. Reading waits where it is over.
    pub bytes_per_second: u64,
    /// Bytes of evidence lines handed on in a second; beyond it, lines are counted in a gap.
    pub evidence_bytes_per_second: u64,
    /// Bytes of unmatched lines handed on in a second; beyond it, lines are counted in a gap.
    pub recorder_bytes_per_second: u64,
    /// Bytes that may wait unread in one file; where more do, the oldest are skipped with a gap.
    pub max_backlog_bytes: u64,
    /// How often files are asked for their size.
    pub poll: Duration,
    /// How often the globs are walked, hints aside.
    pub sweep: Duration,
    /// How long a rotated or deleted file must be quiet before it is closed.
    pub rotated_quiet: Duration,
}

impl Default for TailConfig {
    fn default() -> Self {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self {
            globs: strings(&[
                "/var/log/*.log",
                "/var/log/syslog",
                "/var/log/messages",
                "/var/log/secure",
                "/var/log/pods/*/*/*.log",
            ]),
            exclude: strings(&["*.gz", "*.xz", "*.zst", "*.bz2", "*.lz4"]),
            link_roots: vec!["/var/log".into(), "/var/lib/docker/containers".into()],
            start: Start::End,
            rules: RuleSet::shipped(),
            emit_all: true,
            max_files: 2048,
            max_entries: 100_000,
            max_line_bytes: 16 * 1024,
            bytes_per_second: 64 * 1024 * 1024,
            evidence_bytes_per_second: 1024 * 1024,
            recorder_bytes_per_second: 4 * 1024 * 1024,
            max_backlog_bytes: 1024 * 1024 * 1024,
            poll: Duration::from_secs(1),
            sweep: Duration::from_secs(5),
            rotated_quiet: Duration::from_secs(5),
        }
    }
}

/// A place in a file: everything before it is dealt with once the event that carries it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Names the file within this run.
    pub file: u64,
    /// Grows when the file is truncated and begins anew.
    pub generation: u32,
    /// The source's path.
    pub source: Arc<str>,
    /// The file's inode.
    pub inode: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Lines after `done` that are still context of a match before it.
    pub after: u8,
    /// Lines that are complete before this offset are dealt with too: reading must begin at `offset` alone because a
    /// message began there whose end was not in sight.
    pub done: u64,
}

/// Which streams a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// A match, or context of one, that the evidence stream lacks.
    pub evidence: bool,
    /// A line that the recorder stream lacks.
    pub recorder: bool,
}

/// What tailing has to say. For one file, lines of a stream come in the order of their offsets; a line that becomes
/// context only by a later match can come twice, once for each stream.
#[derive(Debug, Clone, PartialEq)]
pub enum TailEvent {
    /// A line to keep.
    Line {
        /// The line, cut and masked.
        line: LogLine,
        /// What for.
        keep: Keep,
        /// Everything before this is dealt with, this line included.
        mark: Mark,
    },
    /// Nothing (more) to keep up to here.
    Progress(Mark),
    /// A loss.
    Gap(TailGap),
    /// Something that a person should see to; said once.
    Problem(String),
}

/// Bytes of a file that were skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailGap {
    /// The source's path.
    pub source: String,
    /// The file's inode.
    pub inode: u64,
    /// Which stream lacks them; `None` for all, since nobody looked at them.
    pub stream: Option<Stream>,
    /// Offset of the first byte that may be missing.
    pub from_offset: u64,
    /// Offset behind the last one; `None` where nobody can know.
    pub to_offset: Option<u64>,
    /// How many bytes are missing; `None` where nobody can know.
    pub bytes: Option<u64>,
    /// How many lines are missing; `None` where nobody looked.
    pub lines: Option<u64>,
    /// Why, in words.
    pub reason: String,
    /// Everything before this is dealt with once the gap is durable; `None` for a file that is not there.
    pub mark: Option<Mark>,
}

/// The newest line of a source that a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journaled {
    /// `Evidence` or `Recorder`; others are ignored.
    pub stream: Stream,
    /// The line as it stands there. It must be found in the file again, at its offset, to count.
    pub line: LogLine,
}

/// From where to go on.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// The last checkpoint; `None` at the very first start.
    pub checkpoint: Option<Checkpoint>,
    /// For each file and stream, the newest durable line.
    pub journaled: Vec<Journaled>,
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Bytes read.
    pub bytes: u64,
    /// Whether nothing is left to read now (or the budget of this second is used up).
    pub idle: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes read and searched.
    pub bytes: u64,
    /// Lines searched.
    pub lines: u64,
    /// Lines that a rule matched, kept or not.
    pub matches: u64,
    /// Matches of each rule, in the order of the rules.
    pub rule_matches: Vec<u64>,
    /// Lines not handed on for want of budget.
    pub dropped_lines: u64,
    /// Gaps said.
    pub gaps: u64,
    /// Problems said.
    pub problems: u64,
    /// Files with an open descriptor now.
    pub open_files: usize,
    /// Files known now.
    pub known_files: usize,
}
