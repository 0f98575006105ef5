//! The first run: one command, and within a minute this machine's real filesystems with df's own figures.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dogwatch_e2e::process::{Process, children_of};
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::Stage;
use dogwatch_e2e::wait::until;
use rustix::process::Signal;
use serde_json::Value;

/// Within this the first figures must be there.
const FIRST_FIGURES: Duration = Duration::from_secs(60);
/// A machine at work changes its figures between two looks; then it is looked again.
const TRIES: Duration = Duration::from_secs(60);

/// What df says of one filesystem: size, used, available in bytes; inodes and free ones.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Df([u64; 5]);

fn df() -> BTreeMap<String, Df> {
    let mut table: BTreeMap<String, Df> = BTreeMap::new();
    let columns = [("size,used,avail", 3, 0), ("itotal,iavail", 2, 3)];
    for (names, count, first) in columns {
        // A mount of another test may go away just then; df says so and shows the rest.
        let out =
            Command::new("df").args(["-B1", &format!("--output={names},target")]).env("LC_ALL", "C").output();
        for line in String::from_utf8_lossy(&out.unwrap().stdout).lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let row = table.entry(words[count..].join(" ")).or_default();
            for (i, word) in words[..count].iter().enumerate() {
                row.0[first + i] = word.parse().unwrap_or(0);
            }
        }
    }
    table
}

fn nodes(dogwatch: &Path, state: &Path) -> Vec<Value> {
    let mut command = Command::new(dogwatch);
    command.args(["get", "nodes", "-o", "json"]).env("DOGWATCH_STATE", state);
    command.env_remove("DOGWATCH_CLI_CONFIG").env("XDG_CONFIG_HOME", state.join("none"));
    let out = command.output().unwrap();
    let parsed = serde_json::from_slice(&out.stdout).ok().filter(|_| out.status.success());
    parsed.and_then(|v: Value| v.as_array().cloned()).unwrap_or_default()
}

/// What of the node's mounts is not between df before and df after.
fn astray(mounts: &[Value], before: &BTreeMap<String, Df>, after: &BTreeMap<String, Df>) -> Vec<String> {
    let mut astray = Vec::new();
    for mount in mounts {
        let path = mount["path"].as_str().unwrap();
        let (Some(b), Some(a)) = (before.get(path), after.get(path)) else { continue };
        let fields = ["total_bytes", "used_bytes", "available_bytes", "inodes_total", "inodes_free"];
        for (i, field) in fields.iter().enumerate() {
            let seen = mount[field].as_u64().unwrap_or(0);
            let (low, high) = (b.0[i].min(a.0[i]), b.0[i].max(a.0[i]));
            if !(low..=high).contains(&seen) {
                astray.push(format!("{path} {field}: {seen} is not in {low}..={high}"));
            }
        }
    }
    astray
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children_of(pid);
    let mut i = 0;
    while i < found.len() {
        found.extend(children_of(found[i]));
        i += 1;
    }
    found
}

#[test]
fn one_command_shows_this_machines_disks_and_ends_without_a_trace() {
    let stage = Stage::new(programs!());
    let state = stage.path().join("state");
    let began = Instant::now();
    let mut command = Command::new(&stage.programs().local);
    command.args(["--plain", "--state"]).arg(&state).env("USER", "root").env_remove("DOGWATCH_STATE");
    let mut up = Process::start("cargo up", command, &stage.path().join("up.log"));
    let dogwatch = stage.programs().dogwatch.clone();
    let node = until("this machine's figures", FIRST_FIGURES, || {
        assert!(up.is_running(), "it ended: {}", up.said());
        nodes(&dogwatch, &state).into_iter().find(|n| n["mounts"].as_array().is_some_and(|m| !m.is_empty()))
    });
    let took = began.elapsed();
    assert_eq!(node["state"], "connected", "{node:#}");

    let (mut compared, mut last) = (0, Vec::new());
    let tries = Instant::now();
    while tries.elapsed() < TRIES {
        let before = df();
        let seen = nodes(&dogwatch, &state);
        let after = df();
        let Some(mounts) = seen.first().and_then(|n| n["mounts"].as_array()) else { continue };
        let known = |path: &str| mounts.iter().any(|m| m["path"] == path);
        assert!(known("/"), "{mounts:#?}");
        // Every filesystem on a device that df shows is there.
        let proc_mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        for line in proc_mounts.lines().filter(|l| l.starts_with("/dev/")) {
            let path = line.split_whitespace().nth(1).unwrap();
            let steady =
                before.contains_key(path) && after.contains_key(path) && !path.contains("dogwatch-fs");
            assert!(!steady || known(path), "{path} is not among {mounts:#?}");
        }
        compared = mounts.iter().filter(|m| after.contains_key(m["path"].as_str().unwrap())).count();
        last = astray(mounts, &before, &after);
        if last.is_empty() {
            break;
        }
    }
    assert!(last.is_empty(), "{last:#?}");
    assert!(compared > 0);

    let family = descendants(up.id());
    assert!(family.len() >= 3, "collector, agent and its executor: {family:?}");
    let status = up.end_by(Signal::INT, Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    until("every process that it started to be gone", Duration::from_secs(10), || {
        family.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    eprintln!("figures after {took:?}; {compared} filesystems as df has them");
}
