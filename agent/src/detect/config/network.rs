//! Network.

use std::time::Duration;

use super::Hold;

/// When an interface loses packets.
#[derive(Debug, Clone, PartialEq)]
pub struct InterfaceConfig {
    /// Raised at or above this part of packets in error or dropped, over `window`.
    pub share: f64,
    /// High at or above this part.
    pub serious_share: f64,
    /// Cleared below this part.
    pub clear_share: f64,
    /// Packets a second below which nothing is said.
    pub min_packets_per_second: f64,
    /// Over which it is measured.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for InterfaceConfig {
    /// 1 % is NodeNetworkReceiveErrs of the node mixin. The minimum is there since Linux counts frames of unknown
    /// protocols as dropped: one a second is a large part of nearly nothing.
    fn default() -> Self {
        Self {
            share: 0.01,
            serious_share: 0.10,
            clear_share: 0.005,
            min_packets_per_second: 100.0,
            window: Duration::from_secs(120),
            hold: Hold { raise_ticks: 30, clear_ticks: 60 },
        }
    }
}

/// When too many TCP segments are sent again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetransmitConfig {
    /// Raised at or above this part of the segments sent, over `window`.
    pub share: f64,
    /// High at or above this part.
    pub serious_share: f64,
    /// Cleared below this part.
    pub clear_share: f64,
    /// Segments sent in the window below which nothing is said.
    pub min_segments: u64,
    /// Over which it is measured.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for RetransmitConfig {
    /// Healthy paths are below 1 %; from 5 % on TCP's throughput falls apart (it goes with 1/√loss, RFC 3819 §8).
    fn default() -> Self {
        Self {
            share: 0.05,
            serious_share: 0.15,
            clear_share: 0.02,
            min_segments: 3_000,
            window: Duration::from_secs(60),
            hold: Hold { raise_ticks: 30, clear_ticks: 60 },
        }
    }
}

/// When listeners do not keep up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// Raised when so many connections were refused over `window`.
    pub overflows: u64,
    /// High at or above this many.
    pub serious_overflows: u64,
    /// Over which they are counted.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for ListenConfig {
    /// A burst at a program's restart makes a few; ten in a minute are clients that wait for their SYN's second try.
    fn default() -> Self {
        Self {
            overflows: 10,
            serious_overflows: 500,
            window: Duration::from_secs(60),
            hold: Hold { raise_ticks: 5, clear_ticks: 60 },
        }
    }
}
