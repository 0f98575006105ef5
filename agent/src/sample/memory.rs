//! Memory of the node: `/proc/meminfo`, some counters of `/proc/vmstat`, `/proc/pressure/memory`.
//!
//! Deliberately absent: per-cgroup memory; the top processes carry their cgroup instead.

use std::path::Path;

use dogwatch::record::Memory;

use super::Failures;
use super::pressure::PressureFile;
use super::procfile::{ProbeError, ProcFile, fields, lines, number};

/// Reader of the node's memory.
pub(super) struct MemoryProbe {
    meminfo: ProcFile,
    vmstat: ProcFile,
    pressure: PressureFile,
    page_bytes: u64,
}

impl MemoryProbe {
    /// A reader beneath `proc`, where swapping is counted in pages of `page_bytes`.
    pub(super) fn new(proc: &Path, page_bytes: u64) -> Self {
        Self {
            meminfo: ProcFile::new(proc.join("meminfo"), 64 << 10),
            vmstat: ProcFile::new(proc.join("vmstat"), 64 << 10),
            pressure: PressureFile::new(proc.join("pressure/memory")),
            page_bytes,
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
        match self.vmstat.read() {
            Ok(text) => add_vmstat(text, self.page_bytes, &mut memory),
            Err(e) => failed.push("memory", &e),
        }
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
    for line in lines(text) {
        let mut words = fields(line);
        let Some(key) = words.next() else { continue };
        let slot = match key {
            b"MemTotal:" => total.insert(0),
            b"MemAvailable:" => available.insert(0),
            b"MemFree:" => &mut memory.free_bytes,
            b"Cached:" => &mut memory.cached_bytes,
            b"Buffers:" => &mut memory.buffers_bytes,
            b"Shmem:" => &mut memory.shmem_bytes,
            b"Dirty:" => &mut memory.dirty_bytes,
            b"Writeback:" => &mut memory.writeback_bytes,
            b"Slab:" => &mut memory.slab_bytes,
            b"SUnreclaim:" => &mut memory.slab_unreclaimable_bytes,
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

/// Adds what a kernel has of the counters: `oom_kill` is there since 4.13, those of swap only with swap built in.
fn add_vmstat(text: &[u8], page_bytes: u64, memory: &mut Memory) {
    for line in lines(text) {
        let mut words = fields(line);
        let (slot, unit) = match words.next() {
            Some(b"oom_kill") => (&mut memory.oom_kills_total, 1),
            Some(b"pswpin") => (&mut memory.swapped_in_bytes_total, page_bytes),
            Some(b"pswpout") => (&mut memory.swapped_out_bytes_total, page_bytes),
            Some(b"pgmajfault") => (&mut memory.major_faults_total, 1),
            _ => continue,
        };
        *slot = words.next().and_then(number).map(|n| n.saturating_mul(unit));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMINFO: &str = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n\
                           Buffers:            1 kB\nCached:          4096 kB\nSwapTotal:       2048 kB\n\
                           SwapFree:        1024 kB\nDirty:             64 kB\nWriteback:          2 kB\n\
                           WritebackTmp:     999 kB\nShmem:              3 kB\nShmemHugePages:   999 kB\n\
                           Slab:             128 kB\nSUnreclaim:        28 kB\n\
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
        let dir = fake(
            MEMINFO,
            Some("nr_free_pages 1\npswpin 2\npswpout 3\npgmajfault 4\noom_kill 7\noom_kill_x 9\n"),
        );
        let mut failed = Failures::default();
        let m = MemoryProbe::new(dir.path(), 4096).read(&mut failed).unwrap();
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        assert_eq!(m.total_bytes, 16 << 20);
        assert_eq!(m.available_bytes, 8 << 20);
        assert_eq!(m.free_bytes, 1 << 20);
        assert_eq!(m.cached_bytes, 4 << 20);
        assert_eq!(m.dirty_bytes, 64 << 10);
        assert_eq!(m.slab_bytes, 128 << 10);
        assert_eq!((m.swap_total_bytes, m.swap_free_bytes), (2 << 20, 1 << 20));
        assert_eq!((m.buffers_bytes, m.writeback_bytes, m.shmem_bytes), (1 << 10, 2 << 10, 3 << 10));
        assert_eq!(m.slab_unreclaimable_bytes, 28 << 10);
        assert_eq!((m.swapped_in_bytes_total, m.swapped_out_bytes_total), (Some(2 * 4096), Some(3 * 4096)));
        assert_eq!((m.major_faults_total, m.oom_kills_total), (Some(4), Some(7)));
        assert_eq!(m.pressure, None);
    }

    #[test]
    fn a_missing_vmstat_costs_its_part_only() {
        let dir = fake(MEMINFO, None);
        let mut failed = Failures::default();
        let m = MemoryProbe::new(dir.path(), 4096).read(&mut failed).unwrap();
        assert_eq!(m.oom_kills_total, None);
        let failed = failed.into_vec();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].starts_with("memory: reading ") && failed[0].contains("vmstat"), "{failed:?}");
    }

    #[test]
    fn nonsense_is_named() {
        let dir = fake("MemTotal: many kB\n", Some(""));
        let mut failed = Failures::default();
        assert!(MemoryProbe::new(dir.path(), 4096).read(&mut failed).is_none());
        assert!(failed.into_vec()[0].contains("no MemTotal"), "names what is missing");
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        let m = MemoryProbe::new(Path::new("/proc"), 4096).read(&mut failed).unwrap();
        assert!(m.total_bytes > 0 && m.available_bytes <= m.total_bytes, "{m:?}");
    }
    #[test]
    fn an_old_kernel_lacks_counters_and_nothing_failed() {
        let dir = fake(MEMINFO, Some("nr_free_pages 1\npgmajfault 4\n"));
        let mut failed = Failures::default();
        let m = MemoryProbe::new(dir.path(), 4096).read(&mut failed).unwrap();
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        let all =
            (m.oom_kills_total, m.swapped_in_bytes_total, m.swapped_out_bytes_total, m.major_faults_total);
        assert_eq!(all, (None, None, None, Some(4)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..2048)) {
            parse_meminfo(&text);
            add_vmstat(&text, u64::MAX, &mut Memory::default());
        }

        #[test]
        fn no_words_make_it_panic(
            words in prop::collection::vec("(MemTotal|MemAvailable|Slab):|kB|pswpin|oom_kill|\n|[0-9]{1,24}|\\PC", 0..40),
        ) {
            let text = words.join(" ").replace(" \n ", "\n").into_bytes();
            parse_meminfo(&text);
            add_vmstat(&text, u64::MAX, &mut Memory::default());
        }
    }
}
