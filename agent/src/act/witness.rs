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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, FileContent, FileSeen, InvalidValue, Record, Seq, Stream};

use super::ledger::HOUR_NS;
use super::plan::PreserveLeft;
use super::words;
use crate::record::Recorder;

/// How long what is about to go may take to be durable. The claim on the files lasts as long, and whoever opens one of
/// them waits.
const DURABLE_WAIT: Duration = Duration::from_secs(5);
/// Content from which on it is believed how far it shrinks: a piece or two tell nothing.
const MIN_TELLING: u64 = 1 << 20;
const SECOND_NS: u64 = 1_000_000_000;
/// Why nothing is kept while the evidence has no room.
const TIGHT: &str = "the evidence ring is nearly full of what the collector has not acknowledged";

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

    /// How much content may still be kept; `None` where what is not kept may go all the same.
    fn preserve_left(&self) -> Option<PreserveLeft> {
        None
    }
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
    /// How long what is about to go may take to be durable.
    wait: Duration,
    /// What was kept in the last hour, oldest first.
    spent: Mutex<VecDeque<Kept>>,
}

/// Content that was kept within a second.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// By the boot clock, ns.
    at_boot_ns: u64,
    /// As it is kept, compressed.
    bytes: u64,
    /// As it lay in its files.
    content_bytes: u64,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Recorded {
    /// Keeps digests in the urgent stream of `recorder`, and content within `budget` by way of `push_evidence`.
    pub fn new(recorder: Recorder, push_evidence: PushEvidence, budget: PreserveBudget) -> Self {
        Self { recorder, push_evidence, budget, wait: DURABLE_WAIT, spent: Mutex::default() }
    }

    /// The same one, which waits for `wait` until something is durable.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Begins with what the last runs kept within the hour, as the evidence stream's own records tell it.
    pub fn recall(&self, record: &Record) {
        let Body::File(seen) = &record.body else { return };
        let Some(content) = &seen.content else { return };
        let now = clock::now();
        let age = u64::try_from(now.wall_ns.saturating_sub(record.at.wall_ns)).unwrap_or(0);
        self.note(&mut self.of_the_hour(now.boot_ns), now.boot_ns.saturating_sub(age), content);
    }

    /// What was kept in the hour before `now_boot_ns`.
    fn of_the_hour(&self, now_boot_ns: u64) -> MutexGuard<'_, VecDeque<Kept>> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.retain(|kept| now_boot_ns.saturating_sub(kept.at_boot_ns) <= HOUR_NS);
        spent
    }

    fn note(&self, spent: &mut VecDeque<Kept>, at_boot_ns: u64, content: &FileContent) {
        let (bytes, content_bytes) = (content.zstd.len() as u64, content.length);
        match spent.back_mut() {
            // One entry a second is enough, and bounds them.
            Some(kept) if at_boot_ns.saturating_sub(kept.at_boot_ns) < SECOND_NS => {
                kept.bytes = kept.bytes.saturating_add(bytes);
                kept.content_bytes = kept.content_bytes.saturating_add(content_bytes);
            }
            _ => spent.push_back(Kept { at_boot_ns, bytes, content_bytes }),
        }
    }

    /// Reserves the room of a piece of a file, or says why there is none.
    fn reserve(&self, content: &FileContent) -> Result<(), String> {
        let (size_bytes, piece_bytes) = (content.size_bytes, content.zstd.len() as u64);
        let budget = &self.budget;
        if size_bytes > budget.max_bytes_per_object {
            return Err(format!(
                "it has {}, over cleanup.preserve.max_bytes_per_object of {}",
                words::bytes(size_bytes),
                words::bytes(budget.max_bytes_per_object)
            ));
        }
        if self.recorder.evidence_is_tight() {
            return Err(TIGHT.to_owned());
        }
        let now_boot_ns = clock::now().boot_ns;
        let mut spent = self.of_the_hour(now_boot_ns);
        let hour: u64 = spent.iter().map(|kept| kept.bytes).sum();
        if hour.saturating_add(piece_bytes) > budget.max_bytes_per_hour {
            return Err(self.hour_in_words(hour));
        }
        self.note(&mut spent, now_boot_ns, content);
        Ok(())
    }

    fn hour_in_words(&self, kept: u64) -> String {
        format!(
            "{} were kept in the last hour, and cleanup.preserve.max_bytes_per_hour is {}",
            words::bytes(kept),
            words::bytes(self.budget.max_bytes_per_hour)
        )
    }

    fn keep_content(&self, seen: FileSeen) -> Result<Verdict, String> {
        let body = Body::File(Box::new(seen));
        let seq = (self.push_evidence)(body).ok_or("the agent is stopping")?;
        self.recorder.await_durable(Stream::Evidence, seq, self.wait)?;
        Ok(Verdict::Kept)
    }
}

impl Witness for Recorded {
    fn keep(&self, seen: FileSeen) -> Result<Verdict, String> {
        if let Some(content) = &seen.content {
            return match self.reserve(content) {
                Ok(()) => self.keep_content(seen),
                Err(why) => match self.budget.overflow {
                    Overflow::Keep => Err(why),
                    Overflow::Digest => Ok(Verdict::DigestSuffices),
                },
            };
        }
        let seq = self.recorder.push(Stream::Urgent, clock::now(), Body::File(Box::new(seen)));
        self.recorder.await_durable(Stream::Urgent, seq, self.wait)?;
        Ok(Verdict::Kept)
    }

    fn preserve_left(&self) -> Option<PreserveLeft> {
        if self.budget.overflow == Overflow::Digest {
            return None;
        }
        let object_bytes = self.budget.max_bytes_per_object;
        if self.recorder.evidence_is_tight() {
            return Some(PreserveLeft { object_bytes, bytes: 0, said: TIGHT.to_owned() });
        }
        let spent = self.of_the_hour(clock::now().boot_ns);
        let sum = |of: fn(&Kept) -> u64| spent.iter().fold(0u64, |sum, kept| sum.saturating_add(of(kept)));
        let (kept, content) = (sum(|k| k.bytes), sum(|k| k.content_bytes));
        let bytes = expected_to_fit(self.budget.max_bytes_per_hour.saturating_sub(kept), kept, content);
        Some(PreserveLeft { object_bytes, bytes, said: self.hour_in_words(kept) })
    }
}

/// Bytes of content that should fit `left` compressed ones, by how far `content` shrank to `kept` before: an eighth less, for
/// not everything shrinks alike, and none where too little was seen to tell.
fn expected_to_fit(left: u64, kept: u64, content: u64) -> u64 {
    if kept == 0 || content < MIN_TELLING {
        return left;
    }
    let fits = u128::from(left) * u128::from(content) / u128::from(kept) * 7 / 8;
    u64::try_from(fits).unwrap_or(u64::MAX).max(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_content_fits_is_told_by_what_was_kept() {
        let mib = 1 << 20;
        assert_eq!(expected_to_fit(32 * mib, 0, 0), 32 * mib, "nothing is known yet");
        assert_eq!(expected_to_fit(32 * mib, 1_000, 10_000), 32 * mib, "too little to tell");
        assert_eq!(expected_to_fit(24 * mib, 8 * mib, 80 * mib), 210 * mib, "logs shrink to a tenth");
        assert_eq!(expected_to_fit(24 * mib, 8 * mib, 8 * mib), 24 * mib, "what is compressed does not");
        assert_eq!(expected_to_fit(0, 8 * mib, 80 * mib), 0);
    }
}
