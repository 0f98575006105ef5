//! The agent: a flight recorder and first responder for one node.
//!
//! Modules stand in the order in which data passes them: [`sample`], [`tail`] and [`kmsg`] read the node,
//! [`detect`] states what is wrong, [`act`] plans and (in a process of its own) cleans, [`record`] keeps everything in journals, [`uplink`]
//! hands it to the collector after [`enrol`] let it in. [`core`] owns what is known and connects them; [`config`] says
//! what to do, [`health`] how it goes, [`pod`] whose something is, [`run`] and [`command`] put it together,
//! [`uninstall`] takes it away, [`forecast`] asks a file of figures what [`detect`] asks a node. [`usage`] tells what and who
//! fills a disk. [`ballast`] holds
//! room to give up first. `trim` gives memory back, `io_priority` says how much of a busy disk a thread gets.
//!
//! Deliberately absent: the collector, the cluster's API.

pub mod act;
pub mod ballast;
pub mod command;
pub mod config;
pub mod core;
pub mod detect;
pub mod enrol;
pub mod forecast;
pub mod health;
mod io_priority;
pub mod kmsg;
pub mod kubelet;
#[cfg(test)]
mod own_mounts;
pub mod pod;
pub mod record;
pub mod run;
pub mod sample;
pub mod tail;
mod trim;
pub mod uninstall;
pub mod uplink;
pub mod usage;
