//! Seeded layouts: what may go by `find` is what may go by the plan, and what went is what `statvfs` says.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dogwatch::record::{ActionState, Hash, ObjectOutcome};
use dogwatch_agent::act::plan::Survey;

use super::common::{LoopFs, mount_tmpfs, run};
use super::{DEADLINE, device, make_plan, now_ns, paths, policy, snapshot, spawn};

/// A small generator, so that a seed names a layout.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A seeded root of logs, with what an attacker or an accident could leave there.
struct Layout {
    root: PathBuf,
    open: Vec<(PathBuf, File)>,
    _socket: UnixListener,
}

impl Layout {
    fn new(base: &Path, seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (root, outside) = (base.join("logs"), base.join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&root).unwrap();
        let mut folders = vec![root.clone()];
        for (i, name) in ["a", "b b", "-c", "dir.log.1"].iter().enumerate() {
            let parent = folders[dice.roll(folders.len() as u64) as usize].clone();
            let folder = parent.join(OsStr::from_bytes(name.as_bytes()));
            fs::create_dir(&folder).unwrap();
            fs::write(outside.join(format!("{i}.log.1")), vec![i as u8; 5_000]).unwrap();
            folders.push(folder);
        }
        let mut layout = Vec::new();
        let mut put = |path: PathBuf, dice: &mut Dice| {
            let size = match dice.roll(5) {
                0 => 0,
                1 => dice.roll(5_000),
                _ => dice.roll(200_000),
            };
            let mut content = vec![0; size as usize];
            content.iter_mut().for_each(|b| *b = dice.roll(256) as u8);
            fs::write(&path, content).unwrap();
            layout.push(path);
        };
        let long = format!("{}.log.2", "n".repeat(180));
        for folder in &folders {
            for name in
                ["app.log", "syslog", "data.bin", "keep.log.1", "half.log.1.tmp", "notes.txt", "java.log.0"]
            {
                put(folder.join(name), &mut dice);
            }
            for n in 1..=1 + dice.roll(4) {
                put(folder.join(format!("app.log.{n}")), &mut dice);
                put(folder.join(format!("syslog.{n}.gz")), &mut dice);
                put(folder.join(format!("orphan.{n}")), &mut dice);
                put(folder.join(format!("0.log.2024010{n}-101112")), &mut dice);
            }
            for name in
                [&b"new\nline.log.1"[..], b"-dash.log.1", b"\xff\xfe.log.1", b" .log.1", long.as_bytes()]
            {
                if dice.roll(2) == 0 {
                    put(folder.join(OsStr::from_bytes(name)), &mut dice);
                }
            }
        }
        let pick = |dice: &mut Dice| folders[dice.roll(folders.len() as u64) as usize].clone();
        symlink(outside.join("0.log.1"), pick(&mut dice).join("out.log.1")).unwrap();
        symlink("app.log.1", pick(&mut dice).join("in.log.1")).unwrap();
        symlink(&outside, pick(&mut dice).join("linkdir")).unwrap();
        symlink("nowhere", pick(&mut dice).join("dangling.log.1")).unwrap();
        fs::hard_link(pick(&mut dice).join("app.log.1"), pick(&mut dice).join("twin.log.1")).unwrap();
        fs::hard_link(outside.join("1.log.1"), pick(&mut dice).join("foreign.log.1")).unwrap();
        fs::hard_link(pick(&mut dice).join("app.log"), pick(&mut dice).join("livelink.log.1")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe.log.1"), rustix::fs::Mode::RWXU).unwrap();
        // The path of a socket is short: make it next to the temp folder's own descriptor.
        let near = File::open(&root).unwrap();
        let short = format!("/proc/thread-self/fd/{}/sock.log.1", std::os::fd::AsRawFd::as_raw_fd(&near));
        let socket = UnixListener::bind(short).unwrap();
        let nested = root.join("mounted");
        fs::create_dir(&nested).unwrap();
        mount_tmpfs(&nested);
        fs::write(nested.join("app.log.1"), "on another filesystem").unwrap();
        // Some are fresh: their time lies ahead of every clock in this test.
        let ahead = SystemTime::now() + Duration::from_secs(7_200);
        let mut open = Vec::new();
        for path in &layout {
            match dice.roll(6) {
                0 => File::options().write(true).open(path).unwrap().set_modified(ahead).unwrap(),
                1 => open.push((path.clone(), File::open(path).unwrap())),
                _ => {
                    let long_ago = SystemTime::now() - Duration::from_secs(86_400 * (1 + dice.roll(90)));
                    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
                }
            }
        }
        run("sync", &["-f", base.to_str().unwrap()]);
        Self { root, open, _socket: socket }
    }

    /// What `find` says may go: rotated by name, old, no foreign link, not open, on this filesystem.
    fn may_go(&self) -> BTreeSet<PathBuf> {
        let sibling = |strip: &str| {
            vec!["-exec", "sh", "-c", strip, "sh", "{}", ";"]
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let beside = sibling(r#"n=${1%.gz}; n=${n%.[0-9]*}; test -f "$n" && ! test -L "$n""#);
        let mut args: Vec<String> = vec![self.root.to_str().unwrap().to_owned()];
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        args.extend(words("-xdev -name .dogwatch-quarantine -prune -o -type f"));
        args.extend(words("! -newermt now ! -newerct now ! -name keep* ! -name *.tmp"));
        args.extend(words("( -name *.log.[1-9]* -o -name *.log-[1-9]* -o -name *.log.gz -o -name *.log.old"));
        args.extend(words("-o ( -name *.[1-9] -o -name *.[1-9].gz )"));
        args.extend(beside);
        args.extend(words(") -printf %i:%n:%p\\0"));
        let output = run("find", &args).stdout;
        let open: BTreeSet<u64> = self.open.iter().map(|(_, f)| f.metadata().unwrap().ino()).collect();
        let mut inodes: BTreeMap<u64, (usize, Vec<PathBuf>)> = BTreeMap::new();
        for entry in output.split(|b| *b == 0).filter(|e| !e.is_empty()) {
            let mut parts = entry.splitn(3, |b| *b == b':');
            let mut number = || std::str::from_utf8(parts.next().unwrap()).unwrap().parse::<u64>().unwrap();
            let (inode, links) = (number(), number());
            let path = PathBuf::from(OsString::from_vec(parts.next().unwrap().to_vec()));
            inodes.entry(inode).or_insert((links as usize, Vec::new())).1.push(path);
        }
        inodes
            .into_iter()
            .filter(|(inode, (links, paths))| *links == paths.len() && !open.contains(inode))
            .flat_map(|(_, (_, paths))| paths)
            .collect()
    }
}

/// A machine whose wall clock was just set back holds files of the future, and those rightly stay.
pub(super) fn wait_for_the_clock(survey: &Survey) {
    let newest = survey.candidates.iter().map(|c| c.object.ctime_ns).max();
    while newest.is_some_and(|t| now_ns() <= t) {
        std::thread::yield_now();
    }
}

/// What the free space of a filesystem says of what went.
#[derive(Clone, Copy, PartialEq)]
enum Books {
    /// It grew by as much, to the byte.
    Exact,
    /// The filesystem has uses of its own, or frees in the background: a difference has a reason.
    Loose,
}

fn layout_holds(fs: &LoopFs, seed: u64, books: Books) -> (usize, usize, u64) {
    let base = fs.path().join(format!("seed{seed}"));
    fs::create_dir(&base).unwrap();
    let layout = Layout::new(&base, seed);
    let policy = policy(&layout.root);
    let mut executor = spawn(policy.clone());
    let survey = executor.survey(device(&layout.root), DEADLINE).unwrap();
    assert_eq!(survey.partial, None);
    wait_for_the_clock(&survey);
    let all = make_plan(&survey, &policy, &layout.root, 1 << 40, 1 << 30);
    let may_go = layout.may_go();
    assert_eq!(paths(&all), may_go, "seed {seed}: {:#?}", all.refused);
    for odd in ["pipe.log.1", "sock.log.1", "out.log.1", "dangling.log.1", "dir.log.1", "mounted"] {
        let told = survey.passed_over.iter().any(|r| r.path.as_ref().is_some_and(|p| p.ends_with(odd)));
        assert!(told, "seed {seed}: {odd} is passed over with a reason: {:#?}", survey.passed_over);
    }

    // A part of it: sufficient, and nothing superfluous.
    let mut dice = Dice(seed + 1);
    let want = 1 + dice.roll(all.planned_bytes);
    let part = make_plan(&survey, &policy, &layout.root, want, 0);
    assert!(part.planned_bytes >= want && paths(&part).is_subset(&may_go));
    for object in part.objects.iter().filter(|o| o.links == 1) {
        assert!(
            part.planned_bytes - object.allocated_bytes < want,
            "seed {seed}: {:?} is superfluous",
            object.path
        );
    }

    let action = if seed.is_multiple_of(2) { part } else { all };
    let before = snapshot(&base);
    let gone = paths(&action);
    let applied = executor.apply(&action, DEADLINE).unwrap();
    let after = snapshot(&base);
    assert_eq!(applied.state, ActionState::Done);
    for object in &applied.objects {
        assert_eq!(object.outcome, ObjectOutcome::Removed, "seed {seed}: {:#?}", applied.refused);
        let digest: [u8; 32] = before[&object.path].2.as_slice().try_into().unwrap();
        assert_eq!(object.sha256, Some(Hash(digest)), "seed {seed}");
    }
    let mut expected = before;
    expected.retain(|path, _| !gone.contains(path));
    assert_eq!(after, expected, "seed {seed}: everything else is as it was");
    let (available_before, available_after) =
        (applied.available_before_bytes.unwrap(), applied.available_after_bytes.unwrap());
    assert_eq!(applied.freed_bytes, Some(action.planned_bytes), "seed {seed}");
    let unexplained = applied.unexplained.unwrap();
    let came = i128::from(available_after) - i128::from(available_before);
    let missing = i128::from(action.planned_bytes) - came;
    if books == Books::Exact {
        assert_eq!((missing, unexplained.reason.as_str()), (0, ""), "seed {seed}: to the byte");
    }
    assert_eq!(i128::from(unexplained.bytes), -missing, "seed {seed}");
    assert!(missing == 0 || !unexplained.reason.is_empty(), "seed {seed}: {unexplained:?}");
    (may_go.len(), gone.len(), applied.freed_bytes.unwrap())
}

#[test]
fn seeded_layouts_agree_with_find_and_with_statvfs_on_ext4() {
    let fs = LoopFs::ext4(128);
    let (mut may, mut went, mut freed) = (0, 0, 0);
    for seed in 0..20 {
        let (m, w, f) = layout_holds(&fs, seed, Books::Exact);
        (may, went, freed) = (may + m, went + w, freed + f);
    }
    println!(
        "20 layouts on ext4: {may} objects may go by find and by plan, {went} went, {freed} bytes freed"
    );
    assert!(went > 200);
}

#[test]
fn seeded_layouts_agree_with_find_and_with_statvfs_on_tmpfs() {
    let fs = LoopFs::tmpfs(96);
    let (mut may, mut went) = (0, 0);
    for seed in 100..108 {
        let (m, w, _) = layout_holds(&fs, seed, Books::Exact);
        (may, went) = (may + m, went + w);
    }
    println!("8 layouts on tmpfs: {may} objects may go by find and by plan, {went} went");
}

#[test]
fn seeded_layouts_agree_with_find_on_btrfs() {
    let fs = LoopFs::btrfs(256);
    assert_ne!(device(fs.path()), fs::metadata(fs.path()).unwrap().dev(), "this is about two numbers");
    let went: usize = (200..208).map(|seed| layout_holds(&fs, seed, Books::Loose).1).sum();
    assert!(went > 50, "{went}");
}

#[test]
fn seeded_layouts_agree_with_find_on_xfs() {
    let fs = LoopFs::xfs();
    let went: usize = (300..308).map(|seed| layout_holds(&fs, seed, Books::Loose).1).sum();
    assert!(went > 50, "{went}");
}
