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

use rustix::fs::FlockOperation;

use super::{Ground, Kind, Look, Mistake, NEVER_NAMES, Taken, names_are_fixed, why_private};
use crate::act::policy::{RootPolicy, RootRules};

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
        why_private(relative).is_none().then(|| Taken { pattern: ANY[0].to_owned(), beside: None })
    }

    fn always_excluded(&self, _: &RootPolicy) -> Vec<String> {
        let locks = ["*.lck", "*.lock", "*.pid", "*.swp"];
        let all = locks.iter().chain(HIDDEN_LOCKS).chain(NEVER_NAMES);
        all.map(|p| (*p).to_owned()).collect()
    }

    fn keeps_copies(&self) -> bool {
        true
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
