//! Texts of control groups' files, and the figures in them.
//!
//! Sources: kernel docs `admin-guide/cgroup-v2` and `admin-guide/cgroup-v1/{cpuacct,memory,pids,blkio-controller}`,
//! `scheduler/sched-bwc`, `accounting/psi`.
//!
//! Each version has a table of files; each file a function that puts what it tells into a [`Reading`]. "Unlimited" (`max`,
//! -1, the largest page counter) is no limit and stays `None`.
//!
//! Limits: of block devices that lie on others (dm, md) each counts, as the kernel accounts them.

use std::ffi::CStr;

use dogwatch::record::Cgroup;

use crate::sample::pressure;
use crate::sample::procfile::{fields, number};

/// What manages a resource, and with v1 has a hierarchy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Blkio,
    /// The hierarchy of v2, whichever controllers it has.
    Unified,
}

/// When a file is read; all of them are when a pass is one that reads what is read seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// At each pass.
    Always,
    /// Seldom: a limit, which people change.
    Seldom,
    /// While the group has a quota of CPU time: without one nothing throttles it.
    Throttled,
    /// When `memory.stat`, which stands before it, is another than at the last pass: what reaches the limit or is killed for
    /// it has faulted, and moves pages. (A refusal of the kernel's own memory may not show there, and is seen when all is
    /// read.)
    MemoryMoved,
}

/// A file of each group.
pub(super) struct GroupFile {
    /// Whose it is. A file of v2 says here in whose stead it is read where that one has no hierarchy of v1.
    pub(super) controller: Controller,
    /// Its name.
    pub(super) name: &'static CStr,
    /// When it is read.
    pub(super) when: When,
    /// Puts its text in; `None`: it is not as documented.
    pub(super) put: fn(&[u8], &mut Reading) -> Option<()>,
}

const fn figure(
    controller: Controller,
    name: &'static CStr,
    put: fn(&[u8], &mut Reading) -> Option<()>,
) -> GroupFile {
    GroupFile { controller, name, when: When::Always, put }
}

const fn count(
    controller: Controller,
    name: &'static CStr,
    when: When,
    put: fn(&[u8], &mut Reading) -> Option<()>,
) -> GroupFile {
    GroupFile { controller, name, when, put }
}

const fn limit(
    controller: Controller,
    name: &'static CStr,
    put: fn(&[u8], &mut Reading) -> Option<()>,
) -> GroupFile {
    GroupFile { controller, name, when: When::Seldom, put }
}

/// What a group's files told so far.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The figures.
    pub(super) group: Cgroup,
    quota_us: Option<u64>,
    period_us: Option<u64>,
    inactive_file_bytes: Option<u64>,
    /// Checksum of `memory.stat`; another one means that it changed.
    memory_mark: Option<u32>,
}

impl Reading {
    /// A reading that begins with limits that were read before.
    pub(super) fn with_limits(limits: Limits) -> Self {
        let mut reading = Self::default();
        reading.group.memory_limit_bytes = limits.memory_bytes;
        reading.group.pids_max = limits.pids;
        (reading.quota_us, reading.period_us) = (limits.quota_us, limits.period_us);
        reading
    }

    /// The limits in it.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.group.memory_limit_bytes,
            pids: self.group.pids_max,
            quota_us: self.quota_us,
            period_us: self.period_us,
        }
    }

    /// The counts in it that are not read at each pass.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            periods: self.group.periods_total,
            throttled_periods: self.group.throttled_periods_total,
            throttled_us: self.group.throttled_us_total,
            limit_hits: self.group.memory_limit_hits_total,
            oom_kills: self.group.oom_kills_total,
            memory_mark: self.memory_mark,
        }
    }

    /// Whether a file that is read `when` cannot tell anything but what `last` holds, which is then taken over.
    pub(super) fn takes_over(&mut self, when: When, last: &Counts) -> bool {
        match when {
            When::Always => false,
            When::Seldom => true,
            When::Throttled => {
                let unlimited = self.quota_us.is_none();
                if unlimited {
                    self.group.periods_total = last.periods;
                    self.group.throttled_periods_total = last.throttled_periods;
                    self.group.throttled_us_total = last.throttled_us;
                }
                unlimited
            }
            When::MemoryMoved => {
                let same = self.memory_mark.is_some() && self.memory_mark == last.memory_mark;
                if same {
                    self.group.memory_limit_hits_total = last.limit_hits;
                    self.group.oom_kills_total = last.oom_kills;
                }
                same
            }
        }
    }

    /// The group, with what follows from two files.
    pub(super) fn finish(mut self) -> Cgroup {
        self.group.cpu_limit_cores = match (self.quota_us, self.period_us) {
            (Some(quota), Some(period)) if period > 0 => Some(quota as f64 / period as f64),
            _ => None,
        };
        self.group.working_set_bytes = match (self.group.memory_bytes, self.inactive_file_bytes) {
            (Some(used), Some(inactive)) => Some(used.saturating_sub(inactive)),
            _ => None,
        };
        self.group
    }
}

/// Limits of a group; `None`: unlimited or unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Limits {
    memory_bytes: Option<u64>,
    pids: Option<u64>,
    quota_us: Option<u64>,
    period_us: Option<u64>,
}

/// Counts of a group as last read; `None`: it has none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    periods: Option<u64>,
    throttled_periods: Option<u64>,
    throttled_us: Option<u64>,
    limit_hits: Option<u64>,
    oom_kills: Option<u64>,
    memory_mark: Option<u32>,
}

/// v1. Swap is `total_swap` of `memory.stat` instead of memory.memsw.usage_in_bytes less memory.usage_in_bytes: the kernel
/// has both or neither, and a difference of two files read one after the other is not a figure.
///
/// Bytes of block devices are counted by throttling, which newer kernels (6.18 for one) switch on for a device when the first
/// rule is set on it. Before, and where the group did no I/O yet, no device has a line: that is not 0, but unknown.
pub(super) const V1: [GroupFile; 12] = [
    figure(Controller::Cpuacct, c"cpuacct.usage", |t, r| set(&mut r.group.cpu_us_total, only(t)? / 1_000)),
    count(Controller::Cpu, c"cpu.stat", When::Throttled, |t, r| {
        r.group.periods_total = value(t, b"nr_periods");
        r.group.throttled_periods_total = value(t, b"nr_throttled");
        r.group.throttled_us_total = value(t, b"throttled_time").map(|ns| ns / 1_000);
        r.group.periods_total.map(|_| ())
    }),
    limit(Controller::Cpu, c"cpu.cfs_quota_us", |t, r| {
        r.quota_us = if t.trim_ascii().starts_with(b"-") { None } else { Some(only(t)?) };
        Some(())
    }),
    limit(Controller::Cpu, c"cpu.cfs_period_us", |t, r| set(&mut r.period_us, only(t)?)),
    figure(Controller::Memory, c"memory.usage_in_bytes", |t, r| set(&mut r.group.memory_bytes, only(t)?)),
    figure(Controller::Memory, c"memory.stat", |t, r| {
        r.memory_mark = Some(crc32c::crc32c(t));
        r.group.swap_bytes = value(t, b"total_swap");
        set(&mut r.inactive_file_bytes, value(t, b"total_inactive_file")?)
    }),
    count(Controller::Memory, c"memory.failcnt", When::MemoryMoved, |t, r| {
        set(&mut r.group.memory_limit_hits_total, only(t)?)
    }),
    count(Controller::Memory, c"memory.oom_control", When::MemoryMoved, |t, r| {
        // Kernels before 4.13 do not count.
        r.group.oom_kills_total = value(t, b"oom_kill");
        value(t, b"under_oom").map(|_| ())
    }),
    limit(Controller::Memory, c"memory.limit_in_bytes", |t, r| {
        // The largest page counter, in bytes: 2⁶³ - 4096 with small pages, less with large ones.
        const UNLIMITED: u64 = 1 << 62;
        r.group.memory_limit_bytes = Some(only(t)?).filter(|v| *v < UNLIMITED);
        Some(())
    }),
    figure(Controller::Pids, c"pids.current", |t, r| set(&mut r.group.pids, only(t)?)),
    limit(Controller::Pids, c"pids.max", |t, r| put_limit(t, &mut r.group.pids_max)),
    figure(Controller::Blkio, c"blkio.throttle.io_service_bytes_recursive", |t, r| {
        (r.group.read_bytes_total, r.group.written_bytes_total) = (None, None);
        for line in t.split(|&b| b == b'\n') {
            let mut words = fields(line);
            let (Some(_), Some(what), Some(n)) = (words.next(), words.next(), words.next()) else { continue };
            let sum = match what {
                b"Read" => &mut r.group.read_bytes_total,
                b"Write" => &mut r.group.written_bytes_total,
                _ => continue,
            };
            *sum = Some(sum.unwrap_or(0).saturating_add(number(n)?));
        }
        Some(())
    }),
];

/// v2.
pub(super) const V2: [GroupFile; 13] = [
    figure(Controller::Cpuacct, c"cpu.stat", |t, r| {
        // The others are there where the group has the cpu controller.
        r.group.periods_total = value(t, b"nr_periods");
        r.group.throttled_periods_total = value(t, b"nr_throttled");
        r.group.throttled_us_total = value(t, b"throttled_usec");
        set(&mut r.group.cpu_us_total, value(t, b"usage_usec")?)
    }),
    limit(Controller::Cpu, c"cpu.max", |t, r| {
        let mut words = fields(t);
        let (quota, period) = (words.next()?, words.next()?);
        r.quota_us = if quota == b"max" { None } else { Some(number(quota)?) };
        set(&mut r.period_us, number(period)?)
    }),
    figure(Controller::Memory, c"memory.current", |t, r| set(&mut r.group.memory_bytes, only(t)?)),
    figure(Controller::Memory, c"memory.stat", |t, r| {
        r.memory_mark = Some(crc32c::crc32c(t));
        set(&mut r.inactive_file_bytes, value(t, b"inactive_file")?)
    }),
    count(Controller::Memory, c"memory.events", When::MemoryMoved, |t, r| {
        r.group.oom_kills_total = value(t, b"oom_kill");
        set(&mut r.group.memory_limit_hits_total, value(t, b"max")?)
    }),
    figure(Controller::Memory, c"memory.swap.current", |t, r| set(&mut r.group.swap_bytes, only(t)?)),
    limit(Controller::Memory, c"memory.max", |t, r| put_limit(t, &mut r.group.memory_limit_bytes)),
    figure(Controller::Pids, c"pids.current", |t, r| set(&mut r.group.pids, only(t)?)),
    limit(Controller::Pids, c"pids.max", |t, r| put_limit(t, &mut r.group.pids_max)),
    figure(Controller::Blkio, c"io.stat", |t, r| {
        let mut sums = [0u64; 2];
        for word in fields(t) {
            let (slot, n) = if let Some(n) = word.strip_prefix(b"rbytes=") {
                (0, n)
            } else if let Some(n) = word.strip_prefix(b"wbytes=") {
                (1, n)
            } else {
                continue;
            };
            sums[slot] = sums[slot].saturating_add(number(n)?);
        }
        (r.group.read_bytes_total, r.group.written_bytes_total) = (Some(sums[0]), Some(sums[1]));
        Some(())
    }),
    figure(Controller::Unified, c"cpu.pressure", |t, r| set(&mut r.group.cpu_pressure, pressure::parse(t)?)),
    figure(Controller::Unified, c"memory.pressure", |t, r| {
        set(&mut r.group.memory_pressure, pressure::parse(t)?)
    }),
    figure(Controller::Unified, c"io.pressure", |t, r| set(&mut r.group.io_pressure, pressure::parse(t)?)),
];

fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    *slot = Some(value);
    Some(())
}

fn put_limit(text: &[u8], slot: &mut Option<u64>) -> Option<()> {
    *slot = if text.trim_ascii() == b"max" { None } else { Some(only(text)?) };
    Some(())
}

/// The number that the file consists of.
fn only(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// The number on the line `key number`.
fn value(text: &[u8], key: &[u8]) -> Option<u64> {
    text.split(|&b| b == b'\n')
        .find_map(|line| number(line.strip_prefix(key)?.strip_prefix(b" ")?.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(table: &[GroupFile], texts: &[(&str, &str)]) -> Cgroup {
        let mut reading = Reading::default();
        for (name, text) in texts {
            let file = table.iter().find(|f| f.name.to_str().unwrap() == *name).unwrap();
            assert!((file.put)(text.as_bytes(), &mut reading).is_some(), "{name}: {text}");
        }
        reading.finish()
    }

    #[test]
    fn v2_as_the_kernel_prints_it() {
        let g = read(
            &V2,
            &[
                (
                    "cpu.stat",
                    "usage_usec 1234567\nuser_usec 1\nsystem_usec 2\nnr_periods 100\nnr_throttled 7\nthrottled_usec 8900\n",
                ),
                ("cpu.max", "150000 100000\n"),
                ("memory.current", "104857600\n"),
                ("memory.stat", "anon 5\nfile 6\ninactive_anon 9\ninactive_file 4857600\nactive_file 8\n"),
                ("memory.events", "low 0\nhigh 0\nmax 42\noom 3\noom_kill 2\noom_group_kill 0\n"),
                ("memory.swap.current", "4096\n"),
                ("memory.max", "134217728\n"),
                ("pids.current", "12\n"),
                ("pids.max", "max\n"),
                (
                    "io.stat",
                    "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n259:0 rbytes=1 wbytes=2 rios=1 wios=1\n",
                ),
                (
                    "cpu.pressure",
                    "some avg10=1.00 avg60=2.00 avg300=0.00 total=3\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n",
                ),
            ],
        );
        assert_eq!(g.cpu_us_total, Some(1_234_567));
        assert_eq!(
            (g.periods_total, g.throttled_periods_total, g.throttled_us_total),
            (Some(100), Some(7), Some(8900))
        );
        assert_eq!(g.cpu_limit_cores, Some(1.5));
        assert_eq!((g.memory_bytes, g.working_set_bytes), (Some(104_857_600), Some(100_000_000)));
        assert_eq!(
            (g.memory_limit_bytes, g.memory_limit_hits_total, g.oom_kills_total),
            (Some(134_217_728), Some(42), Some(2))
        );
        assert_eq!((g.swap_bytes, g.pids, g.pids_max), (Some(4096), Some(12), None));
        assert_eq!((g.read_bytes_total, g.written_bytes_total), (Some(101), Some(202)));
        assert_eq!(g.cpu_pressure.unwrap().some_avg60, 2.0);
    }

    #[test]
    fn v1_as_the_kernel_prints_it() {
        let g = read(
            &V1,
            &[
                ("cpuacct.usage", "1234567890\n"),
                ("cpu.stat", "nr_periods 100\nnr_throttled 7\nthrottled_time 8900000\n"),
                ("cpu.cfs_quota_us", "50000\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("memory.usage_in_bytes", "104857600\n"),
                ("memory.stat", "cache 1\ninactive_file 7\ntotal_swap 4096\ntotal_inactive_file 4857600\n"),
                ("memory.failcnt", "42\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ("memory.limit_in_bytes", "134217728\n"),
                ("pids.current", "12\n"),
                ("pids.max", "100\n"),
                (
                    "blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n8:16 Read 1\nTotal 301\n",
                ),
            ],
        );
        assert_eq!(g.cpu_us_total, Some(1_234_567));
        assert_eq!(g.throttled_us_total, Some(8900));
        assert_eq!(g.cpu_limit_cores, Some(0.5));
        assert_eq!((g.memory_bytes, g.working_set_bytes), (Some(104_857_600), Some(100_000_000)));
        assert_eq!(
            (g.memory_limit_bytes, g.memory_limit_hits_total, g.oom_kills_total),
            (Some(134_217_728), Some(42), Some(2))
        );
        assert_eq!((g.swap_bytes, g.pids, g.pids_max), (Some(4096), Some(12), Some(100)));
        assert_eq!((g.read_bytes_total, g.written_bytes_total), (Some(101), Some(200)));
    }

    #[test]
    fn no_device_of_v1_is_not_the_same_as_no_byte() {
        let of = |text| {
            let group = read(&V1, &[("blkio.throttle.io_service_bytes_recursive", text)]);
            (group.read_bytes_total, group.written_bytes_total)
        };
        assert_eq!(of("Total 0\n"), (None, None));
        assert_eq!(of("7:0 Read 0\n7:0 Write 4096\n7:0 Total 4096\nTotal 4096\n"), (Some(0), Some(4096)));
    }

    #[test]
    fn unlimited_is_no_limit() {
        let v1 = [
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("pids.max", "max\n"),
        ];
        let v2 = [("cpu.max", "max 100000\n"), ("memory.max", "max\n"), ("pids.max", "max\n")];
        for g in [read(&V1, &v1), read(&V2, &v2)] {
            assert_eq!((g.cpu_limit_cores, g.memory_limit_bytes, g.pids_max), (None, None, None));
        }
    }

    #[test]
    fn a_limit_is_kept_from_reading_to_reading() {
        let mut first = Reading::default();
        let file = V2.iter().find(|f| f.name == c"cpu.max").unwrap();
        (file.put)(b"25000 100000\n", &mut first).unwrap();
        let again = Reading::with_limits(first.limits());
        assert_eq!(again.finish().cpu_limit_cores, Some(0.25));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            near in "([a-z_.]{0,22}[ =:]?[0-9max-]{0,24}[ \n]){0,12}",
        ) {
            for text in [&bytes[..], near.as_bytes()] {
                for file in V1.iter().chain(&V2) {
                    let mut reading = Reading::default();
                    let _ = (file.put)(text, &mut reading);
                    let limits = reading.limits();
                    let _ = Reading::with_limits(limits).finish();
                    let group = reading.finish();
                    prop_assert!(group.cpu_limit_cores.is_none_or(f64::is_finite));
                }
            }
        }
    }
}
