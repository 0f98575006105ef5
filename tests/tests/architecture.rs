//! The absences that the architecture lives by: who does not know whom, what decides purely, where a database, a TLS
//! provider or a generated type may be named. Reads manifests, `Cargo.lock` and sources; runs nothing.
//!
//! Comments and each file's own `mod tests` are left out: they may speak of what the code may not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its tree fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where generated wire types may be named: the edges, and the contract that converts them.
const WIRE_EDGES: &[&str] = &[
    "agent/src/act/executor.rs",
    "agent/src/act/handle.rs",
    // Its own wire is the runtime's; the child speaks the executor's.
    "agent/src/act/images/child.rs",
    "agent/src/act/images/cri.rs",
    "agent/src/act/images/inventory.rs",
    "agent/src/act/wire.rs",
    // Hands pulses, commands and their results through between uplink and responder.
    "agent/src/core.rs",
    "agent/src/core/brake.rs",
    "agent/src/core/holds.rs",
    "agent/src/core/usage.rs",
    "agent/src/enrol.rs",
    "agent/src/run.rs",
    "agent/src/uplink/",
    "collector/src/admit/enrol.rs",
    "collector/src/holds/push.rs",
    "collector/src/ingest.rs",
    "collector/src/ingest/",
    // The newest pulse of each node, and commands on their way: not evidence, never stored.
    "collector/src/nodes.rs",
    "collector/src/query.rs",
    "collector/src/query/",
    "collector/src/run.rs",
    "collector/cli/src/ask.rs",
    "collector/cli/src/client.rs",
    "collector/cli/src/journal.rs",
    "collector/cli/src/view/fleet.rs",
    "collector/cli/src/view/from_wire.rs",
    "collector/cli/src/view/usage_from_wire.rs",
    "deploy/local/src/children.rs",
    "deploy/local/src/status.rs",
    "proto/block",
    "proto/chain",
    "proto/convert",
    "proto/wire.rs",
];

/// Modules that decide: time, peers, disks and stores come in as arguments.
const PURE: &[&str] = &[
    "agent/src/detect",
    "agent/src/act/cleaner/account.rs",
    "agent/src/act/ledger.rs",
    "agent/src/act/permit.rs",
    "agent/src/act/plan",
    "agent/src/act/images/account.rs",
    "agent/src/act/images/inventory.rs",
    "agent/src/act/images/judge.rs",
    "agent/src/act/images/names.rs",
    "agent/src/act/shares.rs",
    "agent/src/pod.rs",
    "agent/src/sample/thrift.rs",
    "agent/src/usage/blame.rs",
    "collector/src/brake/fleet.rs",
    "collector/src/brake/judge.rs",
    "collector/src/brake/ledger.rs",
    "collector/src/brake/machine.rs",
    "collector/src/brake/machine/",
    "agent/src/usage/growth.rs",
    "agent/src/usage/layout.rs",
    "collector/src/correlate",
    "collector/src/condition",
    "collector/src/select.rs",
    "collector/src/timeline.rs",
    "collector/src/timeline/",
    "collector/cli/src/top/board.rs",
    "collector/cli/src/top/cells.rs",
    "collector/cli/src/top/draw.rs",
    "collector/cli/src/top/rows.rs",
    "collector/cli/src/top/tree.rs",
    "collector/cli/src/top/ui.rs",
    "collector/src/wording.rs",
];

/// What a pure module may not name. `store::decision` and `store::row` are values, and the only part of the store that
/// one may know.
const IMPURE: &[&str] = &[
    "tokio",
    "clock::",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "rustix",
    "libc",
    "getrandom",
    "tonic",
    "sled",
];

/// What panics where standard output or error lies on a full disk, or nobody reads it any more.
const PANICS_WHEN_UNHEARD: &[&str] = &["print!", "println!", "eprint!", "eprintln!", "dbg!"];

/// Verbs: short-lived, asked by somebody who waits for the answer. Everything else of the daemons goes on for weeks.
const VERBS: &[&str] = &[
    "agent/src/command.rs",
    "agent/src/forecast.rs",
    "agent/src/uninstall.rs",
    "agent/src/usage/verb.rs",
    "collector/src/command.rs",
];

/// A file has one subject; beyond this many lines it has two.
const MAX_LINES: usize = 600;
/// Files that are over it, and how far they may go until they are split. Take lines out, never put one in.
const LONGER: &[(&str, usize)] = &[];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the workspace").to_owned()
}

/// Every file beneath `folders` for which `wanted` holds, as paths relative to the workspace.
fn files(folders: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let root = root();
    let mut open: Vec<PathBuf> = folders.iter().map(|f| root.join(f)).collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || name == "target" || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                if wanted(&relative) {
                    found.push(relative);
                }
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(!found.is_empty(), "no files beneath {folders:?}: the tree has moved, and this test with it");
    found
}

fn read(relative: &str) -> String {
    std::fs::read_to_string(root().join(relative)).unwrap_or_else(|e| panic!("{relative}: {e}"))
}

const SOURCES: &[&str] = &["proto", "agent/src", "collector/src", "collector/cli/src", "deploy/local/src"];

/// The program's sources, tests in files of their own left out.
fn sources() -> Vec<String> {
    let test = |p: &str| {
        ["tests", "scenarios", "races", "golden"]
            .iter()
            .any(|t| p.contains(&format!("/{t}/")) || p.ends_with(&format!("/{t}.rs")))
            || p.ends_with("_tests.rs")
    };
    files(SOURCES, |p| p.ends_with(".rs") && !test(p))
}

/// The lines of code of `relative`, numbered from 1: no comments, and nothing from `mod tests {` on, which ends files.
fn code(relative: &str) -> Vec<(usize, String)> {
    let text = read(relative);
    let own = text.lines().take_while(|l| !l.starts_with("mod tests {"));
    (1..).zip(own).map(|(n, l)| (n, without_comment(l).to_owned())).collect()
}

/// Cuts a line at `//`, except within a text such as `"https://…"`.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (i, c) in line.char_indices() {
        match c {
            '"' if before != '\\' => quoted = !quoted,
            '/' if before == '/' && !quoted => return &line[..i - 1],
            _ => {}
        }
        before = c;
    }
    line
}

/// Whether `word` stands in `line` with nothing of a name before it, nor after it if it ends like one.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        !(line[..at].ends_with(part) || word.ends_with(part) && after.starts_with(part))
    })
}

/// Lines of `sources` where one of `words` is named, unless `allowed` says that the file may.
fn offenders(sources: &[String], words: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| !allowed(s)) {
        for (n, line) in code(source) {
            for word in words.iter().filter(|w| names(&line, w)) {
                found.push(format!("{source}:{n} names {word}: {}", line.trim()));
            }
        }
    }
    found
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// `Cargo.lock`: each package's name, and the names of what it depends on.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in read("Cargo.lock").split("[[package]]").skip(1) {
        let name = package.lines().find_map(|l| l.strip_prefix("name = \"")).expect("a name");
        let list = package.split_once("dependencies = [").and_then(|(_, l)| l.split_once(']'));
        // "name", or "name version" where there are several.
        let dependencies = list.map_or("", |(l, _)| l).split('"').skip(1).step_by(2);
        let dependencies = dependencies.filter_map(|d| d.split(' ').next()).map(str::to_owned);
        packages.entry(name.trim_end_matches('"').to_owned()).or_default().extend(dependencies);
    }
    assert!(packages.len() > 50, "Cargo.lock has another format");
    packages
}

/// Everything that `package` is built with, dev-dependencies included.
fn closure(package: &str) -> BTreeSet<String> {
    let packages = locked();
    let mut open = vec![package.to_owned()];
    let mut all = BTreeSet::new();
    while let Some(next) = open.pop() {
        if all.insert(next.clone()) {
            open.extend(
                packages.get(&next).unwrap_or_else(|| panic!("{next} is not locked")).iter().cloned(),
            );
        }
    }
    all
}

#[test]
fn packages_know_only_whom_they_may() {
    for (package, strangers) in [
        ("dogwatch", &["dogwatch-agent", "dogwatch-collector", "dogwatch-cli", "sled", "kube"][..]),
        (
            "dogwatch-agent",
            &["dogwatch-collector", "dogwatch-cli", "sled", "kube", "kube-client", "k8s-openapi"],
        ),
        ("dogwatch-collector", &["dogwatch-agent", "dogwatch-cli"]),
        ("dogwatch-cli", &["dogwatch-agent", "dogwatch-collector", "sled", "kube"]),
    ] {
        let built_with = closure(package);
        let met: Vec<_> = strangers.iter().filter(|s| built_with.contains(**s)).collect();
        assert!(met.is_empty(), "{package} is built with {met:?}");
    }
}

#[test]
fn there_is_one_tls_provider_and_one_calendar() {
    let packages = locked();
    for absent in [
        "aws-lc-rs",
        "aws-lc-sys",
        "aws-lc-fips-sys",
        "openssl",
        "openssl-sys",
        "native-tls",
        "boring",
        "chrono",
    ] {
        assert!(
            !packages.contains_key(absent),
            "{absent} is in Cargo.lock; `cargo tree -i {absent}` says why"
        );
    }
    assert!(closure("dogwatch").contains("ring"));
}

#[test]
fn what_decides_is_pure() {
    let sources = sources();
    let pure: Vec<String> =
        sources.iter().filter(|s| PURE.iter().any(|p| s.starts_with(p))).cloned().collect();
    for place in PURE.iter().filter(|p| !p.ends_with('/')) {
        assert!(pure.iter().any(|s| s.starts_with(place)), "{place} has moved, and this test with it");
    }
    let mut found = offenders(&pure, IMPURE, |_| false);
    for source in &pure {
        for (n, line) in code(source) {
            let known = ["store::decision", "store::row"];
            if names(&line, "store::") && !known.iter().any(|k| names(&line, k)) {
                found.push(format!("{source}:{n} names the store: {}", line.trim()));
            }
        }
    }
    assert_none(&found, "time, tasks, files, peers and stores come into pure modules as arguments");
}

#[test]
fn generated_types_stay_at_the_edges() {
    let found = offenders(&sources(), &["wire::", "wire"], |s| WIRE_EDGES.iter().any(|e| s.starts_with(e)));
    let found: Vec<String> = found
        .into_iter()
        // A module of that name is declared or is the agent's own (`act::wire`), and words in texts are no types.
        .filter(|f| f.contains("wire::") || f.contains("dogwatch::wire") || f.contains("crate::wire"))
        .filter(|f| !f.contains("super::wire"))
        .collect();
    assert_none(&found, "convert at the edge (TryFrom), and hand domain types inwards");
}

#[test]
fn only_the_store_names_its_database_and_only_the_cluster_names_kube() {
    let sources = sources();
    assert_none(
        &offenders(&sources, &["sled"], |s| s.starts_with("collector/src/store/")),
        "sled sits behind the store's trait",
    );
    let cluster = |s: &str| s.starts_with("collector/src/cluster");
    assert_none(
        &offenders(&sources, &["kube::", "use kube", "k8s_openapi"], cluster),
        "only the cluster's module names kube",
    );
}

#[test]
fn a_daemon_says_nothing_that_could_end_it() {
    let daemons: Vec<String> = sources()
        .into_iter()
        .filter(|s| ["proto/", "agent/src/", "collector/src/"].iter().any(|d| s.starts_with(d)))
        .collect();
    let found = offenders(&daemons, PANICS_WHEN_UNHEARD, |s| VERBS.contains(&s));
    assert_none(&found, "log it (tracing), or say it by telemetry::say, which a full disk does not end");
    // Whoever fails to start, or ends, is a daemon too, whatever file it stands in.
    for command in ["agent/src/command.rs", "collector/src/command.rs"] {
        let said = offenders(&[command.to_owned()], &["eprintln!", "eprint!", "dbg!"], |_| false);
        assert_none(&said, "telemetry::say, where the daemon's own end is told");
    }
    for verb in VERBS {
        assert!(sources().iter().any(|s| s == verb), "{verb} is gone: take it off the list");
    }
}

#[test]
fn a_file_has_one_subject() {
    let mut found = Vec::new();
    let tests = ["agent/tests", "collector/tests", "collector/cli/tests", "tests"];
    let folders: Vec<&str> = SOURCES.iter().copied().chain(tests).collect();
    for source in files(&folders, |p| p.ends_with(".rs")) {
        let lines = read(&source).lines().count();
        let limit = LONGER.iter().find(|(p, _)| *p == source).map_or(MAX_LINES, |(_, most)| *most);
        if lines > limit {
            found.push(format!("{source} has {lines} lines, the limit is {limit}"));
        }
    }
    assert_none(&found, "split it by subject");
    for (path, _) in LONGER {
        assert!(root().join(path).exists(), "{path} is gone: take it off the list");
    }
}

#[test]
fn nothing_points_out_of_the_repository() {
    // Put together here, so that this file does not name them.
    let strangers = [["/wo", "rk/"].concat(), ["/fa", "rm/"].concat(), ["../sha", "red"].concat()];
    let text = |p: &str| {
        [".rs", ".toml", ".yaml", ".yml", ".md", ".proto", ".sh"].iter().any(|e| p.ends_with(e))
            || ["check", ".ci/run", "Containerfile", "Dockerfile"].iter().any(|f| p.ends_with(f))
    };
    let mut found = Vec::new();
    for file in files(&[""], text) {
        for (n, line) in (1..).zip(read(&file).lines()) {
            if strangers.iter().any(|s| line.contains(s)) {
                found.push(format!("{file}:{n}: {}", line.trim()));
            }
        }
    }
    assert_none(&found, "whoever clones this has no such path");
}

#[test]
fn comments_are_told_from_code() {
    assert_eq!(without_comment("let a = 1; // tokio"), "let a = 1; ");
    assert_eq!(without_comment("let a = \"https://x\"; // b"), "let a = \"https://x\"; ");
    assert!(names("use tokio::time;", "tokio") && !names("use tokio_stream;", "tokio"));
    assert!(names("crate::wire::Block", "wire::") && !names("from_wire::x", "wire::"));
}
