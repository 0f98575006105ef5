//! Custom cleaners: what a platform team knows of its own leftovers, by a pattern on the path beneath the root, an age,
//! and, where wanted, an owner.
//!
//! A pattern must say what a leftover's name looks like: one that takes any name, a log that is written to, a database, a
//! journal, a socket, a disk image, a key or a certificate is refused with what to write instead, and such names stay at
//! run time as well, and copies of them, whatever pattern met them ([`NEVER_NAMES`]).
//!
//! `*.tmp`, which is always excluded elsewhere, may go by a pattern that itself ends in `.tmp`, and by no other.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::{ALWAYS_EXCLUDED, Kind, Mistake, NEVER_NAMES, Taken};
use crate::act::policy::{RootPolicy, RootRules};

/// Less than this, and what is being written now could match.
const MIN_AGE_FLOOR_SECONDS: u64 = 3_600;
/// Names that say nothing; a pattern that takes one of them takes any.
const ANY_NAMES: &[&str] =
    &["a", "7", "data", "data.bin", "README", "notes.txt", "x.y.z", "config.yaml", "2024-06-12", "app-1.2.3"];
/// Names that must stay, and what they are.
const PRECIOUS: &[(&str, &str)] = &[
    ("app.log", "a log that is written to"),
    ("0.log", "a log that is written to"),
    ("syslog", "a log that is written to"),
    ("messages", "a log that is written to"),
    ("stdout", "a log that is written to"),
    ("access_log", "a log that is written to"),
    ("catalina.out", "a log that is written to"),
    ("system.journal", "a journal"),
    ("user-1000.journal", "a journal"),
    ("app.db", "a database"),
    ("app.db-wal", "a database"),
    ("app.sqlite", "a database"),
    ("app.sqlite3-journal", "a database"),
    ("000012.sst", "a database"),
    ("000012.ldb", "a database"),
    ("table.ibd", "a database"),
    ("ibdata1", "a database"),
    ("data.mdb", "a database"),
    ("dump.rdb", "a database"),
    ("app.duckdb", "a database"),
    ("table.frm", "a database"),
    ("table.myd", "a database"),
    ("store.accdb", "a database"),
    ("store.mdf", "a database"),
    ("store.ldf", "a database's log"),
    ("0000000000000001-0000000000000002.wal", "a database's log"),
    ("0000000000000001-0000000000000002.snap", "a database's snapshot"),
    ("app.sock", "a socket"),
    ("disk.qcow2", "a disk image"),
    ("disk.vmdk", "a disk image"),
    ("disk.img", "a disk image"),
    ("disk.vhdx", "a disk image"),
    ("app.tfstate", "Terraform's state"),
    ("app.tfstate.backup", "Terraform's state"),
    ("tls.key", "a key"),
    ("tls.crt", "a certificate"),
    ("ca.pem", "a certificate"),
    ("store.p12", "a key"),
    ("store.jks", "a key"),
    ("store.kdbx", "passwords"),
    ("login.ppk", "a key"),
    ("host.keytab", "a key"),
    ("id_rsa", "a key"),
    ("id_ed25519", "a key"),
    ("kubeconfig", "a cluster's credentials"),
    ("dev.kubeconfig", "a cluster's credentials"),
    ("token", "a password"),
    ("token.json", "a password"),
    ("credentials", "a password"),
    ("credentials.json", "a password"),
    ("secrets", "a password"),
    ("secrets.yaml", "a password"),
    (".env", "settings with secrets"),
    (".env.local", "settings with secrets"),
    ("app.env", "settings with secrets"),
    (".netrc", "a password"),
    (".pgpass", "a password"),
    (".htpasswd", "a password"),
    ("app.lock", "a lock"),
    ("app.pid", "a lock"),
];
const INSTEAD: &str = "say what only a leftover is called, e.g. *.log.old, *.tmp, report-*.csv, or **/heap-*.hprof for any depth";

/// The kind.
pub(super) struct Custom;

impl Kind for Custom {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 3;
        root.patterns = Vec::new();
        root.sibling_patterns = Vec::new();
        root.min_age_seconds = 7 * 86_400;
        root.by_access = false;
        root.keep_newest = 0;
        root.max_depth = 8;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut say = |field, value: String, reason: String, remedy: &str| {
            mistakes.push(Mistake { field, value, reason, remedy: remedy.to_owned() });
        };
        if root.patterns.is_empty() {
            say("patterns", "[]".to_owned(), "a custom cleaner takes nothing of its own".to_owned(), INSTEAD);
        }
        if !root.sibling_patterns.is_empty() {
            let reason = "only rotated logs lie beside their live log".to_owned();
            say("sibling_patterns", format!("{:?}", root.sibling_patterns), reason, "use patterns");
        }
        let patterns = root.patterns.iter().map(String::as_str);
        mistakes.extend(patterns.filter_map(|pattern| dangerous("patterns", pattern)));
        mistakes.extend(too_young(root));
        mistakes
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let is_tmp = relative.extension().is_some_and(|e| e == "tmp");
        let mut patterns = rules.patterns_of(relative);
        let pattern = patterns.find(|p| (!is_tmp || names_tmp(p)) && meets_name(p, relative))?.to_owned();
        Some(Taken { pattern, beside: None })
    }

    fn always_excluded(&self, root: &RootPolicy) -> Vec<String> {
        let lifted = root.patterns.iter().any(|p| names_tmp(p));
        let always = ALWAYS_EXCLUDED.iter().filter(|p| !(lifted && **p == "*.tmp"));
        always.chain(NEVER_NAMES).map(|p| (*p).to_owned()).collect()
    }

    fn keeps_copies(&self) -> bool {
        true
    }

    fn family<'n>(&self, _: &'n [u8]) -> &'n [u8] {
        // What one custom cleaner takes in one folder belongs together.
        &[]
    }

    fn family_word(&self) -> &'static str {
        "what it takes in this folder"
    }

    fn why_safe(&self, root: &RootPolicy, pattern: &str) -> String {
        match &*root.name {
            "" => format!("the configuration lets {pattern} go"),
            name => format!("the configuration lets {pattern} go ({name})"),
        }
    }
}

/// The mistake of a pattern that could take what must stay.
pub(super) fn dangerous(field: &'static str, pattern: &str) -> Option<Mistake> {
    let (reason, remedy) = why_dangerous(pattern)?;
    Some(Mistake { field, value: pattern.to_owned(), reason, remedy: remedy.to_owned() })
}

/// The same of one that takes only what has something else beside it, so that it may look general.
pub(super) fn precious(field: &'static str, pattern: &str) -> Option<Mistake> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build().ok()?;
    let (example, what) = why_precious(&glob.compile_matcher())?;
    let reason = format!("it matches {example:?}, {what}");
    Some(Mistake { field, value: pattern.to_owned(), reason, remedy: INSTEAD.to_owned() })
}

/// The mistake of an age at which what is being written could still go.
pub(super) fn too_young(root: &RootPolicy) -> Option<Mistake> {
    (root.min_age_seconds < MIN_AGE_FLOOR_SECONDS).then(|| Mistake {
        field: "min_age",
        value: format!("{} s", root.min_age_seconds),
        reason: "what is being written now could match".to_owned(),
        remedy: "use 1h or more".to_owned(),
    })
}

fn names_tmp(pattern: &str) -> bool {
    pattern.ends_with(".tmp")
}

/// Whether the pattern's last part, which is what was judged, takes the file's name too: a class such as `[!x]` also takes
/// a `/`, by which `logs[!x]*` would take whatever lies in `logs`.
fn meets_name(pattern: &str, relative: &Path) -> bool {
    if !pattern.contains('[') {
        return true;
    }
    let part = pattern.rsplit('/').next().unwrap_or(pattern);
    let glob = GlobBuilder::new(part).literal_separator(true).backslash_escape(true).build();
    glob.is_ok_and(|g| relative.file_name().is_some_and(|name| g.compile_matcher().is_match(name)))
}

/// What is dangerous about `pattern`, and what to write instead; what is no glob at all is told elsewhere.
fn why_dangerous(pattern: &str) -> Option<(String, &'static str)> {
    if pattern.starts_with('/') {
        return Some(("it is matched against paths beneath the root".to_owned(), "leave out the leading /"));
    }
    if pattern.split('/').any(|part| matches!(part, "." | ".." | "")) {
        return Some(("it is not written plainly".to_owned(), "write it without '.', '..' and '//'"));
    }
    let name = pattern.rsplit('/').next().unwrap_or(pattern);
    let whole = GlobBuilder::new(pattern).literal_separator(true).build().is_ok();
    let Ok(glob) = GlobBuilder::new(name).literal_separator(true).backslash_escape(true).build() else {
        let remedy = "write one pattern for each folder";
        return whole.then(|| ("its braces hold a '/', so its name cannot be judged".to_owned(), remedy));
    };
    let matcher = glob.compile_matcher();
    // A brace that takes in a folder can hide a name from us: of `**` alone any name is meant.
    if name == "**" || ANY_NAMES.iter().any(|any| matcher.is_match(any)) {
        return Some(("it takes any name".to_owned(), INSTEAD));
    }
    let (example, what) = why_precious(&matcher)?;
    Some((format!("it matches {example:?}, {what}"), INSTEAD))
}

fn why_precious(pattern: &GlobMatcher) -> Option<(&'static str, &'static str)> {
    PRECIOUS.iter().copied().find(|(example, _)| pattern.is_match(example))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::act::policy::{Budgets, Cleaner, NameVerdict, Policy, Rules};

    fn rules(patterns: &[&str]) -> Rules {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        let root = RootPolicy { patterns, ..RootPolicy::of(Cleaner::Custom, "/srv/app") };
        let mode = dogwatch::record::CleanupMode::Auto;
        Rules::new(Policy { mode, roots: vec![root], budgets: Budgets::default() }).unwrap()
    }

    fn taken(patterns: &[&str], path: &str) -> bool {
        matches!(rules(patterns).roots()[0].judge_name(Path::new(path)), NameVerdict::Taken(_))
    }

    #[test]
    fn dangerous_patterns_are_refused_with_what_to_write_instead() {
        for bad in [
            "*",
            "**",
            "**/*",
            "?*",
            "*.*",
            "{*,x}",
            "[a-z]*",
            "*.log",
            "**/*.log",
            "logs/*.log",
            "sys*",
            "*.journal",
            "*.db",
            "*.sqlite*",
            "*.wal",
            "*.snap",
            "*.s?t",
            "*.key",
            "*.pem",
            "tls.*",
            "id_*",
            ".env",
            "*.env",
            ".netrc",
            "*.sock",
            "*.lock",
            "*.pid",
            "*.tfstate",
            "*.tfstate.*",
            "*.frm",
            "*.{mdf,ldf}",
            "*.img",
            "*.kdbx",
            "kube*",
            "token*",
            "secrets.*",
            "/srv/x.old",
            "../x.old",
            "a//x.old",
            "./x.old",
            "*o*",
            "*.{old,key}",
            "{a/*,b}",
        ] {
            assert!(why_dangerous(bad).is_some(), "{bad}");
        }
        for good in [
            "*.log.old",
            "*.tmp",
            "**/*.tmp",
            "report-*.csv",
            "**/heap-*.hprof",
            "out/*.{old,bak}",
            "build-[0-9]*",
        ] {
            assert_eq!(why_dangerous(good), None, "{good}");
        }
    }

    #[test]
    fn a_pattern_is_of_the_path_and_tmp_goes_only_where_it_is_named() {
        assert!(taken(&["*.bak"], "x.bak") && !taken(&["*.bak"], "sub/x.bak"));
        assert!(!taken(&["logs[!x]*"], "logs/app.log") && taken(&["logs[!x]*"], "logs-7"));
        assert!(taken(&["**/*.bak"], "a/b/x.bak") && taken(&["**/*.bak"], "x.bak"));
        assert!(taken(&["*.tmp"], "x.tmp"));
        assert!(!taken(&["upload-*"], "upload-1.tmp"), "its pattern does not name .tmp");
        assert!(!taken(&["upload-*", "old-*.tmp"], "upload-1.tmp"), "nor does another's");
        assert!(taken(&["upload-*", "upload-*.tmp"], "upload-1.tmp"));
        for precious in
            ["report-1.db", "report-1.key", "report-1.sqlite3-wal", "report-1.lock", "report-1.journal"]
        {
            assert!(!taken(&["report-*"], precious), "{precious}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_pattern_that_is_not_refused_takes_is_no_precious_name(
            start in "[a-z*?]{0,4}", end in "[a-z.*?{},!\\[\\]]{0,8}", folder in prop::sample::select(vec!["", "sub/", "**/"]),
        ) {
            let pattern = format!("{folder}{start}{end}");
            let compiles = GlobBuilder::new(&pattern).literal_separator(true).build().is_ok();
            prop_assume!(compiles && !pattern.is_empty() && why_dangerous(&pattern).is_none());
            let rules = rules(&[&pattern]);
            for (name, what) in PRECIOUS {
                for path in [PathBuf::from(name), Path::new("sub").join(name)] {
                    let verdict = rules.roots()[0].judge_name(&path);
                    prop_assert!(!matches!(verdict, NameVerdict::Taken(_)), "{pattern} takes {path:?}, {what}");
                }
            }
        }
    }
}
