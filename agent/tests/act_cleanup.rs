//! The executor in its own process, on real filesystems: what it lists, what it leaves, what it frees.
//!
//! `find` says independently what may go; the plan must agree. Everything else must be there afterwards, byte for byte.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "act_cleanup/descriptors.rs"]
mod descriptors;
#[path = "act_cleanup/layouts.rs"]
mod layouts;
#[path = "act_cleanup/life.rs"]
mod life;
#[path = "act_cleanup/mounted.rs"]
mod mounted;

mod common;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{LoopFs, run};
use dogwatch::record::{Action, ActionState, CleanupMode, Hash, ObjectOutcome};
use dogwatch_agent::act::aside::Aside;
use dogwatch_agent::act::handle::Executor;
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);
const STATE: &str = "/var/spool/dogwatch-test";

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

fn policy(root: &Path) -> Policy {
    let root = RootPolicy {
        min_age_seconds: 0,
        keep_newest: 0,
        excludes: vec!["keep*".to_owned()],
        ..RootPolicy::new(root)
    };
    Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() }
}

fn spawn(policy: Policy) -> Executor {
    let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
    let mut executor = Executor::spawn(program, &["executor".into()], policy, Path::new(STATE)).unwrap();
    executor.witnessed_by(Arc::new(witness::Kept));
    executor.hold(&HoldLine::open(Path::new(STATE), Path::new("/")));
    // A look at every process takes its time on a machine that is busy.
    executor.looks_by(Aside::new(DEADLINE));
    executor
}

fn device(path: &Path) -> u64 {
    common::filesystem(path)
}

fn make_plan(survey: &Survey, policy: &Policy, root: &Path, bytes: u64, inodes: u64) -> Action {
    let trigger = Trigger {
        mount: root.display().to_string(),
        device: device(root),
        total_bytes: 1 << 40,
        available_bytes: 0,
        target_available_bytes: bytes,
        inodes_free: 0,
        target_inodes_free: inodes,
        reason: "test".to_owned(),
        finding_id: None,
        actor: "node".to_owned(),
    };
    let rules = Rules::new(policy.clone()).unwrap();
    let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
    plan("a-1".to_owned(), &trigger, survey, &rules, allowance, &[], now_ns())
}

fn paths(action: &Action) -> BTreeSet<PathBuf> {
    action.objects.iter().map(|o| o.path.clone()).collect()
}

/// Every file beneath `base` by path: inode, kind and digest of its content.
fn snapshot(base: &Path) -> BTreeMap<PathBuf, (u64, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![base.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            let content = if meta.is_dir() {
                folders.push(entry.path());
                Vec::new()
            } else if meta.is_file() {
                Sha256::digest(fs::read(entry.path()).unwrap()).to_vec()
            } else if meta.is_symlink() {
                fs::read_link(entry.path()).unwrap().into_os_string().into_vec()
            } else {
                Vec::new()
            };
            found.insert(entry.path(), (meta.ino(), meta.mode(), content));
        }
    }
    found
}

#[test]
fn extent_index_blocks_of_a_fragmented_file_are_counted() {
    let fs = LoopFs::ext4(64);
    let root = fs.path().join("logs");
    fs::create_dir(&root).unwrap();
    let file = File::create(root.join("holes.log.1")).unwrap();
    for block in 0..3_000u64 {
        file.write_all_at(b"x", block * 2 * 4_096).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let policy = policy(&root);
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(&root), DEADLINE).unwrap();
    let action = make_plan(&survey, &policy, &root, 1 << 40, 0);
    let block = rustix::fs::statvfs(&root).unwrap().f_frsize;
    assert!(action.planned_bytes > 3_000 * block, "index blocks are allocated bytes");
    let applied = executor.apply(&action, DEADLINE).unwrap();
    assert_eq!(applied.freed_bytes, Some(action.planned_bytes));
    let change = applied.available_after_bytes.unwrap() - applied.available_before_bytes.unwrap();
    assert_eq!(applied.freed_bytes, Some(change), "{:?}", applied.unexplained);
}

#[test]
fn the_large_are_digested_at_both_ends() {
    let fs = LoopFs::tmpfs(96);
    let content: Vec<u8> = (0..80u32 << 20).map(|i| (i >> 12) as u8).collect();
    fs::write(fs.path().join("big.log.1"), &content).unwrap();
    let policy = policy(fs.path());
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(fs.path()), DEADLINE).unwrap();
    let action = make_plan(&survey, &policy, fs.path(), 1 << 40, 0);
    let applied = executor.apply(&action, DEADLINE).unwrap();
    let mut ends = Sha256::new();
    ends.update(&content[..1 << 20]);
    ends.update(&content[content.len() - (1 << 20)..]);
    assert_eq!(applied.objects[0].sha256, Some(Hash(ends.finalize().into())));
    assert!(applied.objects[0].digest_partial);
    assert_eq!(applied.freed_bytes, Some(80 << 20));
}

#[test]
fn an_open_file_stays_and_its_holder_is_named() {
    let fs = LoopFs::ext4(16);
    let root = fs.path().join("logs");
    fs::create_dir(&root).unwrap();
    for name in ["a.log.1", "b.log.1"] {
        fs::write(root.join(name), vec![1; 50_000]).unwrap();
    }
    run("sync", &["-f", root.to_str().unwrap()]);
    let policy = policy(&root);
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(&root), DEADLINE).unwrap();
    let action = make_plan(&survey, &policy, &root, 1 << 40, 0);
    assert_eq!(action.objects.len(), 2);
    // Opened between plan and apply, by a process of another.
    let mut holder =
        Command::new("sleep").arg("1000").stdin(File::open(root.join("a.log.1")).unwrap()).spawn().unwrap();
    let applied = executor.apply(&action, DEADLINE);
    holder.kill().unwrap();
    let pid = holder.id();
    holder.wait().unwrap();
    let applied = applied.unwrap();
    let outcomes: Vec<_> = applied.objects.iter().map(|o| o.outcome).collect();
    assert!(outcomes.contains(&ObjectOutcome::Skipped) && outcomes.contains(&ObjectOutcome::Removed));
    let refusal = applied.refused.iter().find(|r| r.path.as_deref() == Some(&root.join("a.log.1"))).unwrap();
    assert_eq!(refusal.reason, format!("open elsewhere: process {pid} (sleep)"));
    assert!(root.join("a.log.1").exists());
    assert_eq!(applied.unexplained.unwrap().bytes, 0);
}

/// A request that a taken-over agent could send: an honest plan, with another object in its place.
fn forged(honest: &Action, path: &Path) -> Action {
    let meta = fs::symlink_metadata(path).unwrap();
    let mut action = honest.clone();
    action.objects.truncate(1);
    let object = &mut action.objects[0];
    object.path = path.to_owned();
    object.device = meta.dev();
    object.inode = meta.ino();
    object.size_bytes = meta.size();
    object.allocated_bytes = meta.blocks() * 512;
    object.mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
    object.ctime_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
    object.mode = meta.mode();
    object.links = meta.nlink();
    (object.uid, object.gid) = (meta.uid(), meta.gid());
    action
}

#[test]
fn a_hostile_agent_cannot_have_anything_else_removed() {
    let fs = LoopFs::ext4(16);
    let (root, outside) = (fs.path().join("logs"), fs.path().join("outside"));
    for folder in [root.join("excluded"), root.join("db/base/1"), outside.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    let names = [
        "outside/app.log.1",
        "logs/app.log",
        "logs/data.bin",
        "logs/keep.log.1",
        "logs/app.log.1.tmp",
        "logs/orphan.1",
        "logs/fresh.log.1",
        "logs/excluded/app.log.1",
        "logs/db/PG_VERSION",
        "logs/db/app.log.1",
        "logs/db/base/1/app.log.1",
        "logs/n.log.1",
        "logs/n.log.2",
        "logs/good.log.2",
        "logs/good.log.1",
    ];
    for (age, name) in names.iter().enumerate() {
        let path = fs.path().join(name);
        fs::write(&path, name).unwrap();
        let at = SystemTime::now() - Duration::from_secs(1_000 - age as u64);
        File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }
    let fresh = File::options().write(true).open(root.join("fresh.log.1")).unwrap();
    fresh.set_modified(SystemTime::now() + Duration::from_secs(3_600)).unwrap();
    drop(fresh);
    symlink(&outside, root.join("link")).unwrap();
    let mut policy = policy(&root);
    policy.roots[0].keep_newest = 1;
    policy.roots[0].excludes.push("excluded".to_owned());
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(&root), DEADLINE).unwrap();
    let honest = make_plan(&survey, &policy, &root, 1 << 40, 0);
    assert_eq!(paths(&honest), BTreeSet::from([root.join("good.log.2"), root.join("n.log.1")]));
    let before = snapshot(&outside);
    let hostile = [
        outside.join("app.log.1"),
        root.join("../outside/app.log.1"),
        root.join("link/app.log.1"),
        root.join("app.log"),
        root.join("data.bin"),
        root.join("keep.log.1"),
        root.join("app.log.1.tmp"),
        root.join("orphan.1"),
        root.join("fresh.log.1"),
        root.join("excluded/app.log.1"),
        root.join("db/app.log.1"),
        root.join("db/base/1/app.log.1"),
        root.join("n.log.2"),
        root.join("good.log.1"),
        PathBuf::from("/etc/hostname"),
        root.clone(),
        root.join("link"),
    ];
    for path in &hostile {
        let mut action = forged(&honest, path);
        for state in [ActionState::Planned, ActionState::Started] {
            action.state = state;
            let applied = executor.apply(&action, DEADLINE).unwrap();
            let went = applied.objects.iter().any(|o| o.outcome == ObjectOutcome::Removed);
            assert!(!went && !applied.refused.is_empty(), "{} went: {applied:#?}", path.display());
            assert!(path.symlink_metadata().is_ok(), "{} is gone", path.display());
        }
    }
    let expired = Action { expires_wall_ns: now_ns() - 1, ..honest.clone() };
    assert_eq!(executor.apply(&expired, DEADLINE).unwrap().state, ActionState::Refused);
    let done = Action { state: ActionState::Done, ..honest.clone() };
    assert_eq!(executor.apply(&done, DEADLINE).unwrap().state, ActionState::Refused);
    assert_eq!(snapshot(&outside), before);
    let applied = executor.apply(&honest, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "the honest one still goes");
}
