//! A node's own records, read from its journal where no collector is asked.
//!
//! A record folder holds one journal a stream: `urgent/`, `evidence/`, `recorder/`. Reading takes no lock and changes
//! nothing, so it is safe beside a running agent. Findings and actions are folded to their newest state. Events are
//! those that a collector would have: urgent and evidence, merged by time; the recorder's every line only where asked for.
//!
//! Bounds: one block of each stream is in memory, and at most [`MAX_ROWS`] findings or actions (the oldest give way).
//!
//! Deliberately absent: incidents, which only a collector makes, and signatures, which `verify` checks.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use dogwatch::block::Block;
use dogwatch::journal::{Entry, FrameKind, Position, Reader, Scan};
use dogwatch::record::{
    ActionState, Body, FileSeen, FindingState, Kind, Kinds, NodeName, Record, Sample, Severity, Stream,
};
use dogwatch::wire;

use crate::error::{CliError, chain};
use crate::range::Range;
use crate::time::Utc;
use crate::view::{Action, Event, Finding, Node};

/// Most findings or actions of one answer.
pub(crate) const MAX_ROWS: usize = 100_000;

/// A node's record folder.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Refused when it is not a record folder.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        if Stream::ALL.iter().any(|s| dir.join(s.as_str()).is_dir()) {
            return Ok(Self { dir: dir.to_owned() });
        }
        let what = if dir.is_dir() { "is not a record folder" } else { "does not exist or cannot be read" };
        Err(CliError::Failed(format!(
            "journal {} {what}: urgent/, evidence/ and recorder/ should be in it\n  try: the `journal` folder below the \
             agent's state folder",
            dir.display()
        )))
    }

    /// Findings by their newest state, oldest first.
    pub(crate) fn findings(&self, remarks: &mut Vec<String>) -> Result<Vec<Finding>, CliError> {
        let mut rows: BTreeMap<(NodeName, String), wire::FindingRow> = BTreeMap::new();
        self.each(Stream::Urgent, Kinds::default().with(Kind::Finding), remarks, |node, record| {
            let Body::Finding(f) = &record.body else { return };
            make_room(&mut rows, |r| r.updated_wall_ns);
            let row = rows.entry((node.clone(), f.id.clone())).or_default();
            row.node = node.to_string();
            row.finding = Some(wire::Finding::from(&**f));
            row.updated_wall_ns = record.at.wall_ns;
            row.cleared_wall_ns = if f.state == FindingState::Cleared { record.at.wall_ns } else { 0 };
            row.count += 1;
        })?;
        let mut found: Vec<Finding> = rows.into_values().map(Finding::from).collect();
        found.sort_by_key(|f| f.time);
        Ok(found)
    }

    /// Actions by their newest state, oldest first.
    pub(crate) fn actions(&self, remarks: &mut Vec<String>) -> Result<Vec<Action>, CliError> {
        let mut rows: BTreeMap<(NodeName, String), wire::ActionRow> = BTreeMap::new();
        self.each(Stream::Urgent, Kinds::default().with(Kind::Action), remarks, |node, record| {
            let Body::Action(a) = &record.body else { return };
            make_room(&mut rows, |r| r.wall_ns);
            let row = rows.entry((node.clone(), a.id.clone())).or_default();
            row.node = node.to_string();
            row.action = Some(wire::Action::from(&**a));
            row.wall_ns = record.at.wall_ns;
        })?;
        let mut found: Vec<Action> = rows.into_values().map(Action::from).collect();
        found.sort_by_key(|a| a.time);
        Ok(found)
    }

    /// What was kept of what an action removed, in each stream's own order: the urgent one's digests, then the content.
    pub(crate) fn seen(
        &self,
        action: &str,
        remarks: &mut Vec<String>,
        mut take: impl FnMut(&str, FileSeen),
    ) -> Result<(), CliError> {
        for stream in [Stream::Urgent, Stream::Evidence] {
            self.each(stream, Kinds::default().with(Kind::File), remarks, |node, record| {
                if let Body::File(seen) = &record.body
                    && seen.cause == action
                {
                    take(node.as_str(), (**seen).clone());
                }
            })?;
        }
        Ok(())
    }

    /// Events of `kinds` in `range`, by time, given to `take` as they are read; it says whether to go on. `whole` adds the
    /// recorder's: every line and sample that the node still has.
    pub(crate) fn events(
        &self,
        kinds: Kinds,
        range: Range,
        whole: bool,
        remarks: &mut Vec<String>,
        mut take: impl FnMut(Event) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        let mut streams = Vec::new();
        for stream in Stream::ALL {
            if whole || stream != Stream::Recorder {
                streams.extend(self.records(stream, kinds, range)?);
            }
        }
        loop {
            // The first of equals: what is urgent before what is evidence.
            let next = (0..streams.len()).filter_map(|i| streams[i].peek().map(|at| (at, i))).min();
            let Some((_, i)) = next else { break };
            let Some((node, record)) = streams[i].next() else { break };
            if !take(event(&node, &record))? {
                break;
            }
        }
        remarks.extend(streams.into_iter().flat_map(Records::remarks));
        Ok(())
    }

    /// The node, as its newest sample shows it.
    pub(crate) fn nodes(&self, remarks: &mut Vec<String>) -> Result<Vec<Node>, CliError> {
        let mut row: Option<wire::NodeRow> = None;
        let mut version = String::new();
        for stream in [Stream::Urgent, Stream::Evidence, Stream::Recorder] {
            let Some(reader) = self.reader(stream)? else { continue };
            let blocks = reader.blocks().map_err(|e| self.unreadable(stream, &e))?;
            let newest = blocks.iter().rev().find(|(_, b)| b.kinds.contains(Kind::Sample));
            for at in blocks.iter().rev().take(1).chain(newest).map(|(at, _)| *at) {
                let Some(block) = self.block_at(&reader, stream, at, remarks)? else { continue };
                let header = block.header();
                let row = row.get_or_insert_with(|| wire::NodeRow {
                    name: header.node.to_string(),
                    ..wire::NodeRow::default()
                });
                row.last_seen_wall_ns = row.last_seen_wall_ns.max(header.last_at.wall_ns);
                fill(row, &block, remarks);
            }
            if version.is_empty() {
                let firsts = blocks.iter().rev().filter(|(_, b)| b.first_seq == 1);
                for (at, _) in firsts.take(1) {
                    let block = self.block_at(&reader, stream, *at, remarks)?;
                    version = block
                        .and_then(|b| b.header().start.clone())
                        .map(|s| s.agent_version)
                        .unwrap_or_default();
                }
            }
        }
        Ok(row
            .into_iter()
            .map(|r| Node::from(wire::NodeRow { agent_version: version.clone(), ..r }))
            .collect())
    }

    fn block_at(
        &self,
        reader: &Reader,
        stream: Stream,
        at: Position,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Block>, CliError> {
        let entry = reader.read_at(at).map_err(|e| self.unreadable(stream, &e))?;
        Ok(entry.and_then(|e| match Block::decode(e.payload) {
            Ok(block) => Some(block),
            Err(e) => {
                remarks.push(format!("{stream}: skipped a block: {}", chain(&e)));
                None
            }
        }))
    }

    /// Calls `take` with each record of `stream`, in the order of writing.
    fn each(
        &self,
        stream: Stream,
        kinds: Kinds,
        remarks: &mut Vec<String>,
        mut take: impl FnMut(&NodeName, &Record),
    ) -> Result<(), CliError> {
        if let Some(mut records) = self.records(stream, kinds, Range { since: None, until: None })? {
            while let Some((node, record)) = records.next() {
                take(&node, &record);
            }
            remarks.extend(records.remarks());
        }
        Ok(())
    }

    fn records(&self, stream: Stream, kinds: Kinds, range: Range) -> Result<Option<Records>, CliError> {
        Ok(self.reader(stream)?.map(|reader| Records {
            stream,
            scan: reader.scan(Position::default()),
            kinds,
            range,
            waiting: VecDeque::new(),
            skipped: Vec::new(),
        }))
    }

    fn reader(&self, stream: Stream) -> Result<Option<Reader>, CliError> {
        let dir = self.dir.join(stream.as_str());
        if !dir.is_dir() {
            return Ok(None);
        }
        Reader::open(&dir).map(Some).map_err(|e| self.unreadable(stream, &e))
    }

    fn unreadable(&self, stream: Stream, e: &dyn std::error::Error) -> CliError {
        CliError::failed(format!("cannot read the journal {}", self.dir.join(stream.as_str()).display()), e)
    }
}

/// The oldest row gives way when there are too many.
fn make_room<K: Ord + Clone, V>(rows: &mut BTreeMap<K, V>, at: impl Fn(&V) -> i64) {
    if rows.len() >= MAX_ROWS
        && let Some(oldest) = rows.iter().min_by_key(|(_, v)| at(v)).map(|(k, _)| k.clone())
    {
        rows.remove(&oldest);
    }
}

/// Puts the newest sample of `block` into `row`.
fn fill(row: &mut wire::NodeRow, block: &Block, remarks: &mut Vec<String>) {
    let records = match block.records(Kinds::default().with(Kind::Sample)) {
        Ok(records) => records,
        Err(e) => return remarks.push(format!("skipped the samples of a block: {}", chain(&e))),
    };
    for record in records.iter().rev() {
        let Body::Sample(sample) = &record.body else { continue };
        if record.at.wall_ns > row.sampled_wall_ns {
            row.sampled_wall_ns = record.at.wall_ns;
            row.mounts = sample.mounts.iter().map(mount_row).collect();
            row.sample = Some(wire::Sample::from(&**sample));
        }
        return;
    }
}

fn mount_row(m: &dogwatch::record::Mount) -> wire::MountRow {
    wire::MountRow {
        path: m.path.clone(),
        fs: m.fs.clone(),
        total_bytes: m.total_bytes,
        used_bytes: m.used_bytes(),
        available_bytes: m.available_bytes,
        inodes_total: m.inodes_total,
        inodes_free: m.inodes_free,
        read_only: m.read_only,
        seconds_to_full: None,
    }
}

/// The records of one stream, block by block.
#[derive(Debug)]
struct Records {
    stream: Stream,
    scan: Scan,
    kinds: Kinds,
    range: Range,
    waiting: VecDeque<(NodeName, Record)>,
    skipped: Vec<String>,
}

impl Records {
    fn peek(&mut self) -> Option<i64> {
        while self.waiting.is_empty() {
            let entry = self.scan.next()?;
            self.take(entry);
        }
        self.waiting.front().map(|(_, r)| r.at.wall_ns)
    }

    fn next(&mut self) -> Option<(NodeName, Record)> {
        self.peek()?;
        self.waiting.pop_front()
    }

    fn take(&mut self, entry: Result<Entry, dogwatch::journal::JournalError>) {
        let entry = match entry {
            Ok(entry) if entry.kind == FrameKind::Block => entry,
            Ok(_) => return,
            Err(e) => return self.skip(&e),
        };
        let block = match Block::decode(entry.payload) {
            Ok(block) => block,
            Err(e) => return self.skip(&e),
        };
        let header = block.header();
        let before = self.range.until.is_none_or(|u| header.first_at.wall_ns < u);
        let after = self.range.since.is_none_or(|s| header.last_at.wall_ns >= s);
        if !(before && after && header.kinds.intersects(self.kinds)) {
            return;
        }
        match block.records(self.kinds) {
            Ok(records) => self.waiting.extend(
                records
                    .into_iter()
                    .filter(|r| self.kinds.contains(r.body.kind()) && self.range.holds(r.at.wall_ns))
                    .map(|r| (header.node.clone(), r)),
            ),
            Err(e) => self.skip(&e),
        }
    }

    fn skip(&mut self, e: &dyn std::error::Error) {
        const MAX_REMARKS: usize = 10;
        if self.skipped.len() < MAX_REMARKS {
            self.skipped.push(format!("{}: skipped a block: {}", self.stream, chain(e)));
        }
    }

    fn remarks(self) -> Vec<String> {
        let damaged: u64 = self.scan.damaged().iter().map(|(_, bytes)| bytes).sum();
        let mut remarks = self.skipped;
        if damaged > 0 {
            remarks.push(format!("{}: {damaged} bytes are damaged and were skipped", self.stream));
        }
        remarks
    }
}

/// A record as an event.
fn event(node: &NodeName, record: &Record) -> Event {
    let mut fields = BTreeMap::new();
    let mut field = |key: &str, value: String| {
        fields.insert(key.to_owned(), value);
    };
    field("seq", record.seq.to_string());
    let (severity, message) = match &record.body {
        Body::Sample(s) => (Severity::Info, sample_words(s)),
        Body::Log(l) => {
            field("offset", l.offset.to_string());
            if !l.rules.is_empty() {
                field("rules", l.rules.join(","));
            }
            if let Some(pod) = &l.pod {
                for (key, value) in [
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                    ("container", &pod.container),
                    ("output", &l.output),
                ] {
                    if !value.is_empty() {
                        field(key, value.clone());
                    }
                }
            }
            let worth = if l.rules.is_empty() { Severity::Info } else { Severity::Low };
            (worth, String::from_utf8_lossy(&l.line).into_owned())
        }
        Body::Finding(f) => {
            field("id", f.id.clone());
            field("rule", f.rule.clone());
            field("state", f.state.as_str().to_owned());
            (f.severity, f.summary.clone())
        }
        Body::Action(a) => {
            field("id", a.id.clone());
            field("mount", a.mount.clone());
            field("state", a.state.as_str().to_owned());
            let worth = match a.state {
                ActionState::Failed | ActionState::Refused => Severity::Medium,
                _ => Severity::Info,
            };
            (worth, format!("cleanup of {} {}: {}", a.mount, a.state.as_str(), a.reason))
        }
        Body::Gap(g) => {
            field("stream", g.stream.to_string());
            field("from", Utc(g.from_wall_ns).exact());
            field("to", Utc(g.to_wall_ns).exact());
            let lost = g.count.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
            (Severity::Medium, format!("{lost} records of {} are missing: {}", g.source, g.reason))
        }
        Body::Note(text) => (Severity::Info, text.clone()),
        Body::File(f) => {
            field("cause", f.cause.clone());
            f.digests().for_each(|(key, digest)| field(&key, digest));
            (Severity::Info, f.to_string())
        }
    };
    Event {
        time: Utc(record.at.wall_ns),
        node: Some(node.to_string()),
        kind: record.body.kind().as_str().to_owned(),
        severity: Some(severity),
        source: match &record.body {
            Body::Log(l) => l.source.clone(),
            other => other.source(),
        },
        message,
        fields,
    }
}

fn sample_words(sample: &Sample) -> String {
    let mut words: Vec<String> = sample
        .mounts
        .iter()
        .map(|m| format!("{} {:.0} % available", m.path, m.available_fraction() * 100.0))
        .collect();
    if let Some(c) = &sample.cpu {
        words.push(format!("load {:.2}", c.load1));
    }
    words.join(", ")
}
