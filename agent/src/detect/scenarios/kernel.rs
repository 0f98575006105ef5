//! Lines of the kernel's log, the counters that say the same, and the clock's steps.

use dogwatch::record::FindingState::{Cleared, Raised, Updated};
use dogwatch::record::Severity::{Critical, High, Medium};
use dogwatch::record::{Sample, StuckTask, Tasks};

use super::super::DetectConfig;
use super::world::{GROUP, POD, node, pod, step};
use super::*;

/// What 6.x prints about a kill in the world's pod.
fn kill_in_group(rig: &mut Rig, pid: u32, name: &str) -> Vec<Finding> {
    let mut out = Vec::new();
    out.extend(
        rig.kernel(&["oom-kill"], &format!("{name} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0")),
    );
    out.extend(rig.kernel(&[], "CPU: 0 PID: 1 Comm: x Not tainted"));
    out.extend(rig.kernel(
        &["container-oom"],
        &format!("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a,mems_allowed=0,oom_memcg={GROUP},task_memcg={GROUP},task={name},pid={pid},uid=0"),
    ));
    out.extend(rig.kernel(
        &["container-oom"],
        &format!("Memory cgroup out of memory: Killed process {pid} ({name}) total-vm:210832kB, anon-rss:102400kB, file-rss:256kB, shmem-rss:0kB, UID:0 pgtables:248kB oom_score_adj:1000"),
    ));
    out
}

fn seconds(rig: &mut Rig, s: &mut Sample, n: u64) -> Vec<Finding> {
    let mut out = Vec::new();
    for _ in 0..n {
        step(s);
        out.extend(rig.sample(s));
    }
    out
}

#[test]
fn a_kill_at_a_groups_limit_is_one_finding_with_everything_that_the_kernel_printed() {
    let (mut rig, mut s) = (Rig::new(), node());
    assert_eq!(seconds(&mut rig, &mut s, 5), []);
    let out = kill_in_group(&mut rig, 4242, "evil) (x,y=z");
    assert_eq!(states(&out), [("oom-kill", Raised, High)], "and no log finding beside it");
    let f = &out[0];
    assert_eq!(f.subject.to_string(), format!("pod {POD}"));
    assert_eq!(f.pod, Some(pod()));
    assert_eq!(fact(f, "victim_name"), "evil) (x,y=z (pid 4242)");
    assert_eq!(fact(f, "victim_anon_rss_bytes"), (102_400u64 * 1024).to_string());
    assert_eq!(fact(f, "constraint_type"), "CONSTRAINT_MEMCG");
    assert_eq!(fact(f, "invoked_by_name"), "evil) (x,y=z");
    assert_eq!(fact(f, "cgroup"), GROUP);
    assert_eq!(f.citations.len(), 3, "invoked, chosen, killed: {:?}", f.citations);
    // The same kill in every counter, and in the file of a log daemon.
    s.memory.as_mut().unwrap().oom_kills_total = Some(3);
    s.cgroups[0].oom_kills_total = Some(1);
    let copy = "node-1 kernel: [ 12.3] Memory cgroup out of memory: Killed process 4242 (evil) (x,y=z) total-vm:210832kB, anon-rss:102400kB, file-rss:256kB, shmem-rss:0kB, UID:0 pgtables:248kB oom_score_adj:1000";
    assert_eq!(rig.log("/var/log/syslog", &["container-oom"], copy), []);
    assert_eq!(
        states(&rig.log("/var/log/syslog", &["container-oom"], "x: OOMKilled")),
        [("container-oom", Raised, Medium)]
    );
    assert_eq!(seconds(&mut rig, &mut s, 60), []);
    // A second kill in the pod: the same finding.
    kill_in_group(&mut rig, 4243, "java");
    let out = seconds(&mut rig, &mut s, 70);
    assert!(out.iter().all(|f| f.rule == "oom-kill" && f.state == Updated), "{out:?}");
    assert_eq!(rig.raised("oom-kill").len(), 1);
    let now = rig.active.values().find(|f| f.rule == "oom-kill").unwrap();
    assert_eq!((fact(now, "kills_number"), fact(now, "victim_name")), ("2", "java (pid 4243)"));
    let out = seconds(&mut rig, &mut s, 700);
    assert!(out.iter().any(|f| f.rule == "oom-kill" && f.state == Cleared), "{out:?}");
}

#[test]
fn the_counter_may_come_before_the_line() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5);
    s.memory.as_mut().unwrap().oom_kills_total = Some(3);
    s.cgroups[0].oom_kills_total = Some(1);
    assert_eq!(seconds(&mut rig, &mut s, 10), []);
    assert_eq!(kill_in_group(&mut rig, 7, "a").len(), 1);
    assert_eq!(seconds(&mut rig, &mut s, 50), []);
}

#[test]
fn without_the_kernels_log_the_counters_tell_a_kill_once() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5);
    s.memory.as_mut().unwrap().oom_kills_total = Some(4);
    s.cgroups[0].oom_kills_total = Some(2);
    let out = seconds(&mut rig, &mut s, 60);
    assert_eq!(states(&out), [("oom-kill", Raised, High)]);
    assert_eq!((out[0].subject.to_string(), fact(&out[0], "kills_number")), (format!("pod {POD}"), "2"));
    // One of the node alone: no group counted it.
    s.memory.as_mut().unwrap().oom_kills_total = Some(5);
    let out = seconds(&mut rig, &mut s, 30);
    assert_eq!(states(&out), [("oom-kill", Raised, High)]);
    assert_eq!(out[0].subject.to_string(), "memory node-1");
    s.memory.as_mut().unwrap().oom_kills_total = Some(0);
    s.cgroups[0].oom_kills_total = Some(0);
    assert!(seconds(&mut rig, &mut s, 60).iter().all(|f| f.state != Raised), "it began again");
}

#[test]
fn the_node_itself_running_out_is_critical_and_older_kernels_are_understood() {
    let mut rig = Rig::new();
    rig.kernel(&["oom-kill"], "Out of memory: Kill process 23 (java) score 900 or sacrifice child");
    let out = rig
        .kernel(&[], "Killed process 23 (java) total-vm:100kB, anon-rss:90kB, file-rss:0kB, shmem-rss:0kB");
    assert_eq!(states(&out), [("oom-kill", Raised, Critical)]);
    assert_eq!(out[0].subject.to_string(), "memory node-1");
    rig.pass(30);
    rig.kernel(&[], "Task in /docker/x killed as a result of limit of /docker/x");
    rig.kernel(
        &["container-oom"],
        "Memory cgroup out of memory: Kill process 24 (sh) score 1 or sacrifice child",
    );
    let out = rig.kernel(&[], "Killed process 24 (sh) total-vm:100kB, anon-rss:90kB, file-rss:0kB");
    assert_eq!(states(&out), [("oom-kill", Raised, High)]);
    assert_eq!(out[0].subject.to_string(), "cgroup /docker/x");
}

#[test]
fn a_group_that_is_killed_as_a_whole_is_one_finding() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 2);
    kill_in_group(&mut rig, 1, "a");
    rig.kernel(&[], &format!("Tasks in {GROUP} are going to be killed due to memory.oom.group set"));
    for pid in 2..6 {
        rig.kernel(
            &[],
            &format!("Memory cgroup out of memory: Killed process {pid} (b) total-vm:1kB, anon-rss:1kB"),
        );
    }
    assert_eq!(rig.raised("oom-kill").len(), 1);
    seconds(&mut rig, &mut s, 70);
    let f = rig.active.values().next().unwrap();
    assert_eq!((fact(f, "kills_number"), f.subject.name.as_str()), ("5", POD));
}

#[test]
fn lines_about_disks_mounts_tasks_tables_and_the_kernel_are_their_rules() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 3);
    for (log_rule, line, rule, severity, subject) in [
        (
            "disk-io-error",
            "I/O error, dev sda, sector 7 op 0x0:(READ) flags 0x0",
            "disk-errors",
            High,
            "disk sda",
        ),
        (
            "filesystem-error",
            "XFS (sdb1): Corruption of in-memory data detected.  Shutting down filesystem",
            "disk-errors",
            Critical,
            "disk sdb",
        ),
        (
            "read-only-remount",
            "EXT4-fs (sda1): Remounting filesystem read-only",
            "mount-read-only",
            Critical,
            "mount /",
        ),
        (
            "hung-task",
            "INFO: task cat:77 blocked for more than 120 seconds.",
            "hung-tasks",
            Medium,
            "process cat (77)",
        ),
        (
            "conntrack-full",
            "nf_conntrack: nf_conntrack: table full, dropping packet",
            "conntrack-exhaustion",
            Critical,
            "node node-1",
        ),
        (
            "kernel-lockup",
            "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [x:1]",
            "kernel-trouble",
            High,
            "kernel soft-lockup",
        ),
        ("kernel-oops", "Oops: 0002 [#1] SMP NOPTI", "kernel-trouble", Critical, "kernel oops"),
        (
            "",
            "cgroup: fork rejected by pids controller in /kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope",
            "pid-exhaustion",
            High,
            "pod shop/web/app",
        ),
    ] {
        let rules: Vec<&str> = [log_rule].into_iter().filter(|r| !r.is_empty()).collect();
        let out = rig.kernel(&rules, line);
        assert_eq!(states(&out), [(rule, Raised, severity)], "{line}");
        assert_eq!(out[0].subject.to_string(), subject);
        assert_eq!(rig.kernel(&rules, line), [], "counted, not said again at once");
    }
    // One that failed with a mount on it carries the mount, so that it meets the findings about that.
    assert!(
        rig.active
            .values()
            .any(|f| f.rule == "disk-errors" && f.facts.iter().any(|f| f.key == "mount" && f.value == "/"))
    );
    // Rules of a user's own speak all the same, and so do shipped ones where no detector does.
    assert_eq!(
        states(&rig.kernel(&["mine", "disk-io-error"], "I/O error, dev sda, sector 8")),
        [("mine", Raised, Medium)]
    );
    assert_eq!(
        states(&rig.kernel(&["segfault"], "x[1]: segfault at 0 ip 1")),
        [("segfault", Raised, Medium)]
    );
    seconds(&mut rig, &mut s, 2_000);
    assert!(rig.active.is_empty(), "{:?}", rig.active);
}

#[test]
fn a_rule_that_is_off_leaves_the_line_to_the_log_rule() {
    let config = DetectConfig { off: ["disk-errors".to_owned()].into(), ..DetectConfig::default() };
    let mut rig = Rig::with(config);
    assert_eq!(
        states(&rig.kernel(&["disk-io-error"], "I/O error, dev sda, sector 8")),
        [("disk-io-error", Raised, Medium)]
    );
}

#[test]
fn an_earlier_runs_event_is_over_after_its_quiet_time() {
    let (mut first, mut s) = (Rig::new(), node());
    seconds(&mut first, &mut s, 2);
    kill_in_group(&mut first, 1, "a");
    first.kernel(&[], "Oops: 0002 [#1] SMP NOPTI");
    let mut second = Rig::run(DetectConfig::default(), 2);
    second.now = first.now;
    second.seed(&first);
    assert_eq!(seconds(&mut second, &mut s, 590), []);
    assert_eq!(states(&seconds(&mut second, &mut s, 20)), [("oom-kill", Cleared, High)]);
    assert_eq!(states(&seconds(&mut second, &mut s, 1_300)), [("kernel-trouble", Cleared, Critical)]);
}

/// Scans come each few samples, and the line's quiet time ends between two of them.
#[test]
fn what_a_line_began_and_scans_go_on_to_show_is_not_over_after_the_lines_quiet_time() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 2);
    let second = |rig: &mut Rig, s: &mut Sample, hangs: bool| {
        step(s);
        let mut sample = s.clone();
        let stuck = StuckTask { pid: 77, name: "cat".into(), stuck_ms: 200_000, ..StuckTask::default() };
        sample.tasks = rig
            .second()
            .is_multiple_of(5)
            .then(|| Tasks { stuck: hangs.then_some(stuck).into_iter().collect(), ..Tasks::default() });
        rig.sample(&sample)
    };
    rig.kernel(&[], "INFO: task cat:77 blocked for more than 122 seconds.");
    assert_eq!(rig.raised("hung-tasks").len(), 1);
    let id = rig.raised("hung-tasks")[0].1.id.clone();
    for _ in 0..900 {
        let said = second(&mut rig, &mut s, true);
        assert!(said.iter().all(|f| f.state == Updated), "at {} s: {said:?}", rig.second());
    }
    assert!(rig.active.contains_key(&id), "it hangs");
    // From then on samples decide: three scans that do not show it.
    let ended: Vec<Finding> = (0..30).flat_map(|_| second(&mut rig, &mut s, false)).collect();
    assert_eq!(states(&ended), [("hung-tasks", Cleared, Medium)]);
    assert_eq!(ended[0].id, id);
    assert_eq!(fact(&ended[0], "uninterruptible_number"), "0", "that a scan found it is told to the end");
}

#[test]
fn steps_of_the_clock_in_both_directions_and_no_others() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5);
    rig.now.wall_ns += 5_000_000_000;
    let out = seconds(&mut rig, &mut s, 3);
    assert_eq!(states(&out), [("clock-jump", Raised, Medium)]);
    assert_eq!(fact(&out[0], "jump_seconds"), "5.000");
    assert_eq!(out[0].citations.len(), 2);
    rig.now.wall_ns -= 3_600_000_000_000;
    let out = seconds(&mut rig, &mut s, 3);
    assert_eq!(states(&out), [("clock-jump", Updated, High)]);
    assert!(out[0].summary.contains("back by 60 min (2 jumps)"), "{}", out[0].summary);
    assert_eq!(states(&seconds(&mut rig, &mut s, 700)), [("clock-jump", Cleared, High)]);
    // Suspended for an hour: both clocks went on.
    rig.pass(3_600);
    assert_eq!(seconds(&mut rig, &mut s, 5), []);
    // A reader that lost its CPU between the two clocks: a step that the next sample takes back.
    rig.now.wall_ns += 2_000_000_000;
    assert_eq!(seconds(&mut rig, &mut s, 1), []);
    rig.now.wall_ns -= 2_000_000_000;
    assert_eq!(seconds(&mut rig, &mut s, 60), []);
    // Slewing at the most that the kernel does is no step.
    for _ in 0..100 {
        rig.now.wall_ns += 500_000;
        assert_eq!(seconds(&mut rig, &mut s, 1), []);
    }
}

#[test]
fn a_clock_that_was_never_synchronised_says_nothing() {
    let (mut rig, mut s) = (Rig::new(), node());
    for _ in 0..2_000 {
        step(&mut s);
        let clock = s.clock.as_mut().unwrap();
        (clock.synchronised, clock.max_error_us) = (false, 16_000_000);
        assert_eq!(rig.sample(&s), []);
    }
}
