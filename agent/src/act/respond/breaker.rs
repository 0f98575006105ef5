//! Whether cleanups hold: a mount that fills again after so many of them within a window is left alone for as long.
//!
//! Invariants
//! - A cleanup counts where what went would have brought the mount to its low-water marks, since there is no other one unless
//!   it filled; else once half of what went is taken again. Where what may go comes bit by bit and nobody writes, nothing
//!   fills again.
//! - Those within a cooldown of one are one with it, and so is what goes on where budgets ended it.

use std::collections::VecDeque;

use dogwatch::record::{Action, Mount, ObjectOutcome, PlannedObject};

use super::need::need_bytes;
use super::{Settings, Step};
use crate::act::plan::Trigger;
use crate::act::words;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Room {
    /// What the mount lacks to reach the marks of `trigger`.
    pub(super) fn lacking(trigger: &Trigger) -> Self {
        Self {
            bytes: need_bytes(trigger),
            inodes: trigger.target_inodes_free.saturating_sub(trigger.inodes_free),
        }
    }

    /// What the mount has left by `trigger`.
    pub(super) fn left_at(trigger: &Trigger) -> Self {
        Self { bytes: trigger.available_bytes, inodes: trigger.inodes_free }
    }

    fn left(figures: &Mount) -> Self {
        Self { bytes: figures.available_bytes, inodes: figures.inodes_free }
    }

    /// What goes with `object`.
    pub(super) fn of(object: &PlannedObject) -> Self {
        Self { bytes: object.allocated_bytes, inodes: object.image.as_ref().map_or(1, |image| image.inodes) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.bytes >= other.bytes && self.inodes >= other.inodes
    }
}

/// A cleanup that removed something.
#[derive(Debug)]
struct Cleanup {
    ended_boot_ns: u64,
    lacked: Room,
    left_before: Room,
    gave: Room,
    counts: bool,
}

impl Cleanup {
    /// Whether most of what it gave is gone where so much is `left`, of what was lacking.
    fn is_taken_again(&self, left: Room) -> bool {
        let taken =
            |lacked, before: u64, gave: u64, left| lacked > 0 && left <= before.saturating_add(gave / 2);
        taken(self.lacked.bytes, self.left_before.bytes, self.gave.bytes, left.bytes)
            || taken(self.lacked.inodes, self.left_before.inodes, self.gave.inodes, left.inodes)
    }
}

/// The cleanups of one mount.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// When those that count ended, on the boot clock.
    counted: VecDeque<u64>,
    latest: Option<Cleanup>,
    latest_id: String,
    open_since_boot_ns: Option<u64>,
}

impl Breaker {
    /// Notes what `applied` removed of a mount that `lacked` so much and had so much `left` when it began. `goes_on`: whether
    /// budgets ended the one before it.
    pub(super) fn note(
        &mut self,
        applied: &Action,
        lacked: Room,
        left: Room,
        goes_on: bool,
        cooldown_ns: u64,
        now_boot_ns: u64,
    ) {
        let gone = |o: &&PlannedObject| matches!(o.outcome, ObjectOutcome::Removed | ObjectOutcome::Cut);
        let mut gone = applied.objects.iter().filter(gone).map(Room::of).peekable();
        if gone.peek().is_none() {
            return;
        }
        let gave = gone.fold(Room::default(), Room::plus);
        self.latest_id.clone_from(&applied.id);
        let left_before = Room { bytes: applied.available_before_bytes.unwrap_or(left.bytes), ..left };
        self.look(left_before);
        let is_one = |c: &&mut Cleanup| goes_on || now_boot_ns.saturating_sub(c.ended_boot_ns) < cooldown_ns;
        match self.latest.as_mut().filter(is_one) {
            Some(same) => same.gave = same.gave.plus(gave),
            None => {
                let counts = false;
                self.latest = Some(Cleanup { ended_boot_ns: now_boot_ns, lacked, left_before, gave, counts });
            }
        }
        self.count_if(|cleanup| cleanup.gave.covers(cleanup.lacked));
    }

    /// Looks whether what went is taken again where so much is `left`.
    fn look(&mut self, left: Room) {
        self.count_if(|cleanup| cleanup.is_taken_again(left));
    }

    fn count_if(&mut self, holds_not: impl Fn(&Cleanup) -> bool) {
        if let Some(latest) = self.latest.as_mut().filter(|c| !c.counts && holds_not(c)) {
            latest.counts = true;
            self.counted.push_back(latest.ended_boot_ns);
        }
    }

    /// For how much longer the mount is left alone, if it is.
    pub(super) fn open_for_ns(&self, window_ns: u64, now_boot_ns: u64) -> Option<u64> {
        let since = now_boot_ns.saturating_sub(self.open_since_boot_ns?);
        (since <= window_ns).then(|| window_ns - since)
    }

    /// Whether the mount is left alone.
    pub(super) fn is_open(&self, window_ns: u64, now_boot_ns: u64) -> bool {
        self.open_for_ns(window_ns, now_boot_ns).is_some()
    }

    /// What to do instead of another cleanup of `figures`, if the last ones did not hold.
    pub(super) fn instead(
        &mut self,
        figures: &Mount,
        settings: &Settings,
        now_boot_ns: u64,
    ) -> Option<Vec<Step>> {
        let window_ns = settings.breaker_window_ns;
        self.look(Room::left(figures));
        self.counted.retain(|at| now_boot_ns.saturating_sub(*at) <= window_ns);
        if self.is_open(window_ns, now_boot_ns) {
            return Some(Vec::new());
        }
        self.open_since_boot_ns = None;
        if self.counted.len() < settings.breaker_cleanups {
            return None;
        }
        self.open_since_boot_ns = Some(now_boot_ns);
        let minutes = words::seconds(window_ns / 1_000_000_000);
        let mount = figures.path.clone();
        let summary = format!(
            "{mount} filled again after {} cleanups within {minutes}; it is not cleaned any more for as long: stop what \
             writes to it",
            self.counted.len()
        );
        Some(vec![Step::NotHolding { mount, summary, action_id: self.latest_id.clone() }])
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::PlannedImage;

    use super::*;
    use crate::act::specimen;

    #[test]
    fn pieces_count_once_all_of_them_would_have_done() {
        let lacked = Room { bytes: 15, inodes: 0 };
        let piece = |bytes| {
            let object = PlannedObject {
                allocated_bytes: bytes,
                outcome: ObjectOutcome::Removed,
                ..specimen::object("/data/a.log.1")
            };
            Action { available_before_bytes: None, ..specimen::action(vec![object]) }
        };
        let room = |bytes| Room { bytes, inodes: 0 };
        let mut breaker = Breaker::default();
        breaker.note(&piece(10), lacked, room(5), false, 60, 1_000);
        assert_eq!(breaker.counted, [0; 0], "ten of fifteen");
        breaker.note(&piece(2), Room { bytes: 5, inodes: 0 }, room(15), true, 60, 2_000);
        breaker.look(Room { bytes: 12, inodes: 0 });
        assert_eq!(breaker.counted, [0; 0], "it has most of it still");
        breaker.note(&piece(3), Room { bytes: 3, inodes: 0 }, room(17), true, 60, 3_000);
        breaker.look(Room { bytes: 0, inodes: 0 });
        assert_eq!(breaker.counted, [1_000], "once");
        // Another one is judged by itself, also when the one after it begins.
        breaker.note(&piece(4), lacked, room(5), false, 60, 4_000);
        breaker.note(&piece(4), lacked, room(7), false, 60, 5_000);
        breaker.note(&piece(4), lacked, room(10), false, 60, 6_000);
        assert_eq!(
            breaker.counted,
            [1_000, 4_000],
            "half of the first, and less of the second, was taken again"
        );
    }

    #[test]
    fn inodes_are_those_of_when_it_began_and_an_image_gives_its_own() {
        let lacked = Room { bytes: 0, inodes: 50_000 };
        let objects = |image: Option<Box<PlannedImage>>| {
            let object = |n: u64| PlannedObject {
                allocated_bytes: 0,
                outcome: ObjectOutcome::Removed,
                image: image.clone(),
                ..specimen::object(format!("/data/{n}.log.1"))
            };
            (0..100).map(object).collect::<Vec<_>>()
        };
        let mut breaker = Breaker::default();
        let files = Action { available_before_bytes: None, ..specimen::action(objects(None)) };
        breaker.note(&files, lacked, Room { bytes: 0, inodes: 1_000 }, false, 60, 1_000);
        breaker.look(Room { bytes: 0, inodes: 1_100 });
        assert_eq!(breaker.counted, [0; 0], "nobody took them");
        breaker.look(Room { bytes: 0, inodes: 1_050 });
        assert_eq!(breaker.counted, [1_000]);
        let image = PlannedImage { id: "i".to_owned(), tags: Vec::new(), digests: Vec::new(), inodes: 500 };
        let images =
            Action { available_before_bytes: None, ..specimen::action(objects(Some(Box::new(image)))) };
        breaker.note(&images, lacked, Room { bytes: 0, inodes: 1_000 }, false, 60, 2_000);
        assert_eq!(breaker.counted, [1_000, 2_000], "a hundred of five hundred suffice");
    }
}
