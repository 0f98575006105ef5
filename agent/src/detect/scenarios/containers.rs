//! Containers at their limits and in loops, and who is to blame when the node is short.

use dogwatch::record::FindingState::Raised;
use dogwatch::record::Severity::{High, Medium};
use dogwatch::record::{Cgroup, Pod, Pressure, Process, Sample};

use super::world::{GROUP, LIMIT, POD, UID, node, pod, step};
use super::*;

fn settled() -> (Rig, Sample) {
    let (mut rig, mut s) = (Rig::new(), node());
    for _ in 0..200 {
        step(&mut s);
        assert_eq!(rig.sample(&s), []);
    }
    (rig, s)
}

#[test]
fn growth_towards_the_limit_is_told_with_the_process_that_grows() {
    let (mut rig, mut s) = settled();
    let mut raised = None;
    for i in 0..400u64 {
        step(&mut s);
        s.cgroups[0].working_set_bytes = Some((LIMIT / 2 + i * LIMIT / 500).min(LIMIT));
        s.processes[0].resident_bytes = GIB + i * MIB;
        raised = raised.or(rig.sample(&s).pop());
    }
    let f = raised.unwrap();
    assert_eq!((f.rule.as_str(), f.subject.to_string()), ("cgroup-memory-pressure", format!("pod {POD}")));
    assert!(f.summary.contains("java (pid 40) grew by"), "{}", f.summary);
    assert_eq!((f.pod.as_ref(), fact(&f, "limit_bytes")), (Some(&pod()), LIMIT.to_string().as_str()));
}

#[test]
fn page_cache_at_the_limit_and_a_steady_cache_are_nothing() {
    let (mut rig, mut s) = settled();
    for i in 0..1_200u64 {
        step(&mut s);
        // Used pages of files are working set: nearly full, and hit, and steady but for noise.
        s.cgroups[0].working_set_bytes = Some(LIMIT / 1000 * (945 + i % 4));
        s.cgroups[1].memory_limit_bytes = None;
        assert_eq!(rig.sample(&s), []);
    }
}

#[test]
fn of_groups_within_each_other_the_innermost_speaks() {
    let (mut rig, mut s) = settled();
    let outer = Cgroup {
        path: "/kubepods.slice/kubepods-pod1.slice".into(),
        pod: Some(Pod { container: String::new(), container_id: String::new(), ..pod() }),
        ..s.cgroups[0].clone()
    };
    s.cgroups.insert(0, outer);
    for _ in 0..300 {
        step(&mut s);
        for g in &mut s.cgroups[..2] {
            g.working_set_bytes = Some(LIMIT);
            g.memory_pressure = Some(Pressure { some_avg10: 50.0, some_avg60: 50.0, ..Pressure::default() });
        }
        rig.sample(&s);
    }
    let raised = rig.raised("cgroup-memory-pressure");
    assert_eq!(raised.len(), 1);
    assert_eq!((raised[0].1.subject.name.as_str(), raised[0].1.severity), (POD, High));
}

#[test]
fn a_group_at_its_limit_is_not_the_nodes_shortage_and_a_short_node_names_who_grew() {
    let waits = |s: &mut Sample| {
        s.memory.as_mut().unwrap().pressure =
            Some(Pressure { some_avg10: 60.0, full_avg10: 20.0, ..Pressure::default() });
    };
    let (mut rig, mut s) = settled();
    for _ in 0..100 {
        step(&mut s);
        waits(&mut s);
        s.cgroups[0].working_set_bytes = Some(LIMIT);
        s.cgroups[0].memory_pressure =
            Some(Pressure { some_avg10: 80.0, some_avg60: 60.0, ..Pressure::default() });
        rig.sample(&s);
    }
    assert_eq!((rig.raised("memory-pressure").len(), rig.raised("cgroup-memory-pressure").len()), (0, 1));
    // No group at its limit: it is the node's, and the largest is not who grew.
    let (mut rig, mut s) = settled();
    for i in 0..100u64 {
        step(&mut s);
        s.processes.push(Process {
            pid: 50,
            name: "leak".into(),
            start_ticks: 1,
            resident_bytes: 100 * MIB + i * 5 * MIB,
            cgroup: GROUP.into(),
            pod: Some(pod()),
            ..Process::default()
        });
        if i > 60 {
            waits(&mut s);
        }
        rig.sample(&s);
    }
    let raised = rig.raised("memory-pressure");
    let f = raised[0].1;
    assert_eq!(fact(f, "growing_process_name"), "leak (pid 50)");
    assert_eq!(fact(f, "process_1_name"), "java (pid 40)");
    assert!(fact(f, "growing_process_pod_name").starts_with(POD));
    assert_eq!(f.pod, Some(pod()));
}

#[test]
fn a_pod_that_comes_up_is_no_loop_and_one_without_names_needs_more() {
    let (mut rig, mut s) = settled();
    let unnamed = |n: u64| Cgroup {
        path: format!("/kubepods/pod{UID}/{n:064x}"),
        pod: Some(Pod { uid: UID.into(), container_id: format!("{n:064x}"), ..Pod::default() }),
        ..Cgroup::default()
    };
    s.cgroups.truncate(1);
    s.cgroups[0].pod = None;
    // Eight containers, one after the other, and they stay.
    for n in 0..8 {
        s.cgroups.push(unnamed(n));
        for _ in 0..5 {
            step(&mut s);
            assert_eq!(rig.sample(&s), []);
        }
    }
    // One of them begins to loop.
    let mut out = Vec::new();
    for n in 100..120 {
        s.cgroups.pop();
        s.cgroups.push(unnamed(n));
        for _ in 0..5 {
            step(&mut s);
            out.extend(rig.sample(&s));
        }
    }
    assert_eq!(states(&out[..1]), [("container-crash-loop", Raised, Medium)]);
    assert_eq!(out[0].subject.to_string(), format!("pod {UID}"));
}
