//! Surveys that end amid a database's folder, or beneath one that becomes a database's.

use proptest::prelude::*;

use super::*;

/// Those that are files.
const MARKERS: [&str; 6] = ["WiredTiger", "PG_VERSION", "ibdata1", "dump.rdb", "IDENTITY", "mongod.lock"];

/// At which entry of `folder` its marker comes.
fn place_of(marker: &str, folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().position(|e| e.unwrap().file_name() == marker).unwrap()
}

/// Fills `folder` and marks it, so that a reading of it comes late by the marker; the marker, and when it comes.
fn marked_late(scene: &Scene, folder: &str) -> (&'static str, usize) {
    let at = scene.path(folder);
    fs::create_dir_all(&at).unwrap();
    // Filesystems have the oldest entry first, or last, or an order of their own.
    fs::write(at.join(MARKERS[0]), "").unwrap();
    scene.many(folder, 4_000, ("", ".log.1"), false);
    for marker in MARKERS {
        fs::write(at.join(marker), "").unwrap();
        let place = place_of(marker, &at);
        if place >= 1_200 {
            return (marker, place);
        }
        fs::remove_file(at.join(marker)).unwrap();
    }
    unreachable!("no marker comes late in {}", at.display());
}

#[test]
fn a_share_that_ends_before_the_marker_plans_nothing_of_the_folder() {
    let scene = Scene::new(&["logs", "more"]);
    let (marker, place) = marked_late(&scene, "logs/db");
    for n in 1..=3 {
        scene.old(&format!("logs/db/log/mongod.log.{n}"), 1 << 16);
    }
    let mut ours = vec![scene.old("logs/zz/big.log.1", 1 << 16), scene.old("more/big.log.1", 1 << 16)];
    let mut cleaner = scene.cleaner();
    // The first root's half ends before the marker, and the other root leaves most of its own.
    cleaner.limits.entries = 2 * (place as u64 - 50);
    for _ in 0..3 {
        let survey = scene.survey(&cleaner);
        let mut found: Vec<&Path> = survey.candidates.iter().map(|c| c.object.path.as_path()).collect();
        found.sort_unstable();
        ours.sort_unstable();
        assert_eq!(found, ours, "{:?}", survey.partial);
        let said = Refusal {
            path: Some(scene.path("logs/db")),
            reason: format!("{marker} marks the folder as a database's"),
        };
        assert_eq!(survey.passed_over, [said]);
        assert_eq!(survey.partial, None, "what stays takes no other's share");
    }
}

/// Folders beneath the root, each with so many files; and those that are a database's from a survey on.
#[derive(Debug, Clone)]
struct Tree {
    files: Vec<usize>,
    marked: Vec<(usize, &'static str, usize)>,
    entries: u64,
}

const FOLDERS: [&str; 10] = ["", "a", "a/b", "a/b/c", "a/b/d", "a/e", "f", "f/log", "f/log/old", "g"];
const SURVEYS: usize = 16;

fn tree() -> impl Strategy<Value = Tree> {
    let files = prop::collection::vec(0usize..8, FOLDERS.len());
    let mark = (1..FOLDERS.len(), prop::sample::select(&MARKERS[..]), 0..SURVEYS);
    (files, prop::collection::vec(mark, 1..4), 3u64..60).prop_map(|(files, marked, entries)| Tree {
        files,
        marked,
        entries,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Wherever surveys end and go on, none finds anything beneath a marker; one that comes to its end finds all else.
    #[test]
    fn no_survey_finds_anything_beneath_a_marker(tree in tree()) {
        let scene = Scene::new(&["logs"]);
        let mut all = Vec::new();
        for (folder, count) in FOLDERS.iter().zip(&tree.files) {
            fs::create_dir_all(scene.path("logs").join(folder)).unwrap();
            all.extend((0..*count).map(|n| scene.old(&format!("logs/{folder}/{n}.log.1"), 0)));
        }
        let mut cleaner = scene.cleaner();
        cleaner.limits.entries = tree.entries;
        let mut theirs: Vec<PathBuf> = Vec::new();
        for nth in 0..=SURVEYS {
            for (folder, marker, _) in tree.marked.iter().filter(|(_, _, from)| *from == nth) {
                let folder = scene.path("logs").join(FOLDERS[*folder]);
                fs::write(folder.join(marker), "").unwrap();
                theirs.push(folder);
            }
            if nth == SURVEYS {
                cleaner.limits.entries = Limits::default().entries;
            }
            let survey = scene.survey(&cleaner);
            let is_theirs = |path: &Path| theirs.iter().any(|folder| path.starts_with(folder));
            let mut found: Vec<PathBuf> = survey.candidates.into_iter().map(|c| c.object.path).collect();
            prop_assert!(!found.iter().any(|path| is_theirs(path)), "survey {nth}: {found:?} of {theirs:?}");
            if nth == SURVEYS {
                found.sort_unstable();
                let mut ours: Vec<PathBuf> = all.iter().filter(|p| !is_theirs(p)).cloned().collect();
                ours.sort_unstable();
                prop_assert_eq!(found, ours);
            }
        }
    }
}
