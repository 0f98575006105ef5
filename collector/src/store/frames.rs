//! Frames of one segment, read through: what is left where a footer is not held in memory.

use dogwatch::block::Block;
use dogwatch::journal::{BlockInfo, FrameKind, Position, Reader};

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
