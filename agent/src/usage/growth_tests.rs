use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn at(second: u64) -> At {
    At { began_wall_ns: second as i64 * 1_000_000_000, middle_boot_ns: second * 1_000_000_000 }
}

/// A root with folders of these sizes, each with a folder `in` that holds half of it.
fn tree(sizes: &[(&str, u64)]) -> Folder {
    let folders: Vec<Folder> = sizes
        .iter()
        .map(|(name, bytes)| Folder {
            name: (*name).into(),
            bytes: *bytes,
            folders: vec![Folder { name: "in".into(), bytes: bytes / 2, ..Folder::default() }],
            ..Folder::default()
        })
        .collect();
    Folder { bytes: sizes.iter().map(|s| s.1).sum(), folders, ..Folder::default() }
}

fn told(ledger: &Ledger) -> Vec<(String, u64, i64)> {
    let row =
        |g: Growth| (g.path.display().to_string(), g.grown_bytes / MIB, g.since_wall_ns / 1_000_000_000);
    ledger.growth().into_iter().map(row).collect()
}

#[test]
fn a_folder_that_grows_is_told_with_its_beginning_and_rate() {
    let mut ledger = Ledger::default();
    ledger.take(at(100), &tree(&[("a", 10 * MIB), ("b", 50 * MIB)]), MIB);
    assert_eq!(told(&ledger), [], "one walk tells no growth");
    ledger.take(at(160), &tree(&[("a", 70 * MIB), ("b", 50 * MIB)]), MIB);
    // The root grew by the same and is not told beside it; half of `a` is in `a/in`, which explains it no better than `a`.
    assert_eq!(told(&ledger), [("a".to_owned(), 60, 100), ("a/in".to_owned(), 30, 100)]);
    assert!((ledger.growth()[0].bytes_per_second - MIB as f64).abs() < 1.0);
    ledger.take(at(220), &tree(&[("a", 190 * MIB), ("b", 50 * MIB)]), MIB);
    assert_eq!(told(&ledger)[0], ("a".to_owned(), 180, 100), "since it began, not since the last walk");
    assert!((ledger.growth()[0].bytes_per_second - 2.0 * MIB as f64).abs() < 1.0);
}

#[test]
fn a_rise_that_is_over_is_told_no_more() {
    let mut ledger = Ledger::default();
    for (second, a) in [(0, 10), (60, 40), (120, 40)] {
        ledger.take(at(second), &tree(&[("a", a * MIB)]), MIB);
    }
    assert_eq!(told(&ledger)[0], ("a".to_owned(), 30, 0), "one calm walk is a pause");
    ledger.take(at(180), &tree(&[("a", 40 * MIB)]), MIB);
    assert_eq!(told(&ledger), []);
    ledger.take(at(240), &tree(&[("a", 60 * MIB)]), MIB);
    assert_eq!(told(&ledger)[0], ("a".to_owned(), 20, 180));
    ledger.take(at(300), &tree(&[("a", 50 * MIB)]), MIB);
    assert_eq!(told(&ledger), [], "half of it went");
}

#[test]
fn what_was_too_small_to_be_told_grew_by_at_least_what_it_is_above_that() {
    let mut ledger = Ledger::default();
    ledger.take(at(0), &tree(&[("a", 10 * MIB)]), 4 * MIB);
    ledger.take(at(60), &tree(&[("a", 10 * MIB), ("new", 34 * MIB)]), 4 * MIB);
    let new = ledger.growth().into_iter().find(|g| g.path == Path::new("new")).unwrap();
    assert_eq!((new.grown_bytes, new.at_least), (30 * MIB, true));
}

#[test]
fn memory_is_bounded_and_what_is_cut_counts_as_unknown() {
    let many = |n: u64, last: u64| {
        let folders = (0..n)
            .map(|i| Folder {
                name: format!("{i}").into(),
                bytes: if i + 1 == n { last } else { 100 * MIB + i },
                ..Folder::default()
            })
            .collect();
        Folder { bytes: 1 << 50, folders, ..Folder::default() }
    };
    let mut ledger = Ledger::default();
    ledger.take(at(0), &many(5_000, 90 * MIB), MIB);
    assert_eq!(ledger.folders.len(), MAX_FOLDERS);
    ledger.take(at(60), &many(5_000, 200 * MIB), MIB);
    let last = ledger.growth().into_iter().find(|g| g.path == Path::new("4999")).unwrap();
    // It held 90 and was cut; all that is known is that it held no more than the largest that was cut.
    assert!(last.at_least && last.grown_bytes <= 110 * MIB && last.grown_bytes > 90 * MIB, "{last:?}");
}

proptest! {
    /// Whatever sizes come, in whatever order, and however much is told of them: nothing is said to have grown by more than
    /// it did since the time that is said, and nothing beyond the bounds is kept or told.
    #[test]
    fn nothing_is_said_to_have_grown_by_more_than_it_did(
        walks in prop::collection::vec(prop::collection::vec(0u64..64 * MIB, 6), 1..12),
        told_bytes in 0u64..16 * MIB,
    ) {
        let mut ledger = Ledger::default();
        for (n, sizes) in walks.iter().enumerate() {
            let names = ["a", "b", "c", "d", "e", "f"];
            let sized: Vec<(&str, u64)> = names.into_iter().zip(sizes.iter().copied()).collect();
            let mut root = tree(&sized);
            root.fold(told_bytes, u64::MAX);
            ledger.take(at(n as u64 * 60), &root, told_bytes);
            let growth = ledger.growth();
            prop_assert!(growth.len() <= MAX_TOLD && ledger.folders.len() <= MAX_FOLDERS);
            for g in &growth {
                let since = usize::try_from(g.since_wall_ns / 60_000_000_000).unwrap();
                prop_assert!(since < n, "{g:?}");
                let size = |walk: usize| -> u64 {
                    let all = || walks[walk].iter().sum();
                    let of = |name: &str| walks[walk][names.iter().position(|n| *n == name).unwrap()];
                    let path = g.path.to_str().unwrap();
                    match path.split_once('/') {
                        Some((top, _)) => of(top) / 2,
                        None if path.is_empty() => all(),
                        None => of(path),
                    }
                };
                prop_assert_eq!(g.bytes, size(n));
                prop_assert!(g.grown_bytes <= size(n).saturating_sub(size(since)), "{:?}", g);
                prop_assert!(g.at_least || g.grown_bytes == size(n) - size(since), "{:?}", g);
                prop_assert!(g.bytes_per_second >= 0.0);
            }
        }
    }
}
