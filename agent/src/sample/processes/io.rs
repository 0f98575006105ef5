//! Storage I/O of processes: `/proc/PID/io`, by turns.
//!
//! Reading it of every process would double what a scan costs, since opening a file of `/proc` is the dear part. So each
//! process has its turn every [`ROUND`]th scan, and only if it spent CPU time since its last one: nothing is moved
//! without spending any. The rate is the mean since the last reading and ranks the process until its next turn; those
//! that are listed are read at every scan. A process that begins to move much is thus seen at the latest after
//! [`ROUND`] scans, or at once if its CPU time brings it to the top.
//!
//! Limits: CPU time is told in ticks of 10 ms, so that what is moved in less counts to the time after it. At most
//! [`MAX_KNOWN`] processes are known; others are not ranked, but read where they are listed twice.
//!
//! Deliberately absent: `rchar` and `wchar` (pipes and page cache), bytes of threads.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use super::stat::{parse_io, read_beneath};

/// Scans in which each process has its turn once: at 1 Hz none is older than 10 s, and a scan costs a tenth more.
pub(super) const ROUND: u32 = 10;
/// Some 0.9 MiB. Nodes hold fewer processes that do any I/O at all.
const MAX_KNOWN: usize = 16_384;

/// Bytes a second, read and written.
pub(super) type Rates = [f64; 2];

/// What is known of a process.
struct Known {
    start: u32,
    cpu_ticks: u32,
    bytes: [u64; 2],
    at_ms: u32,
    /// `None` until there are two readings.
    rates: Option<[f32; 2]>,
    scan: u32,
}

/// A process at the moment of a look.
pub(super) struct Look {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    pub(super) cpu_ticks: u64,
    pub(super) now_ms: u32,
    /// How long it exists if it is known to be younger than the probe: all that it moved, it moved since.
    pub(super) age_ms: Option<u32>,
}

/// Rates of the processes of a node.
#[derive(Default)]
pub(super) struct IoRates {
    known: HashMap<u32, Known>,
    scan: u32,
}

impl IoRates {
    /// Whether `pid` has its turn in this scan.
    pub(super) fn has_turn(&self, pid: u32) -> bool {
        pid % ROUND == self.scan % ROUND
    }

    /// What is known of the process; `None` before two readings of it.
    pub(super) fn known(&mut self, pid: u32, start_ticks: u64) -> Option<Rates> {
        let known = self.known.get_mut(&pid).filter(|k| k.start == start_ticks as u32)?;
        known.scan = self.scan;
        known.rates.map(|[r, w]| [f64::from(r), f64::from(w)])
    }

    /// Reads the process beneath `dir`, unless it cannot have moved anything, and gives its rates.
    pub(super) fn look(&mut self, dir: BorrowedFd<'_>, look: &Look, buf: &mut [u8]) -> Option<Rates> {
        let (start, cpu_ticks) = (look.start_ticks as u32, look.cpu_ticks as u32);
        let same = self.known.get_mut(&look.pid).filter(|k| k.start == start);
        if let Some(known) = same {
            known.scan = self.scan;
            if known.at_ms == look.now_ms {
                return known.rates.map(|[r, w]| [f64::from(r), f64::from(w)]);
            }
            if known.cpu_ticks == cpu_ticks {
                known.at_ms = look.now_ms;
                known.rates = Some([0.0; 2]);
                return Some([0.0; 2]);
            }
            let bytes = read_io(dir, look.pid, buf)?;
            let elapsed_ms = look.now_ms.wrapping_sub(known.at_ms);
            known.rates = rates(known.bytes, bytes, elapsed_ms);
            (known.bytes, known.at_ms, known.cpu_ticks) = (bytes, look.now_ms, cpu_ticks);
            return known.rates.map(|[r, w]| [f64::from(r), f64::from(w)]);
        }
        if self.known.len() >= MAX_KNOWN {
            return None;
        }
        let bytes = read_io(dir, look.pid, buf)?;
        let rates = look.age_ms.and_then(|age| rates([0; 2], bytes, age));
        let known = Known { start, cpu_ticks, bytes, at_ms: look.now_ms, rates, scan: self.scan };
        self.known.insert(look.pid, known);
        rates.map(|[r, w]| [f64::from(r), f64::from(w)])
    }

    /// Ends a scan: processes that were not seen for a round are forgotten.
    pub(super) fn end_scan(&mut self) {
        if self.scan.is_multiple_of(ROUND) {
            let scan = self.scan;
            self.known.retain(|_, k| scan.wrapping_sub(k.scan) <= ROUND);
        }
        self.scan = self.scan.wrapping_add(1);
    }
}

fn read_io(dir: BorrowedFd<'_>, pid: u32, buf: &mut [u8]) -> Option<[u64; 2]> {
    // Other users' is told to root alone, and no kernel must be built with it.
    let len = read_beneath(dir, pid, c"/io", buf).ok()?;
    parse_io(&buf[..len])
}

fn rates(before: [u64; 2], after: [u64; 2], elapsed_ms: u32) -> Option<[f32; 2]> {
    if elapsed_ms == 0 || elapsed_ms > u32::MAX / 2 {
        return None;
    }
    let rate = |i: usize| -> Option<f32> {
        Some((after[i].checked_sub(before[i])? as f64 / (f64::from(elapsed_ms) / 1e3)) as f32)
    };
    Some([rate(0)?, rate(1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_time_and_counters_that_rise() {
        assert_eq!(rates([0, 100], [1000, 100], 500), Some([2000.0, 0.0]));
        assert_eq!(rates([0, 100], [1000, 100], 0), None);
        assert_eq!(rates([0, 100], [1000, 99], 500), None);
    }
}
