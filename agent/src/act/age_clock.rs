//! By which clock ages are reckoned, where the wall clock went ahead of the time that passed.
//!
//! A file's times are the wall clock's of when it was written. A clock that is a year ahead for some minutes (a clock chip
//! after a power loss, a restored snapshot, a wrong server) makes all that was written before a year old. So the wall clock
//! is held against CLOCK_BOOTTIME, which nobody sets: where it gained more than [`STEP_NS`], what was written before that is as old
//! as by the clock before, and what was written since as by the clock of now, never older than the step. What lies between the
//! two is young. A clock that stood so for [`SETTLE_NS`] is believed: it was behind before, and was set right. Until then a
//! node whose clock was set right takes what was written before for younger than it is, by as much as it was behind, and
//! nothing else is different. A clock that went back is taken as it is: what is younger then is at worst too young.
//!
//! One that goes ahead again and again (its machine is stopped each night, or has no clock when it is off) is believed as far as
//! it was ahead at least for [`SETTLE_NS`] in all. What it went ahead later stands on its own from then on, so that what is believed
//! is never further behind than by what it gained in twice that time. While it is behind that only waits; once it shows again what
//! is believed it is over.
//!
//! What each clock showed that was left, by setting it or by believing another, is kept (`spells`): what bears such a time is
//! no older than by that clock, whatever the one of now says.
//!
//! CLOCK_BOOTTIME counts a suspended machine's time, so that waking up is no step. It does not count for a machine that its
//! hypervisor stopped: setting its clock is one.
//!
//! Over restarts the clock is kept (`clock_file`). Of another boot it is a floor: a machine whose clock is more than
//! [`DOWN_NS`] later than when it was looked at last was either down for so long or is ahead, and is in doubt as after a step. How long
//! a clock stood counts over boots, where it only went on from what it showed: one that is switched off at night is believed, too.
//!
//! Deliberately absent: clocks themselves; time comes in as an argument. Nobody asks whether the clock is synchronised: a wrong
//! server's is.

mod spells;

use dogwatch::record::Moment;
use serde::{Deserialize, Serialize};

pub(super) use spells::Spells;
use spells::{KEPT_NS, Spell};

/// What the wall clock may gain between two looks, ns: no server steps a clock that runs well by as much.
pub(super) const STEP_NS: i64 = 120 * NS;
/// So long a clock that went ahead has to stand before ages are reckoned by it, ns of CLOCK_BOOTTIME. Long enough for people to
/// see the finding `clock-jump` and to act.
pub(super) const SETTLE_NS: u64 = 86_400 * NS as u64;
/// A machine that was down for less is believed its clock, ns: a long weekend and some. A clock that is wrong by less over a
/// boot makes files that much older.
pub(super) const DOWN_NS: i64 = 7 * 86_400 * NS;
const NS: i64 = 1_000_000_000;

/// The wall clock against CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgeClock {
    /// What ages are reckoned by: wall clock less CLOCK_BOOTTIME, ns.
    believed_ns: i64,
    /// What it showed when that began to be so; not known of what was believed from the first look on.
    #[serde(default = "not_known")]
    since_ns: i64,
    /// What it is by now, where that is another.
    moved: Option<Moved>,
    /// For how long it had stood so on earlier boots, ns.
    #[serde(default, skip_serializing_if = "is_none")]
    carried_ns: u64,
    /// How far it was ahead before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<Stood>,
    /// Where it was at the last look.
    #[serde(default)]
    looked: Looked,
    /// When it was behind of what was believed.
    #[serde(default, skip_serializing_if = "Spells::is_empty")]
    spells: Spells,
}

fn is_none(ns: &u64) -> bool {
    *ns == 0
}

/// Any time ago.
pub(super) fn not_known() -> i64 {
    i64::MIN
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    /// Wall clock less CLOCK_BOOTTIME, ns.
    to_ns: i64,
    /// CLOCK_BOOTTIME of when that was seen first.
    since_boot_ns: u64,
    /// For how long nobody had looked then, ns.
    #[serde(default)]
    unseen_ns: u64,
}

/// How a clock stood that was ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stood {
    /// Where it was at least: wall clock less CLOCK_BOOTTIME, ns.
    at_ns: i64,
    /// What it showed when that began, at the earliest.
    since_ns: i64,
    /// For how long, ns; over boots.
    for_ns: u64,
}

/// Where the clock was at a look; by default nobody looked since the machine began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Looked {
    /// Wall clock less CLOCK_BOOTTIME, ns.
    offset_ns: i64,
    boot_ns: u64,
}

/// What is known of the clock from before a process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Before {
    /// Nothing: it is believed.
    Nothing,
    /// How it stood on this boot.
    ThisBoot(AgeClock),
    /// How it stood on an earlier boot.
    EarlierBoot(Left),
}

/// What a boot leaves for those after it: how the clock stood when it was looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    /// What was believed, nanoseconds since the epoch; later than what it showed where it was behind.
    pub(super) wall_ns: i64,
    /// What it showed.
    pub(super) shown_ns: i64,
    /// For how long it had stood there, ns; 0 where that is what was believed.
    pub(super) stood_ns: u64,
    /// How far it was ahead before, reckoned from then on.
    pub(super) ahead: Option<Stood>,
    /// When it was behind, reckoned from then on.
    pub(super) spells: Spells,
    /// What it showed when it began to be what was believed.
    pub(super) since_ns: i64,
}

/// What time it is for whoever reckons ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    wall_ns: i64,
    ahead: Option<Ahead>,
    /// When it was behind, reckoned from now on.
    spells: Spells,
}

/// A wall clock that is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ahead {
    /// By how much.
    by_ns: i64,
    /// What it showed when that was seen.
    from_wall_ns: i64,
}

impl AgeClock {
    /// From `now` on.
    pub(super) fn begin(before: Before, now: Moment) -> Self {
        let offset = offset(now);
        let mut clock = match before {
            Before::Nothing => Self::believing(offset),
            Before::ThisBoot(mut clock) => {
                if clock.looked == Looked::default() {
                    clock.looked.offset_ns = clock.moved.map_or(clock.believed_ns, |moved| moved.to_ns);
                }
                clock
            }
            Before::EarlierBoot(Left { wall_ns, shown_ns, stood_ns, ahead, mut spells, since_ns }) => {
                // CLOCK_BOOTTIME began when the machine did, which was after it was looked at last.
                let was_down = |at_ns: i64| (0..=DOWN_NS).contains(&offset.saturating_sub(at_ns));
                if was_down(wall_ns) && was_down(shown_ns) && shown_ns >= wall_ns {
                    // What stood ahead is believed with it; else the nights of a machine that has no clock when it is off add up.
                    spells.believed(shown_ns);
                } else if shown_ns != wall_ns {
                    spells.went_on(shown_ns);
                }
                if !was_down(wall_ns) {
                    // Nobody looked any more until that machine went down.
                    spells.note(former(wall_ns, since_ns, wall_ns.saturating_add_unsigned(SETTLE_NS)));
                }
                let clock = match (was_down(wall_ns), was_down(shown_ns)) {
                    (true, _) => Self::believing(offset),
                    (false, true) => Self { carried_ns: stood_ns, ahead, ..Self::believing(wall_ns) },
                    // Nobody knows how long the machine was down: where it was is at least where it would be now.
                    (false, false) if shown_ns > wall_ns => {
                        let last = Stood { at_ns: shown_ns, since_ns: not_known(), for_ns: stood_ns };
                        Self { ahead: Some(last.after(ahead)), ..Self::believing(wall_ns) }
                    }
                    (false, false) => Self { ahead, ..Self::believing(wall_ns) },
                };
                Self { spells, since_ns, ..clock }
            }
        };
        clock.look(now);
        clock
    }

    /// Takes in what time it is; to be done every minute or so.
    pub(super) fn look(&mut self, now: Moment) -> Present {
        let offset = offset(now);
        let near = |other: i64| offset.saturating_sub(other).saturating_abs() <= STEP_NS;
        let last = std::mem::replace(&mut self.looked, Looked { offset_ns: offset, boot_ns: now.boot_ns });
        if self.is_behind(last.offset_ns) {
            // It may have stood there until just now.
            self.spells.note(last.spell(last.offset_ns, now));
        }
        if near(self.believed_ns) {
            self.leave(now);
            self.believe(offset);
        } else {
            match self.moved {
                Some(moved) if near(moved.to_ns) && moved.since_boot_ns <= now.boot_ns => {}
                another => {
                    self.leave(now);
                    if another.is_some() {
                        // What stood on earlier boots was not where it went now.
                        (self.ahead, self.carried_ns) = (self.stood_ahead(last.boot_ns), 0);
                    }
                    let unseen_ns = now.boot_ns.saturating_sub(last.boot_ns);
                    self.moved = Some(Moved { to_ns: offset, since_boot_ns: now.boot_ns, unseen_ns });
                }
            }
            if let Some(stood) = self.stood(now.boot_ns).filter(|stood| stood.for_ns >= SETTLE_NS) {
                self.settle(stood, offset);
            }
        }
        if self.is_behind(offset) {
            self.spells.note(last.spell(offset, now));
        }
        self.spells.forget(now.boot_ns);
        let ahead = self.moved.and_then(|moved| {
            let by_ns = offset.saturating_sub(self.believed_ns);
            let from_wall_ns = offset.saturating_add_unsigned(moved.since_boot_ns);
            (by_ns > 0).then_some(Ahead { by_ns, from_wall_ns })
        });
        Present { wall_ns: now.wall_ns, ahead, spells: self.spells.behind(offset).from(now.boot_ns) }
    }

    fn believing(offset_ns: i64) -> Self {
        let (looked, spells) = (Looked::default(), Spells::default());
        Self {
            believed_ns: offset_ns,
            since_ns: not_known(),
            moved: None,
            carried_ns: 0,
            ahead: None,
            looked,
            spells,
        }
    }

    fn believe(&mut self, offset_ns: i64) {
        (self.believed_ns, self.moved, self.carried_ns, self.ahead) = (offset_ns, None, 0, None);
    }

    /// Keeps what the clock showed where it was without being believed: once it is later by far, that is long ago.
    fn leave(&mut self, now: Moment) {
        if let Some(moved) = self.moved {
            self.spells.note(moved.spell(now));
        }
    }

    /// Believes a clock that `stood` for long and is at `offset_ns`. What the one showed that was believed is kept as a spell is:
    /// this one is later, or another one will be.
    fn settle(&mut self, stood: Stood, offset_ns: i64) {
        if self.moved.is_some() {
            // Until now, for while nobody looked it may have gone back to where it was believed, and ahead again.
            let until_wall_ns = self.believed_ns.saturating_add_unsigned(self.looked.boot_ns);
            self.spells.note(former(self.believed_ns, self.since_ns, until_wall_ns));
            self.since_ns = stood.since_ns;
        }
        if offset_ns.saturating_sub(stood.at_ns) <= STEP_NS {
            self.believe(offset_ns);
        } else {
            // It went further meanwhile, which has not stood for long.
            (self.believed_ns, self.ahead) = (stood.at_ns, None);
        }
    }

    /// Whether a clock at `offset_ns` is behind of what is believed.
    fn is_behind(&self, offset_ns: i64) -> bool {
        self.moved.is_some() && offset_ns < self.believed_ns
    }

    /// How it has stood where it is not believed to be, or further ahead than what is; over boots.
    fn stood(&self, boot_ns: u64) -> Option<Stood> {
        let moved = self.moved?;
        let own = moved.stood(self.carried_ns, boot_ns);
        Some(own.after(self.ahead.filter(|_| moved.to_ns > self.believed_ns)))
    }

    /// The same of when it was ahead.
    fn stood_ahead(&self, boot_ns: u64) -> Option<Stood> {
        self.stood(boot_ns).filter(|stood| stood.at_ns > self.believed_ns).or(self.ahead)
    }

    /// What is known of it on another boot, where it was looked at last at `now`.
    pub(super) fn left_at(&self, now: Moment) -> Left {
        let mut left = *self;
        left.leave(now);
        Left {
            wall_ns: self.believed_ns.saturating_add_unsigned(now.boot_ns),
            shown_ns: now.wall_ns,
            stood_ns: self.moved.map_or(0, |moved| moved.stood(self.carried_ns, now.boot_ns).for_ns),
            ahead: self.ahead.map(|ahead| ahead.from(now.boot_ns)),
            spells: left.spells.from(now.boot_ns),
            since_ns: self.since_ns,
        }
    }

    /// Whether it stands where `other` does.
    pub(super) fn stands_as(&self, other: &Self) -> bool {
        (self.moved, self.ahead) == (other.moved, other.ahead)
    }

    /// When it was behind, reckoned from when this boot began.
    pub(super) fn spells(&self) -> Spells {
        self.spells
    }
}

/// A clock that was believed at `offset_ns`, as long as that is kept.
fn former(offset_ns: i64, since_ns: i64, until_wall_ns: i64) -> Spell {
    Spell { offset_ns, from_wall_ns: since_ns.max(until_wall_ns.saturating_sub(KEPT_NS)), until_wall_ns }
}

impl Stood {
    /// What it and one of `before` had in common.
    fn after(self, before: Option<Self>) -> Self {
        before.map_or(self, |before| Self {
            at_ns: self.at_ns.min(before.at_ns),
            since_ns: self.since_ns.min(before.since_ns),
            for_ns: self.for_ns.saturating_add(before.for_ns),
        })
    }

    /// The same for what is reckoned from `boot_ns` on.
    fn from(self, boot_ns: u64) -> Self {
        Self { at_ns: self.at_ns.saturating_add_unsigned(boot_ns), ..self }
    }
}

impl Moved {
    /// How it stood there until `boot_ns`, and had for so long on earlier boots.
    fn stood(&self, carried_ns: u64, boot_ns: u64) -> Stood {
        let seen_ns = self.since_boot_ns.saturating_sub(self.unseen_ns);
        // On an earlier boot it may have been so long before.
        let since_ns = if carried_ns > 0 { not_known() } else { self.to_ns.saturating_add_unsigned(seen_ns) };
        let for_ns = carried_ns.saturating_add(boot_ns.saturating_sub(self.since_boot_ns));
        Stood { at_ns: self.to_ns, since_ns, for_ns }
    }

    /// What it showed there until `now`.
    fn spell(&self, now: Moment) -> Spell {
        let boot_ns = self.since_boot_ns.saturating_sub(self.unseen_ns);
        Looked { offset_ns: self.to_ns, boot_ns }.spell(self.to_ns, now)
    }
}

impl Looked {
    /// A clock that is at `offset_ns` `now`, and has been since this look at most.
    fn spell(&self, offset_ns: i64, now: Moment) -> Spell {
        Spell {
            offset_ns,
            from_wall_ns: offset_ns.saturating_add_unsigned(self.boot_ns),
            until_wall_ns: offset_ns.saturating_add_unsigned(now.boot_ns),
        }
    }
}

impl Present {
    /// What the wall clock shows, ns since the epoch.
    pub(super) fn wall_ns(&self) -> i64 {
        self.wall_ns
    }

    /// Age of what happened at `at_ns`, ns; less than 0 is the future.
    pub(super) fn age_ns(&self, at_ns: i64) -> i64 {
        let by_wall = self.wall_ns.saturating_sub(at_ns);
        let by_clock = match self.ahead {
            Some(ahead) if at_ns <= self.wall_ns.saturating_sub(ahead.by_ns) => {
                by_wall.saturating_sub(ahead.by_ns)
            }
            Some(ahead) if at_ns < ahead.from_wall_ns => by_wall.min(0),
            _ => by_wall,
        };
        self.spells.age_ns(at_ns).map_or(by_clock, |age| by_clock.min(age))
    }

    /// Why the age of what happened at `at_ns` may not be what the wall clock would say.
    pub(super) fn doubt(&self, at_ns: i64) -> Option<String> {
        let words = |ns: i64| super::words::seconds(u64::try_from(ns / NS).unwrap_or(0));
        let by_spell = self.spells.age_ns(at_ns).map(|age| {
            let by_ns = self.wall_ns.saturating_sub(at_ns).saturating_sub(age);
            format!("this node's clock was behind by {} when it showed that time", words(by_ns))
        });
        let Some(ahead) = self.ahead else { return by_spell };
        Some(format!(
            "this node's clock went ahead by {} {} ago, and is believed after {}",
            words(ahead.by_ns),
            words(self.wall_ns.saturating_sub(ahead.from_wall_ns)),
            super::words::seconds(SETTLE_NS / NS as u64),
        ))
    }
}

/// A wall clock that is believed.
impl From<i64> for Present {
    fn from(wall_ns: i64) -> Self {
        Self { wall_ns, ahead: None, spells: Spells::default() }
    }
}

fn offset(now: Moment) -> i64 {
    now.wall_ns.saturating_sub_unsigned(now.boot_ns)
}

#[cfg(test)]
mod absent;
#[cfg(test)]
mod nights;
#[cfg(test)]
#[path = "age_clock_tests.rs"]
mod tests;
