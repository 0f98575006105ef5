//! What holds for any series of samples.

use dogwatch::record::{Pressure, Sample};
use proptest::prelude::*;

use super::world::{TROUBLES, node, step};
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

/// Figures of any size from a seed (SplitMix64): extremes as often as ordinary ones.
struct Any(u64);

impl Any {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn number(&mut self) -> u64 {
        match self.next() % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => self.next(),
            _ => self.next() % 1_000,
        }
    }

    fn maybe(&mut self) -> Option<u64> {
        (!self.next().is_multiple_of(4)).then(|| self.number())
    }

    fn real(&mut self) -> f64 {
        match self.next() % 8 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => -1.0,
            _ => self.number() as f64 / 7.0,
        }
    }

    /// Overwrites figures of an ordinary second.
    fn spoil(&mut self, s: &mut Sample) {
        let p = |a: &mut Any| {
            Some(Pressure {
                some_avg10: a.real(),
                some_avg60: a.real(),
                full_avg10: a.real(),
                full_avg60: a.real(),
                ..Pressure::default()
            })
        };
        if let Some(m) = &mut s.memory {
            (m.total_bytes, m.available_bytes, m.pressure) = (self.number(), self.number(), p(self));
            (m.swapped_in_bytes_total, m.swapped_out_bytes_total) = (self.maybe(), self.maybe());
            m.oom_kills_total = self.maybe();
        }
        if let Some(c) = &mut s.cpu {
            (c.pressure, c.io_pressure) = (p(self), p(self));
            (c.running, c.blocked, c.online) = (self.number(), self.number(), self.number() as u32);
            (c.forks_total, c.steal_us, c.idle_us) = (self.number(), self.number(), self.number());
        }
        for d in &mut s.disks {
            (d.in_flight, d.reads_total, d.io_errors_total) = (self.number(), self.number(), self.maybe());
        }
        for i in &mut s.interfaces {
            (i.rx_errors_total, i.rx_packets_total, i.tx_dropped_total) =
                (self.number(), self.number(), self.number());
        }
        if let Some(n) = &mut s.net {
            (n.tcp_out_segments_total, n.tcp_retransmitted_total) = (self.number(), self.number());
            (n.conntrack_entries, n.conntrack_max, n.listen_overflows_total) =
                (self.maybe(), self.maybe(), self.number());
        }
        if let Some(l) = &mut s.limits {
            (l.open_files, l.open_files_max, l.tasks, l.pid_max, l.threads_max) =
                (self.maybe(), self.maybe(), self.maybe(), self.maybe(), self.maybe());
        }
        if let Some(t) = &mut s.tasks {
            t.zombies = self.number();
        }
        for g in &mut s.cgroups {
            (g.working_set_bytes, g.memory_limit_bytes, g.memory_limit_hits_total) =
                (self.maybe(), self.maybe(), self.maybe());
            (g.pids, g.pids_max, g.oom_kills_total, g.memory_pressure) =
                (self.maybe(), self.maybe(), self.maybe(), p(self));
            (g.periods_total, g.throttled_periods_total) = (self.maybe(), self.maybe());
            if let Some(pod) = &mut g.pod {
                pod.container_id = self.number().to_string();
            }
        }
        if let Some(c) = &mut s.clock {
            (c.synchronised, c.offset_us) = (self.next().is_multiple_of(2), self.number() as i64);
        }
        match self.next() % 5 {
            0 => s.cgroups.clear(),
            1 => s.tasks = None,
            2 => s.disks.clear(),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Nothing that a sample may hold makes a detector fail, and what was raised is cleared when all is well for long
    /// enough. The rig holds each finding against the rules of a finding's life.
    #[test]
    fn any_figures_of_the_whole_node_keep_the_rules_too(
        seed in any::<u64>(),
        ticks in proptest::collection::vec((0usize..40, 0u64..400), 1..200),
    ) {
        let (mut rig, mut s, mut any) = (Rig::new(), node(), Any(seed));
        for (what, pass) in ticks {
            step(&mut s);
            let ordinary = s.clone();
            match TROUBLES.get(what) {
                // A trouble lasts as long as it needs to be told.
                Some(t) => for _ in 0..pass / 8 {
                    step(&mut s);
                    (t.apply)(&mut s);
                    rig.sample(&s);
                },
                None if what % 2 == 0 => any.spoil(&mut s),
                None => {
                    rig.kernel(&["r"], &format!("I/O error, dev sd{}, sector 1", what % 3));
                    rig.kernel(&[], &format!("Killed process {seed} (x) total-vm:1kB, anon-rss:{pass}kB"));
                    rig.kernel(&[], &format!("INFO: task t:{pass} blocked for more than {seed} seconds."));
                    rig.now.wall_ns += (pass as i64 - 200) * 1_000_000_000;
                }
            }
            rig.sample(&s);
            s = ordinary;
            rig.pass(pass / 100);
        }
        for _ in 0..6_000 {
            step(&mut s);
            rig.sample(&s);
        }
        prop_assert!(rig.active.is_empty(), "{:?}", rig.active);
    }

    /// Kernel lines of any text.
    #[test]
    fn any_kernel_line_is_read(lines in proptest::collection::vec(
        "(oom-kill:constraint=|Killed process |I/O error, dev |XFS \\(|EXT4-fs \\(|\\): |INFO: task | blocked for more than |Hardware Error|nf_conntrack: |[a-z0-9:,() é\\[\\]]){0,6}", 1..40,
    )) {
        let mut rig = Rig::new();
        rig.sample(&node());
        for line in lines {
            rig.kernel(&[], &line);
        }
    }
}
