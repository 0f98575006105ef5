//! Holds that come late, lie behind links, or are not known.

use std::cell::Cell;

use super::*;
use crate::act::hold::{HeldThing, HoldSet, NodeHold};
use crate::act::hold_line::HeldNow;

pub(super) fn held(path: &Path) -> HeldNow {
    let hold = NodeHold {
        id: "hold-00000001".to_owned(),
        what: HeldThing::Path(path.to_owned()),
        reason: "court".to_owned(),
    };
    HeldNow { set: HoldSet::Known(vec![hold]), host_root: "/".into() }
}

fn assert_held(applied: &Action, scene: &Scene) {
    assert_eq!(applied.objects[0].outcome, ObjectOutcome::Skipped);
    assert_eq!(applied.refused[0].reason, "held: hold-00000001 court");
    assert_eq!(applied.freed_bytes, Some(0));
    assert!(scene.victim.exists());
    assert_eq!(fs::read_dir(scene.root.join(QUARANTINE)).unwrap().count(), 0);
}

#[test]
fn a_hold_that_comes_after_the_plan_wins_up_to_the_unlinking() {
    for call in 0..3 {
        let scene = Scene::new();
        let mut cleaner = Scene::open(&scene.root);
        let action = Scene::planned(&cleaner, &scene.root);
        let calls = Cell::new(0);
        let news = || {
            let now = calls.replace(calls.get() + 1);
            Ok((now == call).then(|| held(&scene.victim)))
        };
        let applied = cleaner.apply(action, &|| NOW, &news);
        assert_held(&applied, &scene);
        assert_eq!(calls.get(), call + 1);
    }
}

#[test]
fn a_hold_behind_links_is_met_also_when_they_are_moved_after_it_was_told() {
    let scene = Scene::new();
    let mut cleaner = Scene::open(&scene.root);
    let link = scene.base.join("link");
    symlink(&scene.outside, &link).unwrap();
    cleaner.hold(held(&link.join("app.log.1")));
    let action = Scene::planned(&cleaner, &scene.root);
    fs::remove_file(&link).unwrap();
    symlink(scene.root.join("sub"), &link).unwrap();
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    assert_held(&applied, &scene);
}

#[test]
fn an_executor_that_was_told_nothing_removes_nothing() {
    let scene = Scene::new();
    let (mut cleaner, _) = Cleaner::open(Scene::policy(&scene.root), Path::new("/var/spool/dogwatch-test"));
    let action = Scene::planned(&cleaner, &scene.root);
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    assert!(applied.refused[0].reason.contains("was not told yet"), "{:?}", applied.refused);
    assert!(scene.victim.exists());
    cleaner.hold(held(&scene.outside));
    let action = Scene::planned(&cleaner, &scene.root);
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    assert_eq!(applied.objects[0].outcome, ObjectOutcome::Removed, "what is not held goes");
}
