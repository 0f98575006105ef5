//! The fleet brake over the real wire: 50 agents of which all want to clean at once, a rule that turns bad, a collector
//! that is killed in between. Each agent is the real one but for its disk and its executor: core, detectors, response,
//! record, uplink and its mTLS identity.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{ActionState, CleanupMode, Mount, NodeName, ObjectOutcome, PlannedObject, Sample};
use dogwatch::supervise::Stop;
use dogwatch_agent::act::at_work::AtWork;
use dogwatch_agent::act::brake_line::BrakeJob;
use dogwatch_agent::act::held_links::Step;
use dogwatch_agent::act::hold::NodeHold;
use dogwatch_agent::act::images::policy::ImagePolicy;
use dogwatch_agent::act::permit::{Gate, Kept, Without, policy_hash};
use dogwatch_agent::act::plan::{Candidate, Survey};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};
use dogwatch_agent::act::respond::{Respond, Settings};
use dogwatch_agent::act::work::{Done, Job};
use dogwatch_agent::core::{
    BrakeWires, Core, CoreConfig, Held, INBOX, Lookouts, Message, Wires, follow_brake,
};
use dogwatch_agent::detect::{DetectConfig, Detectors, DiskConfig};
use dogwatch_agent::enrol::{EnrolOptions, TokenSource, ensure_enrolled};
use dogwatch_agent::health::Figures;
use dogwatch_agent::record::{self, RecordConfig};
use dogwatch_agent::uplink::{Uplink, UplinkConfig, UplinkStatus, brake};
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{House, Person, Stage, http_get};
use dogwatch_e2e::wait::until;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

const NODES: usize = 50;
/// Nodes that may clean at a time.
const LIMIT: usize = 5;
const GIB: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(240);
/// How long a cleanup takes.
const CLEANING: Duration = Duration::from_millis(300);
/// How long a node is watched after it, with its place kept.
const WATCH: Duration = Duration::from_secs(3);
/// Cleanups that must go well, one node at a time, before a rule counts as proven.
const CANARIES: usize = 2;
const TICK: Duration = Duration::from_millis(250);
const FULL: u64 = 8 * GIB;

/// What all nodes share.
#[derive(Default)]
struct World {
    /// Whether the rule is bad: a cleanup by it turns a filesystem read-only.
    bad: AtomicBool,
    cleaning: AtomicUsize,
    most_cleaning: AtomicUsize,
    /// When each cleanup began and ended.
    cleanups: Mutex<Vec<(Instant, Instant)>>,
    cleaned: Mutex<BTreeSet<usize>>,
    harmed: Mutex<BTreeSet<usize>>,
    halts: AtomicUsize,
    end: AtomicBool,
}

struct Disk {
    available: AtomicU64,
    read_only: AtomicBool,
}

struct Fleet {
    world: Arc<World>,
    disks: Vec<Arc<Disk>>,
    stop: Stop,
    threads: Vec<std::thread::JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.world.end.store(true, Ordering::Relaxed);
        self.stop.set();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn policy() -> Policy {
    let root = RootPolicy { keep_newest: 0, ..RootPolicy::new("/data/logs") };
    Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() }
}

fn survey() -> Survey {
    let object = |i: u64| PlannedObject {
        path: format!("/data/logs/{i}.log.1").into(),
        device: rustix::fs::makedev(8, 1),
        inode: i,
        size_bytes: 10 * GIB,
        allocated_bytes: 10 * GIB,
        mtime_ns: 0,
        ctime_ns: 0,
        uid: 0,
        gid: 0,
        mode: 0o100_644,
        links: 1,
        cleaner: "rotated-logs".to_owned(),
        tier: 1,
        why_safe: String::new(),
        outcome: ObjectOutcome::Pending,
        sha256: None,
        digest_partial: false,
        image: None,
        cut: None,
        atime_ns: None,
        btime_ns: None,
        preserved_bytes: None,
    };
    let candidate = |i| Candidate {
        object: object(i),
        root: "/data/logs".into(),
        open_elsewhere: false,
        accessed_ns: None,
        filesystem: object(i).device,
    };
    Survey { candidates: (1..=4).map(candidate).collect(), ..Survey::default() }
}

fn sample(disk: &Disk) -> Sample {
    let mount = |path: &str, minor, available: u64, read_only| Mount {
        path: path.to_owned(),
        fs: "ext4".to_owned(),
        device: format!("/dev/sda{minor}"),
        dev_major: 8,
        dev_minor: minor,
        total_bytes: 100 * GIB,
        free_bytes: available,
        available_bytes: available,
        inodes_total: 1_000,
        inodes_free: 900,
        read_only,
    };
    let data = mount("/data", 1, disk.available.load(Ordering::Relaxed), false);
    let other = mount("/srv", 2, 60 * GIB, disk.read_only.load(Ordering::Relaxed));
    Sample { mounts: vec![data, other], every_ms: 250, ..Sample::default() }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// The node's executor, holds and halts, in one.
fn serve(
    i: usize,
    world: &World,
    disk: &Disk,
    inbox: &SyncSender<Message>,
    jobs: &Receiver<Job>,
    holds: &Receiver<Vec<NodeHold>>,
    line: &Receiver<BrakeJob>,
) {
    while !world.end.load(Ordering::Relaxed) {
        for set in holds.try_iter() {
            let (places, absent) = (Vec::new(), Vec::new());
            let held = Held { count: set.len(), places, absent, kept: Some(Ok(())), unknown: None };
            let _ = inbox.send(Message::Held(held));
        }
        let halted = |line: &Receiver<BrakeJob>, id: &str| {
            let of_it = |job: BrakeJob| matches!(job, BrakeJob::Halt { action, .. } if action == id);
            line.try_iter().filter(|job| of_it(job.clone())).count() > 0
        };
        let Ok(job) = jobs.recv_timeout(Duration::from_millis(20)) else { continue };
        let done = match job {
            Job::Aside => Done::Aside(Step::default()),
            Job::Survey { mount, .. } => Done::Surveyed { mount, result: Ok(survey()) },
            Job::Apply(mut action) => {
                let now = world.cleaning.fetch_add(1, Ordering::SeqCst) + 1;
                world.most_cleaning.fetch_max(now, Ordering::SeqCst);
                let began = Instant::now();
                std::thread::sleep(CLEANING);
                if halted(line, &action.id) {
                    world.halts.fetch_add(1, Ordering::SeqCst);
                    action.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Skipped);
                    action.freed_bytes = Some(0);
                } else {
                    action.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Removed);
                    action.freed_bytes = Some(action.planned_bytes);
                    disk.available.store(60 * GIB, Ordering::Relaxed);
                    if world.bad.load(Ordering::SeqCst) {
                        disk.read_only.store(true, Ordering::Relaxed);
                        world.harmed.lock().unwrap().insert(i);
                    }
                    world.cleaned.lock().unwrap().insert(i);
                }
                action.state = ActionState::Done;
                world.cleanups.lock().unwrap().push((began, Instant::now()));
                world.cleaning.fetch_sub(1, Ordering::SeqCst);
                Done::Applied(action)
            }
            Job::Find { .. } | Job::Close(_) => continue,
        };
        let _ = inbox.send(Message::Done(done));
    }
}

impl Fleet {
    fn start(folder: &Path, house: &House) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let token = folder.join("fleet-token");
        std::fs::write(&token, house.token(&["--uses", &NODES.to_string()])).unwrap();
        let mut fleet = Self {
            world: Arc::default(),
            disks: Vec::new(),
            stop: Stop::default(),
            threads: Vec::new(),
            runtime: None,
        };
        let mut inboxes = Vec::new();
        for i in 0..NODES {
            let disk =
                Arc::new(Disk { available: AtomicU64::new(60 * GIB), read_only: AtomicBool::new(false) });
            fleet.disks.push(Arc::clone(&disk));
            inboxes.push(fleet.agent(i, &disk, &folder.join(format!("node-{i}")), &token, house, &runtime));
        }
        let (world, disks) = (Arc::clone(&fleet.world), fleet.disks.clone());
        fleet.threads.push(std::thread::spawn(move || {
            while !world.end.load(Ordering::Relaxed) {
                for (inbox, disk) in inboxes.iter().zip(&disks) {
                    let _ = inbox.try_send(Message::Sample(clock::now(), Box::new(sample(disk))));
                }
                std::thread::sleep(TICK);
            }
            inboxes.iter().for_each(|inbox| drop(inbox.send(Message::Stop)));
        }));
        fleet.runtime = Some(runtime);
        fleet
    }

    fn agent(
        &mut self,
        i: usize,
        disk: &Arc<Disk>,
        state: &Path,
        token: &Path,
        house: &House,
        runtime: &tokio::runtime::Runtime,
    ) -> SyncSender<Message> {
        let node: NodeName = format!("node-{i:02}").parse().unwrap();
        std::fs::create_dir_all(state).unwrap();
        let address = house.address().to_string();
        let options = EnrolOptions {
            token: Some(TokenSource::File(token.to_owned())),
            ..EnrolOptions::new(&address, node.clone(), state)
        };
        let identity = runtime.block_on(ensure_enrolled(&options)).unwrap();
        let key = identity.signing_key().clone();
        let signing_key = key.verifying_key().to_bytes();
        let config = RecordConfig {
            state_dir: state.to_owned(),
            node: node.clone(),
            segment_bytes: 1 << 20,
            urgent_bytes: 2 << 20,
            evidence_bytes: 2 << 20,
            recorder_bytes: 2 << 20,
            handed_over: true,
        };
        let (recorder, writer, opened) = record::open(&config, key, [7; 16], random).unwrap();
        self.threads.push(std::thread::spawn(move || writer.run().unwrap()));

        let (inbox_tx, inbox) = sync_channel(INBOX);
        let (jobs_tx, jobs) = channel();
        let (holds_tx, holds) = channel();
        let (line_tx, line) = channel();
        let (end, feed, outgoing) = brake::ends();
        let settings =
            Settings { cooldown_ns: 3_000_000_000, breaker_cleanups: 1_000, ..Settings::default() };
        let hash = policy_hash(&policy(), &ImagePolicy::default(), &DiskConfig::default());
        let gate = Gate::new(node.clone(), hash, Without::CriticalOnly, Kept::Nothing, clock::now().boot_ns);
        let mut ids = (i as u64) << 32;
        let next_id = Box::new(move || {
            ids += 1;
            ids
        });
        let responder = Respond::new(Rules::new(policy()).unwrap(), settings, gate, next_id);
        let (pulse_tx, pulse) = watch::channel(None);
        let wires = Wires {
            inbox,
            recorder: recorder.clone(),
            jobs: jobs_tx,
            at_work: AtWork::default(),
            holds: holds_tx,
            brake: BrakeWires { line: line_tx, outgoing, unkept: Arc::default() },
            marks: None,
            kernel_marks: None,
            lookouts: Lookouts::default(),
            ballast: None,
            pulse: pulse_tx,
            figures: Arc::<Figures>::default(),
        };
        let core_config = CoreConfig { sample_every: TICK, evidence_every: Duration::from_secs(10) };
        let detectors = Detectors::new(DetectConfig::default(), node, opened.incarnation);
        let core = Core::new(core_config, wires, detectors, responder, Vec::new());
        let ending = recorder.clone();
        self.threads.push(std::thread::spawn(move || {
            core.run().unwrap();
            ending.stop();
        }));
        let (world, disk, to_core) = (Arc::clone(&self.world), Arc::clone(disk), inbox_tx.clone());
        self.threads.push(std::thread::spawn(move || {
            serve(i, &world, &disk, &to_core, &jobs, &holds, &line);
        }));

        let (commands_tx, mut commands) = mpsc::channel(16);
        let to_core = inbox_tx.clone();
        runtime.spawn(async move {
            while let Some(call) = commands.recv().await {
                let _ = to_core.try_send(Message::Command(call));
            }
        });
        runtime.spawn(follow_brake(feed, inbox_tx.clone(), self.stop.clone()));
        let mode = watch::Sender::new(CleanupMode::Auto);
        let config = UplinkConfig {
            collector: address,
            signing_key,
            mode: mode.subscribe(),
            pulse_every: Duration::from_secs(2),
            brake: end,
        };
        let (status, _) = watch::channel(UplinkStatus::default());
        let tls = identity.tls().clone();
        let uplink = Uplink::new(config, tls, recorder, pulse, commands_tx, status, self.stop.clone());
        runtime.spawn(async move {
            // The sender of modes lives as long as the uplink; what is renewed is not needed in minutes.
            let _kept = (mode, identity);
            uplink.run().await.unwrap();
        });
        inbox_tx
    }

    /// Every disk fills at the same moment.
    fn fill(&self) {
        self.disks.iter().for_each(|disk| disk.available.store(FULL, Ordering::Relaxed));
    }

    fn cleaned(&self) -> usize {
        self.world.cleaned.lock().unwrap().len()
    }

    fn cleanups(&self) -> usize {
        self.world.cleanups.lock().unwrap().len()
    }

    /// Of the cleanups after the first `before`, those that prove a rule were each over and watched before the next began; by
    /// the log of them, for whoever looks now and then may come late.
    fn assert_one_at_a_time(&self, before: usize) {
        let mut log = self.world.cleanups.lock().unwrap()[before..].to_vec();
        log.sort();
        for pair in log.windows(2).take(CANARIES) {
            let pause = pair[1].0.saturating_duration_since(pair[0].1);
            assert!(
                pause >= WATCH,
                "a new rule goes to one node at a time, and one came {pause:?} after another"
            );
        }
    }

    fn harmed(&self) -> usize {
        self.world.harmed.lock().unwrap().len()
    }
}

fn status(person: &Person) -> Value {
    person.json(&["brake", "status"])
}

/// Nodes that have a place, as the collector tells.
fn places(status: &Value) -> usize {
    let permits = status["permits"].as_array().unwrap();
    permits.iter().map(|p| p["node"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
}

fn wait_connected(person: &Person) {
    until("all agents to be connected", PATIENCE, || {
        let rows = person.rows(&["get", "nodes", "--cached"]);
        (rows.iter().filter(|r| r["state"] == "connected").count() == NODES).then_some(())
    });
}

fn again(house: &mut House) {
    house.kill();
    house.start();
}

#[test]
fn a_bad_rule_harms_at_most_as_many_of_50_nodes_as_may_clean_at_a_time() {
    let stage = Stage::new(programs!());
    let watch = WATCH.as_secs();
    let fleet = format!("max_nodes: {LIMIT}, watch: {watch}s, lease: 20s, canary_successes: {CANARIES}");
    let more = format!("incidents: {{ silent_after: 1h }}\ncleanup: {{ fleet: {{ {fleet} }} }}");
    let mut house = stage.house(&stage.path().join("collector"), &more);
    house.start();
    let (ada, vic) = (house.person("ada", "responder"), house.person("vic", "viewer"));
    let fleet = Fleet::start(stage.path(), &house);
    wait_connected(&ada);

    // A good rule, new to the fleet; all disks fill at once, and the collector is killed in between.
    fleet.fill();
    let began = Instant::now();
    let mut most = 0;
    let mut watch = |enough: usize| {
        until("nodes to clean one after another", PATIENCE, || {
            let status = status(&vic);
            assert_eq!(status["state"], "open", "{status}");
            most = most.max(places(&status));
            (fleet.cleaned() >= enough).then_some(())
        });
    };
    watch(NODES / 4);
    fleet.assert_one_at_a_time(0);
    again(&mut house);
    watch(NODES);
    let took = began.elapsed();
    let at_once = fleet.world.most_cleaning.load(Ordering::SeqCst);
    assert!(most <= LIMIT && at_once <= LIMIT, "{most} places, {at_once} at once");
    assert!(most > 1, "{most} places: the rule was never proven");

    // The same rule, proven by now, turns bad; all 50 ask at once again.
    until("the places to be free", PATIENCE, || (places(&status(&vic)) == 0).then_some(()));
    fleet.world.bad.store(true, Ordering::SeqCst);
    fleet.fill();
    let tripped = until("cleanups to be stopped", PATIENCE, || {
        let status = status(&vic);
        (status["state"] == "tripped").then_some(status)
    });
    until("every node to know it", PATIENCE, || {
        status(&vic)["unheard"].as_array().unwrap().is_empty().then_some(())
    });
    let harmed = fleet.harmed();
    again(&mut house);
    wait_connected(&ada);
    until("every node to know it again", PATIENCE, || {
        let status = status(&vic);
        assert_eq!((&status["state"], &status["reason"]), (&tripped["state"], &tripped["reason"]));
        status["unheard"].as_array().unwrap().is_empty().then_some(())
    });
    // As long as a stopped node would need to act if anything let it: its next plan, its ask, an answer.
    let metrics = |name: &str| {
        let text = std::fs::read_to_string(house.config()).unwrap();
        let address = text.split("health: { listen: \"").nth(1).unwrap().split('"').next().unwrap();
        let page = http_get(address.parse().unwrap(), "/metrics").unwrap();
        let line =
            page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| unreachable!("{name} is not told"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    until("nodes that want to clean to have been turned away", PATIENCE, || {
        let count = metrics("dogwatch_collector_cleanup_waiting ");
        (count >= (NODES - 2 * LIMIT) as f64).then_some(())
    });
    assert_eq!(metrics("dogwatch_collector_cleanup_brake_state{state=\"tripped\"}") as u8, 1);
    assert_eq!(fleet.harmed(), harmed, "nothing more was harmed once it was stopped");
    assert!((1..=LIMIT).contains(&harmed), "{harmed} of {NODES} nodes harmed");
    assert!(tripped["reason"].as_str().unwrap().contains("mount-read-only"), "{tripped}");
    assert_eq!(tripped["cause_rule"], "mount-read-only", "{tripped}");
    assert_ne!(tripped["cause_finding"], tripped["finding"], "what it was decided on, not what it raised");
    until("the incident, also where the collector was killed before it could open it", PATIENCE, || {
        let said = |i: &&Value| {
            i["severity"] == "critical"
                && i["findings"].to_string().contains(tripped["finding"].as_str().unwrap())
        };
        (ada.rows(&["get", "incidents"]).iter().filter(said).count() == 1).then_some(())
    });

    // A responder lets them go on; what was proven counts no more.
    fleet.world.bad.store(false, Ordering::SeqCst);
    assert!(!vic.dogwatch(&["brake", "release", "-m", "x"]).status.success(), "a viewer may not");
    fleet.world.cleaned.lock().unwrap().clear();
    let before = fleet.cleanups();
    ada.ask(&["brake", "release", "--yes", "-m", "the rule is mended"]);
    until("cleanups to go on", PATIENCE, || (fleet.cleaned() >= 1).then_some(()));
    let stands = status(&vic);
    let is_proven = fleet.cleanups() - before >= CANARIES;
    assert!(places(&stands) <= 1 || is_proven, "one node at a time again: {stands:#}");

    // A pause stops all at once; a person needs more than a responder's role to clean then.
    ada.ask(&["brake", "pause", "-m", "let me look"]);
    until("every node to know the pause", PATIENCE, || {
        status(&vic)["unheard"].as_array().unwrap().is_empty().then_some(())
    });
    // In this order: whoever ends in between is in both.
    let under_way = fleet.world.cleaning.load(Ordering::SeqCst);
    let paused = fleet.cleaned();
    until("what was under way to be over", PATIENCE, || {
        (fleet.world.cleaning.load(Ordering::SeqCst) == 0).then_some(())
    });
    let still = fleet.cleaned();
    assert!(still <= paused + under_way, "{paused} to {still} cleaned: what was under way at most");
    fleet.assert_one_at_a_time(before);
    let full = |i: &usize| !fleet.world.cleaned.lock().unwrap().contains(i);
    let node =
        (0..NODES).filter(|i| fleet.disks[*i].available.load(Ordering::Relaxed) == FULL).find(full).unwrap();
    let name = format!("node-{node:02}");
    let clean = ["clean", &name, "--mount", "/data", "--yes"];
    for (more, why) in [(&[][..], "let me look"), (&["--override"], "role admin")] {
        let refused = ada.dogwatch(&[&clean[..], more].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(why), "{why:?} is not what it says: {said}");
    }
    assert!(full(&node), "nothing was touched");
    let done = house.person("eve", "admin").dogwatch(&[&clean[..], &["--override"]].concat());
    assert!(done.status.success() && !full(&node), "{done:?}");
    let verified = {
        drop(fleet);
        house.stop();
        house.verify()
    };
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    eprintln!(
        "{NODES} agents, at most {LIMIT} at a time: a good rule cleaned all in {took:.1?} ({most} places at most, {at_once} \
         at once, over a kill of the collector); the same rule turned bad harmed {harmed}; {paused} to {still} cleaned by \
         the time of the pause"
    );
}
