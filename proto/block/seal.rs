//! Sealing: records become a block's bytes, once.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use prost::encoding::message;
use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;

use super::{
    Block, BlockError, Header, MAX_BLOCK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, MAX_SECTION_RAW_BYTES,
    MAX_SECTIONS, Place, SALT_BYTES, SectionHeader, malformed, open,
};
use crate::convert::Refused;
use crate::record::{Body, Hash, Kinds, Moment, Record, Stream};
use crate::wire;

/// Field of `Records` that holds the records.
const RECORDS_TAG: u32 = 1;

/// What a header needs at most besides its sections: a node name of 253, start, receipt (each under 600) and numbers.
const HEADER_BYTES: usize = 2048;
/// What a section adds at most besides records and its source's name (once in the header): hash, numbers, salt,
/// framing, and the constant part of zstd's bound.
const SECTION_BYTES: usize = 192;
/// A log line that encodes to fewer bytes than this cannot break a limit of `convert`: even its smallest items, of
/// two bytes each, are fewer than [`crate::convert::MAX_ITEMS`]. So the common record is not checked twice.
const SURELY_READABLE_BYTES: usize = 16 * 1024;

/// Bytes that `record` adds to its section before compression; never too few.
pub fn weigh(record: &Record) -> usize {
    // Logs are the bulk, so they are reckoned and not encoded: 160 is more than keys, lengths and numbers can take.
    match &record.body {
        Body::Log(l) => {
            let pod = l.pod.as_ref().map_or(0, |p| {
                p.namespace.len() + p.name.len() + p.uid.len() + p.container.len() + p.container_id.len()
            });
            let rules: usize = l.rules.iter().map(|r| r.len() + 6).sum();
            160 + l.source.len() + l.line.len() + l.output.len() + pod + rules
        }
        _ => message::encoded_len(RECORDS_TAG, &wire::Record::from(record)),
    }
}

/// Adds up what a block of records would weigh, so that a recorder can seal before it no longer fits.
#[derive(Debug, Clone, Default)]
pub struct Weight {
    raw_bytes: usize,
    section_bytes: usize,
    records: usize,
    sources: HashSet<String>,
}

impl Weight {
    /// Adds `record`.
    pub fn add(&mut self, record: &Record) {
        self.raw_bytes += weigh(record);
        self.records += 1;
        let source = record.body.source();
        if !self.sources.contains(&source) {
            self.section_bytes += SECTION_BYTES + source.len();
            self.sources.insert(source);
        }
    }

    /// Bytes of records so far, before compression: what [`super::SEAL_BYTES`] is compared with.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Whether a block of these records stays within every limit even if nothing compresses.
    pub fn fits(&self) -> bool {
        // zstd's bound is the input, a 256th of it, and a constant that SECTION_BYTES holds.
        let stored = self.raw_bytes + self.raw_bytes / 256;
        HEADER_BYTES + self.section_bytes + stored <= MAX_BLOCK_BYTES
            && self.sources.len() <= MAX_SECTIONS
            && self.records <= MAX_RECORDS
    }
}

/// How many of `records`, from the first, surely fit one block; at least 1 where there is one, since a single record
/// can only be tried.
pub fn split_point(records: &[Record]) -> usize {
    let mut weight = Weight::default();
    let fitting = records.iter().take_while(|r| {
        weight.add(r);
        weight.fits()
    });
    fitting.count().max(1).min(records.len())
}

/// A section in the making.
#[derive(Default)]
struct Draft {
    source: String,
    raw: Vec<u8>,
    records: u32,
    kinds: Kinds,
}

pub(super) fn seal(
    place: Place,
    records: &[Record],
    salt: &mut dyn FnMut() -> [u8; SALT_BYTES],
) -> Result<Block, BlockError> {
    check_run(records)?;
    let drafts = drafts(records)?;
    let mut compressor = compressor(place.stream)?;
    let mut sections = Vec::with_capacity(drafts.len());
    let mut headers = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let stored = store(&mut compressor, &draft, salt())?;
        headers.push(SectionHeader {
            sha256: Hash(Sha256::digest(&stored).into()),
            stored_bytes: length(stored.len())?,
            raw_bytes: length(draft.raw.len())?,
            source: draft.source,
            records: draft.records,
            kinds: draft.kinds,
        });
        sections.push(Bytes::from(stored));
    }
    let header = Header {
        node: place.node,
        incarnation: place.incarnation,
        stream: place.stream,
        first_seq: records[0].seq,
        last_seq: records[records.len() - 1].seq,
        first_at: bound(records, i64::min, u64::min),
        last_at: bound(records, i64::max, u64::max),
        kinds: headers.iter().fold(Kinds::default(), |all, s| Kinds(all.0 | s.kinds.0)),
        previous: place.previous,
        sections: headers,
        start: place.start,
        receipt: place.receipt,
    };
    let header_bytes = wire::BlockHeader::from(header).encode_to_vec();
    // Through the reader's door: whatever would be refused there must not be sealed.
    open::header(wire::Block { header: header_bytes.into(), sections })
}

fn check_run(records: &[Record]) -> Result<(), BlockError> {
    if records.is_empty() {
        return Err(malformed("there are no records to seal"));
    }
    if records.len() > MAX_RECORDS {
        return Err(BlockError::TooLarge {
            what: "number of records",
            bytes: records.len(),
            limit: MAX_RECORDS,
        });
    }
    match records.windows(2).find(|w| w[0].seq.checked_add(1) != Some(w[1].seq)) {
        None => Ok(()),
        Some(w) => Err(malformed(format!("record {} does not follow record {}", w[1].seq, w[0].seq))),
    }
}

/// Encodes the records, each into the section of its source.
fn drafts(records: &[Record]) -> Result<Vec<Draft>, BlockError> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut by_source: HashMap<String, usize> = HashMap::new();
    let mut raw_bytes = 0;
    for record in records {
        let source = record.body.source();
        let index = match by_source.get(&source) {
            Some(index) => *index,
            None => {
                drafts.push(Draft { source: source.clone(), ..Draft::default() });
                by_source.insert(source, drafts.len() - 1);
                drafts.len() - 1
            }
        };
        let draft = &mut drafts[index];
        let before = draft.raw.len();
        let encoded = wire::Record::from(record);
        message::encode(RECORDS_TAG, &encoded, &mut draft.raw);
        let added = draft.raw.len() - before;
        if !(matches!(record.body, Body::Log(_)) && added < SURELY_READABLE_BYTES) {
            check_readable(record.seq, encoded)?;
        }
        draft.records += 1;
        draft.kinds = draft.kinds.with(record.body.kind());
        raw_bytes += added;
        within("section before compression", draft.raw.len(), MAX_SECTION_RAW_BYTES)?;
        within("block before compression", raw_bytes, MAX_RAW_BYTES)?;
    }
    if drafts.len() > MAX_SECTIONS {
        return Err(BlockError::TooLarge {
            what: "number of sections",
            bytes: drafts.len(),
            limit: MAX_SECTIONS,
        });
    }
    Ok(drafts)
}

fn check_readable(seq: u64, encoded: wire::Record) -> Result<(), BlockError> {
    match Record::try_from(encoded) {
        Ok(_) => Ok(()),
        Err(refused) => Err(BlockError::Record { seq, refused: Refused::within(refused, "record") }),
    }
}

/// Level 1 for the recorder, which writes everything at full rate and keeps it on the node; 3 for what is sent and
/// kept for years.
fn compressor(stream: Stream) -> Result<Compressor<'static>, BlockError> {
    let level = if stream == Stream::Recorder { 1 } else { 3 };
    Compressor::new(level).map_err(|e| malformed(format!("zstd could not be set up: {e}")))
}

fn store(
    compressor: &mut Compressor<'_>,
    draft: &Draft,
    salt: [u8; SALT_BYTES],
) -> Result<Vec<u8>, BlockError> {
    let mut stored = vec![0; SALT_BYTES + zstd::zstd_safe::compress_bound(draft.raw.len())];
    stored[..SALT_BYTES].copy_from_slice(&salt);
    let compressed = compressor
        .compress_to_buffer(&draft.raw, &mut stored[SALT_BYTES..])
        .map_err(|e| malformed(format!("section {} could not be compressed: {e}", draft.source)))?;
    stored.truncate(SALT_BYTES + compressed);
    stored.shrink_to_fit();
    Ok(stored)
}

fn length(bytes: usize) -> Result<u32, BlockError> {
    let limit = MAX_SECTION_RAW_BYTES;
    u32::try_from(bytes).map_err(|_| BlockError::TooLarge { what: "section", bytes, limit })
}

pub(super) fn within(what: &'static str, bytes: usize, limit: usize) -> Result<(), BlockError> {
    if bytes <= limit { Ok(()) } else { Err(BlockError::TooLarge { what, bytes, limit }) }
}

/// The earliest or latest of each clock, which need not be the same record's: the wall clock may have jumped.
fn bound(records: &[Record], wall: fn(i64, i64) -> i64, boot: fn(u64, u64) -> u64) -> Moment {
    let pick = |a: Moment, b: Moment| Moment {
        wall_ns: wall(a.wall_ns, b.wall_ns),
        boot_ns: boot(a.boot_ns, b.boot_ns),
    };
    records.iter().map(|r| r.at).reduce(pick).unwrap_or_default()
}
