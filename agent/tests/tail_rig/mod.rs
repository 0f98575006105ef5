//! A folder of logs, a tailer over it, and a clock that moves when told.
#![allow(dead_code, reason = "each test binary uses another part of the rig")]
#![allow(unreachable_pub, reason = "a module shared by test binaries")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::{LogLine, Moment, Stream};
use dogwatch_agent::tail::{
    Checkpoint, Journaled, Mark, Resume, RuleSet, Start, TailConfig, TailEvent, TailGap, Tailer,
};

pub const RULES: &str = "rules:\n  - {name: hit, match: 'HIT', severity: high, summary: s, context_before: 2, context_after: 1}\n";

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub now: Moment,
    pub tailer: Option<Tailer>,
    pub events: Vec<TailEvent>,
    pub config: TailConfig,
}

pub fn config(dir: &Path, glob: &str) -> TailConfig {
    TailConfig {
        globs: vec![format!("{}/{glob}", dir.display())],
        start: Start::Beginning,
        rules: RuleSet::parse("test", RULES).unwrap(),
        bytes_per_second: u64::MAX,
        evidence_bytes_per_second: u64::MAX,
        recorder_bytes_per_second: u64::MAX,
        sweep: Duration::ZERO,
        poll: Duration::ZERO,
        ..TailConfig::default()
    }
}

impl Rig {
    pub fn new(glob: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().canonicalize().unwrap(), glob);
        Self {
            dir,
            now: Moment { wall_ns: 0, boot_ns: 1_000_000_000_000 },
            tailer: None,
            events: Vec::new(),
            config,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn append(&self, name: &str, text: &str) {
        append(&self.path(name), text);
    }

    /// Begins anew, as after a restart.
    pub fn start(&mut self, checkpoint: Option<Checkpoint>, journaled: Vec<Journaled>) {
        self.tailer = Some(Tailer::new(self.config.clone(), Resume { checkpoint, journaled }).unwrap());
    }

    /// Turns until nothing is left to read, `wait` later.
    pub fn turn_after(&mut self, wait: Duration) {
        if self.tailer.is_none() {
            self.start(None, Vec::new());
        }
        self.now.boot_ns += wait.as_nanos() as u64;
        let (tailer, events) = (self.tailer.as_mut().unwrap(), &mut self.events);
        for _ in 0..2 {
            self.now.boot_ns += 1_000_000;
            while !tailer
                .turn(self.now, &mut |e| {
                    events.push(e);
                    ControlFlow::Continue(())
                })
                .idle
            {}
        }
    }

    pub fn turn(&mut self) {
        self.turn_after(Duration::from_millis(200));
    }

    /// The events so far are durable: where that is, and what the journal holds then.
    pub fn commit(&mut self) -> Checkpoint {
        let tailer = self.tailer.as_mut().unwrap();
        tailer.durable(self.events.iter().filter_map(mark));
        tailer.checkpoint().unwrap()
    }

    pub fn lines(&self) -> Vec<String> {
        self.recorded().map(|l| String::from_utf8_lossy(&l.line).into_owned()).collect()
    }

    pub fn recorded(&self) -> impl Iterator<Item = &LogLine> {
        self.events.iter().filter_map(|e| match e {
            TailEvent::Line { line, keep, .. } if keep.recorder => Some(line),
            _ => None,
        })
    }

    pub fn evidence(&self) -> Vec<String> {
        let show = |l: &LogLine| {
            format!("{}{}", String::from_utf8_lossy(&l.line), if l.rules.is_empty() { "~" } else { "!" })
        };
        self.events
            .iter()
            .filter_map(|e| match e {
                TailEvent::Line { line, keep, .. } if keep.evidence => Some(show(line)),
                _ => None,
            })
            .collect()
    }

    pub fn gaps(&self) -> Vec<TailGap> {
        self.events
            .iter()
            .filter_map(|e| if let TailEvent::Gap(g) = e { Some(g.clone()) } else { None })
            .collect()
    }

    pub fn problems(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|e| if let TailEvent::Problem(p) = e { Some(p.clone()) } else { None })
            .collect()
    }

    /// What a journal of the recorder and evidence streams would hold now: the newest line of each file.
    pub fn journaled(&self) -> Vec<Journaled> {
        let mut out: Vec<Journaled> = Vec::new();
        for event in &self.events {
            let TailEvent::Line { line, keep, .. } = event else { continue };
            for stream in [Stream::Evidence, Stream::Recorder] {
                if (stream == Stream::Evidence && keep.evidence)
                    || (stream == Stream::Recorder && keep.recorder)
                {
                    out.retain(|j| j.stream != stream || j.line.inode != line.inode);
                    out.push(Journaled { stream, line: line.clone() });
                }
            }
        }
        out
    }
}

pub fn mark(event: &TailEvent) -> Option<Mark> {
    match event {
        TailEvent::Line { mark, .. } | TailEvent::Progress(mark) => Some(mark.clone()),
        TailEvent::Gap(gap) => gap.mark.clone(),
        TailEvent::Problem(_) => None,
    }
}

pub fn append(path: &Path, text: &str) {
    let mut file: File = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What this thread took of a core so far: others on the machine change a test's time, and not this.
pub fn thread_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

pub fn numbered(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{n:08} a line with enough words to tell one head from another\n")).collect()
}

pub fn numbers(lines: &[String]) -> Vec<usize> {
    lines.iter().map(|l| l[..8].parse().unwrap()).collect()
}
