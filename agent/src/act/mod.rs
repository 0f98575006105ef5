//! Acting: what a cleanup may touch, what it would touch, and the one process that touches it.
//!
//! Modules stand in the order in which a cleanup passes them. [`policy`] says what may ever go; [`hold`] what may not,
//! whatever the policy says ([`hold_line`] keeps it); [`survey`] lists what
//! is there; [`plan`] picks the smallest set that suffices; [`respond`] decides when to survey, record and apply;
//! [`handle`] carries requests to the [`executor`], a child process that re-checks everything against the policy it
//! was started with and removes objects one at a time ([`remove`]).
//!
//! Invariants: `plan` and `respond` are pure. Only `executor` and what it calls (`survey`, `remove`, `quarantine`,
//! `lease`, `confine`) ever open a file beneath a root, and only `remove` and `quarantine` rename or unlink.
//!
//! Deliberately absent: truncating, restarting or pruning anything; container images (they go through CRI alone);
//! any removal in the process that parses logs.

pub mod aside;
mod beneath;
pub mod brake_line;
mod channel;
mod cleaner;
mod confine;
pub mod executor;
mod forbidden;
pub mod handle;
pub mod hold;
pub mod hold_file;
pub mod hold_line;
mod holder;
mod lease;
pub mod permit;
pub mod plan;
pub mod policy;
mod quarantine;
#[cfg(test)]
mod races;
pub mod real_path;
mod remove;
pub mod respond;
mod rotation;
mod survey;
mod vet;
pub(crate) mod wire;
mod words;
pub mod work;
