//! The clock.

use std::time::Duration;

use super::Hold;

/// When the wall clock is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockConfig {
    /// A step of the wall clock against CLOCK_BOOTTIME beyond this is a finding.
    pub jump: Duration,
    /// High beyond this.
    pub serious_jump: Duration,
    /// A finding about a step is cleared after so long without a further one.
    pub quiet: Duration,
    /// An offset that time synchronisation still corrects, at or beyond which it is a finding.
    pub offset: Duration,
    /// Cleared below this offset.
    pub clear_offset: Duration,
    /// For how long offset, or the loss of synchronisation, must last.
    pub lasting: Duration,
    /// How long it must hold besides.
    pub hold: Hold,
}

impl Default for ClockConfig {
    /// 50 ms for 10 min is NodeClockSkewDetected of the node mixin. One second is beyond a leap second's smear and beyond
    /// what adjtimex(2) slews between two samples (500 µs/s); certificates and leases bear minutes.
    fn default() -> Self {
        Self {
            jump: Duration::from_secs(1),
            serious_jump: Duration::from_secs(60),
            quiet: Duration::from_secs(600),
            offset: Duration::from_millis(50),
            clear_offset: Duration::from_millis(20),
            lasting: Duration::from_secs(600),
            hold: Hold { raise_ticks: 3, clear_ticks: 30 },
        }
    }
}
