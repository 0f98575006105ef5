//! What a node that says everything costs, and whom. Costs are compared with each other within one run, in the thread's own
//! CPU time.

use super::tests::{finding, node};
use super::topic::MAX_ABOUT;
use super::*;

/// 2026-11-21 02:10:00 UTC.
const T0: i64 = 1_795_227_000 * SECOND_NS;

fn fresh() -> Correlator {
    Correlator::new(Policy::default(), vec![], [])
}

fn on_mount(n: usize, severity: Severity) -> Finding {
    Finding { severity, ..finding(&format!("f-{n}"), "disk-high-water", "mount", &format!("/m{n}")) }
}

/// Most that a node can say: each on a mount of its own, every third of a rank that opens nothing.
fn say(c: &mut Correlator, numbers: std::ops::Range<usize>) -> Vec<Decision> {
    let severity = |n: usize| if n.is_multiple_of(3) { Severity::Low } else { Severity::High };
    numbers.flat_map(|n| c.observe_finding(&node(), &on_mount(n, severity(n)), T0 + n as i64)).collect()
}

fn cpu_ns() -> i64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    at.tv_sec * SECOND_NS + at.tv_nsec
}

/// What the cheapest hundred of four hundred findings take.
fn cost_of(c: &mut Correlator, first: usize) -> i64 {
    let hundreds = (0..4).map(|i| {
        let begun = cpu_ns();
        say(c, first + i * 100..first + (i + 1) * 100);
        cpu_ns() - begun
    });
    hundreds.min().unwrap()
}

#[test]
fn a_finding_costs_about_the_same_however_many_are_remembered() {
    let mut c = fresh();
    say(&mut c, 0..600);
    let few = cost_of(&mut c, 600);
    say(&mut c, 1_000..9_600);
    let many = cost_of(&mut c, 9_600);
    assert!(many < 4 * few, "a hundred take {few} ns after 600 and {many} ns after 9,600");
}

#[test]
fn an_incident_that_comes_to_be_about_everything_stops_saying_so() {
    let mut c = fresh();
    let out = say(&mut c, 0..4_000);
    let retitled = out.iter().filter(|d| matches!(d.what, What::IncidentRetitled { .. })).count();
    let full = c.incidents.values().filter(|i| i.about.len() >= MAX_ABOUT).count();
    assert!(full > 0 && retitled == full * MAX_ABOUT, "{retitled} titles of {full}");
    assert!(c.incidents.values().any(|i| i.title.ends_with(" and at least 61 more")));
}

#[test]
fn a_node_that_says_everything_makes_no_other_forget() {
    let mut c = fresh();
    let two: NodeName = "node-2".parse().unwrap();
    let low = Finding { severity: Severity::Low, ..finding("f-low", "inode-high-water", "mount", "/var") };
    assert!(c.observe_finding(&two, &low, T0).is_empty());
    for n in 0..MAX_LOOSE + 5 {
        assert!(c.observe_finding(&node(), &on_mount(n, Severity::Low), T0).is_empty());
    }
    let out = c.observe_finding(&two, &finding("f-1", "disk-high-water", "mount", "/var"), T0);
    let joined: Vec<_> = out
        .iter()
        .filter_map(|d| match &d.what {
            What::IncidentJoined { piece: Piece::Finding(id), .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(joined, ["f-1", "f-low"]);
}

#[test]
fn what_is_remembered_is_found_again_until_it_is_forgotten() {
    let mut c = fresh();
    say(&mut c, 0..300);
    for n in 0..300 {
        let over = Finding { state: FindingState::Cleared, ..on_mount(n, Severity::High) };
        c.observe_finding(&node(), &over, T0 + SECOND_NS);
    }
    let quiet = T0 + SECOND_NS + Policy::default().quiet_ns;
    assert_eq!(c.tick(quiet).len(), MAX_LIVE_PER_NODE);
    c.tick(quiet + Policy::default().rejoin_ns + 1);
    assert!(c.incidents.is_empty() && c.of_node.is_empty() && c.actions.is_empty());
    assert_eq!(format!("{:?}", c.findings), format!("{:?}", Known::counted(300)), "nothing is left of it");
}

#[test]
fn a_finding_whose_record_is_not_read_keeps_its_incident_until_it_clears() {
    let mut c = fresh();
    let out = say(&mut c, 1..2);
    let mut incident = Incident::open(&out[0]).unwrap();
    out[1..].iter().for_each(|d| assert!(incident.apply(d)));
    let mut c = Correlator::new(Policy::default(), vec![incident], []);
    c.never_again(["inc-2026-11-21-041", "inc-2026-11-21-007", "no incident"]);
    c.holding(&[Unread { node: node(), id: "f-1".into(), severity: Severity::High }]);
    let (day, minute) = (86_400 * SECOND_NS, 60 * SECOND_NS);
    assert!(c.tick(T0).is_empty() && c.tick(T0 + day).is_empty(), "it goes on");
    let Some(Decision { what: What::IncidentOpened { id, .. }, .. }) = say(&mut c, 2..3).into_iter().next()
    else {
        panic!("it opens none");
    };
    assert_eq!(id, "inc-2026-11-21-042");
    let over = Finding { state: FindingState::Cleared, ..on_mount(1, Severity::High) };
    c.observe_finding(&node(), &over, T0 + day);
    assert_eq!(c.tick(T0 + day + 6 * minute).len(), 1);
}

#[test]
fn a_finding_that_went_from_an_old_incident_to_a_new_one_belongs_to_the_new_one_after_a_restart() {
    let mut c = fresh();
    let out = say(&mut c, 1..2);
    let mut old = Incident::open(&out[0]).unwrap();
    out[1..].iter().for_each(|d| assert!(old.apply(d)));
    let mut new = Incident { id: "inc-2026-11-21-002".into(), ..old.clone() };
    new.opened_wall_ns += SECOND_NS;
    old.state = IncidentState::Resolved;
    old.resolved_wall_ns = Some(T0);
    let mut c = Correlator::new(Policy::default(), vec![new, old], []);
    c.tick(T0);
    let out = c.tick(T0 + Policy::default().quiet_ns);
    assert_eq!(out.len(), 1, "{out:?}");
}
