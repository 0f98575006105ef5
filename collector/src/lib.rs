//! The collector: takes in what nodes sealed, keeps it, makes incidents of it, and answers.
//!
//! Modules stand in the order in which data passes them: [`admit`] decides who may speak, [`ingest`] takes blocks in,
//! [`store`] keeps them, [`correlate`] makes findings into [`incident`]s, [`timeline`] tells them, [`query`] answers the
//! desk. [`cluster`] asks the cluster's API, [`config`] says what to do, [`health`] how it goes, [`run`] puts it together.
//!
//! Deliberately absent: anything of the agent's.

pub mod admit;
pub mod brake;
pub mod casework;
pub mod census;
pub mod cluster;
pub mod command;
pub mod condition;
pub mod config;
pub mod correlate;
pub mod health;
pub mod holds;
pub mod incident;
pub mod ingest;
pub mod keys;
pub mod ledger;
pub mod nodes;
pub mod query;
pub mod run;
pub mod say;
pub mod select;
pub mod sieve;
pub mod store;
pub mod timeline;
pub mod wording;
