//! What belongs to something that runs: a service's private folder, a login session's, a display's, an agent's.
//!
//! Only rotated logs are taken beneath such a folder; it is known by its name, wherever it lies.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Folders (and files) whose owner lives: beneath them nothing goes.
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
/// Whether `relative` is such a folder or lies in one.
pub(in crate::act) fn is_private(relative: &Path) -> bool {
    relative.components().any(|part| match part {
        Component::Normal(name) => PRIVATE.iter().any(|p| match p.strip_suffix('*') {
            Some(start) => name.as_bytes().starts_with(start.as_bytes()),
            None => name.as_bytes() == p.as_bytes(),
        }),
        _ => false,
    })
}

/// Why the folder at `relative` stays, if it is such a folder.
pub(super) fn why_private(relative: &Path) -> Option<String> {
    is_private(relative).then(|| "something that runs owns it".to_owned())
}
