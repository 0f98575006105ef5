//! Segments of each format version as they were once written, read to exactly what was in them, for good.
//!
//! `DOGWATCH_WRITE_GOLDEN=1 cargo test -p dogwatch golden` writes those of the current version anew; that is right only
//! before a version is released. Salts are random, so the files then differ while their content does not.

use std::path::PathBuf;

use super::*;

/// 1: finished. 2: left by a crash. 3: both beginnings coalesced, then finished.
const FILES: [&str; 3] = ["finished.seg.zst", "left.seg.zst", "coalesced.seg.zst"];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/journal/golden/v1").join(name)
}

/// What the generator appends to a segment: two chains, one long node name, empty and large payloads, every kind.
fn content(journal: &mut Journal, round: u64) -> Vec<(FrameKind, Vec<u8>)> {
    let mut all = Vec::new();
    for (index, length) in [0usize, 1, 1_000, 20_000].into_iter().enumerate() {
        let seq = round * 10 + index as u64 + 1;
        let bytes = payload(index as u8 % 2, seq, length);
        journal.append_block(&block(index, seq), &bytes, 1_700_000_000_000_000_000 + seq as i64).unwrap();
        all.push((FrameKind::Block, bytes));
    }
    for (kind, bytes) in [
        (FrameKind::SignedHead, &b"a signed head"[..]),
        (FrameKind::Receipt, b"a receipt"),
        (FrameKind::Decision, b"a decision"),
    ] {
        journal.append(kind, bytes, 1_700_000_000_000_001_000).unwrap();
        all.push((kind, bytes.to_vec()));
    }
    all
}

fn block(index: usize, seq: u64) -> BlockInfo {
    let mut block = info(index as u8 % 2, seq);
    if index % 2 == 1 {
        let label = "x".repeat(63);
        block.chain.node = format!("{label}.{label}.{label}.{}", "y".repeat(61)).parse().unwrap();
    }
    block
}

fn keep(dir: &Path, number: u64, name: &str) {
    let bytes = std::fs::read(dir.join(segment::file_name(number))).unwrap();
    std::fs::write(golden(name), zstd::bulk::compress(&bytes, 19).unwrap()).unwrap();
}

fn restore(dir: &Path, number: u64, name: &str) {
    static WRITTEN: std::sync::Once = std::sync::Once::new();
    if std::env::var_os("DOGWATCH_WRITE_GOLDEN").is_some() {
        WRITTEN.call_once(generate);
    }
    let packed = std::fs::read(golden(name)).unwrap();
    let bytes = zstd::bulk::decompress(&packed, 1 << 20).unwrap();
    std::fs::write(dir.join(segment::file_name(number)), bytes).unwrap();
}

fn generate() {
    std::fs::create_dir_all(golden("")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    content(&mut journal, 0);
    journal.close().unwrap();
    keep(dir.path(), 1, FILES[0]);
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    content(&mut journal, 1);
    drop(journal);
    keep(dir.path(), 2, FILES[1]);

    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
        append_block(&mut journal, 3, round + 1, 300);
    }
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    append_block(&mut journal, 3, 4, 300);
    journal.close().unwrap();
    keep(dir.path(), 4, FILES[2]);
}

#[test]
fn version_1_reads_to_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    restore(dir.path(), 1, FILES[0]);
    restore(dir.path(), 2, FILES[1]);
    // The same is appended to a journal of today, and then compared: positions, payloads, index and heads.
    let today = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..2 {
        let (mut journal, _) = Journal::open(today.path(), SMALL).unwrap();
        expected.extend(content(&mut journal, round));
        journal.close().unwrap();
    }
    let (entries, damaged) = read(dir.path());
    assert!(damaged.is_empty(), "{damaged:?}");
    let seen: Vec<_> = entries.iter().map(|e| (e.kind, e.payload.to_vec())).collect();
    assert!(seen == expected);
    // Byte offsets are part of the format: spelled out, so that a change of both sides is noticed too.
    let places: Vec<_> = entries.iter().map(|e| (e.at.segment, e.at.offset)).collect();
    let offsets = [8240, 8368, 8744, 9872, 30248, 30296, 30344];
    assert_eq!(places[..7], offsets.map(|o| (1, o)), "{places:?}");
    assert_eq!(places, read(today.path()).0.iter().map(|e| (e.at.segment, e.at.offset)).collect::<Vec<_>>());

    let blocks = Reader::open(dir.path()).unwrap().blocks().unwrap();
    let infos: Vec<_> = (0..2).flat_map(|r| (0..4).map(move |i| block(i, r * 10 + i as u64 + 1))).collect();
    assert_eq!(blocks.into_iter().map(|(_, i)| i).collect::<Vec<_>>(), infos);
    let heads = Reader::open(dir.path()).unwrap().heads_before(2).unwrap();
    assert_eq!(heads.iter().map(|(_, h)| h.last_seq).collect::<Vec<_>>(), [3, 4]);

    let (journal, found) = Journal::open(dir.path(), SMALL).unwrap();
    assert!(found.remarks.is_empty() && !found.clean, "{found:?}");
    assert_eq!(found.heads.iter().map(|(_, h)| h.last_seq).collect::<Vec<_>>(), [13, 14]);
    assert_eq!(journal.segments()[0].last_append_wall_ns, 1_700_000_000_000_001_000);
}

#[test]
fn version_1_coalesced_frames_keep_their_first_positions() {
    let dir = tempfile::tempdir().unwrap();
    restore(dir.path(), 4, FILES[2]);
    let reader = Reader::open(dir.path()).unwrap();
    let entries: Vec<_> = reader.scan(Position::default()).map(Result::unwrap).collect();
    assert_eq!(entries.iter().map(|e| e.at.segment).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (seq, entry) in (1..).zip(&entries) {
        assert_eq!(entry.payload, payload(3, seq, 300));
        assert_eq!(reader.read_at(entry.at).unwrap().unwrap().payload, entry.payload);
    }
    assert_eq!(reader.blocks_of(&chain(3)).unwrap().len(), 4);
}
