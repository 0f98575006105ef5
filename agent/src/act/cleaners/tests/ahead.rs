//! A wall clock that is ahead of the time that passed, or was behind.

use dogwatch::clock;
use dogwatch::record::Moment;

use super::*;
use crate::act::age_clock::{AgeClock, Before, Present};

#[test]
fn a_clock_that_is_ahead_brings_nothing_within_reach_that_is_not_as_old() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp");
    let logs = scene.root(Cleaner::RotatedLogs, "logs");
    (logs.min_age_seconds, logs.keep_newest) = (86_400, 0);
    scene.file("logs/app.log", b"x");
    let all = ["logs/app.log.1", "tmp/old"];
    all.iter().for_each(|path| drop(scene.file(path, b"x")));

    let started = clock::now();
    let mut ages = AgeClock::begin(Before::Nothing, started);
    let mut at = |wall_ns: i64, passed_ns: i64| -> Present {
        ages.look(Moment { wall_ns, boot_ns: started.boot_ns + passed_ns as u64 })
    };
    let ahead = at(scene.now, 60_000_000_000);
    let mut executor = scene.executor();
    let device = fs::metadata(scene.base.path()).unwrap().dev();
    let survey = executor.survey(device, ahead).unwrap();
    assert!(survey.candidates.is_empty(), "{survey:#?}");
    for path in all {
        let path = scene.path(path);
        let said = survey.passed_over.iter().find(|r| r.path.as_ref() == Some(&path)).unwrap();
        assert!(said.reason.contains("younger than") && said.reason.contains("went ahead by"), "{said:?}");
    }
    // Whoever plans by the wall clock all the same is refused.
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), all);
    let done = executor.apply(action, &|| ahead, &|| Ok(None));
    assert_eq!(done.freed_bytes, Some(0), "{done:#?}");
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped), "{done:#?}");
    assert!(all.iter().all(|path| scene.path(path).exists()));

    // Nor when it has stood so for long.
    let ahead_ns = scene.now;
    for (days, gone) in [(1, &all[..1]), (11, &all[..])] {
        scene.now = ahead_ns + days * DAY_NS;
        let believed = at(scene.now, 60_000_000_000 + days * DAY_NS);
        let action = scene.plan(&executor, "node");
        let done = executor.apply(action, &|| believed, &|| Ok(None));
        let is_gone = |path: &&str| !scene.path(path).exists();
        let left: Vec<&str> = all.into_iter().filter(is_gone).collect();
        assert_eq!(left, gone, "{done:#?}");
    }
}

#[test]
fn what_was_written_while_the_clock_was_behind_stays_when_it_is_set_right() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp");
    let logs = scene.root(Cleaner::RotatedLogs, "logs");
    (logs.min_age_seconds, logs.keep_newest) = (86_400, 0);
    scene.file("logs/app.log", b"x");

    let started = clock::now();
    let offset = started.wall_ns - started.boot_ns as i64;
    // The clock of the test is behind of the scene's.
    let right = |now: Moment| Moment { wall_ns: now.boot_ns as i64 + offset + 100 * DAY_NS, ..now };
    let mut ages = AgeClock::begin(Before::Nothing, right(started));
    ages.look(started);
    let all = ["logs/app.log.1", "tmp/old"];
    all.iter().for_each(|path| drop(scene.file(path, b"x")));
    ages.look(clock::now());
    let present = ages.look(right(clock::now()));

    let mut executor = scene.executor();
    let device = fs::metadata(scene.base.path()).unwrap().dev();
    let survey = executor.survey(device, present).unwrap();
    assert!(survey.candidates.is_empty(), "{survey:#?}");
    for path in all {
        let path = scene.path(path);
        let said = survey.passed_over.iter().find(|r| r.path.as_ref() == Some(&path)).unwrap();
        assert!(said.reason.contains("younger than") && said.reason.contains("was behind by"), "{said:?}");
    }
    let action = scene.plan(&executor, "node");
    assert_eq!(scene.names(&action), all, "old by the wall clock");
    let done = executor.apply(action, &|| present, &|| Ok(None));
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped), "{done:#?}");
    assert!(all.iter().all(|path| scene.path(path).exists()));
}
