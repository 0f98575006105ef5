//! The harness of the scenarios: real files, disks and processes that leave nothing behind.

pub mod loopfs;
