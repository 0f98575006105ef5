//! Kills for want of memory that no line of the kernel's log tells: only counters do, the node's each second, those of
//! groups at passes that are some seconds apart.

use dogwatch::record::FindingState::{Cleared, Raised};
use dogwatch::record::Severity::High;
use dogwatch::record::{Cgroup, Sample};

use super::world::{GROUP, POD, node, step};
use super::*;

/// A second; groups are in it each `every` seconds.
fn second(rig: &mut Rig, s: &mut Sample, every: u64) -> Vec<Finding> {
    step(s);
    let mut sample = s.clone();
    if !rig.second().is_multiple_of(every) {
        sample.cgroups.clear();
    }
    rig.sample(&sample)
}

fn seconds(rig: &mut Rig, s: &mut Sample, every: u64, n: u64) -> Vec<Finding> {
    (0..n).flat_map(|_| second(rig, s, every)).collect()
}

fn node_counts(s: &mut Sample, kills: u64) {
    let m = s.memory.as_mut().unwrap();
    m.oom_kills_total = m.oom_kills_total.map(|k| k + kills);
}

fn group_counts(s: &mut Sample, i: usize, kills: u64) {
    s.cgroups[i].oom_kills_total = s.cgroups[i].oom_kills_total.map(|k| k + kills);
}

/// Raised about whom, with how many kills.
fn raised(out: &[Finding]) -> Vec<(String, &str)> {
    let of = |f: &&Finding| f.rule == "oom-kill" && f.state == Raised;
    out.iter().filter(of).map(|f| (f.subject.to_string(), fact(f, "kills_number"))).collect()
}

#[test]
fn the_group_that_counted_is_named_and_the_node_is_not_whichever_is_read_first() {
    for every in [1, 5, 20, 60] {
        for offset in 0..5 {
            for group_first in [false, true] {
                let (mut rig, mut s) = (Rig::new(), node());
                seconds(&mut rig, &mut s, every, 2 * every + offset);
                // The kill falls between the reading of one counter and of the other.
                if group_first {
                    group_counts(&mut s, 0, 1);
                    while !rig.second().is_multiple_of(every) {
                        second(&mut rig, &mut s, every);
                    }
                    second(&mut rig, &mut s, every);
                    node_counts(&mut s, 1);
                } else {
                    node_counts(&mut s, 1);
                    second(&mut rig, &mut s, every);
                    group_counts(&mut s, 0, 1);
                }
                let out = seconds(&mut rig, &mut s, every, 3 * every + 60);
                let all: Vec<_> = rig.all.iter().map(|(_, f)| f.clone()).collect();
                let how = format!("each {every} s, {offset} s in, group first: {group_first}");
                assert_eq!(raised(&all), [(format!("pod {POD}"), "1")], "{how}");
                assert!(out.iter().all(|f| f.severity == High), "{how}");
            }
        }
    }
}

/// Until the second pass nobody knows how far apart they are.
#[test]
fn a_kill_that_a_line_told_before_the_second_pass_is_not_told_again_by_its_group() {
    for every in [90, 300, 600] {
        let (mut rig, mut s) = (Rig::new(), node());
        s.cgroups.iter_mut().for_each(|g| g.version = 2);
        // The first pass, and the kill soon after it.
        while !rig.second().is_multiple_of(every) {
            second(&mut rig, &mut s, every);
        }
        seconds(&mut rig, &mut s, every, 5);
        let line = "Memory cgroup out of memory: Killed process 7 (a) total-vm:100kB, anon-rss:90kB, file-rss:0kB, shmem-rss:0kB";
        let chosen = format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a,mems_allowed=0,oom_memcg={GROUP},task_memcg={GROUP},task=a,pid=7,uid=0"
        );
        rig.kernel(&["container-oom"], &chosen);
        assert_eq!(raised(&rig.kernel(&["container-oom"], line)), [(format!("pod {POD}"), "1")]);
        node_counts(&mut s, 1);
        group_counts(&mut s, 0, 1);
        let out = seconds(&mut rig, &mut s, every, every + 60);
        let of_kills: Vec<_> = out.iter().filter(|f| f.rule == "oom-kill" && f.state != Cleared).collect();
        assert!(of_kills.is_empty(), "groups each {every} s: {of_kills:?}");
    }
}

#[test]
fn the_node_is_named_once_the_groups_were_read_and_none_counted() {
    for every in [5, 60] {
        let (mut rig, mut s) = (Rig::new(), node());
        seconds(&mut rig, &mut s, every, 2 * every + 1);
        node_counts(&mut s, 1);
        let began = rig.second();
        let out = seconds(&mut rig, &mut s, every, 2 * every + 30);
        assert_eq!(raised(&out), [("memory node-1".to_owned(), "1")]);
        let took = rig.raised("oom-kill")[0].0 - began;
        assert!(
            (every.max(15) - 1..=every.max(15) + 5).contains(&took),
            "{took} s with groups each {every} s"
        );
    }
}

#[test]
fn what_groups_did_not_count_is_the_nodes() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5, 11);
    node_counts(&mut s, 3);
    group_counts(&mut s, 0, 1);
    group_counts(&mut s, 1, 1);
    let out = seconds(&mut rig, &mut s, 5, 40);
    let mut who = raised(&out);
    who.sort();
    let other = "cgroup /system.slice/other.service".to_owned();
    assert_eq!(who, [(other, "1"), ("memory node-1".to_owned(), "1"), (format!("pod {POD}"), "1")]);
}

#[test]
fn groups_that_are_never_or_no_longer_read_are_not_waited_for() {
    let (mut rig, mut s) = (Rig::new(), node());
    s.cgroups.clear();
    seconds(&mut rig, &mut s, 1, 5);
    node_counts(&mut s, 1);
    assert_eq!(raised(&seconds(&mut rig, &mut s, 1, 20)), [("memory node-1".to_owned(), "1")]);
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5, 21);
    s.cgroups.clear();
    node_counts(&mut s, 1);
    assert_eq!(raised(&seconds(&mut rig, &mut s, 5, 20)), [("memory node-1".to_owned(), "1")]);
}

/// A group of version 2 counts what is killed beneath it too; one of version 1 counts its own members alone.
#[test]
fn a_kill_is_the_innermost_groups() {
    for (version, expected) in [(2, 1), (1, 2)] {
        let (mut rig, mut s) = (Rig::new(), node());
        let above = GROUP.rsplit_once('/').unwrap().0.to_owned();
        s.cgroups[0].version = version;
        let outer = Cgroup { path: above.clone(), pod: None, ..s.cgroups[0].clone() };
        s.cgroups.insert(0, outer);
        seconds(&mut rig, &mut s, 5, 11);
        node_counts(&mut s, expected);
        group_counts(&mut s, 0, 1);
        group_counts(&mut s, 1, 1);
        let out = seconds(&mut rig, &mut s, 5, 40);
        assert_eq!(raised(&out).len() as u64, expected, "version {version}: {out:?}");
        assert!(raised(&out).contains(&(format!("pod {POD}"), "1")));
        assert!(raised(&out).iter().all(|(who, _)| who != "memory node-1"));
    }
}

#[test]
fn what_a_group_above_counted_of_one_that_is_gone_is_its_own() {
    let (mut rig, mut s) = (Rig::new(), node());
    let above = GROUP.rsplit_once('/').unwrap().0.to_owned();
    let outer = Cgroup { path: above.clone(), pod: None, ..s.cgroups[0].clone() };
    s.cgroups.insert(0, outer);
    seconds(&mut rig, &mut s, 5, 11);
    // Two kills beneath it, of which one took its group along.
    node_counts(&mut s, 2);
    group_counts(&mut s, 0, 2);
    group_counts(&mut s, 1, 1);
    let out = seconds(&mut rig, &mut s, 5, 40);
    let mut who = raised(&out);
    who.sort();
    assert_eq!(who, [(format!("cgroup {above}"), "1"), (format!("pod {POD}"), "1")]);
}

#[test]
fn a_group_that_began_between_two_passes_speaks_for_what_the_node_counted() {
    let (mut rig, mut s) = (Rig::new(), node());
    seconds(&mut rig, &mut s, 5, 11);
    let new = Cgroup { path: "/new".into(), pod: None, oom_kills_total: Some(1), ..s.cgroups[0].clone() };
    s.cgroups.push(new);
    node_counts(&mut s, 1);
    assert_eq!(raised(&seconds(&mut rig, &mut s, 5, 40)), [("cgroup /new".to_owned(), "1")]);
    // An old figure of one that is seen for the first time says nothing.
    let old = Cgroup { path: "/old".into(), pod: None, oom_kills_total: Some(9), ..s.cgroups[0].clone() };
    s.cgroups.push(old);
    assert_eq!(raised(&seconds(&mut rig, &mut s, 5, 40)), []);
    // Nor does one that could not be read in some passes.
    let away = s.cgroups.pop().unwrap();
    seconds(&mut rig, &mut s, 5, 20);
    s.cgroups.push(away);
    node_counts(&mut s, 1);
    assert_eq!(raised(&seconds(&mut rig, &mut s, 5, 40)), [("memory node-1".to_owned(), "1")]);
}
