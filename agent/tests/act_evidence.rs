//! Evidence first, with real files, a real executor and a real journal: whatever is gone has a durable record with its
//! digest, wherever agent or executor were killed; and content that was to be preserved comes back byte for byte.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

#[path = "common/mod.rs"]
mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dogwatch::block::Block;
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{
    Action, ActionState, Body, CleanupMode, FileSeen, Kind, Kinds, NodeName, ObjectOutcome, PlannedObject,
    Stream,
};
use dogwatch_agent::act::handle::Executor;
use dogwatch_agent::act::held_links::Step;
use dogwatch_agent::act::hold::{HeldThing, NodeHold};
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::ledger::{RECALLED_NS, Recovery, Source, Spending};
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};
use dogwatch_agent::act::witness::{Overflow, PreserveBudget, Recorded, Witness};
use dogwatch_agent::record::{self, RecordConfig, Recorder};
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);
/// Where the agent that is to be killed works: set in its process alone.
const VICTIM: &str = "DOGWATCH_EVIDENCE_VICTIM";
/// Logs in one cleanup; nearly as many as the record of a plan may name.
const LOGS: usize = 900;
/// Kills of each kind, each at another point of the work.
const ROUNDS: u32 = 12;
/// Most kills of each kind, where many came too late.
const MOST_ROUNDS: u32 = 10 * ROUNDS;

fn policy(root: &Path, preserve: bool) -> Policy {
    let root = RootPolicy { min_age_seconds: 0, keep_newest: 0, preserve, ..RootPolicy::new(root) };
    Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() }
}

fn config(state: &Path) -> RecordConfig {
    RecordConfig {
        state_dir: state.to_owned(),
        node: "a".parse::<NodeName>().unwrap(),
        segment_bytes: 1 << 20,
        urgent_bytes: 16 << 20,
        evidence_bytes: 64 << 20,
        recorder_bytes: 2 << 20,
        handed_over: false,
    }
}

/// Sixteen bytes that no other call gives.
fn fresh() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
}

/// Keeps in the record what is about to go, within the time of an agent.
fn recorded(recorder: &Recorder, preserve: PreserveBudget) -> Recorded {
    let evidence = recorder.clone();
    let push = Box::new(move |body| Some(evidence.push(Stream::Evidence, dogwatch::clock::now(), body)));
    Recorded::new(recorder.clone(), push, preserve)
}

/// An agent's hand on its executor, with a record of its own.
struct Agent {
    executor: Executor,
    recorder: Recorder,
    writer: Option<std::thread::JoinHandle<()>>,
    policy: Policy,
    witness: Arc<Recorded>,
    plans_by_what_is_left: bool,
}

impl Agent {
    fn start(root: &Path, state: &Path, preserve: Option<PreserveBudget>) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
        let policy = policy(root, preserve.is_some());
        let mut executor = Executor::spawn(program, &["executor".into()], policy.clone(), state).unwrap();
        let key = SigningKey::from_bytes(&[1; 32]);
        let (recorder, writer, _) = record::open(&config(state), key, [2; 16], fresh).unwrap();
        let writer = std::thread::spawn(move || writer.run().unwrap());
        let witness = Arc::new(recorded(&recorder, preserve.unwrap_or_default()).waiting(DEADLINE));
        executor.witnessed_by(witness.clone());
        executor.hold(&HoldLine::open(state, Path::new("/")));
        Self { executor, recorder, writer: Some(writer), policy, witness, plans_by_what_is_left: false }
    }

    fn plan(&mut self, root: &Path) -> Action {
        let device = fs::metadata(root).unwrap().dev();
        let survey = self.executor.survey(device, DEADLINE).unwrap();
        // As the agent's own thread does.
        let keeps = self.policy.roots[0].preserve;
        let preserve = self.witness.preserve_left().filter(|_| keeps && self.plans_by_what_is_left);
        let survey = Survey { preserve: preserve.map(Box::new), ..survey };
        let trigger = Trigger {
            mount: root.display().to_string(),
            device,
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 1 << 40,
            reason: "test".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
        };
        let rules = Rules::new(self.policy.clone()).unwrap();
        let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
        let now = dogwatch::clock::wall_ns();
        plan("a-1".to_owned(), &trigger, &survey, &rules, allowance, &[], now)
    }

    fn end(mut self) {
        self.recorder.stop();
        self.writer.take().unwrap().join().unwrap();
    }
}

/// Everything of kind `file` in a stream's journal.
fn kept(state: &Path, stream: Stream) -> Vec<FileSeen> {
    let reader = Reader::open(&state.join("journal").join(stream.as_str())).unwrap();
    let mut seen = Vec::new();
    for entry in reader.scan(Position::default()) {
        let entry = entry.unwrap();
        if entry.kind != FrameKind::Block {
            continue;
        }
        let block = Block::decode(entry.payload).unwrap();
        for record in block.records(Kinds::default().with(Kind::File)).unwrap() {
            if let Body::File(f) = record.body {
                seen.push(*f);
            }
        }
    }
    seen
}

fn seen_objects(state: &Path) -> HashMap<PathBuf, PlannedObject> {
    kept(state, Stream::Urgent).into_iter().flat_map(|f| f.objects).map(|o| (o.path.clone(), o)).collect()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let blocks = (0..bytes.div_ceil(32) as u64).flat_map(|i| digest(&i.to_le_bytes()));
    blocks.take(bytes).collect()
}

/// Rotated logs of many sizes; each content by path.
fn fill(root: &Path, count: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for i in 0..count {
        let path = root.join(format!("app{i}.log.1"));
        let content = format!("line {i} of what went\n").repeat(1 + i % 97).into_bytes();
        fs::write(root.join(format!("app{i}.log")), "live").unwrap();
        fs::write(&path, &content).unwrap();
        files.insert(path, content);
    }
    files
}

/// How many of `files` are gone; each of them must have a durable record with its digest, its owner and its times.
fn gone_with_evidence(root: &Path, state: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> usize {
    let quarantine = fs::read_dir(root.join(".dogwatch-quarantine")).unwrap();
    let inodes: Vec<u64> = quarantine.flatten().map(|e| e.metadata().unwrap().ino()).collect();
    let seen = seen_objects(state);
    let mut gone = 0;
    for (path, content) in files {
        if path.exists() || seen.get(path).is_some_and(|o| inodes.contains(&o.inode)) {
            continue;
        }
        gone += 1;
        let object = seen.get(path).unwrap_or_else(|| panic!("{} went without a record", path.display()));
        assert_eq!(object.sha256.unwrap().0, digest(content), "{}", path.display());
        assert_eq!((object.size_bytes, object.digest_partial), (content.len() as u64, false));
        assert!(object.inode != 0 && object.mtime_ns > 0 && object.ctime_ns > 0 && object.mode != 0);
        assert!(object.atime_ns.is_some() && object.btime_ns.is_some(), "{object:?}");
    }
    gone
}

/// Not a test by itself: the agent that [`whatever_is_gone_has_its_digest_when_the_agent_is_killed`] kills.
#[test]
fn the_agent_that_is_killed() {
    let Some(base) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    let root = base.join("logs");
    let mut agent = Agent::start(&root, &base.join("state"), None);
    let action = agent.plan(&root);
    fs::write(base.join("begun"), "").unwrap();
    agent.executor.apply(&action, DEADLINE).unwrap();
    fs::write(base.join("ended"), "").unwrap();
    agent.end();
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < DEADLINE, "waited for {what}");
        std::thread::yield_now();
    }
}

/// A process by its number, and when it began: another one may get its number.
type Process = (u32, String);

/// State, parent and begin of a process, as its `stat` has them (proc(5)).
fn stat(pid: u32) -> Option<(char, u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields[0].chars().next()?, fields[1].parse().ok()?, fields[19].to_owned()))
}

/// A child of `parent` that is alive: the executor of an agent.
fn child_of(parent: u32) -> Option<Process> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
    pids.find_map(|pid: u32| {
        let (state, of, begin) = stat(pid)?;
        (of == parent && state != 'Z').then_some((pid, begin))
    })
}

fn is_alive((pid, begin): &Process) -> bool {
    stat(*pid).is_some_and(|(state, _, b)| state != 'Z' && b == *begin)
}

#[test]
fn whatever_is_gone_has_its_digest_when_the_agent_is_killed() {
    let (mut rounds, mut partly, mut removed) = (0, 0, 0);
    while rounds < ROUNDS || (partly < ROUNDS / 2 && rounds < MOST_ROUNDS) {
        let base = common::folder();
        let root = base.path().join("logs");
        fs::create_dir(&root).unwrap();
        let files = fill(&root, LOGS);
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["--exact", "the_agent_that_is_killed", "--test-threads=1"]);
        let mut victim =
            victim.env(VICTIM, base.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let has = |file: &str| base.path().join(file).exists();
        wait_for("the cleanup", || has("begun"));
        let executor = child_of(victim.id());
        assert!(executor.is_some() || has("ended"));
        // A point in the work, not in time: so many files are gone.
        let left = LOGS - LOGS * (rounds % ROUNDS) as usize / ROUNDS as usize;
        let count = || files.keys().filter(|p| p.exists()).count();
        wait_for("some to go", || count() <= left || has("ended"));
        victim.kill().unwrap();
        victim.wait().unwrap();
        // The executor looks whether its agent lives before each object, and the kernel ends it besides.
        wait_for("the executor's end", || !executor.as_ref().is_some_and(is_alive));
        let gone = gone_with_evidence(&root, &base.path().join("state"), &files);
        partly += u32::from(gone > 0 && gone < LOGS);
        removed += gone;
        rounds += 1;
    }
    assert!(partly >= ROUNDS / 2, "too few kills hit a cleanup under way: {partly}");
    println!(
        "{removed} files went in {rounds} cleanups that were cut short ({partly} in the middle), each with its digest"
    );
}

#[test]
fn whatever_is_gone_has_its_digest_when_the_executor_is_killed() {
    let (mut rounds, mut partly, mut removed) = (0, 0, 0);
    while rounds < ROUNDS || (partly < ROUNDS / 2 && rounds < MOST_ROUNDS) {
        let base = common::folder();
        let (root, state) = (base.path().join("logs"), base.path().join("state"));
        fs::create_dir(&root).unwrap();
        let files = fill(&root, LOGS);
        let mut agent = Agent::start(&root, &state, None);
        let mut action = agent.plan(&root);
        assert_eq!(action.objects.len(), LOGS, "{:?}", action.detail);
        let pid = rustix::process::Pid::from_raw(agent.executor.ready().pid as i32).unwrap();
        let left = LOGS - LOGS * (rounds % ROUNDS) as usize / ROUNDS as usize;
        let error = std::thread::scope(|scope| {
            let applied = scope.spawn(|| agent.executor.apply(&action, DEADLINE));
            wait_for("some to go", || files.keys().filter(|p| p.exists()).count() <= left);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            applied.join().unwrap().err()
        });
        let gone = gone_with_evidence(&root, &state, &files);
        if let Some(error) = error {
            dogwatch_agent::act::handle::recall(&mut action, agent.executor.seen());
            let aside = dogwatch_agent::act::aside::Aside::new(DEADLINE);
            dogwatch_agent::act::handle::look_after(&mut action, &error, &aside);
            assert_eq!(action.state, ActionState::Failed);
            let blind =
                action.objects.iter().find(|o| o.outcome == ObjectOutcome::Failed && o.sha256.is_none());
            assert_eq!(blind, None, "what may be gone has its digest in the outcome too");
        }
        partly += u32::from(gone > 0 && gone < LOGS);
        removed += gone;
        rounds += 1;
        agent.end();
    }
    assert!(partly >= ROUNDS / 2, "too few kills hit a cleanup under way: {partly}");
    println!(
        "{removed} files went in {rounds} cleanups that were cut short ({partly} in the middle), each with its digest"
    );
}

#[test]
fn hundreds_of_logs_are_recorded_in_few_records_before_they_go() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    fs::create_dir(&root).unwrap();
    let files = fill(&root, LOGS);
    let mut agent = Agent::start(&root, &state, None);
    let action = agent.plan(&root);
    let applied = agent.executor.apply(&action, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:?}", applied.refused);
    assert_eq!(gone_with_evidence(&root, &state, &files), LOGS);
    let records = kept(&state, Stream::Urgent).len();
    assert!(records < LOGS / 10, "{records} records: they are made durable together");
    println!("{LOGS} objects in {records} records");
    agent.end();
}

#[test]
fn without_a_record_nothing_goes() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    fs::create_dir(&root).unwrap();
    let files = fill(&root, 100);
    let mut agent = Agent::start(&root, &state, None);
    let action = agent.plan(&root);
    // The record ends before the action begins.
    agent.executor.witnessed_by(Arc::new(recorded(&agent.recorder, PreserveBudget::default())));
    agent.recorder.stop();
    agent.writer.take().unwrap().join().unwrap();
    let applied = agent.executor.apply(&action, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped));
    assert!(applied.refused[0].reason.contains("could not be recorded before"), "{:?}", applied.refused[0]);
    assert!(files.keys().all(|p| p.exists()));
}

/// Puts a file together again from what the evidence has of it.
fn content_of(state: &Path, object: &PlannedObject) -> Vec<u8> {
    let mut content = vec![0; object.size_bytes as usize];
    let mut kept_bytes = 0;
    let pieces = kept(state, Stream::Evidence).into_iter().filter_map(|f| f.content);
    for piece in pieces.filter(|c| c.path == object.path && c.inode == object.inode) {
        let bytes = piece.decompress().unwrap();
        content[piece.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        kept_bytes += bytes.len() as u64;
    }
    assert_eq!(kept_bytes, object.size_bytes);
    content
}

#[test]
fn content_is_kept_before_it_goes_and_comes_back_byte_for_byte() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    fs::create_dir(&root).unwrap();
    let mut files = fill(&root, 20);
    // What does not compress, of more pieces than one, and nothing at all.
    for (name, content) in [("noise.log", noise(900_000)), ("empty.log", Vec::new())] {
        let path = root.join(format!("{name}.1"));
        fs::write(root.join(name), "live").unwrap();
        fs::write(&path, &content).unwrap();
        files.insert(path, content);
    }
    let mut agent = Agent::start(&root, &state, Some(PreserveBudget::default()));
    let action = agent.plan(&root);
    let applied = agent.executor.apply(&action, DEADLINE).unwrap();
    assert!(!files.keys().any(|p| p.exists()), "{:?}", applied.refused);
    for object in &applied.objects {
        assert_eq!(object.preserved_bytes, Some(object.size_bytes), "{object:?}");
        let content = content_of(&state, object);
        assert_eq!(content, files[&object.path]);
        assert_eq!(digest(&content), object.sha256.unwrap().0);
    }
    agent.end();
}

#[test]
fn what_is_over_the_budget_of_content_stays_or_goes_with_its_digest() {
    for overflow in [Overflow::Keep, Overflow::Digest] {
        let base = common::folder();
        let (root, state) = (base.path().join("logs"), base.path().join("state"));
        fs::create_dir(&root).unwrap();
        let files: Vec<PathBuf> = ["small.log", "large.log", "later.log"]
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let path = root.join(format!("{name}.1"));
                fs::write(root.join(name), "live").unwrap();
                let size = if i == 1 { 200_000 } else { 60_000 };
                fs::write(&path, noise(size)).unwrap();
                // The oldest goes first.
                let age = Duration::from_secs(1_000 * (10 - i as u64));
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(std::time::SystemTime::now() - age).unwrap();
                path
            })
            .collect();
        let budget = PreserveBudget { max_bytes_per_object: 100_000, max_bytes_per_hour: 80_000, overflow };
        let mut agent = Agent::start(&root, &state, Some(budget));
        let action = agent.plan(&root);
        let applied = agent.executor.apply(&action, DEADLINE).unwrap();
        let by = |path: &Path| applied.objects.iter().find(|o| o.path == path).unwrap();
        let why = |path: &PathBuf| {
            applied.refused.iter().find(|r| r.path.as_ref() == Some(path)).map_or("", |r| r.reason.as_str())
        };
        assert_eq!(by(&files[0]).preserved_bytes, Some(60_000), "{:?}", applied.refused);
        if overflow == Overflow::Keep {
            assert!(
                files[1].exists() && why(&files[1]).contains("max_bytes_per_object"),
                "{}",
                why(&files[1])
            );
            assert!(files[2].exists() && why(&files[2]).contains("max_bytes_per_hour"), "{}", why(&files[2]));
            // Whoever knows what is left does not plan either of them again, and says why.
            agent.plans_by_what_is_left = true;
            let again = agent.plan(&root);
            assert_eq!((again.state, again.objects.len()), (ActionState::Refused, 0));
            let said = |path: &PathBuf| again.refused.iter().find(|r| r.path.as_ref() == Some(path));
            assert!(said(&files[1]).unwrap().reason.contains("max_bytes_per_object"), "{again:?}");
            assert!(said(&files[2]).unwrap().reason.starts_with("budget: about "), "{again:?}");
            assert!(again.detail.contains("budgets leave nothing"), "{}", again.detail);
        } else {
            for path in &files[1..] {
                assert!(!path.exists() && by(path).preserved_bytes.is_none() && by(path).sha256.is_some());
            }
        }
        agent.end();
    }
}

#[test]
fn what_an_agent_spent_that_was_killed_amid_an_action_counts_for_the_next() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    fs::create_dir(&root).unwrap();
    fill(&root, 40);
    let mut agent = Agent::start(&root, &state, None);
    let mut action = agent.plan(&root);
    assert_eq!(action.objects.len(), 40);
    action.objects.truncate(25);
    action.state = ActionState::Started;
    let now = dogwatch::clock::now();
    agent.recorder.push(Stream::Urgent, now, Body::Action(Box::new(action.clone())));
    let applied = agent.executor.apply(&action, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:?}", applied.refused);
    let bytes: u64 = applied.objects.iter().map(|o| o.allocated_bytes).sum();
    // Its outcome is never recorded.
    agent.end();

    let mut agent = Agent::start(&root, &state, None);
    let own = Budgets { max_objects_per_hour: 30, ..Budgets::default() };
    agent.policy.roots[0].budgets = Some(own);
    let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
    let mut executor = Executor::spawn(program, &["executor".into()], agent.policy.clone(), &state).unwrap();
    executor.witnessed_by(agent.witness.clone());
    executor.hold(&HoldLine::open(&state, Path::new("/")));
    let rules = Rules::new(agent.policy.clone()).unwrap();
    let now = dogwatch::clock::now();
    let mut recovery = Recovery::new(&rules, now);
    let since = now.wall_ns - RECALLED_NS as i64;
    agent.recorder.recall(Stream::Urgent, Recovery::kinds(), since, |r| recovery.take(r)).unwrap();
    let mut ledger = recovery.ledger();
    assert_eq!(ledger.spent(now.boot_ns, |source| source == Source::Root(0)), (25, bytes));
    let spent: Vec<Spending> = ledger.of_the_hour(now.boot_ns).copied().collect();
    executor.spent(&spent).unwrap();
    std::mem::swap(&mut agent.executor, &mut executor);
    let rest = agent.plan(&root);
    assert_eq!(rest.objects.len(), 15);
    let applied = agent.executor.apply(&rest, DEADLINE).unwrap();
    let removed = applied.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed).count();
    assert_eq!(removed, 5, "30 an hour, 25 of them before: {:?}", applied.refused);
    let over =
        applied.refused.iter().filter(|r| r.reason == "over the budget of 30 objects an hour from its root");
    assert_eq!(over.count(), 10);
    agent.end();
}

#[test]
fn at_zero_bytes_free_content_is_kept_all_the_same() {
    let fs_small = common::LoopFs::ext4(160);
    let (root, state) = (fs_small.path().join("logs"), fs_small.path().join("state"));
    fs::create_dir(&root).unwrap();
    let files = fill(&root, 50);
    let mut agent = Agent::start(&root, &state, Some(PreserveBudget::default()));
    let filler = fs::File::create(fs_small.path().join("filler")).unwrap();
    let block = vec![7u8; 1 << 16];
    let mut at = 0;
    let mut step = block.len();
    while step > 0 {
        match filler.write_at(&block[..step], at) {
            Ok(n) if n > 0 => at += n as u64,
            _ => step /= 2,
        }
    }
    let room = rustix::fs::statvfs(fs_small.path()).unwrap();
    assert_eq!(room.f_bavail, 0, "nothing is available");
    let action = agent.plan(&root);
    let applied = agent.executor.apply(&action, DEADLINE).unwrap();
    assert_eq!(gone_with_evidence(&root, &state, &files), 50, "{:?}", applied.refused);
    for object in &applied.objects {
        assert_eq!(content_of(&state, object), files[&object.path]);
    }
    agent.end();
}

/// Holds as the collector says them.
fn held(path: &Path) -> Vec<NodeHold> {
    let what = HeldThing::Path(path.to_owned());
    vec![NodeHold { id: "hold-0badcafe".to_owned(), what, reason: "court".to_owned() }]
}

#[test]
fn held_logs_outlive_rotation_deletion_and_restarts_until_they_are_released() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    fs::create_dir_all(root.join("app")).unwrap();
    let odd = root.join("app/odd\nname.log");
    for path in [&root.join("app/0.log"), &odd, &root.join("other.log")] {
        fs::write(path, format!("{}\n", path.display())).unwrap();
    }
    let mut agent = Agent::start(&root, &state, None);
    let line = HoldLine::open(&state, Path::new("/"));
    line.keep(held(&root.join("app"))).unwrap();
    agent.executor.hold(&line);
    let told = agent.executor.aside(true, DEADLINE).unwrap().holds;
    assert_eq!((told[0].files, told[0].kept_bytes, told[0].lacks.as_str()), (2, 0, ""), "{told:?}");
    // A rotation and a deletion, as the kubelet does them.
    let inode = fs::metadata(root.join("app/0.log")).unwrap().ino();
    fs::rename(root.join("app/0.log"), root.join("app/0.log.1")).unwrap();
    fs::remove_file(root.join("app/0.log.1")).unwrap();
    let content = format!("{}\n", root.join("app/0.log").display());
    let aside = root.join(format!(".dogwatch-held/hold-0badcafe.{inode:x}.0.log"));
    assert_eq!(fs::read_to_string(&aside).unwrap(), content);
    agent.end();

    let mut agent = Agent::start(&root, &state, None);
    let told = agent.executor.aside(line.is_durable(), DEADLINE).unwrap().holds;
    assert_eq!((told[0].files, told[0].kept_bytes), (2, fs::metadata(&aside).unwrap().blocks() * 512));
    assert!(agent.plan(&root).objects.is_empty(), "what is aside is no candidate");
    // Released, and not yet durably so: it stays.
    let line = HoldLine::open(&state, Path::new("/"));
    line.keep(Vec::new()).unwrap();
    agent.executor.hold(&line);
    assert_eq!(agent.executor.aside(false, DEADLINE).unwrap(), Step::default());
    assert!(aside.exists() && line.is_durable());
    let told = agent.executor.aside(true, DEADLINE).unwrap().holds;
    assert!(told[0].released && told[0].files == 2 && told[0].kept_bytes > 0, "{told:?}");
    assert_eq!(fs::read_dir(root.join(".dogwatch-held")).unwrap().count(), 0);
    let object = &seen_objects(&state)[&aside];
    assert_eq!(object.sha256.unwrap().0, digest(content.as_bytes()), "recorded before it went");
    assert!(odd.exists() && root.join("other.log").exists());
    agent.end();
}

#[test]
fn a_planted_folder_for_held_files_is_not_used_and_that_is_said() {
    let base = common::folder();
    let (root, state) = (base.path().join("logs"), base.path().join("state"));
    let elsewhere = base.path().join("elsewhere");
    fs::create_dir(&root).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, root.join(".dogwatch-held")).unwrap();
    fs::write(root.join("a.log"), "a").unwrap();
    let mut agent = Agent::start(&root, &state, None);
    let line = HoldLine::open(&state, Path::new("/"));
    line.keep(held(&root)).unwrap();
    agent.executor.hold(&line);
    let told = agent.executor.aside(true, DEADLINE).unwrap().holds;
    assert!(told[0].files == 0 && told[0].lacks.contains("not a folder"), "{told:?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    agent.end();
}
