//! What is held, by the thread that takes jobs and an executor in its own process: sweeps have their turn, and whoever
//! waits for a cleanup hears how far it is.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dogwatch::record::{CleanupMode, FileSeen};
use dogwatch_agent::act::at_work::AtWork;
use dogwatch_agent::act::hold::{HeldThing, NodeHold};
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::ledger::Ledger;
use dogwatch_agent::act::plan::{Allowance, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};
use dogwatch_agent::act::witness::{Verdict, Witness};
use dogwatch_agent::act::work::{Done, Job, Launch, Progress, run};

/// Longest wait for a condition; a sweep comes every 15 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// A disk on which each record takes a while.
#[derive(Debug)]
struct Slow(Duration);

impl Witness for Slow {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        std::thread::sleep(self.0);
        Ok(Verdict::Kept)
    }
}

/// The thread that takes jobs, over the root `logs`, and others.
struct Works {
    base: tempfile::TempDir,
    policy: Policy,
    line: HoldLine,
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Works {
    fn start(each_record: Duration) -> Self {
        Self::over(&["logs"], each_record)
    }

    fn over(roots: &[&str], each_record: Duration) -> Self {
        let base = common::folder();
        let state = base.path().join("state");
        fs::create_dir_all(&state).unwrap();
        let root = |name: &&str| {
            let path = base.path().join(name);
            fs::create_dir_all(&path).unwrap();
            RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(path) }
        };
        let roots = roots.iter().map(root).collect();
        let policy = Policy { mode: CleanupMode::Auto, roots, budgets: Budgets::default() };
        let line = HoldLine::open(&state, Path::new("/"));
        let launch = Launch {
            program: env!("CARGO_BIN_EXE_dogwatch-agent").into(),
            args: vec!["executor".into()],
            policy: policy.clone(),
            state_dir: state,
            holds: line.clone(),
            at_work: AtWork::default(),
            masks: Vec::new(),
            images: None,
        };
        let ((jobs, taken), (tell, done)) = (channel(), channel());
        let thread = std::thread::spawn(move || {
            let first = launch.begin().ready(&launch, |_| ());
            // The test may have ended before the last word.
            let tell = move |word| drop(tell.send(word));
            run(&launch, first, Ledger::default(), &taken, Arc::new(Slow(each_record)), tell, |_| ());
        });
        Self { base, policy, line, jobs: Some(jobs), done, thread: Some(thread) }
    }

    fn send(&self, job: Job) {
        self.jobs.as_ref().unwrap().send(job).unwrap();
    }

    fn survey(&self) {
        let device = fs::metadata(self.base.path()).unwrap().dev();
        self.send(Job::Survey { mount: "/".to_owned(), device });
    }

    fn hold(&self, holds: Vec<NodeHold>) {
        self.line.keep(holds).unwrap();
        self.send(Job::Aside);
    }

    /// Waits until `come`, with never a pause between two surveys.
    fn without_pause(&self, what: &str, mut come: impl FnMut() -> bool) {
        let began = Instant::now();
        while !come() {
            assert!(began.elapsed() < PATIENCE, "{what} never came");
            match self.done.recv_timeout(PATIENCE).unwrap() {
                Done::Surveyed { result, .. } => {
                    result.unwrap();
                    self.survey();
                }
                _ => continue,
            }
        }
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

#[test]
fn sweeps_have_their_turn_although_jobs_follow_each_other_without_a_pause() {
    let works = Works::start(Duration::ZERO);
    let logs = works.base.path().join("logs");
    let what = HeldThing::Path(logs.clone());
    works.hold(vec![NodeHold { id: "hold-0badcafe".to_owned(), what, reason: "court".to_owned() }]);
    // Two at a time: the thread never waits for the next.
    works.survey();
    works.survey();
    let names = |path: &Path| fs::metadata(path).unwrap().nlink();
    let first = logs.join("first.log");
    fs::write(&first, "a line").unwrap();
    works.without_pause("a log that is held from the beginning", || names(&first) == 2);
    let later = logs.join("later.log");
    fs::write(&later, "a line").unwrap();
    works.without_pause("a log that came later", || names(&later) == 2);
    works.hold(Vec::new());
    works.without_pause("the release", || names(&first) == 1 && names(&later) == 1);
}

#[test]
fn what_is_released_while_its_root_is_away_is_let_go_of_once_it_is_back() {
    let works = Works::over(&["logs", "other"], Duration::ZERO);
    let path = |name: &str| works.base.path().join(name);
    // A root that is moved for the first time is looked for at once.
    let moved = |from: &str, to: &str| fs::rename(path(from), path(to)).unwrap();
    let surveyed = |roots: &str, usable: &dyn Fn(&str) -> bool| {
        works.survey();
        works.without_pause(roots, || usable(roots));
    };
    let has_quarantine = |name: &str| path(name).join(".dogwatch-quarantine").exists();
    let log = path("logs").join("app.log");
    fs::write(&log, "a line").unwrap();
    let what = HeldThing::Path(path("logs"));
    works.hold(vec![NodeHold { id: "hold-0badcafe".to_owned(), what, reason: "court".to_owned() }]);
    let names = |path: &Path| fs::metadata(path).unwrap().nlink();
    surveyed("a log that is held", &|_| names(&log) == 2);
    moved("logs", "away");
    fs::create_dir(path("logs")).unwrap();
    surveyed("logs", &has_quarantine);
    works.hold(Vec::new());
    loop {
        match works.done.recv_timeout(PATIENCE).unwrap() {
            // One of every root that is there: nothing of the hold is left.
            Done::Aside(step) if !step.more && step.holds.is_empty() => break,
            _ => works.survey(),
        }
    }
    let log = path("logs").join("app.log");
    fs::remove_dir_all(path("logs")).unwrap();
    moved("away", "logs");
    assert_eq!(names(&log), 2);
    moved("other", "other-away");
    fs::create_dir(path("other")).unwrap();
    surveyed("other", &has_quarantine);
    surveyed("the release", &|_| names(&log) == 1);
}

#[test]
fn a_cleanup_says_how_far_it_is() {
    const LOGS: u64 = 120;
    let works = Works::start(Duration::from_millis(300));
    let logs = works.base.path().join("logs");
    works.line.keep(Vec::new()).unwrap();
    for n in 0..LOGS {
        fs::write(logs.join(format!("{n}.log.1")), vec![b'x'; 8_192]).unwrap();
    }
    rustix::fs::syncfs(fs::File::open(&logs).unwrap()).unwrap();
    works.survey();
    let survey = loop {
        if let Done::Surveyed { result, .. } = works.done.recv_timeout(PATIENCE).unwrap() {
            break result.unwrap();
        }
    };
    let trigger = Trigger {
        mount: "/".to_owned(),
        device: fs::metadata(&logs).unwrap().dev(),
        total_bytes: 1 << 40,
        available_bytes: 0,
        target_available_bytes: 1 << 40,
        inodes_free: 0,
        target_inodes_free: 1 << 40,
        reason: "test".to_owned(),
        finding_id: None,
        actor: "node".to_owned(),
    };
    let rules = Rules::new(works.policy.clone()).unwrap();
    let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
    let action =
        plan("a-1".to_owned(), &trigger, &survey, &rules, allowance, &[], dogwatch::clock::wall_ns());
    assert_eq!(action.objects.len() as u64, LOGS);
    works.send(Job::Apply(Box::new(action)));
    let mut told: Vec<Progress> = Vec::new();
    let done = loop {
        match works.done.recv_timeout(PATIENCE).unwrap() {
            Done::Progress(so_far) => told.push(so_far),
            Done::Applied(done) => break done,
            _ => {}
        }
    };
    let freed = done.freed_bytes.unwrap();
    assert!(!told.is_empty(), "nothing was said before the end");
    for so_far in &told {
        assert_eq!((so_far.action_id.as_str(), so_far.objects), ("a-1", LOGS));
        assert!(so_far.objects_done <= LOGS && so_far.freed_bytes <= freed, "{told:?}");
    }
    assert!(told.iter().any(|t| t.objects_done > 0 && t.freed_bytes > 0), "{told:?}");
    assert!(told.is_sorted_by_key(|t| (t.objects_done, t.freed_bytes)), "{told:?}");
}

/// Mounts a filesystem whose server never answers; what waits for it waits until that is dropped.
fn mount_dead(at: &Path) -> fs::File {
    use rustix::mount::{MountFlags, mount};
    let server = fs::File::options().read(true).write(true).open("/dev/fuse");
    let server = server.expect("needs /dev/fuse and root");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = std::ffi::CString::new(options).unwrap();
    mount("dead", at, "fuse", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    server
}

#[test]
fn a_hold_on_a_server_that_is_gone_stops_nothing_else() {
    // In a thread with mounts of its own, so that nothing is left behind and nobody else meets what hangs.
    std::thread::spawn(beside_a_dead_server).join().unwrap();
}

fn beside_a_dead_server() {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
    // SAFETY: only the mount namespace (and with it the working directory) of this thread is unshared; file descriptors
    // stay shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .expect("a mount namespace needs root (CAP_SYS_ADMIN): run the tests as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let works = Works::start(Duration::ZERO);
    let base = works.base.path();
    let (share, link, app) = (base.join("share"), base.join("by-link"), base.join("logs/app"));
    fs::create_dir(&share).unwrap();
    fs::create_dir_all(&app).unwrap();
    std::os::unix::fs::symlink(&app, &link).unwrap();
    for log in ["a.log.1", "b.log.1"] {
        fs::write(app.join(log), "a line").unwrap();
    }
    fs::write(base.join("logs/free.log.1"), "a line").unwrap();
    // Mounted while the executor runs, which is confined to the root.
    let (twice, bound) = (base.join("logs/twice"), base.join("bound"));
    fs::create_dir(&twice).unwrap();
    fs::create_dir(&bound).unwrap();
    fs::write(twice.join("c.log.1"), "a line").unwrap();
    mount_bind(&twice, &bound).unwrap();
    let server = mount_dead(&share);
    let hold = |id: &str, path: &Path| NodeHold {
        id: id.to_owned(),
        what: HeldThing::Path(path.to_owned()),
        reason: "court".to_owned(),
    };
    works.hold(vec![
        hold("hold-00000001", &share.join("logs")),
        hold("hold-00000002", &link),
        hold("hold-00000003", &bound.join("c.log.1")),
    ]);
    works.survey();
    let (mut swept, mut found) = (false, None);
    while !swept || found.is_none() {
        match works.done.recv_timeout(PATIENCE).expect("the executor answers") {
            Done::Aside(step) => swept |= !step.more,
            Done::Surveyed { result, .. } => found = Some(result.unwrap()),
            _ => {}
        }
    }
    assert_eq!(found.unwrap().candidates.len(), 4, "held or not, they are found");
    let names = |path: &Path| fs::metadata(path).unwrap().nlink();
    assert_eq!(
        (names(&app.join("a.log.1")), names(&app.join("b.log.1")), names(&base.join("logs/free.log.1"))),
        (2, 2, 1),
        "what is held by way of a link is known inside the confinement too"
    );
    assert_eq!(names(&twice.join("c.log.1")), 2, "and by way of a bind mount");
    unmount(&bound, UnmountFlags::DETACH).unwrap();
    // The kernel then fails what waits, if anything does.
    drop(server);
    unmount(&share, UnmountFlags::DETACH).unwrap();
}
