//! Memory of the node: `/proc/meminfo`, `oom_kill` of `/proc/vmstat`, `/proc/pressure/memory`.
//!
//! Deliberately absent: per-cgroup memory; the top processes carry their cgroup instead.

use std::path::Path;

use dogwatch::record::Memory;

use super::Failures;
use super::pressure::PressureFile;
use super::procfile::{ProbeError, ProcFile, fields, number};

/// Reader of the node's memory.
pub(super) struct MemoryProbe {
    meminfo: ProcFile,
    vmstat: ProcFile,
    pressure: PressureFile,
}

impl MemoryProbe {
    /// A reader beneath `proc`.
    pub(super) fn new(proc: &Path) -> Self {
        Self {
            meminfo: ProcFile::new(proc.join("meminfo"), 64 << 10),
            vmstat: ProcFile::new(proc.join("vmstat"), 64 << 10),
            pressure: PressureFile::new(proc.join("pressure/memory")),
        }
    }

    /// The reading; `None` and a failure where `/proc/meminfo` cannot be read.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Option<Memory> {
        let mut memory = match self.meminfo() {
            Ok(memory) => memory,
            Err(e) => {
                failed.push("memory", &e);
                return None;
            }
        };
        memory.oom_kills_total = match self.vmstat.read() {
            // Kernels before 4.13 have no such counter.
            Ok(text) => oom_kills(text),
            Err(e) => {
                failed.push("memory", &e);
                None
            }
        };
        memory.pressure = self.pressure.read("memory", failed);
        Some(memory)
    }

    fn meminfo(&mut self) -> Result<Memory, ProbeError> {
        let parsed = parse_meminfo(self.meminfo.read()?);
        parsed.ok_or_else(|| self.meminfo.malformed("no MemTotal or no MemAvailable"))
    }
}

fn parse_meminfo(text: &[u8]) -> Option<Memory> {
    let mut memory = Memory::default();
    let (mut total, mut available) = (None, None);
    for line in text.split(|&b| b == b'\n') {
        let mut words = fields(line);
        let Some(key) = words.next() else { continue };
        let slot = match key {
            b"MemTotal:" => total.insert(0),
            b"MemAvailable:" => available.insert(0),
            b"MemFree:" => &mut memory.free_bytes,
            b"Cached:" => &mut memory.cached_bytes,
            b"Dirty:" => &mut memory.dirty_bytes,
            b"Slab:" => &mut memory.slab_bytes,
            b"SwapTotal:" => &mut memory.swap_total_bytes,
            b"SwapFree:" => &mut memory.swap_free_bytes,
            _ => continue,
        };
        // The unit is always printed as kB and always means KiB.
        *slot = number(words.next()?)?.saturating_mul(1024);
    }
    memory.total_bytes = total?;
    memory.available_bytes = available?;
    Some(memory)
}

fn oom_kills(vmstat: &[u8]) -> Option<u64> {
    vmstat.split(|&b| b == b'\n').find_map(|line| number(line.strip_prefix(b"oom_kill ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n\
                           Buffers:            1 kB\nCached:          4096 kB\nSwapTotal:       2048 kB\n\
                           SwapFree:        1024 kB\nDirty:             64 kB\nSlab:             128 kB\n\
                           HugePages_Total:    0\n";

    fn fake(meminfo: &str, vmstat: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meminfo"), meminfo).unwrap();
        if let Some(v) = vmstat {
            std::fs::write(dir.path().join("vmstat"), v).unwrap();
        }
        dir
    }

    #[test]
    fn reads_kib_as_bytes() {
        let dir = fake(MEMINFO, Some("nr_free_pages 1\noom_kill 7\noom_kill_x 9\n"));
        let mut failed = Failures::default();
        let m = MemoryProbe::new(dir.path()).read(&mut failed).unwrap();
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        assert_eq!(m.total_bytes, 16 << 20);
        assert_eq!(m.available_bytes, 8 << 20);
        assert_eq!(m.free_bytes, 1 << 20);
        assert_eq!(m.cached_bytes, 4 << 20);
        assert_eq!(m.dirty_bytes, 64 << 10);
        assert_eq!(m.slab_bytes, 128 << 10);
        assert_eq!((m.swap_total_bytes, m.swap_free_bytes), (2 << 20, 1 << 20));
        assert_eq!(m.oom_kills_total, Some(7));
        assert_eq!(m.pressure, None);
    }

    #[test]
    fn a_missing_vmstat_costs_its_part_only() {
        let dir = fake(MEMINFO, None);
        let mut failed = Failures::default();
        let m = MemoryProbe::new(dir.path()).read(&mut failed).unwrap();
        assert_eq!(m.oom_kills_total, None);
        let failed = failed.into_vec();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].starts_with("memory: reading ") && failed[0].contains("vmstat"), "{failed:?}");
    }

    #[test]
    fn nonsense_is_named() {
        let dir = fake("MemTotal: many kB\n", Some(""));
        let mut failed = Failures::default();
        assert!(MemoryProbe::new(dir.path()).read(&mut failed).is_none());
        assert!(failed.into_vec()[0].contains("no MemTotal"), "names what is missing");
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        let m = MemoryProbe::new(Path::new("/proc")).read(&mut failed).unwrap();
        assert!(m.total_bytes > 0 && m.available_bytes <= m.total_bytes, "{m:?}");
    }
}
