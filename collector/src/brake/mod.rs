//! The fleet brake: how many nodes may clean up by themselves at a time, and whether any may.
//!
//! A node in mode `auto` asks for a permit before it removes anything. It gets one while cleanups are neither paused nor
//! tripped and fewer nodes than the limit have a *place*. A place is kept from the grant until the cleanup is over **and**
//! the node has been watched for a while after it: what goes wrong within that time stops everything before another
//! node takes the place. That is what makes the limit the most nodes that one bad rule can harm. It is a share of the nodes
//! that are there, not of all that ever were.
//!
//! A policy that is new (its hash was never seen, or cleanups were stopped since) gets one place at a time until some
//! cleanups under it went well, and not all on one node: what suits one may harm the next.
//!
//! In doubt cleanups are stopped: where a decision cannot be read, where the journal has lost some, and where a node was
//! told of a stop that this collector does not know ([`claims`]).
//!
//! [`machine`] decides and [`judge`] says what is wrong, both purely; [`ledger`] is what both stand on, and a fold over
//! decisions, so that a restart forgets nothing; [`keeper`] owns them, makes each decision durable and tells the nodes
//! ([`board`]); what nodes ask comes to it through [`asks`], what people order through [`handle`].
//!
//! Deliberately absent: what may go and how much (the node's policy and budgets), what a node does while it hears
//! nothing (the agent's `cleanup.without_collector`), the words of the wire (`ingest`, `query`).

mod asks;
mod board;
mod claims;
mod fleet;
mod grave;
mod handle;
pub mod judge;
mod keeper;
pub mod ledger;
pub mod machine;
mod missed;
mod pace;
mod surplus;
mod tell;
#[cfg(test)]
mod tests;

use std::time::Duration;

use dogwatch::record::{Hash, NodeName, Severity};

pub use board::View;
pub use fleet::{Fleet, Seen};
pub use handle::{Figures, FleetBrake, Handle, Looked, Refusal, Unknown};
pub use keeper::{ANSWERS, Keeper};
pub use ledger::{Ledger, Permit, Stopped};

/// The rule of the finding that says that cleanups were stopped.
pub const STOPPED_RULE: &str = "fleet-cleanup-stopped";
/// Most places, whatever the share of a large fleet comes to: the row that holds them stays small.
pub const MAX_PLACES: u32 = 500;

/// How the brake is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Nodes that may have a place at a time.
    pub max_nodes: u32,
    /// The same as a share of the nodes that are there; the greater of both counts.
    pub max_share: f64,
    /// How long a node keeps its place after its cleanup, and is watched.
    pub watch: Duration,
    /// How long a permit holds unless it is asked for again.
    pub lease: Duration,
    /// Cleanups that must go well under a policy before more than one node at a time may use it.
    pub canary_successes: u32,
    /// Nodes on which they must have, where there are as many.
    pub canary_nodes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_nodes: 3,
            max_share: 0.05,
            watch: Duration::from_secs(120),
            lease: Duration::from_secs(60),
            canary_successes: 3,
            canary_nodes: 2,
        }
    }
}

/// What a node asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Who.
    pub node: NodeName,
    /// The action's id.
    pub action: String,
    /// The mount to relieve.
    pub mount: String,
    /// What the plan expects to free.
    pub planned_bytes: u64,
    /// Objects of the plan.
    pub planned_objects: u64,
    /// What decides on that node what may go.
    pub policy: Hash,
    /// The worst finding of the mount.
    pub severity: Severity,
    /// When it is full, if it fills.
    pub seconds_to_full: Option<f64>,
    /// What the plan uses.
    pub cleaners: Vec<String>,
    /// Whether it was granted and goes on.
    pub acting: bool,
    /// The node's own clock, given back in the answer.
    pub asked_boot_ns: u64,
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go.
    Granted,
    /// Not yet.
    Waiting {
        /// 1 is next.
        place: usize,
        /// So many wait.
        of: usize,
        /// Why it waits.
        why: String,
    },
    /// Not now, and what is under way ends.
    Stopped {
        /// Why.
        why: String,
    },
}
