//! Space: whether the disk has room for what comes in, and when it has again.

use std::path::Path;

/// Accepts until free space falls below the reserve, and again when it is an eighth above it, so that a disk at the
/// mark does not flap. The decision is pure; [`free_bytes`] measures.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    reserve_bytes: u64,
    closed: bool,
}

impl Gate {
    /// Open, with this reserve.
    pub fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, closed: false }
    }

    /// Takes a measurement; whether blocks may be accepted.
    pub fn measure(&mut self, free_bytes: u64) -> bool {
        let mark = if self.closed {
            self.reserve_bytes.saturating_add(self.reserve_bytes / 8)
        } else {
            self.reserve_bytes
        };
        self.closed = free_bytes < mark;
        !self.closed
    }
}

/// Bytes that an unprivileged writer can still take in the filesystem of `dir`.
pub fn free_bytes(dir: &Path) -> std::io::Result<u64> {
    let s = rustix::fs::statvfs(dir)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_below_the_reserve_and_opens_well_above_it() {
        let mut g = Gate::new(800);
        assert!(g.measure(800));
        assert!(!g.measure(799));
        assert!(!g.measure(899));
        assert!(g.measure(900));
        assert!(g.measure(850));
    }
}
