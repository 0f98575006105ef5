//! By what a policy is known to be proven, and who can make that be forgotten.

use super::*;
use crate::brake::ledger::{MAX_POLICIES, MAX_POLICIES_OF_NODE};
use crate::store::decision::PermitEnd;

fn policy(n: u16) -> Hash {
    let mut hash = [7; 32];
    hash[..2].copy_from_slice(&n.to_le_bytes());
    Hash(hash)
}

/// A cleanup of a node under a policy that went well.
fn well(i: usize, policy: Hash) -> Vec<What> {
    let (node, action) = (node(i), format!("a-{i}"));
    let granted = What::PermitGranted {
        node: node.clone(),
        action: action.clone(),
        mount: "/var".to_owned(),
        policy,
        planned_bytes: 1,
        planned_objects: 1,
        cleaners: Vec::new(),
        canary: true,
    };
    let (state, freed_bytes) = (ActionState::Done, 1);
    let returned = What::PermitReturned { node: node.clone(), action: action.clone(), state, freed_bytes };
    vec![granted, returned, What::PermitEnded { node, action, how: PermitEnd::Well }]
}

#[test]
fn a_node_that_makes_policies_up_makes_none_of_the_others_unproven() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    for n in 0..1_000 {
        desk.decide(well(0, policy(n)));
    }
    assert_eq!(desk.brake.proven(), [OLD]);
    let its = desk.brake.ledger().policies.iter().filter(|p| p.nodes.contains(&node(0)));
    assert_eq!(its.count(), MAX_POLICIES_OF_NODE);
    // One that is rolled out meanwhile is proven as any.
    for i in [1, 2] {
        desk.decide(well(i, NEW));
        for n in 0..100 {
            desk.decide(well(0, policy(n)));
        }
    }
    assert_eq!(desk.brake.proven(), [OLD, NEW]);
}

#[test]
fn policies_that_several_nodes_proved_make_room_for_each_other_the_one_unused_for_longest_first() {
    let mut desk = Desk::new(settings(3));
    for n in 0..MAX_POLICIES as u16 + 5 {
        desk.decide(well(1, policy(n)));
        desk.decide(well(2, policy(n)));
        // Used all the time.
        desk.decide(well(1, policy(0)));
    }
    let proven = desk.brake.proven();
    assert_eq!(proven.len(), MAX_POLICIES);
    for (n, is) in [(0, true), (1, false), (5, false), (6, true), (MAX_POLICIES as u16 + 4, true)] {
        assert_eq!(proven.contains(&policy(n)), is, "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_one_node_says_went_well_takes_nothing_from_what_others_proved(
        said in prop::collection::vec((0..40usize, 0..300u16), 1..400),
    ) {
        let mut ledger = Ledger::default();
        for (i, n) in said {
            let before = ledger.clone();
            for what in well(i, policy(n)) {
                ledger.apply(&Decision { wall_ns: 1, actor: "collector".to_owned(), what });
            }
            let one = |ledger: &Ledger| ledger.policies.iter().filter(|p| p.nodes.len() == 1).count();
            let its = |ledger: &Ledger| {
                ledger.policies.iter().filter(|p| p.nodes.len() == 1 && p.nodes.contains(&node(i))).count()
            };
            prop_assert!(its(&ledger) <= MAX_POLICIES_OF_NODE);
            prop_assert!(one(&ledger) <= MAX_POLICIES && ledger.policies.len() <= 2 * MAX_POLICIES);
            let now = ledger.proof(&policy(n)).map_or(0, |p| p.nodes.len());
            prop_assert!(now > 0, "it is remembered");
            let gone = before.policies.iter().filter(|p| ledger.proof(&p.policy).is_none());
            for gone in gone {
                if gone.nodes.len() > 1 {
                    prop_assert!(now > 1, "one node's word takes what several proved");
                } else if !gone.nodes.contains(&node(i)) {
                    // Only where there is no room, and once.
                    prop_assert!(one(&before) >= MAX_POLICIES && its(&before) == 0, "{:?}", gone.nodes);
                }
            }
        }
    }
}
