//! The harness of the scenarios: real files, disks and processes that leave nothing behind.
//!
//! [`loopfs`] makes disks, [`process`] starts and ends programs, [`stage`] puts a collector, agents and people on a
//! stage of their own (folder, ports, certificates), [`ledger`] reads journals and holds them against each other,
//! [`canary`] remembers a folder to the byte, [`layout`] makes log folders of every kind, [`cgroup`] confines programs,
//! [`untouchable`] makes a hundred kinds of things that must stay, [`api_server`] stands in for a cluster's API.

pub mod api_server;
pub mod canary;
pub mod cgroup;
pub mod chance;
pub mod day;
pub mod layout;
pub mod ledger;
pub mod loopfs;
pub mod process;
pub mod scribe;
pub mod stage;
pub mod untouchable;
pub mod wait;
