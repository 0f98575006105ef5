//! Folders that are somebody's whoever may write there: a running service's, a login session's, a display's, an agent's; a
//! version control's; those that hold keys and passwords.
//!
//! Such a folder is known by its name, wherever it lies; its mode (`0700`) says nothing here. Rotated logs are taken beneath
//! those of the first sort, and beneath the others nothing is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Folders (and files) whose owner lives: beneath them only rotated logs go.
pub const PRIVATE: &[&str] = &[
    "systemd-private-*",
    "snap-private-tmp",
    "snap.*",
    ".X11-unix",
    ".ICE-unix",
    ".font-unix",
    ".XIM-unix",
    ".Test-unix",
    "ssh-*",
    "tmux-*",
    "screens",
    "dbus-*",
    "gpg-*",
    "pulse-*",
    "krb5cc*",
    "podman-run-*",
    "storage-run-*",
    "lost+found",
];

/// Folders (and files) beneath which nothing goes, and what they are.
const KEPT: &[(&str, &str)] = &[
    (".git", "a version control's"),
    (".hg", "a version control's"),
    (".svn", "a version control's"),
    (".ssh", "keys are kept there"),
    (".gnupg", "keys are kept there"),
    (".kube", "credentials are kept there"),
    (".aws", "credentials are kept there"),
    (".azure", "credentials are kept there"),
    (".docker", "credentials are kept there"),
    (".password-store", "passwords are kept there"),
];

/// Why nothing at `relative` goes: it is, or lies in, a folder that is somebody's.
pub(in crate::act) fn why_private(relative: &Path) -> Option<String> {
    let is_one = |name: &[u8]| {
        PRIVATE.iter().any(|p| match p.strip_suffix('*') {
            Some(start) => name.starts_with(start.as_bytes()),
            None => name == p.as_bytes(),
        })
    };
    let of_a_running = parts(relative).any(is_one);
    why_kept(relative).or_else(|| of_a_running.then(|| "something that runs owns it".to_owned()))
}

/// The same by the folders beneath which not even rotated logs go.
pub(in crate::act) fn why_kept(relative: &Path) -> Option<String> {
    parts(relative).find_map(|name| {
        let (kept, what) = KEPT.iter().find(|(kept, _)| kept.as_bytes() == name)?;
        Some(format!("it is or lies in a {kept} ({what})"))
    })
}

fn parts(relative: &Path) -> impl Iterator<Item = &[u8]> {
    relative.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runbook_has_every_name() {
        let names = PRIVATE.iter().copied().chain(KEPT.iter().map(|(name, _)| *name));
        assert_eq!(crate::act::runbook::lacks(names), [""; 0]);
    }
}
