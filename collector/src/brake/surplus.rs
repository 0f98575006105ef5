//! Stops beyond those that may wait for a journal that takes nothing. Cleanups are stopped by the others already; what was said
//! last is kept with how many there were, and written as soon as there is room. Pure.
//!
//! Deliberately absent: each of their reasons; whoever stops in a loop, or a machine that does, must not use the memory up.

use super::ledger::MAX_REASON_CHARS;
use crate::store::decision::What;

/// What is kept of them.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    newest: Option<(What, String)>,
    before: u64,
}

impl Surplus {
    /// `actor` stopped cleanups once more.
    pub(super) fn put(&mut self, what: What, actor: &str) {
        self.before += u64::from(self.newest.is_some());
        self.newest = Some((what, actor.to_owned()));
    }

    /// The newest one, which says how many others came before it; none where there was none since the last call.
    pub(super) fn take(&mut self) -> Option<(What, String)> {
        let (mut what, actor) = self.newest.take()?;
        let before = std::mem::take(&mut self.before);
        if let (What::BrakePaused { reason } | What::BrakeTripped { reason, .. }, 1..) = (&mut what, before) {
            let others = if before == 1 { "stop" } else { "stops" };
            let more = format!(" (and {before} more {others} before it, which the journal did not take)");
            *reason =
                reason.chars().take(MAX_REASON_CHARS.saturating_sub(more.len())).collect::<String>() + &more;
        }
        Some((what, actor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(reason: &str) -> What {
        What::BrakePaused { reason: reason.to_owned() }
    }

    #[test]
    fn the_newest_is_kept_with_how_many_there_were() {
        let mut surplus = Surplus::default();
        assert!(surplus.take().is_none());
        surplus.put(paused("once"), "ada");
        assert_eq!(surplus.take(), Some((paused("once"), "ada".to_owned())));
        for n in 0..1_000 {
            surplus.put(paused(&format!("{n}: {}", "ü".repeat(400))), &format!("person {n}"));
        }
        let Some((What::BrakePaused { reason }, actor)) = surplus.take() else {
            unreachable!("it was a pause")
        };
        assert_eq!(actor, "person 999");
        assert!(reason.starts_with("999: ü") && reason.contains("and 999 more stops"), "{reason}");
        assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
        assert!(surplus.take().is_none());
    }
}
