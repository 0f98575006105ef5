//! Package caches: what a package manager downloaded and downloads again by itself when it needs it.
//!
//! A root is the cache folder of a manager that is known here ([`MANAGERS`]); only packages (and what dnf derives from
//! its lists) are taken, never lists, keys or locks. While a manager holds one of its locks nothing goes.
//!
//! Locks outside the root are seen by their inode in `/proc/locks`, which is opened before the executor is confined;
//! where the host's lock files cannot be seen, those inside the root and the lease on each file remain.
//!
//! Deliberately absent: `apt-get clean` and its like (no program is run), and pacman's cache, which is how people go back.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::{Kind, Look, Mistake, Taken, names_are_fixed};
use crate::act::beneath::{self, Opened};
use crate::act::policy::{RootPolicy, RootRules};

/// Younger than this, a download that was cut short may be continued.
const PARTIAL_MIN_AGE_SECONDS: u64 = 86_400;
/// Less than this, and a package could go between its download and its installation.
const MIN_AGE_FLOOR_SECONDS: u64 = 3_600;

/// A package manager.
struct Manager {
    name: &'static str,
    /// The end of its cache folder's path.
    place: &'static str,
    patterns: &'static [&'static str],
    /// Files in the cache that are locked while it works (fcntl(2)).
    locks: &'static [&'static str],
    /// Files in the cache that are there only while it works.
    flags: &'static [&'static str],
    /// Files of the host that are locked while it works.
    host_locks: &'static [&'static str],
    /// Files of the host that are there only while it works.
    host_flags: &'static [&'static str],
}

const RPM_LOCKS: &[&str] = &[
    "var/lib/rpm/.rpm.lock",
    "usr/lib/sysimage/rpm/.rpm.lock",
    "run/dnf/rpmtransaction.lock",
    "run/zypp.pid",
];
const RPM_FLAGS: &[&str] = &["run/yum.pid", "var/lib/dnf/rpmdb_lock.pid"];
const DNF_FLAGS: &[&str] = &["download_lock.pid", "metadata_lock.pid"];
const DNF_PATTERNS: &[&str] = &["**/*.rpm", "**/*.drpm", "**/*.solv", "**/*.solvx"];

/// The managers that are known here.
const MANAGERS: &[Manager] = &[
    Manager {
        name: "apt",
        place: "var/cache/apt/archives",
        patterns: &["*.deb", "partial/*.deb"],
        locks: &["lock"],
        flags: &[],
        host_locks: &["var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock"],
        host_flags: &[],
    },
    Manager {
        name: "dnf",
        place: "var/cache/dnf",
        patterns: DNF_PATTERNS,
        locks: &[],
        flags: DNF_FLAGS,
        host_locks: RPM_LOCKS,
        host_flags: RPM_FLAGS,
    },
    Manager {
        name: "dnf5",
        place: "var/cache/libdnf5",
        patterns: DNF_PATTERNS,
        locks: &[],
        flags: DNF_FLAGS,
        host_locks: RPM_LOCKS,
        host_flags: RPM_FLAGS,
    },
    Manager {
        name: "yum",
        place: "var/cache/yum",
        patterns: &["**/*.rpm", "**/*.drpm"],
        locks: &[],
        flags: DNF_FLAGS,
        host_locks: RPM_LOCKS,
        host_flags: RPM_FLAGS,
    },
    Manager {
        name: "zypper",
        place: "var/cache/zypp",
        patterns: &["packages/**/*.rpm"],
        locks: &[],
        flags: &[],
        host_locks: RPM_LOCKS,
        host_flags: &[],
    },
    Manager {
        name: "apk",
        place: "var/cache/apk",
        patterns: &["*.apk"],
        locks: &[],
        flags: &[],
        host_locks: &["lib/apk/db/lock", "usr/lib/apk/db/lock"],
        host_flags: &[],
    },
];

/// The kind.
pub(super) struct PackageCaches;

impl Kind for PackageCaches {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 1;
        let patterns = manager_of(&root.path).map_or(&[][..], |m| m.patterns);
        root.patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        root.sibling_patterns = Vec::new();
        root.min_age_seconds = 86_400;
        root.keep_newest = 0;
        root.max_depth = 5;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        let Some(manager) = manager_of(&root.path) else {
            let places: Vec<String> = MANAGERS.iter().map(|m| format!("/{}", m.place)).collect();
            return vec![Mistake {
                field: "path",
                value: root.path.display().to_string(),
                reason: "it is no package manager's cache".to_owned(),
                remedy: format!("name one of {}, or use a custom cleaner", places.join(", ")),
            }];
        };
        let mut mistakes = names_are_fixed(root, manager.patterns);
        if root.min_age_seconds < MIN_AGE_FLOOR_SECONDS {
            mistakes.push(Mistake {
                field: "min_age",
                value: format!("{} s", root.min_age_seconds),
                reason: "a package could go between its download and its installation".to_owned(),
                remedy: "use 1h or more".to_owned(),
            });
        }
        mistakes
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let pattern = rules.pattern_of(relative)?.to_owned();
        let partial = relative.starts_with("partial");
        if partial && rules.policy.min_age_seconds < PARTIAL_MIN_AGE_SECONDS {
            return None;
        }
        Some(Taken { pattern, beside: None })
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        let manager = manager_of(&look.rules.policy.path).ok_or("its root is no package manager's cache")?;
        let busy = |what: &str| Err(format!("{} is at work ({what})", manager.name));
        let root = &look.ground.folder;
        for flag in manager.flags {
            if root.as_ref().is_some_and(|root| beneath::facts_at(root, *flag).is_ok()) {
                return busy(&format!("{flag} lies in the cache; if none runs, remove it"));
            }
        }
        for lock in manager.locks {
            match root.as_ref().map(|root| is_locked(root, lock)) {
                Some(Ok(false)) => {}
                Some(Ok(true)) => return busy(&format!("it holds {lock}")),
                Some(Err(why)) => {
                    return Err(format!(
                        "nobody can tell whether {} is at work: {lock}: {why}",
                        manager.name
                    ));
                }
                None => return Err("its root is not open".to_owned()),
            }
        }
        let host = &look.rules.policy.host_root;
        for flag in manager.host_flags {
            if std::fs::symlink_metadata(host.join(flag)).is_ok() {
                return busy(&format!("/{flag} is there"));
            }
        }
        for lock in manager.host_locks {
            if look.ground.locks.hold(&host.join(lock))? {
                return busy(&format!("it holds /{lock}"));
            }
        }
        Ok(())
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        // name_version_arch.deb, name-version-release.arch.rpm.
        let end = if name.ends_with(b".deb") {
            name.iter().position(|b| *b == b'_')
        } else {
            name.windows(2).position(|w| w[0] == b'-' && w[1].is_ascii_digit())
        };
        &name[..end.unwrap_or(name.len())]
    }

    fn family_word(&self) -> &'static str {
        "its package"
    }

    fn why_safe(&self, root: &RootPolicy, pattern: &str) -> String {
        let manager = manager_of(&root.path).map_or("its package manager", |m| m.name);
        format!("package cache ({pattern}): {manager} downloads it again when it needs it, and held no lock")
    }
}

fn manager_of(root: &Path) -> Option<&'static Manager> {
    MANAGERS.iter().find(|m| root.ends_with(m.place))
}

/// Whether anybody holds a lock of fcntl(2) on the file `name` of `folder`; a file that is not there is not locked.
fn is_locked(folder: &OwnedFd, name: &str) -> Result<bool, String> {
    let file = match beneath::open_regular(folder, Path::new(name)) {
        Ok(Opened::Regular(file, _)) => file,
        Ok(Opened::Other(_)) => return Err("it is no regular file".to_owned()),
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: fcntl reads and writes one `flock`, which lives for the call, on a descriptor that we own.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_package_are_one_family() {
        for (name, package) in [
            ("curl_7.88.1-10_amd64.deb", "curl"),
            ("libc6_2.36-9_arm64.deb", "libc6"),
            ("bash-5.1.8-6.el9.x86_64.rpm", "bash"),
            ("python3-dnf-4.14.0-8.noarch.rpm", "python3-dnf"),
            ("odd", "odd"),
        ] {
            assert_eq!(PackageCaches.family(name.as_bytes()), package.as_bytes(), "{name}");
        }
    }

    #[test]
    fn a_root_is_a_known_managers_cache() {
        let of = |path: &str| RootPolicy::of(super::super::Cleaner::PackageCaches, path);
        for good in ["/var/cache/apt/archives", "/host/var/cache/dnf", "/var/cache/zypp", "/var/cache/apk"] {
            assert_eq!(PackageCaches.mistakes(&of(good)), [], "{good}");
        }
        for bad in ["/var/cache", "/var/cache/apt", "/srv/packages", "/var/cache/apt/archives/partial"] {
            let said = PackageCaches.mistakes(&of(bad));
            assert!(said[0].remedy.contains("/var/cache/apt/archives"), "{bad}: {said:?}");
        }
        let own = RootPolicy { patterns: vec!["*".into()], min_age_seconds: 60, ..of("/var/cache/dnf") };
        let fields: Vec<_> = PackageCaches.mistakes(&own).iter().map(|m| m.field).collect();
        assert_eq!(fields, ["patterns", "min_age"]);
    }
}
