//! When budgets leave nothing of what would suffice: said once as a finding, and again when that is over.
//!
//! Invariant: it is over only once a plan could show it: one that has objects, or one of a survey that heard everybody.

use dogwatch::record::{Action, Finding};

use super::{CLEANUP_OUT_OF_BUDGET, Respond, Site, Step};
use crate::act::plan::is_cut_short;
use crate::act::shares::is_of_all;

impl Respond {
    /// Takes up what the last run said and did not end: else this one would never end it.
    pub fn seed(&mut self, finding: &Finding) {
        if finding.rule == CLEANUP_OUT_OF_BUDGET {
            self.mounts.entry(finding.subject.name.clone()).or_default().out_of_budget = true;
        }
    }
}

impl Site {
    /// What is to be said of the node's newest own plan for this mount, `action`, as far as budgets go.
    pub(super) fn budgets_say(&mut self, action: &Action) -> Option<Step> {
        let spent = action.objects.is_empty() && is_cut_short(action);
        if !spent && action.objects.is_empty() && !is_of_all(action) {
            return None;
        }
        if std::mem::replace(&mut self.out_of_budget, spent) == spent {
            return None;
        }
        let said = spent.then(|| format!("{} stays full: {}", action.mount, action.detail));
        Some(Step::OutOfBudget { mount: action.mount.clone(), said })
    }
}
