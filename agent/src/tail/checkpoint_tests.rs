use super::*;

fn checkpoint(offset: u64, files: usize) -> Checkpoint {
    let file = |i: usize| FileState {
        source: format!("/var/log/{i}.log"),
        path: format!("/var/log/{i}.log").into(),
        device: 1,
        inode: i as u64,
        head: Fingerprint { bytes: 256, digest: u64::MAX },
        offset,
        after: 2,
        done: 0,
        ended: false,
    };
    Checkpoint { files: (0..files).map(file).collect() }
}

#[test]
fn the_newest_whole_slot_wins_and_garbage_gives_the_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CHECKPOINT_FILE);
    let (mut store, found) = CheckpointStore::open(&path, 1).unwrap();
    assert_eq!(found, None);
    for n in 1..=5 {
        assert_eq!(store.save(&checkpoint(n, 2)).unwrap(), 0);
        assert_eq!(CheckpointStore::open(&path, 1).unwrap().1, Some(checkpoint(n, 2)));
    }
    // The first save goes to slot 1, so generation 5 is there. Every byte up to its end matters.
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, 17, 21, 30, 100] {
        let mut torn = whole.clone();
        torn[4096 + at] ^= 0x40;
        fs::write(&path, &torn).unwrap();
        assert_eq!(CheckpointStore::open(&path, 1).unwrap().1, Some(checkpoint(4, 2)), "byte {at}");
    }
    for length in [0, 1, 23, 4095, 4096, 4100, 8191] {
        fs::write(&path, &whole[..length]).unwrap();
        // Cut short it has other slots; what matters is that it neither fails nor invents.
        let found = CheckpointStore::open(&path, 1).unwrap().1;
        let known = [4, 5].map(|n| Some(checkpoint(n, 2)));
        assert!(found.is_none() || known.contains(&found), "{length}: {found:?}");
    }
    fs::write(&path, vec![0xff; 8192]).unwrap();
    let (mut store, found) = CheckpointStore::open(&path, 1).unwrap();
    assert_eq!(found, None);
    store.save(&checkpoint(9, 1)).unwrap();
    assert_eq!(CheckpointStore::open(&path, 1).unwrap().1, Some(checkpoint(9, 1)));
}

#[test]
fn a_torn_save_costs_one_generation_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CHECKPOINT_FILE);
    let (mut store, _) = CheckpointStore::open(&path, 1).unwrap();
    store.save(&checkpoint(1, 3)).unwrap();
    store.save(&checkpoint(2, 3)).unwrap();
    let before = fs::read(&path).unwrap();
    store.save(&checkpoint(3, 3)).unwrap();
    let after = fs::read(&path).unwrap();
    for cut in 0..600 {
        let mut torn = before.clone();
        torn[4096..4096 + cut].copy_from_slice(&after[4096..4096 + cut]);
        fs::write(&path, &torn).unwrap();
        let found = CheckpointStore::open(&path, 1).unwrap().1.unwrap().files[0].offset;
        assert!(found == 2 || found == 3, "cut {cut}: {found}");
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CHECKPOINT_FILE);
    let (mut store, _) = CheckpointStore::open(&path, 4096).unwrap();
    let left_out = store.save(&checkpoint(1, 200)).unwrap();
    let kept = CheckpointStore::open(&path, 4096).unwrap().1.unwrap().files;
    assert!(left_out > 100 && kept.len() + left_out == 200, "{left_out} {}", kept.len());
    assert_eq!(kept[..], checkpoint(1, 200).files[..kept.len()]);
    // Larger slots keep what the old file says.
    let (_, found) = CheckpointStore::open(&path, 65536).unwrap();
    assert_eq!(found.unwrap().files.len(), kept.len());
    assert_eq!(CheckpointStore::open(&path, 65536).unwrap().1.unwrap().files.len(), kept.len());
}

#[test]
fn the_writer_saves_the_newest_and_says_what_went_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/yet").join(CHECKPOINT_FILE);
    let (writer, found) = CheckpointWriter::start(path.clone(), 4096).unwrap();
    assert_eq!(found, None);
    assert!(writer.problem().unwrap().contains("could not be saved"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for n in 0..50 {
        writer.save(checkpoint(n, 1));
    }
    drop(writer);
    assert_eq!(CheckpointStore::open(&path, 4096).unwrap().1, Some(checkpoint(49, 1)));
}
