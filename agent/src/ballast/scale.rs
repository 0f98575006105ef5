//! When ballast is given up and made again. Pure: figures and time come in.

use crate::act::words;

/// Bytes and inodes that are held, wanted or missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Weights {
    /// Whether it is more than nothing.
    pub fn any(self) -> bool {
        self.bytes > 0 || self.inodes > 0
    }

    /// What of it is not in `other`.
    pub(super) fn without(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }

    /// In words.
    pub(super) fn said(self) -> String {
        match (self.bytes, self.inodes) {
            (bytes, 0) => words::bytes(bytes),
            (0, inodes) => format!("{inodes} inodes"),
            (bytes, inodes) => format!("{} and {inodes} inodes", words::bytes(bytes)),
        }
    }
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Bytes,
    Inodes,
}

/// Room of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Its size, bytes.
    pub total_bytes: u64,
    /// What an unprivileged writer can still take, bytes.
    pub available_bytes: u64,
    /// Its inodes; 0 where it has no fixed number.
    pub inodes_total: u64,
    /// Free ones.
    pub inodes_free: u64,
}

/// Thresholds, as fractions that are available or free: those of the rules `disk-high-water` and `inode-high-water`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Marks {
    /// High-water mark of bytes.
    pub high_available: f64,
    /// Low-water mark of bytes.
    pub low_available: f64,
    /// High-water mark of inodes.
    pub high_inodes: f64,
    /// Low-water mark of inodes.
    pub low_inodes: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    GiveUp(Weight),
    /// Bring what is held up to this.
    Make(Weights),
}

/// Weighs room against ballast.
#[derive(Debug)]
pub(super) struct Scale {
    wanted: Weights,
    held: Weights,
    marks: Marks,
    again_after_ns: u64,
    /// Since when there has been room for what is owed, boot ns.
    calm_since: Option<u64>,
}

impl Scale {
    pub(super) fn new(wanted: Weights, marks: Marks, again_after_ns: u64) -> Self {
        Self { wanted, held: Weights::default(), marks, again_after_ns, calm_since: None }
    }

    pub(super) fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    /// Takes down what is held.
    pub(super) fn holds(&mut self, held: Weights) {
        self.held = held;
    }

    /// What is wanted and not held.
    pub(super) fn owes(&self) -> Weights {
        self.wanted.without(self.held)
    }

    /// At a start: what is owed is taken where that leaves the filesystem below its high-water marks.
    pub(super) fn begin(&self, room: &Room) -> Vec<Order> {
        let fits = self.owes().any() && self.leaves(room, self.marks.high_available, self.marks.high_inodes);
        fits.then_some(Order::Make(self.wanted)).into_iter().collect()
    }

    /// What `room` at `boot_ns` asks for.
    pub(super) fn weigh(&mut self, room: &Room, boot_ns: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.held.bytes > 0 && room.available_bytes < self.held.bytes {
            orders.push(Order::GiveUp(Weight::Bytes));
        }
        if self.held.inodes > 0 && room.inodes_total > 0 && room.inodes_free < self.held.inodes {
            orders.push(Order::GiveUp(Weight::Inodes));
        }
        let calm = orders.is_empty()
            && self.owes().any()
            && self.leaves(room, self.marks.high_available, self.marks.high_inodes)
            && self.leaves(room, self.marks.low_available, self.marks.low_inodes);
        if !calm {
            self.calm_since = None;
            return orders;
        }
        let since = *self.calm_since.get_or_insert(boot_ns);
        if boot_ns.saturating_sub(since) >= self.again_after_ns {
            // One that fails is not tried again before as long.
            self.calm_since = None;
            orders.push(Order::Make(self.wanted));
        }
        orders
    }

    /// Whether taking what is owed leaves these fractions, and not so little that it would be given up at once.
    fn leaves(&self, room: &Room, available: f64, inodes: f64) -> bool {
        let owed = self.owes();
        let enough = |have: u64, take: u64, total: u64, fraction: f64, held: u64| {
            let floor = ((total as f64 * fraction).ceil() as u64).max(held);
            take == 0 || have.checked_sub(take).is_some_and(|left| left >= floor)
        };
        let bytes = enough(room.available_bytes, owed.bytes, room.total_bytes, available, self.wanted.bytes);
        let counted = room.inodes_total > 0;
        let inodes =
            !counted || enough(room.inodes_free, owed.inodes, room.inodes_total, inodes, self.wanted.inodes);
        bytes && inodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARKS: Marks =
        Marks { high_available: 0.15, low_available: 0.20, high_inodes: 0.15, low_inodes: 0.20 };
    const WANTED: Weights = Weights { bytes: 10, inodes: 5 };
    const SECOND: u64 = 1_000_000_000;

    fn room(available_bytes: u64, inodes_free: u64) -> Room {
        Room { total_bytes: 1_000, available_bytes, inodes_total: 1_000, inodes_free }
    }

    fn scale(held: Weights) -> Scale {
        let mut scale = Scale::new(WANTED, MARKS, 60 * SECOND);
        scale.holds(held);
        scale
    }

    #[test]
    fn each_weight_goes_when_less_is_left_than_it_holds() {
        let mut s = scale(WANTED);
        assert_eq!(s.weigh(&room(10, 5), 0), []);
        assert_eq!(s.weigh(&room(9, 5), 0), [Order::GiveUp(Weight::Bytes)]);
        assert_eq!(s.weigh(&room(10, 4), 0), [Order::GiveUp(Weight::Inodes)]);
        assert_eq!(s.weigh(&room(0, 0), 0), [Order::GiveUp(Weight::Bytes), Order::GiveUp(Weight::Inodes)]);
        let uncounted = Room { inodes_total: 0, inodes_free: 0, ..room(10, 0) };
        assert_eq!(s.weigh(&uncounted, 0), [], "btrfs has no number of inodes");
    }

    #[test]
    fn it_comes_back_only_after_a_while_of_room_below_the_low_mark() {
        let mut s = scale(Weights::default());
        // 200 must be left of 1,000.
        assert_eq!(s.weigh(&room(209, 900), 0), []);
        assert_eq!(s.weigh(&room(209, 900), 100 * SECOND), []);
        assert_eq!(s.weigh(&room(210, 900), 200 * SECOND), []);
        assert_eq!(s.weigh(&room(210, 900), 259 * SECOND), []);
        assert_eq!(s.weigh(&room(209, 900), 259 * SECOND), [], "a moment without room begins the time anew");
        assert_eq!(s.weigh(&room(210, 900), 261 * SECOND), []);
        assert_eq!(s.weigh(&room(210, 900), 321 * SECOND), [Order::Make(WANTED)]);
        assert_eq!(s.weigh(&room(210, 900), 322 * SECOND), [], "one that failed is not tried at each look");
    }

    #[test]
    fn a_start_needs_the_high_mark_alone() {
        assert_eq!(scale(Weights::default()).begin(&room(160, 900)), [Order::Make(WANTED)]);
        assert_eq!(scale(Weights::default()).begin(&room(159, 900)), []);
        assert_eq!(scale(Weights::default()).begin(&room(160, 154)), []);
        assert_eq!(scale(WANTED).begin(&room(900, 900)), []);
    }

    proptest! {
        /// Whatever happens around it, taking ballast never crosses a high-water mark and is never undone at once.
        #[test]
        fn taking_it_never_brings_trouble(looks in proptest::collection::vec((0u64..1_000, 0u64..1_000, 0u64..100), 1..100)) {
            let mut s = scale(Weights::default());
            let mut now = 0;
            for (available, inodes, pause) in looks {
                now += pause * SECOND;
                for order in s.weigh(&room(available, inodes), now) {
                    match order {
                        Order::Make(all) => {
                            let owed = s.owes();
                            // What is held already was weighed when it was taken.
                            prop_assert!(owed.bytes == 0 || available - owed.bytes >= 200);
                            prop_assert!(owed.inodes == 0 || inodes - owed.inodes >= 200);
                            s.holds(all);
                            prop_assert_eq!(s.weigh(&room(available - owed.bytes, inodes - owed.inodes), now), vec![]);
                        }
                        Order::GiveUp(Weight::Bytes) => s.holds(Weights { bytes: 0, ..s.held }),
                        Order::GiveUp(Weight::Inodes) => s.holds(Weights { inodes: 0, ..s.held }),
                    }
                }
            }
        }
    }
}
