//! What this process may, and what it cannot for want of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes the descriptors that it may have: the usual soft limit of 1,024 is for programs that use select(2), and logs and
/// control groups want some thousands. The executor, started before, stays at the old limit.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What this process cannot see or do for want of rights, in words.
pub(super) fn unable_here() -> Vec<String> {
    if rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    vec![
        "read logs that are root's alone, and see other users' open files: it does not run as root"
            .to_owned(),
        "clean up files of other users: it does not run as root".to_owned(),
    ]
}
