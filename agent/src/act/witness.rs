//! What is about to go is durable before it goes.
//!
//! The executor writes nothing and has no journal: it hands what it saw (path, identity, owner, times, size, digest; and
//! the content, where a root's policy preserves it) to the agent, keeps its claim on the files meanwhile, and removes them
//! when the agent says that it is durable. [`Witness`] is the agent's side, [`Recorded`] the one that uses the record.
//!
//! Digests go to the urgent stream: without them nothing goes. Content goes to the evidence, where it gives way to
//! everything but the recorder: it never makes samples or lines give way, takes no part of a ring that is tight, and no
//! more in an hour than [`PreserveBudget`] says. What is over that stays where it is, unless
//! [`Overflow::Digest`] says that its digest suffices.
//!
//! Deliberately absent: what is preserved (the policy of each root, which the executor obeys).

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Body, FileSeen, InvalidValue, Seq, Stream};

use super::words;
use crate::record::Recorder;

/// How long what is about to go may take to be durable. The claim on the files lasts as long, and whoever opens one of
/// them waits.
const DURABLE_WAIT: Duration = Duration::from_secs(5);
/// The span of the hourly budget.
const HOUR: Duration = Duration::from_secs(3_600);

/// What the agent says to what the executor saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is durable.
    Kept,
    /// The content is not kept, and the object may go all the same: its digest suffices.
    DigestSuffices,
}

/// Makes durable what the executor is about to remove.
pub trait Witness: fmt::Debug + Send + Sync {
    /// Keeps `seen`; durable when this returns.
    ///
    /// # Errors
    /// Why it is not kept; what it names then stays.
    fn keep(&self, seen: FileSeen) -> Result<Verdict, String>;
}

/// What becomes of an object whose content does not fit the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It stays.
    #[default]
    Keep,
    /// It goes with its digest alone.
    Digest,
}

impl FromStr for Overflow {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "keep" => Ok(Self::Keep),
            "digest" => Ok(Self::Digest),
            _ => Err(InvalidValue::new("overflow", s, "must be keep or digest")),
        }
    }
}

/// How much content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreserveBudget {
    /// Largest file whose content is kept, bytes; at most [`MAX_OBJECT_BYTES`].
    pub max_bytes_per_object: u64,
    /// Most compressed bytes that are kept in an hour.
    pub max_bytes_per_hour: u64,
    /// What becomes of what is over either.
    pub overflow: Overflow,
}

/// Largest file whose content can be kept: of a larger one only the ends are digested, so that nobody could verify it.
pub const MAX_OBJECT_BYTES: u64 = super::remove::DIGEST_WHOLE;

impl Default for PreserveBudget {
    fn default() -> Self {
        Self { max_bytes_per_object: 16 << 20, max_bytes_per_hour: 32 << 20, overflow: Overflow::default() }
    }
}

/// Hands a body to whoever alone pushes to the evidence stream, and gives its seq.
pub type PushEvidence = Box<dyn Fn(Body) -> Option<Seq> + Send + Sync>;

/// Keeps what was seen in the record.
pub struct Recorded {
    recorder: Recorder,
    push_evidence: PushEvidence,
    budget: PreserveBudget,
    /// Compressed bytes kept in the last hour, oldest first.
    spent: Mutex<VecDeque<(Instant, u64)>>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Recorded {
    /// Keeps digests in the urgent stream of `recorder`, and content within `budget` by way of `push_evidence`.
    pub fn new(recorder: Recorder, push_evidence: PushEvidence, budget: PreserveBudget) -> Self {
        Self { recorder, push_evidence, budget, spent: Mutex::default() }
    }

    /// Reserves the room of a piece of a file, or says why there is none.
    fn reserve(&self, size_bytes: u64, piece_bytes: u64) -> Result<(), String> {
        let budget = &self.budget;
        if size_bytes > budget.max_bytes_per_object {
            return Err(format!(
                "it has {}, over cleanup.preserve.max_bytes_per_object of {}",
                words::bytes(size_bytes),
                words::bytes(budget.max_bytes_per_object)
            ));
        }
        if self.recorder.evidence_is_tight() {
            return Err(
                "the evidence ring is nearly full of what the collector has not acknowledged".to_owned()
            );
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        while spent.front().is_some_and(|(at, _)| at.elapsed() > HOUR) {
            spent.pop_front();
        }
        let hour: u64 = spent.iter().map(|(_, bytes)| bytes).sum();
        if hour.saturating_add(piece_bytes) > budget.max_bytes_per_hour {
            return Err(format!(
                "{} were kept in the last hour, and cleanup.preserve.max_bytes_per_hour is {}",
                words::bytes(hour),
                words::bytes(budget.max_bytes_per_hour)
            ));
        }
        // One entry a second is enough, and bounds them.
        match spent.back_mut() {
            Some((at, bytes)) if at.elapsed() < Duration::from_secs(1) => *bytes += piece_bytes,
            _ => spent.push_back((Instant::now(), piece_bytes)),
        }
        Ok(())
    }

    fn keep_content(&self, seen: FileSeen, size_bytes: u64, piece_bytes: u64) -> Result<Verdict, String> {
        if let Err(why) = self.reserve(size_bytes, piece_bytes) {
            return match self.budget.overflow {
                Overflow::Keep => Err(why),
                Overflow::Digest => Ok(Verdict::DigestSuffices),
            };
        }
        let body = Body::File(Box::new(seen));
        let seq = (self.push_evidence)(body).ok_or("the agent is stopping")?;
        self.recorder.await_durable(Stream::Evidence, seq, DURABLE_WAIT)?;
        Ok(Verdict::Kept)
    }
}

impl Witness for Recorded {
    fn keep(&self, seen: FileSeen) -> Result<Verdict, String> {
        if let Some(content) = &seen.content {
            let (size_bytes, piece_bytes) = (content.size_bytes, content.zstd.len() as u64);
            return self.keep_content(seen, size_bytes, piece_bytes);
        }
        let seq = self.recorder.push(Stream::Urgent, clock::now(), Body::File(Box::new(seen)));
        self.recorder.await_durable(Stream::Urgent, seq, DURABLE_WAIT)?;
        Ok(Verdict::Kept)
    }
}
