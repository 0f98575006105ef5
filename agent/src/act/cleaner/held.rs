//! What stays whoever cleans: what is held, and what lies out of reach by another name. Both are looked at again when
//! something was mounted since.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{News, Parent};
use crate::act::forbidden::Renamed;
use crate::act::hold::{Hold, holder_of};
use crate::act::hold_line::HeldNow;
use crate::act::policy::RootPolicy;
use crate::act::real_path::Mounts;

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

    /// Each root by its other names, as it is now.
    pub(super) fn renamed_now(&self) -> Vec<Renamed> {
        self.around.renamed()
    }

    /// Why the object at `path` is out of reach by another name.
    fn why_out(&self, path: &Path) -> Option<String> {
        let roots = self.around.roots.iter().zip(&self.renamed);
        roots
            .filter_map(|(root, renamed)| Some((path.strip_prefix(&root.path).ok()?, renamed)))
            .find_map(|(relative, renamed)| renamed.why_out(relative))
    }
}

/// Whether the object at `path` may still go, by what is held and mounted now.
pub(super) fn last_word(held: &RefCell<Held>, parent: &dyn Parent, path: &Path) -> Result<(), String> {
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
    match (holder_of(&held.places, path), held.why_out(path)) {
        (Some(hold), _) => Err(hold.said()),
        (None, Some(why)) => Err(why),
        (None, None) => Ok(()),
    }
}
