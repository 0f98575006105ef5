//! At zero: not a byte and not an inode free on the filesystem that holds the logs, the agent's own state, its
//! temporary folder and its log; and it detects, plans, cleans, records and ships all the same.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

#[path = "zero/cycles.rs"]
mod cycles;
#[path = "zero/losses.rs"]
mod losses;
#[path = "zero/voice.rs"]
mod voice;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::block::Block;
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{Action, ActionState, Body, Kind, Kinds, Stream};
use dogwatch_e2e::canary;
use dogwatch_e2e::ledger::Ledger;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{House, Person, Post, Stage, yaml};
use dogwatch_e2e::wait::until;
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const BALLAST_BYTES: u64 = 4 * MIB;
const BALLAST_INODES: u64 = 16;

/// What there is nothing of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lack {
    Bytes,
    Inodes,
    Both,
}

/// A filesystem with everything on it.
struct Site {
    fs: LoopFs,
    victims: BTreeSet<PathBuf>,
}

impl Site {
    fn new(fs: LoopFs) -> Self {
        for folder in ["log", "tmp", "elsewhere"] {
            fs::create_dir(fs.path().join(folder)).unwrap();
        }
        fs::write(fs.path().join("elsewhere/passwords"), "canary").unwrap();
        // To be filled when there may be no inode for it.
        fs::write(fs.path().join("filler"), "").unwrap();
        fs::write(fs.path().join("log/live.log"), "canary\n".repeat(1_000)).unwrap();
        fs::write(fs.path().join("log/tool-1.2"), "canary").unwrap();
        let mut site = Self { fs, victims: BTreeSet::new() };
        for n in 1..=3 {
            site.victim(&format!("big.log.{n}"), &vec![n; 3 * MIB as usize]);
        }
        for n in 0..110 {
            site.victim(&format!("small-{n}.log.1"), b"old");
        }
        site
    }

    fn victim(&mut self, name: &str, content: &[u8]) {
        let path = self.fs.path().join("log").join(name);
        fs::write(&path, content).unwrap();
        self.victims.insert(path);
    }

    fn state(&self) -> PathBuf {
        self.fs.path().join("state")
    }

    fn config(&self) -> String {
        format!(
            "state: {{ dir: {}, segment_bytes: 1MiB, urgent_bytes: 4MiB, evidence_bytes: 5MiB, recorder_bytes: 4MiB }}\n\
             sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ncaps: {{ cpu: 100%, memory: 1GiB }}\ntail: {{ globs: [{}] }}\n\
             detect: {{ disk: {{ clear_ticks: 2 }} }}\ncleanup:\n  mode: auto\n\
             \x20 roots: [{{ path: {}, min_age: 0s, keep_newest: 0 }}]\n\
             \x20 ballast: {{ bytes: {BALLAST_BYTES}, inodes: {BALLAST_INODES}, again_after: 1h }}\n",
            yaml(&self.state()),
            yaml(&self.fs.path().join("log/*.log")),
            yaml(&self.fs.path().join("log")),
        )
    }

    fn post(&self, stage: &Stage, house: &House, node: &str) -> Post {
        let mut post = stage.post(node, &self.state(), Some(house), &self.config());
        post.log_to(&self.fs.path().join("agent.out"));
        post.environment("TMPDIR", &self.fs.path().join("tmp").display().to_string());
        post
    }

    /// Takes all that there is, for root too.
    fn exhaust(&self, lack: Lack) {
        if lack != Lack::Bytes {
            let folder = self.fs.path().join("elsewhere/many");
            fs::create_dir(&folder).unwrap();
            let refused = (0..100_000).find_map(|n| File::create(folder.join(n.to_string())).err()).unwrap();
            assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        }
        if lack != Lack::Inodes {
            self.fs.fill().unwrap();
        }
        let (bytes, inodes) = self.room();
        assert!(lack == Lack::Inodes || bytes == 0, "{bytes} bytes are available");
        assert!(lack == Lack::Bytes || inodes == 0, "{inodes} inodes are free");
    }

    fn room(&self) -> (u64, u64) {
        let v = rustix::fs::statvfs(self.fs.path()).unwrap();
        (v.f_bavail * v.f_frsize, v.f_ffree)
    }

    fn ballast(&self) -> (bool, usize) {
        let folder = self.state().join("ballast");
        let inodes = fs::read_dir(&folder).unwrap().flatten();
        let inodes = inodes.filter(|e| e.file_name().to_string_lossy().starts_with("inode-")).count();
        (folder.join("bytes").exists(), inodes)
    }
}

/// A filesystem of 64 MiB with few inodes.
fn ext4() -> LoopFs {
    LoopFs::create(64 * MIB, "ext4", &["-m", "0", "-N", "420"]).unwrap()
}

/// Every urgent record that a folder of journals holds.
fn urgent(folder: &Path) -> Vec<Body> {
    let wanted =
        [Kind::Finding, Kind::Action, Kind::Note, Kind::Gap].into_iter().fold(Kinds::default(), Kinds::with);
    let reader = Reader::open(&folder.join(Stream::Urgent.as_str())).unwrap();
    let entries = reader.scan(Position::default()).map(Result::unwrap);
    let blocks = entries.filter(|e| e.kind == FrameKind::Block);
    blocks.flat_map(|e| Block::decode(e.payload).unwrap().records(wanted).unwrap()).map(|r| r.body).collect()
}

/// Actions on the filesystem at `mount`; the machine has those of other scenarios as well.
fn actions<'b>(bodies: &'b [Body], mount: &Path, state: ActionState) -> Vec<&'b Action> {
    let all = bodies.iter().filter_map(|b| if let Body::Action(a) = b { Some(&**a) } else { None });
    all.filter(|a| a.state == state && Path::new(&a.mount) == mount).collect()
}

fn done(person: &Person, mount: &Path) -> Option<Value> {
    let rows = person.rows(&["get", "actions"]);
    let over = |a: &Value| ["done", "failed", "refused"].iter().any(|s| a["state"] == *s);
    rows.into_iter().find(|a| a["mount"] == mount.to_str().unwrap() && over(a))
}

/// Sees every file that is made beneath the state folder, whatever becomes of it.
struct Watch(rustix::fd::OwnedFd);

impl Watch {
    fn over(state: &Path) -> Self {
        let watch =
            Self(inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap());
        watch.add(state);
        watch
    }

    fn add(&self, folder: &Path) {
        inotify::add_watch(&self.0, folder, inotify::WatchFlags::CREATE).unwrap();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                self.add(&entry.path());
            }
        }
    }

    fn made(&self) -> Vec<String> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = reader.next() {
            names.push(event.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()));
        }
        names
    }
}

fn signal(post: &mut Post, signal: Signal) {
    let pid = Pid::from_raw(post.process().id() as i32).unwrap();
    kill_process_group(pid, signal).unwrap();
}

/// Nothing of `lack` is free: it is found, cleaned up, recorded and shipped.
fn drill(fs: LoopFs, lack: Lack, crash: bool) {
    let stage = Stage::new(programs!());
    let site = Site::new(fs);
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let eve = house.person("eve", "viewer");
    let mut post = site.post(&stage, &house, "node-a");
    post.start();
    until("the node to be connected", PATIENCE, || {
        let rows = eve.rows(&["get", "nodes"]);
        rows.iter().find(|n| n["name"] == "node-a" && n["state"] == "connected").map(|_| ())
    });
    until("the ballast to be held", PATIENCE, || {
        (site.ballast() == (true, BALLAST_INODES as usize)).then_some(())
    });
    // It sleeps while the disk is filled, so that it never saw anything between room and none.
    signal(&mut post, Signal::STOP);
    if crash {
        post.kill();
    }
    site.exhaust(lack);
    let before = canary::remember(&site.fs.path().join("log"));
    let elsewhere = canary::remember(&site.fs.path().join("elsewhere"));
    let watch = Watch::over(&site.state());
    match crash {
        true => post.launch(),
        false => signal(&mut post, Signal::CONT),
    }

    let action = until("the cleanup to be told by the collector", PATIENCE, || done(&eve, site.fs.path()));
    assert_eq!(action["state"], "done", "{action:#}");
    let objects = action["objects"].as_array().unwrap();
    let removed: BTreeSet<PathBuf> = objects
        .iter()
        .filter(|o| o["outcome"] == "removed")
        .map(|o| PathBuf::from(o["path"].as_str().unwrap()))
        .collect();
    assert!(!removed.is_empty() && removed.is_subset(&site.victims), "{action:#}");
    let [gone, new, changed] = canary::compare(&before, &canary::remember(&site.fs.path().join("log")));
    assert_eq!(gone, removed.iter().cloned().collect::<Vec<_>>(), "gone, and said to be removed");
    assert!(new.is_empty() && changed.is_empty(), "{new:?} {changed:?}");
    assert_eq!(canary::remember(&site.fs.path().join("elsewhere")), elsewhere);
    assert_eq!(
        fs::read_dir(site.fs.path().join("tmp")).unwrap().count(),
        0,
        "nothing in the temporary folder"
    );
    assert_eq!(watch.made(), Vec::<String>::new(), "no file was made on the way");
    let held = site.ballast();
    assert_eq!(held.0, lack == Lack::Inodes, "bytes are given up for bytes: {held:?}");
    assert_eq!(held.1 == 0, lack != Lack::Bytes, "inodes are given up for inodes: {held:?}");

    post.stop();
    let bodies = urgent(&house.store());
    let mount = site.fs.path().to_str().unwrap();
    let place =
        |what: &dyn Fn(&Body) -> bool| bodies.iter().position(what).unwrap_or_else(|| panic!("{bodies:#?}"));
    let found =
        place(&|b| matches!(b, Body::Finding(f) if f.rule.contains("high-water") && f.subject.name == mount));
    let given_up = place(&|b| matches!(b, Body::Note(n) if n.starts_with("gave up")));
    let started =
        place(&|b| matches!(b, Body::Action(a) if a.state == ActionState::Started && a.mount == mount));
    assert!(found < started && given_up < started, "{found} {given_up} {started}");
    let finished = actions(&bodies, site.fs.path(), ActionState::Done)[0];
    assert!(finished.freed_bytes.unwrap() > 0);
    if lack != Lack::Inodes {
        let before = finished.available_before_bytes.unwrap();
        // The agent's own log took a block or two of it.
        assert!(before + MIB / 16 >= BALLAST_BYTES, "the ballast's room was there before: {before}");
        let change = finished.available_after_bytes.unwrap() - before;
        let freed = finished.freed_bytes.unwrap();
        assert!(change.abs_diff(freed) < MIB, "freed {freed}, and {change} more are available");
    }
    let ledger = Ledger::read(&house.store());
    assert_eq!((ledger.silent_holes(), ledger.twice()), (vec![], vec![]));
    eprintln!(
        "{lack:?}{}: {} objects gone, {} bytes freed, {} gap records",
        if crash { " after a crash" } else { "" },
        removed.len(),
        finished.freed_bytes.unwrap(),
        ledger.gaps.len()
    );
    house.stop();
}

#[test]
fn with_0_bytes_free_it_cleans_and_ships() {
    drill(ext4(), Lack::Bytes, false);
}

#[test]
fn with_0_inodes_free_it_cleans_and_ships() {
    drill(ext4(), Lack::Inodes, false);
}

#[test]
fn with_neither_bytes_nor_inodes_it_cleans_and_ships() {
    drill(ext4(), Lack::Both, false);
}

#[test]
fn killed_and_started_again_at_zero_it_cleans_and_ships() {
    drill(ext4(), Lack::Both, true);
}

#[test]
fn with_0_bytes_free_on_tmpfs_it_cleans_and_ships() {
    drill(LoopFs::memory(64 * MIB).unwrap(), Lack::Bytes, false);
}

/// A full disk and no ballast: it was taken from it, or there never was any.
#[test]
fn on_a_nearly_full_disk_the_first_start_takes_no_ballast_and_says_so() {
    let stage = Stage::new(programs!());
    let site = Site::new(ext4());
    let mut filler = File::create(site.fs.path().join("elsewhere/filler")).unwrap();
    while site.room().0 > 17 * MIB {
        filler.write_all(&vec![1; MIB as usize / 2]).unwrap();
        filler.sync_all().unwrap();
    }
    let config = site.config().replace("mode: auto", "mode: plan");
    let mut post = stage.post("node-a", &site.state(), None, &config);
    post.start();
    until("it to say that it takes none", PATIENCE, || {
        fs::symlink_metadata(site.state().join("journal/urgent/lock")).ok()?;
        post.said().contains("the agent is up").then_some(())
    });
    post.stop();
    assert!(!site.state().join("ballast").exists(), "{:?}", site.room());
}
