//! Cuts, flips and forgeries: nothing that was not appended comes back, and only what was hit is lost.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;

/// A small segment, and where each of its frames stands.
struct Sample {
    dir: tempfile::TempDir,
    path: std::path::PathBuf,
    appended: Vec<Appended>,
    /// Where the last frame ends.
    end: u64,
}

fn sample(finished: bool) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let mut appended = Vec::new();
    for seq in 1..=9 {
        appended.push(append_block(&mut journal, (seq % 3) as u8, seq, 37 * seq as usize));
        if seq % 4 == 0 {
            let at = journal.append(FrameKind::Receipt, b"receipt", 1).unwrap();
            let payload = Bytes::from_static(b"receipt");
            appended.push(Appended { at, kind: FrameKind::Receipt, payload, info: None });
        }
    }
    journal.sync().unwrap();
    let end = segment::DATA_START + journal.segments()[0].used_bytes;
    if finished {
        journal.close().unwrap();
    }
    let path = dir.path().join(segment::file_name(appended[0].at.segment));
    Sample { dir, path, appended, end }
}

impl Sample {
    /// The frame that the byte at `offset` belongs to.
    fn hit(&self, offset: u64) -> Option<usize> {
        let next = self.appended.iter().position(|a| a.at.offset > offset).unwrap_or(self.appended.len());
        (offset < self.end).then(|| next.checked_sub(1))?
    }

    /// Everything but the frame `lost` comes back; what a footer lists may be more than what is whole.
    #[track_caller]
    fn check(&self, lost: Option<usize>, what: &str) {
        let (entries, damaged) = read(self.dir.path());
        let mut expected = self.appended.clone();
        if let Some(lost) = lost {
            // A flip in padding or in reserved room may cost nothing.
            if entries.len() < expected.len() {
                expected.remove(lost);
            }
        }
        let same = entries.len() == expected.len()
            && entries.iter().zip(&expected).all(|(e, a)| (e.at, &e.payload) == (a.at, &a.payload));
        assert!(same, "{what}: {} of {} entries, damaged {damaged:?}", entries.len(), self.appended.len());
        let blocks = Reader::open(self.dir.path()).unwrap().blocks().unwrap();
        let known: Vec<_> = self.appended.iter().filter_map(|a| Some((a.at, a.info.clone()?))).collect();
        assert!(blocks.iter().all(|b| known.contains(b)), "{what}: a block that was never appended");
        assert!(blocks.len() + 1 >= known.len(), "{what}: {} of {} blocks", blocks.len(), known.len());
    }
}

#[test]
fn a_cut_at_every_byte_loses_only_what_is_behind_it() {
    for finished in [true, false] {
        let s = sample(finished);
        let file = OpenOptions::new().write(true).open(&s.path).unwrap();
        for length in (0..SMALL.segment_bytes).rev() {
            // Between the last frame and the footer every cut is alike: a few of them will do.
            if length > s.end + 16 && length < SMALL.segment_bytes - 2_048 && length % 61 != 0 {
                continue;
            }
            file.set_len(length).unwrap();
            let whole = s
                .appended
                .iter()
                .enumerate()
                .filter(|(i, _)| s.appended.get(i + 1).map_or(s.end, |n| n.at.offset) <= length)
                .count();
            let (entries, _) = read(s.dir.path());
            assert_same(&entries, &s.appended[..whole]);
            let blocks = Reader::open(s.dir.path()).unwrap().blocks().unwrap().len();
            let expected = s.appended[..whole].iter().filter(|a| a.info.is_some()).count();
            assert_eq!(blocks, expected, "cut at {length}");
        }
    }
}

#[test]
fn every_flipped_bit_loses_only_the_frame_that_it_hit() {
    for finished in [true, false] {
        let s = sample(finished);
        let file = OpenOptions::new().read(true).write(true).open(&s.path).unwrap();
        let mut flips = 0;
        for offset in 0..SMALL.segment_bytes {
            let told = offset < 96
                || (4096..4096 + 96).contains(&offset)
                || (segment::DATA_START..s.end + 16).contains(&offset)
                || offset >= SMALL.segment_bytes - 1_400;
            // Of the finished segment every bit that means something; of the other one a bit of every byte; and some of
            // the room between.
            if !told && offset % 61 != 0 {
                continue;
            }
            let one = (offset * 5 % 8) as u8;
            for bit in if told && finished { 0..8 } else { one..one + 1 } {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << bit], offset).unwrap();
                s.check(s.hit(offset), &format!("bit {bit} of byte {offset}, finished: {finished}"));
                file.write_all_at(&byte, offset).unwrap();
                flips += 1;
            }
        }
        assert!(flips > if finished { 25_000 } else { 5_000 }, "{flips}");
        s.check(None, "restored");
    }
}

#[test]
fn opening_a_damaged_journal_keeps_the_rest_and_remarks_on_it() {
    for (index, offset_in_frame) in [(0, 3), (2, 9), (4, 13), (5, 60), (10, 20)] {
        let s = sample(false);
        let file = OpenOptions::new().read(true).write(true).open(&s.path).unwrap();
        let at = s.appended[index].at.offset + offset_in_frame;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let (mut journal, found) = Journal::open(s.dir.path(), SMALL).unwrap();
        let last = index == s.appended.len() - 1;
        assert!(!found.remarks.is_empty() || last, "{index}");
        assert!(!found.clean);
        let next = append_block(&mut journal, 1, 100, 10);
        let mut expected = s.appended.clone();
        expected.remove(index);
        expected.push(next);
        assert_same(&read(s.dir.path()).0, &expected);
    }
}

#[test]
fn damage_in_the_segment_being_written_does_not_hide_what_follows() {
    // Once in the head of the middle frame, once in its payload.
    for offset in [1, 200] {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
        let [first, hit, last] = [1, 2, 3].map(|seq| append_block(&mut journal, 1, seq, 300));
        let path = dir.path().join(segment::file_name(hit.at.segment));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xee, 0xee], hit.at.offset + offset).unwrap();
        let mut scan = Reader::open(dir.path()).unwrap().scan(Position::default());
        let seen: Vec<_> = scan.by_ref().map(Result::unwrap).collect();
        assert_same(&seen, &[first, last]);
        assert_eq!(scan.damaged(), [(hit.at, 424)]);
        assert!(scan.next().is_none());
        let next = append_block(&mut journal, 1, 9, 10);
        assert_same(&[scan.next().unwrap().unwrap()], &[next]);
        assert_eq!(scan.damaged().len(), 1);
    }
}

#[test]
fn a_frame_forged_inside_a_payload_is_never_returned() {
    // The forger knows the format, the number and the generation, and even has the bytes of real frames of another
    // journal, and of this one.
    let other = sample(true);
    let foreign = std::fs::read(&other.path).unwrap();
    let first = other.appended[0].at.offset as usize;

    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let before = append_block(&mut journal, 1, 1, 100);
    assert_eq!(before.at.segment, other.appended[0].at.segment);
    let path = dir.path().join(segment::file_name(before.at.segment));
    let own = std::fs::read(&path).unwrap()[before.at.offset as usize..][..320].to_vec();
    let mut forged = Vec::new();
    for shift in 0..8 {
        forged.extend_from_slice(&foreign[first..other.end as usize]);
        forged.extend_from_slice(&own);
        forged.extend(std::iter::repeat_n(0, shift));
    }
    let evil = info(2, 1);
    let at = journal.append_block(&evil, &forged, 1).unwrap();
    let after = append_block(&mut journal, 1, 2, 100);
    journal.close().unwrap();

    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // Every byte of the outer head in turn, so that the search runs through the payload.
    for byte in 0..32 {
        let mut was = [0];
        std::fs::File::open(&path).unwrap().read_exact_at(&mut was, at.offset + byte).unwrap();
        file.write_all_at(&[!was[0]], at.offset + byte).unwrap();
        let (entries, damaged) = read(dir.path());
        assert_same(&entries, &[before.clone(), after.clone()]);
        assert_eq!(damaged.len(), 1);
        file.write_all_at(&was, at.offset + byte).unwrap();
    }
}

#[test]
fn a_recycled_segment_resurrects_nothing_even_when_its_own_frames_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    for seq in 1..=60 {
        let a = append_block(&mut journal, 1, seq, 4_000);
        journal.release_before(a.at.segment);
    }
    journal.expire_before(u64::MAX).unwrap();
    drop(journal);
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    journal.release_before(u64::MAX);
    journal.expire_before(u64::MAX).unwrap();
    let a = append_block(&mut journal, 2, 1, 100);
    let path = dir.path().join(segment::file_name(a.at.segment));
    let old = std::fs::read(&path).unwrap();
    assert!(old[20_000..].iter().any(|b| *b != 0), "the file was used before");
    // The terminator and the head are lost: the search runs through all of the old bytes.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 600], a.at.offset).unwrap();
    assert!(read(dir.path()).0.is_empty());
    drop(journal);
    let (_journal, found) = Journal::open(dir.path(), SMALL).unwrap();
    assert!(found.heads.iter().all(|(c, _)| *c == chain(1)), "{:?}", found.heads);
}
