//! Finds the files that the globs name: a bounded walk, which alone decides what exists.
//!
//! Globs are absolute paths with `*`, `?`, `[…]`, `{a,b}` and `**`. Each is walked from its first folder without
//! wildcards, one component at a time, so that folders that cannot match are never read. Symbolic links are followed
//! where a component of the glob names them (pods' logs are links), never below `**`; depth, entries looked at and
//! files found are bounded, so loops and hostile trees cost a bounded time.
//!
//! Deliberately absent: opening anything. A FIFO or device that matches is reported and never opened.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

/// Deepest folder below `**`.
const MAX_DEPTH: usize = 12;
/// Most problems that one sweep reports.
const MAX_PROBLEMS: usize = 100;
/// Most globs.
const MAX_GLOBS: usize = 64;

/// A glob that is none.
#[derive(Debug, Clone, thiserror::Error)]
#[error("glob {glob:?}: {problem}; write an absolute path with wildcards, e.g. /var/log/*.log")]
pub struct GlobError {
    /// As written.
    pub glob: String,
    /// What is wrong.
    pub problem: String,
}

/// A file that a sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Regular files, one for each path; sorted by path.
    pub(super) files: Vec<Found>,
    /// What is in the way: path and reason.
    pub(super) problems: Vec<(PathBuf, String)>,
    /// Folders that were read: where something new would appear.
    pub(super) folders: BTreeSet<PathBuf>,
}

#[derive(Debug)]
enum Step {
    Literal(String),
    Wild(GlobMatcher),
    Anything,
}

/// Globs, ready to be walked.
#[derive(Debug)]
pub(super) struct Discovery {
    globs: Vec<Vec<Step>>,
    exclude: GlobSet,
    /// Entries looked at in one sweep, at most.
    max_entries: usize,
    /// Files reported by one sweep, at most.
    max_files: usize,
}

impl Discovery {
    pub(super) fn new(
        globs: &[String],
        exclude: &[String],
        max_entries: usize,
        max_files: usize,
    ) -> Result<Self, GlobError> {
        let fail = |glob: &str, problem: String| GlobError { glob: glob.to_owned(), problem };
        if globs.len() > MAX_GLOBS {
            return Err(fail(&globs[MAX_GLOBS], format!("is one too many: the limit is {MAX_GLOBS}")));
        }
        let mut excluded = GlobSetBuilder::new();
        for glob in exclude {
            // An alternative that was left out would let a file be read that should not be.
            let glob_of = GlobBuilder::new(glob).empty_alternates(true).build();
            excluded.add(glob_of.map_err(|e| fail(glob, e.kind().to_string()))?);
        }
        let exclude = excluded.build().map_err(|e| fail("", e.to_string()))?;
        let globs = globs.iter().map(|g| steps(g)).collect::<Result<_, _>>()?;
        Ok(Self { globs, exclude, max_entries, max_files })
    }

    /// Folders that lie before the first wildcard: files may be reached through links only beneath them.
    pub(super) fn bases(&self) -> Vec<PathBuf> {
        self.globs
            .iter()
            .map(|steps| {
                let literal = |s: &Step| match s {
                    Step::Literal(l) => Some(l.clone()),
                    _ => None,
                };
                let parents = &steps[..steps.len().saturating_sub(1)];
                Path::new("/").join(parents.iter().map_while(literal).collect::<PathBuf>())
            })
            .collect()
    }

    /// Whether `path` is left out.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        self.exclude.is_match(path)
    }

    pub(super) fn sweep(&self) -> Sweep {
        let mut walk =
            Walk { discovery: self, entries: 0, full: false, seen: HashSet::new(), out: Sweep::default() };
        for steps in &self.globs {
            walk.step(Path::new("/"), steps, 0);
        }
        let mut out = walk.out;
        out.files.sort_by(|a, b| a.path.cmp(&b.path));
        out
    }
}

fn steps(glob: &str) -> Result<Vec<Step>, GlobError> {
    let fail = |problem: &str| GlobError { glob: glob.to_owned(), problem: problem.to_owned() };
    if !glob.starts_with('/') {
        return Err(fail("is not absolute"));
    }
    let mut steps = Vec::new();
    for component in Path::new(glob).components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(|| fail("is not UTF-8"))?;
                steps.push(if name == "**" {
                    Step::Anything
                } else if name.contains(['*', '?', '[', '{']) {
                    let glob = GlobBuilder::new(name).literal_separator(true).build();
                    Step::Wild(glob.map_err(|e| fail(&e.kind().to_string()))?.compile_matcher())
                } else {
                    Step::Literal(name.to_owned())
                });
            }
            Component::ParentDir | Component::CurDir | Component::Prefix(_) => {
                return Err(fail("holds .. or ."));
            }
        }
    }
    match steps.last() {
        None => Err(fail("names no file")),
        Some(Step::Anything) => {
            steps.push(Step::Wild(Glob::new("*").map_err(|e| fail(&e.to_string()))?.compile_matcher()));
            Ok(steps)
        }
        Some(_) => Ok(steps),
    }
}

struct Walk<'a> {
    discovery: &'a Discovery,
    entries: usize,
    full: bool,
    seen: HashSet<PathBuf>,
    out: Sweep,
}

impl Walk<'_> {
    fn problem(&mut self, path: &Path, what: String) {
        if self.out.problems.len() < MAX_PROBLEMS {
            self.out.problems.push((path.to_owned(), what));
        }
    }

    /// Follows `steps` from the folder `dir`. Recursion is bounded by the length of the glob and [`MAX_DEPTH`].
    fn step(&mut self, dir: &Path, steps: &[Step], depth: usize) {
        let Some((first, rest)) = steps.split_first() else { return };
        match first {
            Step::Literal(name) => {
                let path = dir.join(name);
                // The folder above is where it would appear.
                if rest.is_empty() {
                    self.out.folders.insert(dir.to_owned());
                }
                match fs::metadata(&path) {
                    Ok(metadata) => self.arrive(path, &metadata, rest, depth),
                    Err(e) => self.missing(&path, &e),
                }
            }
            Step::Wild(glob) => {
                for (path, kind) in self.read(dir) {
                    let Some(name) = path.file_name() else { continue };
                    if !glob.is_match(Path::new(name)) || (kind.is_dir() && rest.is_empty()) {
                        continue;
                    }
                    if !rest.is_empty() && !kind.is_dir() && !kind.is_symlink() {
                        continue;
                    }
                    match fs::metadata(&path) {
                        Ok(metadata) => self.arrive(path, &metadata, rest, depth),
                        Err(e) => self.missing(&path, &e),
                    }
                }
            }
            Step::Anything => {
                self.step(dir, rest, depth);
                if depth < MAX_DEPTH {
                    for (path, kind) in self.read(dir) {
                        if kind.is_dir() {
                            self.step(&path, steps, depth + 1);
                        }
                    }
                }
            }
        }
    }

    fn arrive(&mut self, path: PathBuf, metadata: &Metadata, rest: &[Step], depth: usize) {
        if !rest.is_empty() {
            if metadata.is_dir() {
                self.step(&path, rest, depth);
            }
            return;
        }
        if metadata.is_dir() || self.discovery.exclude.is_match(&path) || !self.seen.insert(path.clone()) {
            return;
        }
        if !metadata.is_file() {
            self.problem(&path, "is not a regular file; exclude it".to_owned());
            return;
        }
        if self.out.files.len() >= self.discovery.max_files {
            self.too_much(&path, format!("over {} files match; narrow the globs", self.discovery.max_files));
            return;
        }
        self.out.files.push(Found {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        });
    }

    fn missing(&mut self, path: &Path, error: &std::io::Error) {
        // What is not there yet, or went while we looked, is no problem; a link in a circle or no right to look is.
        if !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) {
            self.problem(path, error.to_string());
        }
    }

    fn read(&mut self, dir: &Path) -> Vec<(PathBuf, fs::FileType)> {
        let mut out = Vec::new();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) => {
                self.missing(dir, &e);
                return out;
            }
        };
        self.out.folders.insert(dir.to_owned());
        for entry in entries.flatten() {
            self.entries += 1;
            if self.entries > self.discovery.max_entries {
                let what = format!(
                    "over {} folder entries in one sweep; narrow the globs",
                    self.discovery.max_entries
                );
                self.too_much(dir, what);
                break;
            }
            if let Ok(kind) = entry.file_type() {
                out.push((entry.path(), kind));
            }
        }
        // Folders come in no order; the same files must win each time where there are too many.
        out.sort_by(|a, b| a.0.as_os_str().as_bytes().cmp(b.0.as_os_str().as_bytes()));
        out
    }

    fn too_much(&mut self, path: &Path, what: String) {
        if !self.full {
            self.full = true;
            self.problem(path, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(globs: &[&str], root: &Path, max_entries: usize) -> Sweep {
        let globs: Vec<String> = globs.iter().map(|g| format!("{}/{g}", root.display())).collect();
        Discovery::new(&globs, &["*.gz".to_owned()], max_entries, 100).unwrap().sweep()
    }

    fn names(sweep: &Sweep, root: &Path) -> Vec<String> {
        sweep.files.iter().map(|f| f.path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn globs_find_what_they_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["a.log", "b.log.gz", "c.txt", "pods/x/1/0.log", "pods/y/2/0.log", "deep/1/2/3/z.log"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), path).unwrap();
        }
        let all = |globs: &[&str]| names(&sweep(globs, root, 10_000), root);
        assert_eq!(all(&["*.log*"]), ["a.log"]);
        assert_eq!(
            all(&["pods/*/*/*.log", "c.txt", "gone.log"]),
            ["c.txt", "pods/x/1/0.log", "pods/y/2/0.log"]
        );
        assert_eq!(all(&["**/*.log"]), ["a.log", "deep/1/2/3/z.log", "pods/x/1/0.log", "pods/y/2/0.log"]);
        assert_eq!(all(&["deep/**"]), ["deep/1/2/3/z.log"]);
        assert_eq!(all(&["*.log", "a.*"]), ["a.log"]);
        assert_eq!(all(&["{a,c}.*"]), ["a.log", "c.txt"]);
    }

    #[test]
    fn an_alternative_that_names_nothing_is_left_out_as_well() {
        let exclude = ["/var/log/secret{,.old}".to_owned()];
        let discovery = Discovery::new(&[], &exclude, 10, 10).unwrap();
        let excludes = |path: &str| discovery.excludes(Path::new(path));
        assert!(excludes("/var/log/secret") && excludes("/var/log/secret.old"));
        assert!(!excludes("/var/log/secrets"));
    }

    #[test]
    fn loops_fifos_and_crowds_are_bounded_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
        std::os::unix::fs::symlink("self.log", root.join("self.log")).unwrap();
        std::os::unix::fs::symlink("gone", root.join("dangling.log")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("fifo.log"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        fs::create_dir(root.join("dir.log")).unwrap();
        fs::write(root.join("a.log"), "").unwrap();
        let found = sweep(&["**/*.log", "*/*/*/a.log"], root, 10_000);
        assert_eq!(names(&found, root), ["a.log", "loop/loop/loop/a.log"]);
        let problems: Vec<String> =
            found.problems.iter().map(|(p, w)| format!("{} {w}", p.file_name().unwrap().display())).collect();
        assert!(problems.iter().any(|p| p.contains("fifo.log is not a regular file")), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("self.log")), "{problems:?}");
        let crowded = sweep(&["**/*.log"], root, 3);
        assert!(crowded.problems.iter().any(|(_, w)| w.contains("narrow the globs")));
    }

    #[test]
    fn globs_that_are_none_are_refused() {
        for (glob, needle) in
            [("var/log", "not absolute"), ("/a/../b", ".."), ("/a/[b", "unclosed"), ("/", "no file")]
        {
            let error = Discovery::new(&[glob.to_owned()], &[], 1, 1).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
