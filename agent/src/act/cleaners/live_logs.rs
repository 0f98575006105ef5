//! Runaway live logs, cut to their tail in place: the last resort, and only where a root names them.
//!
//! Invariants: no such root ships; one without patterns or without a mode of its own is a mistake. The log stays under its
//! name, and its end stays whole; `live` finds where to cut, `cut` cuts.
//!
//! Deliberately absent: age (a live log has none) and whether it is open (it is).

use std::path::Path;

use globset::GlobBuilder;

use super::{ALWAYS_EXCLUDED, Kind, Look, Mistake, NEVER_NAMES, Taken};
use crate::act::policy::{RootPolicy, RootRules};
use crate::act::words;

/// What stays of a log where the configuration says nothing: enough to see what it was about.
const KEEP_BYTES: u64 = 16 << 20;
/// From this size on a log is cut, where the configuration says nothing.
const MIN_SIZE_BYTES: u64 = 1 << 30;

/// Names that no pattern for logs has a reason to meet.
const NO_LOGS: [&str; 3] = ["q7x", "q7x.z9", "q7x-z9.bin"];

/// The kind.
pub(super) struct LiveLogs;

/// Whether `pattern` takes a file called `name`; one that is no pattern takes none, and is refused elsewhere.
fn meets(pattern: &str, name: &str) -> bool {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .is_ok_and(|g| g.compile_matcher().is_match(name))
}

impl Kind for LiveLogs {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 4;
        root.patterns = Vec::new();
        root.sibling_patterns = Vec::new();
        root.min_age_seconds = 0;
        root.keep_newest = 0;
        root.keep_bytes = KEEP_BYTES;
        root.min_size_bytes = MIN_SIZE_BYTES;
        root.max_depth = 8;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut say = |field, value: String, reason: &str, remedy: &str| {
            mistakes.push(Mistake { field, value, reason: reason.to_owned(), remedy: remedy.to_owned() });
        };
        if root.patterns.is_empty() {
            say(
                "patterns",
                "[]".to_owned(),
                "no log is named",
                "name the logs that may be cut, e.g. [app.log]",
            );
        }
        let any = root.patterns.iter().find(|p| NO_LOGS.iter().any(|name| meets(p, name)));
        if let Some(pattern) = any {
            say(
                "patterns",
                pattern.clone(),
                "it meets names of any kind",
                "write what the logs are called, e.g. app*.log",
            );
        }
        if root.preserve {
            let remedy = "leave it out: the record has the newest 64 KiB and a digest of what goes";
            say("preserve", "true".to_owned(), "the content of what is cut is not kept", remedy);
        }
        if root.mode.is_none() {
            say(
                "mode",
                String::new(),
                "cutting live logs is switched on by name",
                "write mode: auto, or mode: plan",
            );
        }
        if root.min_size_bytes < root.keep_bytes.saturating_mul(2) {
            let value = words::bytes(root.min_size_bytes);
            say("min_size", value, "it is less than twice keep_bytes", "raise it: less than half would go");
        }
        mistakes
    }

    fn always_excluded(&self, _: &RootPolicy) -> Vec<String> {
        ALWAYS_EXCLUDED.iter().chain(NEVER_NAMES).map(|p| (*p).to_owned()).collect()
    }

    fn keeps_copies(&self) -> bool {
        true
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let pattern = rules.pattern_of(Path::new(relative.file_name()?))?;
        Some(Taken { pattern: pattern.to_owned(), beside: None })
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        let (facts, min) = (look.facts, look.rules.policy.min_size_bytes);
        if facts.allocated_bytes < min {
            let has = words::bytes(facts.allocated_bytes);
            return Err(format!("it holds {has}, less than {}", words::bytes(min)));
        }
        if facts.links != 1 { Err("it has another name".to_owned()) } else { Ok(()) }
    }

    fn cuts(&self) -> bool {
        true
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        name
    }

    fn family_word(&self) -> &'static str {
        "its log"
    }

    fn why_safe(&self, _: &RootPolicy, pattern: &str) -> String {
        format!("live log, named by the configuration ({pattern})")
    }
}
