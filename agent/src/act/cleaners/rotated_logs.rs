//! Rotated logs: what a rotation has put aside, known by name, and where the name alone is not enough by the live log
//! that lies beside it.
//!
//! Invariant: a *live* log never matches. Names that are rotated logs on their face ([`DEFAULT_PATTERNS`]) carry `.log`
//! and a rotation's mark after it; names that only look rotated ([`DEFAULT_SIBLING_PATTERNS`], e.g. `syslog.1`) count
//! only while the log that they were rotated from lies beside them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Kind, Look, Taken};
use crate::act::policy::{RootPolicy, RootRules};
use crate::act::rotation;
use crate::act::survey::has_regular;

/// Names that are rotated logs on their face. Each has `.log` followed by what only a rotation appends.
///
/// - `*.log.[1-9]*`: `app.log.1`, `app.log.2.gz`, `0.log.20240612-101112` (kubelet), `app.log.2024-06-12` (log4j,
///   Python). Not `.log.0`: java.util.logging writes to that one.
/// - `*.log-[1-9]*`: logrotate's `dateext`, `app.log-20240612`, compressed or not.
/// - `*.log.gz` and the like: nobody appends to a compressed log; one that is being compressed is open.
/// - `*.log.old`: `Xorg.0.log.old`, `boot.log.old`.
pub const DEFAULT_PATTERNS: &[&str] = &["*.log.[1-9]*", "*.log-[1-9]*", "*.log.{gz,bz2,xz,zst}", "*.log.old"];

/// Names that are rotated logs only beside the log that they came from: `syslog.1` and `syslog.2.gz` beside `syslog`,
/// `messages-20240612` beside `messages`, `dmesg.old` beside `dmesg`. Without it, `tool-1.2` or a dated dump would match.
pub const DEFAULT_SIBLING_PATTERNS: &[&str] = &[
    "*.[1-9]",
    "*.[1-9][0-9]",
    "*.[1-9].{gz,bz2,xz,zst}",
    "*.[1-9][0-9].{gz,bz2,xz,zst}",
    "*-[12][0-9][0-9][0-9][01][0-9][0-3][0-9]",
    "*-[12][0-9][0-9][0-9][01][0-9][0-3][0-9].{gz,bz2,xz,zst}",
    "*.old",
];

/// The kind.
pub(super) struct RotatedLogs;

impl Kind for RotatedLogs {
    fn defaults(&self, root: &mut RootPolicy) {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        root.tier = 1;
        root.patterns = owned(DEFAULT_PATTERNS);
        root.sibling_patterns = owned(DEFAULT_SIBLING_PATTERNS);
        root.min_age_seconds = 24 * 3_600;
        root.keep_newest = 1;
        root.max_depth = 8;
        root.by_access = false;
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let name = Path::new(relative.file_name()?);
        if let Some(pattern) = rules.pattern_of(name) {
            return Some(Taken { pattern: pattern.to_owned(), beside: None });
        }
        let pattern = rules.sibling_pattern_of(name)?;
        let live = rotation::live_name(name.as_os_str().as_bytes())?;
        Some(Taken { pattern: pattern.to_owned(), beside: Some(live.to_vec()) })
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        let Some(taken) = self.takes(look.rules, look.relative) else { return Ok(()) };
        match taken.beside {
            Some(live) if !has_regular(look.folder, &live) => Err(format!(
                "no log {:?} lies beside it, so it may not be a rotated one",
                String::from_utf8_lossy(&live)
            )),
            _ => Ok(()),
        }
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        rotation::family(name)
    }

    fn family_word(&self) -> &'static str {
        "its log"
    }

    // A database's own log folder has rotated logs like any other.
    fn keeps_away_from_databases(&self) -> bool {
        false
    }

    fn why_safe(&self, _: &RootPolicy, pattern: &str) -> String {
        format!("rotated log ({pattern})")
    }
}
