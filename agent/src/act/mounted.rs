//! Files that are mounted themselves: the source of a bind mount (a `hostPath` of type `File`, a `subPath` of a file) keeps
//! its inode with all its bytes when its last name goes, and a file on which something is mounted takes that with it.
//!
//! The table of mounts names the very file (proc_pid_mountinfo(5): device and root), also after it was renamed. The
//! executor looks at its own namespace's before each object. A container's mounts are in a namespace of its own, which only
//! the agent can look at: it does so when a survey is done, and of each batch of objects once that is durable, right
//! before they go. A folder that is mounted elsewhere (`/var/log` in a pod) is no reason for what lies in it to stay.
//!
//! Bounds: namespaces, bytes and time of a look, over which every file stays. They are the system's own: whoever has made a
//! user namespace of his own, which anybody can, may have as many namespaces and mounts as he likes. Those are looked at
//! after all others, within a bound of their own, over which nothing stays for that: what is missed there is room that
//! does not come free before such a process ends, and it is told.
//!
//! Limits: what no process shows is not known: a namespace that only a file or a thread keeps, processes of another PID
//! namespace than the agent's (without `hostPID`), a mount that is in no namespace.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::{PlannedObject, Refusal};

use super::holder::process_name;
use super::plan::Survey;
use super::real_path::{CleanupRoots, Mounts};
use crate::sample::mountinfo::{Entry, Table, parse};

/// What a file is told on which something is mounted.
pub(super) const MOUNTED_ON: &str = "something is mounted on it";

/// The bounds of a look at the system's own namespaces. 500 with 92 mounts each took a quarter of a second in a debug build.
const LIMITS: Limits =
    Limits { namespaces: 8_192, bytes: 256 << 20, table_bytes: 16 << 20, time: Duration::from_secs(5) };
/// Those of all others together.
const FOREIGN: Limits =
    Limits { namespaces: 1_024, bytes: 32 << 20, table_bytes: 2 << 20, time: Duration::from_secs(1) };
/// A namespace is known by the first line of its table: its mount has a number of its own on the whole node.
const FIRST_LINE: usize = 4_096;
/// What is read of a process's `uid_map`: a process of the system's own user namespace has as short a one as we have.
const MAX_MAP: usize = 4_096;
/// Most files that a survey names for this; the rest is counted.
const MAX_NAMED: usize = 100;

/// What one look may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    namespaces: usize,
    bytes: usize,
    /// What is read of one table.
    table_bytes: usize,
    /// Spent on reading tables.
    time: Duration,
}

/// What of its bounds a look has left.
#[derive(Debug)]
struct Left(Limits);

impl Left {
    /// Whether another table may be read.
    fn take_one(&mut self) -> bool {
        let may = self.0.namespaces > 0 && self.0.bytes > 0 && !self.0.time.is_zero();
        self.0.namespaces = self.0.namespaces.saturating_sub(1);
        may
    }

    /// Reads what `table` says of those that are sought.
    fn read(&mut self, table: &File, sought: &Sought) -> Vec<(usize, String)> {
        let began = Instant::now();
        let text = read(table, self.0.table_bytes.min(self.0.bytes));
        let found = sought.in_table(&parse(&text));
        self.0.bytes = self.0.bytes.saturating_sub(text.len());
        self.0.time = self.0.time.saturating_sub(began.elapsed());
        found
    }
}

/// A filesystem, by its number in the table.
type Device = (u32, u32);

/// Files by where they lie within their filesystem.
#[derive(Debug, Default)]
struct Sought {
    files: HashMap<Device, HashMap<PathBuf, usize>>,
}

impl Sought {
    /// By the mounts that this process sees. A path of which these do not tell is not looked for.
    fn new<'p>(paths: impl Iterator<Item = (usize, &'p Path)>, table: &Table<'_>) -> Self {
        let mut folders: HashMap<&Path, Option<(Device, PathBuf)>> = HashMap::new();
        let mut sought = Self::default();
        for (nth, path) in paths {
            // By its folder: what is mounted on the file itself is not it.
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let place = folders.entry(folder).or_insert_with(|| {
                let mount = table.mount_of(folder.as_os_str().as_bytes())?;
                Some((device(mount), inside(mount, folder)?))
            });
            if let Some((device, folder)) = place {
                sought.files.entry(*device).or_default().insert(folder.join(name), nth);
            }
        }
        sought
    }

    fn find(&self, device: Device, inside: &Path) -> Option<usize> {
        self.files.get(&device)?.get(inside).copied()
    }

    /// Which of them one table says something of.
    fn in_table(&self, table: &Table<'_>) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut on: HashMap<u32, &Entry<'_>> = HashMap::new();
        for entry in &table.entries {
            if self.files.contains_key(&device(entry)) {
                on.insert(entry.id, entry);
                if let Some(nth) = self.find(device(entry), path(&entry.root)) {
                    found.push((nth, format!("mounted at {}", path(&entry.path).display())));
                }
            }
        }
        for entry in &table.entries {
            let target = on
                .get(&entry.parent)
                .filter(|p| p.id != entry.id)
                .and_then(|parent| self.find(device(parent), &inside(parent, path(&entry.path))?));
            found.extend(target.map(|nth| (nth, MOUNTED_ON.to_owned())));
        }
        found
    }
}

/// What a look found.
#[derive(Debug, Default)]
struct Found {
    /// Why files stay, by their number.
    mounted: HashMap<usize, String>,
    /// Why nobody can tell of the others.
    untold: Option<String>,
    /// Namespaces of users' own that were not looked at.
    passed_by: usize,
}

impl Found {
    fn why(&self, nth: usize) -> Option<&str> {
        self.mounted.get(&nth).map(String::as_str).or(self.untold.as_deref())
    }

    fn add(&mut self, said: Vec<(usize, String)>, process: &Path, pid: u32) {
        for (nth, why) in said {
            let named = || format!("{why} of {}", process_name(process, pid));
            self.mounted.entry(nth).or_insert_with(named);
        }
    }
}

/// Looks for `paths` in the mount namespaces of all processes under `proc`.
fn look<'p>(proc: &Path, paths: impl Iterator<Item = (usize, &'p Path)>, limits: [Limits; 2]) -> Found {
    let mut paths = paths.peekable();
    if paths.peek().is_none() {
        return Found::default();
    }
    let own = Mounts::open(CleanupRoots::default()).read();
    let sought = Sought::new(paths, &own.mounts());
    let mut found = Found { untold: own.untold().map(str::to_owned), ..Found::default() };
    if sought.files.is_empty() {
        return found;
    }
    found.mounted.extend(sought.in_table(&own.mounts()));
    let Ok(processes) = std::fs::read_dir(proc) else { return found };
    let own_map = map_of(Path::new("/proc/self"));
    // By a hash with a key that nobody knows: a line may be long, and there may be many.
    let hashes = RandomState::new();
    let mut seen = HashSet::from([hashes.hash_one(own.first_line())]);
    let [mut ours, mut theirs] = limits.map(Left);
    // One in which a process of the system is as well is the system's own.
    let mut foreign: HashMap<u64, u32> = HashMap::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let process = process.path();
        // One that ended, or that may not be looked at, tells nothing.
        let Some((table, first)) = table_of(&process) else { continue };
        let namespace = hashes.hash_one(&first);
        if seen.contains(&namespace) {
            continue;
        }
        if map_of(&process) != own_map {
            foreign.entry(namespace).or_insert(pid);
            continue;
        }
        seen.insert(namespace);
        if ours.take_one() {
            found.add(ours.read(&table, &sought), &process, pid);
        } else {
            let reason = "nobody can tell whether it is mounted in a container: there are more namespaces, or longer \
                          tables of mounts, than are looked at";
            found.untold.get_or_insert_with(|| reason.to_owned());
            break;
        }
    }
    foreign.retain(|namespace, _| !seen.contains(namespace));
    for (nth, pid) in foreign.values().enumerate() {
        if !theirs.take_one() {
            found.passed_by = foreign.len() - nth;
            break;
        }
        let process = proc.join(pid.to_string());
        if let Some((table, _)) = table_of(&process) {
            found.add(theirs.read(&table, &sought), &process, *pid);
        }
    }
    found
}

/// Moves the files of `survey` that are mounted anywhere to what was passed over. What is cut may be: it stays.
pub(super) fn pass_over(survey: &mut Survey) {
    pass_over_within(survey, Path::new("/proc"), [LIMITS, FOREIGN]);
}

fn pass_over_within(survey: &mut Survey, proc: &Path, limits: [Limits; 2]) {
    let all = survey.candidates.iter().enumerate();
    let files = all.filter(|(_, c)| is_file(&c.object)).map(|(nth, c)| (nth, c.object.path.as_path()));
    let found = look(proc, files, limits);
    let (mut nth, mut left) = (0, Vec::new());
    survey.candidates.retain(|candidate| {
        let why = if is_file(&candidate.object) { found.why(nth) } else { None };
        left.extend(
            why.map(|why| Refusal { path: Some(candidate.object.path.clone()), reason: why.to_owned() }),
        );
        nth += 1;
        why.is_none()
    });
    let more = left.len().saturating_sub(MAX_NAMED);
    left.truncate(MAX_NAMED);
    survey.passed_over.extend(left);
    if more > 0 {
        let reason = format!("{more} more files are mounted, or nobody can tell whether they are");
        survey.passed_over.push(Refusal { path: None, reason });
    }
    if found.passed_by > 0 {
        let reason = format!(
            "{} mount namespaces in users' own user namespaces were not looked at: a file that is mounted there frees nothing \
             while it is",
            found.passed_by
        );
        survey.passed_over.push(Refusal { path: None, reason });
    }
}

/// Which of `objects`, that are about to go, stay for being mounted anywhere: their places, and why.
pub(super) fn which_stay(objects: &[PlannedObject]) -> Vec<(usize, String)> {
    which_stay_within(objects, Path::new("/proc"), [LIMITS, FOREIGN])
}

fn which_stay_within(objects: &[PlannedObject], proc: &Path, limits: [Limits; 2]) -> Vec<(usize, String)> {
    let files = objects.iter().enumerate().filter(|(_, o)| is_file(o));
    let found = look(proc, files.clone().map(|(nth, o)| (nth, o.path.as_path())), limits);
    files.filter_map(|(nth, _)| Some((nth, found.why(nth)?.to_owned()))).collect()
}

fn is_file(object: &PlannedObject) -> bool {
    object.image.is_none() && object.cut.is_none()
}

/// The first line of a table.
fn first_line(table: &File) -> Option<Vec<u8>> {
    let mut line = [0; FIRST_LINE];
    let n = table.read_at(&mut line[..256], 0).ok()?;
    let whole = line[..n].contains(&b'\n');
    let n = if whole { n } else { table.read_at(&mut line, 0).ok()? };
    let first = line[..n].split(|b| *b == b'\n').next().filter(|first| !first.is_empty())?;
    Some(first.to_vec())
}

/// The table of a process, and its first line.
fn table_of(process: &Path) -> Option<(File, Vec<u8>)> {
    let table = File::open(process.join("mountinfo")).ok()?;
    let first = first_line(&table)?;
    Some((table, first))
}

/// How the user ids of a process are mapped: as ours, where it is in our user namespace, since nobody else may map all of them.
fn map_of(process: &Path) -> Option<Vec<u8>> {
    Some(read(&File::open(process.join("uid_map")).ok()?, MAX_MAP))
}

/// A file of `/proc`, up to `most` bytes; a line that is cut there tells nothing.
fn read(file: &File, most: usize) -> Vec<u8> {
    let mut piece = [0; 32 << 10];
    let mut text = Vec::new();
    while text.len() < most {
        match file.read_at(&mut piece, text.len() as u64) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    text
}

/// Where `at`, which is on `mount`, lies within the filesystem.
fn inside(mount: &Entry<'_>, at: &Path) -> Option<PathBuf> {
    let rest = at.strip_prefix(path(&mount.path)).ok()?;
    let root = path(&mount.root);
    Some(if rest.as_os_str().is_empty() { root.to_owned() } else { root.join(rest) })
}

fn device(mount: &Entry<'_>) -> Device {
    (mount.dev_major, mount.dev_minor)
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
#[path = "mounted_tests.rs"]
mod tests;
