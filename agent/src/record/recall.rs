//! What was recorded of late, read back when the agent starts: for those whose memory must outlive it.
//!
//! Limits: by the wall clock of the records, since a block does not say of which boot it is; whoever asks decides what a
//! clock that was set makes of that.

use std::path::Path;

use dogwatch::journal::{JournalError, Reader};
use dogwatch::record::{Kinds, Record, Stream};

use super::Recorder;
use super::before::read_records;

impl Recorder {
    /// Calls `see` with each durable record of `stream` that is of one of `kinds` and not older than `since_wall_ns`, in the
    /// order in which they were written. Reads the disk; for a start only.
    ///
    /// # Errors
    /// [`JournalError`] where the journal cannot be read at all; a block that cannot be read is passed over.
    pub fn recall(
        &self,
        stream: Stream,
        kinds: Kinds,
        since_wall_ns: i64,
        see: impl FnMut(Record),
    ) -> Result<(), JournalError> {
        recall(&self.journal_dir(stream), kinds, since_wall_ns, see)
    }
}

fn recall(
    dir: &Path,
    kinds: Kinds,
    since_wall_ns: i64,
    mut see: impl FnMut(Record),
) -> Result<(), JournalError> {
    let reader = Reader::open(dir)?;
    for (at, info) in reader.blocks()? {
        if info.last_wall_ns >= since_wall_ns && info.kinds.intersects(kinds) {
            let records = read_records(&reader, at, kinds).into_iter();
            records.filter(|r| r.at.wall_ns >= since_wall_ns).for_each(&mut see);
        }
    }
    Ok(())
}
