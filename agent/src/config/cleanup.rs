//! Cleanup's configuration: the mode, the budgets, and a root for each folder in which a cleaner may work.
//!
//! What is not given a root has as its cleaner ships it. Every mistake is told with its key and what to write instead;
//! what a whole root means is judged by [`Policy::validate`], of which the executor asks the same questions again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::config::Section;
use dogwatch::record::CleanupMode;

use crate::act::policy::{Budgets, Cleaner, MAX_DEPTH, MAX_OBJECTS, Policy, RootPolicy};

/// Longest age that a file may have to have.
const MAX_AGE: Duration = Duration::from_secs(86_400 * 3_650);

/// The policy of section `cleanup`.
pub(super) fn policy(s: &mut Section, state_dir: &Path, host_root: &Path) -> Policy {
    let mode = s.parse("mode", CleanupMode::Plan);
    let shipped = || vec![with_host(RootPolicy::new("/var/log"), host_root)];
    let roots = s.each("roots", |r| root(r, host_root)).unwrap_or_else(shipped);
    let budgets = budgets(s, Budgets::default());
    let policy = Policy { mode, roots, budgets };
    for p in policy.validate(state_dir) {
        s.problem(&p.key, &p.value, p.reason, p.remedy);
    }
    policy
}

fn with_host(root: RootPolicy, host_root: &Path) -> RootPolicy {
    RootPolicy { host_root: host_root.to_owned(), ..root }
}

fn root(r: &mut Section, host_root: &Path) -> RootPolicy {
    let path = r.path_value("path").unwrap_or_else(|| {
        r.problem("path", "", "is missing", "name the folder");
        PathBuf::new()
    });
    let cleaner = r.parse("cleaner", Cleaner::RotatedLogs);
    let mut root = with_host(RootPolicy::of(cleaner, path), host_root);
    root.name = r.text("name").unwrap_or_default();
    root.mode = r.optional("mode");
    root.tier = r.number("tier", root.tier, 1..=9);
    root.patterns = r.texts("patterns").unwrap_or(root.patterns);
    root.sibling_patterns = r.texts("sibling_patterns").unwrap_or(root.sibling_patterns);
    root.excludes = r.texts("excludes").unwrap_or(root.excludes);
    let age = Duration::from_secs(root.min_age_seconds);
    root.min_age_seconds = r.duration("min_age", age, Duration::ZERO..=MAX_AGE).as_secs();
    root.by_access = r.flag("by_access", root.by_access);
    root.keep_newest = r.number("keep_newest", root.keep_newest, 0..=10_000);
    root.max_depth = r.number("max_depth", root.max_depth, 0..=MAX_DEPTH);
    root.budgets = r.has("budgets").then(|| budgets(r, Budgets::default()));
    root.preserve = r.flag("preserve", root.preserve);
    root
}

fn budgets(s: &mut Section, d: Budgets) -> Budgets {
    s.section("budgets", |b| Budgets {
        max_objects: b.number("max_objects", d.max_objects, 1..=MAX_OBJECTS),
        max_bytes: b.bytes("max_bytes", d.max_bytes, 1..=u64::MAX),
        max_objects_per_hour: b.number("max_objects_per_hour", d.max_objects_per_hour, 1..=u32::MAX),
        max_bytes_per_hour: b.bytes("max_bytes_per_hour", d.max_bytes_per_hour, 1..=u64::MAX),
    })
}
