//! Control groups of this machine, made by the tests, and of fake ones.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::*;

const SECOND: u64 = 1_000_000_000;
const UID: &str = "12345678-9abc-def0-1234-56789abcdef0";

fn free() -> CostClock {
    Box::new(|| Duration::ZERO)
}

fn no_pods() -> Pods {
    Pods::new(Path::new("/nonexistent"))
}

fn options() -> CgroupOptions {
    CgroupOptions { max: 2_000, every: Duration::from_secs(5), budget: Duration::from_millis(10) }
}

/// One look at second `at` that must not fail.
fn look(probe: &mut CgroupProbe, at: u64) -> Vec<Cgroup> {
    let mut failed = Failures::default();
    let groups = probe.read(at * SECOND, &no_pods(), &mut failed);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
    groups
}

fn paths(groups: &[Cgroup]) -> Vec<&str> {
    groups.iter().map(|g| g.path.as_str()).collect()
}

const FILES: [(&str, &str); 10] = [
    ("cpu.stat", "usage_usec 7\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
    ("cpu.max", "max 100000\n"),
    ("memory.current", "1000\n"),
    ("memory.stat", "inactive_file 100\n"),
    ("memory.events", "max 1\noom_kill 0\n"),
    ("memory.max", "max\n"),
    ("memory.swap.current", "0\n"),
    ("pids.current", "1\n"),
    ("pids.max", "10\n"),
    ("io.stat", ""),
];

/// A fake hierarchy of v2.
struct Fake(tempfile::TempDir);

impl Fake {
    fn v2() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fs::write(fake.0.path().join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
        fake
    }

    /// Makes a group, and those above it.
    fn group(&self, path: &str) -> PathBuf {
        let dir = self.0.path().join(path);
        fs::create_dir_all(&dir).unwrap();
        for dir in dir.ancestors().take_while(|d| *d != self.0.path()) {
            for (file, text) in FILES {
                if !dir.join(file).exists() {
                    fs::write(dir.join(file), text).unwrap();
                }
            }
        }
        dir
    }

    fn probe(&self, options: CgroupOptions, cost: CostClock) -> CgroupProbe {
        CgroupProbe::new(self.0.path(), options, cost)
    }
}

#[test]
fn pods_containers_services_and_the_top_are_found_wherever_they_stand() {
    let fake = Fake::v2();
    let (slice, id) = (UID.replace('-', "_"), "ab".repeat(32));
    let pod = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice");
    let wanted = [
        "init.scope".to_owned(),
        "kubepods.slice".to_owned(),
        "kubepods.slice/kubepods-burstable.slice".to_owned(),
        pod.clone(),
        format!("{pod}/cri-containerd-{id}.scope"),
        "system.slice".to_owned(),
        "system.slice/containerd.service".to_owned(),
        "system.slice/k3s.service".to_owned(),
        format!("system.slice/k3s.service/kubepods/besteffort/pod{UID}"),
        format!("system.slice/k3s.service/kubepods/besteffort/pod{UID}/{id}"),
        "system.slice/k3s.service/kubepods".to_owned(),
        "system.slice/k3s.service/kubepods/besteffort".to_owned(),
        "user.slice".to_owned(),
    ];
    for path in &wanted {
        fake.group(path);
    }
    fake.group(&format!("{pod}/cri-containerd-{id}.scope/system.slice/inner.service"));
    fake.group(&format!("{pod}/crio-conmon-{id}.scope"));
    fake.group("user.slice/user-0.slice/session-1.scope");
    let groups = look(&mut fake.probe(options(), free()), 1);
    let mut expected: Vec<String> = wanted.iter().map(|p| format!("/{p}")).collect();
    expected.sort();
    let mut found = paths(&groups);
    found.sort_unstable();
    assert_eq!(found, expected);
    let container = groups.iter().find(|g| g.path.ends_with(".scope") && g.pod.is_some()).unwrap();
    assert_eq!(container.pod.as_ref().unwrap().container_id, id);
    assert_eq!(
        (container.version, container.working_set_bytes, container.pids_max),
        (2, Some(900), Some(10))
    );
    assert_eq!((container.memory_limit_bytes, container.cpu_limit_cores), (None, None));
}

#[test]
fn groups_come_and_go_and_each_pass_is_due_in_its_time() {
    let fake = Fake::v2();
    fake.group("system.slice/a.service");
    let mut probe = fake.probe(options(), free());
    assert_eq!(look(&mut probe, 1).len(), 2);
    assert_eq!(look(&mut probe, 2), [], "not due");
    let b = fake.group("system.slice/b.service");
    let groups = look(&mut probe, 6);
    assert_eq!(paths(&groups), ["/system.slice", "/system.slice/a.service", "/system.slice/b.service"]);
    fs::remove_dir_all(b).unwrap();
    assert_eq!(look(&mut probe, 11).len(), 2);
    // Changed figures are read, limits at the latest after some passes.
    let a = fake.0.path().join("system.slice/a.service");
    fs::write(a.join("memory.current"), "5000\n").unwrap();
    fs::write(a.join("memory.max"), "8000\n").unwrap();
    let passes = 3..=3 + u64::from(group::SELDOM);
    let later: Vec<Cgroup> =
        passes.flat_map(|n| look(&mut probe, n * 5 + 1)).filter(|g| g.path.ends_with("a.service")).collect();
    assert!(later.iter().all(|g| g.memory_bytes == Some(5000)));
    assert_eq!(later.last().unwrap().memory_limit_bytes, Some(8000));
}

#[test]
fn what_is_beyond_the_bound_is_said_and_pods_come_first() {
    let fake = Fake::v2();
    for i in 0..30 {
        fake.group(&format!("system.slice/s{i}.service"));
    }
    fake.group(&format!("kubepods/pod{UID}"));
    let mut failed = Failures::default();
    let mut probe = fake.probe(CgroupOptions { max: 10, ..options() }, free());
    let groups = probe.read(SECOND, &no_pods(), &mut failed);
    assert_eq!(groups.len(), 10);
    assert!(groups[0].pod.is_some(), "{:?}", groups[0]);
    let said = failed.into_vec();
    assert!(said[0].starts_with("cgroups: 23 groups") && said[0].contains("sample.cgroups.max"), "{said:?}");
}

#[test]
fn a_dear_pass_is_spread_over_ticks_and_comes_whole() {
    let fake = Fake::v2();
    for i in 0..100 {
        fake.group(&format!("system.slice/s{i}.service"));
    }
    let mut spent = Duration::ZERO;
    let cost: CostClock = Box::new(move || {
        spent += Duration::from_millis(4);
        spent
    });
    let mut probe = fake.probe(options(), cost);
    let mut said = Vec::new();
    let (ticks, groups) = (1..100)
        .find_map(|at| {
            let mut failed = Failures::default();
            let groups = probe.read(at * SECOND, &no_pods(), &mut failed);
            said.extend(failed.into_vec());
            (!groups.is_empty()).then_some((at, groups))
        })
        .unwrap();
    assert!(ticks > 3, "{ticks}");
    assert_eq!(groups.len(), 101);
    assert!(said.iter().all(|s| s.contains("are read every")), "{said:?}");
}

#[test]
fn garbage_and_absence_cost_those_figures_only() {
    let fake = Fake::v2();
    let dir = fake.group("system.slice/a.service");
    for (i, file) in V2.iter().enumerate() {
        let name = file.name.to_str().unwrap();
        if i % 2 == 0 {
            fs::write(dir.join(name), b"\xff\x00 max -1 some avg10=\n18446744073709551616\n".repeat(5_000))
                .unwrap();
        } else {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    let mut failed = Failures::default();
    let mut probe = fake.probe(options(), free());
    let groups = probe.read(SECOND, &no_pods(), &mut failed);
    assert_eq!(paths(&groups), ["/system.slice", "/system.slice/a.service"]);
    assert_eq!(groups[0].memory_bytes, Some(1000), "the others are read");
    assert!(groups.iter().any(|g| g.path == "/system.slice/a.service" && g.memory_bytes.is_none()));
    let said = failed.into_vec();
    assert!(
        said.len() == 1 && said[0].contains("/system.slice/a.service/") && said[0].contains("more"),
        "{said:?}"
    );
}

#[test]
fn counts_are_read_when_memory_moved_and_otherwise_seldom() {
    let fake = Fake::v2();
    let dir = fake.group("system.slice/a.service");
    let mut probe = fake.probe(options(), free());
    let mut hits = |at| {
        let groups = look(&mut probe, at);
        groups.iter().find(|g| g.path.ends_with("a.service")).unwrap().memory_limit_hits_total
    };
    assert_eq!(hits(1), Some(1));
    fs::write(dir.join("memory.events"), "max 2\noom_kill 0\n").unwrap();
    assert_eq!(hits(6), Some(1), "as it was, since memory.stat is as it was");
    fs::write(dir.join("memory.stat"), "inactive_file 101\n").unwrap();
    assert_eq!(hits(11), Some(2));
    fs::write(dir.join("memory.events"), "max 3\noom_kill 0\n").unwrap();
    let passes = u64::from(group::SELDOM);
    let seen: Vec<_> = (0..passes).map(|pass| hits(16 + 5 * pass)).collect();
    assert_eq!(seen.first(), Some(&Some(2)));
    assert_eq!(seen.last(), Some(&Some(3)), "within so many passes all is read");
}

#[test]
fn no_hierarchy_is_said_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = Failures::default();
    let mut probe = CgroupProbe::new(dir.path(), options(), free());
    assert!(probe.read(SECOND, &no_pods(), &mut failed).is_empty());
    let said = failed.into_vec();
    assert!(said[0].contains("no hierarchy") && said[0].contains("sample.cgroups.enabled"), "{said:?}");
}

#[test]
fn without_descriptors_to_spare_everything_is_read_all_the_same() {
    let fake = Fake::v2();
    for i in 0..20 {
        fake.group(&format!("system.slice/s{i}.service"));
    }
    let mut probe = fake.probe(options(), free());
    probe.kept.max = 25;
    assert_eq!(look(&mut probe, 1).len(), 21);
    assert_eq!(probe.kept.open, 25);
    let second = look(&mut probe, 6);
    assert!(second.iter().filter(|g| g.path.ends_with("service")).all(|g| g.memory_bytes == Some(1000)));
    assert_eq!(second.len(), 21);
    fs::remove_dir_all(fake.0.path().join("system.slice")).unwrap();
    let mut failed = Failures::default();
    for at in [11, 16, 90] {
        probe.read(at * SECOND, &no_pods(), &mut failed);
    }
    assert_eq!((probe.kept.open, probe.groups.len()), (0, 0), "what is gone is closed");
}

/// Real groups of v1 at one path in several hierarchies, removed in the end with the process in them.
struct Real {
    path: String,
    child: Option<Child>,
}

const HIERARCHIES: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];

impl Real {
    fn make() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{n:012x}", std::process::id());
        let real = Self { path: format!("kubepods/besteffort/pod{uid}"), child: None };
        for h in HIERARCHIES.into_iter().chain(["unified"]) {
            // Another test may take the parents away before, while and after they are made here: it is the last one out. A
            // group that is being taken away takes no other (ENODEV).
            while let Err(e) = fs::create_dir_all(real.dir(h)) {
                let is_gone = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
                    || e.raw_os_error() == Some(libc::ENODEV);
                assert!(is_gone, "making a group in {h}; these tests run as root: {e}");
            }
        }
        real
    }

    fn dir(&self, hierarchy: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.path)
    }

    fn write(&self, hierarchy: &str, file: &str, text: &str) {
        let path = self.dir(hierarchy).join(file);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Starts `script` in all of its groups.
    fn start(&mut self, script: &str) {
        let enter: String = HIERARCHIES
            .iter()
            .chain(&["unified"])
            .map(|h| format!("echo $$ > {}/cgroup.procs && ", self.dir(h).display()))
            .collect();
        let child = Command::new("sh").arg("-c").arg(format!("{enter} exec {script}")).spawn().unwrap();
        self.child = Some(child);
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // What it started is in the group too.
            for pid in fs::read_to_string(self.dir("pids").join("cgroup.procs")).unwrap_or_default().lines() {
                let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for h in HIERARCHIES.into_iter().chain(["unified"]) {
            let dir = self.dir(h);
            let until = Instant::now() + Duration::from_secs(10);
            // A group is busy for a moment after its last process was waited for.
            while fs::remove_dir(&dir).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
                && Instant::now() < until
            {
                std::thread::yield_now();
            }
            // The parents are shared with other tests; the last one out takes them away.
            let _ = dir.parent().map(fs::remove_dir);
            let _ = dir.parent().and_then(Path::parent).map(fs::remove_dir);
        }
    }
}

fn this_machine() -> CgroupProbe {
    CgroupProbe::new(Path::new("/sys/fs/cgroup"), options(), free())
}

/// Looks until `ready` holds of the group.
fn until(probe: &mut CgroupProbe, real: &Real, ready: impl Fn(&Cgroup) -> bool) -> Cgroup {
    let began = Instant::now();
    let mut last = None;
    for at in 0.. {
        let mut failed = Failures::default();
        let groups = probe.read((1 + at * 5) * SECOND, &no_pods(), &mut failed);
        last = groups.into_iter().find(|g| g.path == format!("/{}", real.path)).or(last);
        if let Some(group) = last.as_ref().filter(|g| ready(g)) {
            return group.clone();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{last:?}");
    }
    unreachable!("the loop has no end")
}

#[test]
fn limits_and_use_of_a_real_group_of_v1_are_read() {
    let mut real = Real::make();
    real.write("memory", "memory.limit_in_bytes", "67108864");
    real.write("cpu", "cpu.cfs_period_us", "100000");
    real.write("cpu", "cpu.cfs_quota_us", "20000");
    real.write("pids", "pids.max", "50");
    // More of them than CPUs that the quota leaves: they wait for each other, which pressure tells, from v2.
    real.start("sh -c 'for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait'");
    let mut probe = this_machine();
    let group = until(&mut probe, &real, |g| {
        g.throttled_us_total.is_some_and(|us| us > 0)
            && g.cpu_us_total.is_some_and(|us| us > 0)
            && g.cpu_pressure.is_some_and(|p| p.some_total_us > 0)
    });
    assert_eq!(group.version, 1);
    assert_eq!(
        (group.cpu_limit_cores, group.memory_limit_bytes, group.pids_max),
        (Some(0.2), Some(64 << 20), Some(50))
    );
    assert!(
        group.periods_total >= group.throttled_periods_total && group.throttled_periods_total > Some(0),
        "{group:?}"
    );
    assert!(group.pids >= Some(1) && group.memory_bytes > Some(0), "{group:?}");
    assert!(group.working_set_bytes <= group.memory_bytes && group.swap_bytes.is_some(), "{group:?}");
    assert_eq!(group.oom_kills_total, Some(0), "{group:?}");
    assert_eq!(group.pod.map(|p| p.uid.len()), Some(36));
}

#[test]
fn a_process_killed_for_the_limit_is_counted() {
    let mut real = Real::make();
    real.write("memory", "memory.limit_in_bytes", "8388608");
    // Else a machine with swap would swap it out.
    real.write("memory", "memory.swappiness", "0");
    real.start("dd if=/dev/zero of=/dev/null bs=64M count=1 status=none");
    // Its files are read one after the other, and the kill may come between two of them.
    until(&mut this_machine(), &real, |g| {
        g.oom_kills_total.is_some_and(|n| n > 0) && g.memory_limit_hits_total.is_some_and(|n| n > 0)
    });
}

#[test]
fn a_group_that_is_made_anew_at_its_path_is_read_anew() {
    let real = Real::make();
    let mut probe = this_machine();
    until(&mut probe, &real, |g| g.memory_limit_bytes.is_none());
    for h in HIERARCHIES {
        fs::remove_dir(real.dir(h)).unwrap();
        fs::create_dir(real.dir(h)).unwrap();
    }
    real.write("pids", "pids.max", "7");
    until(&mut probe, &real, |g| g.pids_max == Some(7) && g.memory_bytes.is_some());
}

#[test]
fn groups_that_come_and_go_while_they_are_read_cost_nothing_else() {
    let fixed = Real::make();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let s = stop.clone();
    let churn = std::thread::spawn(move || {
        while !s.load(Ordering::Relaxed) {
            drop(Real::make());
        }
    });
    let mut probe = this_machine();
    let mut seen = 0;
    for at in 0..200 {
        let mut failed = Failures::default();
        let groups = probe.read((1 + at * 5) * SECOND, &no_pods(), &mut failed);
        seen += usize::from(groups.iter().any(|g| g.path == format!("/{}", fixed.path)));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
    assert_eq!(seen, 200);
}
