//! When the node suffers: the agent, in a control group of its own, is short of memory, of CPU, or its disk stalls. It
//! goes on sampling, what is urgent goes on reaching the collector, and its probes go on answering.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dogwatch_e2e::cgroup::Group;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Person, Post, Stage, free_address, http_get, http_get_once, yaml};
use dogwatch_e2e::wait::{quick, until};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// What the node grants the agent.
const AGENT_MEMORY: u64 = 32 * MIB;
/// An unoptimised agent may take so long to answer a probe while it gets a twentieth of a CPU; a kubelet asks again after
/// a failure, three times by default.
const PROBE_WAIT: Duration = Duration::from_secs(30);

struct Scene {
    person: Person,
    house: House,
    post: Post,
    health: SocketAddr,
    _scribe: Scribe,
    stage: Stage,
}

/// What the agent and the collector had said at a moment.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    samples: f64,
    matches: u64,
}

impl Scene {
    /// A collector, an agent (in `group`, state beneath `state`) and a log that matches a rule all the time, so that a
    /// finding is said anew each second.
    fn new(group: Option<&Group>, state: Option<&Path>) -> Self {
        let stage = Stage::new(programs!());
        let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }");
        house.start();
        let person = house.person("anna", "responder");
        let log = stage.path().join("app.log");
        let health = free_address();
        let more = format!(
            "health: {{ listen: \"{health}\" }}\nsample: {{ every: 1s, evidence_every: 1s }}\n\
             cleanup: {{ mode: \"off\" }}\ndetect: {{ logs: {{ update_every: 1s }} }}\n\
             tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 100ms }}\n",
            yaml(&log),
            yaml(&Scribe::rules(stage.path()))
        );
        let state = state.unwrap_or(stage.path()).join("agent");
        let mut post = stage.post("node-a", &state, Some(&house), &more);
        if let Some(group) = group {
            post.confine(group);
        }
        let scribe = Scribe::start(&log, 20);
        post.launch();
        let scene = Self { person, house, post, health, _scribe: scribe, stage };
        until("the first finding at the collector", PATIENCE, || scene.matches().map(|_| ()));
        scene
    }

    /// Lines counted by the newest statement of the finding that the collector holds.
    fn matches(&self) -> Option<u64> {
        let out = self.person.dogwatch(&["get", "findings", "-o", "json"]);
        let rows: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        let row = rows.as_array()?.iter().find(|r| r["rule"] == "numbered")?;
        let facts = &row["facts"];
        let value = facts.as_array().map_or_else(
            || facts["matches"].as_str().map(str::to_owned),
            |all| all.iter().find(|f| f["key"] == "matches")?["value"].as_str().map(str::to_owned),
        );
        value?.parse().ok()
    }

    /// Samples taken, as `/metrics` has it.
    fn samples(&self) -> Option<f64> {
        let text = http_get(self.health, "/metrics")?;
        let line = text.lines().find(|l| l.starts_with("dogwatch_agent_samples_total "))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    fn pulse(&self) -> Pulse {
        until("samples and findings to be told", PATIENCE, || {
            Some(Pulse { samples: self.samples()?, matches: self.matches()? })
        })
    }

    /// Whether `/healthz` answers within [`PROBE_WAIT`], and how long it took.
    fn probe(&self) -> Duration {
        let began = Instant::now();
        until("/healthz to answer", PROBE_WAIT, || {
            http_get_once(self.health, "/healthz").ok().filter(|a| a.starts_with("HTTP/1.1 200"))
        });
        began.elapsed()
    }

    /// Goes on for `span`, asking the probe all the time; then at least so many samples a second must have been taken,
    /// and the collector must know of newer lines than before.
    fn endures(
        &mut self,
        what: &str,
        span: Duration,
        least_samples_per_second: f64,
        suffers: impl Fn() -> String,
    ) {
        let before = self.pulse();
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut probes = 0;
        while began.elapsed() < span {
            assert!(self.post.process().is_running(), "{what}: the agent ended: {}", self.post.said());
            slowest = slowest.max(self.probe());
            probes += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
        let seconds = began.elapsed().as_secs_f64();
        let after = self.pulse();
        let rate = (after.samples - before.samples) / seconds;
        eprintln!(
            "{what}: {seconds:.0} s, {:.0} samples ({rate:.2} a second), {probes} probes, the slowest {slowest:?}; the collector \
             knows of {} lines more; {}; on {}",
            after.samples - before.samples,
            after.matches - before.matches,
            suffers(),
            self.stage.path().display()
        );
        assert!(rate >= least_samples_per_second, "{what}: {rate:.2} samples a second");
        assert!(after.matches > before.matches, "{what}: nothing urgent came through");
    }

    /// Ends in order, and everything that the collector holds is whole.
    fn end(mut self) {
        self.post.stop();
        self.house.stop();
        let verified = self.house.verify();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

fn span() -> Duration {
    Duration::from_secs(if quick() { 8 } else { 25 })
}

/// Allocates and touches memory in steps until it is killed, again and again.
fn pusher(stage: &Path, group: &Group) -> Process {
    let mut command = Command::new("sh");
    let script =
        "import time\nheld=[]\nwhile True:\n    held.append(bytearray(4<<20))\n    time.sleep(0.02)\n";
    let join = group.procs_files().iter().map(|f| format!("echo $$ >{};", f.display())).collect::<String>();
    command.arg("-c").arg(format!(
        "{join} while :; do (for f in /proc/self/oom_score_adj; do echo 1000 >$f; done; exec python3 -c \"$0\"); done"
    ));
    command.arg(script);
    Process::start("the neighbour", command, &stage.join("neighbour.log"))
}

#[test]
fn short_of_memory_with_a_neighbour_that_pushes() {
    let all = Group::new(&["memory"]);
    // The neighbour runs into the limit of both, over and over; the agent has a limit of its own within.
    all.set("memory", "memory.limit_in_bytes", 160 * MIB);
    let own = all.child("agent");
    own.set("memory", "memory.limit_in_bytes", AGENT_MEMORY);
    let neighbours = all.child("neighbour");
    let mut scene = Scene::new(Some(&own), None);
    let _pusher = pusher(scene.stage.path(), &neighbours);
    until("the neighbour to run into the limit", PATIENCE, || {
        all.get("memory", "memory.failcnt").trim().parse::<u64>().ok().filter(|n| *n > 0)
    });
    scene.endures("memory", span(), 0.5, || {
        format!(
            "the agent's group held {} of {AGENT_MEMORY} bytes and hit its limit {} times; the neighbourhood hit its own {} times",
            own.get("memory", "memory.usage_in_bytes").trim(),
            own.get("memory", "memory.failcnt").trim(),
            all.get("memory", "memory.failcnt").trim()
        )
    });
    let kills = own.get("memory", "memory.oom_control");
    assert!(kills.lines().any(|l| l == "oom_kill 0"), "the agent's group had kills: {kills}");
    scene.end();
}

#[test]
fn short_of_cpu() {
    let own = Group::new(&["cpu"]);
    own.set("cpu", "cpu.cfs_period_us", 100_000);
    let mut scene = Scene::new(Some(&own), None);
    // A twentieth of a CPU, from now on: an unoptimised start takes longer than a test should.
    own.set("cpu", "cpu.cfs_quota_us", 5_000);
    scene.endures("cpu", span(), 0.2, || own.get("cpu", "cpu.stat").lines().collect::<Vec<_>>().join(", "));
    own.set("cpu", "cpu.cfs_quota_us", -1);
    scene.end();
}

#[test]
fn another_disk_stalls() {
    let stalled = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let mut scene = Scene::new(None, None);
    let frozen = stalled.freeze().expect("it can be frozen");
    let path = stalled.path().join("blocked");
    // Somebody who waits for it, as its owner would.
    let writer = std::thread::spawn(move || std::fs::write(path, vec![1; 1 << 20]));
    scene.endures("another disk stalls", span(), 0.5, || "one writer stood still".to_owned());
    frozen.thaw().expect("it can be thawed");
    writer.join().expect("the writer does not panic").expect("it can write in the end");
    scene.end();
}

#[test]
fn its_own_disk_stalls() {
    let disk = LoopFs::create(256 << 20, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let scene = Scene::new(None, Some(disk.path()));
    let before = scene.pulse();
    let frozen = disk.freeze().expect("it can be frozen");
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < span() / 2 {
        slowest = slowest.max(scene.probe());
        std::thread::sleep(Duration::from_millis(200));
    }
    let stalled = began.elapsed().as_secs_f64();
    let sampled = scene.samples().expect("metrics are served") - before.samples;
    frozen.thaw().expect("it can be thawed");
    // Nothing can be durable meanwhile, and so nothing is handed over; afterwards it all comes.
    let after = until("what was urgent to come through", PATIENCE, || {
        scene.matches().filter(|n| *n > before.matches)
    });
    eprintln!(
        "its own disk stalls: {stalled:.0} s, {sampled:.0} samples meanwhile, slowest probe {slowest:?}; then {} lines more at the collector",
        after - before.matches
    );
    assert!(sampled / stalled >= 0.5, "{sampled} samples in {stalled:.0} s");
    scene.end();
}
