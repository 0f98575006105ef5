//! The index: a small ordered key-value table of what segment footers do not answer.
//!
//! Invariants: an index holds nothing that the journals cannot give again. Every [`Batch`] is atomic and carries the
//! [`Checkpoint`] that it leads to: how far the journals are folded, how many entries there are, and a digest over all
//! of them; [`examine`] compares that with what is really there. An index that fails in any way is thrown away and
//! built anew, so no method repairs anything.
//!
//! Deliberately absent: a query language, transactions over reads, and durability (the journals have that).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use dogwatch::journal::Position;
use dogwatch::record::Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Layout of keys and rows. An index of another version is built anew.
pub const SCHEMA: u32 = 4;
/// Entries that one scan request asks for, so that no single request holds the index's thread for long.
pub const SCAN_CHUNK: usize = 1024;

/// What went wrong with an index. Each of them ends in a rebuild.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The engine reported an error or panicked.
    #[error("the index failed to {what}: {detail}")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// The engine's words.
        detail: String,
    },
    /// The engine did not answer in time.
    #[error("the index did not {what} within {millis} ms")]
    Hung {
        /// What was attempted.
        what: &'static str,
        /// The deadline.
        millis: u64,
    },
    /// What is there contradicts itself.
    #[error("the index is not what it says it is: {0}")]
    Mismatch(String),
}

/// A stretch of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First key, inclusive.
    pub from: Vec<u8>,
    /// Last key, exclusive; `None`: to the end.
    pub to: Option<Vec<u8>>,
    /// Whether entries come last key first.
    pub reverse: bool,
}

impl Span {
    /// Every key.
    pub fn all() -> Self {
        Self { from: Vec::new(), to: None, reverse: false }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: prefix.to_vec(), to: successor(prefix), reverse: false }
    }
}

/// The smallest key after all keys that begin with `prefix`; `None` if there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Puts (`Some`) and removals (`None`), applied together or not at all.
pub type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A small ordered key-value table.
pub trait Index: Send + Sync + fmt::Debug {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;
    /// The values at `keys`, in their order: one request instead of many.
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        keys.iter().map(|k| self.get(k)).collect()
    }
    /// At most `limit` entries of `span`, in its order.
    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError>;
    /// Applies `batch` atomically.
    fn apply(&self, batch: Batch) -> Result<(), IndexError>;
    /// Writes out what the engine holds back.
    fn flush(&self) -> Result<(), IndexError>;
    /// The engine's name, for status.
    fn engine(&self) -> &'static str;
}

/// Opens an index in a folder, on the watchdog's thread; injectable, so that tests can make an engine panic or hang.
pub type Opener = Arc<dyn Fn(&Path) -> Result<Box<dyn Index>, IndexError> + Send + Sync>;

/// Where the fold of one journal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Folded {
    /// Segment of the last folded frame; 0 with offset 0 for none.
    pub segment: u64,
    /// Its offset.
    pub offset: u64,
    /// SHA-256 of its payload, so that another journal is not taken for this one.
    pub frame: Hash,
}

impl Folded {
    /// As a place in the journal.
    pub fn position(self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }

    /// The fold stands after `payload` at `at`.
    pub fn after(at: Position, payload: &[u8]) -> Self {
        Self { segment: at.segment, offset: at.offset, frame: Hash(Sha256::digest(payload).into()) }
    }
}

/// What the index says of itself; changes with every batch, atomically with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Entries, this one not counted.
    pub entries: u64,
    /// XOR of SHA-256 over every entry, this one not counted.
    pub digest: Hash,
    /// How far the urgent journal is folded.
    pub urgent: Folded,
    /// How far the truth journal is folded.
    pub truth: Folded,
    /// First urgent segment that the rows account for: what was before has been expired.
    pub floor: u64,
}

impl Checkpoint {
    /// Of an empty index.
    pub fn empty() -> Self {
        Self { schema: SCHEMA, ..Self::default() }
    }

    /// The stored checkpoint; `None` in a new index.
    pub fn load(index: &dyn Index) -> Result<Option<Self>, IndexError> {
        index.get(CHECKPOINT_KEY)?.map(|v| decode(&v)).transpose()
    }

    /// Takes an entry in or out: both are the same operation on the digest.
    pub fn toggle(&mut self, key: &[u8], value: &[u8]) {
        let mut h = Sha256::new();
        h.update((key.len() as u64).to_be_bytes());
        h.update(key);
        h.update(value);
        let one: [u8; 32] = h.finalize().into();
        for (d, b) in self.digest.0.iter_mut().zip(one) {
            *d ^= b;
        }
    }
}

/// Where the checkpoint stands: before every table.
pub const CHECKPOINT_KEY: &[u8] = b"\0checkpoint";

/// Reads everything and compares it with the checkpoint. `Ok(None)`: a new, empty index.
pub fn examine(index: &dyn Index) -> Result<Option<Checkpoint>, IndexError> {
    let stored = Checkpoint::load(index)?;
    let mut seen = Checkpoint::empty();
    each(index, &Span::all(), |key, value| {
        if key != CHECKPOINT_KEY {
            seen.entries += 1;
            seen.toggle(key, value);
        }
        Ok(true)
    })?;
    match stored {
        None if seen.entries == 0 => Ok(None),
        None => Err(IndexError::Mismatch(format!("{} entries without a checkpoint", seen.entries))),
        Some(c) if c.schema != SCHEMA => {
            Err(IndexError::Mismatch(format!("it has layout {}, this program writes {SCHEMA}", c.schema)))
        }
        Some(c) if c.entries != seen.entries || c.digest != seen.digest => {
            Err(IndexError::Mismatch(format!(
                "the checkpoint says {} entries with digest {}, there are {} with {}",
                c.entries, c.digest, seen.entries, seen.digest
            )))
        }
        Some(c) => Ok(Some(c)),
    }
}

/// Calls `visit` for each entry of `span` in order until it says `false`; asks the index in chunks.
pub fn each(
    index: &dyn Index,
    span: &Span,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, IndexError>,
) -> Result<(), IndexError> {
    let mut rest = span.clone();
    loop {
        let chunk = index.scan(&rest, SCAN_CHUNK)?;
        for (key, value) in &chunk {
            if !visit(key, value)? {
                return Ok(());
            }
        }
        match chunk.into_iter().last() {
            Some((last, _)) if rest.reverse => rest.to = Some(last),
            Some((mut last, _)) => {
                last.push(0);
                rest.from = last;
            }
            None => return Ok(()),
        }
    }
}

/// A row from its stored bytes.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, IndexError> {
    serde_json::from_slice(bytes).map_err(|e| IndexError::Mismatch(format!("a row does not decode: {e}")))
}

/// A row's stored bytes. Rows hold numbers, names and text only, which always encode.
pub fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, IndexError> {
    serde_json::to_vec(row).map_err(|e| IndexError::Failed { what: "encode a row", detail: e.to_string() })
}

/// Writes that are not applied yet, over the index that they will change.
///
/// A fold asks for a few rows at a time, and each question is a way to the index's thread and back. So a draft can be
/// *patient*: what it does not know it takes for absent and notes. The same frames are then folded again after
/// [`Draft::learn`] has asked for all of that at once, until nothing was missed.
#[derive(Debug)]
pub struct Draft<'a> {
    index: &'a dyn Index,
    before: Batch,
    after: Batch,
    patient: bool,
    missed: BTreeSet<Vec<u8>>,
}

impl<'a> Draft<'a> {
    /// Nothing changed yet; asks the index whenever it does not know.
    pub fn new(index: &'a dyn Index) -> Self {
        Self { index, before: Batch::new(), after: Batch::new(), patient: false, missed: BTreeSet::new() }
    }

    /// Nothing changed yet; must be asked to [`Draft::learn`].
    pub fn patient(index: &'a dyn Index) -> Self {
        Self { patient: true, ..Self::new(index) }
    }

    /// The value at `key` as it would be once this is applied.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        if let Some(v) = self.after.get(key) {
            return Ok(v.clone());
        }
        if let Some(v) = self.before.get(key) {
            return Ok(v.clone());
        }
        if self.patient {
            self.missed.insert(key.to_vec());
            return Ok(None);
        }
        let value = self.index.get(key)?;
        self.before.insert(key.to_vec(), value.clone());
        Ok(value)
    }

    /// Asks for all that was missed. If there was any, forgets what was folded, and says `false`: fold it again.
    pub fn learn(&mut self) -> Result<bool, IndexError> {
        if self.missed.is_empty() {
            return Ok(true);
        }
        let missed: Vec<Vec<u8>> = std::mem::take(&mut self.missed).into_iter().collect();
        let values = self.index.get_many(&missed)?;
        self.before.extend(missed.into_iter().zip(values));
        self.after.clear();
        Ok(false)
    }

    /// Sets (`Some`) or removes (`None`) the value at `key`.
    pub fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.after.insert(key, value);
    }

    /// Keys that would change.
    pub fn len(&self) -> usize {
        self.after.len()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }

    /// Applies everything together with the checkpoint that it leads to.
    pub fn apply(self, checkpoint: &mut Checkpoint) -> Result<(), IndexError> {
        let Self { index, mut before, after, .. } = self;
        // The digest needs what is replaced.
        let unknown: Vec<Vec<u8>> = after.keys().filter(|k| !before.contains_key(*k)).cloned().collect();
        let values = index.get_many(&unknown)?;
        before.extend(unknown.into_iter().zip(values));
        let mut next = checkpoint.clone();
        let mut batch = Batch::new();
        for (key, value) in after {
            let old = before.get(&key).and_then(Option::as_ref);
            if old == value.as_ref() {
                continue;
            }
            if let Some(old) = old {
                next.toggle(&key, old);
                next.entries = next.entries.saturating_sub(1);
            }
            if let Some(new) = &value {
                next.toggle(&key, new);
                next.entries += 1;
            }
            batch.insert(key, value);
        }
        batch.insert(CHECKPOINT_KEY.to_vec(), Some(encode(&next)?));
        index.apply(batch)?;
        *checkpoint = next;
        Ok(())
    }
}
