//! The agent: a flight recorder and first responder for one node.
//!
//! Modules stand in the order in which data passes them: [`sample`] and [`tail`] read the node, [`detect`] states what
//! is wrong, [`act`] plans and (in a process of its own) cleans, [`record`] keeps everything in journals, [`enrol`]
//! makes the node known, and [`uplink`] hands it to the collector. [`config`] says what to do, [`health`] how it goes, [`run`] puts it together.
//!
//! Deliberately absent: the collector, the cluster's API.

pub mod act;
pub mod config;
pub mod detect;
pub mod enrol;
pub mod health;
pub mod record;
pub mod run;
pub mod sample;
pub mod tail;
pub mod uplink;
