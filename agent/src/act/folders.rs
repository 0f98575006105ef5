//! A walk over the folders beneath a root, parents first and in the order of their names, that follows nothing and crosses
//! no mount.
//!
//! Bounds: levels, and the names that are kept on each of them; what more there is a folder is read for again, so that a
//! million folders in one cost time and no memory. What lies in a folder of more than [`MAX_ENTRIES`] is left out, since no
//! reading of it would end in time. Whoever walks ends it by [`Way::Stop`].
//!
//! Deliberately absent: files, and what a folder is looked at for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath;
use super::gaps::{self, Gap};
use super::policy::{HELD, QUARANTINE};

/// Bytes of names that are kept of one folder's folders at a time: some two thousand of usual length, four hundred of the
/// longest. There is such a list on each level.
const MAX_NAMES_BYTES: usize = 128 << 10;
/// What a name takes besides its bytes.
const NAME_BYTES: usize = 48;
/// Most entries of a folder that is read for the folders in it: a second's work, for as many of them as fit a list.
const MAX_ENTRIES: usize = 2_000_000;
/// Most folders that are told for not being entered; who asks for them keeps no more either.
const MAX_SKIPPED: usize = 200;

/// How a walk goes on after a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Into its folders.
    On,
    /// To the next folder that is not beneath it.
    NotBelow,
    /// Not at all.
    Stop,
}

/// A walk over folders.
pub(super) struct Folders<'s> {
    max_depth: u32,
    /// Folders, relative to the root, that are left out.
    pub(super) leave_out: Vec<PathBuf>,
    /// The folder, relative to the root, with which the walk begins: those before it are passed by, those above it gone
    /// through. One that is gone stands for the next one.
    pub(super) from: Option<PathBuf>,
    /// Whether there is a call for those above it too.
    pub(super) shows_above: bool,
    /// Where folders go that could not be entered, and why.
    pub(super) skipped: Option<&'s mut Vec<(PathBuf, String)>>,
    /// What lies in a folder of more entries is left out and told: [`MAX_ENTRIES`], unless all must be seen, however long it takes.
    pub(super) max_entries: usize,
}

impl Folders<'_> {
    /// Down to `max_depth` folders beneath the root; 0 is the root alone.
    pub(super) fn new(max_depth: u32) -> Self {
        Self {
            max_depth,
            leave_out: Vec::new(),
            from: None,
            shows_above: false,
            skipped: None,
            max_entries: MAX_ENTRIES,
        }
    }

    /// Calls `see` with each folder's path relative to `root` and a descriptor, and goes on as it says.
    pub(super) fn visit(&mut self, root: &OwnedFd, see: &mut dyn FnMut(&Path, &OwnedFd) -> Way) {
        self.enter(root, Path::new(""), 0, see);
    }

    fn enter(
        &mut self,
        folder: &OwnedFd,
        relative: &Path,
        depth: u32,
        see: &mut dyn FnMut(&Path, &OwnedFd) -> Way,
    ) -> bool {
        // Paths compare by their parts, and so does the order of the walk.
        let is_above = self.from.as_ref().is_some_and(|from| relative < from.as_path());
        let way = if is_above && !self.shows_above { Way::On } else { see(relative, folder) };
        if way == Way::Stop {
            return false;
        }
        if way == Way::NotBelow || depth >= self.max_depth {
            return true;
        }
        let mut after = self.first_below(relative);
        loop {
            let Some((names, more)) = subfolders(folder, &after, self.max_entries) else {
                let reason = format!(
                    "it has more than {} entries: what lies in its folders is not looked at",
                    self.max_entries
                );
                self.skip(relative.to_owned(), reason);
                return true;
            };
            for name in &names {
                if !self.enter_next(folder, relative, depth, name, see) {
                    return false;
                }
            }
            match names.into_iter().next_back() {
                Some(last) if more => after = Bound::Excluded(last),
                _ => return true,
            }
        }
    }

    fn enter_next(
        &mut self,
        folder: &OwnedFd,
        relative: &Path,
        depth: u32,
        name: &OsStr,
        see: &mut dyn FnMut(&Path, &OwnedFd) -> Way,
    ) -> bool {
        let path = relative.join(name);
        let ours = depth == 0 && (name == QUARANTINE || name == HELD);
        if ours || self.leave_out.contains(&path) {
            return true;
        }
        gaps::reach(Gap::FolderListed, &path);
        match beneath::open_folder(folder, Path::new(name)) {
            Ok(inner) => return self.enter(&inner, &path, depth + 1, see),
            // Gone, or no folder any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => {
                let reason = match error {
                    Errno::XDEV => "another filesystem is mounted there".to_owned(),
                    other => format!("the folder cannot be entered: {other}"),
                };
                self.skip(path, reason);
            }
        }
        true
    }

    fn skip(&mut self, path: PathBuf, reason: String) {
        if let Some(skipped) = self.skipped.as_deref_mut().filter(|s| s.len() < MAX_SKIPPED) {
            skipped.push((path, reason));
        }
    }

    /// With which of the folders in `relative` the walk begins.
    fn first_below(&self, relative: &Path) -> Bound<OsString> {
        let rest = self.from.as_ref().and_then(|from| from.strip_prefix(relative).ok());
        match rest.and_then(|rest| rest.components().next()) {
            Some(Component::Normal(first)) => Bound::Included(first.to_owned()),
            _ => Bound::Unbounded,
        }
    }
}

/// The names of the first folders in `folder` behind `after`, in order, and whether there are more; a folder that cannot be
/// read has none. `None` where it has more than `max_entries`.
fn subfolders(
    folder: &OwnedFd,
    after: &Bound<OsString>,
    max_entries: usize,
) -> Option<(BTreeSet<OsString>, bool)> {
    let (mut names, mut bytes, mut more) = (BTreeSet::<OsString>::new(), 0, false);
    let Ok(entries) = rustix::fs::Dir::read_from(folder) else { return Some((names, more)) };
    let is_folder = |entry: &rustix::fs::DirEntry| match entry.file_type() {
        FileType::Directory => true,
        FileType::Unknown => {
            beneath::facts_at(folder, entry.file_name()).is_ok_and(|f| f.kind == FileType::Directory)
        }
        _ => false,
    };
    for (count, entry) in entries.flatten().enumerate() {
        if count >= max_entries {
            return None;
        }
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let is_before = match after {
            Bound::Included(first) => name < first.as_os_str(),
            Bound::Excluded(last) => name <= last.as_os_str(),
            Bound::Unbounded => false,
        };
        let is_late = more && names.last().is_some_and(|last| name > last.as_os_str());
        if is_before || is_late || name == "." || name == ".." || !is_folder(&entry) {
            continue;
        }
        if names.insert(name.to_owned()) {
            bytes += name.len() + NAME_BYTES;
        }
        while bytes > MAX_NAMES_BYTES
            && let Some(last) = names.pop_last()
        {
            bytes -= last.len() + NAME_BYTES;
            more = true;
        }
    }
    Some((names, more))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn walked(root: &Path, from: Option<&str>) -> Vec<PathBuf> {
        let mut folders = Folders::new(8);
        folders.from = from.map(PathBuf::from);
        let mut seen = Vec::new();
        folders.visit(&beneath::open_root(root).unwrap(), &mut |relative, _| {
            seen.push(relative.to_owned());
            Way::On
        });
        seen
    }

    #[test]
    fn more_folders_than_are_kept_at_a_time_are_all_walked_in_order_and_once() {
        let temp = tempfile::tempdir().unwrap();
        let long = "n".repeat(240);
        // Made in no order, and three times what one list takes.
        let count = 3 * MAX_NAMES_BYTES / (240 + NAME_BYTES);
        for n in 0..count {
            fs::create_dir(temp.path().join(format!("{:05}-{long}", n * 7_919 % count))).unwrap();
        }
        fs::create_dir(temp.path().join("~last")).unwrap();
        fs::create_dir(temp.path().join("~last/inner")).unwrap();
        let folder = beneath::open_root(temp.path()).unwrap();
        let (kept, more) = subfolders(&folder, &Bound::Unbounded, usize::MAX).unwrap();
        let bytes: usize = kept.iter().map(|n| n.len() + NAME_BYTES).sum();
        assert!(more && bytes <= MAX_NAMES_BYTES, "{bytes} bytes of {} names", kept.len());
        let all = walked(temp.path(), None);
        assert_eq!(all.len(), count + 3);
        assert!(all.is_sorted_by(|a, b| a < b), "each once, in order");
        assert_eq!(walked(temp.path(), all[count / 2].to_str()), all[count / 2..]);
        assert_eq!(walked(temp.path(), Some("~last/inner")), [PathBuf::from("~last/inner")]);
        assert_eq!(walked(temp.path(), Some("~a")), all[count + 1..], "one that is gone stands for the next");
    }

    #[test]
    fn what_lies_above_the_beginning_is_shown_to_whom_asks_and_ends_what_is_beneath() {
        let temp = tempfile::tempdir().unwrap();
        for folder in ["a/b/c/d", "a/b/e", "a/f", "g"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        let root = beneath::open_root(temp.path()).unwrap();
        for (out, expected) in [
            ("-", &["", "a", "a/b", "a/b/c", "a/b/c/d", "a/b/e", "a/f", "g"][..]),
            ("a/b", &["", "a", "a/b", "a/f", "g"]),
            ("a", &["", "a", "g"]),
            ("", &[""]),
        ] {
            let mut folders = Folders::new(8);
            (folders.from, folders.shows_above) = (Some("a/b/c".into()), true);
            let mut seen = Vec::new();
            folders.visit(&root, &mut |relative, _| {
                seen.push(relative.to_owned());
                if relative == Path::new(out) { Way::NotBelow } else { Way::On }
            });
            assert_eq!(seen, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{out}");
        }
    }

    #[test]
    fn a_folder_with_too_many_entries_ends_no_walk_and_is_told() {
        let temp = tempfile::tempdir().unwrap();
        for n in 0..40 {
            fs::create_dir_all(temp.path().join(format!("large/{n}"))).unwrap();
        }
        fs::create_dir_all(temp.path().join("small/inner")).unwrap();
        let (mut seen, mut skipped) = (Vec::new(), Vec::new());
        let mut folders = Folders::new(8);
        folders.max_entries = 30;
        folders.skipped = Some(&mut skipped);
        folders.visit(&beneath::open_root(temp.path()).unwrap(), &mut |relative, _| {
            seen.push(relative.to_owned());
            Way::On
        });
        assert_eq!(seen, ["", "large", "small", "small/inner"].map(PathBuf::from));
        let [(path, reason)] = &skipped[..] else { unreachable!("{skipped:?}") };
        assert!(path == Path::new("large") && reason.contains("more than 30 entries"), "{reason}");
    }
}
