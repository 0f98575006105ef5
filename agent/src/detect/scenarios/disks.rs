//! Filesystems that fill, empty, break and go.

use dogwatch::record::FindingState::{Cleared, Raised, Updated};
use dogwatch::record::Sample;
use dogwatch::record::Severity::{Critical, High, Medium};

use super::super::{DetectConfig, DiskConfig};
use super::*;

/// A disk of 100 units of 1 GiB.
fn disk(available: u64) -> Mount {
    mount("/", 100 * GIB, available * GIB)
}

#[test]
fn a_full_disk_is_raised_at_once_rises_and_clears_with_hysteresis() {
    let mut rig = Rig::new();
    assert_eq!(rig.mounts(&[disk(16)]), []);
    let raised = rig.mounts(&[disk(15)]);
    assert_eq!(states(&raised), [("disk-high-water", Raised, Medium)]);
    assert_eq!(raised[0].subject.to_string(), "mount /");
    assert!(
        raised[0].summary.contains("85.0 % used, 15.0 GiB of 100.0 GiB available"),
        "{}",
        raised[0].summary
    );
    assert!(raised[0].explanation.contains("nodefs.available<10%"));
    assert_eq!(fact(&raised[0], "available_bytes"), (15 * GIB).to_string());
    assert_eq!(states(&rig.mounts(&[disk(10)])), [("disk-high-water", Updated, High)]);
    assert_eq!(states(&rig.mounts(&[disk(5)])), [("disk-high-water", Updated, Critical)]);
    // Between the marks nothing changes, at the low mark it takes five samples in a row.
    for available in [16, 19, 20, 20, 20, 20, 19, 20, 20, 20, 20] {
        assert_eq!(rig.mounts(&[disk(available)]), [], "{available}");
    }
    let cleared = rig.mounts(&[disk(20)]);
    assert_eq!(states(&cleared), [("disk-high-water", Cleared, Critical)]);
    assert_eq!(cleared[0].id, raised[0].id);
    let again = rig.mounts(&[disk(1)]);
    assert_eq!(states(&again), [("disk-high-water", Raised, Critical)]);
    assert_ne!(again[0].id, raised[0].id);
}

#[test]
fn inodes_are_watched_where_they_are_limited() {
    let mut rig = Rig::new();
    let with = |total, free| Mount { inodes_total: total, inodes_free: free, ..disk(90) };
    assert_eq!(rig.mounts(&[with(0, 0)]), [], "btrfs has no fixed number");
    let raised = rig.mounts(&[with(1000, 40)]);
    assert_eq!(states(&raised), [("inode-high-water", Raised, Critical)]);
    assert!(raised[0].summary.contains("96.0 % used, 40 of 1000 free"), "{}", raised[0].summary);
    for _ in 0..4 {
        assert_eq!(rig.mounts(&[with(1000, 500)]), []);
    }
    assert_eq!(states(&rig.mounts(&[with(1000, 500)])), [("inode-high-water", Cleared, Critical)]);
}

#[test]
fn a_moving_figure_is_said_again_but_not_each_second() {
    let mut rig = Rig::new();
    let mut updates = 0;
    for t in 0..600u64 {
        // 14.0 to 10.1 GiB in ten minutes: no rise in severity.
        let m = mount("/", 100 * GIB, 14 * GIB - t * 6 * MIB);
        let said = rig.mounts(&[m]);
        updates += said.iter().filter(|f| f.rule == "disk-high-water" && f.state == Updated).count();
    }
    assert!((2..=10).contains(&updates), "{updates}");
}

#[test]
fn read_only_and_ignored_filesystems_raise_nothing() {
    let disk_config = DiskConfig { ignore: ["/boot".to_owned()].into(), ..DiskConfig::default() };
    let mut rig = Rig::with(DetectConfig { disk: disk_config, ..DetectConfig::default() });
    let image = Mount { read_only: true, ..mount("/mnt/cd", GIB, 0) };
    for t in 0..300 {
        assert_eq!(rig.mounts(&[image.clone(), mount("/boot", GIB, GIB - t * 3 * MIB)]), []);
    }
    assert_eq!(rig.detectors.forecasts(), []);
}

#[test]
fn a_finding_from_before_it_turned_read_only_stays() {
    let mut rig = Rig::new();
    rig.mounts(&[disk(3)]);
    let out = rig.mounts(&[Mount { read_only: true, ..disk(3) }]);
    assert_eq!(states(&out), [("mount-read-only", Raised, Critical)]);
    assert_eq!(rig.detectors.active().len(), 2);
}

#[test]
fn turning_read_only_is_a_finding_and_being_it_is_not() {
    let mut rig = Rig::new();
    let at = |path: &str, read_only| Mount { read_only, ..mount(path, GIB, GIB) };
    assert_eq!(rig.mounts(&[at("/data", false), at("/usr", true)]), []);
    let out = rig.mounts(&[at("/data", true), at("/usr", true)]);
    assert_eq!(states(&out), [("mount-read-only", Raised, High)]);
    assert!(out[0].summary.contains("/data"));
    assert_eq!(rig.mounts(&[at("/data", true), at("/usr", true)]), []);
    assert_eq!(rig.mounts(&[at("/data", false), at("/usr", true)]), []);
    assert_eq!(rig.mounts(&[at("/data", true), at("/usr", true)]), [], "a flap is the same finding");
    rig.mounts(&[at("/data", false), at("/usr", true)]);
    rig.mounts(&[at("/data", false), at("/usr", true)]);
    let out = rig.mounts(&[at("/data", false), at("/usr", true)]);
    assert_eq!(states(&out), [("mount-read-only", Cleared, High)]);
}

#[test]
fn a_mount_that_goes_takes_its_findings_along_and_says_so() {
    let mut rig = Rig::new();
    let data = mount("/data", GIB, 0);
    assert_eq!(rig.mounts(&[disk(90), data.clone()]).len(), 1);
    let hung = Sample {
        mounts: vec![disk(90)],
        failed: vec!["mounts: /data: no answer to statvfs".into()],
        ..Sample::default()
    };
    for _ in 0..10 {
        assert_eq!(rig.sample(&hung), [], "one that could not be read is not gone");
    }
    assert_eq!(rig.mounts(&[disk(90)]), []);
    let out = rig.mounts(&[disk(90)]);
    assert_eq!(states(&out), [("disk-high-water", Cleared, Critical)]);
    assert!(out[0].summary.contains("nothing is mounted there any more"), "{}", out[0].summary);
    // Another device at the same place is another filesystem.
    rig.mounts(std::slice::from_ref(&data));
    let other = Mount { dev_minor: 77, ..data };
    let out = rig.mounts(&[other]);
    assert_eq!(states(&out), [("disk-high-water", Cleared, Critical), ("disk-high-water", Raised, Critical)]);
    assert!(out[0].summary.contains("another filesystem"), "{}", out[0].summary);
}

#[test]
fn a_steady_fill_is_foreseen_while_most_of_its_time_is_left() {
    // (seconds until full at the start, the latest second to say so)
    for (fills_in, by) in [(90u64, 40), (300, 60), (600, 135), (1_500, 500), (3_600, 1_850)] {
        let mut rig = Rig::new();
        let total = 10 * GIB;
        let mut second = None;
        for t in 0..fills_in {
            let out = rig.mounts(&[mount("/", total, total - total / fills_in * t)]);
            if let Some(f) = out.iter().find(|f| f.rule == "disk-time-to-full" && f.state == Raised) {
                second = Some(t);
                let left: f64 = fact(f, "seconds_to_full").parse().unwrap();
                let truly = (fills_in - t) as f64;
                assert!((left - truly).abs() <= truly * 0.1 + 2.0, "{left} of {truly}");
                assert_eq!(f.citations.len(), 2, "cites where the window began, and now");
                assert!(f.citations[0].seq < f.citations[1].seq);
                assert!(f.severity >= High);
                break;
            }
        }
        let second = second.unwrap_or_else(|| panic!("never said of a fill in {fills_in} s"));
        assert!(second <= by, "a fill in {fills_in} s was foreseen at {second} s");
        let forecasts = rig.detectors.forecasts();
        assert_eq!(forecasts[0].mount, "/");
    }
}

#[test]
fn a_fill_in_bursts_is_foreseen_too() {
    let mut rig = Rig::new();
    for t in 0..1_200u64 {
        rig.mounts(&[mount("/", 100 * GIB, 100 * GIB - t / 45 * 4 * GIB)]);
        if !rig.raised("disk-time-to-full").is_empty() {
            break;
        }
    }
    let raised = rig.raised("disk-time-to-full");
    assert!(raised[0].0 < 600, "{raised:?}");
}

#[test]
fn a_forecast_becomes_critical_stays_while_full_and_clears_after_cleanup() {
    let mut rig = Rig::new();
    for t in 0..700u64 {
        rig.mounts(&[mount("/", 10 * GIB, 10 * GIB - (10 * GIB / 600 * t).min(10 * GIB))]);
    }
    let of_rule: Vec<_> = rig.all.iter().filter(|(_, f)| f.rule == "disk-time-to-full").collect();
    assert_eq!(of_rule[0].1.state, Raised);
    assert!(of_rule.iter().all(|(_, f)| f.state != Cleared), "full is not cleared");
    assert_eq!(of_rule.last().unwrap().1.severity, Critical);
    assert!(of_rule.len() < 20, "{}", of_rule.len());
    for _ in 0..200 {
        rig.mounts(&[mount("/", 10 * GIB, 6 * GIB)]);
    }
    assert!(rig.active.is_empty(), "{:?}", rig.active);
}

#[test]
fn one_burst_is_no_trend() {
    for (burst_seconds, share) in [(1u64, 60), (5, 60), (15, 50), (19, 40)] {
        let mut rig = Rig::new();
        for t in 0..400u64 {
            let done = t.clamp(100, 100 + burst_seconds) - 100;
            rig.mounts(&[mount("/", 100 * GIB, 100 * GIB - GIB * share * done / burst_seconds)]);
        }
        assert_eq!(rig.raised("disk-time-to-full"), [], "burst of {burst_seconds} s");
    }
}

#[test]
fn a_large_saw_is_raised_in_its_first_tooth_at_most() {
    let mut rig = Rig::new();
    for t in 0..3_600u64 {
        // Half of the disk in five minutes, then rotated.
        rig.mounts(&[mount("/", 10 * GIB, 8 * GIB - t % 300 * (5 * GIB / 300))]);
    }
    let raised = rig.raised("disk-time-to-full");
    assert!(raised.len() <= 1 && raised.iter().all(|(s, _)| *s < 300), "{raised:?}");
    assert!(rig.active.is_empty());
}

#[test]
fn clocks_that_jump_and_samples_that_are_missing_change_nothing() {
    let mut rig = Rig::new();
    for t in 0..120u64 {
        rig.now.wall_ns += if t % 2 == 0 { 3_600_000_000_000 } else { -7_200_000_000_000 };
        if t % 7 == 3 {
            rig.pass(2);
        }
        let gone = rig.second() * (10 * GIB / 400);
        rig.mounts(&[mount("/", 10 * GIB, 10 * GIB - gone)]);
    }
    let raised = rig.raised("disk-time-to-full");
    assert_eq!(raised.len(), 1);
    assert!(raised[0].0 < 80, "{raised:?}");
}

#[test]
fn the_next_run_continues_and_clears_what_this_one_raised() {
    let mut first = Rig::new();
    first.mounts(&[disk(15), mount("/gone", GIB, 0), mount("/ro", GIB, GIB)]);
    first.mounts(&[disk(15), mount("/gone", GIB, 0), Mount { read_only: true, ..mount("/ro", GIB, GIB) }]);
    assert_eq!(first.active.len(), 3);
    let mut second = Rig::run(DetectConfig::default(), 2);
    second.seed(&first);
    let ro = Mount { read_only: true, ..mount("/ro", GIB, GIB) };
    let out = second.mounts(&[disk(14), ro.clone()]);
    assert!(out.iter().all(|f| f.state == Updated), "{out:?}");
    let out = second.mounts(&[disk(14), ro.clone()]);
    assert_eq!(states(&out), [("disk-high-water", Cleared, Critical)], "the mount is gone");
    for _ in 0..5 {
        second.mounts(&[disk(50), mount("/ro", GIB, GIB)]);
    }
    assert!(second.active.is_empty(), "{:?}", second.active);
}

#[test]
fn the_same_story_gives_the_same_ids_and_another_run_others() {
    let story = |run| {
        let mut rig = Rig::run(DetectConfig::default(), run);
        rig.mounts(&[disk(1)])[0].id.clone()
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}
