//! Layouts: log folders of every kind, from a seed, and what `find` says may go from one.
//!
//! A layout has rotated logs, old and fresh, of families that rotate in different ways; live logs; rotated logs that a
//! process holds open; hard links within and out; symbolic links, FIFOs and sockets with rotated names; odd names; and
//! folders that are named like rotated logs. What is fresh is kept fresh by a thread that touches it, so that a
//! scenario may take its time.
//!
//! [`may_go`] derives from the documented policy, by find(1), /proc and nothing of dogwatch's, which objects a cleanup
//! may remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

use crate::chance::Chance;

/// How often fresh logs are touched.
const TOUCH_EVERY: Duration = Duration::from_millis(250);

/// A log folder and what keeps it as it is.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    holders: Vec<Child>,
    sockets: Vec<UnixListener>,
    fresh: Vec<PathBuf>,
    toucher: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Layout {
    /// Fills `root` with old logs of about `bytes` together. `elsewhere` is a folder of the same filesystem outside of
    /// the root, for links that lead there.
    ///
    /// # Panics
    /// When something cannot be made.
    pub fn make(root: &Path, elsewhere: &Path, bytes: u64, chance: &mut Chance) -> Self {
        for dir in [root, elsewhere] {
            std::fs::create_dir_all(dir).expect("a folder can be made");
        }
        let mut layout = Self {
            root: root.to_owned(),
            holders: Vec::new(),
            sockets: Vec::new(),
            fresh: Vec::new(),
            toucher: None,
        };
        let mut left = bytes;
        let names = NAMES.len() as u64;
        let first = chance.between(0, names - 1);
        for i in 0..names {
            let name = NAMES[((first + i) % names) as usize];
            left = left.saturating_sub(layout.family(name, left, chance));
        }
        layout.oddities(elsewhere, chance);
        layout
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// From now on what is to be fresh is made, and kept fresh. Everything else should be old enough by then.
    pub fn freshen(&mut self, chance: &mut Chance) {
        for (i, name) in ["fresh.log.1", "fresh.log.2.gz", "-fresh.log-20240612"].iter().enumerate() {
            let path = self.root.join(name);
            std::fs::write(&path, chance.bytes(150_000 + 1000 * i)).expect("a file can be written");
            self.fresh.push(path);
        }
        let path = self.root.join("live.log");
        std::fs::write(&path, chance.bytes(70_000)).expect("a file can be written");
        self.fresh.push(path);
        touch(&self.fresh);
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, fresh) = (stop.clone(), self.fresh.clone());
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                touch(&fresh);
                std::thread::sleep(TOUCH_EVERY);
            }
        });
        self.toucher = Some((stop, thread));
    }

    /// One log and its rotated kin; says how many bytes they have.
    fn family(&mut self, name: &[u8], left: u64, chance: &mut Chance) -> u64 {
        let folder = self.root.join(FOLDERS[chance.between(0, FOLDERS.len() as u64 - 1) as usize]);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        if chance.happens(75) {
            self.file(&folder, name, 20_000, 0, chance);
        }
        let style = chance.between(0, 3);
        let mut made = 0;
        for i in 1..=chance.between(2, 6) {
            let size = chance.between(150_000, 900_000);
            if made + size > left {
                break;
            }
            let marked = |i: u64| match style {
                0 => format!(".{i}"),
                1 if i > 1 => format!(".{i}.gz"),
                1 => ".1".to_owned(),
                2 => format!("-202406{:02}", 10 + i),
                _ if i == 1 => ".old".to_owned(),
                _ => format!(".2024-06-{:02}", 10 + i),
            };
            let mark = marked(i);
            let path = self.file(&folder, &[name, mark.as_bytes()].concat(), size, i, chance);
            made += size;
            if chance.happens(12) {
                self.hold(&path);
            }
            if chance.happens(12) {
                // A second name within, of the same rotation: both may go together.
                let twin = [name, marked(i + 10).as_bytes()].concat();
                std::fs::hard_link(&path, folder.join(OsStr::from_bytes(&twin))).expect("a link can be made");
            }
        }
        made
    }

    fn file(&self, folder: &Path, name: &[u8], size: u64, age: u64, chance: &mut Chance) -> PathBuf {
        let path = folder.join(OsStr::from_bytes(name));
        std::fs::write(&path, chance.bytes(size as usize)).expect("a file can be written");
        // Rotations are hours apart; nothing but the change time says that all this was made just now.
        let seconds = now_seconds() - 86_400 - 3600 * age as i64 - chance.between(0, 600) as i64;
        set_modified(&path, seconds);
        path
    }

    fn hold(&mut self, path: &Path) {
        let file = File::open(path).expect("a file of the layout can be opened");
        let holder = Command::new("sleep").arg("1000").stdin(file).stdout(Stdio::null()).spawn();
        self.holders.push(holder.expect("sleep(1) is there"));
    }

    fn oddities(&mut self, elsewhere: &Path, chance: &mut Chance) {
        let root = self.root.clone();
        let real = self.file(&root, b"real.log.3", 100_000, 3, chance);
        self.file(&root, b"real.log.4", 100_000, 4, chance);
        // Links to the outside, and from it: removing the inner name would free nothing.
        let outside = self.file(elsewhere, b"kept.log.1", 300_000, 5, chance);
        std::fs::hard_link(&outside, root.join("outside.log.5")).expect("a link can be made");
        let named = self.file(&root, b"twice.log.2", 120_000, 2, chance);
        std::fs::hard_link(named, root.join("not-a-rotated-name")).expect("a link can be made");
        // Symbolic links: within, out, nowhere.
        for (link, target) in [
            ("within.log.1", real.as_path()),
            ("out.log.1", outside.as_path()),
            ("nowhere.log.1", Path::new("/nonexistent")),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).expect("a link can be made");
        }
        std::os::unix::fs::symlink(elsewhere, root.join("folder.log.1")).expect("a link can be made");
        let fifo = root.join("fifo.log.1");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO can be made");
        // A socket's path has 108 bytes at most.
        if let Ok(socket) = UnixListener::bind(root.join("socket.log.1")) {
            self.sockets.push(socket);
        }
        for (name, size) in [
            (&b"db.log.1.tmp"[..], 90_000),
            (b"db.log.2.lock", 90_000),
            (b"tool-1.2", 90_000),
            (b"dump-20240612", 90_000),
            (b"java.log.0", 90_000),
            (b"empty.log.1", 0),
            (b"empty.log.2", 0),
        ] {
            self.file(&root, name, size, 6, chance);
        }
        std::fs::create_dir_all(root.join("empty-folder.log.1")).expect("a folder can be made");
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.toucher.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

const NAMES: &[&[u8]] = &[
    b"app.log",
    b"syslog",
    b"messages",
    b"nginx-access.log",
    b"-rf.log",
    b"new\nline.log",
    b"\xff\xfe\x80.log",
    b"two words.log",
    "g\u{202e}nirts.log".as_bytes(),
    b"worker-2.log",
];

const FOLDERS: &[&str] = &[".", ".", "pods/ns_pod_1/c", "folder.log.9", "deep/er/still", "-x/messages.old"];

fn touch(paths: &[PathBuf]) {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    for path in paths {
        // One that a failing test is about to take away is no matter.
        let _ =
            utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
    }
}

fn set_modified(path: &Path, seconds: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access: at, last_modification: at }, AtFlags::empty())
        .expect("a file's time can be set");
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

/// An object that find(1) named.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its path.
    pub path: PathBuf,
    /// Its inode.
    pub inode: u64,
    /// Names of the inode anywhere.
    pub links: u64,
    /// What it takes on disk.
    pub allocated_bytes: u64,
    /// When it was written last, ns.
    pub modified_ns: i64,
}

/// What may go from `root` under the documented defaults, with this age and so many newest of each log kept; by path.
///
/// # Panics
/// When find(1) fails.
pub fn may_go(root: &Path, min_age: Duration, keep_newest: usize) -> BTreeMap<PathBuf, Found> {
    let candidates = find(root, None);
    let old = find(root, Some(min_age));
    let newest = newest(&candidates, keep_newest);
    let open = open_inodes(root);
    let mut eligible: BTreeMap<PathBuf, Found> = old
        .into_iter()
        .filter(|f| !newest.contains(&f.path) && !open.contains(&f.inode))
        .map(|f| (f.path.clone(), f))
        .collect();
    let mut names: HashMap<u64, u64> = HashMap::new();
    eligible.values().for_each(|f| *names.entry(f.inode).or_default() += 1);
    eligible.retain(|_, f| names.get(&f.inode) == Some(&f.links));
    eligible
}

/// The shell's words for "the log that it came from lies beside it".
const LIVE_BESIDE: &str = r#"
    dir=${1%/*}; live=${1##*/}
    case $live in *.gz) live=${live%.gz};; *.bz2) live=${live%.bz2};; *.xz) live=${live%.xz};; *.zst) live=${live%.zst};; esac
    case $live in
        *.old) live=${live%.old};;
        *) while case $live in *[0-9]) true;; *) false;; esac; do live=${live%?}; done; live=${live%[.-]};;
    esac
    test -n "$live" && test -f "$dir/$live" && ! test -L "$dir/$live"
"#;

fn find(root: &Path, min_age: Option<Duration>) -> Vec<Found> {
    let mut command = Command::new("find");
    command.env("LC_ALL", "C").arg(root).args(["-xdev", "-name", ".dogwatch-quarantine", "-prune", "-o"]);
    command.args(["-type", "f"]);
    if let Some(age) = min_age {
        let until = now_seconds() - i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let until = format!("@{until}");
        command.args(["!", "-newermt", &until, "!", "-newerct", &until]);
    }
    for never in ["*.lck", "*.lock", "*.pid", "*.tmp", "*.part", "*.swp", "*.journal", "*.wal"] {
        command.args(["!", "-name", never]);
    }
    let any = |command: &mut Command, names: &[String]| {
        for (i, name) in names.iter().enumerate() {
            command.args(if i == 0 { vec!["-name"] } else { vec!["-o", "-name"] }).arg(name);
        }
    };
    let packed = ["gz", "bz2", "xz", "zst"];
    let mut face: Vec<String> = ["*.log.[1-9]*", "*.log-[1-9]*", "*.log.old"].map(str::to_owned).into();
    face.extend(packed.map(|end| format!("*.log.{end}")));
    let day = "-[12][0-9][0-9][0-9][01][0-9][0-3][0-9]";
    let mut beside = vec!["*.old".to_owned()];
    for mark in [".[1-9]", ".[1-9][0-9]", day] {
        beside.push(format!("*{mark}"));
        beside.extend(packed.map(|end| format!("*{mark}.{end}")));
    }
    command.args(["(", "("]);
    any(&mut command, &face);
    command.args([")", "-o", "("]);
    any(&mut command, &beside);
    command.args([")", "-exec", "sh", "-c", LIVE_BESIDE, "sh", "{}", ";", ")"]);
    command.args(["-printf", "%T@ %i %n %b %p\\0"]);
    let out = command.output().expect("find(1) is there");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout.split(|b| *b == 0).filter(|row| !row.is_empty()).map(row).collect()
}

fn row(row: &[u8]) -> Found {
    let mut parts = row.splitn(5, |b| *b == b' ');
    let mut text = || String::from_utf8_lossy(parts.next().expect("five columns")).into_owned();
    let modified_ns = nanoseconds(&text());
    let mut number = || text().parse::<u64>().expect("a number");
    let (inode, links, blocks) = (number(), number(), number());
    let path = PathBuf::from(OsString::from_vec(parts.next().expect("a path").to_vec()));
    Found { path, inode, links, allocated_bytes: blocks * 512, modified_ns }
}

/// `1718183472.1234567890` as find prints it.
fn nanoseconds(text: &str) -> i64 {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    seconds.parse::<i64>().expect("seconds") * 1_000_000_000 + fraction.parse::<i64>().expect("a fraction")
}

/// The newest of each log in each folder; of equals, the one that was rotated the fewest times, then the name that sorts last.
fn newest(candidates: &[Found], keep: usize) -> BTreeSet<PathBuf> {
    let mut families: BTreeMap<(PathBuf, Vec<u8>), Vec<&Found>> = BTreeMap::new();
    for found in candidates {
        let folder = found.path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = found.path.file_name().unwrap_or_default().as_bytes();
        families.entry((folder, log_of(name))).or_default().push(found);
    }
    let mut kept = BTreeSet::new();
    for mut family in families.into_values() {
        family.sort_by(|a, b| {
            let times = rotations(&a.path).cmp(&rotations(&b.path));
            b.modified_ns.cmp(&a.modified_ns).then(times).then_with(|| b.path.cmp(&a.path))
        });
        kept.extend(family.into_iter().take(keep).map(|f| f.path.clone()));
    }
    kept
}

/// `12` of `app.log.12.gz`.
fn rotations(path: &Path) -> u32 {
    let name = path.to_string_lossy();
    let bare = [".gz", ".bz2", ".xz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let number = bare.rsplit_once('.').map_or("", |(_, number)| number);
    if number.len() <= 3 { number.parse().unwrap_or(0) } else { 0 }
}

/// The log that a name came from, for the ways in which the layouts rotate.
fn log_of(name: &[u8]) -> Vec<u8> {
    let mut name = name.strip_suffix(b".gz").unwrap_or(name);
    name = name.strip_suffix(b".old").unwrap_or(name);
    let dated =
        (1..name.len()).find(|i| name[*i..].starts_with(b"2024") && matches!(name[i - 1], b'.' | b'-'));
    if let Some(at) = dated {
        return name[..at - 1].to_vec();
    }
    let mark = name.iter().rev().take_while(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-')).count();
    name[..name.len() - mark].to_vec()
}

/// Inodes of `root`'s filesystem that a process has open.
fn open_inodes(root: &Path) -> BTreeSet<u64> {
    let device = root.metadata().expect("the root is there").dev();
    let mut open = BTreeSet::new();
    for process in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if let Ok(meta) = descriptor.path().metadata()
                && meta.dev() == device
            {
                open.insert(meta.ino());
            }
        }
    }
    open
}

/// What an unprivileged process could still write to the filesystem of `path`, in bytes, and its size.
///
/// # Panics
/// When it cannot be asked.
pub fn room(path: &Path) -> (u64, u64) {
    let stat = rustix::fs::statvfs(path).expect("a filesystem can be asked");
    (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)
}

/// Takes room away with one file, until `available` bytes are left, to within a few blocks.
///
/// # Panics
/// When there is less to begin with.
pub fn fill_to(filler: &Path, available: u64) {
    let file = File::options().create(true).append(true).open(filler).expect("the filler can be made");
    for _ in 0..3 {
        let now = room(filler).0;
        let surplus = now.saturating_sub(available) & !4095;
        if surplus == 0 {
            return;
        }
        let at = file.metadata().expect("the filler is there").len();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, surplus)
            .expect("room can be taken");
        file.sync_all().expect("the filler can be synced");
    }
}
