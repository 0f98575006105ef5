//! A container's control group as the kubelet would make it, with limits, and work in it that runs into each of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::cgroup::Group;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::wait::until;

/// Each on version 1, the last for pressure alone.
const CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "blkio", "unified"];
/// A tenth of a CPU: two who want one each are throttled, also where others want all of them.
const QUOTA_US: u32 = 10_000;
/// Less than the file that is written over and over, so that its pages do not stay.
const MEMORY_BYTES: u64 = 24 << 20;
const PIDS: u32 = 64;

/// The group, and those above it.
pub(super) struct Container {
    /// Those on top go last.
    container: Group,
    pod: Group,
    _above: Vec<Group>,
}

impl Container {
    /// Makes it, and has the kernel kill somebody in it for its memory.
    pub(super) fn new() -> Self {
        let top = Group::new(&CONTROLLERS);
        let pods = top.child("kubepods");
        let class = pods.child("burstable");
        let pod = class.child(&format!("pod{:08x}-0000-4000-8000-00000000d09a", std::process::id()));
        let container = pod.child(&format!("{:064x}", 0xd09_u32));
        container.set("cpu", "cpu.cfs_quota_us", QUOTA_US);
        container.set("memory", "memory.limit_in_bytes", MEMORY_BYTES);
        // Where there is a swap, nobody would be killed.
        container.set("memory", "memory.swappiness", 0);
        container.set("pids", "pids.max", PIDS);
        let made = Self { container, pod, _above: vec![class, pods, top] };
        made.kill_somebody();
        made
    }

    /// Paths of the pod's group and of the container's.
    pub(super) fn paths(&self) -> [String; 2] {
        [self.pod.path(), self.container.path()]
    }

    /// Whether `figure` is of something that this test can speak of: other groups come, change and go meanwhile.
    pub(super) fn is_ours_to_judge(&self, figure: &str) -> bool {
        !figure.starts_with("cgroups.")
            || self.paths().iter().any(|path| figure.starts_with(&format!("cgroups.{path}.")))
    }

    /// Two who want a CPU each, and one who reads and writes `disk`, which is mounted from `device`, past the page cache and through it.
    pub(super) fn work(&self, disk: &Path, device: &str, folder: &Path) -> Vec<Process> {
        let numbers =
            std::fs::read_to_string(format!("/sys/block/{device}/dev")).expect("sysfs knows the disk");
        // The kernel counts the I/O of groups on disks that have a rule; this one throttles nobody.
        let rule = format!("{} 1000000000000", numbers.trim());
        self.container.set("blkio", "blkio.throttle.write_bps_device", rule);
        let direct = disk.join("direct");
        let cached = disk.join("cached");
        let storage = format!(
            "while :; do \
                dd if=/dev/zero of={direct} bs=64k count=32 conv=notrunc oflag=direct; \
                dd if={direct} of=/dev/null bs=64k iflag=direct; \
                dd if=/dev/zero of={cached} bs=1M count=32 conv=notrunc,fdatasync; \
            done",
            direct = direct.display(),
            cached = cached.display()
        );
        let busy = "while :; do :; done";
        let workers: Vec<Process> =
            // Who waits for a CPU moves nothing: that one is not in the group that is throttled.
            [(busy, true), (busy, true), (&storage, false)]
                .into_iter()
                .map(|(what, throttled)| self.enter(what, throttled, folder))
                .collect();
        until("the workers to be in their group and throttled", Duration::from_secs(20), || {
            let throttled = self.container.get("cpu", "cpu.stat").contains("nr_throttled 0\n");
            let written = self.container.get("blkio", "blkio.throttle.io_service_bytes_recursive");
            let at_work = self.container.members().len() >= workers.len() && !throttled;
            (at_work && written.contains("Write") && cached.exists()).then_some(())
        });
        workers
    }

    fn enter(&self, what: &str, throttled: bool, folder: &Path) -> Process {
        let mut script = String::new();
        let quota = self.container.folder("cpu");
        for file in self.container.procs_files().iter().filter(|f| throttled || !f.starts_with(&quota)) {
            script.push_str(&format!("echo $$ > {} && ", file.display()));
        }
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script} {what}")]);
        Process::start("sh in a control group", command, &folder.join("work.log"))
    }

    fn kill_somebody(&self) {
        let procs = self.container.folder("memory").join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && echo 1000 > /proc/self/oom_score_adj && \
             exec dd if=/dev/zero of=/dev/null bs=64M count=1 status=none",
            procs.display()
        );
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh can be started");
        assert!(!status.success(), "64 MiB fit into a limit of {MEMORY_BYTES} bytes");
        until("a kill for the limit to be counted", Duration::from_secs(10), || {
            (!self.container.get("memory", "memory.oom_control").contains("oom_kill 0\n")).then_some(())
        });
    }
}
