//! Frames as places: a segment read through where its footer is not held in memory, and where a journal begins.
//!
//! A segment here is the number in a frame's position. A journal may have moved frames into a later file (coalesced small
//! segments); their positions stay, so nothing here speaks of files.

use dogwatch::block::Block;
use dogwatch::journal::{BlockInfo, FrameKind, JournalError, Position, Reader};

use super::writer::info_of;

/// Every whole block of `segment`, one at a time.
pub(super) fn blocks_of(reader: &Reader, segment: u64) -> impl Iterator<Item = (Position, BlockInfo)> {
    reader
        .scan(Position { segment, offset: 0 })
        .map_while(Result::ok)
        .take_while(move |e| e.at.segment <= segment)
        .filter(move |e| e.at.segment == segment && e.kind == FrameKind::Block)
        .filter_map(|e| Block::decode(e.payload).ok().map(|b| (e.at, info_of(&b))))
}

/// Segment of the oldest frame that is still there: everything before has expired. `None` where there is no frame.
pub(super) fn floor(reader: &Reader) -> Result<Option<u64>, JournalError> {
    Ok(reader.scan(Position::default()).next().transpose()?.map(|e| e.at.segment))
}
