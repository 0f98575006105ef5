//! A btrfs, whose subvolumes have each a device number of their own and none of them the one of the table of mounts.

use dogwatch::record::{Finding, FindingState, Hash, Moment, Mount, Severity, Subject};

use super::*;
use crate::act::permit::Gate;
use crate::act::respond::{DISK_HIGH_WATER, Respond, Settings, Step};
use crate::own_mounts::{Btrfs, in_own_mounts};
use crate::sample::{mountinfo, superblock};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes until there is no more room.
fn fill(btrfs: &Btrfs) {
    let mut filler = File::create(btrfs.whole.join("filler")).unwrap();
    let mut piece = vec![0x5A_u8; 1 << 20];
    while !piece.is_empty() {
        match filler.write_all(&piece).and_then(|()| filler.sync_data()) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(e) => unreachable!("{e}"),
        }
    }
}

/// Its mounts as a sample has them, of those that are watched.
fn watched(btrfs: &Btrfs) -> Vec<Mount> {
    let table = fs::read("/proc/thread-self/mountinfo").unwrap();
    let parsed = mountinfo::parse(&table);
    let of = |entry: &&mountinfo::Entry<'_>| {
        let path = PathBuf::from(String::from_utf8(entry.path.to_vec()).unwrap());
        let s = (path == btrfs.whole || path == btrfs.own).then(|| rustix::fs::statvfs(&path).unwrap())?;
        Some(Mount {
            path: text(&path).to_owned(),
            dev_major: entry.dev_major,
            dev_minor: entry.dev_minor,
            total_bytes: s.f_blocks * s.f_frsize,
            available_bytes: s.f_bavail * s.f_frsize,
            ..Mount::default()
        })
    };
    mountinfo::select(&parsed.entries).iter().filter_map(of).collect()
}

fn one(mut steps: Vec<Step>) -> Step {
    assert_eq!(steps.len(), 1, "{steps:#?}");
    steps.remove(0)
}

fn raised(mount: &str) -> Finding {
    Finding {
        id: "f-1".to_owned(),
        rule: DISK_HIGH_WATER.to_owned(),
        severity: Severity::High,
        state: FindingState::Raised,
        subject: Subject::new("mount", mount),
        summary: "it is full".to_owned(),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: 0,
        pod: None,
    }
}

#[test]
fn a_full_btrfs_is_cleaned_in_all_its_subvolumes() {
    in_own_mounts(|at| {
        let btrfs = Btrfs::new(at);
        for name in ["nested", "logs/inner"] {
            fs::create_dir_all(btrfs.whole.join(name).parent().unwrap()).unwrap();
            btrfs.subvolume(name);
        }
        let base = tempfile::tempdir_in(&btrfs.whole).unwrap();
        let mut scene = Scene { base, ..Scene::new() };
        // At the top of the mount, in a subvolume that is no mount, and in one that is mounted by itself.
        let roots = [btrfs.whole.join("logs"), btrfs.whole.join("nested"), btrfs.own.clone()];
        for root in &roots {
            let rotated = RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(root) };
            scene.policy.roots.push(rotated);
            (1..=2).for_each(|n| drop(scene.file(text(&root.join(format!("app.log.{n}"))), 6 * MIB)));
        }
        let inner = scene.file(text(&btrfs.whole.join("logs/inner/app.log.1")), 64 << 10);
        fill(&btrfs);

        let mounts = watched(&btrfs);
        let [mount] = &mounts[..] else { unreachable!("one filesystem: {mounts:?}") };
        assert!(mount.available_bytes < mount.total_bytes / 20, "{mount:?}");
        let number = rustix::fs::makedev(mount.dev_major, mount.dev_minor);
        let st_devs: Vec<u64> = roots.iter().map(|r| fs::metadata(r).unwrap().dev()).collect();
        assert!(!st_devs.contains(&number) && st_devs[0] != st_devs[1], "{number} {st_devs:?}");
        for root in &roots {
            assert_eq!(superblock::of_path(root), Ok(number), "{root:?}");
        }

        let mut cleaner = scene.cleaner();
        let rules = Rules::new(scene.policy.clone()).unwrap();
        let gate = Gate::open("n1".parse().unwrap(), Hash::ZERO);
        let mut responder = Respond::new(rules, Settings::default(), gate, Box::new(|| 1));
        let now = Moment { wall_ns: scene.now, boot_ns: 1 << 40 };
        responder.on_sample(&mounts, now);
        let Step::Survey { device, .. } = one(responder.on_finding(&raised(&mount.path), now)) else {
            unreachable!("a survey")
        };
        let survey = cleaner.survey(device, scene.now).unwrap();
        let told = survey.passed_over.iter().find(|r| r.path.as_deref() == inner.parent());
        assert!(told.is_some_and(|r| r.reason.contains("a subvolume of its own")), "{survey:#?}");
        let Step::Record(planned) = one(responder.on_survey(&mount.path, Ok(&survey), now)) else {
            unreachable!("a record")
        };
        assert_eq!(planned.objects.len(), 6, "{planned:#?}");
        let Step::Record(started) = one(responder.on_recorded(&planned, Ok(()), now)) else {
            unreachable!("a record")
        };
        let Step::Apply(action) = one(responder.on_recorded(&started, Ok(()), now)) else {
            unreachable!("an action")
        };
        let done = scene.apply(&mut cleaner, *action, &Agent::default());
        let removed = done.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed);
        assert_eq!(removed.count(), 6, "{done:#?}");
        let went: u64 = done.objects.iter().map(|o| o.allocated_bytes).sum();
        assert!(went >= 6 * 6 * MIB && done.freed_bytes == Some(went), "{went} {:?}", done.freed_bytes);
        // What is not free yet is told with a reason.
        let (before, after) = (done.available_before_bytes.unwrap(), done.available_after_bytes.unwrap());
        let unexplained = done.unexplained.unwrap();
        assert_eq!(unexplained.bytes == 0, unexplained.reason.is_empty(), "{unexplained:?}");
        assert!(
            after.saturating_sub(before) >= went / 2 || !unexplained.reason.is_empty(),
            "{before} {after}"
        );
        assert!(inner.exists());
        // Once its transaction is written, it is there.
        btrfs.sync();
        let free = |mount: &Mount| mount.available_bytes;
        assert!(free(&watched(&btrfs)[0]) >= free(mount) + went / 2, "{mount:?} {:?}", watched(&btrfs));
        drop(cleaner);
    });
}
