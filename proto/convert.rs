//! Wire messages become domain types here, and back.
//!
//! Into the domain is `TryFrom` and may be refused: [`Refused`] names the field by its path, so that
//! `finding.citations[3].incarnation: must be 16 bytes` can be said to whoever sent it. Out of the domain is `From`
//! and cannot fail. Round trips keep every value, paths that are not UTF-8 included.
//!
//! Whatever comes over the wire may come from a stolen node, so text and collections are bounded by the constants
//! below before they are kept. The bounds are far above what an honest node writes; nothing is cut to fit.
//!
//! Deliberately absent: checks that need more than the message itself (signatures, hashes, who may speak for whom).

mod action;
mod block;
mod file;
mod finding;
mod names;
mod record;
mod sample;
#[cfg(test)]
pub(crate) mod strategies;
#[cfg(test)]
mod tests;
mod vitals;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::record::{Hash, Incarnation, NodeName, Record};
use crate::wire;

pub use names::{action_state, cleanup_mode, finding_state, object_outcome, severity, stream};

/// Longest text, in bytes: names, paths, reasons, explanations.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Longest log line, in bytes. A longer one cannot share a block with anything.
pub const MAX_LINE_BYTES: usize = 256 * 1024;
/// Mounts of one sample; a node with more has another problem.
pub const MAX_MOUNTS: usize = 10_000;
/// Processes of one sample.
pub const MAX_PROCESSES: usize = 10_000;
/// Objects, and refusals, of one action.
pub const MAX_OBJECTS: usize = 100_000;
/// Anything else that repeats: citations, facts, matched rules, failed probes.
pub const MAX_ITEMS: usize = 10_000;

/// A wire message that is not what it should be: which field, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct Refused {
    path: String,
    rule: String,
}

impl Refused {
    /// Refuses the field at `path` for breaking `rule`.
    pub fn new(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into() }
    }

    /// Refuses the absence of the message that should be at `path`.
    pub fn missing(path: impl Into<String>) -> Self {
        Self::new(path, "is missing")
    }

    /// The same refusal, seen from the message whose field `parent` holds what was refused.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.path = if self.path.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.path) };
        self
    }

    /// The refused field, e.g. `finding.citations[3].incarnation`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The rule that it breaks, in words.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Whether readers will accept `record`: every limit and rule of the way in, tried on the way out. A record that
/// fails here must not be sealed, since nobody could read its block.
pub fn readable(record: &Record) -> Result<(), Refused> {
    Record::try_from(wire::Record::from(record)).map(|_| ())
}

/// A node's name at `field`.
pub fn node(field: &str, value: &str) -> Result<NodeName, Refused> {
    value.parse().map_err(|e: crate::record::InvalidValue| Refused::new(field, e.rule))
}

/// An incarnation's 16 bytes at `field`.
pub fn incarnation(field: &str, value: &[u8]) -> Result<Incarnation, Refused> {
    Incarnation::from_slice(value).map_err(|e| Refused::new(field, e.rule))
}

/// A SHA-256's 32 bytes at `field`.
pub fn hash(field: &str, value: &[u8]) -> Result<Hash, Refused> {
    Hash::from_slice(value).map_err(|e| Refused::new(field, e.rule))
}

/// A path's bytes at `field`, at most [`MAX_TEXT_BYTES`] and without NUL.
pub fn path(field: &str, value: &[u8]) -> Result<PathBuf, Refused> {
    bounded(field, value.len(), MAX_TEXT_BYTES)?;
    if value.contains(&0) {
        return Err(Refused::new(field, "must not hold a NUL byte"));
    }
    Ok(PathBuf::from(OsString::from_vec(value.to_vec())))
}

/// A path's bytes as they stand.
pub fn path_bytes(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

/// Text at `field`, at most [`MAX_TEXT_BYTES`].
pub fn text(field: &str, value: String) -> Result<String, Refused> {
    bounded(field, value.len(), MAX_TEXT_BYTES)?;
    Ok(value)
}

/// A number that can be reckoned with; NaN and infinities would poison every sum and sort after it.
pub fn finite(field: &str, value: f64) -> Result<f64, Refused> {
    if value.is_finite() { Ok(value) } else { Err(Refused::new(field, "must be a finite number")) }
}

/// At most `max` items of `field`, each led in; a refusal names the item by its index.
pub fn items<W, D>(field: &str, values: Vec<W>, max: usize) -> Result<Vec<D>, Refused>
where
    D: TryFrom<W, Error = Refused>,
{
    counted(field, values.len(), max)?;
    let lead_in = |(i, v)| D::try_from(v).map_err(|e: Refused| e.within(&format!("{field}[{i}]")));
    values.into_iter().enumerate().map(lead_in).collect()
}

/// At most [`MAX_ITEMS`] texts of `field`.
pub fn texts(field: &str, values: Vec<String>) -> Result<Vec<String>, Refused> {
    counted(field, values.len(), MAX_ITEMS)?;
    if let Some(i) = values.iter().position(|v| v.len() > MAX_TEXT_BYTES) {
        return Err(too_long(&format!("{field}[{i}]"), values[i].len(), MAX_TEXT_BYTES));
    }
    Ok(values)
}

/// The message at `field`, if there is one.
fn optional<W, D>(field: &str, value: Option<W>) -> Result<Option<D>, Refused>
where
    D: TryFrom<W, Error = Refused>,
{
    value.map(|v| D::try_from(v).map_err(|e| e.within(field))).transpose()
}

/// The message at `field`, which must be there.
fn required<W, D>(field: &str, value: Option<W>) -> Result<D, Refused>
where
    D: TryFrom<W, Error = Refused>,
{
    optional(field, value)?.ok_or_else(|| Refused::missing(field))
}

fn bounded(field: &str, bytes: usize, max: usize) -> Result<(), Refused> {
    if bytes <= max { Ok(()) } else { Err(too_long(field, bytes, max)) }
}

fn too_long(field: &str, bytes: usize, max: usize) -> Refused {
    Refused::new(field, format!("{bytes} bytes are over the limit of {max}"))
}

fn counted(field: &str, count: usize, max: usize) -> Result<(), Refused> {
    if count <= max {
        Ok(())
    } else {
        Err(Refused::new(field, format!("{count} items are over the limit of {max}")))
    }
}

/// `From<T>` beside `From<&T>`, so that callers need not say which they hold.
macro_rules! from_owned {
    ($($domain:ty => $wire:ty),* $(,)?) => {
        $(impl From<$domain> for $wire {
            fn from(value: $domain) -> Self {
                Self::from(&value)
            }
        })*
    };
}
use from_owned;
