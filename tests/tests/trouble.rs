//! Real trouble: each test brings it about on this machine and waits for the agent's finding, with the right subject;
//! nothing else may be said about what the test made.
//!
//! What a machine says about itself as a whole (its CPUs are busy, tasks wait for memory) may be true at the same time,
//! since other tests run beside these; such findings are printed, not counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dogwatch_e2e::cgroup::Group;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::{Process, children_of};
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Post, Stage};
use dogwatch_e2e::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(150);
const MIB: u64 = 1 << 20;
/// The kernel gives numbers of loop devices away again at once, and what one test did to its device must not be said of the
/// next one's.
static LOOP_DEVICES: Mutex<()> = Mutex::new(());
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Rules about the machine as a whole, or about what other tests may be doing to it right now.
const OF_THE_MACHINE: &[&str] = &[
    "cpu-saturation",
    "cpu-steal",
    "memory-pressure",
    "swap-storm",
    "clock-skew",
    "disk-high-water",
    "inode-high-water",
    "disk-time-to-full",
];

/// As a container's group: in each controller.
const CONTROLLERS: &[&str] = &["memory", "cpu", "cpuacct", "pids"];
/// A minute's windows in ten seconds.
const QUICK_THROTTLING: &str = "sample: { cgroups: { every: 1s } }\n\
    detect: { cpu_throttling: { window: 10s, min_periods: 30, min_throttled: 1s, raise_ticks: 3 } }\n";
/// Two minutes' windows in twenty seconds.
const QUICK_GROWTH: &str = "sample: { cgroups: { every: 1s } }\n\
    detect: { cgroup_memory: { window: 20s } }\n";
/// Stalls of seconds, where a node gives them half a minute and two.
const QUICK_STALLS: &str = "detect: { io_stall: { dead_after: 5s }, hung_tasks: { after: 5s } }\n";
/// Fewer forks than a node's: an unoptimised scan beside other tests leaves the storm little CPU.
const QUICK_FORKS: &str = "detect: { fork_storm: { min_per_second: 100, factor: 2, raise_ticks: 5 } }\n";

struct Scene {
    stage: Stage,
    post: Post,
    journal: Person,
}

/// A finding as the node's own journal has it.
#[derive(Debug, Clone)]
struct Said {
    rule: String,
    subject: String,
    all: Value,
}

impl Scene {
    /// An agent on its own. `more`: further configuration, thresholds that are scaled down to a test's patience.
    fn new(more: &str) -> Self {
        Self::with(more, |post| post.launch())
    }

    fn with(more: &str, launch: impl FnOnce(&mut Post)) -> Self {
        let stage = Stage::new(programs!());
        let state = stage.path().join("agent");
        let nothing = stage.path().join("no-logs");
        let tail = format!(
            "kernel: {{ enabled: true, history: 1s }}\ntail: {{ globs: [\"{}/*.log\"] }}\n",
            nothing.display()
        );
        let mut post =
            stage.post("node-a", &state, None, &format!("cleanup: {{ mode: \"off\" }}\n{tail}{more}"));
        launch(&mut post);
        let journal = stage.on_journal(&state);
        let scene = Self { stage, post, journal };
        until("the agent to be up", PATIENCE, || scene.post.said().contains("the agent is up").then_some(()));
        // A first sample of everything, so that what changes from here on is seen to change.
        until("some samples", PATIENCE, || (scene.samples() >= 2).then_some(()));
        scene
    }

    /// Between two looks: each reads the journal with an unoptimised program, and the trouble needs the CPU more.
    fn breathe(&self) {
        std::thread::sleep(LOOK_EVERY);
    }

    fn findings(&self) -> Vec<Said> {
        self.breathe();
        let out = self.journal.dogwatch(&["get", "findings", "-o", "json"]);
        let rows: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let said = |row: &Value| Said { rule: text(&row["rule"]), subject: subject(row), all: row.clone() };
        rows.as_array().into_iter().flatten().map(said).collect()
    }

    /// Waits for a finding of `rule` whose subject or facts name `who`.
    fn expect(&self, rule: &str, who: &str) -> Said {
        until(&format!("{rule} about {who}; said so far: {:?}", self.brief()), PATIENCE, || {
            self.findings().into_iter().find(|f| f.rule == rule && f.all.to_string().contains(who))
        })
    }

    /// Samples in the evidence so far: one each 15 s, and what findings cite.
    fn samples(&self) -> usize {
        self.breathe();
        let rows = self.journal.dogwatch(&["get", "events", "--kind", "sample", "-o", "json"]);
        let rows: Value = serde_json::from_slice(&rows.stdout).unwrap_or_default();
        rows.as_array().map_or(0, Vec::len)
    }

    /// Whether the newest sample speaks of `what`.
    fn sampled(&self, what: &str) -> bool {
        let out = self.journal.dogwatch(&["get", "nodes", "-o", "json"]);
        String::from_utf8_lossy(&out.stdout).contains(what)
    }

    fn brief(&self) -> Vec<String> {
        self.findings().iter().map(|f| format!("{} about {}", f.rule, f.subject)).collect()
    }

    /// Nothing but `rules` was said about `who`; what was said about the machine is printed.
    fn only(&self, rules: &[&str], who: &str) {
        let mut beside: BTreeMap<String, String> = BTreeMap::new();
        for f in self.findings() {
            if rules.contains(&f.rule.as_str()) {
                continue;
            }
            // A node is named in whatever its agent says.
            let about =
                if who == "node-a" { f.subject == "node node-a" } else { f.all.to_string().contains(who) };
            assert!(
                OF_THE_MACHINE.contains(&f.rule.as_str()) || !about,
                "{} was said about {who} too: {:#}",
                f.rule,
                f.all
            );
            beside.insert(f.rule, f.subject);
        }
        eprintln!("{rules:?} about {who}; beside it: {beside:?}");
    }
}

fn subject(row: &Value) -> String {
    match &row["subject"] {
        Value::String(text) => text.clone(),
        other => format!(
            "{} {}",
            other["kind"].as_str().unwrap_or_default(),
            other["name"].as_str().unwrap_or_default()
        ),
    }
}

/// Starts `script` with python3 as a member of `group`.
fn python(stage: &Stage, group: &Group, script: &str, args: &[&str]) -> Process {
    let join: String = group.procs_files().iter().map(|f| format!("echo $$ >{};", f.display())).collect();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{join} exec python3 -c \"$0\" \"$@\"")).arg(script).args(args);
    Process::start("the culprit", command, &stage.path().join("culprit.log"))
}

#[test]
fn a_control_group_runs_out_of_memory_and_a_process_is_killed() {
    let scene = Scene::new("");
    let group = Group::new(CONTROLLERS);
    group.set("memory", "memory.limit_in_bytes", 24 * MIB);
    let mut culprit = python(&scene.stage, &group, "held=[]\nwhile True: held.append(bytearray(1<<20))", &[]);
    let status = until("the kernel to kill it", PATIENCE, || culprit.ended());
    assert!(!status.success());
    let said = scene.expect("oom-kill", &group.path());
    let text = said.all.to_string();
    assert!(text.contains("python3"), "{text}");
    assert!(text.contains(&culprit.id().to_string()), "{text}");
    scene.only(&["oom-kill", "cgroup-memory-pressure"], &group.path());
}

#[test]
fn a_control_group_is_at_its_memory_limit_and_grows() {
    let scene = Scene::new(QUICK_GROWTH);
    let group = Group::new(CONTROLLERS);
    group.set("memory", "memory.limit_in_bytes", 64 * MIB);
    // It grows to 97 % of its limit, by the kernel's own count, since how much of the interpreter is charged to
    // this group depends on who else runs one; for longer than a window, since nothing is said of a group that was not seen
    // that long. Then it works on files of its own, so that the limit is hit over and over.
    let (file, stat) = (scene.stage.path().join("written"), group.folder("memory").join("memory.stat"));
    let script = "import os,sys,time\n\
                  def rss(): return next(int(l.split()[1]) for l in open(sys.argv[2]) if l.startswith('total_rss '))\n\
                  held=[]\n\
                  while rss() < 62<<20:\n    held.append(bytearray(b'x'*(1<<19)))\n    time.sleep(0.25)\n\
                  while True:\n    with open(sys.argv[1],'wb',0) as f:\n        for i in range(32):\n            \
                  f.write(held[i])\n            os.fsync(f.fileno())\n";
    let args = [file.display().to_string(), stat.display().to_string()];
    let mut culprit = python(&scene.stage, &group, script, &[&args[0], &args[1]]);
    scene.expect("cgroup-memory-pressure", &group.path());
    assert!(culprit.ended().is_none(), "it came to its end at its limit: {}", culprit.said());
    scene.only(&["cgroup-memory-pressure"], &group.path());
}

#[test]
fn a_quota_throttles() {
    let scene = Scene::new(QUICK_THROTTLING);
    let group = Group::new(CONTROLLERS);
    group.set("cpu", "cpu.cfs_period_us", 100_000);
    group.set("cpu", "cpu.cfs_quota_us", 10_000);
    let _culprit = python(&scene.stage, &group, "while True: pass", &[]);
    scene.expect("cpu-throttling", &group.path());
    scene.only(&["cpu-throttling"], &group.path());
}

#[test]
fn a_disk_answers_no_more() {
    let _alone = LOOP_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new(QUICK_STALLS);
    // A disk whose medium lies on a filesystem that is frozen: what is written to it never completes.
    let medium = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let image = medium.path().join("disk.img");
    std::fs::write(&image, vec![1u8; 16 << 20]).expect("an image can be written");
    let disk = LoopDevice::attach(&image);
    let name = disk.0.trim_start_matches("/dev/").to_owned();
    // Which devices there are is looked at each tenth tick, and of two samples in the evidence fifteen lie between.
    let before = scene.samples();
    until("the disk to be sampled", PATIENCE, || (scene.samples() >= before + 2).then_some(()));
    let frozen = medium.freeze().expect("it can be frozen");
    let mut command = Command::new("dd");
    command.args([
        "if=/dev/zero",
        "bs=4096",
        "count=1",
        "oflag=direct",
        "conv=notrunc",
        &format!("of={}", disk.0),
    ]);
    let writer = Process::start("the writer", command, &scene.stage.path().join("writer.log"));
    // Whatever fails below: the writer cannot be ended before this is gone.
    let first_to_go = frozen;
    let stalled = scene.expect("io-stall", &name);
    assert!(stalled.subject.contains(&name), "{:#}", stalled.all);
    let hung = scene.expect("hung-tasks", &writer.id().to_string());
    assert!(hung.all.to_string().contains("dd"), "{:#}", hung.all);
    scene.only(&["io-stall", "hung-tasks"], &name);
    first_to_go.thaw().expect("it can be thawed");
}

#[test]
fn a_disk_has_errors() {
    let _alone = LOOP_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new("");
    let image = scene.stage.path().join("disk.img");
    std::fs::write(&image, vec![1u8; 16 << 20]).expect("an image can be written");
    let device = LoopDevice::attach(&image);
    // The end of the disk is gone: reads beyond what is left fail as on a dying disk.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .and_then(|f| f.set_len(4 << 20))
        .expect("it can be cut");
    let name = device.0.trim_start_matches("/dev/").to_owned();
    let read = Command::new("dd")
        .args([
            "iflag=direct",
            "bs=4096",
            "skip=3000",
            "count=8",
            "of=/dev/null",
            &format!("if={}", device.0),
        ])
        .output()
        .expect("dd runs");
    assert!(!read.status.success(), "the cut disk was read: {read:?}");
    let said = scene.expect("disk-errors", &name);
    assert!(said.subject.contains(&name), "{:#}", said.all);
    scene.only(&["disk-errors"], &name);
}

#[test]
fn a_filesystem_goes_read_only() {
    let _alone = LOOP_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = LoopFs::create(32 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let scene = Scene::new("");
    let mount = disk.path().display().to_string();
    until("a sample with the mount", PATIENCE, || scene.sampled(&mount).then_some(()));
    let remounted = Command::new("mount").args(["-o", "remount,ro", &mount]).output().expect("mount runs");
    assert!(remounted.status.success(), "{remounted:?}");
    let said = scene.expect("mount-read-only", &mount);
    assert!(said.subject.contains(&mount), "{:#}", said.all);
    scene.only(&["mount-read-only"], &mount);
}

#[test]
fn a_filesystem_will_be_full() {
    let _alone = LOOP_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = LoopFs::create(256 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let scene = Scene::new("");
    let mount = disk.path().display().to_string();
    until("a sample with the mount", PATIENCE, || scene.sampled(&mount).then_some(()));
    // A third of it in 80 s: it would be full in four minutes, and is not yet near any mark.
    let script = "import os,sys,time\nf=os.open(sys.argv[1],os.O_CREAT|os.O_WRONLY)\nfor i in range(160):\n    \
                  os.write(f,b'x'*(1<<19)); time.sleep(0.5)\ntime.sleep(600)\n";
    let mut command = Command::new("python3");
    command.args(["-c", script, &disk.path().join("growing").display().to_string()]);
    let _writer = Process::start("the writer", command, &scene.stage.path().join("writer.log"));
    let said = scene.expect("disk-time-to-full", &mount);
    assert!(said.subject.contains(&mount), "{:#}", said.all);
    scene.only(&["disk-time-to-full"], &mount);
}

#[test]
fn a_control_group_has_no_pid_left() {
    let scene = Scene::new("");
    let group = Group::new(CONTROLLERS);
    group.set("pids", "pids.max", 30);
    let script = "import os,time\nfor i in range(40):\n    try:\n        if os.fork()==0:\n            time.sleep(600); os._exit(0)\n    \
                  except OSError: break\ntime.sleep(600)\n";
    let _culprit = python(&scene.stage, &group, script, &[]);
    scene.expect("pid-exhaustion", &group.path());
    scene.only(&["pid-exhaustion"], &group.path());
}

#[test]
fn a_process_runs_out_of_descriptors() {
    let scene = Scene::new("");
    let group = Group::new(CONTROLLERS);
    let script = "import resource,time\nresource.setrlimit(resource.RLIMIT_NOFILE,(128,128))\nheld=[]\n\
                  try:\n    while True: held.append(open('/dev/null'))\nexcept OSError: pass\ntime.sleep(600)\n";
    let culprit = python(&scene.stage, &group, script, &[]);
    let said = scene.expect("descriptor-exhaustion", &culprit.id().to_string());
    assert!(said.subject.contains("python3"), "{:#}", said.all);
    scene.only(&["descriptor-exhaustion"], &format!("python3 ({})", culprit.id()));
}

#[test]
fn a_fork_storm() {
    let scene = Scene::new(QUICK_FORKS);
    let group = Group::new(CONTROLLERS);
    // Children that live for a moment, so that a scan meets some of them.
    let script = "import os,time\nwhile True:\n    kids=[]\n    for i in range(40):\n        p=os.fork()\n        if p==0:\n            \
                  time.sleep(0.05); os._exit(0)\n        kids.append(p)\n    for k in kids: os.waitpid(k,0)\n";
    let _culprit = python(&scene.stage, &group, script, &[]);
    let said = scene.expect("fork-storm", "python3");
    eprintln!("{:#}", said.all["summary"]);
    scene.only(&["fork-storm"], &group.path());
}

/// The table's maximum is one for all network namespaces and counts in each by itself: one of the test's own is filled, the
/// machine's stays as it is. As the agent reads the network of process 1, it has process ids of its own too.
#[test]
fn the_table_of_tracked_connections_is_nearly_full() {
    let max: u64 = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")
        .expect("this kernel tracks no connections, or its module is not loaded: modprobe nf_conntrack")
        .trim()
        .parse()
        .expect("a number");
    assert!(
        max <= 1 << 20,
        "a table of {max} connections takes too much of the kernel's memory to be filled"
    );
    let mut scene = Scene::with("", |post| {
        // Nothing is tracked where no rule asks for it.
        let prepare = "ip link set lo up && iptables -A INPUT -m conntrack --ctstate NEW -j ACCEPT && \
                       echo 900 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout && exec \"$@\"";
        let namespaces = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
        post.within(&[&namespaces[..], &["sh", "-c", prepare, "sh"]].concat());
        post.launch();
    });
    let flows = max * 87 / 100;
    let script = "import socket,sys,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
                  for i in range(int(sys.argv[1])):\n    \
                  s.sendto(b'x',('127.%d.%d.%d'%(i>>16&255,i>>8&255,i&255 or 1),9 if i&255 else 10))\n\
                  print('sent',flush=True)\ntime.sleep(600)\n";
    let agent = children_of(scene.post.process().id()).into_iter().next().expect("unshare started it");
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/proc/{agent}/ns/net"), "python3", "-c", script, &flows.to_string()]);
    let _culprit = Process::start("the culprit", command, &scene.stage.path().join("culprit.log"));
    let said = scene.expect("conntrack-exhaustion", "node-a");
    assert_eq!(said.all["severity"], "medium", "{:#}", said.all);
    assert!(said.all.to_string().contains(&max.to_string()), "{:#}", said.all);
    scene.only(&["conntrack-exhaustion"], "node-a");
}

#[test]
fn the_clock_jumps() {
    let library = faketime();
    let stage = Stage::new(programs!());
    let timestamp = stage.path().join("faketime");
    std::fs::write(&timestamp, "+0\n").expect("a file can be written");
    let scene = Scene::with("", |post| {
        post.environment("LD_PRELOAD", &library.display().to_string());
        post.environment("FAKETIME_TIMESTAMP_FILE", &timestamp.display().to_string());
        post.environment("FAKETIME_NO_CACHE", "1");
        post.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        post.launch();
    });
    std::fs::write(&timestamp, "+90\n").expect("a file can be written");
    let said = scene.expect("clock-jump", "node-a");
    let text = said.all.to_string();
    assert!(text.contains("90") || text.contains("89.9"), "{text}");
    scene.only(&["clock-jump"], "node-a");
}

/// The library that bends the C library's clocks.
fn faketime() -> PathBuf {
    let found = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    let library = found.into_iter().map(Path::new).find(|p| p.exists());
    library.expect("libfaketime is needed: apt-get install faketime").to_owned()
}

/// A loop device, detached when dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn attach(image: &Path) -> Self {
        let out =
            Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("losetup runs");
        assert!(out.status.success(), "{out:?}");
        Self(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let out = Command::new("losetup").args(["--detach", &self.0]).output();
        if !out.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("{} was not detached: {out:?}", self.0);
        }
    }
}
