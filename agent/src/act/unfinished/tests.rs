use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use dogwatch::record::{CleanupMode, Cut, FileSeen, Hash, Moment, PlannedImage, Record};
use rustix::fs::FallocateFlags;

use super::super::ledger::Recovery;
use super::super::leftovers::Leftover;
use super::super::policy::{Policy, RootPolicy, Rules};
use super::super::quarantine::entry_name;
use super::super::specimen;
use super::*;

const DIGEST: Hash = Hash([7; 32]);

/// A file of `bytes` at `path`, and the object that a plan makes of it.
fn planned(path: &Path, bytes: usize) -> PlannedObject {
    fs::write(path, vec![b'x'; bytes]).unwrap();
    named(path)
}

fn named(path: &Path) -> PlannedObject {
    let m = fs::symlink_metadata(path).unwrap();
    PlannedObject {
        device: m.dev(),
        inode: m.ino(),
        size_bytes: m.size(),
        allocated_bytes: m.blocks() * 512,
        mtime_ns: m.mtime() * 1_000_000_000 + m.mtime_nsec(),
        links: m.nlink(),
        ..specimen::object(path)
    }
}

fn seen(object: &PlannedObject) -> PlannedObject {
    PlannedObject { sha256: Some(DIGEST), ..object.clone() }
}

fn of(id: &str, state: ActionState, objects: &[PlannedObject]) -> Body {
    let action = Action { id: id.to_owned(), state, ..specimen::action(objects.to_vec()) };
    Body::Action(Box::new(action))
}

fn saw(id: &str, objects: &[PlannedObject]) -> Body {
    let objects = objects.iter().map(seen).collect();
    Body::File(Box::new(FileSeen { cause: id.to_owned(), objects, content: None }))
}

fn open_of(bodies: &[Body]) -> Vec<Unfinished> {
    let mut open = Open::default();
    bodies.iter().for_each(|body| open.take(body));
    open.unfinished()
}

fn reason<'a>(action: &'a Action, path: &Path) -> &'a str {
    let of_it = |r: &&Refusal| r.path.as_deref() == Some(path);
    action.refused.iter().find(of_it).map_or("", |r| r.reason.as_str())
}

#[test]
fn what_began_and_has_no_end_is_found_until_it_has_one() {
    use ActionState::{Done, Failed, Planned, Refused, Started};
    let object = [specimen::object("/x/a.log.1")];
    for end in [Done, Failed, Refused] {
        let all = [of("a-1", Planned, &object), of("a-1", Started, &object), saw("a-1", &object)];
        assert_eq!(open_of(&all[..1]), [], "a plan is no beginning");
        let [open] = &open_of(&all)[..] else { panic!("one is open") };
        assert_eq!((open.action.id.as_str(), open.seen.len()), ("a-1", 1));
        // Not even where its objects found no room.
        assert_eq!(open_of(&[&all[..], &[of("a-1", end, &[])]].concat()), [], "{end:?}");
        let other = [&all[..], &[of("a-2", Started, &object), of("a-2", end, &object)]].concat();
        assert_eq!(open_of(&other).len(), 1);
    }
    let many: Vec<Body> = (0..MAX_UNFINISHED + 5).map(|n| of(&format!("a-{n}"), Started, &object)).collect();
    let newest: Vec<String> = open_of(&many).into_iter().map(|u| u.action.id).collect();
    assert_eq!((newest.len(), newest[0].as_str()), (MAX_UNFINISHED, "a-5"));
}

#[test]
fn of_each_object_it_is_said_what_became_of_it() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    let folder = root.join("pods/x");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir(root.join(QUARANTINE)).unwrap();
    let file = |name: &str| planned(&folder.join(name), 5_000);
    let [gone, there, strange, aside, replaced] =
        ["gone.log.1", "there.log.1", "strange.log.1", "aside.log.1", "replaced.log.1"].map(file);
    // Two names of one inode, of which one goes; and two that both go.
    let kept = file("kept.log.1");
    fs::hard_link(&kept.path, folder.join("kept.log.2")).unwrap();
    let kept = [named(&kept.path), named(&folder.join("kept.log.2"))];
    let both = file("both.log.1");
    fs::hard_link(&both.path, folder.join("both.log.2")).unwrap();
    let both = [named(&both.path), named(&folder.join("both.log.2"))];
    let image = PlannedImage { id: "i".to_owned(), tags: vec![], digests: vec![], inodes: 1 };
    let image = PlannedObject { image: Some(Box::new(image)), ..specimen::object("/container-images/x") };
    let away = PlannedObject { device: gone.device ^ 0xffff, ..specimen::object("/nowhere/else/a.log.1") };

    for object in [&gone, &strange, &kept[0], &both[0], &both[1], &replaced] {
        fs::remove_file(&object.path).unwrap();
    }
    // An inode's number may be given out again at once; whoever has it now was born later.
    fs::write(&replaced.path, "newer").unwrap();
    let name = entry_name(1, Path::new("pods/x"), aside.inode, aside.path.file_name().unwrap()).unwrap();
    let entry = root.join(QUARANTINE).join(name);
    fs::rename(&aside.path, &entry).unwrap();

    let recorded = [
        vec![gone.clone(), there.clone(), aside.clone(), kept[0].clone(), kept[1].clone(), away.clone()],
        both.to_vec(),
        vec![PlannedObject { btime_ns: Some(1), ..replaced.clone() }],
    ]
    .concat();
    let objects = [&recorded[..], &[strange.clone(), image.clone()]].concat();
    let bodies =
        [of("a-1", ActionState::Started, &objects), saw("a-1", &recorded[..5]), saw("a-1", &recorded[5..])];
    let closed = open_of(&bodies).remove(0).close(&HashSet::new());

    assert_eq!(closed.state, ActionState::Failed);
    assert!(closed.is_interrupted(), "{}", closed.detail);
    assert!(closed.detail.contains("5 of 11 objects went"), "{}", closed.detail);
    assert!(
        closed.detail.contains("2 are still there; 1 went without it; 3 are in quarantine"),
        "{}",
        closed.detail
    );
    assert!(closed.objects.iter().all(|o| o.outcome != ObjectOutcome::Pending), "{closed:#?}");
    let now = |object: &PlannedObject| {
        let found = closed.objects.iter().find(|o| o.path == object.path).unwrap();
        (found.outcome, found.sha256, reason(&closed, &object.path))
    };
    use ObjectOutcome::{Failed, Removed, Skipped};
    for object in [&gone, &kept[0], &both[0], &both[1], &replaced] {
        assert_eq!(now(object), (Removed, Some(DIGEST), ""), "{}", object.path.display());
    }
    for object in [&there, &kept[1]] {
        assert_eq!(now(object), (Skipped, Some(DIGEST), "still there after the agent ended"));
    }
    let (outcome, digest, why) = now(&strange);
    assert_eq!((outcome, digest), (Skipped, None));
    assert!(why.contains("somebody else"), "{why}");
    let (outcome, _, why) = now(&aside);
    assert!(outcome == Failed && why.contains(entry.to_str().unwrap()), "{why}");
    let (outcome, _, why) = now(&away);
    assert!(outcome == Failed && why.contains("not mounted"), "{why}");
    let (outcome, _, why) = now(&image);
    assert!(outcome == Failed && why.contains("crictl"), "{why}");
    // What the other name keeps came not free.
    let freed = gone.allocated_bytes + both[0].allocated_bytes + replaced.allocated_bytes;
    assert_eq!(closed.freed_bytes, Some(freed));
    assert!(
        closed.refused[0].reason.contains("nobody can tell")
            || closed.refused[0].reason.contains("quarantine")
    );
}

#[test]
fn what_went_back_and_is_gone_again_was_removed_by_somebody_else() {
    let temp = tempfile::tempdir().unwrap();
    let [a, b] = ["a.log.1", "b.log.1"].map(|name| planned(&temp.path().join(name), 5_000));
    fs::hard_link(&a.path, temp.path().join("c.log.1")).unwrap();
    let objects = [named(&a.path), b, named(&temp.path().join("c.log.1"))];
    let bodies = [of("a-1", ActionState::Started, &objects), saw("a-1", &objects)];
    objects.iter().for_each(|o| fs::remove_file(&o.path).unwrap());
    // As the executor tells it, by the path of a root that is a bind mount of the plan's.
    let went_back = |inode: u64, name: &str| {
        let entry = entry_name(7, Path::new("x"), inode, OsStr::new(name)).unwrap();
        let leftover = Leftover {
            quarantined: Path::new("/elsewhere").join(QUARANTINE).join(entry).display().to_string(),
            original: Some(format!("/elsewhere/{name}")),
            restored: true,
            detail: String::new(),
            device: objects[0].device,
        };
        assert_eq!(Leftover { restored: false, ..leftover.clone() }.went_back(), None);
        leftover.went_back().unwrap()
    };
    // Of the second one another file of that name.
    let back = [went_back(objects[0].inode, "a.log.1"), went_back(objects[1].inode + 1, "b.log.1")];
    let closed = open_of(&bodies).remove(0).close(&HashSet::from(back));
    let outcomes: Vec<_> = closed.objects.iter().map(|o| o.outcome).collect();
    use ObjectOutcome::{Removed, Skipped};
    assert_eq!(outcomes, [Skipped, Removed, Removed], "another name of what went back had gone before");
    assert_eq!(closed.freed_bytes, Some(objects[1].allocated_bytes));
    assert!(reason(&closed, &objects[0].path).contains("went back from quarantine"), "{closed:#?}");
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody_from_saying_how_a_cleanup_ended() {
    crate::own_mounts::in_own_mounts(|base| {
        let share = base.join("share");
        fs::create_dir(&share).unwrap();
        let server = crate::own_mounts::mount_dead(&share);
        let objects = [specimen::object(share.join("a.log.1"))];
        let open = open_of(&[of("a-1", ActionState::Started, &objects), saw("a-1", &objects)]).remove(0);
        let (told, ended) = std::sync::mpsc::channel();
        let looks = std::thread::spawn(move || {
            let aside = Aside::new(std::time::Duration::from_millis(20));
            let _ = told.send(open.close_apart(&HashSet::new(), &aside));
        });
        let ended = ended.recv_timeout(std::time::Duration::from_secs(60));
        // Whoever waits for it waits until then.
        drop(server);
        looks.join().unwrap();
        let closed = ended.expect("it waits for the server");
        assert!(closed.is_interrupted() && closed.state == ActionState::Failed, "{closed:?}");
        let object = &closed.objects[0];
        assert_eq!((object.outcome, object.sha256), (ObjectOutcome::Failed, Some(DIGEST)));
        assert!(reason(&closed, &objects[0].path).contains("does not answer"), "{closed:?}");
    });
}

#[test]
fn a_cut_is_told_by_the_hole_that_it_leaves() {
    let temp = tempfile::tempdir().unwrap();
    let log = |name: &str| {
        let object = planned(&temp.path().join(name), 256 << 10);
        PlannedObject { cut: Some(Cut { from: 0, to: 128 << 10, tail: Vec::new() }), ..object }
    };
    let [cut, whole, half, other] = ["cut.log", "whole.log", "half.log", "other.log"].map(log);
    let punch = |object: &PlannedObject, length| {
        let file = fs::OpenOptions::new().write(true).open(&object.path).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, length).unwrap();
        // It is written to all the time.
        file.write_all_at(b"more", 256 << 10).unwrap();
    };
    punch(&cut, 128 << 10);
    punch(&half, 64 << 10);
    File::options().append(true).open(&whole.path).unwrap().set_len(300 << 10).unwrap();
    fs::rename(&other.path, temp.path().join("other.log.1")).unwrap();
    let objects = [cut, whole, half, other];
    let closed = open_of(&[of("a-1", ActionState::Started, &objects)]).remove(0).close(&HashSet::new());
    use ObjectOutcome::{Cut as WasCut, Failed, Skipped};
    let outcomes: Vec<_> = closed.objects.iter().map(|o| o.outcome).collect();
    assert_eq!(outcomes, [WasCut, Skipped, Failed, Failed], "{closed:#?}");
    assert_eq!(closed.freed_bytes, Some(objects[0].allocated_bytes));
    assert!(closed.detail.contains("1 were cut"), "{}", closed.detail);
}

#[test]
fn budgets_count_what_went_once_before_and_after_it_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let objects: Vec<_> = (0..4).map(|n| planned(&temp.path().join(format!("a.log.{n}")), 4_096)).collect();
    let mut bodies = vec![of("a-1", ActionState::Started, &objects), saw("a-1", &objects[..3])];
    (0..2).for_each(|n| fs::remove_file(&objects[n].path).unwrap());
    let policy =
        Policy { mode: CleanupMode::Auto, roots: vec![RootPolicy::new(temp.path())], ..Policy::off() };
    let rules = Rules::new(policy).unwrap();
    let spent = |bodies: &[Body]| {
        let now = Moment { wall_ns: 5_000_000_000, boot_ns: 5_000_000_000 };
        let mut recovery = Recovery::new(&rules, now);
        for (seq, body) in (1..).zip(bodies) {
            recovery.take(Record { seq, at: now, body: body.clone() });
        }
        recovery.ledger().spent(now.boot_ns, |_| true)
    };
    assert_eq!(spent(&bodies).0, 3, "whatever may have gone");
    let closed = open_of(&bodies).remove(0).close(&HashSet::new());
    bodies.push(Body::Action(Box::new(closed)));
    assert_eq!(spent(&bodies), (2, objects[..2].iter().map(|o| o.allocated_bytes).sum()));
    assert_eq!(open_of(&bodies), [], "and it is not said again");
}
