//! The executor in its own process, on real filesystems: what it lists, what it leaves, what it frees.
//!
//! `find` says independently what may go; the plan must agree. Everything else must be there afterwards, byte for byte.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{LoopFs, mount_tmpfs, run};
use dogwatch::record::{Action, ActionState, CleanupMode, FileSeen, Hash, ObjectOutcome};
use dogwatch_agent::act::executor::Enforcement;
use dogwatch_agent::act::handle::{Executor, ExecutorError, look_after};
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, MAX_ROOTS, Policy, QUARANTINE, RootPolicy, Rules};
use dogwatch_agent::act::witness::{Verdict, Witness};
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
    executor
}

fn device(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
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

/// A small generator, so that a seed names a layout.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A seeded root of logs, with what an attacker or an accident could leave there.
struct Layout {
    root: PathBuf,
    open: Vec<(PathBuf, File)>,
    _socket: UnixListener,
}

impl Layout {
    fn new(base: &Path, seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (root, outside) = (base.join("logs"), base.join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&root).unwrap();
        let mut folders = vec![root.clone()];
        for (i, name) in ["a", "b b", "-c", "dir.log.1"].iter().enumerate() {
            let parent = folders[dice.roll(folders.len() as u64) as usize].clone();
            let folder = parent.join(OsStr::from_bytes(name.as_bytes()));
            fs::create_dir(&folder).unwrap();
            fs::write(outside.join(format!("{i}.log.1")), vec![i as u8; 5_000]).unwrap();
            folders.push(folder);
        }
        let mut layout = Vec::new();
        let mut put = |path: PathBuf, dice: &mut Dice| {
            let size = match dice.roll(5) {
                0 => 0,
                1 => dice.roll(5_000),
                _ => dice.roll(200_000),
            };
            let mut content = vec![0; size as usize];
            content.iter_mut().for_each(|b| *b = dice.roll(256) as u8);
            fs::write(&path, content).unwrap();
            layout.push(path);
        };
        let long = format!("{}.log.2", "n".repeat(180));
        for folder in &folders {
            for name in
                ["app.log", "syslog", "data.bin", "keep.log.1", "half.log.1.tmp", "notes.txt", "java.log.0"]
            {
                put(folder.join(name), &mut dice);
            }
            for n in 1..=1 + dice.roll(4) {
                put(folder.join(format!("app.log.{n}")), &mut dice);
                put(folder.join(format!("syslog.{n}.gz")), &mut dice);
                put(folder.join(format!("orphan.{n}")), &mut dice);
                put(folder.join(format!("0.log.2024010{n}-101112")), &mut dice);
            }
            for name in
                [&b"new\nline.log.1"[..], b"-dash.log.1", b"\xff\xfe.log.1", b" .log.1", long.as_bytes()]
            {
                if dice.roll(2) == 0 {
                    put(folder.join(OsStr::from_bytes(name)), &mut dice);
                }
            }
        }
        let pick = |dice: &mut Dice| folders[dice.roll(folders.len() as u64) as usize].clone();
        symlink(outside.join("0.log.1"), pick(&mut dice).join("out.log.1")).unwrap();
        symlink("app.log.1", pick(&mut dice).join("in.log.1")).unwrap();
        symlink(&outside, pick(&mut dice).join("linkdir")).unwrap();
        symlink("nowhere", pick(&mut dice).join("dangling.log.1")).unwrap();
        fs::hard_link(pick(&mut dice).join("app.log.1"), pick(&mut dice).join("twin.log.1")).unwrap();
        fs::hard_link(outside.join("1.log.1"), pick(&mut dice).join("foreign.log.1")).unwrap();
        fs::hard_link(pick(&mut dice).join("app.log"), pick(&mut dice).join("livelink.log.1")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe.log.1"), rustix::fs::Mode::RWXU).unwrap();
        // The path of a socket is short: make it next to the temp folder's own descriptor.
        let near = File::open(&root).unwrap();
        let short = format!("/proc/self/fd/{}/sock.log.1", std::os::fd::AsRawFd::as_raw_fd(&near));
        let socket = UnixListener::bind(short).unwrap();
        let nested = root.join("mounted");
        fs::create_dir(&nested).unwrap();
        mount_tmpfs(&nested);
        fs::write(nested.join("app.log.1"), "on another filesystem").unwrap();
        // Some are fresh: their time lies ahead of every clock in this test.
        let ahead = SystemTime::now() + Duration::from_secs(7_200);
        let mut open = Vec::new();
        for path in &layout {
            match dice.roll(6) {
                0 => File::options().write(true).open(path).unwrap().set_modified(ahead).unwrap(),
                1 => open.push((path.clone(), File::open(path).unwrap())),
                _ => {
                    let long_ago = SystemTime::now() - Duration::from_secs(86_400 * (1 + dice.roll(90)));
                    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
                }
            }
        }
        run("sync", &["-f", base.to_str().unwrap()]);
        Self { root, open, _socket: socket }
    }

    /// What `find` says may go: rotated by name, old, no foreign link, not open, on this filesystem.
    fn may_go(&self) -> BTreeSet<PathBuf> {
        let sibling = |strip: &str| {
            vec!["-exec", "sh", "-c", strip, "sh", "{}", ";"]
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let beside = sibling(r#"n=${1%.gz}; n=${n%.[0-9]*}; test -f "$n" && ! test -L "$n""#);
        let mut args: Vec<String> = vec![self.root.to_str().unwrap().to_owned()];
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        args.extend(words("-xdev -name .dogwatch-quarantine -prune -o -type f"));
        args.extend(words("! -newermt now ! -newerct now ! -name keep* ! -name *.tmp"));
        args.extend(words("( -name *.log.[1-9]* -o -name *.log-[1-9]* -o -name *.log.gz -o -name *.log.old"));
        args.extend(words("-o ( -name *.[1-9] -o -name *.[1-9].gz )"));
        args.extend(beside);
        args.extend(words(") -printf %i:%n:%p\\0"));
        let output = run("find", &args).stdout;
        let open: BTreeSet<u64> = self.open.iter().map(|(_, f)| f.metadata().unwrap().ino()).collect();
        let mut inodes: BTreeMap<u64, (usize, Vec<PathBuf>)> = BTreeMap::new();
        for entry in output.split(|b| *b == 0).filter(|e| !e.is_empty()) {
            let mut parts = entry.splitn(3, |b| *b == b':');
            let mut number = || std::str::from_utf8(parts.next().unwrap()).unwrap().parse::<u64>().unwrap();
            let (inode, links) = (number(), number());
            let path = PathBuf::from(OsString::from_vec(parts.next().unwrap().to_vec()));
            inodes.entry(inode).or_insert((links as usize, Vec::new())).1.push(path);
        }
        inodes
            .into_iter()
            .filter(|(inode, (links, paths))| *links == paths.len() && !open.contains(inode))
            .flat_map(|(_, (_, paths))| paths)
            .collect()
    }
}

/// A program that another test just started holds, until it has begun, what this process had open at that moment; a
/// file that is open is rightly left alone.
fn wait_until_nobody_has_open(files: &BTreeSet<PathBuf>) {
    let open = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let descriptors =
            processes.filter_map(|p| fs::read_dir(p.path().join("fd")).ok()).flatten().flatten();
        descriptors.filter_map(|d| fs::read_link(d.path()).ok()).any(|target| files.contains(&target))
    };
    while open() {
        std::thread::yield_now();
    }
}

/// A machine whose wall clock was just set back holds files of the future, and those rightly stay.
fn wait_for_the_clock(survey: &Survey) {
    let newest = survey.candidates.iter().map(|c| c.object.ctime_ns).max();
    while newest.is_some_and(|t| now_ns() <= t) {
        std::thread::yield_now();
    }
}

fn layout_holds(fs: &LoopFs, seed: u64) -> (usize, usize, u64) {
    let base = fs.path().join(format!("seed{seed}"));
    fs::create_dir(&base).unwrap();
    let layout = Layout::new(&base, seed);
    let policy = policy(&layout.root);
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(&layout.root), DEADLINE).unwrap();
    assert_eq!(survey.partial, None);
    wait_for_the_clock(&survey);
    let all = make_plan(&survey, &policy, &layout.root, 1 << 40, 1 << 30);
    let may_go = layout.may_go();
    assert_eq!(paths(&all), may_go, "seed {seed}: {:#?}", all.refused);
    for odd in ["pipe.log.1", "sock.log.1", "out.log.1", "dangling.log.1", "dir.log.1", "mounted"] {
        let told = survey.passed_over.iter().any(|r| r.path.as_ref().is_some_and(|p| p.ends_with(odd)));
        assert!(told, "seed {seed}: {odd} is passed over with a reason: {:#?}", survey.passed_over);
    }

    // A part of it: sufficient, and nothing superfluous.
    let mut dice = Dice(seed + 1);
    let want = 1 + dice.roll(all.planned_bytes);
    let part = make_plan(&survey, &policy, &layout.root, want, 0);
    assert!(part.planned_bytes >= want && paths(&part).is_subset(&may_go));
    for object in part.objects.iter().filter(|o| o.links == 1) {
        assert!(
            part.planned_bytes - object.allocated_bytes < want,
            "seed {seed}: {:?} is superfluous",
            object.path
        );
    }

    let action = if seed.is_multiple_of(2) { part } else { all };
    let before = snapshot(&base);
    let gone = paths(&action);
    wait_until_nobody_has_open(&gone);
    let applied = executor.apply(&action, DEADLINE).unwrap();
    let after = snapshot(&base);
    assert_eq!(applied.state, ActionState::Done);
    for object in &applied.objects {
        assert_eq!(object.outcome, ObjectOutcome::Removed, "seed {seed}: {:#?}", applied.refused);
        let digest: [u8; 32] = before[&object.path].2.as_slice().try_into().unwrap();
        assert_eq!(object.sha256, Some(Hash(digest)), "seed {seed}");
    }
    let mut expected = before;
    expected.retain(|path, _| !gone.contains(path));
    assert_eq!(after, expected, "seed {seed}: everything else is as it was");
    let (available_before, available_after) =
        (applied.available_before_bytes.unwrap(), applied.available_after_bytes.unwrap());
    assert_eq!(applied.freed_bytes, Some(available_after - available_before), "seed {seed}: to the byte");
    assert_eq!(applied.freed_bytes, Some(action.planned_bytes), "seed {seed}");
    let unexplained = applied.unexplained.unwrap();
    assert_eq!((unexplained.bytes, unexplained.reason.as_str()), (0, ""), "seed {seed}");
    (may_go.len(), gone.len(), applied.freed_bytes.unwrap())
}

#[test]
fn seeded_layouts_agree_with_find_and_with_statvfs_on_ext4() {
    let fs = LoopFs::ext4(128);
    let (mut may, mut went, mut freed) = (0, 0, 0);
    for seed in 0..20 {
        let (m, w, f) = layout_holds(&fs, seed);
        (may, went, freed) = (may + m, went + w, freed + f);
    }
    println!(
        "20 layouts on ext4: {may} objects may go by find and by plan, {went} went, {freed} bytes freed"
    );
    assert!(went > 200);
}

#[test]
fn seeded_layouts_agree_with_find_and_with_statvfs_on_tmpfs() {
    let fs = LoopFs::tmpfs(96);
    let (mut may, mut went) = (0, 0);
    for seed in 100..108 {
        let (m, w, _) = layout_holds(&fs, seed);
        (may, went) = (may + m, went + w);
    }
    println!("8 layouts on tmpfs: {may} objects may go by find and by plan, {went} went");
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
    for folder in [root.join("excluded"), root.join("db"), outside.clone()] {
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

#[test]
fn the_executor_is_confined() {
    let fs = LoopFs::ext4(16);
    let executor = spawn(policy(fs.path()));
    let ready = executor.ready();
    assert_eq!(ready.confinement.landlock, Enforcement::Fully, "{:?}", ready.confinement);
    assert!(ready.confinement.no_new_privileges);
    assert_eq!(ready.confinement.lacks, Vec::<String>::new());
    let status = fs::read_to_string(format!("/proc/{}/status", ready.pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, LEASE.
    let wanted = format!("{:016x}", 1u64 << 1 | 1 << 2 | 1 << 3 | 1 << 28);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set), wanted, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Threads:"), "1");
    let descriptors: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", ready.pid))
        .unwrap()
        .map(|e| fs::read_link(e.unwrap().path()).unwrap())
        .collect();
    // Its socket, null, stderr, the root, its quarantine and its folder of held files.
    assert_eq!(descriptors.len(), 6, "{descriptors:?}");
    let environment = fs::read(format!("/proc/{}/environ", ready.pid)).unwrap();
    assert_eq!(environment, b"");
}

/// Counts what an executor has open while what it would remove is recorded.
#[derive(Debug, Default)]
struct Counting {
    pid: AtomicU32,
    most: AtomicUsize,
}

impl Witness for Counting {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid.load(Ordering::SeqCst))).unwrap().count();
        self.most.fetch_max(open, Ordering::SeqCst);
        Ok(Verdict::Kept)
    }
}

#[test]
fn as_many_roots_as_may_be_leave_an_executor_its_descriptors_for_a_whole_batch() {
    let fs = LoopFs::tmpfs(64);
    let roots = (0..MAX_ROOTS).map(|n| {
        let path = fs.path().join(format!("{n:02}"));
        fs::create_dir(&path).unwrap();
        (1..=4).for_each(|i| fs::write(path.join(format!("app{i}.log.1")), "rotated").unwrap());
        RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(path) }
    });
    let policy = Policy { mode: CleanupMode::Auto, roots: roots.collect(), budgets: Budgets::default() };
    let mut executor = spawn(policy.clone());
    let witness = Arc::new(Counting::default());
    witness.pid.store(executor.ready().pid, Ordering::SeqCst);
    executor.witnessed_by(witness.clone());
    let survey = executor.survey(device(fs.path()), DEADLINE).unwrap();
    wait_for_the_clock(&survey);
    let plan = make_plan(&survey, &policy, fs.path(), 1 << 40, 1 << 40);
    assert_eq!(plan.objects.len(), 4 * MAX_ROOTS);
    let applied = executor.apply(&plan, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:?}", applied.refused);
    let limits = fs::read_to_string(format!("/proc/{}/limits", executor.ready().pid)).unwrap();
    let limit = limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap();
    let limit: usize = limit.split_whitespace().next().unwrap().parse().unwrap();
    let most = witness.most.load(Ordering::SeqCst);
    eprintln!("{most} descriptors of {limit} open, with {MAX_ROOTS} roots");
    assert!(
        most > 3 * MAX_ROOTS,
        "each root holds itself, its quarantine and its folder of held files: {most}"
    );
    // Package caches and logs of pods that are gone hold two more; 48 objects hold two each, and a few are its own.
    assert!(limit >= 5 * MAX_ROOTS + 2 * 48 + 8, "{limit}");
}

#[test]
fn roots_that_cannot_be_used_are_told_and_off_means_off() {
    let fs = LoopFs::ext4(16);
    let root = fs.path().join("logs");
    fs::create_dir(&root).unwrap();
    let mut policy = policy(&root);
    for bad in ["/etc", "/var/lib/kubelet/pods", "/nowhere/logs"] {
        policy.roots.push(RootPolicy::new(bad));
    }
    let executor = spawn(policy.clone());
    let told: Vec<_> = executor.ready().roots.iter().map(|r| r.unusable.is_none()).collect();
    assert_eq!(told, [true, false, false, false], "{:#?}", executor.ready().roots);
    assert_eq!(executor.unable().len(), 3, "{:#?}", executor.unable());
    drop(executor);
    fs::remove_dir(root.join(QUARANTINE)).unwrap();
    let mut off = spawn(Policy { mode: CleanupMode::Off, ..policy });
    let refused = off.survey(device(&root), DEADLINE).unwrap_err();
    assert!(matches!(&refused, ExecutorError::Refused(why) if why.contains("off")), "{refused}");
    assert!(!root.join(QUARANTINE).exists(), "off makes nothing");
    assert!(off.is_alive());
}

#[test]
fn a_restarted_executor_puts_back_what_a_crash_left() {
    let fs = LoopFs::ext4(16);
    let folder = fs.path().join("pods/x");
    fs::create_dir_all(&folder).unwrap();
    drop(spawn(policy(fs.path())));
    let file = folder.join("0.log.1");
    fs::write(&file, "evidence").unwrap();
    // As a kill between moving and unlinking leaves it.
    let digest = Sha256::digest(b"pods/x");
    let digest = u32::from_be_bytes(digest[..4].try_into().unwrap());
    let (parent, inode) = (fs::metadata(&folder).unwrap().ino(), fs::metadata(&file).unwrap().ino());
    let entry = fs.path().join(QUARANTINE).join(format!("{parent:x}-{digest:08x}-{inode:x}-0.log.1"));
    fs::rename(&file, &entry).unwrap();
    let executor = spawn(policy(fs.path()));
    let leftovers = &executor.ready().leftovers;
    assert_eq!(leftovers.len(), 1);
    assert!(leftovers[0].restored, "{leftovers:?}");
    assert_eq!(leftovers[0].original.as_deref(), file.to_str());
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    assert!(!entry.exists());
}

#[test]
fn a_dead_and_a_hung_executor_are_noticed() {
    let fs = LoopFs::ext4(16);
    fs::write(fs.path().join("a.log.1"), "x").unwrap();
    let policy = policy(fs.path());
    let signal = |pid: u32, name: &str| run("kill", &[&format!("-{name}"), &pid.to_string()]);

    let mut dead = spawn(policy.clone());
    let survey = dead.survey(device(fs.path()), DEADLINE).unwrap();
    let mut action = make_plan(&survey, &policy, fs.path(), 1 << 40, 0);
    signal(dead.ready().pid, "KILL");
    let error = dead.apply(&action, DEADLINE).unwrap_err();
    assert!(matches!(error, ExecutorError::Died(Some(_))), "{error}");
    assert!(error.is_fatal() && !dead.is_alive());
    look_after(&mut action, &error);
    assert_eq!((action.state, action.objects[0].outcome), (ActionState::Failed, ObjectOutcome::Skipped));

    let mut hung = spawn(policy);
    let pid = hung.ready().pid;
    signal(pid, "STOP");
    let error = hung.survey(device(fs.path()), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, ExecutorError::Hung(_)), "{error}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "killed and reaped");
}

const PARENT: &str = "DOGWATCH_TEST_PARENT";

/// Not a test by itself: the agent that `an_executor_ends_with_its_agent` kills.
#[test]
#[ignore = "started by another test"]
fn agent_that_is_killed() {
    let Ok(root) = std::env::var(PARENT) else { return };
    let executor = spawn(policy(Path::new(&root)));
    println!("executor {}", executor.ready().pid);
    std::io::stdout().flush().unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_executor_ends_with_its_agent() {
    let fs = LoopFs::ext4(16);
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["agent_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(PARENT, fs.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&agent.stdout);
    let pid = said.lines().find_map(|l| l.split("executor ").nth(1)).unwrap().trim().to_owned();
    // It is nobody's child now, so that it may linger as a zombie; that is an end too.
    let lives = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    while lives() {
        std::thread::yield_now();
    }
}
