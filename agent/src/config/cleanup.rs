//! Cleanup's configuration: the mode, the budgets, and a root for each folder in which a cleaner may work.
//!
//! What is not given a root has as its cleaner ships it. Every mistake is told with its key and what to write instead;
//! what a whole root means is judged by [`Policy::mistakes`], of which the executor asks the same questions again. What a
//! look at the node says of a root is no mistake here ([`Policy::unusable`]): the executor leaves such a root alone and says so.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::config::Section;
use dogwatch::record::CleanupMode;

use crate::act::policy::{Budgets, Cleaner, MAX_DEPTH, MAX_OBJECTS, NO_USER, Policy, RootPolicy, users_of};

/// The host's table of users is read to here.
const MAX_USERS_BYTES: u64 = 4 << 20;
/// Longest age that a file may have to have.
const MAX_AGE: Duration = Duration::from_secs(86_400 * 3_650);

/// The policy of section `cleanup`.
pub(super) fn policy(s: &mut Section, state_dir: &Path, host_root: &Path) -> Policy {
    let mode = s.parse("mode", CleanupMode::Plan);
    let shipped = || vec![with_host(RootPolicy::new("/var/log"), host_root)];
    let roots = s.each("roots", |r| root(r, host_root)).unwrap_or_else(shipped);
    let budgets = budgets(s, Budgets::default());
    let policy = Policy { mode, roots, budgets };
    for p in policy.mistakes(state_dir) {
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
    root.owner = owner(r, host_root);
    root.keep_newest = r.number("keep_newest", root.keep_newest, 0..=10_000);
    root.max_depth = r.number("max_depth", root.max_depth, 0..=MAX_DEPTH);
    root.budgets = r.has("budgets").then(|| budgets(r, Budgets::default()));
    root.preserve = r.flag("preserve", root.preserve);
    root.keep_bytes = r.bytes("keep_bytes", root.keep_bytes, 0..=u64::MAX);
    root.min_size_bytes = r.bytes("min_size", root.min_size_bytes, 0..=u64::MAX);
    root.kubelet_dir = r.path_value("kubelet_dir").unwrap_or(root.kubelet_dir);
    root
}

/// The user whose files alone may go: an id, or a name in the host's table of users. A name that is not there means nobody.
fn owner(r: &mut Section, host_root: &Path) -> Option<u32> {
    let text = r.text("owner")?;
    if let Ok(uid) = text.parse() {
        return Some(uid);
    }
    Some(uid_of(&users_of(host_root), &text).unwrap_or(NO_USER))
}

/// The id of the user `name` in a table of passwd(5).
fn uid_of(users: &Path, name: &str) -> Option<u32> {
    let mut table = String::new();
    std::fs::File::open(users).ok()?.take(MAX_USERS_BYTES).read_to_string(&mut table).ok()?;
    let mut fields = table.lines().map(|line| line.split(':'));
    fields.find_map(|mut of| (of.next() == Some(name)).then(|| of.nth(1)?.parse().ok()).flatten())
}

fn budgets(s: &mut Section, d: Budgets) -> Budgets {
    s.section("budgets", |b| Budgets {
        max_objects: b.number("max_objects", d.max_objects, 1..=MAX_OBJECTS),
        max_bytes: b.bytes("max_bytes", d.max_bytes, 1..=u64::MAX),
        max_objects_per_hour: b.number("max_objects_per_hour", d.max_objects_per_hour, 1..=u32::MAX),
        max_bytes_per_hour: b.bytes("max_bytes_per_hour", d.max_bytes_per_hour, 1..=u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    /// What is said of these excludes of a root, in a file and in the environment; nothing where they are accepted.
    fn told(excludes: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let roots = format!("[{{path: /var/log}}, {{path: /srv/app, excludes: {excludes}}}]");
        std::fs::write(&file, format!("cleanup: {{roots: {roots}}}\n")).unwrap();
        let node = || ("NODE_NAME".to_owned(), "n1".to_owned());
        let said = |loaded: Result<Config, _>| match loaded {
            Ok(_) => String::new(),
            Err(problems) => ToString::to_string(&problems).split_once("\n  ").unwrap().1.to_owned(),
        };
        let environment = ("DOGWATCH_CLEANUP__ROOTS".to_owned(), roots);
        let by_environment = said(Config::load(None, [node(), environment]));
        assert_eq!(said(Config::load(Some(&file), [node()])), by_environment, "{excludes}");
        by_environment
    }

    #[test]
    fn an_exclude_that_could_never_keep_anything_is_refused_with_what_to_write() {
        let beneath = "it is matched against paths beneath the root";
        for (entry, said) in [
            ("/srv/app/keep/**", format!("{beneath}; write keep/**")),
            ("/k5/**", format!("{beneath}; leave out the leading /, and what it has of the root's own path")),
            (
                "./k4/**",
                format!("{beneath}, which have no '.' and '..'; write it without '.' and '..', from the root on"),
            ),
            (
                "k/../x",
                format!("{beneath}, which have no '.' and '..'; write it without '.' and '..', from the root on"),
            ),
            ("k//x", format!("{beneath}, which have no '//'; write one /")),
            (" k", "a blank stands at its beginning or end; leave the blank out, or write ? for one that is meant".to_owned()),
        ] {
            assert_eq!(
                told(&format!("['{entry}']")),
                format!("cleanup.roots[1].excludes = {entry}: {said}"),
                "{entry}"
            );
        }
        let nothing = "names nothing; leave it out, or name a file or folder";
        for entry in ["''", "'  '"] {
            let said = told(&format!("[{entry}]"));
            assert!(said.starts_with("cleanup.roots[1].excludes") && said.ends_with(nothing), "{said}");
        }
        assert_eq!(told("[k1, './k4', '/k5']").lines().count(), 2, "each is told");
        assert_eq!(told("[k2, k3/, 'k5/**', '*.csv']"), "");
    }
}
