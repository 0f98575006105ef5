//! What holds for any series of samples.

use dogwatch::record::{Pressure, Sample};
use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The rig itself checks each finding's life.
    #[test]
    fn any_series_keeps_the_rules_of_a_findings_life(
        ticks in proptest::collection::vec((0u8..5, 0u64..=100, 0u64..=100, any::<bool>(), 0u64..90, 0u8..4), 1..300),
    ) {
        let mut rig = Rig::new();
        let mut seen = 0;
        for (what, level, other, flag, pass, minor) in ticks {
            let at = |path: &str, available: u64| Mount {
                read_only: flag && level > 50,
                dev_minor: u32::from(minor / 3),
                inodes_free: other * 10_000,
                ..mount(path, 100 * GIB, available * GIB)
            };
            match what {
                0 => drop(rig.mounts(&[at("/", level), at("/b", other)])),
                1 => drop(rig.mounts(&[at("/", level)])),
                2 => drop(rig.sample(&Sample { failed: vec!["mounts: /b: dead".into()], mounts: vec![at("/", level)], ..Sample::default() })),
                3 => drop(rig.log(if flag { "a" } else { "b" }, &["r"], "x")),
                _ => drop(rig.memory(Memory {
                    total_bytes: 100,
                    available_bytes: level,
                    pressure: flag.then_some(Pressure { some_avg10: other as f64, ..Pressure::default() }),
                    ..Memory::default()
                })),
            }
            rig.pass(pass / 20 * 10);
            seen += 1;
        }
        prop_assert!(seen > 0);
        // Whatever was raised is cleared once the node is well for long enough.
        for _ in 0..1_000 {
            rig.sample(&Sample {
                mounts: vec![mount("/", 100 * GIB, 90 * GIB)],
                memory: Some(Memory { total_bytes: 100, available_bytes: 90, ..Memory::default() }),
                ..Sample::default()
            });
        }
        prop_assert!(rig.active.is_empty(), "{:?}", rig.active);
    }

    #[test]
    fn a_noisy_disk_that_does_not_fill_is_quiet(
        used_percent in 0u64..70,
        noise_mib in 0u64..5_000,
        steps in proptest::collection::vec(0u64..=1000, 600),
    ) {
        let mut rig = Rig::new();
        let level = 100 * GIB - used_percent * GIB;
        for step in steps {
            let available = (level - noise_mib * MIB / 1000 * step).min(100 * GIB);
            prop_assert_eq!(rig.mounts(&[mount("/", 100 * GIB, available)]), []);
        }
    }

    #[test]
    fn a_walk_within_its_bounds_is_quiet(
        steps in proptest::collection::vec(-64i64..=64, 900),
    ) {
        let mut rig = Rig::new();
        let mut available = 50 * 1024i64;
        for step in steps {
            available = (available + step).clamp(49 * 1024, 51 * 1024);
            prop_assert_eq!(rig.mounts(&[mount("/", 100 * GIB, available as u64 * MIB)]), []);
        }
    }

    /// Logs that are rotated before they take a tenth of what is there never raise, whatever their period and shape.
    #[test]
    fn a_saw_that_never_fills_is_quiet(
        period in 5u64..900,
        swing_permille in 1u64..80,
        used_percent in 0u64..70,
        falls_percent in 50u64..=100,
        noise in proptest::collection::vec(0u64..50, 97),
    ) {
        let mut rig = Rig::new();
        let top = (100 - used_percent) * GIB;
        let swing = top / 1000 * swing_permille;
        for t in 0..2_700u64 {
            let phase = t % period;
            let falls = (period * falls_percent / 100).max(1);
            let lost = if phase < falls { swing * phase / falls } else { swing * (period - phase) / period };
            let available = top - lost - noise[(t % 97) as usize] * MIB;
            rig.mounts(&[mount("/", 100 * GIB, available)]);
        }
        prop_assert_eq!(rig.raised("disk-time-to-full"), []);
    }

    /// Also with noise, and from any level, a fill is foreseen before it is full.
    #[test]
    fn a_steady_fill_is_raised_before_it_is_full(
        fills_in in 60u64..3_000,
        starts_percent in 30u64..=100,
        noise in proptest::collection::vec(0u64..30, 89),
    ) {
        let mut rig = Rig::new();
        let start = starts_percent * GIB;
        for t in 0..fills_in {
            let available = (start - start / fills_in * t).saturating_sub(noise[(t % 89) as usize] * MIB);
            rig.mounts(&[mount("/", 100 * GIB, available)]);
            if !rig.raised("disk-time-to-full").is_empty() {
                return Ok(());
            }
        }
        prop_assert!(false, "a fill in {} s was never foreseen", fills_in);
    }

    /// A saw of any size is known once it came back: it is raised in its first tooth or never.
    #[test]
    fn a_large_saw_is_raised_once_at_most(
        period in 40u64..700,
        swing_percent in 10u64..60,
        noise in proptest::collection::vec(0u64..50, 97),
    ) {
        let mut rig = Rig::new();
        let top = 80 * GIB;
        for t in 0..2_700u64 {
            let lost = top / 100 * swing_percent * (t % period) / period;
            rig.mounts(&[mount("/", 100 * GIB, top - lost - noise[(t % 97) as usize] * MIB)]);
        }
        let raised = rig.raised("disk-time-to-full");
        prop_assert!(raised.len() <= 1 && raised.iter().all(|(s, _)| *s <= period), "{:?}", raised);
    }
}
