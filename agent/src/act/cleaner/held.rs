//! What stays whoever cleans: what is held, and what lies out of reach by another name. Both are looked at again when
//! something was mounted since.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dogwatch::record::PlannedObject;

use super::{News, Parent};
use crate::act::forbidden::Renamed;
use crate::act::hold::{Hold, holder_of};
use crate::act::hold_line::HeldNow;
use crate::act::policy::RootPolicy;
use crate::act::quarantine::Root;
use crate::act::real_path::{Mounts, Sight, is_elsewhere};
use crate::sample::mountinfo::Entry;

/// The roots and the mounts around them.
pub(super) struct Surroundings {
    /// Opened before confinement.
    mounts: Mounts,
    roots: Vec<RootPolicy>,
    state_dir: PathBuf,
}

impl Surroundings {
    pub(super) fn new(mounts: Mounts, roots: &[RootPolicy], state_dir: &Path) -> Self {
        Self { mounts, roots: roots.to_vec(), state_dir: state_dir.to_owned() }
    }

    /// Each root by its other names, as it is now.
    pub(super) fn renamed(&self) -> Vec<Renamed> {
        Renamed::all(&self.roots, &self.mounts.read(), &self.state_dir)
    }
}

/// Why the path of `root` does not lead to the folder that is open, for a survey of `device`. What a server stands behind is
/// not touched, but where it is surveyed itself: one that is silent must keep no other disk waiting.
fn why_astray(root: &Root, device: u64, sight: &Sight) -> Option<String> {
    let (table, is_asked) = (sight.mounts(), root.filesystem == device);
    if sight.untold().is_some() && !is_asked {
        return None;
    }
    let is_above = |path: &[u8]| root.path.starts_with(OsStr::from_bytes(path));
    if !table.entries.iter().any(|e| is_elsewhere(e) && is_above(&e.path)) {
        return root.why_astray();
    }
    let here = table.mount_of(root.path.as_os_str().as_bytes()).filter(|e| is_elsewhere(e));
    let is_other = |e: &Entry<'_>| {
        let device = rustix::fs::makedev(e.dev_major, e.dev_minor);
        device != root.filesystem && root.facts.mount_id.is_some_and(|id| id != u64::from(e.id))
    };
    match here {
        Some(mount) if is_other(mount) => Some(root.is_hidden()),
        _ if is_asked => root.why_astray(),
        _ => None,
    }
}

/// What is held, as it was said and as it lay when an action began or something was mounted.
pub(super) struct Held {
    pub(super) now: HeldNow,
    pub(super) places: Vec<Hold>,
    renamed: Vec<Renamed>,
    around: Rc<Surroundings>,
}

impl Held {
    pub(super) fn new(now: HeldNow, around: Rc<Surroundings>) -> Self {
        Self { places: now.resolved(&around.mounts), renamed: around.renamed(), now, around }
    }

    /// The same in force, looked at again: links and mounts may lie differently.
    pub(super) fn again(&self) -> Self {
        self.then(self.now.clone())
    }

    /// What is held from now on.
    pub(super) fn then(&self, now: HeldNow) -> Self {
        Self::new(now, Rc::clone(&self.around))
    }

    /// The same roots and what is held from now on, by another table.
    #[cfg(test)]
    pub(super) fn told_by(&self, table: std::fs::File, now: HeldNow) -> Self {
        let mounts = self.around.mounts.told_by(table);
        Self::new(now, Rc::new(Surroundings::new(mounts, &self.around.roots, &self.around.state_dir)))
    }

    /// Of each of `roots`, for a survey of `device`: by what other names it is out of reach, and why its path does not lead to it
    /// any more, if so.
    pub(super) fn seen_now(
        &self,
        roots: &[Option<Root>],
        device: u64,
    ) -> (Vec<Renamed>, Vec<Option<String>>) {
        let sight = self.around.mounts.read();
        let astray = |root: &Option<Root>| why_astray(root.as_ref()?, device, &sight);
        let renamed = Renamed::all(&self.around.roots, &sight, &self.around.state_dir);
        (renamed, roots.iter().map(astray).collect())
    }

    /// Why `object` is out of reach by another name, or mounted itself. What is cut may be: it stays, and frees its bytes.
    fn why_out(&self, object: &PlannedObject) -> Option<String> {
        let roots = self.around.roots.iter().zip(&self.renamed);
        roots
            .filter_map(|(root, renamed)| Some((object.path.strip_prefix(&root.path).ok()?, renamed)))
            .find_map(|(relative, renamed)| {
                let mounted = || if object.cut.is_some() { None } else { renamed.why_mounted(relative) };
                renamed.why_out(relative).or_else(mounted)
            })
    }
}

/// Whether `object` may still go, by what is held and mounted now.
pub(super) fn last_word(
    held: &RefCell<Held>,
    parent: &dyn Parent,
    object: &PlannedObject,
) -> Result<(), String> {
    let News { held: now, stop } = parent.news();
    let changed = held.borrow().around.mounts.changed();
    if now.is_some() || changed {
        let now = now.unwrap_or_else(|| held.borrow().now.clone());
        let then = held.borrow().then(now);
        held.replace(then);
    }
    if let Some(why) = stop {
        return Err(why);
    }
    let held = held.borrow();
    match (holder_of(&held.places, &object.path), held.why_out(object)) {
        (Some(hold), _) => Err(hold.said()),
        (None, Some(why)) => Err(why),
        (None, None) => Ok(()),
    }
}
