//! The drill: disks fill, and the cleanup takes what it may, no more, and says so to the byte.
//!
//! Seeded layouts of log folders lie on ext4 filesystems of their own; find(1) says independently what may go.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use dogwatch_e2e::canary::{self, Flock};
use dogwatch_e2e::chance::Chance;
use dogwatch_e2e::layout::{Found, Layout, fill_to, may_go, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Post, Stage, yaml};
use dogwatch_e2e::wait::{quick, until};
use serde_json::Value;

const MIN_AGE: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// How much must go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Need {
    /// More than can.
    Everything,
    /// About this many per cent of what can.
    Share(u64),
}

struct Site {
    seed: u64,
    // Before the filesystem that it keeps busy.
    layout: Layout,
    fs: LoopFs,
    keep_newest: usize,
    need: Need,
    may_go: BTreeMap<PathBuf, Found>,
    before: Flock,
}

impl Site {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let fs = LoopFs::create(64 << 20, "ext4", &["-m", if seed.is_multiple_of(2) { "0" } else { "3" }])
            .unwrap();
        let layout =
            Layout::make(&fs.path().join("log"), &fs.path().join("elsewhere"), 11 * MIB, &mut chance);
        let need = if chance.happens(35) { Need::Everything } else { Need::Share(chance.between(45, 90)) };
        let keep_newest = chance.between(0, 2) as usize;
        Self { seed, fs, layout, keep_newest, need, may_go: BTreeMap::new(), before: Flock::new() }
    }

    fn mount(&self) -> String {
        self.fs.path().display().to_string()
    }

    /// Makes what is fresh, asks find, fills the disk, and remembers everything.
    fn fill(&mut self) {
        self.layout.freshen(&mut Chance::new(self.seed ^ 0xf5e5));
        self.may_go = may_go(self.layout.root(), MIN_AGE, self.keep_newest);
        rustix::fs::syncfs(std::fs::File::open(self.fs.path()).unwrap()).unwrap();
        let (_, total) = room(self.fs.path());
        let goal = total / 5;
        let can = self.can_free();
        let wanted = match self.need {
            Need::Everything => can + MIB,
            Need::Share(percent) => can * percent / 100,
        };
        // Above the high mark in any case.
        let available = goal.saturating_sub(wanted).min(total * 14 / 100).max(256 * 1024);
        fill_to(&self.fs.path().join("elsewhere/filler"), available);
        self.before = canary::remember(self.fs.path());
    }

    fn can_free(&self) -> u64 {
        let by_inode: BTreeMap<u64, u64> =
            self.may_go.values().map(|f| (f.inode, f.allocated_bytes)).collect();
        by_inode.values().sum()
    }
}

fn make_sites(seeds: std::ops::Range<u64>) -> Vec<Site> {
    let sites: Vec<Site> = seeds.map(Site::new).collect();
    let made = SystemTime::now();
    until("the logs to be old", PATIENCE, || {
        (made.elapsed().unwrap_or_default() > MIN_AGE + Duration::from_secs(1)).then_some(())
    });
    sites
}

fn config(mode: &str, sites: &[Site]) -> String {
    let mut text = format!(
        "sample: {{ every: 250ms, evidence_every: 1s, processes: false }}\ntail: {{ enabled: false }}\n\
         detect: {{ disk: {{ clear_ticks: 2 }} }}\ncleanup:\n  mode: {mode}\n  roots:\n"
    );
    for site in sites {
        writeln!(
            text,
            "    - {{ path: {}, min_age: {}s, keep_newest: {} }}",
            yaml(site.layout.root()),
            MIN_AGE.as_secs(),
            site.keep_newest
        )
        .unwrap();
    }
    text
}

fn newest_action(person: &Person, mount: &str, states: &[&str]) -> Option<Value> {
    let rows = person.rows(&["get", "actions"]);
    rows.into_iter().rev().find(|a| a["mount"] == mount && states.iter().any(|s| a["state"] == *s))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn object_path(object: &Value) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    match object["path_hex"].as_str() {
        Some(h) => std::ffi::OsString::from_vec(hex(h)).into(),
        None => object["path"].as_str().unwrap().into(),
    }
}

fn objects(action: &Value) -> BTreeMap<PathBuf, Value> {
    action["objects"].as_array().unwrap().iter().map(|o| (object_path(o), o.clone())).collect()
}

/// Inodes with what they take and all their names, in the order in which they may go: the oldest content first.
fn units(may_go: &BTreeMap<PathBuf, Found>) -> Vec<(u64, u64, Vec<PathBuf>)> {
    let mut by_inode: BTreeMap<u64, Vec<&Found>> = BTreeMap::new();
    may_go.values().for_each(|f| by_inode.entry(f.inode).or_default().push(f));
    let mut units: Vec<Vec<&Found>> = by_inode.into_values().collect();
    units.sort_by(|a, b| (a[0].modified_ns, &a[0].path).cmp(&(b[0].modified_ns, &b[0].path)));
    units
        .into_iter()
        .map(|u| (u[0].inode, u[0].allocated_bytes, u.iter().map(|f| f.path.clone()).collect()))
        .collect()
}

/// Holds the objects of an action for `need` bytes against what find said.
fn judge(site: &Site, chosen: &BTreeMap<PathBuf, Value>, need: u64) {
    let seed = site.seed;
    let foreign: Vec<_> = chosen.keys().filter(|p| !site.may_go.contains_key(*p)).collect();
    assert!(foreign.is_empty(), "seed {seed}: find says that these may not go: {foreign:?}");
    for (path, object) in chosen {
        assert_eq!(object["inode"], site.may_go[path].inode, "seed {seed}: {path:?}");
        // What went with it: of an inode with several names, in an outcome, all of it with the last one.
        let inode = site.may_go[path].inode;
        let names = chosen.iter().filter(|(path, _)| site.may_go[*path].inode == inode);
        let told: Vec<u64> = names.filter_map(|(_, o)| o["allocated_bytes"].as_u64()).collect();
        let bytes = site.may_go[path].allocated_bytes;
        let once = told.iter().filter(|b| **b == bytes).count() == 1 && told.iter().sum::<u64>() == bytes;
        assert!(once || told.iter().all(|b| *b == bytes), "seed {seed}: {path:?}: {told:?} of {bytes}");
    }
    let units = units(&site.may_go);
    let can: u64 = units.iter().map(|(_, bytes, _)| bytes).sum();
    if need > can {
        // An inode that holds no byte helps nobody.
        let left: Vec<_> = site
            .may_go
            .values()
            .filter(|f| f.allocated_bytes > 0 && !chosen.contains_key(&f.path))
            .map(|f| &f.path)
            .collect();
        assert!(left.is_empty(), "seed {seed}: all of it is needed ({need} of {can}); left were {left:?}");
        return;
    }
    let in_plan = |names: &[PathBuf]| names.iter().filter(|n| chosen.contains_key(*n)).count();
    let (mut sum, mut reach, mut past) = (0, 0, false);
    let mut sizes = Vec::new();
    for (inode, bytes, names) in &units {
        let count = in_plan(names);
        assert!(count == 0 || count == names.len(), "seed {seed}: inode {inode} goes by halves: {names:?}");
        if count > 0 {
            assert!(!past, "seed {seed}: {names:?} is younger than a set that sufficed");
            sum += bytes;
            sizes.push(*bytes);
        }
        reach += bytes;
        past |= reach >= need;
    }
    assert!(sum >= need, "seed {seed}: {sum} bytes do not suffice for {need}, and {can} could go");
    for size in sizes {
        assert!(
            sum - size < need,
            "seed {seed}: the plan of {sum} for {need} could do without one of {size}"
        );
    }
}

fn number(action: &Value, field: &str) -> u64 {
    action[field].as_u64().unwrap_or_else(|| panic!("{field} in {action:#}"))
}

#[test]
fn a_plan_lists_what_find_says_and_touches_nothing() {
    let stage = Stage::new(programs!());
    let mut sites = make_sites(if quick() { 100..106 } else { 100..124 });
    sites.iter_mut().for_each(Site::fill);
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, None, &config("plan", &sites));
    post.start();
    let person = stage.on_journal(&state);
    let (mut everything, mut subsets, mut planned) = (0, 0, 0);
    for site in &sites {
        let action =
            until("a plan", PATIENCE, || newest_action(&person, &site.mount(), &["planned", "refused"]));
        assert_eq!(action["state"], "planned", "seed {}: {action:#}", site.seed);
        assert_eq!(action["mode"], "plan");
        let need = number(&action, "target_available_bytes") - room(site.fs.path()).0;
        let chosen = objects(&action);
        judge(site, &chosen, need);
        planned += chosen.len();
        if need > site.can_free() { everything += 1 } else { subsets += 1 }
    }
    post.stop();
    for site in &sites {
        let after = canary::remember(site.fs.path());
        let [gone, new, changed] = canary::compare(&site.before, &after);
        assert!(gone.is_empty() && new.is_empty() && changed.is_empty(), "{gone:?} {new:?} {changed:?}");
    }
    eprintln!(
        "{} layouts: all needed in {everything}, a subset in {subsets}; {planned} objects planned",
        sites.len()
    );
    assert!(everything > 0 && subsets > 0, "the seeds tell only one kind of story");
}

#[test]
fn a_cleanup_frees_what_it_says_to_the_byte_and_touches_nothing_else() {
    let stage = Stage::new(programs!());
    let mut sites = make_sites(if quick() { 300..303 } else { 300..308 });
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, None, &config("auto", &sites));
    // Once for the folders that the executor makes for itself, so that later nothing but the cleanup moves a block.
    post.start();
    for site in &sites {
        let made = |name| site.layout.root().join(name).is_dir();
        until("the executor's folders", PATIENCE, || {
            (made(".dogwatch-quarantine") && made(".dogwatch-held")).then_some(())
        });
    }
    post.stop();
    sites.iter_mut().for_each(Site::fill);
    let before: Vec<u64> = sites.iter().map(|s| room(s.fs.path()).0).collect();
    post.start();
    let person = stage.on_journal(&state);
    let mut freed_total = 0;
    for (site, before) in sites.iter().zip(before) {
        let seed = site.seed;
        let action = until("a cleanup", PATIENCE, || {
            newest_action(&person, &site.mount(), &["done", "failed", "refused"])
        });
        assert_eq!(action["state"], "done", "seed {seed}: {action:#}");
        let after = room(site.fs.path()).0;
        let freed = number(&action, "freed_bytes");
        assert_eq!(number(&action, "available_before_bytes"), before, "seed {seed}");
        assert_eq!(number(&action, "available_after_bytes"), after, "seed {seed}");
        assert_eq!(after - before, freed, "seed {seed}: {action:#}");
        assert_eq!(action["unexplained_bytes"], 0, "seed {seed}: {action:#}");
        let goal = number(&action, "target_available_bytes");
        let chosen = objects(&action);
        judge(site, &chosen, goal - before);
        if goal - before <= site.can_free() {
            assert!(after >= goal, "seed {seed}: {after} available, {goal} wanted");
        }
        let [gone, new, changed] = canary::compare(&site.before, &canary::remember(site.fs.path()));
        let removed: Vec<PathBuf> =
            chosen.iter().filter(|(_, o)| o["outcome"] == "removed").map(|(p, _)| p.clone()).collect();
        assert_eq!(gone, removed, "seed {seed}: gone, and said to be removed");
        assert_eq!(removed.len(), chosen.len(), "seed {seed}: nothing stood in the way: {action:#}");
        assert!(new.is_empty() && changed.is_empty(), "seed {seed}: {new:?} {changed:?}");
        for (path, object) in &chosen {
            let sha: String = site.before[path].content.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(object["sha256"], sha, "seed {seed}: {path:?}");
        }
        freed_total += freed;
    }
    post.stop();
    eprintln!("{} cleanups freed {freed_total} bytes, each to the byte", sites.len());
}

/// A disk with a few large old logs and a process that appends to a log of it.
struct Busy {
    fs: LoopFs,
    before: Flock,
    log: PathBuf,
}

impl Busy {
    /// Leaves 2 MiB above the high mark, and old logs of which two suffice with some 2 MiB to spare.
    fn new() -> Self {
        let fs = LoopFs::create(128 << 20, "ext4", &["-m", "0"]).unwrap();
        let root = fs.path().join("log");
        std::fs::create_dir(&root).unwrap();
        let (_, total) = room(fs.path());
        let size = (total / 20 + 5 * MIB / 2) / 2;
        let mut chance = Chance::new(7);
        for i in 1..=6 {
            std::fs::write(root.join(format!("old.log.{i}")), chance.bytes(size as usize)).unwrap();
        }
        for name in ["other.txt", "live.log", "passwords"] {
            std::fs::write(root.join(name), chance.bytes(50_000)).unwrap();
        }
        let made = SystemTime::now();
        until("the logs to be old", PATIENCE, || {
            (made.elapsed().unwrap_or_default() > MIN_AGE).then_some(())
        });
        rustix::fs::syncfs(std::fs::File::open(fs.path()).unwrap()).unwrap();
        fill_to(&fs.path().join("filler"), total * 15 / 100 + 2 * MIB);
        let before = canary::remember(fs.path());
        let log = root.join("busy.log");
        Self { fs, before, log }
    }

    fn config(&self) -> String {
        format!(
            "sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ntail: {{ enabled: false }}\n\
             detect: {{ disk: {{ clear_ticks: 2 }} }}\ncleanup:\n  mode: auto\n  roots: [{{ path: {}, min_age: {}s }}]\n",
            yaml(&self.fs.path().join("log")),
            MIN_AGE.as_secs()
        )
    }

    /// A process that appends about 1 MB/s.
    fn writer(&self, stage: &Stage) -> dogwatch_e2e::process::Process {
        let mut command = Command::new("sh");
        let script = "while :; do head -c 100000 /dev/zero; sleep 0.1; done >> \"$0\"";
        command.args(["-c", script]).arg(&self.log).stdin(Stdio::null());
        dogwatch_e2e::process::Process::start("writer", command, &stage.path().join("writer.log"))
    }

    fn mount(&self) -> String {
        self.fs.path().display().to_string()
    }

    /// Nothing is gone but what the action names, nothing is new but the writer's log, nothing changed.
    fn assert_untouched_but(&self, action: &Value) {
        let [gone, new, changed] = canary::compare(&self.before, &canary::remember(self.fs.path()));
        let removed: Vec<PathBuf> = objects(action).into_keys().collect();
        assert_eq!(gone, removed);
        assert_eq!(new, std::slice::from_ref(&self.log));
        assert!(changed.is_empty(), "{changed:?}");
    }
}

#[test]
fn beside_a_running_writer_a_cleanup_brings_the_disk_below_its_low_mark() {
    let stage = Stage::new(programs!());
    let busy = Busy::new();
    let state = stage.path().join("agent");
    let mut post: Post = stage.post("node-a", &state, None, &busy.config());
    post.start();
    let writer = busy.writer(&stage);
    let person = stage.on_journal(&state);
    let action = until("a cleanup", PATIENCE, || newest_action(&person, &busy.mount(), &["done", "failed"]));
    assert_eq!(action["state"], "done", "{action:#}");
    until("the finding to be cleared while the writer writes on", PATIENCE, || {
        let rows = person.rows(&["get", "findings"]);
        let ours =
            |f: &&Value| f["rule"] == "disk-high-water" && f["subject"]["name"] == busy.mount().as_str();
        rows.iter().find(ours).filter(|f| f["state"] == "cleared").map(|_| ())
    });
    drop(writer);
    // It aimed for more: what the writer takes until the next cleanup may begin, as far as there was something to take.
    let after = number(&action, "available_after_bytes");
    let low = room(busy.fs.path()).1 / 5;
    assert!(after >= low, "{after} available, {low} wanted: {action:#}");
    let freed = number(&action, "freed_bytes") as i64;
    let change = after as i64 - number(&action, "available_before_bytes") as i64;
    assert_eq!(change - freed, action["unexplained_bytes"].as_i64().unwrap(), "{action:#}");
    busy.assert_untouched_but(&action);
    post.stop();
}

#[test]
fn a_filling_disk_is_one_incident_whose_timeline_tells_it_in_order() {
    let stage = Stage::new(programs!());
    let busy = Busy::new();
    let mut house =
        stage.house(&stage.path().join("collector"), "incidents: { quiet: 3s, silent_after: 1h }");
    house.start();
    let (ann, eve) = (house.person("ann", "responder"), house.person("eve", "viewer"));
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &busy.config());
    post.start();
    until("the node to be connected", PATIENCE, || {
        let rows = eve.rows(&["get", "nodes"]);
        rows.iter().find(|n| n["name"] == "node-a" && n["state"] == "connected").map(|_| ())
    });
    let writer = busy.writer(&stage);
    let title = busy.mount();
    let ours = |person: &Person| {
        let mut found = person.rows(&["get", "incidents"]);
        found.retain(|i| i["title"].as_str().unwrap_or_default().contains(&title));
        found
    };
    let incident = until("an incident", PATIENCE, || ours(&eve).pop());
    let id = incident["id"].as_str().unwrap().to_owned();
    ann.ask(&["ack", &id, "-m", "on it"]);
    ann.ask(&["note", &id, "the writer is a test"]);
    let resolved = until("the incident to resolve itself", PATIENCE, || {
        ours(&eve).pop().filter(|i| i["state"] == "resolved")
    });
    drop(writer);
    assert_eq!(ours(&eve).len(), 1, "one story, one incident");
    assert!(resolved["acknowledged_at"].is_string() && resolved["resolved_at"].is_string(), "{resolved:#}");

    let entries = eve.rows(&["timeline", &id]);
    let place = |kind: &str| {
        let at = entries.iter().position(|e| e["kind"] == kind);
        at.unwrap_or_else(|| panic!("no {kind} in {entries:#?}"))
    };
    let order = ["sample", "finding", "plan", "cleanup", "recovered"];
    let places: Vec<usize> = order.iter().map(|k| place(k)).collect();
    assert!(places.is_sorted(), "{places:?} {entries:#?}");
    for (kind, at) in order.iter().zip(places) {
        let cited = entries[at]["evidence"].as_array().unwrap();
        assert!(!cited.is_empty(), "{kind} cites nothing: {:#}", entries[at]);
        assert!(cited.iter().all(|c| c["node"] == "node-a" && c["seq"].as_u64().unwrap() > 0), "{cited:?}");
    }
    let times: Vec<&str> = entries.iter().map(|e| e["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(entries.iter().any(|e| e["kind"] == "note" && e["actor"] == "ann"), "{entries:#?}");

    let described = eve.json(&["describe", "incident", &id]);
    let described = described.as_array().and_then(|a| a.first()).cloned().unwrap_or(described);
    let actions = described["action_details"].as_array().unwrap();
    let done = actions.iter().find(|a| a["state"] == "done").unwrap();
    busy.assert_untouched_but(done);
    assert!(eve.ask(&["describe", "incident", &id]).contains(&id));
    post.stop();
    house.stop();
    let verified = house.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
