//! When budgets leave nothing of what would suffice: said once as a finding, and again when that is over.

use dogwatch::record::Action;

use super::{Site, Step};
use crate::act::plan::is_cut_short;

impl Site {
    /// What is to be said of the node's newest own plan for this mount, `action`, as far as budgets go.
    pub(super) fn budgets_say(&mut self, action: &Action) -> Option<Step> {
        let spent = action.objects.is_empty() && is_cut_short(action);
        if std::mem::replace(&mut self.out_of_budget, spent) == spent {
            return None;
        }
        let said = spent.then(|| format!("{} stays full: {}", action.mount, action.detail));
        Some(Step::OutOfBudget { mount: action.mount.clone(), said })
    }
}
