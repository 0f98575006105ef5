//! Spells: what the wall clock showed where it is no more.
//!
//! What was written in a spell that was behind of now bears times that are behind, too, and would be as much too old.
//! By what it bears it is known: what lies within what the clock showed in a spell is no older than by the clock of that
//! spell, had it gone on. What was written at that time long before, by the right clock, is taken for young as well: it
//! only stays.
//!
//! Invariant: whatever is merged or moved on only makes ages less. Where there are more than [`MOST`], the two that are least
//! unlike become one, with all that lies between them.

use serde::{Deserialize, Serialize};

use super::{SETTLE_NS, STEP_NS};

/// Spells that are kept.
const MOST: usize = 8;
/// For so long after its end, ns: longer than the age that any cleaner asks for by itself.
pub(super) const KEPT_NS: i64 = 30 * 86_400 * super::NS;

/// One time that the clock was elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spell {
    /// Wall clock less CLOCK_BOOTTIME, ns.
    pub(super) offset_ns: i64,
    /// What it showed from then on.
    pub(super) from_wall_ns: i64,
    /// What it showed at the end.
    pub(super) until_wall_ns: i64,
}

/// The newest of them, and what is left of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Option<Spell>>", into = "Vec<Option<Spell>>")]
pub(in crate::act) struct Spells([Option<Spell>; MOST]);

impl Spells {
    /// Whether there are none.
    pub(in crate::act) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Adds `spell`, as one with those that it goes on with.
    pub(super) fn note(&mut self, mut spell: Spell) {
        for slot in &mut self.0 {
            if let Some(other) = slot.take_if(|other| spell.is_near(other)) {
                spell = spell.and(&other);
            }
        }
        if self.0.iter().flatten().any(|other| other.covers(&spell)) {
            return;
        }
        // A clock chip that forgets shows the same minutes at each boot.
        self.drop_if(|other| spell.covers(other));
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(spell);
            return;
        }
        let mut all: Vec<Spell> = self.0.iter().flatten().copied().chain([spell]).collect();
        all.sort_unstable_by_key(|s| s.offset_ns);
        let gap = |at: &usize| all[at + 1].offset_ns.saturating_sub(all[*at].offset_ns);
        if let Some(nearest) = (0..MOST).min_by_key(gap) {
            all[nearest] = all[nearest].and(&all[nearest + 1]);
            all.remove(nearest + 1);
        }
        self.0 = std::array::from_fn(|at| all.get(at).copied());
    }

    /// Forgets those that were over for long at `boot_ns`.
    pub(super) fn forget(&mut self, boot_ns: u64) {
        self.drop_if(|s| s.shows(boot_ns).saturating_sub(s.until_wall_ns) >= KEPT_NS);
    }

    /// The same for what is reckoned from `boot_ns` on: the next boot, which begins no earlier.
    pub(super) fn from(mut self, boot_ns: u64) -> Self {
        self.0.iter_mut().flatten().for_each(|s| s.offset_ns = s.shows(boot_ns));
        self
    }

    /// A clock that showed `shown_ns` when it was looked at last went on until that machine went down: nobody knows for how
    /// long, so for a day.
    pub(super) fn went_on(&mut self, shown_ns: i64) {
        let until_wall_ns = shown_ns.saturating_add_unsigned(SETTLE_NS);
        self.note(Spell { offset_ns: shown_ns, from_wall_ns: shown_ns, until_wall_ns });
    }

    /// Forgets that of the clock which showed `shown_ns` when it was looked at last: what it showed then is believed. What it
    /// showed at another time, before somebody set it to and fro, is kept.
    pub(super) fn believed(&mut self, shown_ns: i64) {
        let (from_ns, until_ns) = (shown_ns.saturating_sub(STEP_NS), shown_ns.saturating_add(STEP_NS));
        self.drop_if(|s| {
            (from_ns..=until_ns).contains(&s.offset_ns)
                && s.from_wall_ns <= until_ns
                && s.until_wall_ns >= from_ns
        });
    }

    /// Those by which something is younger than by a clock at `offset_ns`.
    pub(super) fn behind(mut self, offset_ns: i64) -> Self {
        self.drop_if(|s| s.offset_ns >= offset_ns);
        self
    }

    fn drop_if(&mut self, is_out: impl Fn(&Spell) -> bool) {
        self.0.iter_mut().filter(|slot| slot.as_ref().is_some_and(&is_out)).for_each(|slot| *slot = None);
    }

    /// Most that may have passed since `at_ns` if it is of a spell, ns; reckoned [`Self::from`] now on.
    pub(super) fn age_ns(&self, at_ns: i64) -> Option<i64> {
        let of = self.0.iter().flatten().filter(|s| (s.from_wall_ns..=s.until_wall_ns).contains(&at_ns));
        of.map(|s| s.offset_ns.saturating_sub(at_ns).max(0)).min()
    }
}

/// As many as there are, from a version that kept more or fewer of them, too.
impl From<Vec<Option<Spell>>> for Spells {
    fn from(kept: Vec<Option<Spell>>) -> Self {
        let mut spells = Self::default();
        kept.into_iter().flatten().for_each(|spell| spells.note(spell));
        spells
    }
}

impl From<Spells> for Vec<Option<Spell>> {
    fn from(spells: Spells) -> Self {
        spells.0.into_iter().filter(Option::is_some).collect()
    }
}

impl Spell {
    /// What its clock would show at `boot_ns`.
    fn shows(&self, boot_ns: u64) -> i64 {
        self.offset_ns.saturating_add_unsigned(boot_ns)
    }

    /// Whether whatever is of the other spell is no older by this one, as long as either is kept.
    fn covers(&self, other: &Self) -> bool {
        self.offset_ns <= other.offset_ns
            && self.from_wall_ns <= other.from_wall_ns
            && self.until_wall_ns >= other.until_wall_ns
    }

    /// Whether it is the same clock, and there is less than a step from one to the other.
    fn is_near(&self, other: &Self) -> bool {
        self.offset_ns.saturating_sub(other.offset_ns).saturating_abs() <= STEP_NS
            && self.from_wall_ns.saturating_sub(STEP_NS) <= other.until_wall_ns
            && other.from_wall_ns.saturating_sub(STEP_NS) <= self.until_wall_ns
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            offset_ns: self.offset_ns.min(other.offset_ns),
            from_wall_ns: self.from_wall_ns.min(other.from_wall_ns),
            until_wall_ns: self.until_wall_ns.max(other.until_wall_ns),
        }
    }
}
