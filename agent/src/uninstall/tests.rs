use super::*;
use crate::act::unshared;

fn laid_out() -> (tempfile::TempDir, PathBuf, PathBuf) {
    unshared::descriptors();
    let dir = tempfile::tempdir().unwrap();
    let (state, root) = (dir.path().join("state"), dir.path().join("log"));
    for stream in Stream::ALL {
        let journal = state.join("journal").join(stream.as_str());
        fs::create_dir_all(&journal).unwrap();
        for name in ["lock", "00000000000000000001.seg", "spare-00000000000000000002.seg"] {
            fs::write(journal.join(name), "x").unwrap();
        }
    }
    fs::create_dir_all(state.join("identity")).unwrap();
    fs::write(state.join("identity/signing.key"), "x").unwrap();
    for name in
        ["starts", tail::CHECKPOINT_FILE, kmsg::CHECKPOINT_FILE, HOLDS_FILE, BRAKE_FILE, NEW_FILE, CLOCK_FILE]
    {
        fs::write(state.join(name), "x").unwrap();
    }
    fs::create_dir_all(root.join(QUARANTINE)).unwrap();
    (dir, state, root)
}

#[test]
fn everything_of_the_agents_goes_and_a_dry_run_removes_nothing() {
    let (_dir, state, root) = laid_out();
    let would = uninstall(&state, &[&root], true).unwrap();
    assert_eq!(would.left, []);
    assert!(state.join("journal/urgent/lock").exists() && root.join(QUARANTINE).exists());
    let did = uninstall(&state, &[&root], false).unwrap();
    assert_eq!(did, would);
    // 3 files in each of 3 journals, the key, 7 files; folders: 3 journals, theirs, identity, state, quarantine.
    assert_eq!(did.removed.len(), 9 + 1 + 7 + 3 + 1 + 1 + 1 + 1);
    assert!(!state.exists() && !root.join(QUARANTINE).exists() && root.exists());
    assert_eq!(uninstall(&state, &[&root], false), Ok(Report::default()));
}

#[test]
fn what_is_not_the_agents_stays_with_the_folders_around_it() {
    let (dir, state, root) = laid_out();
    let precious = dir.path().join("precious");
    fs::write(&precious, "x").unwrap();
    fs::write(state.join("journal/urgent/notes.txt"), "x").unwrap();
    // A link under a name of the agent's leads elsewhere: it is nobody's that this may judge.
    fs::remove_file(state.join("starts")).unwrap();
    std::os::unix::fs::symlink(&precious, state.join("starts")).unwrap();
    fs::write(root.join(QUARANTINE).join("1-2-3-a.log"), "x").unwrap();
    let report = uninstall(&state, &[&root], false).unwrap();
    let left: Vec<&Path> = report.left.iter().map(|(p, _)| p.as_path()).collect();
    assert_eq!(
        left,
        [&*state.join("journal/urgent/notes.txt"), &*state.join("starts"), &*root.join(QUARANTINE)]
    );
    assert!(report.left[2].1.contains("1 objects"), "{:?}", report.left[2]);
    assert!(precious.exists() && state.join("journal/urgent/notes.txt").exists());
    assert!(!state.join("journal/urgent/lock").exists() && !state.join("identity").exists());
}

#[test]
fn a_journal_that_is_locked_keeps_everything() {
    let (_dir, state, root) = laid_out();
    let held = File::open(state.join("journal/evidence/lock")).unwrap();
    rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let why = uninstall(&state, &[&root], false).unwrap_err();
    assert!(why.contains("an agent runs on"), "{why}");
    assert!(state.join("journal/urgent/lock").exists() && state.join("starts").exists());
    drop(held);
    assert_eq!(uninstall(&state, &[&root], false).unwrap().left, []);
}
