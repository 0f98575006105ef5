//! Acting: what a cleanup may touch, what it would touch, and the one process that touches it.
//!
//! Modules stand in the order in which a cleanup passes them. [`policy`] says what may ever go
//! and [`cleaners`] what each kind of cleaner takes; [`hold`] what may not,
//! whatever the policy says ([`hold_line`] keeps it); [`survey`] lists what
//! is there; [`plan`] picks the smallest set that suffices; [`respond`] decides when to survey, record and apply;
//! [`handle`] carries requests to the [`executor`], a child process that re-checks everything against the policy it
//! was started with, has [`witness`] keep what it is about to remove, and removes one object at a time ([`remove`]), or cuts
//! it where only that was allowed ([`cut`]). What an agent left in its midst that ended then, the next one tells ([`unfinished`]).
//!
//! Invariants: `plan` and `respond` are pure. Only `executor` and what it calls (`survey`, `remove`, `leftovers`,
//! `cut`, `lease`, `confine`) ever open a file beneath a root, only `remove`, `leftovers` and `held_links` (its own links)
//! rename or unlink, and only `cut` opens one for writing.
//!
//! Container images are candidates too; they go through the runtime's own interface, by a child that alone has its socket
//! ([`images`]).
//!
//! Deliberately absent: truncating (a live log is cut by a hole), restarting or pruning anything; any removal in the process that parses logs.

mod age_clock;
pub mod aside;
pub mod at_work;
mod beneath;
pub mod brake_line;
mod channel;
mod child;
mod cleaner;
pub mod cleaners;
pub mod clock_file;
mod confine;
mod container_logs;
mod cut;
pub mod executor;
mod finds;
mod folders;
mod forbidden;
mod gaps;
pub mod handle;
pub mod held_links;
pub mod hold;
pub mod hold_file;
pub mod hold_line;
mod holder;
pub mod images;
mod journald;
mod lease;
pub mod ledger;
mod leftovers;
mod live;
mod mounted;
mod other_names;
pub mod permit;
pub mod plan;
mod pods_here;
pub mod policy;
mod quarantine;
#[cfg(test)]
pub(crate) mod races;
pub mod real_path;
mod remove;
pub mod respond;
mod rotation;
#[cfg(test)]
mod runbook;
mod shares;
#[cfg(test)]
mod specimen;
mod survey;
mod turn;
pub mod unfinished;
#[cfg(test)]
pub(crate) mod unshared;
mod vet;
pub(crate) mod wire;
pub mod witness;
pub(crate) mod words;
pub mod work;
