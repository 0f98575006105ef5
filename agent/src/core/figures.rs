//! What the core counts, for metrics.

use std::sync::atomic::Ordering;

use dogwatch::record::{Action, ActionState, Moment, ObjectOutcome, Sample};

use super::Core;
use crate::sample::Pace;

impl Core {
    pub(super) fn count(&self, action: &Action) {
        let figures = &self.wires.figures;
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
            ActionState::Refused => figures.refused_cleanups.fetch_add(1, Ordering::Relaxed),
            ActionState::Started => return,
        };
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
