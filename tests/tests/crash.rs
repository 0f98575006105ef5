//! Crashes: power cuts and SIGKILL at random moments under load, and what the ledgers say afterwards.
//!
//! After every crash of the agent or of the collector both come back by themselves. At the end each record that any
//! receipt acknowledged is in the collector's store, no record is there twice, each hole in a chain has a gap record
//! that says so, each numbered line of the log arrived exactly once, and the store verifies.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::journal::Reader;
use dogwatch::record::{Incarnation, Stream};
use dogwatch_e2e::chance::Chance;
use dogwatch_e2e::ledger::Ledger;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Post, Stage, yaml};
use dogwatch_e2e::wait::{quick, until};

const PATIENCE: Duration = Duration::from_secs(120);
/// For everything to arrive: reading the store time and again takes its share of a slow machine.
const SETTLE: Duration = Duration::from_secs(300);
/// So many that catching up after many short lives exceeds the evidence stream's budget of 1 MiB a second, and lines
/// are given up that gap records must tell.
const LINES_PER_SECOND: u64 = 800;

/// Processes stand before the stage, so that they end before its folder goes.
struct Scene {
    house: House,
    post: Post,
    scribe: Scribe,
    promised: Ledger,
    chance: Chance,
    stage: Stage,
}

impl Scene {
    fn new(what: &str, agent_state: Option<&Path>, collector_state: Option<&Path>) -> Self {
        let chance = Chance::of_environment(what);
        let stage = Stage::new(programs!());
        let within = |given: Option<&Path>, name: &str| -> PathBuf {
            given.map_or_else(|| stage.path().join(name), |d| d.join(name))
        };
        let mut house = stage.house(&within(collector_state, "collector"), "incidents: { silent_after: 1h }");
        house.start();
        let log = stage.path().join("app.log");
        let more = format!(
            "sample: {{ every: 100ms, evidence_every: 200ms, processes: false }}\ncleanup: {{ mode: \"off\" }}\n\
             tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
            yaml(&log),
            yaml(&Scribe::rules(stage.path()))
        );
        let mut post = stage.post("node-a", &within(agent_state, "agent"), Some(&house), &more);
        let scribe = Scribe::start(&log, LINES_PER_SECOND);
        post.start();
        until("something to be acknowledged", PATIENCE, || {
            let seen = Ledger::acknowledged_in(&post.state().join("journal"));
            (!seen.acknowledged.is_empty()).then_some(())
        });
        Self { house, post, scribe, promised: Ledger::default(), chance, stage }
    }

    /// Lets the load run for a random while.
    fn load(&mut self) {
        // Not a wait for anything: the moment of the crash is what is random here.
        std::thread::sleep(Duration::from_millis(self.chance.between(200, 1600)));
    }

    fn note_promises(&mut self) {
        self.promised.remember_acknowledged(&Ledger::acknowledged_in(&self.post.state().join("journal")));
    }

    /// Whose block is the newest of the node's urgent journal.
    fn newest_life(&self) -> Option<Incarnation> {
        let journal = self.post.state().join("journal").join(Stream::Urgent.as_str());
        let blocks = Reader::open(&journal).unwrap().blocks().unwrap();
        blocks.last().map(|(_, block)| block.chain.incarnation)
    }

    /// Starts the agent and waits until this life has written something.
    fn start_a_life(&mut self) {
        let before = self.newest_life();
        self.post.start();
        until("a record of this life", PATIENCE, || (self.newest_life() != before).then_some(()));
    }

    /// Lets everything arrive, ends both, and holds the ledgers against each other.
    fn settle(mut self, what: &str, agent_crashes: usize) {
        let store = self.house.store();
        let log = self.scribe.path().to_owned();
        let last = self.scribe.end();
        let offsets = Scribe::offsets(&log);
        let inode = log.metadata().unwrap().ino();
        let silent = |here: &Ledger| -> Vec<u64> {
            let told = here.bytes_given_up();
            let (mut missing, _) = here.lines_against(last);
            missing.retain(|n| {
                let at = offsets[*n as usize - 1];
                !told.iter().any(|(i, from, to, _)| *i == inode && (*from..*to).contains(&at))
            });
            missing
        };
        // Not by the newest line alone: a gap travels faster than the lines before it.
        let began = Instant::now();
        loop {
            let look = Instant::now();
            if silent(&Ledger::read(&store)).is_empty() || began.elapsed() > SETTLE {
                break;
            }
            // The store grows, and a look at it takes from those who are to deliver.
            std::thread::sleep(look.elapsed().max(Duration::from_millis(200)));
        }
        self.post.stop();
        self.house.stop();
        self.promised.remember_acknowledged(&Ledger::acknowledged_in(&self.post.state().join("journal")));
        let here = Ledger::read(&store);
        assert_eq!(here.twice(), [""; 0], "{what}: records stored twice");
        assert_eq!(
            here.broken_promises(&self.promised.acknowledged),
            [""; 0],
            "{what}: acknowledged and lost"
        );
        assert_eq!(here.silent_holes(), [""; 0], "{what}: holes that no gap record tells");
        let (missing, twice) = here.lines_against(last);
        let told = here.bytes_given_up();
        let silent = silent(&here);
        assert!(twice.is_empty(), "{what}: twice {:?}", &twice[..twice.len().min(10)]);
        assert!(
            silent.is_empty(),
            "{what}: {} lines miss silently, {:?} to {:?}; told {told:?}; {:?}",
            silent.len(),
            silent.first(),
            silent.last(),
            here.gaps.iter().filter(|(_, g)| g.source != "journal").collect::<Vec<_>>()
        );
        // What is given up may be told twice after a crash between the two, never too low.
        let counted: u64 = told.iter().map(|(_, _, _, count)| count).sum();
        assert!(counted >= missing.len() as u64, "{what}: {} lines miss, {counted} are told", missing.len());
        // A run that ended before it wrote anything leaves nothing, and so no incarnation.
        assert!(here.incarnations() > agent_crashes / 5, "{what}: {} incarnations", here.incarnations());
        let verified = self.house.verify();
        let words = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{what}: {words}\n{}", self.stage.path().display());
        let promised: u64 = self.promised.acknowledged.values().sum();
        eprintln!(
            "{what}: {} records, {promised} of them acknowledged; of {last} lines {} once and {} told as given up; {} gaps \
             said, {} incarnations",
            here.count,
            here.lines.len(),
            missing.len(),
            here.gaps.len(),
            here.incarnations()
        );
    }
}

fn rounds(all: usize) -> usize {
    if quick() { 3 } else { all }
}

#[test]
fn power_cuts_of_the_node_lose_nothing_that_was_acknowledged() {
    let fs = LoopFs::create(128 << 20, "ext4", &[]).unwrap();
    let mut scene = Scene::new("power cuts of the node", Some(fs.path()), None);
    let rounds = rounds(20);
    for _ in 0..rounds {
        scene.load();
        fs.shutdown().unwrap();
        scene.post.take().put_down();
        fs.remount().unwrap();
        scene.note_promises();
        scene.post.start();
    }
    scene.settle("power cuts of the node", rounds);
}

#[test]
fn power_cuts_of_the_collector_lose_nothing_that_was_acknowledged() {
    let fs = LoopFs::create(512 << 20, "ext4", &[]).unwrap();
    let mut scene = Scene::new("power cuts of the collector", None, Some(fs.path()));
    for _ in 0..rounds(20) {
        scene.load();
        fs.shutdown().unwrap();
        scene.house.take().put_down();
        fs.remount().unwrap();
        scene.note_promises();
        scene.house.start();
    }
    scene.settle("power cuts of the collector", 0);
}

#[test]
fn an_agent_killed_again_and_again_comes_back_and_loses_nothing_silently() {
    let mut scene = Scene::new("kills of the agent", None, None);
    let rounds = rounds(50);
    for round in 1..=rounds {
        scene.load();
        scene.post.kill();
        scene.note_promises();
        // Most die whenever they do; where a start takes long, no other would ever write.
        if round.is_multiple_of(4) { scene.start_a_life() } else { scene.post.launch() }
    }
    scene.settle("kills of the agent", rounds);
}

#[test]
fn a_collector_killed_again_and_again_comes_back_and_loses_nothing() {
    let mut scene = Scene::new("kills of the collector", None, None);
    for _ in 0..rounds(50) {
        scene.load();
        scene.house.kill();
        scene.note_promises();
        scene.house.launch();
    }
    scene.house.wait_ready();
    scene.settle("kills of the collector", 0);
}
