//! Who fills a disk, in twenty ways: what is said is true, or nothing is said. No name is ever a guess.
//!
//! Each cause has a filesystem and processes of its own; those meant to be a pod's are in a control group named as the
//! kubelet names them, and see their files through mounts of their own. A bystander writes a little to every disk. Several
//! agents watch some of the disks each, and every answer that they give within the time is held against the truth.
//!
//! It runs itself once more in namespaces of its own (mounts, processes), where it can lay out `/var/log/pods` and
//! `/var/lib/kubelet` as a node has them, and of which nothing stays.

#[path = "attribution/causes.rs"]
mod causes;
#[path = "attribution/judge.rs"]
mod judge;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Post, Stage, yaml};
use dogwatch_e2e::wait::until;
use serde_json::Value;

use causes::{Cause, Scene};
use judge::{Said, Verdict, judge};

/// Set where it runs in namespaces of its own.
const INSIDE: &str = "DOGWATCH_TEST_ATTRIBUTION_INSIDE";
/// Agents that share the disks: each looks at one after the other.
const AGENTS: usize = 5;
/// For the first answer about every disk.
const PATIENCE: Duration = Duration::from_secs(150);
/// All answers within it are judged: the first one and the one after the scout's pause.
const WATCHED: Duration = Duration::from_secs(100);

#[test]
fn in_a_drill_of_twenty_causes_no_name_is_wrong() {
    if std::env::var_os(INSIDE).is_some() {
        return drill();
    }
    let me = std::env::current_exe().expect("a test knows its program");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(me)
        .args(["--exact", "in_a_drill_of_twenty_causes_no_name_is_wrong", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) can be run, and by root");
    assert!(status.success(), "the drill failed: {status}");
}

fn drill() {
    let_go_of_others();
    let stage = Stage::new(programs!());
    let scene = Scene::set(stage.path());
    let mounts: Vec<PathBuf> = scene.causes.iter().map(|c| c.mount.clone()).collect();
    let mut agents: Vec<(Post, Person)> = Vec::new();
    for n in 0..AGENTS {
        let its: Vec<&PathBuf> = mounts.iter().skip(n).step_by(AGENTS).collect();
        let state = stage.path().join(format!("agent-{n}"));
        let mut post = stage.post(&format!("node-{n}"), &state, None, &config(&its));
        post.launch();
        let journal = stage.on_journal(&state);
        agents.push((post, journal));
    }
    let began = Instant::now();
    let mut answers: BTreeMap<&str, Vec<Said>> = BTreeMap::new();
    until("an answer about every disk, and the time to be over", PATIENCE, || {
        for (_, journal) in &agents {
            let out = journal.dogwatch(&["get", "findings", "-o", "json"]);
            let rows: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            for finding in rows.as_array().into_iter().flatten() {
                for cause in &scene.causes {
                    let is_it = finding["rule"] == cause.rule
                        && finding["subject"].to_string().contains(&format!("{}\"", cause.mount.display()));
                    let said = is_it.then(|| judge(finding, &cause.truth, &scene.strangers)).flatten();
                    let all = answers.entry(cause.name).or_default();
                    if let Some(said) = said.filter(|said| !all.contains(said)) {
                        if matches!(said.verdict, Verdict::Wrong(_)) {
                            eprintln!("── {}: {finding:#}", cause.name);
                        }
                        all.push(said);
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        let all = scene.causes.iter().all(|c| answers.get(c.name).is_some_and(|said| !said.is_empty()));
        (all && began.elapsed() > WATCHED).then_some(())
    });
    report(&scene, &answers);
}

/// A namespace begins with a copy of every mount: others' disks would stay mounted here after they are unmounted there.
fn let_go_of_others() {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("the table of mounts can be read");
    let folder = std::env::temp_dir();
    let beneath = |at: &&str| {
        let name = std::path::Path::new(at).strip_prefix(&folder).ok();
        name.is_some_and(|name| name.to_string_lossy().starts_with("dogwatch"))
    };
    for at in table.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(beneath) {
        let _ = Command::new("umount").arg("--lazy").arg(at).status();
    }
}

/// One wrong answer is one too many; else the best is what people act on.
fn best(all: &[Said]) -> Option<&Said> {
    all.iter().max_by_key(|a| (&a.verdict, a.process, a.pod))
}

/// Whether no less was told than can be.
fn fulfils(cause: &Cause, told: &Said) -> bool {
    let must = &cause.must;
    (!must.place || told.verdict == Verdict::Right)
        && (!must.process || told.process)
        && (!must.pod || told.pod)
}

fn report(scene: &Scene, answers: &BTreeMap<&str, Vec<Said>>) {
    let (mut right, mut unknown, mut wrong) = (0, 0, Vec::new());
    let mut missing = Vec::new();
    println!("| cause | filesystem | truth | said | confidence | verdict |\n|---|---|---|---|---|---|");
    for cause in &scene.causes {
        let all = answers.get(cause.name).map(Vec::as_slice).unwrap_or_default();
        let Some(told) = best(all) else { continue };
        let verdict = match &told.verdict {
            Verdict::Right => "right".to_owned(),
            Verdict::Unknown => format!("unknown ({})", cause.why_unknown),
            Verdict::Wrong(what) => format!("WRONG: {what}"),
        };
        let said = if told.named.is_empty() { "unknown".to_owned() } else { told.named.join("; ") };
        println!(
            "| {} | {} | {} | {said} | {} | {verdict} |",
            cause.name,
            cause.fs,
            cause.truth_in_words(),
            told.confidence
        );
        match &told.verdict {
            Verdict::Right => right += 1,
            Verdict::Unknown => unknown += 1,
            Verdict::Wrong(what) => wrong.push(format!("{}: {what}", cause.name)),
        }
        if !fulfils(cause, told) {
            missing.push(format!("{}: {told:?}", cause.name));
        }
    }
    println!("{} causes: {right} right, {unknown} unknown, {} wrong", scene.causes.len(), wrong.len());
    assert!(wrong.is_empty(), "named what is not the cause: {wrong:#?}");
    assert!(missing.is_empty(), "less was told than can be: {missing:#?}");
    assert_eq!(scene.causes.len(), 20);
}

/// Only these disks are watched closely; others may fill as they like.
fn config(mounts: &[&PathBuf]) -> String {
    let paths = mounts.iter().map(|path| yaml(path)).collect::<Vec<_>>().join(", ");
    let far = "{ high_used: 99.6%, low_used: 99.5%, serious_used: 99.7%, critical_used: 99.8% }";
    let near = "{ high_used: 12%, low_used: 2%, serious_used: 98%, critical_used: 99% }";
    format!(
        "cleanup: {{ mode: \"off\" }}\ndetect:\n  rules:\n    off: [cpu-saturation, cpu-steal, fork-storm, io-stall, \
         tcp-retransmits, disk-time-to-full, hung-tasks]\n    update_every: 3s\n  space: {far}\n  inodes: {far}\n  \
         mounts:\n    - {{ paths: [{paths}], space: {near}, inodes: {near} }}\n"
    )
}
