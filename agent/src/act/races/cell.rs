//! The cells of the matrix: which gaps, which tricks, which of both cannot be, and what must come of the others.

use super::trick::{Came, Locus, Trick};
use crate::act::gaps::Gap;

/// What the executor is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Survey,
    Removal,
    Restore,
}

/// One trick in one gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub(super) phase: Phase,
    pub(super) gap: Gap,
    pub(super) trick: Trick,
    pub(super) locus: Locus,
}

/// Each gap that an act follows, in the order in which they are passed. After `Unlinked` comes none.
pub(super) const GAPS: [(Phase, Gap); 20] = [
    (Phase::Survey, Gap::FolderListed),
    (Phase::Survey, Gap::SurveySeen),
    (Phase::Survey, Gap::Found),
    (Phase::Removal, Gap::Begin),
    (Phase::Removal, Gap::FolderOpen),
    (Phase::Removal, Gap::Found),
    (Phase::Removal, Gap::ObjectOpen),
    (Phase::Removal, Gap::Vetted),
    (Phase::Removal, Gap::Leased),
    (Phase::Removal, Gap::Claimed),
    (Phase::Removal, Gap::Digesting),
    (Phase::Removal, Gap::Seen),
    (Phase::Removal, Gap::Digested),
    (Phase::Removal, Gap::Asked),
    (Phase::Removal, Gap::Moved),
    (Phase::Removal, Gap::AskedAgain),
    (Phase::Removal, Gap::Compared),
    (Phase::Removal, Gap::PuttingBack),
    (Phase::Restore, Gap::LeftoverSeen),
    (Phase::Restore, Gap::LeftoverPlaced),
];

impl Cell {
    /// Every cell, also those that cannot be.
    pub(super) fn all() -> Vec<Self> {
        let tricks = Trick::ALL.iter().copied().filter(|t| *t != Trick::Nudge);
        let done = tricks.flat_map(|t| {
            let entry = t.is_to_name().then_some((t, Locus::Entry));
            std::iter::once((t, Locus::Name)).chain(entry)
        });
        let done: Vec<_> = done.collect();
        let cells = GAPS.iter().flat_map(|&(phase, gap)| {
            done.iter().map(move |&(trick, locus)| Self { phase, gap, trick, locus })
        });
        cells.collect()
    }

    /// Whether the object lies in quarantine at this gap.
    pub(super) fn is_moved(self) -> bool {
        self.phase == Phase::Restore || self.phase == Phase::Removal && self.gap >= Gap::Moved
    }

    /// Why there is nothing to try here.
    pub(super) fn impossible(self) -> Option<&'static str> {
        use Trick::{BindOverFile, Delete, Hold, QuarantinePremade, RenameAway, RenameOver};
        let removal = self.phase == Phase::Removal;
        match (self.locus, self.trick) {
            (Locus::Entry, _) if !self.is_moved() => Some("it does not lie in quarantine yet"),
            (Locus::Name, RenameAway | RenameOver | BindOverFile | Delete) if self.is_moved() => {
                Some("nothing bears its name while it lies in quarantine; there, it is tried")
            }
            (_, QuarantinePremade) if self.is_moved() => Some("its name in quarantine is taken by itself"),
            (_, Hold | QuarantinePremade) if !removal => Some("nothing is removed or moved away here"),
            _ => None,
        }
    }

    /// Why this cannot be prevented, if it cannot. It takes root's rights on the node, in the quarantine itself, and
    /// between two neighbouring system calls; it is seen and told, unless
    /// the attacker did away with the object himself: then nothing tells his deed from the executor's.
    pub(super) fn beyond(self) -> Option<&'static str> {
        let unlinks = self.gap == Gap::Compared && self.locus == Locus::Entry;
        let goes =
            !matches!(self.trick, Trick::RenameAway | Trick::Delete | Trick::Folder | Trick::BindOverFile);
        (unlinks && goes).then_some("Linux cannot unlink by descriptor: root swaps what root may enter")
    }

    /// Why whoever has to wait for the executor's lease comes too late here, if he does.
    pub(super) fn too_late(self) -> Option<&'static str> {
        let last = self.phase == Phase::Removal && self.gap == Gap::Compared;
        last.then_some(
            "an open that waits for a lease goes on when that is released, and that is after the unlinking",
        )
    }

    /// Whether the attack does away with the object itself.
    pub(super) fn destroys(self) -> bool {
        matches!(self.trick, Trick::Delete | Trick::RenameOver)
    }

    /// Whether the object must not be removed, given what came of the trick.
    pub(super) fn must_stay(self, came: Came) -> bool {
        use Trick::{
            AppendOnly, BindOverFolder, BindOverRoot, DetachRoot, FolderAway, FolderSwapped, FolderSymlinked,
            Hold, Immutable, QuarantinePremade, QuarantineSymlinked,
        };
        if self.gap == Gap::PuttingBack {
            return true;
        }
        match (came, self.trick) {
            (Came::Not(_), _) => false,
            (Came::Waits, _) => self.gap <= Gap::AskedAgain,
            (_, Hold) => self.gap <= Gap::Moved,
            // The folder went with its object, or what is opened stays what it is: the plan's object goes, or nothing.
            (_, FolderAway | FolderSwapped | FolderSymlinked | BindOverFolder) => self.gap == Gap::Begin,
            (_, BindOverRoot | DetachRoot | QuarantineSymlinked) => false,
            (_, Immutable | AppendOnly | QuarantinePremade) => true,
            (_, trick) if trick.is_to_inode() => self.gap <= Gap::AskedAgain,
            _ if self.locus == Locus::Name => self.gap <= Gap::Asked,
            // At last, nothing tells the attacker's doing away with the object from the executor's.
            (_, Trick::RenameOver) => self.gap <= Gap::AskedAgain,
            _ => true,
        }
    }
}
