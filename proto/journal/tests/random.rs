//! Whatever is done to a journal in whatever order: it returns what was appended and not recycled, exactly.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Do {
    Block {
        chain: u8,
        length: usize,
    },
    Other {
        kind: FrameKind,
        length: usize,
    },
    Sync,
    /// Release everything before the segment that is so many back from the newest.
    Release {
        keep: usize,
    },
    Expire,
    Close,
    Crash,
}

fn deeds() -> impl Strategy<Value = Vec<Do>> {
    let length = prop_oneof![4 => 0usize..400, 3 => 400usize..9_000, 1 => 9_000usize..45_000];
    let kind = prop_oneof![Just(FrameKind::SignedHead), Just(FrameKind::Receipt), Just(FrameKind::Decision),];
    let deed = prop_oneof![
        12 => (0u8..5, length.clone()).prop_map(|(chain, length)| Do::Block { chain, length }),
        4 => (kind, length).prop_map(|(kind, length)| Do::Other { kind, length }),
        4 => Just(Do::Sync),
        3 => (0usize..4).prop_map(|keep| Do::Release { keep }),
        1 => Just(Do::Expire),
        1 => Just(Do::Close),
        2 => Just(Do::Crash),
    ];
    proptest::collection::vec(deed, 1..120)
}

/// What must be true of the folder: `all` was appended, and nothing before `released` need be left.
fn check(dir: &Path, all: &[Appended], released: u64) {
    let (entries, damaged) = read(dir);
    assert!(damaged.is_empty(), "{damaged:?}");
    let gone = all.len() - entries.len();
    assert_same(&entries, &all[gone..]);
    assert!(all[..gone].iter().all(|a| a.at.segment < released), "something unreleased is gone");
    let reader = Reader::open(dir).unwrap();
    let expected: Vec<_> = all[gone..].iter().filter_map(|a| Some((a.at, a.info.clone()?))).collect();
    assert_eq!(reader.blocks().unwrap(), expected);
    let of_one: Vec<_> = expected.iter().filter(|(_, i)| i.chain == chain(1)).cloned().collect();
    assert_eq!(reader.blocks_of(&chain(1)).unwrap(), of_one);
    for a in all[gone..].iter().step_by(7) {
        assert_same(&[reader.read_at(a.at).unwrap().unwrap()], std::slice::from_ref(a));
    }
    if let Some(last) = all.last().filter(|_| gone < all.len()) {
        assert_eq!(reader.scan_after(last.at).count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn returns_exactly_what_was_appended_and_not_recycled(deeds in deeds()) {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), SMALL).unwrap();
        let mut journal = Some(journal);
        let mut all: Vec<Appended> = Vec::new();
        let mut heads: BTreeMap<ChainId, Head> = BTreeMap::new();
        let (mut released, mut seq) = (0, 0);
        for deed in deeds {
            let j = journal.as_mut().unwrap();
            seq += 1;
            match deed {
                Do::Block { chain: n, length } => {
                    let (i, p) = (info(n, seq), payload(n, seq, length));
                    match j.append_block(&i, &p, seq as i64) {
                        Ok(at) => {
                            heads.insert(chain(n), Head { last_seq: seq, hash: i.hash });
                            let payload = p.into();
                            all.push(Appended { at, kind: FrameKind::Block, payload, info: Some(i) });
                        }
                        Err(JournalError::Full { .. }) => check(dir.path(), &all, released),
                        Err(e) => panic!("{e}"),
                    }
                }
                Do::Other { kind, length } => {
                    let p = payload(9, seq, length);
                    match j.append(kind, &p, seq as i64) {
                        Ok(at) => all.push(Appended { at, kind, payload: p.into(), info: None }),
                        Err(JournalError::Full { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                Do::Sync => j.sync().unwrap(),
                Do::Release { keep } => {
                    let segments = j.segments();
                    if let Some(s) = segments.len().checked_sub(1 + keep).and_then(|i| segments.get(i)) {
                        j.release_before(s.number);
                        released = released.max(s.number);
                    }
                }
                Do::Expire => j.expire_before(u64::MAX).unwrap(),
                Do::Close | Do::Crash => {
                    let clean = matches!(deed, Do::Close);
                    let j = journal.take().unwrap();
                    if clean { j.close().unwrap() } else { drop(j) }
                    check(dir.path(), &all, released);
                    let (j, found) = Journal::open(dir.path(), SMALL).unwrap();
                    prop_assert_eq!(found.clean, clean);
                    prop_assert!(found.remarks.is_empty(), "{:?}", found.remarks);
                    for (chain, head) in &found.heads {
                        prop_assert_eq!(heads.get(chain), Some(head));
                    }
                    // Nothing that is left in the ring may be unknown to the heads.
                    prop_assert_eq!(found.heads.len(), heads.len());
                    journal = Some(j);
                }
            }
        }
        let sizes: Vec<_> = journal.as_ref().unwrap().segments();
        prop_assert!(sizes.len() <= 4 && sizes.is_sorted_by_key(|s| s.number));
        check(dir.path(), &all, released);
    }
}
