//! The attacker off the leash: as fast as it can, while the executor stops nowhere.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dogwatch::record::ObjectOutcome;
use rustix::fs::{CWD, RenameFlags};
use rustix::process::{Signal, WaitOptions};

use super::attacker::Attacker;
use super::common::LoopFs;
use super::field::{Field, alone, apart, is_alone};
use super::trick::Places;
use super::{NOW, Scene};
use crate::act::gaps::{self, Gap};

/// Objects that it attacks.
const OBJECTS: usize = 50;

/// For ever, on the files at `places`: exchanges each object with a canary, and its folder with another; puts links in
/// its place; opens it. It destroys nothing, so that whatever is gone afterwards went by the executor.
pub(super) fn attack_for_ever(places: &Places) -> ! {
    // SAFETY: a plain system call with integers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    let exchange = |a: &std::path::Path, b: &std::path::Path| {
        rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
    };
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    loop {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let n = (seed >> 8) as usize % OBJECTS;
        let (name, canary) = (places.name(n), places.canary(n));
        match seed % 8 {
            0..4 => {
                if exchange(&name, &canary) {
                    exchange(&name, &canary);
                }
            }
            4 | 5 => {
                let (folder, outside) = (places.folder(n), places.outside(n));
                if exchange(&folder, &outside) {
                    exchange(&folder, &outside);
                }
            }
            6 => {
                // Only where the name is free: what was moved from it cannot go back then.
                if symlink(&canary, &name).is_ok() {
                    let _ = fs::rename(&name, places.spare(n, "link"));
                }
            }
            _ => {
                let _ = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&name);
            }
        }
    }
}

#[test]
fn an_attacker_off_the_leash_gets_nothing_else_removed() {
    alone("act::races::free::off_the_leash");
}

/// Not a test by itself.
#[test]
#[ignore = "started by another test"]
fn off_the_leash() {
    if !is_alone() {
        return;
    }
    let quick = std::env::var_os("DOGWATCH_TEST_QUICK").is_some_and(|v| v == "1");
    let long = Duration::from_secs(if quick { 3 } else { 12 });
    let on = |name: &'static str, make: fn() -> LoopFs| apart(move || free_on(name, make(), long));
    on("tmpfs", || LoopFs::tmpfs(64));
    on("ext4", || LoopFs::ext4(64));
}

fn free_on(name: &str, fs: LoopFs, long: Duration) {
    let began = Instant::now();
    let (mut objects_tried, mut removed, mut won, mut stay) = (0, 0, 0, 0);
    let (mut all_moved, mut put_back) = (0_u64, 0_u64);
    while began.elapsed() < long {
        let field = Field::sow(&fs.path().join("field"), OBJECTS, true);
        let places = field.places.clone();
        let mut cleaner = field.cleaner();
        let mut attacker = Attacker::start(0);
        attacker.aim(&places, 0, &|_| unreachable!());
        attacker.run_free();
        let mut told = Vec::new();
        let mut gone = [false; OBJECTS];
        let (moved, counter) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (into, back) = (Rc::clone(&moved), Rc::clone(&counter));
        gaps::set_hook(Some(Box::new(move |gap, _| match gap {
            Gap::Moved => into.set(into.get() + 1),
            Gap::PuttingBack => back.set(back.get() + 1),
            _ => {}
        })));
        let device = fs::metadata(places.root()).unwrap().dev();
        for _ in 0..40 {
            // As it lies now, the attacker amidst; a few at a time, so that each is attacked between plan and deed.
            let survey = cleaner.survey(device, NOW).unwrap();
            let named = survey.candidates.into_iter().map(|c| c.object);
            let objects: Vec<_> = named.filter(|o| field.victims.contains(&o.inode)).take(5).collect();
            let Some(first) = objects.first() else { continue };
            let mut action = Scene::planned_of(first.clone());
            action.objects = objects;
            let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
            for object in &applied.objects {
                objects_tried += 1;
                if object.outcome == ObjectOutcome::Removed {
                    removed += 1;
                    gone[field.victims.iter().position(|v| *v == object.inode).unwrap()] = true;
                }
            }
            won += applied.refused.len();
            told.extend(applied.refused.into_iter().map(|r| r.reason));
        }
        gaps::set_hook(None);
        put_back += counter.get();
        all_moved += moved.get();
        let pid = attacker.pid();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        rustix::process::waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        let found = field.look();
        let batch = format!("{told:?}");
        field.assert_kept(&found, &batch);
        for (n, gone) in gone.iter().enumerate() {
            // An inode's number may be a link's of the attacker by now.
            let there = found.get(&field.victims[n]).is_some_and(|f| f.digest.is_some());
            assert_eq!(there, !gone, "object {n}: {batch}");
        }
        assert_eq!(field.untold(&told), Vec::<std::path::PathBuf>::new(), "{batch}");
        stay += fs::read_dir(places.quarantine()).unwrap().count();
        drop(attacker);
        field.reap();
    }
    let text = format!(
        "an attacker off the leash on {name}: {objects_tried} tries, {removed} removed, {won} races seen, in {put_back} of \
         {all_moved} moves only in quarantine, {stay} stayed there and are told\n"
    );
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    assert!(won > 0, "{text}");
    assert!(removed > 0, "{text}");
}
