//! Processes of fake hosts: who is at the top, and what a dear scan does.

use super::tasks::{KTHREADD, MAX_FOLLOWED, MAX_STUCK};
use super::*;

const SECOND: u64 = 1_000_000_000;

struct FakeProc(tempfile::TempDir);

impl FakeProc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, pid: u32, name: &str, cpu_ticks: u64, start: u64, pages: u64) {
        self.put_as(pid, name, 'R', 1, cpu_ticks, start, pages);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one line")]
    fn put_as(&self, pid: u32, name: &str, state: char, ppid: u32, cpu: u64, start: u64, pages: u64) {
        let stat = format!(
            "{pid} ({name}) {state} {ppid} 1 1 0 -1 0 0 0 0 0 {cpu} 0 0 0 20 0 3 0 {start} 1000 {pages} 18446\n"
        );
        self.write(pid, "stat", &stat);
        self.write(pid, "cgroup", &format!("0::/kubepods.slice/pod{pid}\n"));
    }

    /// In uninterruptible sleep, in a pod.
    fn hang_in_pod(&self, pid: u32) {
        self.put_as(pid, "d", 'D', 1, 0, 1, 1);
        self.write(pid, "cgroup", "0::/kubepods/burstable/pod12345678-9abc-def0-1234-56789abcdef0\n");
    }

    /// Likewise, a service of the node's.
    fn hang_in_service(&self, pid: u32, name: &str) {
        self.put_as(pid, name, 'D', 1, 0, 1, 1);
        self.write(pid, "cgroup", &format!("0::/system.slice/{name}.service\n"));
    }

    fn write(&self, pid: u32, file: &str, text: &str) {
        let dir = self.0.path().join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file), text).unwrap();
    }

    fn io(&self, pid: u32, read: u64, written: u64) {
        let text = format!("rchar: 1\nwchar: 2\nread_bytes: {read}\nwrite_bytes: {written}\n");
        self.write(pid, "io", &text);
    }

    fn descriptors(&self, pid: u32, open: u32, limit: u32) {
        let fds = self.0.path().join(pid.to_string()).join("fd");
        let _ = std::fs::remove_dir_all(&fds);
        std::fs::create_dir_all(&fds).unwrap();
        for n in 0..open {
            std::fs::write(fds.join(n.to_string()), "").unwrap();
        }
        let line =
            format!("Limit Soft Hard Units\nMax open files            {limit}       {limit}     files\n");
        self.write(pid, "limits", &line);
    }

    fn gone(&self, pid: u32) {
        std::fs::remove_dir_all(self.0.path().join(pid.to_string())).unwrap();
    }

    fn probe(&self, top: usize, budget: Duration, cost: CostClock) -> ProcessProbe {
        let options = ProcessOptions { top, budget, ticks_per_second: 100, page_bytes: 4096 };
        ProcessProbe::new(self.0.path(), options, cost)
    }
}

/// The processes of one look, of a node without pods.
fn look(probe: &mut ProcessProbe, now_ns: u64, failed: &mut Failures) -> Vec<Process> {
    probe.read(now_ns, &no_pods(), failed).processes
}

/// What a whole scan at second `at` says of all of them.
fn tasks(probe: &mut ProcessProbe, at: u64) -> Tasks {
    let mut failed = Failures::default();
    let tasks = probe.read(at * SECOND, &no_pods(), &mut failed).tasks.unwrap();
    assert_eq!(failed.into_vec(), Vec::<String>::new());
    tasks
}

fn no_pods() -> Pods {
    Pods::new(Path::new("/nonexistent"))
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
    assert!(look(&mut probe, 100 * SECOND, &mut failed).iter().all(|p| p.cpu_percent == 0.0));
    host.put(10, "steady", 550, 100, 10);
    host.put(12, "newborn", 20, 10_100, 1);
    host.put(13, "old but unseen", 9999, 5, 1);
    let processes = look(&mut probe, 102 * SECOND, &mut failed);
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
    look(&mut probe, 100 * SECOND, &mut failed);
    host.put(10, "second", 10, 10_050, 1);
    assert_eq!(look(&mut probe, 101 * SECOND, &mut failed)[0].cpu_percent, 10.0);
}

#[test]
fn names_may_hold_anything() {
    let host = FakeProc::new();
    host.put(10, "a) R 1 (b c", 0, 100, 7);
    host.put(11, ")\n(", 0, 100, 6);
    let mut failed = Failures::default();
    let processes = look(&mut host.probe(10, generous(), free()), SECOND, &mut failed);
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
    assert_eq!(pids(&look(&mut probe, SECOND, &mut failed)), [50, 49, 48]);
    for pid in 1..=50u32 {
        host.put(pid, "p", u64::from(100 - pid), 0, u64::from(pid));
    }
    assert_eq!(pids(&look(&mut probe, 2 * SECOND, &mut failed)), [1, 2, 3, 50, 49, 48]);
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
        let processes = look(&mut probe, ticks * SECOND, &mut failed);
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
fn this_machine_shows_this_process() {
    let options =
        ProcessOptions { top: 100_000, budget: generous(), ticks_per_second: 100, page_bytes: 4096 };
    let mut probe = ProcessProbe::new(Path::new("/proc"), options, free());
    let mut failed = Failures::default();
    let processes = look(&mut probe, SECOND, &mut failed);
    let me = processes.iter().find(|p| p.pid == std::process::id()).unwrap();
    assert!(me.resident_bytes > 0 && !me.name.is_empty() && me.threads > 0 && me.ppid > 0, "{me:?}");
    assert!(me.open_files.is_some_and(|n| n >= 3), "{me:?}");
}

#[test]
fn parents_threads_and_open_files_are_told() {
    let host = FakeProc::new();
    host.put_as(10, "p", 'S', 7, 1, 100, 5);
    host.descriptors(10, 4, 1024);
    let mut failed = Failures::default();
    let processes = look(&mut host.probe(10, generous(), free()), SECOND, &mut failed);
    assert_eq!((processes[0].ppid, processes[0].threads, processes[0].open_files), (7, 3, Some(4)));
    assert_eq!(processes[0].read_bytes_per_s, None, "there is no io file, as without the right to read it");
}

#[test]
fn who_moves_much_without_much_cpu_is_found_by_turns_and_then_followed() {
    let host = FakeProc::new();
    for pid in 100..200 {
        host.put(pid, "crowd", 1_000, 1, 1_000);
        host.io(pid, 0, 0);
    }
    host.put(300, "mover", 1, 1, 1);
    host.io(300, 0, 0);
    let mut probe = host.probe(3, generous(), free());
    let mut failed = Failures::default();
    let mut first_seen = None;
    for at in 1..=40u64 {
        // 1 MiB/s read and 2 MiB/s written, for a tick of CPU time a second.
        host.put(300, "mover", at, 1, 1);
        host.io(300, at << 20, at << 21);
        let processes = look(&mut probe, at * SECOND, &mut failed);
        if let Some(mover) = processes.iter().find(|p| p.name == "mover" && p.written_bytes_per_s.is_some()) {
            first_seen.get_or_insert(at);
            assert_eq!(mover.read_bytes_per_s, Some(f64::from(1 << 20)), "at {at}");
            assert_eq!(mover.written_bytes_per_s, Some(f64::from(1 << 21)), "at {at}");
        }
    }
    assert!(first_seen.is_some_and(|at| at <= 2 * u64::from(io::ROUND) + 1), "{first_seen:?}");
    // It stops, and leaves the list.
    let stopped = look(&mut probe, 41 * SECOND, &mut failed);
    assert!(stopped.iter().all(|p| p.name != "mover" || p.written_bytes_per_s == Some(0.0)), "{stopped:?}");
    let after: Vec<_> = (42..60).map(|at| look(&mut probe, at * SECOND, &mut failed)).collect();
    assert!(after.last().unwrap().iter().all(|p| p.name != "mover" || p.cpu_percent == 0.0));
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

#[test]
fn a_burst_after_a_long_idleness_is_not_spread_over_it() {
    let host = FakeProc::new();
    host.put(10, "p", 5, 1, 100);
    host.io(10, 0, 0);
    let mut probe = host.probe(3, generous(), free());
    let mut failed = Failures::default();
    for at in 1..=100 {
        look(&mut probe, at * SECOND, &mut failed);
    }
    host.put(10, "p", 9, 1, 100);
    host.io(10, 0, 1_000_000);
    let processes = look(&mut probe, 101 * SECOND, &mut failed);
    assert_eq!(processes[0].written_bytes_per_s, Some(1e6));
}

#[test]
fn who_is_stuck_is_told_with_the_time_and_the_place() {
    let host = FakeProc::new();
    host.put_as(10, "nfs-reader", 'D', 1, 0, 100, 1);
    host.write(10, "wchan", "rpc_wait_bit_killable");
    host.put_as(11, "moment", 'D', 1, 0, 100, 1);
    host.put_as(12, "dead", 'Z', 1, 0, 100, 0);
    host.put_as(13, "ok", 'S', 1, 0, 100, 1);
    let mut probe = host.probe(3, generous(), free());
    let first = tasks(&mut probe, 100);
    assert_eq!((first.processes, first.zombies, first.uninterruptible), (4, 1, 2));
    assert_eq!(first.stuck, [], "once is no time");
    host.put_as(11, "moment", 'S', 1, 0, 100, 1);
    tasks(&mut probe, 101);
    let third = tasks(&mut probe, 103);
    assert_eq!(third.stuck.len(), 1, "{:?}", third.stuck);
    let stuck = &third.stuck[0];
    assert_eq!((stuck.pid, stuck.stuck_ms, stuck.wchan.as_str()), (10, 3_000, "rpc_wait_bit_killable"));
    assert_eq!((stuck.name.as_str(), stuck.cgroup.as_str()), ("nfs-reader", "/kubepods.slice/pod10"));
    // Another process of that number begins anew, and a wait channel that is no symbol is left out.
    host.put_as(10, "another", 'D', 1, 0, 200, 1);
    host.write(10, "wchan", "\u{1b}[2J");
    assert_eq!(tasks(&mut probe, 104).stuck, []);
    let again = tasks(&mut probe, 105);
    assert_eq!((again.stuck[0].stuck_ms, again.stuck[0].wchan.as_str()), (1_000, ""));
}

#[test]
fn a_thousand_stuck_ones_are_counted_and_the_longest_told() {
    let host = FakeProc::new();
    for pid in 1..=2_000 {
        host.put_as(pid, "d", 'D', 1, 0, 1, 1);
    }
    let mut probe = host.probe(3, Duration::from_secs(100), free());
    tasks(&mut probe, 1);
    let second = tasks(&mut probe, 2);
    assert_eq!((second.uninterruptible, second.stuck.len()), (2_000, 16));
}

#[test]
fn what_hangs_in_pods_takes_no_places_of_what_hangs_outside_them() {
    let host = FakeProc::new();
    for pid in 100..130 {
        host.hang_in_pod(pid);
    }
    let mut probe = host.probe(3, generous(), free());
    tasks(&mut probe, 1);
    tasks(&mut probe, 2);
    host.hang_in_service(4_000, "containerd");
    for at in 3..40 {
        let told = tasks(&mut probe, at).stuck;
        let own: Vec<_> = told.iter().filter(|t| t.pod.is_none()).map(|t| t.name.as_str()).collect();
        let expected: &[&str] = if at == 3 { &[] } else { &["containerd"] };
        assert_eq!((own.as_slice(), told.len()), (expected, MAX_STUCK + expected.len()), "{at}");
        assert!(told.is_sorted_by(|a, b| a.stuck_ms >= b.stuck_ms), "the longest first");
    }
}

#[test]
fn what_hangs_in_services_takes_no_places_of_the_kernels_own_threads() {
    let host = FakeProc::new();
    for pid in 100..130 {
        host.hang_in_service(pid, "df");
    }
    let mut probe = host.probe(3, generous(), free());
    tasks(&mut probe, 1);
    host.put_as(4_000, "jbd2/sda1-8", 'D', KTHREADD, 0, 1, 0);
    host.write(4_000, "cgroup", "0::/\n");
    tasks(&mut probe, 2);
    let told = tasks(&mut probe, 3).stuck;
    assert_eq!(told.len(), MAX_STUCK + 1);
    assert_eq!(told.last().map(|t| (t.name.as_str(), t.stuck_ms)), Some(("jbd2/sda1-8", 1_000)));
}

#[test]
fn however_many_hang_in_pods_what_hangs_outside_them_is_followed() {
    let host = FakeProc::new();
    for pid in 100..100 + MAX_FOLLOWED as u32 + 500 {
        host.hang_in_pod(pid);
    }
    host.hang_in_service(4_000, "containerd");
    let mut probe = host.probe(3, Duration::from_secs(100), free());
    tasks(&mut probe, 1);
    let told = tasks(&mut probe, 2).stuck;
    let own: Vec<_> = told.iter().filter(|t| t.pod.is_none()).map(|t| t.pid).collect();
    assert_eq!((own, told.len()), (vec![4_000], MAX_STUCK + 1));
}

#[test]
fn where_few_hang_nobodys_group_is_read_but_of_those_that_are_told() {
    let host = FakeProc::new();
    for pid in 100..100 + MAX_STUCK as u32 {
        host.hang_in_pod(pid);
    }
    host.put(1, "init", 0, 1, 1_000);
    let mut probe = host.probe(1, generous(), free());
    tasks(&mut probe, 1);
    assert_eq!(probe.listed.remembered(), 1, "the one at the top");
    tasks(&mut probe, 2);
    assert_eq!(probe.listed.remembered(), 1 + MAX_STUCK);
    host.hang_in_pod(5_000);
    tasks(&mut probe, 3);
    assert_eq!(probe.listed.remembered(), 1 + MAX_STUCK, "the newest hangs for no time yet");
    tasks(&mut probe, 4);
    tasks(&mut probe, 5);
    assert_eq!(probe.listed.remembered(), 1 + MAX_STUCK, "one in a pod is asked for once");
}

#[test]
fn who_starts_others_is_told() {
    let host = FakeProc::new();
    host.put(10, "shell", 0, 100, 1);
    host.put(11, "daemon", 0, 100, 1);
    let mut probe = host.probe(3, generous(), free());
    assert_eq!(tasks(&mut probe, 100).spawners, [], "at first everything is new");
    for pid in 20..50 {
        host.put_as(pid, "child", 'R', 10, 0, 10_050, 1);
    }
    host.put_as(50, "worker", 'R', 11, 0, 10_050, 1);
    // Its parent is gone, and the number is taken by a younger process.
    host.put_as(60, "orphan", 'R', 59, 0, 10_010, 1);
    host.put(59, "taker", 0, 10_090, 1);
    let spawners = tasks(&mut probe, 101).spawners;
    let told: Vec<_> = spawners.iter().map(|s| (s.pid, s.name.as_str(), s.children, s.start_ticks)).collect();
    // The taker has a parent too.
    assert_eq!(
        told,
        [(10, "shell", 30, 100), (1, "taker", 1, 0), (11, "daemon", 1, 100), (59, "orphan", 1, 0)]
    );
    assert_eq!(spawners[0].cgroup, "/kubepods.slice/pod10");
    assert_eq!(tasks(&mut probe, 102).spawners, []);
}

#[test]
fn who_comes_near_its_limit_of_descriptors_is_told_until_it_does_not() {
    let host = FakeProc::new();
    host.put(10, "leaky", 0, 100, 1);
    host.descriptors(10, 60, 100);
    host.put(11, "modest", 0, 100, 1);
    host.descriptors(11, 40, 100);
    host.put(12, "few", 0, 100, 1);
    host.descriptors(12, 5, 6);
    let mut probe = host.probe(3, generous(), free());
    let found = (1..=40).map(|at| tasks(&mut probe, at).descriptors).find(|d| !d.is_empty()).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].pid, found[0].open, found[0].max), (10, 60, 100));
    assert_eq!((found[0].name.as_str(), found[0].cgroup.as_str()), ("leaky", "/kubepods.slice/pod10"));
    host.descriptors(10, 90, 100);
    assert_eq!(tasks(&mut probe, 41).descriptors[0].open, 90, "looked at again at once");
    host.gone(10);
    assert_eq!(tasks(&mut probe, 42).descriptors, []);
}

#[test]
fn the_pod_of_a_process_is_that_of_its_cgroup() {
    let uid = "12345678-9abc-def0-1234-56789abcdef0";
    let logs = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(logs.path().join("pods").join(format!("shop_web-0_{uid}"))).unwrap();
    let mut pods = Pods::new(logs.path());
    pods.refresh(SECOND);
    let host = FakeProc::new();
    host.put(10, "p", 1, 100, 5);
    host.write(10, "cgroup", &format!("0::/kubepods/pod{uid}/{}\n", "ab".repeat(32)));
    let mut failed = Failures::default();
    let scanned = host.probe(10, generous(), free()).read(SECOND, &pods, &mut failed);
    let pod = scanned.processes[0].pod.clone().unwrap();
    assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("web-0", uid));
}

#[test]
fn hostile_names_are_data() {
    let host = FakeProc::new();
    let dir = host.0.path().join("10");
    std::fs::create_dir(&dir).unwrap();
    let mut stat = b"10 (".to_vec();
    stat.extend_from_slice(b"\x1b]0;x\x07\n) Z 1 (\xff\xfe");
    stat.extend_from_slice(b") S 1 1 1 0 -1 0 0 0 0 0 5 0 0 0 20 0 3 0 100 1000 7 18446\n");
    std::fs::write(dir.join("stat"), stat).unwrap();
    let mut failed = Failures::default();
    let processes = look(&mut host.probe(10, generous(), free()), SECOND, &mut failed);
    assert_eq!(processes[0].name, "\u{1b}]0;x\u{7}\n) Z 1 (\u{fffd}\u{fffd}");
    assert_eq!((processes[0].state.as_str(), processes[0].threads), ("S", 3));
}

#[test]
fn garbage_in_every_file_costs_those_figures_only() {
    let host = FakeProc::new();
    let garbage = "\u{0}\u{1b}( ) ) 99999999999999999999999 -1 :::: /../..\n".repeat(200);
    for pid in 1..=50 {
        host.put(pid, "p", 1, 100, u64::from(pid));
        for file in ["io", "limits", "cgroup", "wchan"] {
            host.write(pid, file, &garbage);
        }
        if pid % 2 == 0 {
            host.write(pid, "stat", &garbage);
        }
    }
    let mut probe = host.probe(10, generous(), free());
    for at in 1..=40 {
        let tasks = tasks(&mut probe, at);
        assert_eq!(tasks.processes, 25);
    }
}

#[test]
fn processes_that_come_and_go_while_they_are_read_cost_nothing_else() {
    let host = std::sync::Arc::new(FakeProc::new());
    host.put(1, "init", 1, 1, 1_000_000);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (h, s) = (host.clone(), stop.clone());
    let churn = std::thread::spawn(move || {
        let mut round = 0u64;
        while !s.load(std::sync::atomic::Ordering::Relaxed) {
            for pid in 100..120 {
                h.put_as(pid, "brief", 'D', 1, round, round, 5);
                h.io(pid, round, round);
            }
            for pid in 100..120 {
                h.gone(pid);
            }
            round += 1;
        }
    });
    let mut probe = host.probe(50, generous(), free());
    for at in 1..=300 {
        let mut failed = Failures::default();
        let processes = look(&mut probe, at * SECOND, &mut failed);
        assert!(processes.iter().any(|p| p.name == "init"));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
}

#[test]
fn a_hundred_thousand_processes_keep_to_the_budget_and_to_their_memory() {
    const PROCESSES: u32 = 100_000;
    // In memory: a disk takes minutes to make so many.
    let host = FakeProc(tempfile::tempdir_in("/dev/shm").unwrap());
    for pid in 1..=PROCESSES {
        let dir = host.0.path().join(pid.to_string());
        std::fs::create_dir(&dir).unwrap();
        let stat = format!("{pid} (p) D 1 1 1 0 -1 0 0 0 0 0 5 0 0 0 20 0 3 0 100 1000 7 18446\n");
        std::fs::write(dir.join("stat"), stat).unwrap();
    }
    let budget = Duration::from_millis(25);
    let mut probe = host.probe(10, budget, Box::new(super::super::thread_cpu_time));
    let (mut firsts, mut lasts, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for scan in 0..5 {
        let mut ticks = 0;
        loop {
            ticks += 1;
            let mut failed = Failures::default();
            let began = super::super::thread_cpu_time();
            let scanned = probe.read((scan * 10_000 + ticks) * SECOND, &no_pods(), &mut failed);
            let spent = super::super::thread_cpu_time() - began;
            match (ticks, &scanned.tasks) {
                (_, Some(_)) => lasts.push(spent),
                (1, None) => firsts.push(spent),
                _ => others.push(spent),
            }
            assert!(failed.into_vec()[0].contains("spread over ticks"));
            if let Some(tasks) = scanned.tasks {
                assert_eq!((tasks.processes, tasks.uninterruptible), (100_000, 100_000));
                break;
            }
            assert!(ticks < 10_000, "a spread scan must end");
        }
        assert!(ticks > 1);
    }
    // What else runs on the machine makes some ticks dearer, and none cheaper: of those that do the same, the cheapest tells.
    others.sort_unstable();
    let nearly_all = others[others.len() * 95 / 100];
    let told = [firsts.into_iter().min().unwrap(), lasts.into_iter().min().unwrap(), nearly_all];
    // A buffer of names more than the budget, and the end of a scan.
    assert!(
        told.iter().all(|spent| *spent < budget * 4),
        "the first, the last, and nearly all others: {told:?}"
    );
    let kept = (probe.previous.capacity() + probe.current.capacity()) * size_of::<Seen>();
    assert!(kept <= 2 * MAX_PROCESSES * 16, "{kept}");
    assert_eq!(size_of::<Seen>(), 16);
}
