//! The processes with the largest figures, kept without an allocation for those that are not.

use super::stat::{Name, Stat};

/// A process that may be at the top.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) start_ticks: u64,
    pub(super) cpu_ticks: u64,
    pub(super) cpu_percent: f64,
    pub(super) resident_bytes: u64,
    /// Bytes a second to and from storage, as last known.
    pub(super) io_rate: f64,
    pub(super) threads: u64,
    pub(super) state: u8,
    pub(super) name: Name,
}

impl Candidate {
    /// What `stat` tells of `pid`, and what was reckoned from it.
    pub(super) fn new(
        pid: u32,
        stat: &Stat<'_>,
        cpu_percent: f64,
        resident_bytes: u64,
        io_rate: f64,
    ) -> Self {
        Self {
            pid,
            ppid: stat.ppid,
            start_ticks: stat.start_ticks,
            cpu_ticks: stat.cpu_ticks,
            cpu_percent,
            resident_bytes,
            io_rate,
            threads: stat.threads,
            state: stat.state,
            name: Name::new(stat.name),
        }
    }
}

/// The `max` candidates with the largest keys, largest first. Those with key 0 are nothing to show.
pub(super) struct Top {
    items: Vec<Candidate>,
    max: usize,
    key: fn(&Candidate) -> f64,
}

impl Top {
    /// None yet.
    pub(super) fn new(max: usize, key: fn(&Candidate) -> f64) -> Self {
        Self { items: Vec::new(), max, key }
    }

    /// Takes the candidate in if `key` is among the largest.
    pub(super) fn offer(&mut self, key: f64, candidate: impl FnOnce() -> Candidate) {
        let full = self.items.len() >= self.max;
        if key <= 0.0 || (full && self.items.last().is_none_or(|last| (self.key)(last) >= key)) {
            return;
        }
        if full {
            self.items.pop();
        }
        let at = self.items.partition_point(|c| (self.key)(c) >= key);
        self.items.insert(at, candidate());
    }

    /// Moves those to `chosen` that are not in it.
    pub(super) fn drain_into(&mut self, chosen: &mut Vec<Candidate>) {
        for candidate in self.items.drain(..) {
            if !chosen.iter().any(|c| c.pid == candidate.pid) {
                chosen.push(candidate);
            }
        }
    }

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.items.clear();
    }
}
