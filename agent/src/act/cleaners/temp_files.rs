//! Temp files: what nobody has read, written or changed in `/tmp` for 10 days and in `/var/tmp` for 30, as
//! systemd-tmpfiles does (tmpfiles.d(5)).
//!
//! It takes less than systemd-tmpfiles: regular files only, no folder, and nothing beneath what a running service, login
//! session, display or agent owns ([`super::PRIVATE`]). A path that any line of `tmpfiles.d` names (`x`, `X`, or a rule of its own) is left
//! alone, and so is a folder that is locked with flock(2), and a file whose sticky bit is set.
//!
//! A lock on a *file* needs no question of its own: it lives only as long as a descriptor, and the lease sees that.
//!
//! Deliberately absent: the `/tmp` of other mount namespaces (`PrivateTmp=`, containers). The walk crosses no mount.

use std::os::fd::OwnedFd;
use std::path::Path;

use globset::GlobSet;
use rustix::fs::FlockOperation;

use super::{
    Ground, Kind, Look, Mistake, NEVER_NAMES, Taken, names_are_fixed, private::is_private,
    private::why_private,
};
use crate::act::policy::{RootPolicy, RootRules, matcher};

/// Locks that lie hidden beside what they lock: `.X0-lock`, `.s.PGSQL.5432.lock`, `.~lock.report.odt#`.
const HIDDEN_LOCKS: &[&str] = &[".*lock*", ".*LOCK*", ".s.PGSQL.*"];
/// Less than this, and the run of a batch job would lose its files.
const MIN_AGE_FLOOR_SECONDS: u64 = 86_400;
const DAY_SECONDS: u64 = 86_400;
/// The one pattern: any name at any depth.
const ANY: &[&str] = &["**/*"];
const STICKY: u32 = 0o1000;

/// The kind.
pub(super) struct TempFiles;

impl Kind for TempFiles {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 1;
        root.patterns = ANY.iter().map(|p| (*p).to_owned()).collect();
        root.sibling_patterns = Vec::new();
        let days = if root.path.ends_with("var/tmp") { 30 } else { 10 };
        root.min_age_seconds = days * DAY_SECONDS;
        root.by_access = true;
        root.keep_newest = 0;
        root.max_depth = 8;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        let mut mistakes = names_are_fixed(root, ANY);
        let mut say = |field, value: String, reason: &str, remedy: &str| {
            mistakes.push(Mistake { field, value, reason: reason.to_owned(), remedy: remedy.to_owned() });
        };
        let path = root.path.display().to_string();
        if root.path.file_name().is_none_or(|n| n != "tmp") {
            say(
                "path",
                path,
                "any name goes there, so it must be a folder called tmp",
                "name /tmp or /var/tmp, or use a custom cleaner",
            );
        }
        if root.min_age_seconds < MIN_AGE_FLOOR_SECONDS {
            let age = format!("{} s", root.min_age_seconds);
            say(
                "min_age",
                age,
                "a running job would lose its files",
                "use 1d or more; 10d is usual for /tmp, 30d for /var/tmp",
            );
        }
        mistakes
    }

    fn takes(&self, _: &RootRules, relative: &Path) -> Option<Taken> {
        (!is_private(relative)).then(|| Taken { pattern: ANY[0].to_owned(), beside: None })
    }

    fn always_excluded(&self, _: &RootPolicy) -> Vec<String> {
        let locks = ["*.lck", "*.lock", "*.pid", "*.swp"];
        let all = locks.iter().chain(HIDDEN_LOCKS).chain(NEVER_NAMES);
        all.map(|p| (*p).to_owned()).collect()
    }

    fn shuns(&self, ground: &Ground, folder: &OwnedFd, relative: &Path) -> Option<String> {
        if let Some(why) = why_private(relative) {
            return Some(why);
        }
        if let Some(why) = ground.tmpfiles.why_left_alone(relative) {
            return Some(why);
        }
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = rustix::fs::flock(folder, FlockOperation::Unlock);
                None
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Some("somebody has locked the folder".to_owned()),
            // A filesystem without such locks has none.
            Err(_) => None,
        }
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        if look.facts.mode & STICKY != 0 {
            return Err("its sticky bit is set, by which tmpfiles.d marks what stays".to_owned());
        }
        look.ground.tmpfiles.why_left_alone(look.relative).map_or(Ok(()), Err)
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        name
    }

    fn family_word(&self) -> &'static str {
        "its name"
    }

    fn why_safe(&self, _: &RootPolicy, _: &str) -> String {
        "temp file, of no running program's folder and in no line of tmpfiles.d".to_owned()
    }
}

/// What lines of `tmpfiles.d` name beneath one root.
#[derive(Debug, Default)]
pub(in crate::act) struct Tmpfiles {
    named: Option<(GlobSet, Vec<String>)>,
    /// Why nothing may go: the lines could not be read.
    unread: Option<String>,
}

/// Where such lines are (tmpfiles.d(5)).
const PLACES: &[&str] =
    &["etc/tmpfiles.d", "run/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];
/// Most files of lines.
const MAX_FILES: usize = 1_000;
/// Largest such file, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most lines that name something beneath one root.
const MAX_NAMED: usize = 4_096;

impl Tmpfiles {
    /// Reads the lines of the host whose files are at `host_root`, for the root at `root`. A file of one folder that
    /// another hides is read all the same: at worst more stays.
    pub(super) fn read(host_root: &Path, root: &Path) -> Self {
        match Self::lines(host_root, root) {
            Ok(globs) => match matcher(&globs) {
                Ok(set) => Self { named: Some((set, globs)), unread: None },
                Err(e) => {
                    Self { named: None, unread: Some(format!("a line of tmpfiles.d is no pattern: {e}")) }
                }
            },
            Err(why) => Self { named: None, unread: Some(why) },
        }
    }

    fn lines(host_root: &Path, root: &Path) -> Result<Vec<String>, String> {
        let mut globs = Vec::new();
        let mut files = 0;
        for place in PLACES.iter().map(|p| host_root.join(p)) {
            let entries = match std::fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(format!("{} cannot be read: {e}", place.display())),
            };
            for entry in entries {
                let path = entry.map_err(|e| format!("{} cannot be read: {e}", place.display()))?.path();
                if path.extension().is_none_or(|e| e != "conf") {
                    continue;
                }
                files += 1;
                if files > MAX_FILES {
                    return Err(format!("tmpfiles.d has more than {MAX_FILES} files"));
                }
                let text = match bounded_text(&path) {
                    Ok(text) => text,
                    // A link to /dev/null masks a file; one that leads nowhere says nothing.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(format!("{} cannot be read: {e}", path.display())),
                };
                globs.extend(text.lines().filter_map(|line| named_beneath(line, root)));
                if globs.len() > MAX_NAMED {
                    return Err(format!(
                        "tmpfiles.d names more than {MAX_NAMED} paths beneath {}",
                        root.display()
                    ));
                }
            }
        }
        globs.sort();
        globs.dedup();
        Ok(globs)
    }

    /// Why what lies at `relative`, or in a folder at it, is left alone.
    fn why_left_alone(&self, relative: &Path) -> Option<String> {
        if let Some(why) = &self.unread {
            return Some(why.clone());
        }
        let (set, globs) = self.named.as_ref()?;
        let mut above = relative.ancestors().filter(|p| !p.as_os_str().is_empty());
        let index = above.find_map(|p| set.matches(p).first().copied())?;
        Some(format!("a line of tmpfiles.d names it ({})", globs[index]))
    }
}

fn bounded_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    // Opened without waiting: a FIFO put there would hold up the executor's start.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The glob, relative to `root`, of the path that a line names there; `None` for removals, comments, and the root's own line.
fn named_beneath(line: &str, root: &Path) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().filter(|k| !k.starts_with('#'))?;
    // Lines that only remove do not protect.
    if matches!(kind.chars().next(), Some('r' | 'R')) {
        return None;
    }
    let path = words.next()?.trim_matches(['"', '\'']);
    // A specifier stands for anything that this node may put there.
    let mut glob = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' if chars.next() == Some('%') => glob.push('%'),
            '%' => glob.push('*'),
            // Braces mean nothing to glob(7), and would to our matcher.
            '{' | '}' => glob.extend(['\\', c]),
            c => glob.push(c),
        }
    }
    let relative = glob.strip_prefix(root.to_str()?)?.strip_prefix('/')?.trim_end_matches('/');
    (!relative.is_empty()).then(|| relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_what_stays() {
        let tmp = Path::new("/tmp");
        for (line, glob) in [
            ("x /tmp/systemd-private-%b-*", Some("systemd-private-*-*")),
            ("X /tmp/keep/*", Some("keep/*")),
            ("d /tmp/build 0755 root root -", Some("build")),
            ("D! /tmp/.X11-unix 1777 root root 10d", Some(".X11-unix")),
            ("x \"/tmp/quoted\"", Some("quoted")),
            ("x /tmp/100%%", Some("100%")),
            ("x /tmp/a{b", Some("a\\{b")),
            ("q /tmp 1777 root root 10d", None),
            ("r! /tmp/.X[0-9]*-lock", None),
            ("# x /tmp/no", None),
            ("x /var/tmp/other", None),
            ("x /tmpfoo/bar", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(named_beneath(line, tmp).as_deref(), glob, "{line}");
        }
    }

    #[test]
    fn a_line_shields_what_lies_beneath_and_unreadable_lines_shield_everything() {
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("usr/lib/tmpfiles.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("app.conf"), "x /tmp/app-*\nX /tmp/deep/er\n").unwrap();
        std::fs::write(folder.join("app.conf.bak"), "x /tmp/unread\n").unwrap();
        let lines = Tmpfiles::read(host.path(), Path::new("/tmp"));
        for (path, shielded) in
            [("app-1", true), ("app-1/a/b", true), ("deep/er/x", true), ("deep/x", false), ("unread", false)]
        {
            assert_eq!(lines.why_left_alone(Path::new(path)).is_some(), shielded, "{path}");
        }
        std::fs::write(folder.join("long.conf"), vec![b'#'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1])
            .unwrap();
        let lines = Tmpfiles::read(host.path(), Path::new("/tmp"));
        assert!(lines.why_left_alone(Path::new("deep/x")).unwrap().contains("longer"));
    }
}
