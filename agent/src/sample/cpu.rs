//! CPU of the node: `/proc/stat`, `/proc/loadavg`, `/proc/pressure/{cpu,io}`; where asked for, of each CPU.
//!
//! Limits: proc_stat(5) warns that the time of waiting for I/O may decrease, and that of a CPU is a guess.
//!
//! Deliberately absent: interrupts one by one, frequencies.

use std::path::Path;

use dogwatch::record::{CoreCpu, Cpu};

use super::Failures;
use super::pressure::PressureFile;
use super::procfile::{ProbeError, ProcFile, fields, fraction, lines, number};

/// Reader of the node's CPU times, load and pressure.
pub(super) struct CpuProbe {
    stat: ProcFile,
    loadavg: ProcFile,
    pressure: PressureFile,
    io_pressure: PressureFile,
    ticks_per_second: u64,
    per_core: bool,
}

/// What one reading gives.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CpuReading {
    /// `None` where `/proc/stat` could not be read.
    pub(super) cpu: Option<Cpu>,
    /// Of each CPU that is online, where asked for.
    pub(super) cores: Vec<CoreCpu>,
    /// Tasks on the node, which `/proc/loadavg` tells besides.
    pub(super) tasks: Option<u64>,
}

impl CpuProbe {
    /// A reader beneath `proc`, where times are in units of 1/`ticks_per_second` s (USER_HZ); of each CPU if `per_core`.
    pub(super) fn new(proc: &Path, ticks_per_second: u64, per_core: bool) -> Self {
        Self {
            // Some 200 bytes a CPU and a few a thousand interrupts: 1 MiB is a machine that does not exist.
            stat: ProcFile::new(proc.join("stat"), 1 << 20),
            loadavg: ProcFile::new(proc.join("loadavg"), 4096),
            pressure: PressureFile::new(proc.join("pressure/cpu")),
            io_pressure: PressureFile::new(proc.join("pressure/io")),
            ticks_per_second: ticks_per_second.max(1),
            per_core,
        }
    }

    /// The reading; what could not be had is absent from it, and a failure.
    pub(super) fn read(&mut self, failed: &mut Failures) -> CpuReading {
        let mut reading = CpuReading::default();
        let Stat { mut cpu, cores, missing } = match self.stat() {
            Ok(stat) => stat,
            Err(e) => {
                failed.push("cpu", &e);
                return reading;
            }
        };
        reading.cores = cores;
        match self.load() {
            Ok(([one, five, fifteen], tasks)) => {
                (cpu.load1, cpu.load5, cpu.load15) = (one, five, fifteen);
                reading.tasks = tasks;
            }
            Err(e) => failed.push("cpu", &e),
        }
        if missing > 0 {
            let what =
                "not all of the lines `ctxt`, `processes`, `procs_running` and `procs_blocked` with a number";
            failed.push("cpu", &self.stat.malformed(what));
        }
        cpu.pressure = self.pressure.read("cpu", failed);
        cpu.io_pressure = self.io_pressure.read("io", failed);
        reading.cpu = Some(cpu);
        reading
    }

    fn stat(&mut self) -> Result<Stat, ProbeError> {
        let parsed = parse_stat(self.stat.read()?, self.ticks_per_second, self.per_core);
        parsed.ok_or_else(|| self.stat.malformed("no line `cpu` with at least 8 numbers"))
    }

    fn load(&mut self) -> Result<([f64; 3], Option<u64>), ProbeError> {
        let parsed = parse_load(self.loadavg.read()?);
        parsed.ok_or_else(|| self.loadavg.malformed("not three load averages"))
    }
}

/// `/proc/stat`, understood.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu: Cpu,
    cores: Vec<CoreCpu>,
    /// How many of the lines behind the CPUs' were not there.
    missing: usize,
}

fn parse_stat(text: &[u8], ticks_per_second: u64, per_core: bool) -> Option<Stat> {
    let mut lines = lines(text).peekable();
    let all = times(lines.next()?.strip_prefix(b"cpu ")?, ticks_per_second)?;
    let [user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us, steal_us] = all;
    let mut cpu = Cpu {
        user_us,
        nice_us,
        system_us,
        idle_us,
        iowait_us,
        irq_us,
        softirq_us,
        steal_us,
        ..Cpu::default()
    };
    let mut cores = Vec::new();
    // Only CPUs that are online have a line, and the lines stand together.
    while let Some(line) = lines.next_if(|l| l.starts_with(b"cpu")) {
        cpu.online = cpu.online.saturating_add(1);
        if per_core {
            cores.extend(core(line, ticks_per_second));
        }
    }
    let mut wanted = [
        (&b"ctxt "[..], Some(&mut cpu.context_switches_total)),
        (b"processes ", Some(&mut cpu.forks_total)),
        (b"procs_running ", Some(&mut cpu.running)),
        (b"procs_blocked ", Some(&mut cpu.blocked)),
    ];
    for line in lines {
        for (name, slot) in &mut wanted {
            if let Some(figure) = line.strip_prefix(*name).and_then(number)
                && let Some(slot) = slot.take()
            {
                *slot = figure;
            }
        }
    }
    let missing = wanted.iter().filter(|(_, slot)| slot.is_some()).count();
    Some(Stat { cpu, cores, missing })
}

/// One CPU of a line `cpuN …`.
fn core(line: &[u8], ticks_per_second: u64) -> Option<CoreCpu> {
    let line = line.strip_prefix(b"cpu")?;
    let blank = line.iter().position(u8::is_ascii_whitespace)?;
    let cpu = number(&line[..blank])?.try_into().ok()?;
    let [user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us, steal_us] =
        times(&line[blank..], ticks_per_second)?;
    Some(CoreCpu { cpu, user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us, steal_us })
}

/// The first eight times of a line in µs. `guest` and `guest_nice` follow; the kernel has counted them in user and nice
/// already.
fn times(figures: &[u8], ticks_per_second: u64) -> Option<[u64; 8]> {
    let mut words = fields(figures);
    let mut times = [0; 8];
    for time in &mut times {
        let ticks = u128::from(number(words.next()?)?);
        *time = u64::try_from(ticks * 1_000_000 / u128::from(ticks_per_second)).ok()?;
    }
    Some(times)
}

/// The load averages, and of `running/tasks` the tasks.
fn parse_load(text: &[u8]) -> Option<([f64; 3], Option<u64>)> {
    let mut words = fields(text);
    let load = [fraction(words.next()?)?, fraction(words.next()?)?, fraction(words.next()?)?];
    let tasks = words.next().and_then(|w| number(w.split(|&b| b == b'/').nth(1)?));
    Some((load, tasks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] =
        b"cpu  100 1 2 3 4 5 6 7 8 9\ncpu0 50 0 0 0 0 0 0 0 0 0\ncpu3 51 2 3 4 5 6 7 8\nintr 1 2\n\
        ctxt 11\nbtime 12\nprocesses 13\nprocs_running 14\nprocs_blocked 15\nsoftirq 1 2\n";

    #[test]
    fn ticks_become_microseconds() {
        let Stat { cpu: c, cores, missing } = parse_stat(STAT, 100, false).unwrap();
        assert_eq!((c.user_us, c.nice_us, c.system_us, c.idle_us), (1_000_000, 10_000, 20_000, 30_000));
        assert_eq!((c.iowait_us, c.irq_us, c.softirq_us, c.steal_us), (40_000, 50_000, 60_000, 70_000));
        assert_eq!((c.context_switches_total, c.forks_total, c.running, c.blocked), (11, 13, 14, 15));
        assert_eq!((c.online, cores.len(), missing), (2, 0, 0));
        assert_eq!(parse_stat(b"cpu 1 2 3\n", 100, true), None);
        assert_eq!(parse_stat(b"", 100, true), None);
    }

    #[test]
    fn each_cpu_that_is_online_is_told_where_asked_for() {
        let cores = parse_stat(STAT, 100, true).unwrap().cores;
        let last = CoreCpu {
            cpu: 3,
            user_us: 510_000,
            nice_us: 20_000,
            system_us: 30_000,
            idle_us: 40_000,
            iowait_us: 50_000,
            irq_us: 60_000,
            softirq_us: 70_000,
            steal_us: 80_000,
        };
        assert_eq!((cores[0].cpu, &cores[1..]), (0, &[last][..]));
        let short = parse_stat(b"cpu  1 2 3 4 5 6 7 8\ncpu0 1\ncpux 1 2 3 4 5 6 7 8\n", 100, true).unwrap();
        assert_eq!((short.cpu.online, short.cores.len(), short.missing), (2, 0, 4));
    }

    #[test]
    fn the_number_of_tasks_stands_with_the_load() {
        assert_eq!(parse_load(b"0.00 0.31 0.62 2/94 27968\n"), Some(([0.0, 0.31, 0.62], Some(94))));
        assert_eq!(parse_load(b"1 2 3"), Some(([1.0, 2.0, 3.0], None)));
        assert_eq!(parse_load(b"1 2 3 4/x"), Some(([1.0, 2.0, 3.0], None)));
    }

    #[test]
    fn a_missing_load_costs_its_part_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stat"), "cpu  1 2 3 4 5 6 7 8\ncpu0 1\n").unwrap();
        let mut failed = Failures::default();
        let reading = CpuProbe::new(dir.path(), 100, false).read(&mut failed);
        let c = reading.cpu.unwrap();
        assert_eq!((c.online, c.load1, reading.tasks), (1, 0.0, None));
        let failed = failed.into_vec();
        assert!(failed[0].contains("loadavg") && failed[1].contains("`ctxt`"), "{failed:?}");
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        let reading = CpuProbe::new(Path::new("/proc"), 100, true).read(&mut failed);
        let c = reading.cpu.unwrap();
        assert!(c.idle_us > 0 && c.context_switches_total > 0 && c.forks_total > 0 && c.running > 0, "{c:?}");
        assert_eq!((c.online as usize, reading.tasks.is_some()), (reading.cores.len(), true));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..2048)) {
            parse_stat(&text, 1, true);
            parse_load(&text);
            core(&text, 1);
        }

        #[test]
        fn no_words_make_it_panic(
            words in prop::collection::vec("cpu[0-9]{0,12}|ctxt|processes|\n|[0-9]{1,24}|[0-9]/[0-9]|\\PC", 0..40),
        ) {
            let text = format!("cpu  1 2 3 4 5 6 7 18446744073709551615\n{}", words.join(" ").replace(" \n ", "\n"));
            parse_stat(text.as_bytes(), 1, true);
            parse_load(words.join(" ").as_bytes());
        }
    }
}
