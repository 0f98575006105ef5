//! An agent that is killed in the midst of a cleanup: its next run says what became of every object, once, and the fleet goes on.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dogwatch_e2e::cgroup::Group;
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Stage, yaml};
use dogwatch_e2e::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
const MIN_AGE: Duration = Duration::from_secs(2);
/// Many batches, each with its record, so that there is a midst to be killed in.
const LOGS: usize = 900;
const LOG_BYTES: usize = 16 << 10;

fn logs(root: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap());
    entries.filter(|e| e.file_type().unwrap().is_file()).map(|e| e.path()).collect()
}

/// The action that was begun by itself, in its newest state.
fn begun(person: &Person, state: &str) -> Option<Value> {
    person.rows(&["get", "actions", "--state", state]).into_iter().find(|a| a["actor"] == "node")
}

#[test]
fn an_agent_killed_amid_a_cleanup_says_at_its_next_start_what_became_of_everything() {
    let disk = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let root = disk.path().join("log");
    std::fs::create_dir(&root).unwrap();
    for i in 0..LOGS {
        std::fs::write(root.join(format!("app-{i}.log.1")), vec![b'x'; LOG_BYTES]).unwrap();
    }
    let made = SystemTime::now();
    until("the logs to be old", PATIENCE, || {
        (made.elapsed().unwrap_or_default() > MIN_AGE + Duration::from_secs(1)).then_some(())
    });
    let before = logs(&root);
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let person = house.person("ada", "responder");
    let more = format!(
        "sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ntail: {{ enabled: false }}\n\
         cleanup:\n  mode: auto\n  roots: [{{ path: {}, min_age: {}s, keep_newest: 0 }}]\n",
        yaml(&root),
        MIN_AGE.as_secs()
    );
    let group = Group::new(&["cpu"]);
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    post.confine(&group);
    post.start();
    rustix::fs::syncfs(std::fs::File::open(disk.path()).unwrap()).unwrap();
    let (_, total) = room(disk.path());
    // A tenth of a CPU from now on, so that the cleanup outlasts whatever keeps this test from seeing its midst.
    group.set("cpu", "cpu.cfs_period_us", 100_000);
    group.set("cpu", "cpu.cfs_quota_us", 10_000);
    // All of them are not enough.
    fill_to(&disk.path().join("filler"), total / 20);
    let full = room(disk.path()).0;
    // Space comes free when an object is gone for good: one that has only left its folder may still come back.
    until("objects to go", PATIENCE, || (room(disk.path()).0 > full + LOG_BYTES as u64).then_some(()));
    post.kill();
    group.set("cpu", "cpu.cfs_quota_us", -1);
    // Its executor dies with it; what lies in quarantine by now its next run puts back.
    post.start();
    let closed = until("the action's end", PATIENCE, || begun(&person, "failed"));
    let id = closed["id"].as_str().unwrap();
    let detail = closed["detail"].as_str().unwrap();
    assert!(detail.starts_with("the agent ended in the midst of this cleanup: "), "{detail}");
    let objects = closed["objects"].as_array().unwrap();
    let of = |outcome: &str| -> BTreeSet<PathBuf> {
        let those = objects.iter().filter(|o| o["outcome"] == outcome);
        those.map(|o| o["path"].as_str().unwrap().into()).collect()
    };
    let (removed, stayed) = (of("removed"), of("skipped"));
    eprintln!("{} of {} objects had gone by the kill; {detail}", removed.len(), objects.len());
    assert!(!removed.is_empty() && !stayed.is_empty(), "the kill came in the midst: {detail}");
    assert_eq!(removed.len() + stayed.len(), objects.len(), "each is accounted for: {closed:#}");
    assert!(removed.iter().all(|path| before.contains(path) && !path.exists()));
    for object in objects.iter().filter(|o| o["outcome"] == "removed") {
        assert_eq!(object["sha256"].as_str().map(str::len), Some(64), "{object:#}");
    }
    // What was recorded of them before is there for whoever asks for events.
    let seen = person.rows(&["get", "events", "--kind", "file"]);
    for object in objects.iter().filter(|o| o["outcome"] == "removed") {
        let key = format!("sha256.{}", object["path"].as_str().unwrap());
        assert!(
            seen.iter().any(|e| e["fields"]["cause"] == id && e["fields"][&key] == object["sha256"]),
            "{key}"
        );
    }
    assert_eq!(closed["freed_bytes"], (removed.len() * LOG_BYTES) as u64, "{detail}");
    // Whatever went since went with the next cleanup, which says so.
    until("the next cleanup", PATIENCE, || begun(&person, "done"));

    // Killed and started again, it has nothing left to say of this one.
    post.kill();
    post.start();
    let ended = |person: &Person| {
        let events = person.rows(&["get", "events", "--kind", "action"]);
        let of_it = events.iter().filter(|e| e["fields"]["action"] == id);
        of_it.filter(|e| e["fields"]["state"] == "failed").count()
    };
    until("the third run to be heard", PATIENCE, || {
        let gaps = person.rows(&["get", "events", "--kind", "gap"]);
        // One of each run that has one before it: others tell of samples, or of the other streams.
        let after_a_run = |g: &&Value| g["source"] == "journal" && g["fields"]["stream"] == "urgent";
        (gaps.iter().filter(after_a_run).count() >= 2).then_some(())
    });
    assert_eq!(ended(&person), 1);
    assert_eq!(person.rows(&["get", "actions", "--state", "started"]), Vec::<Value>::new());

    // Every file that went is in some action, with its digest.
    let all: BTreeSet<PathBuf> = person
        .rows(&["get", "actions"])
        .iter()
        .flat_map(|a| a["objects"].as_array().cloned().unwrap_or_default())
        .filter(|o| o["outcome"] == "removed" && o["sha256"].is_string())
        .map(|o| o["path"].as_str().unwrap().into())
        .collect();
    let gone: BTreeSet<PathBuf> = before.difference(&logs(&root)).cloned().collect();
    assert_eq!(gone.difference(&all).collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "told by nobody");

    // And nobody else has to wait for it.
    let brake = person.json(&["brake", "status"]);
    assert_eq!(brake["state"], "open", "{brake:#}");
    post.stop();
    house.stop();
}
