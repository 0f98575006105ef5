//! A plan that is made again, of the same objects, because the one before it expired: a disk stays full for days in mode `plan`,
//! or while leave is waited for, and each plan is good for ten minutes.
//!
//! Its record has what is new (id, expiry, figures) and names the record that has the objects. What is applied is recorded
//! whole before it begins, whatever was recorded of its plan.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dogwatch::record::{Action, Moment};

use super::Site;

/// After so long it is recorded whole again, ns: the first record may be beyond somebody's retention.
const WHOLE_AGAIN_NS: u64 = 86_400_000_000_000;

/// A plan that was recorded whole.
pub(super) struct Whole {
    id: String,
    objects: u64,
    at_boot_ns: u64,
}

impl Site {
    /// What is recorded of the plan `action`, which the node made by itself.
    pub(super) fn as_recorded(&mut self, action: &Action, now: Moment) -> Action {
        let objects = digest(action);
        let is_renewed =
            |w: &&Whole| w.objects == objects && now.boot_ns.saturating_sub(w.at_boot_ns) < WHOLE_AGAIN_NS;
        let Some(whole) = self.whole.as_ref().filter(is_renewed) else {
            self.whole = Some(Whole { id: action.id.clone(), objects, at_boot_ns: now.boot_ns });
            return action.clone();
        };
        let detail = format!("the {} objects of {} again: {}", action.objects.len(), whole.id, action.detail);
        Action { detail, objects: Vec::new(), refused: Vec::new(), ..action.clone() }
    }
}

/// Of what is to go, however it is to be judged again.
fn digest(action: &Action) -> u64 {
    let mut hasher = DefaultHasher::new();
    for o in &action.objects {
        (&o.path, o.device, o.inode, o.size_bytes, o.mtime_ns, &o.cleaner).hash(&mut hasher);
        (o.cut.is_some(), o.image.as_ref().map(|i| &i.id)).hash(&mut hasher);
    }
    hasher.finish()
}
