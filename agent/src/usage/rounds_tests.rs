use std::sync::mpsc::channel;

use super::*;

const MIB: usize = 1 << 20;

fn eager() -> RoundsConfig {
    RoundsConfig {
        every: Duration::from_secs(3600),
        first_after: Duration::from_secs(3600),
        budget: Budget { cpu: 1.0, disk: 1.0, entries_per_second: 1_000_000 },
    }
}

/// A node whose one disk is a folder: the table says that something is mounted at `/data`.
fn node(dir: &Path) -> Roots {
    let mountinfo = dir.join("mountinfo");
    std::fs::write(&mountinfo, "31 22 259:3 / /data rw - xfs /dev/data rw\n").unwrap();
    std::fs::create_dir(dir.join("data")).unwrap();
    Roots { mountinfo, rootfs: dir.to_owned(), log: dir.join("log"), ..Roots::default() }
}

#[test]
fn a_mount_that_is_asked_about_is_walked_and_a_folder_that_grew_is_told_by_the_next_walk() {
    let dir = tempfile::tempdir().unwrap();
    let roots = node(dir.path());
    let spool = dir.path().join("data/app/spool");
    std::fs::create_dir_all(&spool).unwrap();
    std::fs::write(dir.path().join("data/old"), vec![1u8; 8 * MIB]).unwrap();
    let newest = Newest::default();
    let config = RoundsConfig { first_after: Duration::ZERO, ..eager() };
    let config = RoundsConfig { every: PAUSE / 100, ..config };
    let (nudge, rounds) = rounds(roots, config, newest.clone());
    let (tx, rx) = channel();
    let thread = std::thread::spawn(move || rounds.run(|grown| tx.send(grown).is_ok()));
    let patience = Duration::from_secs(60);
    let first = rx.recv_timeout(patience).unwrap();
    assert_eq!((first.mount.as_str(), &first.folders), ("/data", &None), "one walk tells no growth");
    // Many small files, none of them open: no look at open files could tell.
    for n in 0..64 {
        std::fs::write(spool.join(format!("{n}")), vec![2u8; MIB / 16]).unwrap();
    }
    let grown = loop {
        let grown = rx.recv_timeout(patience).unwrap();
        if grown.folders.as_ref().is_some_and(|f| !f.is_empty()) {
            break grown;
        }
    };
    let (growth, owner) = &grown.folders.as_ref().unwrap()[0];
    assert_eq!((growth.path.as_path(), owner), (Path::new("/data/app/spool"), &None));
    assert!(growth.grown_bytes >= 1 << 20 && growth.grown_bytes <= 5 << 20, "{growth:?}");
    assert!(newest.of("/data").is_some() && newest.of("/").is_none());
    drop(nudge);
    drop(rx);
    thread.join().unwrap();
}

#[test]
fn a_question_goes_before_the_round_and_the_walk_that_was_put_aside_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let roots = node(dir.path());
    for n in 0..2_000 {
        std::fs::write(dir.path().join(format!("data/{n}")), b"x").unwrap();
    }
    std::fs::create_dir(dir.path().join("other")).unwrap();
    let table = std::fs::read_to_string(&roots.mountinfo).unwrap();
    std::fs::write(&roots.mountinfo, table + "32 22 259:4 / /other rw - xfs /dev/other rw\n").unwrap();
    // Some steps long, with a rest after each.
    let config = RoundsConfig { budget: Budget { entries_per_second: 1_000, ..eager().budget }, ..eager() };
    let (nudge, rounds) = rounds(roots, config, Newest::default());
    let (tx, rx) = channel();
    // The second is heard after the first step.
    assert!(nudge.ask("/data") && nudge.ask("/other"));
    let thread = std::thread::spawn(move || rounds.run(|grown| tx.send(grown).is_ok()));
    let patience = Duration::from_secs(300);
    let order: Vec<String> = (0..2).map(|_| rx.recv_timeout(patience).unwrap().mount.clone()).collect();
    assert_eq!(order, ["/other", "/data"]);
    drop(nudge);
    thread.join().unwrap();
}
