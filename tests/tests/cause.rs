//! What fills a disk is named by the finding that says so: the file, the process, and what is deleted and still open.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Stage};
use dogwatch_e2e::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);

/// The newest state of the finding of `rule` about `mount` that names a cause.
fn with_cause(journal: &Person, rule: &str, mount: &Path) -> Option<Value> {
    let out = journal.dogwatch(&["get", "findings", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&out.stdout).ok()?;
    let mount = mount.to_str()?;
    let is_it = |f: &&Value| {
        f["rule"] == rule && f.to_string().contains(mount) && f.to_string().contains("cause_confidence")
    };
    rows.as_array()?.iter().find(is_it).cloned()
}

fn python(stage: &Stage, script: &str, folder: &Path) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(folder);
    Process::start("the writer", command, &stage.path().join("writer.log"))
}

fn agent_on(stage: &Stage) -> (dogwatch_e2e::stage::Post, Person) {
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, None, "cleanup: { mode: \"off\" }\n");
    post.launch();
    let journal = stage.on_journal(&state);
    (post, journal)
}

#[test]
fn the_file_and_the_process_that_fill_a_disk_are_named() {
    let disk = LoopFs::create(192 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    // Nearly as full as the mark, and before the agent looks: else the end of this would be part of what it sees growing.
    let old = std::fs::File::create(disk.path().join("old")).expect("a file");
    (&old).write_all(&vec![b'x'; 138 << 20]).expect("there is room");
    old.sync_all().expect("it is written");
    let stage = Stage::new(programs!());
    let (_post, journal) = agent_on(&stage);
    let mount = disk.path().display().to_string();
    until("a sample with the disk", PATIENCE, || {
        let out = journal.dogwatch(&["get", "nodes", "-o", "json"]);
        String::from_utf8_lossy(&out.stdout).contains(&mount).then_some(())
    });
    // A bystander writes too, far less.
    let script = "import sys,time\nd=sys.argv[1]\n\
                  spam=open(d+'/spam.log','wb',0); calm=open(d+'/calm.log','wb',0)\n\
                  while spam.tell() < (30<<20): spam.write(b'x'*65536); calm.write(b'x'*512); time.sleep(0.06)\n\
                  time.sleep(600)\n";
    let writer = python(&stage, script, disk.path());
    let said =
        until("the cause to be told", PATIENCE, || with_cause(&journal, "disk-high-water", disk.path()));
    let text = said.to_string();
    assert!(text.contains("\"certain\""), "{said:#}");
    let explanation = said["explanation"].as_str().unwrap_or_default();
    assert!(explanation.contains("spam.log") && !explanation.contains("calm.log"), "{explanation}");
    assert!(explanation.contains(&format!("python3 ({})", writer.id())), "{explanation}");
}

#[test]
fn what_is_deleted_and_still_open_is_told() {
    let disk = LoopFs::create(192 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let stage = Stage::new(programs!());
    let (_post, journal) = agent_on(&stage);
    let script = "import os,sys,time\np=sys.argv[1]+'/rotated.log'\nf=open(p,'wb',0)\nf.write(b'x'*(172<<20))\nos.unlink(p)\n\
                  time.sleep(600)\n";
    let holder = python(&stage, script, disk.path());
    let said =
        until("the cause to be told", PATIENCE, || with_cause(&journal, "disk-high-water", disk.path()));
    let explanation = said["explanation"].as_str().unwrap_or_default();
    assert!(
        explanation.contains("deleted and still open") && explanation.contains("rotated.log"),
        "{explanation}"
    );
    assert!(explanation.contains(&format!("python3 ({})", holder.id())), "{explanation}");
    assert!(said.to_string().contains("deleted_but_open_bytes"), "{said:#}");
}
