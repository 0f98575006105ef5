//! Processes of fake hosts: who is at the top, and what a dear scan does.

use super::*;

const SECOND: u64 = 1_000_000_000;

struct FakeProc(tempfile::TempDir);

impl FakeProc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, pid: u32, name: &str, cpu_ticks: u64, start: u64, pages: u64) {
        let dir = self.0.path().join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let stat = format!(
            "{pid} ({name}) R 1 1 1 0 -1 0 0 0 0 0 {cpu_ticks} 0 0 0 20 0 1 0 {start} 1000 {pages} 18446\n"
        );
        std::fs::write(dir.join("stat"), stat).unwrap();
        std::fs::write(dir.join("cgroup"), format!("0::/kubepods.slice/pod{pid}\n")).unwrap();
    }

    fn probe(&self, top: usize, budget: Duration, cost: CostClock) -> ProcessProbe {
        let options = ProcessOptions { top, budget, ticks_per_second: 100, page_bytes: 4096 };
        ProcessProbe::new(self.0.path(), options, cost)
    }
}

fn free() -> CostClock {
    Box::new(|| Duration::ZERO)
}

fn generous() -> Duration {
    Duration::from_secs(1)
}

#[test]
fn cpu_is_what_was_spent_since_the_last_scan() {
    let host = FakeProc::new();
    host.put(10, "steady", 500, 100, 10);
    host.put(11, "idle", 900, 100, 20);
    let mut probe = host.probe(10, generous(), free());
    let mut failed = Failures::default();
    assert!(probe.read(100 * SECOND, &mut failed).iter().all(|p| p.cpu_percent == 0.0));
    host.put(10, "steady", 550, 100, 10);
    host.put(12, "newborn", 20, 10_100, 1);
    host.put(13, "old but unseen", 9999, 5, 1);
    let processes = probe.read(102 * SECOND, &mut failed);
    let of = |pid: u32| processes.iter().find(|p| p.pid == pid).unwrap();
    assert_eq!(of(10).cpu_percent, 25.0);
    assert_eq!(of(12).cpu_percent, 10.0);
    assert_eq!(of(13).cpu_percent, 0.0);
    assert_eq!(of(11).resident_bytes, 20 * 4096);
    assert_eq!(of(10).cgroup, "/kubepods.slice/pod10");
    assert_eq!(processes[0].pid, 10);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

#[test]
fn a_reused_pid_is_another_process() {
    let host = FakeProc::new();
    host.put(10, "first", 500, 100, 1);
    let mut probe = host.probe(10, generous(), free());
    let mut failed = Failures::default();
    probe.read(100 * SECOND, &mut failed);
    host.put(10, "second", 10, 10_050, 1);
    assert_eq!(probe.read(101 * SECOND, &mut failed)[0].cpu_percent, 10.0);
}

#[test]
fn names_may_hold_anything() {
    let host = FakeProc::new();
    host.put(10, "a) R 1 (b c", 0, 100, 7);
    host.put(11, ")\n(", 0, 100, 6);
    let mut failed = Failures::default();
    let processes = host.probe(10, generous(), free()).read(SECOND, &mut failed);
    assert_eq!(processes[0].name, "a) R 1 (b c");
    assert_eq!(processes[0].resident_bytes, 7 * 4096);
    assert_eq!(processes[1].name, ")\n(");
    assert_eq!(processes[1].state, "R");
}

#[test]
fn only_the_top_is_kept_by_both_orders_and_garbage_is_passed_over() {
    let host = FakeProc::new();
    for pid in 1..=50u32 {
        host.put(pid, "p", 0, 0, u64::from(pid));
    }
    std::fs::create_dir(host.0.path().join("99")).unwrap();
    std::fs::create_dir(host.0.path().join("98")).unwrap();
    std::fs::write(host.0.path().join("98/stat"), "98 (no").unwrap();
    std::fs::create_dir(host.0.path().join("sys")).unwrap();
    let mut probe = host.probe(3, generous(), free());
    let mut failed = Failures::default();
    let pids = |v: &[Process]| v.iter().map(|p| p.pid).collect::<Vec<_>>();
    assert_eq!(pids(&probe.read(SECOND, &mut failed)), [50, 49, 48]);
    for pid in 1..=50u32 {
        host.put(pid, "p", u64::from(100 - pid), 0, u64::from(pid));
    }
    assert_eq!(pids(&probe.read(2 * SECOND, &mut failed)), [1, 2, 3, 50, 49, 48]);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

#[test]
fn a_dear_scan_is_spread_over_ticks_and_says_so() {
    let host = FakeProc::new();
    for pid in 1..=1_000u32 {
        host.put(pid, "p", 0, 0, u64::from(pid));
    }
    let mut spent = Duration::ZERO;
    let cost: CostClock = Box::new(move || {
        spent += Duration::from_millis(10);
        spent
    });
    // Each look at the clock costs 10 ms, so each tick affords two buffers of entries.
    let mut probe = host.probe(5, Duration::from_millis(25), cost);
    let mut ticks = 0;
    let (processes, said) = loop {
        ticks += 1;
        let mut failed = Failures::default();
        let processes = probe.read(ticks * SECOND, &mut failed);
        let said = failed.into_vec();
        assert!(said[0].contains("spread over ticks"), "{said:?}");
        if !processes.is_empty() {
            break (processes, said);
        }
        assert!(ticks < 100, "a spread scan must end");
    };
    assert!(ticks >= 3, "{ticks}");
    assert_eq!(processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [1000, 999, 998, 997, 996]);
    assert!(said[0].contains("1000 processes done"), "{said:?}");
    // The next scan begins at the beginning and compares with all of them.
    assert_eq!(probe.previous.len(), 1_000);
}

#[test]
fn the_cgroup_that_tells_most_is_chosen() {
    assert_eq!(cgroup_path(b"0::/a\n").unwrap(), "/a");
    assert_eq!(cgroup_path(b"3:cpu,cpuacct:/c\n2:memory:/m\n1:name=systemd:/s\n0::/\n").unwrap(), "/m");
    assert_eq!(cgroup_path(b"2:memory:/\n1:name=systemd:/s:x\n").unwrap(), "/s:x");
    assert_eq!(cgroup_path(b"0::/\n").unwrap(), "/");
    assert_eq!(cgroup_path(b""), None);
}

#[test]
fn this_machine_shows_this_process() {
    let options =
        ProcessOptions { top: 100_000, budget: generous(), ticks_per_second: 100, page_bytes: 4096 };
    let mut probe = ProcessProbe::new(Path::new("/proc"), options, free());
    let mut failed = Failures::default();
    let processes = probe.read(SECOND, &mut failed);
    let me = processes.iter().find(|p| p.pid == std::process::id()).unwrap();
    assert!(me.resident_bytes > 0 && !me.name.is_empty(), "{me:?}");
}
