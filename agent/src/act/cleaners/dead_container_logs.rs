//! Logs of containers that are dead: their pod is gone, or two newer instances of the container have logs.
//!
//! The executor sees for itself which pods are here (`pods_here`), before each object; no message from the parent says so.
//!
//! Deliberately absent: rotated logs of containers that run (`rotated_logs` takes those), folders, and links.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Kind, Look, Mistake, Taken};
use crate::act::container_logs::{ContainerLog, instance, oldest_kept};
use crate::act::policy::{RootPolicy, RootRules};

/// Most entries of a container's folder; the kubelet keeps a handful.
const MAX_FILES: usize = 2_000;

/// The kind.
pub(super) struct DeadContainerLogs;

impl Kind for DeadContainerLogs {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 2;
        root.patterns = Vec::new();
        root.sibling_patterns = Vec::new();
        root.min_age_seconds = 24 * 3_600;
        root.keep_newest = 0;
        root.max_depth = 3;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        super::no_patterns(root, "the kubelet names its files")
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        ContainerLog::of(&rules.policy.path.join(relative))?;
        Some(Taken { pattern: String::new(), beside: None })
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        let log = ContainerLog::of(&look.rules.policy.path.join(look.relative))
            .ok_or_else(|| "it does not lie as a container's log".to_owned())?;
        let pods = look.ground.pods.as_ref().ok_or_else(|| "nobody looked for pods".to_owned())?;
        let why = match pods.is_gone(&log.uid) {
            Ok(true) => return Ok(()),
            Ok(false) => "its pod is here".to_owned(),
            Err(why) => why,
        };
        match oldest_kept(instances(look.folder)?) {
            Some(oldest) if log.instance < oldest => Ok(()),
            _ => Err(format!("{why}, and it is of one of the container's two newest instances")),
        }
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        let digits = name.iter().take_while(|b| b.is_ascii_digit()).count();
        &name[..digits]
    }

    fn family_word(&self) -> &'static str {
        "its container"
    }

    fn why_safe(&self, _: &RootPolicy, _: &str) -> String {
        "log of a dead container: its pod is gone, or two newer instances have logs".to_owned()
    }
}

/// The instances that have any entry in a container's folder.
fn instances(folder: &OwnedFd) -> Result<Vec<u32>, String> {
    use std::os::unix::ffi::OsStrExt;
    let unread = |e| format!("its folder cannot be read: {e}");
    let mut found = Vec::new();
    for (count, entry) in rustix::fs::Dir::read_from(folder).map_err(unread)?.enumerate() {
        if count > MAX_FILES {
            return Err(format!("its folder has more than {MAX_FILES} entries"));
        }
        let entry = entry.map_err(unread)?;
        found.extend(instance(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())));
    }
    Ok(found)
}
