//! When things are away: the collector, the last free byte, the disk itself. Recording goes on, within bounds, and
//! nothing is lost that nobody tells.

use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::Stream;
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::ledger::Ledger;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::{anonymous_bytes, children_of};
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Post, Stage, yaml};
use dogwatch_e2e::wait::{full, quick, until};

const PATIENCE: Duration = Duration::from_secs(120);
/// What the agent and its executor may take together, unoptimised and with its line tables; shared pages count once.
const RESIDENT_CAP: u64 = 48 << 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Two samples that are further apart than two and a half intervals have a gap between them.
const HOLE: Duration = Duration::from_millis(500);

struct Scene {
    house: House,
    post: Post,
    scribe: Scribe,
    stage: Stage,
    most_resident: u64,
    /// The test itself is the witness of what CPU there is: how often it was kept from a look for so long that a sample which
    /// was due meanwhile came behind a gap …
    starved: usize,
    /// … and in how many intervals of a sample it had its look, the newest of which is this.
    slots: usize,
    slot: u64,
}

impl Scene {
    fn new(agent_state: Option<&Path>, lines_per_second: u64) -> Self {
        let stage = Stage::new(programs!());
        let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }");
        house.start();
        let log = stage.path().join("app.log");
        let state = agent_state.unwrap_or(stage.path()).join("agent");
        let mut post =
            stage.post("node-a", &state, Some(&house), &config(&log, &Scribe::rules(stage.path())));
        let scribe = Scribe::start(&log, lines_per_second);
        post.start();
        until("something to be acknowledged", PATIENCE, || {
            let seen = Ledger::acknowledged_in(&state.join("journal"));
            (!seen.acknowledged.is_empty()).then_some(())
        });
        Self { house, post, scribe, stage, most_resident: 0, starved: 0, slots: 0, slot: 0 }
    }

    /// Watches the agent's size for a while.
    fn watch(&mut self, span: Duration) {
        let began = Instant::now();
        while began.elapsed() < span {
            self.look_once();
        }
    }

    /// Watches until it has had a look in so many intervals of a sample as there are in `span`, and gives their number: what
    /// a machine keeps from this, it keeps from the agent.
    fn watch_intervals(&mut self, span: Duration) -> usize {
        let (before, intervals) = (self.slots, (span.as_nanos() / SAMPLE_EVERY.as_nanos()) as usize);
        let began = Instant::now();
        while self.slots < before + intervals {
            assert!(began.elapsed() < PATIENCE, "{} looks in {PATIENCE:?}", self.slots - before);
            self.look_once();
        }
        intervals
    }

    fn look_once(&mut self) {
        let began = Instant::now();
        self.look();
        let slot = clock::now().boot_ns / SAMPLE_EVERY.as_nanos() as u64;
        self.slots += usize::from(slot != self.slot);
        self.slot = slot;
        std::thread::sleep(Duration::from_millis(50));
        self.starved += usize::from(began.elapsed() > HOLE - SAMPLE_EVERY);
    }

    fn look(&mut self) {
        let process = self.post.process();
        assert!(process.is_running(), "the agent ended");
        let own = process.resident_bytes().unwrap_or(0);
        // Pages of the program they share with it.
        let others: u64 = children_of(process.id()).into_iter().filter_map(anonymous_bytes).sum();
        self.most_resident = self.most_resident.max(own + others);
    }

    /// Ends all, once every line has arrived, and gives what the collector and what the node hold.
    fn settle(mut self, what: &str) -> (Ledger, Ledger) {
        let store = self.house.store();
        let last = self.scribe.end();
        until("the last line to arrive", PATIENCE, || {
            (Ledger::read(&store).lines.keys().next_back() >= Some(&last)).then_some(())
        });
        self.post.stop();
        self.house.stop();
        let (there, here) = (Ledger::read(&store), Ledger::read(&self.post.state().join("journal")));
        let (missing, twice) = there.lines_against(last);
        assert!(
            missing.is_empty(),
            "{what}: {} missing, e.g. {:?}; {:?}",
            missing.len(),
            missing[0],
            there.gaps
        );
        assert!(twice.is_empty(), "{what}: twice {twice:?}");
        assert_eq!(there.twice(), [""; 0], "{what}");
        assert_eq!(there.silent_holes(), [""; 0], "{what}");
        assert_eq!(there.broken_promises(&here.acknowledged), [""; 0], "{what}");
        let verified = self.house.verify();
        assert!(verified.status.success(), "{what}: {}", String::from_utf8_lossy(&verified.stdout));
        assert!(self.most_resident < RESIDENT_CAP, "{what}: {} bytes resident", self.most_resident);
        eprintln!(
            "{what}: {last} lines each once; at most {:.1} MiB resident; {} gaps said; on {}",
            self.most_resident as f64 / f64::from(1 << 20),
            there.gaps.len(),
            self.stage.path().display()
        );
        (there, here)
    }
}

fn config(log: &Path, rules: &Path) -> String {
    // Unoptimised, it would sample less often to save itself.
    format!(
        "sample: {{ every: {}ms, evidence_every: 1s, processes: false }}\ncaps: {{ cpu: 100% }}\ncleanup: {{ mode: \"off\" }}\n\
         tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
        SAMPLE_EVERY.as_millis(),
        yaml(log),
        yaml(rules)
    )
}

/// Holes between samples of the recorder stream longer than two and a half intervals, that neither a gap of the
/// sampler's nor one of the stream tells.
fn silent_sampling_holes(node: &Ledger) -> (usize, usize, usize) {
    let bound = HOLE.as_nanos() as u64;
    let mut holes = 0;
    let mut samples = 0;
    for (chain, at) in &node.samples {
        if chain.stream == Stream::Recorder {
            holes += at.windows(2).filter(|w| w[1] - w[0] > bound).count();
            samples += at.len();
        }
    }
    let told =
        node.gaps.iter().filter(|(_, g)| g.stream == Stream::Recorder && g.source != "journal").count();
    (samples, holes, told)
}

#[test]
fn a_collector_that_is_away_costs_nothing() {
    let mut scene = Scene::new(None, 300);
    scene.watch(Duration::from_secs(2));
    scene.house.stop();
    let away = Duration::from_secs(if full() {
        600
    } else if quick() {
        8
    } else {
        30
    });
    scene.watch(away);
    scene.house.start();
    scene.watch(Duration::from_secs(2));
    let starved = scene.starved;
    let (there, _) = scene.settle(&format!("collector away for {away:?}"));
    assert!(there.losses().is_empty(), "{:?}", there.losses());
    // A starved machine misses some, and this test its looks with them; an uplink that starves its agent misses many.
    let missed = there.gaps.len();
    assert!(
        missed <= 3 + starved,
        "samples were missed {missed} times, looks {starved} times: {:?}",
        there.gaps
    );
}

#[test]
fn at_0_bytes_free_everything_is_still_recorded() {
    let fs = LoopFs::create(96 << 20, "ext4", &["-m", "0"]).unwrap();
    let mut scene = Scene::new(Some(fs.path()), 300);
    fs.fill().unwrap();
    let free = room(fs.path()).0;
    assert_eq!(free, 0);
    scene.watch(Duration::from_secs(12));
    // A restart finds its room still taken.
    scene.post.stop();
    scene.post.start();
    scene.watch(Duration::from_secs(3));
    assert!(!scene.post.said().contains("cannot be written"), "{}", scene.post.said());
    let (_, here) = scene.settle("0 bytes free");
    let (samples, holes, told) = silent_sampling_holes(&here);
    assert!(holes <= told, "{holes} holes in {samples} samples, {told} told");
}

#[test]
fn a_first_start_on_a_nearly_full_disk_takes_less_or_says_why_not() {
    let stage = Stage::new(programs!());
    let fs = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let rules = Scribe::rules(stage.path());
    let log = stage.path().join("app.log");
    let scribe = Scribe::start(&log, 50);
    fill_to(&fs.path().join("filler"), 12 << 20);
    let state = fs.path().join("less");
    let mut post = stage.post("node-a", &state, None, &config(&log, &rules));
    post.start();
    until("lines to be recorded with less room", PATIENCE, || {
        (!Ledger::read(&state.join("journal")).lines.is_empty()).then_some(())
    });
    assert!(post.said().contains("journal: room for"), "{}", post.said());
    assert!(room(fs.path()).0 > 0, "it took everything");
    post.stop();
    drop(scribe);

    fs.fill().unwrap();
    let mut post = stage.post("node-b", &fs.path().join("none"), None, &config(&log, &rules));
    post.launch();
    let status = until("it to refuse", PATIENCE, || post.process().ended());
    assert_eq!(status.code(), Some(1), "{}", post.said());
    let said = post.said();
    assert!(said.contains("No space left") || said.contains("no room"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_stalled_disk_stops_no_sampling() {
    let fs = LoopFs::create(96 << 20, "ext4", &[]).unwrap();
    let mut scene = Scene::new(Some(fs.path()), 300);
    scene.watch(Duration::from_secs(2));
    let stall = Duration::from_secs(10);
    let from = clock::now().boot_ns;
    let frozen = fs.freeze().unwrap();
    let due = scene.watch_intervals(stall);
    let to = clock::now().boot_ns;
    frozen.thaw().unwrap();
    scene.watch(Duration::from_secs(3));
    let (_, here) = scene.settle("a disk stalled for 10 s");
    let (samples, holes, told) = silent_sampling_holes(&here);
    assert!(holes <= told, "{holes} holes in {samples} samples, {told} told");
    let all: Vec<u64> = here
        .samples
        .iter()
        .filter(|(c, _)| c.stream == Stream::Recorder)
        .flat_map(|(_, at)| at.clone())
        .collect();
    let meanwhile = all.iter().filter(|at| (from..to).contains(*at)).count();
    assert!(meanwhile * 10 >= due * 8, "{meanwhile} of {due} samples while the disk stood still");
    eprintln!("{meanwhile} of {due} samples while the disk stood still; {holes} holes, {told} told");
}
