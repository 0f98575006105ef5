//! What the core counts, for metrics.

use std::sync::atomic::Ordering;

use dogwatch::record::{Action, ActionState, Moment, ObjectOutcome, Sample};

use super::Core;
use crate::act::plan::is_needless;
use crate::health::Figures;
use crate::sample::Pace;

impl Core {
    pub(super) fn count(&self, action: &Action) {
        count(&self.wires.figures, action);
    }

    pub(super) fn count_pace(&self, pace: &Pace) {
        let figures = &self.wires.figures;
        let before = u128::from(figures.every_ms.load(Ordering::Relaxed));
        if pace.saving && pace.every.as_millis() > before {
            figures.cap_hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes down the levels of now.
    pub(super) fn count_now(&self, at: Moment, sample: &Sample) {
        let figures = &self.wires.figures;
        let active = self.detectors.active();
        let own = active.into_iter().chain(self.not_holding.values());
        figures.set_active(own.map(|f| (f.rule.as_str(), f.severity)));
        figures.set_cleanup(self.responder.standing(at));
        figures.samples.fetch_add(1, Ordering::Relaxed);
        figures.late_ticks.store(sample.late_ticks, Ordering::Relaxed);
        figures.every_ms.store(u64::from(sample.every_ms), Ordering::Relaxed);
        figures.saving.store(sample.self_cost.saving, Ordering::Relaxed);
        figures.cpu_us.store(sample.self_cost.cpu_us, Ordering::Relaxed);
        figures.resident_bytes.store(sample.self_cost.resident_bytes, Ordering::Relaxed);
    }
}

fn count(figures: &Figures, action: &Action) {
    match action.state {
        ActionState::Planned => figures.plans.fetch_add(1, Ordering::Relaxed),
        ActionState::Done => {
            figures.freed_bytes.fetch_add(action.freed_bytes.unwrap_or(0), Ordering::Relaxed);
            let gone = |o: ObjectOutcome| matches!(o, ObjectOutcome::Removed | ObjectOutcome::Cut);
            let removed = action.objects.iter().filter(|o| gone(o.outcome)).count() as u64;
            let left = action.objects.len() as u64 - removed;
            figures.removed_objects.fetch_add(removed, Ordering::Relaxed);
            figures.left_objects.fetch_add(left, Ordering::Relaxed);
            figures.cleanups.fetch_add(1, Ordering::Relaxed)
        }
        ActionState::Failed => figures.failed_cleanups.fetch_add(1, Ordering::Relaxed),
        // Nothing kept anything from going: no refusal of anybody's.
        ActionState::Refused if is_needless(action) => figures.needless_plans.fetch_add(1, Ordering::Relaxed),
        ActionState::Refused => figures.refused_cleanups.fetch_add(1, Ordering::Relaxed),
        ActionState::Started => return,
    };
}

#[cfg(test)]
mod tests {
    use dogwatch::record::CleanupMode;

    use super::*;
    use crate::act::plan::{Allowance, Survey, Trigger, plan};
    use crate::act::policy::{Budgets, Policy, Rules};

    const PLENTY: Allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };

    /// What comes of a plan where nothing may go.
    fn planned(actor: &str, available_bytes: u64) -> Action {
        let policy = Policy { mode: CleanupMode::Auto, roots: Vec::new(), budgets: Budgets::default() };
        let trigger = Trigger {
            mount: "/data".to_owned(),
            device: 7,
            total_bytes: 1 << 40,
            available_bytes,
            target_available_bytes: 1 << 30,
            inodes_free: 0,
            target_inodes_free: 0,
            reason: String::new(),
            finding_id: None,
            actor: actor.to_owned(),
        };
        let rules = Rules::new(policy).unwrap();
        plan("a-1".to_owned(), &trigger, &Survey::default(), &rules, PLENTY, &[], 0)
    }

    #[test]
    fn a_plan_of_a_mount_that_has_room_enough_counts_as_no_refusal() {
        let figures = Figures::default();
        let refused_and_needless = || {
            (figures.refused_cleanups.load(Ordering::Relaxed), figures.needless_plans.load(Ordering::Relaxed))
        };
        for actor in ["ann", "node"] {
            count(&figures, &planned(actor, 1 << 30));
        }
        assert_eq!(refused_and_needless(), (0, 2));
        // It wants room, and nothing may go.
        count(&figures, &planned("ann", 0));
        assert_eq!(refused_and_needless(), (1, 2));
        // Its record could not be kept, or nobody could look: whatever the mount has, something is wrong.
        let detail =
            "nothing was touched: the record of this action could not be kept first (full)".to_owned();
        count(&figures, &Action { detail, ..planned("ann", 1 << 30) });
        assert_eq!(refused_and_needless(), (2, 2));
    }
}
