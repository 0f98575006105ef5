//! The fold gives the same rows however the journals interleave, and after expiry what a rebuild would give.

use dogwatch::record::{CleanupMode, FindingState, Incarnation, Moment, Subject};
use proptest::prelude::*;

use super::super::index::{Checkpoint, Folded, Index, Span, examine};
use super::super::memory_index::MemoryIndex;
use super::*;
use crate::incident::IncidentState;

fn at(n: usize) -> Position {
    Position { segment: 1 + n as u64 / 7, offset: 100 + n as u64 }
}

fn node(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn finding(id: u8, state: u8) -> Finding {
    Finding {
        id: format!("f-{id}"),
        rule: "r".to_owned(),
        severity: Severity::High,
        state: [FindingState::Raised, FindingState::Updated, FindingState::Cleared][usize::from(state) % 3],
        subject: Subject::new("mount", "/"),
        summary: "s".repeat(500),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: 0,
        pod: None,
    }
}

fn action(id: u8, state: u8) -> Action {
    let states = [ActionState::Planned, ActionState::Started, ActionState::Done, ActionState::Refused];
    Action {
        id: format!("a-{id}"),
        mount: "/".to_owned(),
        mode: CleanupMode::Auto,
        state: states[usize::from(state) % 4],
        reason: String::new(),
        finding_id: None,
        actor: "node".to_owned(),
        planned_bytes: 5,
        freed_bytes: None,
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        objects: Vec::new(),
        refused: Vec::new(),
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    }
}

/// One urgent record: node, wall time, and what it says.
type Said = (u8, i64, bool, u8, u8);

fn record((_, wall_ns, is_finding, id, state): Said, seq: Seq) -> Record {
    let body = if is_finding {
        Body::Finding(Box::new(finding(id, state)))
    } else {
        Body::Action(Box::new(action(id, state)))
    };
    Record { seq, at: Moment { wall_ns, boot_ns: 1 }, body }
}

fn decided() -> impl Strategy<Value = Decision> {
    let piece = (any::<bool>(), 0u8..6).prop_map(|(f, id)| {
        if f { Piece::Finding(format!("f-{id}")) } else { Piece::Action(format!("a-{id}")) }
    });
    let incident = (0u8..3).prop_map(|i| format!("inc-{i}"));
    let what = prop_oneof![
        (incident.clone(), 0u8..3).prop_map(|(id, n)| What::IncidentOpened {
            id,
            title: "t".to_owned(),
            severity: Severity::High,
            node: node(n),
            topic: "disk:/".to_owned(),
            reason: "r".to_owned(),
        }),
        (incident.clone(), piece, 0u8..3).prop_map(|(id, piece, n)| What::IncidentJoined {
            id,
            piece,
            node: node(n),
            reason: "r".to_owned(),
        }),
        (incident.clone(), 0u8..3).prop_map(|(id, n)| What::IncidentRetitled {
            id,
            title: format!("t; also /{n}"),
            lead: "t".to_owned(),
            topic: "disk:/".to_owned(),
            subject: Some(format!("mount /{n}")),
        }),
        incident.prop_map(|id| What::IncidentMoved {
            id,
            state: IncidentState::Resolved,
            reason: "over".to_owned(),
        }),
        (0u8..6, 0u8..3, proptest::option::of(0u8..3), 1u64..9).prop_map(|(id, state, n, count)| {
            What::FindingSaid { node: n.map(node), finding: Box::new(finding(id, state)), count }
        }),
        (0u8..3).prop_map(|n| What::NodeEnrolled {
            node: node(n),
            signing_key: "00".to_owned(),
            token: "t".to_owned(),
        }),
        (0u8..3).prop_map(|n| What::TokenSpent { token: "t".to_owned(), node: node(n) }),
        (0u8..3, 0u8..3).prop_map(|(c, n)| What::Commanded {
            command: format!("c{c}"),
            node: node(n),
            order: "plan /".to_owned(),
        }),
        (0u8..3).prop_map(|c| What::CommandEnded {
            command: format!("c{c}"),
            ok: true,
            outcome: "o".to_owned()
        }),
    ];
    (0i64..50, what).prop_map(|(wall_ns, what)| Decision { wall_ns, actor: "collector".to_owned(), what })
}

fn said() -> impl Strategy<Value = Said> {
    (0u8..3, 0i64..50, any::<bool>(), 0u8..6, 0u8..4)
}

/// Folds the journals, the next frame from the one that `turns` names, `batch` frames at a time.
fn folded(
    urgent: &[(Position, ChainId, Record)],
    truth: &[Decision],
    turns: &[bool],
    batch: usize,
) -> MemoryIndex {
    let index = MemoryIndex::default();
    let mut checkpoint = Checkpoint::empty();
    let (mut u, mut t) = (urgent.iter(), truth.iter().enumerate());
    let mut turns = turns.iter().copied().cycle();
    let mut more = true;
    while more {
        let mut draft = Draft::new(&index);
        for _ in 0..batch {
            let urgent_first = turns.next().unwrap_or(true) && u.len() > 0 || t.len() == 0;
            if urgent_first {
                let Some((at, chain, record)) = u.next() else {
                    more = false;
                    break;
                };
                fold_block(&mut draft, *at, chain, record.seq, std::slice::from_ref(record)).unwrap();
            } else if let Some((i, d)) = t.next() {
                fold_decision(&mut draft, at(i), d).unwrap();
            }
        }
        let mut next = checkpoint.clone();
        next.urgent = Folded::default();
        draft.apply(&mut next).unwrap();
        checkpoint = next;
    }
    assert_eq!(examine(&index).unwrap(), Some(checkpoint));
    index
}

fn journal(said: &[Said]) -> Vec<(Position, ChainId, Record)> {
    let mut seqs = [0u64; 256];
    said.iter()
        .enumerate()
        .map(|(i, s)| {
            let seq = &mut seqs[usize::from(s.0)];
            *seq += 1;
            let chain =
                ChainId { node: node(s.0), incarnation: Incarnation([s.0; 16]), stream: Stream::Urgent };
            (at(i), chain, record(*s, *seq))
        })
        .collect()
}

fn rows(index: &MemoryIndex) -> Vec<(Vec<u8>, Vec<u8>)> {
    index.scan(&Span { from: vec![1], to: None, reverse: false }, usize::MAX).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rows_do_not_depend_on_how_journals_interleave(
        said in proptest::collection::vec(said(), 0..60),
        truth in proptest::collection::vec(decided(), 0..40),
        turns in proptest::collection::vec(any::<bool>(), 1..20),
        batch in 1usize..20,
    ) {
        let urgent = journal(&said);
        let one = folded(&urgent, &truth, &[true], 1);
        let other = folded(&urgent, &truth, &turns, batch);
        prop_assert_eq!(rows(&one), rows(&other));
        let last = folded(&urgent, &truth, &[false], 7);
        prop_assert_eq!(rows(&one), rows(&last));
    }

    #[test]
    fn folding_again_changes_nothing(said in proptest::collection::vec(said(), 0..30)) {
        let urgent = journal(&said);
        let twice: Vec<_> = urgent.iter().cloned().chain(urgent.iter().cloned()).collect();
        prop_assert_eq!(rows(&folded(&urgent, &[], &[true], 3)), rows(&folded(&twice, &[], &[true], 5)));
    }
}

#[test]
fn of_many_steps_the_first_and_the_newest_stay() {
    let said: Vec<Said> = (0..200).map(|i| (1, i, true, 1, u8::from(i > 0))).collect();
    let index = folded(&journal(&said), &[], &[true], 50);
    let row = index.get(&life_key(Table::Finding, "f-1", &Origin::Node(node(1)))).unwrap().unwrap();
    let life: Life = decode(&row).unwrap();
    assert_eq!((life.steps.len(), life.count), (MAX_STEPS, 200));
    assert_eq!(life.steps[0].wall_ns, 0);
    assert_eq!(life.steps[1].wall_ns, 200 - MAX_STEPS as i64 + 1);
    assert_eq!(life.steps[0].summary.len(), MAX_STEP_SUMMARY);
    assert_eq!(life.steps.last().unwrap().evidence[0].seq, 200);
}

#[test]
fn a_borrowed_id_stays_with_its_node() {
    let index = folded(&journal(&[(1, 5, true, 1, 0), (2, 6, true, 1, 2)]), &[], &[true], 9);
    for (n, over) in [(1, false), (2, true)] {
        let row = index.get(&life_key(Table::Finding, "f-1", &Origin::Node(node(n)))).unwrap().unwrap();
        assert_eq!(decode::<Life>(&row).unwrap().over, over);
    }
}
