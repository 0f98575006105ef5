//! CPU of the node: `/proc/stat`, `/proc/loadavg`, `/proc/pressure/{cpu,io}`.
//!
//! Deliberately absent: figures of single CPUs.

use std::path::Path;

use dogwatch::record::Cpu;

use super::Failures;
use super::pressure::PressureFile;
use super::procfile::{ProbeError, ProcFile, fields, fraction, number};

/// Reader of the node's CPU times, load and pressure.
pub(super) struct CpuProbe {
    stat: ProcFile,
    loadavg: ProcFile,
    pressure: PressureFile,
    io_pressure: PressureFile,
    ticks_per_second: u64,
}

impl CpuProbe {
    /// A reader beneath `proc`, where times are in units of 1/`ticks_per_second` s (USER_HZ).
    pub(super) fn new(proc: &Path, ticks_per_second: u64) -> Self {
        Self {
            // Some 200 bytes a CPU and a few a thousand interrupts: 1 MiB is a machine that does not exist.
            stat: ProcFile::new(proc.join("stat"), 1 << 20),
            loadavg: ProcFile::new(proc.join("loadavg"), 4096),
            pressure: PressureFile::new(proc.join("pressure/cpu")),
            io_pressure: PressureFile::new(proc.join("pressure/io")),
            ticks_per_second: ticks_per_second.max(1),
        }
    }

    /// The reading; `None` and a failure where `/proc/stat` cannot be read.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Option<Cpu> {
        let mut cpu = match self.stat() {
            Ok(cpu) => cpu,
            Err(e) => {
                failed.push("cpu", &e);
                return None;
            }
        };
        match self.load() {
            Ok([one, five, fifteen]) => (cpu.load1, cpu.load5, cpu.load15) = (one, five, fifteen),
            Err(e) => failed.push("cpu", &e),
        }
        cpu.pressure = self.pressure.read("cpu", failed);
        cpu.io_pressure = self.io_pressure.read("io", failed);
        Some(cpu)
    }

    fn stat(&mut self) -> Result<Cpu, ProbeError> {
        let parsed = parse_stat(self.stat.read()?, self.ticks_per_second);
        parsed.ok_or_else(|| self.stat.malformed("no line `cpu` with at least 8 numbers"))
    }

    fn load(&mut self) -> Result<[f64; 3], ProbeError> {
        let parsed = parse_load(self.loadavg.read()?);
        parsed.ok_or_else(|| self.loadavg.malformed("not three load averages"))
    }
}

fn parse_stat(text: &[u8], ticks_per_second: u64) -> Option<Cpu> {
    let mut lines = text.split(|&b| b == b'\n');
    let mut words = fields(lines.next()?);
    if words.next()? != b"cpu" {
        return None;
    }
    let mut next_us = || {
        let ticks = u128::from(number(words.next()?)?);
        u64::try_from(ticks * 1_000_000 / u128::from(ticks_per_second)).ok()
    };
    // `guest` and `guest_nice` follow; the kernel has counted them in user and nice already.
    Some(Cpu {
        user_us: next_us()?,
        nice_us: next_us()?,
        system_us: next_us()?,
        idle_us: next_us()?,
        iowait_us: next_us()?,
        irq_us: next_us()?,
        softirq_us: next_us()?,
        steal_us: next_us()?,
        // Only CPUs that are online have a line, and the lines stand together.
        online: lines.take_while(|l| l.starts_with(b"cpu")).count() as u32,
        ..Cpu::default()
    })
}

fn parse_load(text: &[u8]) -> Option<[f64; 3]> {
    let mut words = fields(text);
    Some([fraction(words.next()?)?, fraction(words.next()?)?, fraction(words.next()?)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_microseconds() {
        let c = parse_stat(
            b"cpu  100 1 2 3 4 5 6 7 8 9\ncpu0 50 0 0 0 0 0 0 0 0 0\ncpu3 50 0 0 0\nintr 1 2\n",
            100,
        )
        .unwrap();
        assert_eq!((c.user_us, c.nice_us, c.system_us, c.idle_us), (1_000_000, 10_000, 20_000, 30_000));
        assert_eq!((c.iowait_us, c.irq_us, c.softirq_us, c.steal_us), (40_000, 50_000, 60_000, 70_000));
        assert_eq!(c.online, 2);
        assert_eq!(parse_stat(b"cpu 1 2 3\n", 100), None);
        assert_eq!(parse_stat(b"", 100), None);
    }

    #[test]
    fn a_missing_load_costs_its_part_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stat"), "cpu  1 2 3 4 5 6 7 8\ncpu0 1\n").unwrap();
        let mut failed = Failures::default();
        let c = CpuProbe::new(dir.path(), 100).read(&mut failed).unwrap();
        assert_eq!((c.online, c.load1), (1, 0.0));
        assert!(failed.into_vec()[0].contains("loadavg"));
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        let c = CpuProbe::new(Path::new("/proc"), 100).read(&mut failed).unwrap();
        assert!(c.online > 0 && c.idle_us > 0, "{c:?}");
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }
}
