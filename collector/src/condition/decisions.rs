//! How the journal of decisions does, of which nothing expires: people must hear that it fills while there is room left.

use dogwatch::record::Severity;

use super::{Check, own};
use crate::wording::bytes;

/// From this share of its bytes on it is nearly full: at the most that one node can cause, a week is left.
const NEARLY_FULL: f64 = 0.75;

/// What is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Why it took nothing the last time, if it did not.
    pub failing: Option<String>,
    /// Bytes of it that are in use.
    pub used_bytes: u64,
    /// Most bytes that it may have.
    pub max_bytes: u64,
}

/// Judges it; `held`: what the other journals hold.
pub(super) fn judge(truth: &Decisions, held: &str) -> Check {
    let name = "journal";
    if let Some(why) = &truth.failing {
        return own(
            name,
            Severity::Critical,
            format!("the journal of decisions takes nothing: {why}"),
            "nothing can be decided, acknowledged or ordered until it does; look at the disk and the collector's log",
        );
    }
    let (used, most) = (bytes(truth.used_bytes), bytes(truth.max_bytes));
    if truth.max_bytes > 0 && truth.used_bytes as f64 >= truth.max_bytes as f64 * NEARLY_FULL {
        return own(
            name,
            Severity::High,
            format!(
                "the journal of decisions has {used} of {most} in use, and nothing of it expires; holding {held}"
            ),
            "raise retention.truth.max_bytes and start the collector again; `dogwatch get events` shows whether one node causes most of it",
        );
    }
    own(name, Severity::Info, format!("holding {held}, decisions {used} of {most}"), "")
}
