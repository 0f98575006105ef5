//! Files that are mounted themselves: the source of a bind mount (a `hostPath` of type `File`, a `subPath` of a file) keeps
//! its inode with all its bytes when its last name goes, and a file on which something is mounted takes that with it.
//!
//! The table of mounts names the very file (proc_pid_mountinfo(5): device and root), also after it was renamed. The
//! executor looks at its own namespace's before each object. A container's mounts are in a namespace of its own, which only
//! the agent can look at: it does so when a survey is done, and of each batch of objects once that is durable, right
//! before they go. A folder that is mounted elsewhere (`/var/log` in a pod) is no reason for what lies in it to stay.
//!
//! Bounds: namespaces, bytes and time of a look, over which every file stays; and mounts of one namespace, of which the first
//! are looked at, since whoever has one of his own can mount what he likes.
//!
//! Limits: what no process shows is not known: a namespace that only a file or a thread keeps, processes of another PID
//! namespace than the agent's (without `hostPID`), a mount that is in no namespace.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
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

/// The bounds of a look. 500 namespaces with 92 mounts each took a quarter of a second in a debug build.
const LIMITS: Limits = Limits { namespaces: 8_192, bytes: 256 << 20, time: Duration::from_secs(5) };
/// What is read of one namespace's table.
const MAX_TABLE_BYTES: usize = 16 << 20;
/// A namespace is known by the first line of its table: its mount has a number of its own on the whole node.
const FIRST_LINE: usize = 4_096;
/// Most files that a survey names for this; the rest is counted.
const MAX_NAMED: usize = 100;

/// What one look may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    namespaces: usize,
    bytes: usize,
    time: Duration,
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
}

impl Found {
    fn why(&self, nth: usize) -> Option<&str> {
        self.mounted.get(&nth).map(String::as_str).or(self.untold.as_deref())
    }
}

/// Looks for `paths` in the mount namespaces of all processes under `proc`.
fn look<'p>(proc: &Path, paths: impl Iterator<Item = (usize, &'p Path)>, limits: Limits) -> Found {
    let until = Instant::now() + limits.time;
    let own = Mounts::open(CleanupRoots::default()).read();
    let sought = Sought::new(paths, &own.mounts());
    let mut found = Found { untold: own.untold().map(str::to_owned), ..Found::default() };
    if sought.files.is_empty() {
        return found;
    }
    found.mounted.extend(sought.in_table(&own.mounts()));
    let Ok(processes) = std::fs::read_dir(proc) else { return found };
    let mut seen = HashSet::from([own.first_line().to_vec()]);
    let (mut text, mut bytes) = (Vec::new(), 0);
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // One that ended, or that may not be looked at, tells nothing.
        let Ok(table) = File::open(process.path().join("mountinfo")) else { continue };
        let Some(first) = first_line(&table) else { continue };
        if !seen.insert(first) {
            continue;
        }
        if seen.len() > limits.namespaces || bytes >= limits.bytes || Instant::now() >= until {
            let reason = "nobody can tell whether it is mounted in a container: there are more namespaces, or longer \
                          tables of mounts, than are looked at";
            found.untold.get_or_insert_with(|| reason.to_owned());
            break;
        }
        read(&table, &mut text);
        bytes += text.len();
        for (nth, why) in sought.in_table(&parse(&text)) {
            let named = || format!("{why} of {}", process_name(&process.path(), pid));
            found.mounted.entry(nth).or_insert_with(named);
        }
    }
    found
}

/// Moves the files of `survey` that are mounted anywhere to what was passed over. What is cut may be: it stays.
pub(super) fn pass_over(survey: &mut Survey) {
    pass_over_within(survey, Path::new("/proc"), LIMITS);
}

fn pass_over_within(survey: &mut Survey, proc: &Path, limits: Limits) {
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
}

/// Which of `objects`, that are about to go, stay for being mounted anywhere: their places, and why.
pub(super) fn which_stay(objects: &[PlannedObject]) -> Vec<(usize, String)> {
    which_stay_within(objects, Path::new("/proc"), LIMITS)
}

fn which_stay_within(objects: &[PlannedObject], proc: &Path, limits: Limits) -> Vec<(usize, String)> {
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

/// A whole table, as far as it is looked at; a line that is cut there tells nothing.
fn read(table: &File, text: &mut Vec<u8>) {
    let mut piece = [0; 32 << 10];
    text.clear();
    while text.len() < MAX_TABLE_BYTES {
        match table.read_at(&mut piece, text.len() as u64) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
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
