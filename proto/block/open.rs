//! Opening: a block's bytes are checked, and read.

use std::collections::HashSet;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use sha2::{Digest, Sha256};
use zstd::bulk::Decompressor;

use super::seal::within;
use super::{
    Block, BlockError, Header, MAX_BLOCK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, MAX_SECTION_RAW_BYTES,
    SALT_BYTES, SectionHeader, malformed,
};
use crate::convert::MAX_OBJECTS;
use crate::record::{Hash, Kind, Kinds, Record};
use crate::wire;

/// Field of `Records` that holds the records.
const RECORDS_TAG: u32 = 1;
/// Fields of `Record` that hold its body, of kinds still to come too.
const BODY_TAGS: std::ops::RangeInclusive<u32> = 10..=31;
/// Most fields that a record's body may have, repeated ones counted each: an action's objects and refusals, and room
/// for the rest. Two bytes can make an empty object of 200 bytes of memory, so this is counted before decoding.
const MAX_BODY_FIELDS: usize = 2 * MAX_OBJECTS + 100;
/// A record of fewer bytes cannot have fields enough to matter.
const FEW_FIELDS_BYTES: usize = 4096;

/// The outermost message, with its size bounded.
pub(super) fn message(bytes: Bytes) -> Result<wire::Block, BlockError> {
    within("block", bytes.len(), MAX_BLOCK_BYTES)?;
    wire::Block::decode(bytes).map_err(|e| malformed(format!("not a block: {e}")))
}

/// Everything but the sections' bytes: header, hash, limits, structure.
pub(super) fn header(block: wire::Block) -> Result<Block, BlockError> {
    within("block", block.encoded_len(), MAX_BLOCK_BYTES)?;
    let decoded = wire::BlockHeader::decode(block.header.clone())
        .map_err(|e| malformed(format!("header does not decode: {e}")))?;
    let header = Header::try_from(decoded).map_err(|e| malformed(format!("header.{e}")))?;
    check_header(&header)?;
    if block.sections.len() != header.sections.len() {
        return Err(malformed(format!(
            "{} sections where the header states {}",
            block.sections.len(),
            header.sections.len()
        )));
    }
    let hash = Hash(Sha256::digest(&block.header).into());
    Ok(Block { header_bytes: block.header, sections: block.sections, header, hash })
}

pub(super) fn check_header(h: &Header) -> Result<(), BlockError> {
    if h.first_seq == 0 || h.last_seq < h.first_seq {
        return Err(malformed(format!(
            "header.first_seq {} to last_seq {} is no range",
            h.first_seq, h.last_seq
        )));
    }
    if h.last_seq == u64::MAX {
        return Err(malformed("header.last_seq leaves no seq for a next block"));
    }
    let records = h.last_seq - h.first_seq;
    if records >= MAX_RECORDS as u64 {
        return Err(malformed(format!("header.last_seq: more than {MAX_RECORDS} records")));
    }
    if h.last_at.wall_ns < h.first_at.wall_ns || h.last_at.boot_ns < h.first_at.boot_ns {
        return Err(malformed("header: the latest record is before the earliest"));
    }
    let (mut counted, mut raw_bytes, mut kinds) = (0u64, 0usize, 0);
    for (i, s) in h.sections.iter().enumerate() {
        check_section_header(i, s)?;
        counted += u64::from(s.records);
        raw_bytes += s.raw_bytes as usize;
        kinds |= s.kinds.0;
    }
    if counted != records + 1 {
        return Err(malformed(format!(
            "header.sections hold {counted} records, the seqs are {}",
            records + 1
        )));
    }
    within("block after decompression", raw_bytes, MAX_RAW_BYTES)?;
    if kinds != h.kinds.0 {
        return Err(malformed("header.kinds is not what the sections' kinds add up to"));
    }
    let mut sources = HashSet::with_capacity(h.sections.len());
    match h.sections.iter().find(|s| !sources.insert(s.source.as_str())) {
        None => Ok(()),
        Some(s) => Err(malformed(format!("header.sections has {} twice", s.source))),
    }
}

fn check_section_header(index: usize, s: &SectionHeader) -> Result<(), BlockError> {
    let broken = |rule: &str| Err(malformed(format!("header.sections[{index}].{rule}")));
    within("section after decompression", s.raw_bytes as usize, MAX_SECTION_RAW_BYTES)?;
    if s.records == 0 {
        return broken("records: must be 1 or more");
    }
    if s.kinds.0 == 0 {
        return broken("kinds: must not be empty");
    }
    if s.stored_bytes as usize <= SALT_BYTES {
        return broken("stored_bytes: must be more than the salt's 16");
    }
    if (s.raw_bytes as usize) < 2 * s.records as usize {
        return broken("raw_bytes: too few for so many records");
    }
    Ok(())
}

/// What is wrong with section `index` as stored; nothing where it is withheld.
pub(super) fn section_error(block: &Block, index: usize) -> Option<BlockError> {
    let (bytes, stated) = (block.sections.get(index)?, block.header.sections.get(index)?);
    if bytes.is_empty() {
        return None;
    }
    let same = bytes.len() == stated.stored_bytes as usize && Sha256::digest(bytes)[..] == stated.sha256.0;
    (!same).then(|| BlockError::SectionHash { index, origin: stated.source.clone() })
}

pub(super) fn records(block: &Block, wanted: Kinds) -> Result<Vec<Record>, BlockError> {
    let mut reading = Reading {
        header: &block.header,
        wanted,
        seen: vec![false; (block.header.last_seq - block.header.first_seq + 1) as usize],
        found: Vec::new(),
    };
    let mut decompressor =
        Decompressor::new().map_err(|e| malformed(format!("zstd could not be set up: {e}")))?;
    for (bytes, stated) in block.sections.iter().zip(&block.header.sections) {
        if !bytes.is_empty() && stated.kinds.intersects(wanted) {
            let raw = decompress(&mut decompressor, bytes, stated)?;
            reading.section(raw, stated).map_err(|e| in_section(stated, e))?;
        }
    }
    // Each section ascends already, so this merges runs.
    reading.found.sort_by_key(|r| r.seq);
    Ok(reading.found)
}

fn decompress(
    zstd: &mut Decompressor<'_>,
    bytes: &Bytes,
    stated: &SectionHeader,
) -> Result<Bytes, BlockError> {
    // Never more than the header states, which is bounded; a bomb finds no room.
    let size = stated.raw_bytes as usize;
    let mut raw = vec![0; size];
    let compressed = bytes.get(SALT_BYTES..).unwrap_or_default();
    match zstd.decompress_to_buffer(compressed, &mut raw[..]) {
        Ok(got) if got == size => Ok(raw.into()),
        Ok(got) => Err(in_section(stated, format!("{got} bytes where the header states {size}"))),
        Err(e) => Err(in_section(stated, format!("does not decompress to the stated {size} bytes: {e}"))),
    }
}

fn in_section(stated: &SectionHeader, what: String) -> BlockError {
    malformed(format!("section {}: {what}", stated.source))
}

/// The records of one block as they are read, section by section.
struct Reading<'a> {
    header: &'a Header,
    wanted: Kinds,
    /// For each seq of the block, whether a section has held it. With every section's count as stated, which add up
    /// to the range, "none twice" is "each once".
    seen: Vec<bool>,
    found: Vec<Record>,
}

impl Reading<'_> {
    fn section(&mut self, mut raw: Bytes, stated: &SectionHeader) -> Result<(), String> {
        let (mut count, mut last) = (0u32, 0);
        while raw.has_remaining() {
            let (tag, wire_type) = decode_key(&mut raw).map_err(|e| e.to_string())?;
            if tag != RECORDS_TAG || wire_type != WireType::LengthDelimited {
                return Err(format!("holds a field {tag} that is not a record"));
            }
            let size = decode_varint(&mut raw).map_err(|e| e.to_string())?;
            let size =
                usize::try_from(size).ok().filter(|s| *s <= raw.len()).ok_or("ends within a record")?;
            let seq = self.record(raw.split_to(size), stated)?;
            if seq <= last {
                return Err(format!("record {seq} stands after record {last}"));
            }
            last = seq;
            count += 1;
        }
        if count == stated.records {
            Ok(())
        } else {
            Err(format!("{count} records where the header states {}", stated.records))
        }
    }

    fn record(&mut self, bytes: Bytes, stated: &SectionHeader) -> Result<u64, String> {
        if bytes.len() > FEW_FIELDS_BYTES {
            check_fields(&bytes)?;
        }
        let record = wire::Record::decode(bytes).map_err(|e| format!("a record does not decode: {e}"))?;
        let (seq, wall_ns, boot_ns) = (record.seq, record.wall_ns, record.boot_ns);
        self.place(seq)?;
        let h = self.header;
        if !(h.first_at.wall_ns..=h.last_at.wall_ns).contains(&wall_ns)
            || !(h.first_at.boot_ns..=h.last_at.boot_ns).contains(&boot_ns)
        {
            return Err(format!("record {seq} lies outside the header's time range"));
        }
        if record.body.is_none() && has_unknown(stated.kinds) {
            return Ok(seq);
        }
        let record = Record::try_from(record).map_err(|e| format!("record {seq}: {e}"))?;
        let kind = record.body.kind();
        if !stated.kinds.contains(kind) {
            return Err(format!("record {seq} is a {}, which the header does not state", kind.as_str()));
        }
        if self.wanted.contains(kind) {
            self.found.push(record);
        }
        Ok(seq)
    }

    fn place(&mut self, seq: u64) -> Result<(), String> {
        let index = seq.checked_sub(self.header.first_seq).and_then(|i| usize::try_from(i).ok());
        match index.and_then(|i| self.seen.get_mut(i)) {
            None => Err(format!("record {seq} is outside the block's range")),
            Some(true) => Err(format!("record {seq} is there twice")),
            Some(seen) => {
                *seen = true;
                Ok(())
            }
        }
    }
}

/// Whether a newer writer put a kind in that this version has no name for.
fn has_unknown(kinds: Kinds) -> bool {
    kinds.0 >> Kind::ALL.len() != 0
}

/// Refuses a record whose body has more fields than any honest one, before memory is spent on them.
fn check_fields(mut record: &[u8]) -> Result<(), String> {
    let mut fields = 0;
    while record.has_remaining() {
        let (tag, wire_type) = decode_key(&mut record).map_err(|e| e.to_string())?;
        if wire_type != WireType::LengthDelimited || !BODY_TAGS.contains(&tag) {
            skip_field(wire_type, tag, &mut record, DecodeContext::default()).map_err(|e| e.to_string())?;
            continue;
        }
        let size = decode_varint(&mut record).map_err(|e| e.to_string())?;
        let split = usize::try_from(size).ok().and_then(|s| record.split_at_checked(s));
        let (mut body, rest) = split.ok_or("ends within a body")?;
        record = rest;
        while body.has_remaining() {
            let (tag, wire_type) = decode_key(&mut body).map_err(|e| e.to_string())?;
            skip_field(wire_type, tag, &mut body, DecodeContext::default()).map_err(|e| e.to_string())?;
            fields += 1;
            if fields > MAX_BODY_FIELDS {
                return Err(format!("a record has more than {MAX_BODY_FIELDS} fields"));
            }
        }
    }
    Ok(())
}
