//! Rotated logs: what a rotation has put aside, known by name, and where the name alone is not enough by the live log
//! that lies beside it.
//!
//! Invariant: a *live* log never matches. Names that are rotated logs on their face ([`DEFAULT_PATTERNS`]) carry `.log`
//! and a rotation's mark after it; names that only look rotated ([`DEFAULT_SIBLING_PATTERNS`], e.g. `syslog.1`) count
//! only while the log that they were rotated from lies beside them.
//!
//! What is a copy of a key or a database, by the name that it was rotated from, stays ([`NEVER_NAMES`]).
//!
//! Patterns of one's own replace the built-in ones. They are judged as a custom cleaner's, and so is the age, unless each
//! says by itself that it means rotated logs ([`is_plainly_rotated`]).

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{ALWAYS_EXCLUDED, Ground, Kind, Look, Mistake, NEVER_NAMES, Taken, custom, why_kept};
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

/// What stays where a root names no excludes of its own: records of audits and logins, which many have to keep.
pub(super) const DEFAULT_EXCLUDES: &[&str] = &[
    "audit",
    "*[Aa]udit*.log*",
    "AUDIT*.log*",
    "auth.log*",
    "authpriv*.log*",
    "secure[-.][0-9]*",
    "secure.log*",
    "sshd.log*",
    "sudo.log*",
    "wtmp[-.]*",
    "btmp[-.]*",
];

/// The kind.
pub(super) struct RotatedLogs;

impl Kind for RotatedLogs {
    fn defaults(&self, root: &mut RootPolicy) {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        root.tier = 1;
        root.patterns = owned(DEFAULT_PATTERNS);
        root.sibling_patterns = owned(DEFAULT_SIBLING_PATTERNS);
        root.excludes = owned(DEFAULT_EXCLUDES);
        root.min_age_seconds = 24 * 3_600;
        root.keep_newest = 1;
        root.max_depth = 8;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        let own = |list: &'_ [String], known: &[&str]| -> Vec<String> {
            list.iter().filter(|p| !known.contains(&p.as_str())).cloned().collect()
        };
        let patterns = own(&root.patterns, DEFAULT_PATTERNS);
        let siblings = own(&root.sibling_patterns, DEFAULT_SIBLING_PATTERNS);
        let mut mistakes: Vec<Mistake> =
            patterns.iter().filter_map(|p| custom::dangerous("patterns", p)).collect();
        mistakes.extend(siblings.iter().filter_map(|p| custom::precious("sibling_patterns", p)));
        if !patterns.iter().all(|p| is_plainly_rotated(p)) {
            mistakes.extend(custom::too_young(root));
        }
        mistakes
    }

    fn always_excluded(&self, root: &RootPolicy) -> Vec<String> {
        let never = if has_own_patterns(root) { NEVER_NAMES } else { &[] };
        ALWAYS_EXCLUDED.iter().chain(never).map(|p| (*p).to_owned()).collect()
    }

    fn keeps_copies(&self) -> bool {
        true
    }

    fn is_renamed(&self, root: &RootPolicy) -> bool {
        // By its end alone `*.csv.gz` is no log that is renamed again and again.
        let of_a_log = |p: &String| is_plainly_rotated(p) && (p.contains(".log.") || p.contains(".log-"));
        let sibling = |p: &String| DEFAULT_SIBLING_PATTERNS.contains(&p.as_str()) || of_a_log(p);
        root.patterns.iter().all(of_a_log) && root.sibling_patterns.iter().all(sibling)
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

    fn shuns(&self, _: &Ground, _: &OwnedFd, relative: &Path) -> Option<String> {
        why_kept(relative)
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        rotation::family(name)
    }

    fn family_word(&self) -> &'static str {
        "its log"
    }

    fn why_safe(&self, _: &RootPolicy, pattern: &str) -> String {
        if is_plainly_rotated(pattern) || DEFAULT_SIBLING_PATTERNS.contains(&pattern) {
            format!("rotated log ({pattern})")
        } else {
            format!("the configuration calls {pattern} rotated logs")
        }
    }
}

fn has_own_patterns(root: &RootPolicy) -> bool {
    root.patterns != DEFAULT_PATTERNS || root.sibling_patterns != DEFAULT_SIBLING_PATTERNS
}

/// Whether whatever `pattern` takes bears a rotation's mark: `.log.` or `.log-` in its name, or a compression's end.
fn is_plainly_rotated(pattern: &str) -> bool {
    const ENDS: [&str; 4] = [".gz", ".bz2", ".xz", ".zst"];
    if DEFAULT_PATTERNS.contains(&pattern) {
        return true;
    }
    // Of an alternative nobody can tell which one counts, but at the end: there all of them are compressions.
    let ends = |braces: &str| braces.split(',').all(|end| ENDS.iter().any(|e| e[1..] == *end));
    let (stem, is_compressed) = match pattern.strip_suffix('}').and_then(|p| p.rsplit_once(".{")) {
        Some((stem, braces)) if ends(braces) => (stem, true),
        _ => (pattern, ENDS.iter().any(|end| pattern.ends_with(end))),
    };
    if stem.contains(['{', '}', '\\']) {
        return false;
    }
    // What stands in a class is one of several characters.
    let mut plain = String::new();
    let mut in_class = false;
    for c in stem.chars() {
        match c {
            '[' => in_class = true,
            ']' => {
                in_class = false;
                plain.push('?');
            }
            c if !in_class => plain.push(c),
            _ => {}
        }
    }
    !in_class && (is_compressed || plain.contains(".log.") || plain.contains(".log-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::policy::{Cleaner, NameVerdict, Policy, Problem, Rules};

    fn policy(patterns: &[&str], min_age_seconds: u64) -> Policy {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        let root =
            RootPolicy { patterns, min_age_seconds, ..RootPolicy::of(Cleaner::RotatedLogs, "/srv/app") };
        Policy { mode: dogwatch::record::CleanupMode::Auto, roots: vec![root], ..Policy::off() }
    }

    fn problems(patterns: &[&str], min_age_seconds: u64) -> Vec<Problem> {
        policy(patterns, min_age_seconds).validate(Path::new("/var/spool/dogwatch"))
    }

    #[test]
    fn patterns_of_ones_own_are_judged_as_a_custom_cleaners() {
        for bad in ["*.key", "*.db", "*.pem", "id_*", ".env", "*", "*.log", "*.sqlite*", "*.sock"] {
            let found = problems(&[bad], 86_400);
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert_eq!((&*found[0].key, &*found[0].value), ("roots[0].patterns", bad));
        }
        let key = &problems(&["*.key"], 86_400)[0];
        assert_eq!(key.reason, "it matches \"tls.key\", a key");
        let custom = RootPolicy { cleaner: Cleaner::Custom, ..policy(&["*.key"], 86_400).roots.remove(0) };
        let custom = RootPolicy { sibling_patterns: Vec::new(), ..custom };
        let as_custom = Policy { roots: vec![custom], ..policy(&[], 0) };
        assert_eq!(as_custom.validate(Path::new("/var/spool/dogwatch"))[0].to_string(), key.to_string());

        let mut siblings = policy(DEFAULT_PATTERNS, 0);
        siblings.roots[0].sibling_patterns = vec!["id_*".to_owned(), "*.[1-9]*".to_owned()];
        let found = siblings.validate(Path::new("/var/spool/dogwatch"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key, "roots[0].sibling_patterns");
    }

    #[test]
    fn records_of_audits_and_logins_stay_by_default_and_the_runbook_says_so() {
        assert_eq!(crate::act::runbook::lacks(DEFAULT_EXCLUDES.iter().copied()), [""; 0]);
        let roots = vec![RootPolicy::new("/var/log")];
        let rules = Rules::new(Policy { roots, ..Policy::off() }).unwrap();
        let stays =
            |name: &str| matches!(rules.roots()[0].judge_name(Path::new(name)), NameVerdict::Excluded(_));
        for name in [
            "audit/audit.log.2",
            "audit.log.1",
            "kubernetes/audit/audit-2026-01-01T00.log.gz",
            "kube-apiserver-audit.log.3.gz",
            "Audit-2026.log.1",
            "AUDIT.log.1",
            "auth.log.2.gz",
            "authpriv.log.1",
            "secure-20260101",
            "secure.1",
            "secure.log.1",
            "sshd.log.1",
            "sudo.log.1",
            "wtmp.1",
            "wtmp-20260101",
            "btmp.1.gz",
        ] {
            assert!(stays(name), "{name}");
        }
        for name in
            ["pods/secure-shop_web-0_1/web/0.log.20260101-120000.gz", "secure-gateway/gw.log.1", "app.log.1"]
        {
            assert!(!stays(name), "{name}");
        }
    }

    #[test]
    fn what_is_not_plainly_a_rotated_log_has_to_be_an_hour_old() {
        for plain in [
            "*.log.[1-9]*",
            "app.log.[2-9]*",
            "*.log-2*",
            "*.gz",
            "out-*.{gz,zst}",
            "x[.]y.log.old",
            "*.log.old",
        ] {
            assert_eq!(problems(&[plain], 2), [], "{plain}");
        }
        for other in
            ["report-*.csv", "*.bak", "out-*.{gz,csv}", "{x.log.1,y.csv}", "y[.log.]csv*", "*.bak[.gz]"]
        {
            let found = problems(&[other, "*.gz"], 2);
            assert_eq!(found.len(), 1, "{other}: {found:?}");
            assert_eq!((&*found[0].key, &*found[0].remedy), ("roots[0].min_age", "use 1h or more"));
            assert_eq!(problems(&[other], 3_600), [], "{other}");
        }
        assert_eq!(problems(DEFAULT_PATTERNS, 0), []);
    }

    #[test]
    fn what_may_never_go_stays_whatever_took_its_name() {
        let rules = Rules::new(policy(&["report-*"], 86_400)).unwrap();
        let verdict = |name: &str| rules.roots()[0].judge_name(Path::new(name));
        assert!(matches!(verdict("report-1.csv"), NameVerdict::Taken(_)));
        for name in ["report-1.key", "report-1.db", "report-1.pem", "report-1.env", "report-1.sqlite3"] {
            assert!(matches!(verdict(name), NameVerdict::Excluded(_)), "{name}");
        }
        let root = &rules.policy.roots[0];
        let said = root.cleaner.kind().why_safe(root, "report-*");
        assert_eq!(said, "the configuration calls report-* rotated logs");
    }
}
