//! The index is nothing but a cache: deleted, cut off or full of garbage, it comes back and every answer is the same.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch_e2e::chance::Chance;
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Person, Stage, http_get, yaml};
use dogwatch_e2e::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// Every answer that the index has a part in.
fn answers(person: &Person, incidents: &[String]) -> Vec<(String, String)> {
    let mut questions: Vec<Vec<&str>> = vec![
        vec!["get", "findings"],
        vec!["get", "incidents"],
        vec!["get", "actions"],
        vec!["get", "nodes", "--cached"],
        vec!["get", "events"],
    ];
    for id in incidents {
        questions.push(vec!["describe", "incident", id]);
        questions.push(vec!["timeline", id]);
    }
    questions
        .into_iter()
        .map(|q| {
            let out = person.dogwatch(&[q.as_slice(), &["-o", "json"]].concat());
            let text = if out.status.success() { out.stdout } else { out.stderr };
            (q.join(" "), String::from_utf8_lossy(&text).into_owned())
        })
        .collect()
}

/// Whether the index has all that is durable.
fn has_caught_up(house: &House) -> bool {
    let page = http_get(house.health(), "/metrics").unwrap_or_default();
    let lag = page.lines().find_map(|l| l.strip_prefix("dogwatch_collector_index_lag_seconds "));
    lag.and_then(|seconds| seconds.trim().parse::<f64>().ok()) == Some(0.0)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Something done to the index's folder.
type Harm<'a> = &'a dyn Fn(&mut Chance);

#[test]
fn an_index_that_is_gone_cut_or_garbage_costs_no_answer() {
    let stage = Stage::new(programs!());
    let fs = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let root = fs.path().join("log");
    std::fs::create_dir(&root).unwrap();
    let mut chance = Chance::new(5);
    for i in 1..=5 {
        std::fs::write(root.join(format!("old.log.{i}")), chance.bytes(2 << 20)).unwrap();
    }
    let incidents = "incidents: { quiet: 1h, silent_after: 1h }";
    let mut house = stage.house(&stage.path().join("collector"), incidents);
    house.start();
    let (ann, eve) = (house.person("ann", "responder"), house.person("eve", "viewer"));
    let log = stage.path().join("app.log");
    let more = format!(
        "sample: {{ every: 200ms, evidence_every: 400ms, processes: false }}\n\
         cleanup: {{ mode: plan, roots: [{{ path: {}, min_age: 0s }}] }}\n\
         tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
        yaml(&root),
        yaml(&log),
        yaml(&Scribe::rules(stage.path()))
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    let scribe = Scribe::start(&log, 200);
    post.start();
    fill_to(&fs.path().join("filler"), room(fs.path()).1 / 10);
    let mount = fs.path().display().to_string();
    let planned = until("a plan", PATIENCE, || {
        eve.rows(&["get", "actions"]).into_iter().find(|a| a["mount"] == mount.as_str())
    });
    assert_eq!(planned["state"], "planned", "{planned:#}");
    // A person's plan and cleanup: through the collector, carried out by the node.
    let cleaned = ann.json(&["clean", "node-a", "--mount", &mount, "--yes"]);
    assert!(cleaned.to_string().contains("\"done\""), "{cleaned:#}");
    until("two incidents", PATIENCE, || (eve.rows(&["get", "incidents"]).len() >= 2).then_some(()));
    let mut ids: Vec<String> = Vec::new();
    for incident in eve.rows(&["get", "incidents"]) {
        ids.push(incident["id"].as_str().unwrap().to_owned());
    }
    ann.ask(&["ack", &ids[0], "-m", "mine"]);
    ann.ask(&["note", &ids[0], "a note with \"quotes\" and ünïcode"]);
    ann.ask(&["resolve", &ids[1], "-m", "it is over"]);
    until("a sample to be stored", PATIENCE, || {
        (!eve.rows(&["get", "events", "--kind", "sample", "--limit", "1"]).is_empty()).then_some(())
    });
    drop(scribe);
    post.stop();
    until("the node to be silent", PATIENCE, || {
        eve.rows(&["get", "nodes", "--cached"]).iter().find(|n| n["state"] == "silent").map(|_| ())
    });
    // What was told of last may still be on its way into them.
    let before = until("the answers to stay as they are", PATIENCE, || {
        let first = answers(&eve, &ids);
        std::thread::sleep(Duration::from_secs(1));
        (has_caught_up(&house) && answers(&eve, &ids) == first).then_some(first)
    });
    assert!(before.iter().all(|(q, a)| a.len() > 10 || q.is_empty()), "{before:#?}");
    assert!(before.iter().any(|(_, a)| a.contains("a note with")), "notes are told");

    let index = house.store().join("index");
    let delete = |_: &mut Chance| std::fs::remove_dir_all(&index).unwrap();
    let cut = |chance: &mut Chance| {
        for file in files(&index) {
            let length = file.metadata().unwrap().len();
            std::fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(chance.between(0, length.max(1) - 1))
                .unwrap();
        }
    };
    let garbage = |chance: &mut Chance| {
        for file in files(&index) {
            let length = file.metadata().unwrap().len();
            std::fs::write(file, chance.bytes(length as usize)).unwrap();
        }
    };
    let in_part = |chance: &mut Chance| {
        for file in files(&index) {
            let mut bytes = std::fs::read(&file).unwrap();
            for _ in 0..40.min(bytes.len()) {
                let at = chance.between(0, bytes.len() as u64 - 1) as usize;
                bytes[at] ^= 0x5a;
            }
            std::fs::write(file, bytes).unwrap();
        }
    };
    let harms: [(&str, Harm<'_>); 5] = [
        ("as it was left", &|_| ()),
        ("deleted", &delete),
        ("cut", &cut),
        ("garbage", &garbage),
        ("flipped bits", &in_part),
    ];
    for (what, harm) in harms {
        house.stop();
        harm(&mut chance);
        house.start();
        let mut last = Vec::new();
        let mut same = || {
            last = answers(&eve, &ids);
            last == before
        };
        let began = std::time::Instant::now();
        while !same() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        for ((question, was), (_, is)) in before.iter().zip(&last) {
            assert_eq!(was, is, "{what}: {question}");
        }
        eprintln!("index {what}: {} answers the same after {:?}", before.len(), began.elapsed());
    }
    house.kill();
    std::fs::remove_dir_all(&index).unwrap();
    house.start();
    until("the answers to be back after SIGKILL", PATIENCE, || (answers(&eve, &ids) == before).then_some(()));
}
