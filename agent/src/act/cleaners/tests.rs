//! Each kind on real files, surveyed, planned and removed as the executor does.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dogwatch::record::{Action, ActionState, CleanupMode, ObjectOutcome, PlannedObject};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

use crate::act::cleaner::Cleaner as Executor;
use crate::act::hold::HoldSet;
use crate::act::hold_line::HeldNow;
use crate::act::plan::{Allowance, Trigger, plan};
use crate::act::policy::{Budgets, Cleaner, Policy, RootPolicy, Rules};
use crate::act::unshared;

mod ahead;
mod databases;
mod leftovers;
mod precious;
mod reach;

const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// A clock that runs 100 days ahead: nobody can set a change time, so what is made now is to be old.
fn later() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap() + 100 * DAY_NS + DAY_NS / 24
}

struct Scene {
    base: tempfile::TempDir,
    policy: Policy,
    now: i64,
}

impl Scene {
    fn new(mode: CleanupMode) -> Self {
        unshared::descriptors();
        let policy = Policy { mode, roots: Vec::new(), budgets: Budgets::default() };
        Self { base: tempfile::tempdir().unwrap(), policy, now: later() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.base.path().join(relative)
    }

    fn root(&mut self, cleaner: Cleaner, relative: &str) -> &mut RootPolicy {
        let path = self.path(relative);
        fs::create_dir_all(&path).unwrap();
        fs::create_dir_all(self.path("host")).unwrap();
        let root = RootPolicy { host_root: self.path("host"), ..RootPolicy::of(cleaner, path) };
        self.policy.roots.push(root);
        self.policy.roots.last_mut().unwrap()
    }

    fn file(&self, relative: &str, content: &[u8]) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(content).unwrap();
        file.set_len(64 << 10).unwrap();
        path
    }

    fn executor(&self) -> Executor {
        let (mut executor, roots) =
            Executor::open(self.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        for (root, policy) in roots.iter().zip(&self.policy.roots) {
            let off = policy.mode == Some(CleanupMode::Off);
            assert!(root.unusable.is_none() || off, "{root:?}");
        }
        executor.hold(HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() });
        executor
    }

    fn plan(&self, executor: &Executor, actor: &str) -> Action {
        let device = fs::metadata(self.base.path()).unwrap().dev();
        let survey = executor.survey(device, self.now).unwrap();
        let trigger = Trigger {
            mount: "/".to_owned(),
            device,
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 1 << 20,
            reason: "test".to_owned(),
            finding_id: None,
            actor: actor.to_owned(),
        };
        let rules = Rules::new(self.policy.clone()).unwrap();
        let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
        plan("a-1".to_owned(), &trigger, &survey, &rules, allowance, &[], self.now)
    }

    fn names(&self, action: &Action) -> Vec<String> {
        let short = |o: &PlannedObject| o.path.strip_prefix(self.base.path()).unwrap().display().to_string();
        let mut names: Vec<String> = action.objects.iter().map(short).collect();
        names.sort();
        names
    }

    fn reason(&self, action: &Action, relative: &str) -> String {
        let path = self.path(relative);
        let refusal = action.refused.iter().find(|r| r.path.as_ref() == Some(&path));
        refusal.unwrap_or_else(|| panic!("{relative} is not refused: {action:#?}")).reason.clone()
    }

    fn apply(&self, executor: &mut Executor, action: Action) -> Action {
        executor.apply(action, &|| self.now, &|| Ok(None))
    }
}

/// Sets when it was last read.
fn read_at(path: &Path, ns: i64) {
    let (tv_sec, tv_nsec) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let times = Timestamps {
        last_access: Timespec { tv_sec, tv_nsec },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

fn elf(kind: u8) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
    head[16] = kind;
    head[20] = 1;
    head
}

#[test]
fn old_dumps_go_but_for_the_newest_of_each_program_and_what_is_no_dump() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::CoreDumps, "cores");
    let boot = "0123456789abcdef0123456789abcdef";
    let systemd = |pid: u32| format!("cores/core.nginx.33.{boot}.{pid}.1718180000000000.zst");
    for pid in [1, 2] {
        scene.file(&systemd(pid), &[0x28, 0xB5, 0x2F, 0xFD, 0, 0]);
    }
    scene.file("cores/core.100", &elf(4));
    scene.file("cores/core.200", &elf(4));
    scene.file("cores/core.c", b"int main(void) { return 0; }\n");
    scene.file("cores/core.300", &elf(2));
    scene.file("cores/core.backup.zst", &[0x28, 0xB5, 0x2F, 0xFD]);
    scene.file("cores/core.lock", &elf(4));
    scene.file("cores/_usr_bin_a.0.crash", b"ProblemType: Crash\n");
    scene.file("cores/_usr_bin_a.1.crash", b"ProblemType: Crash\n");
    let held = File::open(scene.file("cores/core-held-1", &elf(4))).unwrap();
    scene.file("cores/core-held-2", &elf(4));
    let mut executor = scene.executor();
    let action = scene.plan(&executor, "node");
    let expected = ["cores/_usr_bin_a.0.crash", "cores/core.100", &systemd(1)];
    assert_eq!(scene.names(&action), expected, "{action:#?}");
    assert!(scene.reason(&action, "cores/core.c").contains("its content is not"));
    assert!(scene.reason(&action, "cores/core.300").contains("its content is not"));
    assert!(scene.reason(&action, "cores/core.200").contains("newest of its program's dumps"));
    assert_eq!(scene.reason(&action, "cores/core-held-1"), "open elsewhere");
    assert!(
        action
            .objects
            .iter()
            .all(|o| o.why_safe.contains("core dump") && o.why_safe.contains("unchanged for 100 d"))
    );
    let done = scene.apply(&mut executor, action);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{done:#?}");
    assert!(!scene.path("cores/core.100").exists() && scene.path("cores/core.200").exists());
    drop(held);
}

#[test]
fn the_core_of_a_process_that_crashed_is_one() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::CoreDumps, "cores").keep_newest = 0;
    // gcore's way would need a debugger: the kernel's own writer, where the pattern is a plain name.
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert!(pattern.trim() == "core", "this test needs kernel.core_pattern=core, here it is {pattern}");
    let mut child = std::process::Command::new("sh")
        .args(["-c", "ulimit -c unlimited && kill -ABRT $$"])
        .current_dir(scene.path("cores"))
        .spawn()
        .unwrap();
    child.wait().unwrap();
    let executor = scene.executor();
    let action = scene.plan(&executor, "node");
    assert_eq!(action.objects.len(), 1, "{action:#?}");
    assert!(action.objects[0].path.file_name().unwrap().to_str().unwrap().starts_with("core"));
}

#[test]
fn packages_go_while_their_manager_is_idle() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::PackageCaches, "var/cache/apt/archives");
    let apt = "var/cache/apt/archives";
    for name in ["curl_1_amd64.deb", "partial/half_1_amd64.deb", "lock", "readme", "sub/deep_1_amd64.deb"] {
        scene.file(&format!("{apt}/{name}"), b"x");
    }
    let mut executor = scene.executor();
    let both = [format!("{apt}/curl_1_amd64.deb"), format!("{apt}/partial/half_1_amd64.deb")];
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), both);

    // apt's way to lock its archives, from a process of its own: one's own locks do not show.
    let lock = scene.path(&format!("{apt}/lock"));
    let mut apt_at_work = Busy::fcntl(&lock);
    let busy = scene.plan(&executor, "node");
    assert_eq!(busy.state, ActionState::Refused);
    assert!(scene.reason(&busy, &both[0]).contains("apt is at work"));
    let left = scene.apply(&mut executor, action.clone());
    assert!(left.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped), "{left:#?}");
    apt_at_work.end();

    let dpkg = scene.file("host/var/lib/dpkg/lock-frontend", b"");
    let mut dpkg_at_work = Busy::fcntl(&dpkg);
    assert!(scene.reason(&scene.plan(&executor, "node"), &both[0]).contains("/var/lib/dpkg/lock-frontend"));
    dpkg_at_work.end();
    let done = scene.apply(&mut executor, action);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{done:#?}");
    assert!(lock.exists());
}

/// A process that holds a lock until it is ended.
struct Busy(std::process::Child);

impl Busy {
    fn fcntl(path: &Path) -> Self {
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("this test needs python3 to hold a lock in another process");
        let mut line = String::new();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn temp_files_that_nobody_used_go_and_what_is_somebodys_stays() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp");
    let lines = "x /shielded*\nd /made 0755 root root -\n"
        .replace('/', &format!("{}/tmp/", scene.base.path().display()));
    scene.file("host/usr/lib/tmpfiles.d/app.conf", b"");
    fs::write(scene.path("host/usr/lib/tmpfiles.d/app.conf"), lines).unwrap();
    let gone = ["tmp/build-1/out.o", "tmp/old", "tmp/x.part", "tmp/x.tmp"];
    for path in gone {
        scene.file(path, b"x");
    }
    let stays = [
        "tmp/systemd-private-1-nginx/tmp/x",
        "tmp/snap-private-tmp/x",
        "tmp/.X11-unix/X0.log",
        "tmp/ssh-abc/agent.1",
        "tmp/tmux-0/default",
        "tmp/krb5cc_0",
        "tmp/.X0-lock",
        "tmp/a.lock",
        "tmp/app.db",
        "tmp/pg/PG_VERSION",
        "tmp/pg/base/1/123",
        "tmp/shielded-1/x",
        "tmp/made/x",
    ];
    for path in stays {
        scene.file(path, b"x");
    }
    let sticky = scene.file("tmp/sticky", b"x");
    fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1644)).unwrap();
    read_at(&scene.file("tmp/read", b"x"), scene.now - 2 * DAY_NS);
    scene.file("tmp/locked/x", b"x");
    let locked = File::open(scene.path("tmp/locked")).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let open = File::open(scene.file("tmp/open", b"x")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("tmp/socket")).unwrap();
    rustix::fs::mkfifoat(CWD, scene.path("tmp/fifo"), rustix::fs::Mode::RWXU).unwrap();

    let mut executor = scene.executor();
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), gone, "{action:#?}");
    assert!(scene.reason(&action, "tmp/sticky").contains("sticky"));
    assert!(scene.reason(&action, "tmp/read").contains("it was read 2 d ago, younger than 10 d"));
    assert_eq!(scene.reason(&action, "tmp/locked"), "somebody has locked the folder");
    assert!(scene.reason(&action, "tmp/made").contains("tmpfiles.d"));
    assert!(scene.reason(&action, "tmp/socket").contains("socket"));
    assert!(action.objects.iter().all(|o| o.why_safe.contains("neither read nor changed for 100 d")
        && o.why_safe.ends_with("; nobody had it open")));

    // Somebody reads one between plan and removal.
    read_at(&scene.path("tmp/old"), scene.now - DAY_NS);
    let mut seen_again = action;
    let ctime = fs::metadata(scene.path("tmp/old")).unwrap();
    let object = seen_again.objects.iter_mut().find(|o| o.path.ends_with("tmp/old")).unwrap();
    object.ctime_ns = ctime.ctime() * 1_000_000_000 + ctime.ctime_nsec();
    let done = scene.apply(&mut executor, seen_again);
    assert!(scene.reason(&done, "tmp/old").contains("it was read 1 d ago"));
    let removed = done.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed).count();
    assert_eq!(removed, gone.len() - 1, "{done:#?}");
    assert!(stays.iter().all(|path| scene.path(path).exists()));
    drop(open);
}

#[test]
fn a_custom_cleaner_takes_its_pattern_age_and_owner_and_keeps_the_newest() {
    let mut scene = Scene::new(CleanupMode::Auto);
    let root = scene.root(Cleaner::Custom, "srv");
    root.patterns = vec!["reports/*.csv".into(), "*.tmp".into()];
    root.excludes = vec!["keep*".into()];
    root.name = "old reports".into();
    root.owner = Some(0);
    root.keep_newest = 1;
    for path in [
        "srv/reports/a.csv",
        "srv/reports/b.csv",
        "srv/reports/keep.csv",
        "srv/c.csv",
        "srv/x.tmp",
        "srv/y.tmp",
    ] {
        scene.file(path, b"x");
    }
    let theirs = scene.file("srv/reports/theirs.csv", b"x");
    std::os::unix::fs::chown(&theirs, Some(4_711), None).expect("this test needs root");
    let executor = scene.executor();
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), ["srv/reports/a.csv", "srv/x.tmp"], "{action:#?}");
    assert!(scene.reason(&action, "srv/reports/theirs.csv").contains("user 4711's, not user 0's"));
    assert!(
        action.objects[0].why_safe.contains("old reports") && action.objects[0].why_safe.contains("user 0's")
    );
}

#[test]
fn a_roots_own_mode_and_budgets_bound_it() {
    let mut scene = Scene::new(CleanupMode::Auto);
    for (place, mode) in [("auto", None), ("plan", Some(CleanupMode::Plan)), ("off", Some(CleanupMode::Off))]
    {
        let root = scene.root(Cleaner::RotatedLogs, place);
        (root.mode, root.keep_newest) = (mode, 0);
        for n in 1..=3 {
            scene.file(&format!("{place}/app.log.{n}"), b"x");
        }
    }
    scene.policy.roots[0].budgets = Some(Budgets { max_objects: 2, ..Budgets::default() });
    let mut executor = scene.executor();
    let alone = scene.plan(&executor, "node");
    assert_eq!(scene.names(&alone), ["auto/app.log.1", "auto/app.log.2"]);
    assert!(scene.reason(&alone, "plan/app.log.1").contains("its root's mode is plan"));
    assert!(
        alone.refused.iter().any(|r| r.path.is_none() && r.reason.starts_with("3 more objects")),
        "{alone:#?}"
    );
    let by_hand = scene.plan(&executor, "pat");
    assert_eq!(by_hand.objects.len(), 5, "two of the first root, three of the second: {by_hand:#?}");
    assert!(scene.reason(&by_hand, "auto/app.log.3").starts_with("budget: 2 objects and "), "{by_hand:#?}");

    // The executor holds to it whatever a plan says.
    let mut forged = by_hand.clone();
    forged.actor = "node".to_owned();
    forged.refused.clear();
    let off = PlannedObject { path: scene.path("off/app.log.1"), ..forged.objects[0].clone() };
    let third = fs::metadata(scene.path("auto/app.log.3")).unwrap();
    let mut over =
        PlannedObject { path: scene.path("auto/app.log.3"), inode: third.ino(), ..forged.objects[0].clone() };
    over.mtime_ns = third.mtime() * 1_000_000_000 + third.mtime_nsec();
    over.ctime_ns = third.ctime() * 1_000_000_000 + third.ctime_nsec();
    forged.objects.extend([off, over]);
    let done = scene.apply(&mut executor, forged);
    assert!(scene.reason(&done, "plan/app.log.1").contains("its root's mode is plan"));
    assert!(scene.reason(&done, "off/app.log.1").contains("off"));
    assert!(scene.reason(&done, "auto/app.log.3").contains("2 objects an action from its root"));
    let removed = done.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed).count();
    assert_eq!(removed, 2);
    let rest = scene.plan(&executor, "pat");
    let done = scene.apply(&mut executor, rest);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "a person may: {done:#?}");
}

#[test]
fn two_cleaners_at_one_place_each_take_their_own() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::RotatedLogs, "logs").keep_newest = 0;
    let custom = scene.root(Cleaner::Custom, "logs");
    custom.patterns = vec!["*.trace".into(), "*.log.old".into()];
    for path in ["logs/a.log.1", "logs/b.trace", "logs/c.log.old", "logs/c.log"] {
        scene.file(path, b"x");
    }
    assert_eq!(scene.policy.validate(Path::new("/var/spool/dogwatch-test")), []);
    let executor = scene.executor();
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), ["logs/a.log.1", "logs/b.trace", "logs/c.log.old"]);
    let cleaner = |end: &str| &action.objects.iter().find(|o| o.path.ends_with(end)).unwrap().cleaner;
    assert_eq!((&**cleaner("c.log.old"), &**cleaner("b.trace")), ("rotated-logs", "custom"));
}

#[test]
fn images_are_no_roots_cleaner() {
    let temp = tempfile::tempdir().unwrap();
    let cleaner = Cleaner::Images;
    let roots = vec![RootPolicy::of(cleaner, temp.path())];
    let policy = Policy { mode: CleanupMode::Plan, roots, budgets: Budgets::default() };
    let problems = policy.validate(Path::new("/nowhere"));
    assert_eq!(problems[0].key, "roots[0].cleaner");
    assert!(problems[0].value == cleaner.as_str() && problems[0].remedy.contains("set cleanup.images"));
    let words = "custm".parse::<Cleaner>().unwrap_err();
    assert!(words.contains("custom, live-logs") && !words.contains("images"), "{words}");
    for cleaner in Cleaner::ALL {
        assert_eq!(cleaner.as_str().parse(), Ok(cleaner));
        assert_eq!(serde_json::to_value(cleaner).unwrap(), cleaner.as_str());
    }
}
