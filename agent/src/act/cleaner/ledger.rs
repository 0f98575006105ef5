//! What the executor has spent of its budgets; the parent cannot reset it but by a restart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Run;
use crate::act::policy::{Budgets, Rules};
use crate::act::words;

/// The span of the hourly budgets.
const HOUR: Duration = Duration::from_secs(3_600);
/// What goes within it is one entry.
const TOGETHER: Duration = Duration::from_secs(1);

/// What went in the last hour.
#[derive(Default)]
pub(super) struct Ledger {
    /// Since when, from which root, how many objects and bytes: one for each root and second, so that an hour is bounded.
    entries: VecDeque<(Instant, usize, u64, u64)>,
}

impl Ledger {
    /// Whether `bytes` more may go from the root at `index`, by the policy's budgets and by the root's own.
    pub(super) fn allows(
        &mut self,
        rules: &Rules,
        run: &Run,
        index: usize,
        bytes: u64,
    ) -> Result<(), String> {
        // An entry may be of a whole second.
        while self.entries.front().is_some_and(|(at, ..)| at.elapsed() > HOUR + TOGETHER) {
            self.entries.pop_front();
        }
        let hour = |root: Option<usize>| {
            let counts = self.entries.iter().filter(|(_, from, ..)| root.is_none_or(|root| root == *from));
            counts.fold((0u64, 0u64), |(n, sum), (.., objects, bytes)| {
                (n.saturating_add(*objects), sum.saturating_add(*bytes))
            })
        };
        within(&rules.policy.budgets, (run.objects, run.bytes), hour(None), bytes)?;
        match &rules.roots()[index].policy.budgets {
            Some(own) => {
                let spent = run.by_root.get(&index).copied().unwrap_or_default();
                within(own, spent, hour(Some(index)), bytes).map_err(|why| format!("{why} from its root"))
            }
            None => Ok(()),
        }
    }

    pub(super) fn note(&mut self, root: usize, bytes: u64) {
        let now = Instant::now();
        let mut recent =
            self.entries.iter_mut().rev().take_while(|(at, ..)| now.duration_since(*at) < TOGETHER);
        match recent.find(|(_, from, ..)| *from == root) {
            Some((_, _, objects, sum)) => {
                (*objects, *sum) = (objects.saturating_add(1), sum.saturating_add(bytes));
            }
            None => self.entries.push_back((now, root, 1, bytes)),
        }
    }
}

/// Whether `bytes` more fit `budgets`, of which an action and the hour have spent (objects, bytes).
fn within(budgets: &Budgets, action: (u64, u64), hour: (u64, u64), bytes: u64) -> Result<(), String> {
    let over = |spent: u64, budget: u64| spent >= budget || spent.saturating_add(bytes) > budget;
    if action.0 >= u64::from(budgets.max_objects) {
        Err(format!("over the budget of {} objects an action", budgets.max_objects))
    } else if over(action.1, budgets.max_bytes) {
        Err(format!("over the budget of {} an action", words::bytes(budgets.max_bytes)))
    } else if hour.0 >= u64::from(budgets.max_objects_per_hour) {
        Err(format!("over the budget of {} objects an hour", budgets.max_objects_per_hour))
    } else if over(hour.1, budgets.max_bytes_per_hour) {
        Err(format!("over the budget of {} an hour", words::bytes(budgets.max_bytes_per_hour)))
    } else {
        Ok(())
    }
}
