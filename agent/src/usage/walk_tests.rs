use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::*;

fn everything(threads: usize) -> WalkOptions {
    WalkOptions {
        threads,
        most_threads: threads,
        told: Threshold { bytes: 0, inodes: 0, part: 0 },
        files: 5,
        cpu_share: None,
        stop: Arc::default(),
        until: None,
    }
}

fn write(path: PathBuf, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7u8; bytes]).unwrap();
}

/// What `du` says, in bytes.
fn du(path: &Path) -> u64 {
    let out = std::process::Command::new("du").args(["-sxk"]).arg(path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn inodes(path: &Path) -> u64 {
    let out = std::process::Command::new("du").args(["-sx", "--inodes"]).arg(path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn links_count_once_sparse_files_as_allocated_and_nothing_is_followed() {
    let temp = TempDir::new().unwrap();
    let outside = TempDir::new().unwrap();
    write(outside.path().join("big"), 1 << 20);
    write(temp.path().join("a/one"), 300_000);
    fs::create_dir_all(temp.path().join("b")).unwrap();
    fs::hard_link(temp.path().join("a/one"), temp.path().join("b/two")).unwrap();
    symlink(outside.path(), temp.path().join("b/out")).unwrap();
    let sparse = fs::File::create(temp.path().join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let usage = walk(temp.path(), &everything(2)).unwrap();
    assert_eq!(usage.root.bytes, du(temp.path()));
    assert_eq!(usage.root.inodes, inodes(temp.path()));
    assert!(usage.whole && usage.root.bytes < 1 << 20, "{usage:?}");
    assert_eq!(usage.files[0].size_bytes, 300_000);
    let one = fs::metadata(temp.path().join("a/one")).unwrap();
    assert_eq!((usage.files[0].inode, usage.files[0].bytes), (one.ino(), one.blocks() * 512));
}

#[test]
fn another_mount_is_not_counted_and_said() {
    let temp = TempDir::new().unwrap();
    write(temp.path().join("here/file"), 100_000);
    let there = temp.path().join("there");
    fs::create_dir(&there).unwrap();
    let mounted = Mounted::bind(&temp.path().join("here"), &there);
    let usage = walk(temp.path(), &everything(1)).unwrap();
    assert_eq!(usage.mounts, [there.canonicalize().unwrap()]);
    drop(mounted);
    // Only now is the folder beneath the mount seen.
    let without = walk(temp.path(), &everything(1)).unwrap();
    assert_eq!(without.root.inodes, usage.root.inodes + 1);
    assert!(usage.root.folders.iter().any(|f| f.name == "here" && f.bytes >= 100_000), "{usage:?}");
}

#[test]
fn subvolumes_of_one_mount_are_counted() {
    let temp = TempDir::new().unwrap();
    let image = temp.path().join("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let at = temp.path().join("fs");
    fs::create_dir(&at).unwrap();
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program)
            .args(args)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "{program} {args:?}; these tests run as root, with btrfs-progs");
    };
    run("mkfs.btrfs", &["-q", image.to_str().unwrap()]);
    run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
    let mounted = Mounted(at.clone());
    run("btrfs", &["subvolume", "create", at.join("sub").to_str().unwrap()]);
    write(at.join("sub/file"), 3_000_000);
    run("sync", &["-f", at.to_str().unwrap()]);
    let told = Threshold { bytes: 1 << 20, inodes: u64::MAX, part: 0 };
    let options = WalkOptions { told, ..WalkOptions::at_once() };
    let usage = walk(&at, &options).unwrap();
    assert!(usage.root.bytes >= 3_000_000, "{usage:?}");
    assert_eq!(usage.root.folders.iter().map(|f| f.name.to_str()).collect::<Vec<_>>(), [Some("sub")]);
    drop(mounted);
}

/// A bind mount for a test's time: of the same filesystem, so that only the kernel's word tells it from a folder.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &Path, to: &Path) -> Self {
        let done = std::process::Command::new("mount").arg("--bind").arg(from).arg(to).status().unwrap();
        assert!(done.success(), "these tests mount filesystems: run them as root");
        Self(to.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn small_folders_are_summed_up_and_nothing_is_lost() {
    let temp = TempDir::new().unwrap();
    for n in 0..40 {
        write(temp.path().join(format!("small/{n}/file")), 4_000);
    }
    write(temp.path().join("large/deep/file"), 2 << 20);
    let mut options = everything(2);
    options.told = Threshold { bytes: 1 << 20, inodes: 60, part: 0 };
    let usage = walk(temp.path(), &options).unwrap();
    let names: Vec<_> = usage.root.folders.iter().map(|f| f.name.to_str().unwrap()).collect();
    // The one for its bytes, the other for its inodes.
    assert_eq!(names, ["large", "small"]);
    let small = &usage.root.folders[1];
    assert_eq!((small.small_folders, small.small_folders_inodes, small.folders.len()), (40, 80, 0));
    assert_eq!(usage.root.bytes, du(temp.path()));
}

#[test]
fn folders_are_told_by_their_share_of_a_whole_that_is_not_known_before() {
    let temp = TempDir::new().unwrap();
    for n in 0..300 {
        write(temp.path().join(format!("small/{n}/file")), 4_000);
    }
    write(temp.path().join("large/file"), 4 << 20);
    for threads in [1, 3] {
        let told = Threshold { bytes: 1, inodes: u64::MAX, part: 10 };
        let usage = walk(temp.path(), &WalkOptions { told, ..everything(threads) }).unwrap();
        let names: Vec<_> = usage.root.folders.iter().map(|f| f.name.to_str().unwrap()).collect();
        assert_eq!(names, ["large", "small"]);
        let small = &usage.root.folders[1];
        assert_eq!((small.folders.len(), small.small_folders, small.small_folders_inodes), (0, 300, 600));
    }
}

#[test]
fn a_walk_whose_time_is_up_says_that_it_is_not_whole() {
    let temp = TempDir::new().unwrap();
    for n in 0..1_000 {
        write(temp.path().join(format!("{n}")), 1);
    }
    let usage = walk(temp.path(), &WalkOptions { until: Some(Instant::now()), ..everything(1) }).unwrap();
    assert!(!usage.whole && usage.entries < 1_000, "{usage:?}");
}

#[test]
fn a_deep_folder_is_told_and_a_wide_one_read() {
    let temp = TempDir::new().unwrap();
    let mut at = rustix::fs::open(temp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..MAX_DEPTH + 20 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let usage = walk(temp.path(), &everything(2)).unwrap();
    assert_eq!(usage.unread_total, 1);
    assert!(usage.unread[0].1.contains("deep"), "{:?}", usage.unread);
    assert_eq!(usage.root.inodes, MAX_DEPTH as u64 + 1);
}

#[test]
fn a_stopped_walk_says_that_it_is_not_whole() {
    let temp = TempDir::new().unwrap();
    // More than the threads do between two looks at whether to stop, however the work falls to them.
    let entries = 4 * 2 * LOOK_EVERY;
    for n in 0..entries {
        write(temp.path().join(format!("{}/{n}", n % 10)), 10);
    }
    let options = everything(2);
    options.stop.store(true, Ordering::Relaxed);
    let usage = walk(temp.path(), &options).unwrap();
    assert!(!usage.whole && usage.entries < entries, "whole {}, {} entries", usage.whole, usage.entries);
}

#[test]
fn a_budget_is_kept() {
    let temp = TempDir::new().unwrap();
    for n in 0..3_000 {
        write(temp.path().join(format!("{}/{n}", n % 10)), 1);
    }
    let mut options = everything(1);
    options.cpu_share = Some(0.02);
    let usage = walk(temp.path(), &options).unwrap();
    let share = usage.cpu.as_secs_f64() / usage.took.as_secs_f64();
    // It rests after each few hundred entries; what comes after the last rest is not paid for.
    assert!(share < 0.04, "{share} of a CPU: {:?} in {:?}", usage.cpu, usage.took);
    assert_eq!(usage.root.inodes, 3_011);
}

#[test]
fn folders_that_come_and_go_meanwhile_cost_nothing_else() {
    let temp = TempDir::new().unwrap();
    for n in 0..50 {
        write(temp.path().join(format!("stays/{n}/file")), 5_000);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (stop, at) = (Arc::clone(&stop), temp.path().join("churn"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for n in 0..30 {
                    write(at.join(format!("{n}/x/file")), 100);
                }
                fs::remove_dir_all(&at).unwrap();
            }
        })
    };
    for _ in 0..50 {
        let usage = walk(temp.path(), &everything(3)).unwrap();
        let stays = usage.root.folders.iter().find(|f| f.name == "stays").unwrap();
        assert_eq!((stays.inodes, stays.folders.len()), (101, 50));
        assert!(usage.whole);
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
}

#[test]
fn what_is_no_folder_is_named() {
    let temp = TempDir::new().unwrap();
    write(temp.path().join("file"), 1);
    let said = walk(&temp.path().join("file"), &everything(1)).unwrap_err().to_string();
    assert!(said.contains("file: cannot be opened as a folder"), "{said}");
    assert!(walk(&temp.path().join("none"), &everything(1)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_is_counted_as_du_counts_it(
        files in prop::collection::vec((prop::collection::vec(0u8..4, 0..5), 0usize..20_000), 1..60),
        threads in 1usize..4,
        smallest in 0u64..50_000,
    ) {
        let temp = TempDir::new().unwrap();
        for (n, (folders, bytes)) in files.iter().enumerate() {
            let mut path = temp.path().to_owned();
            path.extend(folders.iter().map(|f| format!("d{f}")));
            write(path.join(format!("f{n}")), *bytes);
        }
        let told = Threshold { bytes: smallest, inodes: u64::MAX, part: 0 };
        let options = WalkOptions { told, ..everything(threads) };
        let usage = walk(temp.path(), &options).unwrap();
        prop_assert_eq!(usage.root.bytes, du(temp.path()));
        prop_assert_eq!(usage.root.inodes, inodes(temp.path()));
        prop_assert_eq!(all_told(&usage.root), Ok(()));
    }
}

/// Every folder's sums hold what its parts say.
fn all_told(folder: &Folder) -> Result<(), String> {
    let parts: u64 = folder.folders.iter().map(|f| f.bytes).sum();
    if parts + folder.small_folders_bytes > folder.bytes {
        return Err(format!("{:?} holds more than it says", folder.name));
    }
    folder.folders.iter().try_for_each(all_told)
}
