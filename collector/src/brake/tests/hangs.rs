//! Tasks that hang: what the kernel's line says of one, what the scan of processes does, and in which order.

use dogwatch::record::Fact;

use super::*;
use FindingState::{Cleared, Raised, Updated};

/// By the kernel's line, or by the scan.
const LINE: bool = false;
const SCAN: bool = true;

/// What one finding of a task says, by the kernel's line or by the scan.
fn hangs(scanned: bool, of_pod: bool, state: FindingState) -> Finding {
    let facts = [Fact::new("stuck_seconds", 400), Fact::new("uninterruptible_number", 3)];
    Finding {
        subject: Subject::new("process", "jbd2/sda1-8 (301)"),
        facts: facts[..if scanned { 2 } else { 1 }].to_vec(),
        pod: of_pod.then(dogwatch::record::Pod::default),
        state,
        ..finding("hung-tasks", Severity::High, 9)
    }
}

fn begin(desk: &mut Desk) {
    desk.brake.ask(ask(0, NEW), desk.now);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
}

/// Whether what is said of the task stops cleanups.
fn stops(desk: &mut Desk, scanned: bool, state: FindingState) -> bool {
    !desk.brake.observe_finding(&node(0), &hangs(scanned, false, state), None).is_empty()
}

#[test]
fn a_task_that_hangs_stops_cleanups_only_where_the_scan_says_whose_it_is() {
    // The kernel's line names a thread of whomever.
    for (scanned, of_pod, trips) in
        [(LINE, false, false), (LINE, true, false), (SCAN, true, false), (SCAN, false, true)]
    {
        let mut desk = Desk::new(settings(3));
        begin(&mut desk);
        let out = desk.brake.observe_finding(&node(0), &hangs(scanned, of_pod, Raised), None);
        assert_eq!(!out.is_empty(), trips, "{scanned} {of_pod}");
    }
    // What hung before is no news after the kernel said it, too.
    let mut desk = Desk::new(settings(3));
    assert!(!stops(&mut desk, SCAN, Raised));
    begin(&mut desk);
    assert!(!stops(&mut desk, LINE, Updated) && !stops(&mut desk, SCAN, Updated));
}

#[test]
fn a_task_of_which_the_kernel_spoke_before_the_cleanup_is_no_news_once_the_scan_finds_it_and_one_after_is() {
    let mut desk = Desk::new(settings(3));
    assert!(!stops(&mut desk, LINE, Raised));
    begin(&mut desk);
    assert!(!stops(&mut desk, SCAN, Updated), "it hung before");
    // Over, and again.
    assert!(!stops(&mut desk, SCAN, Cleared) && !stops(&mut desk, LINE, Raised));
    assert!(stops(&mut desk, SCAN, Updated), "it hangs anew since the cleanup");
    // Late, too.
    let mut desk = Desk::new(settings(3));
    begin(&mut desk);
    desk.well(0);
    desk.settle();
    assert!(desk.brake.places().is_empty());
    assert!(!stops(&mut desk, LINE, Raised) && stops(&mut desk, SCAN, Updated));
}

#[test]
fn lines_about_any_number_of_tasks_take_no_room_of_what_the_node_was_ill_with() {
    let mut desk = Desk::new(settings(3));
    for i in 0..1_000 {
        let line = Finding { id: format!("line-{i}"), ..hangs(LINE, false, Raised) };
        assert_eq!(desk.brake.observe_finding(&node(0), &line, None), []);
    }
    let ill = |i| Finding { id: format!("ill-{i}"), ..finding("disk-errors", Severity::High, 9) };
    (0..30).for_each(|i| assert_eq!(desk.brake.observe_finding(&node(0), &ill(i), None), []));
    begin(&mut desk);
    for i in 0..30 {
        let said = Finding { state: Updated, ..ill(i) };
        assert_eq!(desk.brake.observe_finding(&node(0), &said, None), [], "{i}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Said(bool),
    Over,
    Began,
}

proptest! {
    #[test]
    fn a_task_stops_cleanups_when_the_scan_says_it_of_one_that_nobody_knew_before(
        events in prop::collection::vec(
            prop_oneof![
                3 => any::<bool>().prop_map(Event::Said),
                1 => Just(Event::Over),
                1 => Just(Event::Began),
            ],
            1..12,
        )
    ) {
        let mut desk = Desk::new(settings(3));
        let (mut begun, mut known) = (false, false);
        for event in events {
            match event {
                Event::Said(scanned) => {
                    let wrong = begun && scanned && !known;
                    prop_assert_eq!(stops(&mut desk, scanned, Updated), wrong);
                    known |= scanned || !begun;
                }
                Event::Over => {
                    prop_assert!(!stops(&mut desk, SCAN, Cleared));
                    known = false;
                }
                Event::Began if !begun => {
                    begin(&mut desk);
                    begun = true;
                }
                Event::Began => {}
            }
        }
    }
}
