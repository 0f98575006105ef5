//! On a node where nothing is wrong, nothing is said: real samples of this machine, live, and a day made of them.
//!
//! The machine that runs the tests may truly be short of something (it builds while this runs): what holds there is
//! reckoned from the samples by plain rules of this test's own, listed, and left out. `DOGWATCH_TEST_SECONDS` is how long
//! is recorded.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dogwatch::record::{FindingState, Incarnation, LogLine, Moment, RecordRef, Sample, Stream};
use dogwatch_agent::detect::{DetectConfig, Detectors};
use dogwatch_agent::sample::{Roots, SampleOptions, Sampler, now};
use dogwatch_e2e::chance::Chance;
use dogwatch_e2e::day::Day;

const DAY_SECONDS: u64 = 86_400;
/// Samples in a minute.
const MINUTE: usize = 60;

/// So many seconds of this machine, a sample each.
fn record(seconds: u64) -> Vec<(Moment, Sample)> {
    let mut sampler = Sampler::new(Roots::default(), SampleOptions::default());
    let began = Instant::now();
    (0..seconds)
        .map(|i| {
            // The measured thing is the machine over time: there is no other condition to wait for.
            std::thread::sleep((began + Duration::from_secs(i)).saturating_duration_since(Instant::now()));
            let sample = sampler.sample();
            (now(), sample)
        })
        .collect()
}

/// Rules that may speak, since the recording itself says that the machine is so; each with its figure.
fn true_here(recorded: &[(Moment, Sample)]) -> BTreeMap<&'static str, String> {
    let mut holds = BTreeMap::new();
    let n = recorded.len() as f64;
    let share = |of: &dyn Fn(&Sample) -> bool| recorded.iter().filter(|(_, s)| of(s)).count() as f64 / n;
    let cpu = |s: &Sample| s.cpu.clone().unwrap_or_default();
    // Any minute counts, not the mean of all: an hour may have one in which too much ran.
    let online = recorded.first().map_or(1, |(_, s)| cpu(s).online.max(1));
    let busiest = recorded.windows(MINUTE.min(recorded.len())).step_by(10).filter_map(|minute| {
        let long = minute.len() as f64;
        let waits =
            minute.iter().filter(|(_, s)| cpu(s).pressure.is_some_and(|p| p.some_avg60 >= 70.0)).count();
        let running =
            minute.iter().map(|(_, s)| cpu(s).running as f64).sum::<f64>() / long / f64::from(online);
        (waits as f64 >= 0.9 * long && running >= 1.5).then_some(running)
    });
    if let Some(running) = busiest.max_by(f64::total_cmp) {
        holds.insert(
            "cpu-saturation",
            format!("a minute of {running:.1} runnable tasks for each of {online} CPUs"),
        );
    }
    let (first, last) = (cpu(&recorded.first().unwrap().1), cpu(&recorded.last().unwrap().1));
    let all = |c: &dogwatch::record::Cpu| {
        c.user_us + c.nice_us + c.system_us + c.idle_us + c.iowait_us + c.irq_us + c.softirq_us + c.steal_us
    };
    let steal = (last.steal_us - first.steal_us) as f64 / (all(&last) - all(&first)).max(1) as f64;
    if steal >= 0.04 {
        holds.insert("cpu-steal", format!("{:.1} % stolen", steal * 100.0));
    }
    let io = share(&|s| cpu(s).io_pressure.is_some_and(|p| p.full_avg10 >= 50.0));
    if io > 0.2 {
        holds.insert("io-stall", format!("{:.0} % of samples with PSI io full over 50 %", io * 100.0));
    }
    let memory = |s: &Sample| {
        s.memory.as_ref().is_some_and(|m| {
            m.available_bytes * 20 < m.total_bytes
                || m.pressure.is_some_and(|p| p.full_avg10 >= 10.0 || p.some_avg10 >= 40.0)
        })
    };
    if share(&memory) > 0.05 {
        holds.insert("memory-pressure", "memory is short in the recording".to_owned());
    }
    for (_, s) in recorded {
        for m in &s.mounts {
            if m.available_fraction() <= 0.15 && !m.read_only {
                holds.insert("disk-high-water", format!("{} is full", m.path));
            }
            if m.inodes_free_fraction() <= 0.15 && !m.read_only {
                holds.insert("inode-high-water", format!("{} has few inodes", m.path));
            }
        }
    }
    // A forecast needs a fall that took a seventh of what was left; an eighth within the recording may become one.
    for m in &recorded.first().unwrap().1.mounts {
        let later = recorded.last().unwrap().1.mounts.iter().find(|l| l.path == m.path);
        if later.is_some_and(|l| (l.available_bytes as f64) < 0.875 * m.available_bytes as f64) {
            holds.insert("disk-time-to-full", format!("{} fills", m.path));
        }
    }
    if let (Some(first), Some(last)) = (&recorded[0].1.net, &recorded.last().unwrap().1.net) {
        let sent = last.tcp_out_segments_total - first.tcp_out_segments_total;
        let again = last.tcp_retransmitted_total - first.tcp_retransmitted_total;
        if again * 25 >= sent.max(1) && sent > 1_000 {
            holds.insert("tcp-retransmits", format!("{again} of {sent} segments"));
        }
    }
    for group in recorded.iter().flat_map(|(_, s)| &s.cgroups) {
        let nearly = |part: Option<u64>, of: Option<u64>| {
            part.zip(of).is_some_and(|(p, o)| o > 0 && p as f64 >= 0.75 * o as f64)
        };
        if nearly(group.working_set_bytes, group.memory_limit_bytes) {
            holds.insert("cgroup-memory-pressure", format!("{} is nearly full", group.path));
        }
        if nearly(group.pids, group.pids_max) {
            holds.insert("pid-exhaustion", format!("{} is nearly full", group.path));
        }
    }
    holds
}

struct Judge {
    detectors: Detectors,
    seq: u64,
    said: BTreeMap<String, (String, u64)>,
}

impl Judge {
    fn new(run: u8) -> Self {
        let node = "quiet-1".parse().unwrap();
        let detectors = Detectors::new(DetectConfig::default(), node, Incarnation([run; 16]));
        Self { detectors, seq: 0, said: BTreeMap::new() }
    }

    fn cite(&mut self) -> RecordRef {
        self.seq += 1;
        RecordRef {
            node: "quiet-1".parse().unwrap(),
            incarnation: Incarnation([1; 16]),
            stream: Stream::Recorder,
            seq: self.seq,
        }
    }

    fn sample(&mut self, at: Moment, sample: &Sample) {
        let cite = self.cite();
        let found = self.detectors.on_sample(at, sample, &cite);
        self.hear(found);
    }

    fn kernel(&mut self, at: Moment, text: String) {
        let cite = self.cite();
        let line = LogLine { source: "kmsg".into(), line: text.into_bytes(), ..LogLine::default() };
        let found = self.detectors.on_kernel(at, &line, &cite);
        self.hear(found);
    }

    fn hear(&mut self, found: Vec<dogwatch::record::Finding>) {
        for f in found.into_iter().filter(|f| f.state == FindingState::Raised) {
            let seq = self.seq;
            let entry = self.said.entry(f.rule.clone()).or_insert((String::new(), 0));
            entry.1 += 1;
            if entry.0.is_empty() {
                entry.0 = format!("at record {seq}: {}: {}", f.subject, f.summary);
            }
        }
    }

    fn assert_quiet(&self, what: &str, allowed: &BTreeMap<&'static str, String>) {
        let wrong: BTreeSet<_> =
            self.said.iter().filter(|(r, _)| !allowed.contains_key(r.as_str())).collect();
        eprintln!("{what}: said {:?}; true here {allowed:?}", self.said);
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    }
}

#[test]
fn this_machine_and_a_day_made_of_it_are_quiet() {
    let seconds = std::env::var("DOGWATCH_TEST_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60u64);
    let recorded = record(seconds.max(10));
    let allowed = true_here(&recorded);
    let mut live = Judge::new(1);
    for (at, sample) in &recorded {
        live.sample(*at, sample);
    }
    live.assert_quiet(&format!("{} s of this machine", recorded.len()), &allowed);

    let mut day = Day::new(recorded.into_iter().map(|(_, s)| s).collect(), Chance::of_environment("quiet"));
    let mut judge = Judge::new(2);
    let began = Instant::now();
    for _ in 0..DAY_SECONDS {
        let (at, sample) = day.next_sample();
        judge.sample(at, &sample);
        if let Some(line) = day.kernel_line() {
            judge.kernel(at, line);
        }
    }
    eprintln!("a day was judged in {:.1} s", began.elapsed().as_secs_f64());
    judge.assert_quiet("a day of 1 Hz samples", &allowed);
}

/// The same day with something wrong in it: a test of quiet that could not hear would prove nothing.
#[test]
fn a_day_with_trouble_in_it_is_not_quiet() {
    let recorded = record(10).into_iter().map(|(_, s)| s).collect();
    let mut day = Day::new(recorded, Chance::new(7));
    let mut judge = Judge::new(3);
    for _ in 0..7_200 {
        let (at, mut sample) = day.next_sample();
        if day.second() > 3_600 {
            let cache = sample.cgroups.iter_mut().find(|g| g.path == "/made/cache").unwrap();
            cache.pids = Some(99);
            let disk = sample.disks.iter_mut().find(|d| d.name == "made0").unwrap();
            (disk.reads_total, disk.writes_total, disk.in_flight) = (1, 1, 3);
            sample.net.as_mut().unwrap().conntrack_entries = Some(250_000);
        }
        judge.sample(at, &sample);
    }
    for rule in ["pid-exhaustion", "io-stall", "conntrack-exhaustion"] {
        assert!(judge.said.contains_key(rule), "{rule}: {:?}", judge.said);
    }
}
