//! What earlier runs left: the start counter, findings that were active, lines that are durable, what is told.
//!
//! Read once, when the record is opened. A block that does not decode costs what it would have said, a folder that cannot
//! be read costs the start.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch::block::{Block, Predecessor};
use dogwatch::journal::{JournalError, Position, Reader};
use dogwatch::record::{Body, Finding, FindingState, Gap, Kind, Kinds, LogLine, Moment, Record, Stream};

use super::given_up::GivenUp;
use super::slots::Slots;
use super::telling::AT_LEAST_EVERY;
use super::{NOT_HELD, RING_FULL, RecordError, SEAL_AFTER};

/// Newest blocks of a stream in which the last line of each log is looked up at start. The tail's own checkpoint is at
/// most a second behind, so a few would do.
const LOOK_BACK_BLOCKS: usize = 64;

/// The start counter in the state folder.
const STARTS: &str = "starts";

/// Whether an agent counted a start in `state_dir` before; where nobody can tell, one did.
pub(crate) fn was_started(state_dir: &Path) -> bool {
    let path = state_dir.join(STARTS);
    // Opening makes it.
    match path.try_exists() {
        Ok(false) => false,
        Ok(true) => {
            Slots::open_telling(&path).map_or(true, |(_, found)| found.damaged || found.value.is_some())
        }
        Err(_) => true,
    }
}

/// Adds one to the start counter. A counter that cannot be written costs only its number.
pub(super) fn count_start(state_dir: &Path) -> Result<(u64, Vec<String>), RecordError> {
    let path = state_dir.join(STARTS);
    let failed = |what| {
        let path = path.display().to_string();
        move |source| RecordError::State { what, path, source }
    };
    let (mut slots, value) = Slots::open(&path).map_err(failed("opening the start counter"))?;
    let before = value.and_then(|v| v.try_into().ok()).map_or(0, u64::from_le_bytes);
    let counter = before + 1;
    let mut remarks = Vec::new();
    if let Err(e) = slots.write(&counter.to_le_bytes()) {
        remarks.push(format!("the start counter {} could not be written: {e}", path.display()));
    }
    Ok((counter, remarks))
}

pub(super) fn gap_since(stream: Stream, before: Predecessor, wall_ns: i64, now: Moment, clean: bool) -> Gap {
    let reason = if clean {
        "the agent was not running; it had stopped in order".to_owned()
    } else {
        format!(
            "the agent or its node stopped without closing the journal; what was not yet sealed (at most {} s, urgent \
             records at most what was being written) is lost, with what was not yet told of losses before (at most {} s), \
             and nothing was recorded until now",
            SEAL_AFTER.as_secs(),
            AT_LEAST_EVERY.as_secs()
        )
    };
    Gap {
        stream,
        source: "journal".to_owned(),
        after_seq: Some(before.last_seq),
        before_seq: None,
        count: if clean { Some(0) } else { None },
        from_wall_ns: wall_ns.min(now.wall_ns),
        to_wall_ns: now.wall_ns,
        reason,
        incarnation: Some(before.incarnation),
    }
}

/// Findings whose newest record in the urgent journal is not `cleared`, and the holes in each ring of which it tells.
pub(super) fn urgent_before(dir: &Path) -> Result<(Vec<Finding>, [GivenUp; 3]), JournalError> {
    let wanted = Kinds::default().with(Kind::Finding).with(Kind::Gap);
    let reader = Reader::open(&dir.join(Stream::Urgent.as_str()))?;
    let (mut active, mut given_up) = (Vec::<Finding>::new(), <[GivenUp; 3]>::default());
    for (at, info) in reader.blocks()? {
        if !info.kinds.intersects(wanted) {
            continue;
        }
        for record in read_records(&reader, at, wanted) {
            match record.body {
                Body::Finding(f) => {
                    active.retain(|a| a.id != f.id);
                    if f.state != FindingState::Cleared {
                        active.push(*f);
                    }
                }
                Body::Gap(Gap {
                    stream,
                    after_seq: Some(after),
                    before_seq: Some(before),
                    incarnation: Some(incarnation),
                    reason,
                    ..
                }) if reason == RING_FULL || reason == NOT_HELD => {
                    given_up[stream.index()].note(
                        incarnation,
                        after.saturating_add(1),
                        before.saturating_sub(1),
                    );
                }
                _ => {}
            }
        }
    }
    Ok((active, given_up))
}

/// For each file, the newest line that is durable in the stream's journal.
pub(super) fn newest_lines(dir: &Path, stream: Stream) -> Result<Vec<(Stream, LogLine)>, JournalError> {
    let wanted = Kinds::default().with(Kind::Log);
    let reader = Reader::open(&dir.join(stream.as_str()))?;
    let blocks: Vec<_> =
        reader.blocks()?.into_iter().filter(|(_, info)| info.kinds.intersects(wanted)).collect();
    let mut newest: BTreeMap<(String, u64), LogLine> = BTreeMap::new();
    for (at, _) in blocks.iter().rev().take(LOOK_BACK_BLOCKS).rev() {
        for record in read_records(&reader, *at, wanted) {
            if let Body::Log(line) = record.body {
                newest.insert((line.source.clone(), line.inode), line);
            }
        }
    }
    Ok(newest.into_values().map(|line| (stream, line)).collect())
}

pub(super) fn read_records(reader: &Reader, at: Position, wanted: Kinds) -> Vec<Record> {
    let Ok(Some(entry)) = reader.read_at(at) else { return Vec::new() };
    Block::decode(entry.payload).and_then(|b| b.records(wanted)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_which_no_start_was_counted_is_new() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!was_started(dir.path()));
        assert!(!dir.path().join(STARTS).exists(), "asking leaves nothing behind");
        // A start that ended before it was counted.
        drop(Slots::open(&dir.path().join(STARTS)).unwrap());
        assert!(!was_started(dir.path()));
        assert_eq!(count_start(dir.path()).unwrap().0, 1);
        assert!(was_started(dir.path()));
        std::fs::write(dir.path().join(STARTS), [b'x'; 8192]).unwrap();
        assert!(was_started(dir.path()), "a count that cannot be read was one");
    }
}
