//! More than can be kept: the collector is away, the ring is at its cap, the disk has not a byte, and then it stands still.
//! What gives way does so in the design's order, and each loss is told, once, with its count.

use std::collections::BTreeMap;
use std::time::Instant;

use dogwatch::clock;
use dogwatch::record::{Gap, Record};
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{free_address, http_get};

use super::*;

/// With their noise about 0.9 MB, below the budget of a second.
const LINES_PER_SECOND: u64 = 1_600;
const NOISE: usize = 500;
/// At once, of which a second's budget lets about a sixth pass.
const BURST: u64 = 12_000;
/// What waits in memory at most, less one line and a sample: then newcomers push others out.
const FULL_QUEUE_BYTES: u64 = 6 * MIB - 64 * 1024;
/// Lines written while the queue is full, so that so many at least are lost.
const LINES_WHILE_FULL: u64 = 7 * LINES_PER_SECOND;
/// After so long without a line, the next comes by itself.
const ALONE: Duration = Duration::from_secs(3);
/// After the disk stood still the writer may have taken out what it then could not write; where it gets little CPU, of a
/// while after.
const IN_HAND_NS: i64 = 5_000_000_000;

/// Every record of `stream` that a folder of journals holds.
fn records(folder: &Path, stream: Stream) -> Vec<Record> {
    let all = Kind::ALL.into_iter().fold(Kinds::default(), Kinds::with);
    let reader = Reader::open(&folder.join(stream.as_str())).unwrap();
    let entries = reader.scan(Position::default()).map(Result::unwrap);
    let blocks = entries.filter(|e| e.kind == FrameKind::Block);
    blocks.flat_map(|e| Block::decode(e.payload).unwrap().records(all).unwrap()).collect()
}

fn gaps(ledger: &Ledger) -> impl Iterator<Item = &Gap> {
    ledger.gaps.iter().map(|(_, gap)| gap)
}

/// What gaps tell of the evidence of `source`, by class of reason.
fn told(ledger: &Ledger, source: &str) -> BTreeMap<&'static str, u64> {
    let mut told = BTreeMap::new();
    for gap in gaps(ledger).filter(|g| g.stream == Stream::Evidence && g.source == source) {
        *told.entry(gap.class()).or_default() += gap.count.unwrap();
    }
    told
}

#[test]
fn what_must_give_way_does_so_in_order_and_each_loss_is_told_once() {
    let began = Instant::now();
    let stage = Stage::new(programs!());
    let disk = LoopFs::create(64 * MIB, "ext4", &["-m", "0"]).unwrap();
    let (state, log, health) = (disk.path().join("state"), stage.path().join("app.log"), free_address());
    let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }");
    house.start();
    let config = format!(
        "health: {{ listen: \"{health}\" }}\ncleanup: {{ mode: \"off\" }}\ncaps: {{ cpu: 100%, memory: 1GiB }}\n\
         state: {{ dir: {}, segment_bytes: 1MiB, urgent_bytes: 4MiB, evidence_bytes: 4MiB, recorder_bytes: 24MiB }}\n\
         sample: {{ every: 200ms, evidence_every: 200ms, processes: false }}\n\
         tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
        yaml(&state),
        yaml(&log),
        yaml(&Scribe::rules(stage.path())),
    );
    let mut post = stage.post("node-a", &state, Some(&house), &config);
    let scribe = Scribe::wordy(&log, LINES_PER_SECOND, NOISE);
    post.start();
    let figure = |name: &str| -> u64 {
        let page = http_get(health, "/metrics").unwrap_or_default();
        let line = page.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64
    };
    until("lines to arrive", PATIENCE, || (!Ledger::read(&house.store()).lines.is_empty()).then_some(()));

    // The ring fills with what nobody takes over; then the oldest goes. What the collector took over last without the agent's
    // knowing it would be told with that.
    until("a stop that leaves nothing in doubt", PATIENCE, || {
        house.stop();
        let there = Ledger::read(&house.store());
        let of_node = there.records.iter().filter(|(chain, _)| chain.node.as_str() == "node-a");
        let stored: BTreeSet<_> = of_node.flat_map(|(_, records)| records.values().flatten()).collect();
        let known = figure("dogwatch_agent_uplink_blocks_acknowledged_total");
        if known >= stored.len() as u64 {
            return Some(());
        }
        eprintln!("{} blocks are stored and {known} known to be: once more", stored.len());
        house.start();
        let more = || Ledger::read(&house.store()).lines.len() > there.lines.len();
        until("more lines to arrive", PATIENCE, || more().then_some(()));
        None
    });
    disk.fill().unwrap();
    assert_eq!(rustix::fs::statvfs(disk.path()).unwrap().f_bavail, 0);
    until("the ring to give up its oldest", PATIENCE, || {
        let gone = Ledger::read(&state.join("journal"));
        told(&gone, &format!("log:{}", log.display())).contains_key("ring").then_some(())
    });
    scribe.burst(BURST);
    until("the budget to say what it dropped", PATIENCE, || {
        (figure("dogwatch_agent_gaps_total{reason=\"budget\"}") > 0).then_some(())
    });

    // Nothing can be written any more, and the queue fills.
    let frozen = disk.freeze().unwrap();
    let frozen_wall_ns = clock::wall_ns();
    until("the queue to be full", PATIENCE, || {
        (figure("dogwatch_agent_queue_bytes{stream=\"evidence\"}") > FULL_QUEUE_BYTES).then_some(())
    });
    let full_at = scribe.written();
    until("lines to be pushed out of the queue", PATIENCE, || {
        (scribe.written() > full_at + LINES_WHILE_FULL).then_some(())
    });
    frozen.thaw().unwrap();

    // Everything is back: the disk has room, the collector answers, and the agent has been started again.
    disk.unfill().unwrap();
    house.start();
    let (mut last, mut written) = (scribe.end(), Instant::now());
    // The budget may have dropped the last of them; one that comes by itself, in a second of its own, it lets pass.
    until("the last line to arrive", PATIENCE, || {
        if written.elapsed() > ALONE {
            last += 1;
            let mut log = File::options().append(true).open(&log).unwrap();
            writeln!(log, "app[7]: something to keep seq={last} by itself").unwrap();
            written = Instant::now();
        }
        (Ledger::read(&house.store()).lines.keys().next_back() >= Some(&last)).then_some(())
    });
    post.stop();
    post.start();
    let source = format!("log:{}", log.display());
    let lost = |ledger: &Ledger| last - ledger.lines.len() as u64;
    until("the losses to be told", PATIENCE, || {
        let there = Ledger::read(&house.store());
        (lost(&there) <= told(&there, &source).values().sum()).then_some(())
    });
    post.stop();
    house.stop();
    let there = Ledger::read(&house.store());
    let by_reason = told(&there, &source);
    eprintln!(
        "{last} lines: {} stored, {} told as lost {by_reason:?}; samples told as lost {:?}; {} gap records, in {:.1} s",
        there.lines.len(),
        by_reason.values().sum::<u64>(),
        told(&there, "sampler"),
        there.gaps.len(),
        began.elapsed().as_secs_f64()
    );

    let tell = || {
        gaps(&there)
            .map(|g| format!("{} {} {:?}: {}\n", g.stream, g.source, g.count, g.reason))
            .collect::<String>()
    };
    assert_eq!(lost(&there), by_reason.values().sum::<u64>(), "lost, and told: {}", tell());
    for reason in ["budget", "queue", "ring"] {
        assert!(
            by_reason.get(reason).is_some_and(|n| *n > 0),
            "nothing was lost for {reason}: {by_reason:?}"
        );
    }
    assert!(there.lines.values().all(|n| *n == 1));
    for chain in there.chains().into_iter().filter(|c| c.stream != Stream::Recorder) {
        let (missing, told) = there.missing_and_told(chain);
        assert_eq!(missing, told, "{chain}: {}", tell());
        assert!(chain.stream == Stream::Evidence || missing == 0, "{chain} lost {missing}");
    }
    assert_eq!((there.silent_holes(), there.twice()), (vec![], vec![]));
    let verified = house.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    // Samples gave way in the ring before any line did …
    let place = |source: &str, words: &str| {
        let is = |g: &Gap| g.source == source && g.stream == Stream::Evidence && g.reason.contains(words);
        gaps(&there).position(is).unwrap_or_else(|| panic!("{}", tell()))
    };
    assert!(place("sampler", "give way to logs") < place(&source, "ring was full"), "{}", tell());
    // … and in memory the recorder before samples, and both before lines: of the time of which lines were pushed out,
    // neither holds a sample.
    let pushed_out = gaps(&there).filter(|g| g.source == source && g.reason.contains("gave way"));
    let (from, to) = (frozen_wall_ns + IN_HAND_NS, pushed_out.map(|g| g.to_wall_ns).max().unwrap());
    assert!(from < to, "too few lines were pushed out");
    for (folder, stream) in [(state.join("journal"), Stream::Recorder), (house.store(), Stream::Evidence)] {
        let kept = records(&folder, stream).into_iter().filter(|r| r.body.kind() == Kind::Sample);
        let kept: Vec<i64> = kept.map(|r| r.at.wall_ns).filter(|at| (from..to).contains(at)).collect();
        assert!(kept.is_empty(), "{stream}: {} samples outlived lines", kept.len());
    }
    let recorder = gaps(&there).filter(|g| g.stream == Stream::Recorder && g.class() == "queue");
    assert!(recorder.filter_map(|g| g.count).sum::<u64>() > by_reason["queue"], "{}", tell());
}
