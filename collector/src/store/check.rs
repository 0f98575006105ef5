//! The check: what a block is to its chain. Pure; asks nothing but the chain's head.
//!
//! Invariants: a block is stored only where it continues its chain, so that a chain in a journal is whole or says where
//! it is not. Nothing is stored twice: what is at or before the head is known, or it is a fork.

use dogwatch::chain::Head;
use dogwatch::record::{Hash, Seq};

/// What of a block decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// First seq within.
    pub first_seq: Seq,
    /// Last seq within.
    pub last_seq: Seq,
    /// The block before, as this one says.
    pub previous: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// The oldest seq that the node still holds, where it said so: what is older cannot be sent again.
    pub oldest_held: Option<Seq>,
}

/// What is to be done with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It continues the chain.
    Next,
    /// It does not reach the head, but the node has nothing between: store it, the hole stays visible in the chain.
    AfterLoss,
    /// It is the head.
    Known,
    /// It lies before the head: only the journal can tell whether it is the block that is known there.
    Before,
    /// It denies the head: its predecessor should be the head and is another block.
    Fork {
        /// The head's hash.
        known: Hash,
    },
    /// What comes before it is missing here and the node may still have it.
    Rewind {
        /// Send again from here.
        expected_seq: Seq,
    },
}

/// Judges `link` by the chain's head; `None` where the chain is new.
pub fn judge(head: Option<Head>, link: &Link) -> Verdict {
    let reachable = |expected: Seq| match link.oldest_held {
        // Nothing older than this very block is left: asking for it would go round forever.
        Some(oldest) if link.first_seq <= oldest => Verdict::AfterLoss,
        Some(oldest) => Verdict::Rewind { expected_seq: expected.max(oldest) },
        None => Verdict::Rewind { expected_seq: expected },
    };
    let Some(head) = head.filter(|h| h.last_seq > 0) else {
        return if link.previous == Hash::ZERO { Verdict::Next } else { reachable(1) };
    };
    if link.first_seq > head.last_seq {
        if link.previous == head.hash {
            Verdict::Next
        } else if link.first_seq == head.last_seq.saturating_add(1) || link.previous == Hash::ZERO {
            // Its predecessor ends where the head ends, or it claims to be the first: a rewind cannot mend that.
            Verdict::Fork { known: head.hash }
        } else {
            reachable(head.last_seq + 1)
        }
    } else if link.last_seq == head.last_seq && link.hash == head.hash {
        Verdict::Known
    } else {
        Verdict::Before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Hash = Hash([1; 32]);
    const B: Hash = Hash([2; 32]);
    const C: Hash = Hash([3; 32]);

    fn link(first: Seq, last: Seq, previous: Hash, hash: Hash) -> Link {
        Link { first_seq: first, last_seq: last, previous, hash, oldest_held: None }
    }

    #[test]
    fn a_chain_begins_with_no_predecessor() {
        assert_eq!(judge(None, &link(1, 4, Hash::ZERO, A)), Verdict::Next);
        assert_eq!(judge(Some(Head::default()), &link(1, 4, Hash::ZERO, A)), Verdict::Next);
        assert_eq!(judge(None, &link(5, 6, A, B)), Verdict::Rewind { expected_seq: 1 });
    }

    #[test]
    fn the_next_block_names_the_head_and_may_jump() {
        let head = Some(Head { last_seq: 4, hash: A });
        assert_eq!(judge(head, &link(5, 9, A, B)), Verdict::Next);
        assert_eq!(judge(head, &link(50, 90, A, B)), Verdict::Next);
        assert_eq!(judge(head, &link(50, 90, C, B)), Verdict::Rewind { expected_seq: 5 });
        assert_eq!(judge(head, &link(1, 4, Hash::ZERO, A)), Verdict::Known);
    }

    #[test]
    fn what_denies_the_head_is_a_fork_not_a_rewind() {
        let head = Some(Head { last_seq: 4, hash: A });
        assert_eq!(judge(head, &link(5, 9, C, B)), Verdict::Fork { known: A });
        assert_eq!(judge(head, &link(50, 90, Hash::ZERO, B)), Verdict::Fork { known: A });
        assert_eq!(judge(head, &link(3, 4, C, B)), Verdict::Before);
    }

    #[test]
    fn what_the_node_no_longer_holds_is_not_asked_for() {
        let head = Some(Head { last_seq: 4, hash: A });
        let mut l = link(50, 90, C, B);
        l.oldest_held = Some(20);
        assert_eq!(judge(head, &l), Verdict::Rewind { expected_seq: 20 });
        l.oldest_held = Some(50);
        assert_eq!(judge(head, &l), Verdict::AfterLoss);
        assert_eq!(judge(None, &l), Verdict::AfterLoss);
    }

    proptest! {
        #[test]
        fn a_rewind_never_asks_for_the_block_that_was_just_sent(
            head_seq in 0u64..50, first in 1u64..60, len in 0u64..10, previous in 0u8..4, held in proptest::option::of(1u64..60),
        ) {
            let head = Some(Head { last_seq: head_seq, hash: A });
            let l = Link { oldest_held: held, ..link(first, first + len, Hash([previous; 32]), B) };
            if let Verdict::Rewind { expected_seq } = judge(head, &l) {
                // From 1 it is asked only when nothing at all is known.
                prop_assert!(expected_seq < first || (head_seq == 0 && expected_seq == 1));
            }
        }
    }
}
