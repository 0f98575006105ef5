use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::usage::walk::{WalkOptions, walk};

fn write(path: PathBuf, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7u8; bytes]).unwrap();
}

fn all() -> Threshold {
    Threshold { bytes: 0, inodes: 0, part: 0 }
}

fn crawl(path: &Path, told: Threshold, step: u64) -> Usage {
    let mut crawl = Crawl::begin(path, CrawlOptions { told, ..CrawlOptions::default() }).unwrap();
    loop {
        match crawl.step(step) {
            Step::More => assert_eq!(open_beneath(path), 0, "a crawl that rests holds nothing open"),
            Step::Done(usage) => return *usage,
            Step::Gone => panic!("{} went", path.display()),
        }
    }
}

/// Descriptors of this process for anything beneath `path`.
fn open_beneath(path: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(path))).count()
}

#[test]
fn a_wide_folder_is_read_in_pieces_and_nothing_twice() {
    let temp = TempDir::new().unwrap();
    for n in 0..5_000 {
        fs::create_dir(temp.path().join(format!("folder-{n}"))).unwrap();
    }
    for n in 0..3_000 {
        write(temp.path().join(format!("file-{n}")), 1);
    }
    fs::hard_link(temp.path().join("file-1"), temp.path().join("folder-1/again")).unwrap();
    let usage = crawl(temp.path(), CrawlOptions::default().told, 77);
    assert_eq!((usage.root.inodes, usage.entries, usage.whole), (8_001, 8_001, true));
}

#[test]
fn what_went_meanwhile_is_left_out_and_another_mount_at_the_path_ends_it() {
    let temp = TempDir::new().unwrap();
    for n in 0..40 {
        write(temp.path().join(format!("{n}/deep/file")), 5_000);
    }
    let mut under_way = Crawl::begin(temp.path(), CrawlOptions::default()).unwrap();
    assert!(matches!(under_way.step(30), Step::More));
    for n in 0..40 {
        fs::remove_dir_all(temp.path().join(format!("{n}"))).unwrap();
    }
    let usage = loop {
        match under_way.step(30) {
            Step::More => {}
            Step::Done(usage) => break usage,
            Step::Gone => panic!("the root stays"),
        }
    };
    assert!(usage.whole && usage.unread_total == 0, "{usage:?}");
    let mut under_way = Crawl::begin(temp.path(), CrawlOptions::default()).unwrap();
    fs::remove_dir(temp.path()).unwrap();
    assert!(matches!(under_way.step(1), Step::Gone));
    fs::create_dir(temp.path()).unwrap();
}

#[test]
fn a_step_has_its_bound_in_a_tree_of_empty_folders_too() {
    const STEP: u64 = 50;
    let temp = TempDir::new().unwrap();
    for n in 0..700 {
        fs::create_dir_all(temp.path().join(format!("{n}/empty/empty"))).unwrap();
    }
    let mut crawl = Crawl::begin(temp.path(), CrawlOptions::default()).unwrap();
    let mut before = 0;
    let usage = loop {
        match crawl.step(STEP) {
            Step::More => {
                // Each folder is entered once, and counted when it is.
                let entered = crawl.seen_inodes - before;
                assert!(entered <= STEP, "one step entered {entered} folders");
                before = crawl.seen_inodes;
            }
            Step::Done(usage) => break usage,
            Step::Gone => panic!("the root stays"),
        }
    };
    assert_eq!((usage.root.inodes, usage.entries), (2_101, 2_100));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn it_finds_what_the_walk_finds(
        files in prop::collection::vec((prop::collection::vec(0u8..4, 0..5), 0usize..20_000), 1..60),
        step in 1u64..40,
        smallest in 0u64..50_000,
    ) {
        let temp = TempDir::new().unwrap();
        for (n, (folders, bytes)) in files.iter().enumerate() {
            let mut path = temp.path().to_owned();
            path.extend(folders.iter().map(|f| format!("d{f}")));
            write(path.join(format!("f{n}")), *bytes);
        }
        for told in [all(), Threshold { bytes: smallest, inodes: u64::MAX, part: 0 }] {
            let options = WalkOptions { threads: 1, most_threads: 1, told, files: 20, cpu_share: None, stop: Arc::default(), until: None };
            let walked = walk(temp.path(), &options).unwrap();
            let crawled = crawl(temp.path(), told, step);
            prop_assert_eq!(&crawled.root, &walked.root);
            prop_assert_eq!(crawled.entries, walked.entries);
            // Of files of one size, those that were met first are told.
            let sizes = |usage: &Usage| usage.files.iter().map(|f| f.bytes).collect::<Vec<_>>();
            prop_assert_eq!(sizes(&crawled), sizes(&walked));
        }
    }
}
