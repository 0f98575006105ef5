//! What is shown: the objects whose field names `-o json` promises, and how each becomes rows.
//!
//! A field that is not known is `null`. Field names here are a contract with scripts: add, never rename. Both sources,
//! a collector and a node's journal, come in as wire messages ([`from_wire`]), so they cannot differ in form.
//!
//! Deliberately absent: checking. What a collector says is shown as it says it, made harmless for terminals by `output`.

mod fleet;
mod from_wire;
mod lines;
mod rows;
pub(crate) mod usage;
mod usage_from_wire;

use std::collections::BTreeMap;

pub(crate) use fleet::{Alone, FleetBrake};
pub(crate) use from_wire::sampled;
pub(crate) use rows::{full_in, state};

use dogwatch::record::{Pod, Sample, Severity};
use serde::Serialize;

use crate::time::Utc;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) state: Option<String>,
    pub(crate) last_seen: Option<Utc>,
    pub(crate) agent_version: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) mode: Option<&'static str>,
    pub(crate) unable: Vec<String>,
    pub(crate) records_total: Option<u64>,
    pub(crate) sampled_at: Option<Utc>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) memory_available_bytes: Option<u64>,
    pub(crate) load1: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) fs: String,
    pub(crate) total_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) available_bytes: u64,
    /// `null` where the filesystem has no fixed number.
    pub(crate) inodes_total: Option<u64>,
    pub(crate) inodes_free: Option<u64>,
    pub(crate) read_only: bool,
    /// 0 where nothing is left; `null` where it does not fill, or nobody can tell.
    pub(crate) seconds_to_full: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) state: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) opened_at: Option<Utc>,
    pub(crate) acknowledged_at: Option<Utc>,
    pub(crate) acknowledged_by: Option<String>,
    pub(crate) resolved_at: Option<Utc>,
    pub(crate) reason: String,
    pub(crate) findings: Vec<String>,
    pub(crate) actions: Vec<String>,
}

/// `describe`: the incident's own fields, and its parts in full.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    pub(crate) incident: Incident,
    pub(crate) belongs: Vec<String>,
    pub(crate) finding_details: Vec<Finding>,
    pub(crate) action_details: Vec<Action>,
    pub(crate) timeline: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) time: Utc,
    pub(crate) node: Option<String>,
    pub(crate) kind: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) summary: String,
    pub(crate) evidence: Vec<Citation>,
    pub(crate) actor: Option<String>,
}

/// Where a record stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Citation {
    pub(crate) node: String,
    pub(crate) incarnation: String,
    pub(crate) stream: &'static str,
    pub(crate) seq: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: String,
    /// Of its newest state.
    pub(crate) time: Option<Utc>,
    pub(crate) node: Option<String>,
    pub(crate) rule: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) state: Option<&'static str>,
    pub(crate) subject: Option<Subject>,
    pub(crate) summary: String,
    pub(crate) explanation: String,
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) citations: Vec<Citation>,
    pub(crate) raised_at: Option<Utc>,
    pub(crate) cleared_at: Option<Utc>,
    pub(crate) incident: Option<String>,
    pub(crate) count: Option<u64>,
    pub(crate) from_collector: bool,
    pub(crate) pod: Option<Pod>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Subject {
    pub(crate) kind: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Action {
    pub(crate) id: String,
    /// Of its newest state.
    pub(crate) time: Option<Utc>,
    pub(crate) node: String,
    pub(crate) mount: String,
    pub(crate) mode: Option<&'static str>,
    pub(crate) state: Option<&'static str>,
    pub(crate) planned_bytes: u64,
    pub(crate) freed_bytes: Option<u64>,
    pub(crate) available_before_bytes: Option<u64>,
    pub(crate) available_after_bytes: Option<u64>,
    pub(crate) unexplained_bytes: Option<i64>,
    pub(crate) objects: Vec<Object>,
    pub(crate) refused: Vec<Refusal>,
    pub(crate) unexplained_reason: Option<String>,
    pub(crate) target_available_bytes: u64,
    pub(crate) reason: String,
    pub(crate) actor: String,
    pub(crate) finding: Option<String>,
    pub(crate) incident: Option<String>,
    pub(crate) expires_at: Option<Utc>,
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Object {
    /// Lossy where it is not UTF-8; then `path_hex` holds the bytes.
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_hex: Option<String>,
    pub(crate) size_bytes: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) modified_at: Option<Utc>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) cleaner: String,
    pub(crate) tier: u32,
    pub(crate) why_safe: String,
    pub(crate) outcome: &'static str,
    pub(crate) sha256: Option<String>,
    pub(crate) digest_partial: bool,
    /// Only where the object stays and loses content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cut: Option<Cut>,
    pub(crate) accessed_at: Option<Utc>,
    pub(crate) born_at: Option<Utc>,
    /// Bytes of its content that are kept, which is all of it.
    pub(crate) preserved_bytes: Option<u64>,
}

/// What goes of a file that stays; `sha256` is of that.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cut {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The newest lines when it was planned, secrets masked; lossy where not UTF-8.
    pub(crate) tail: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Refusal {
    /// `null` when the whole action was refused.
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_hex: Option<String>,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    pub(crate) time: Utc,
    pub(crate) node: Option<String>,
    pub(crate) kind: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) source: String,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<String, String>,
}

/// What may not be cleaned or expired.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Hold {
    pub(crate) id: String,
    /// `null`: every node.
    pub(crate) node: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) incident: Option<String>,
    pub(crate) reason: String,
    pub(crate) actor: String,
    pub(crate) added_at: Option<Utc>,
    pub(crate) released_at: Option<Utc>,
    pub(crate) released_by: Option<String>,
    pub(crate) confirmed_by: Vec<String>,
    /// Nodes that keep it and had nothing at its path when they were told.
    pub(crate) absent_on: Vec<String>,
    pub(crate) state: String,
    /// Bytes allocated to deleted files that nodes keep for it: what releasing it frees. `null`: no node says so.
    pub(crate) kept_bytes: Option<u64>,
    /// Files that these nodes have linked aside for it; `null` likewise.
    pub(crate) kept_files: Option<u64>,
    /// Nodes that it concerns of which that is not known now.
    pub(crate) kept_unknown_nodes: u64,
    /// What could not be kept aside, by node.
    pub(crate) lacks: Vec<String>,
}

/// How dogwatch itself is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) collector_version: Option<String>,
    pub(crate) started_at: Option<Utc>,
    /// Worst first.
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// `collector`, or a node's name.
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) words: String,
    pub(crate) remedy: Option<String>,
}

impl Check {
    /// A severity that this program does not know is not taken for well.
    pub(crate) fn is_well(&self) -> bool {
        self.severity == Some(Severity::Info)
    }
}

/// One piece of what `watch` tells.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct News {
    pub(crate) time: Utc,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "what", content = "is", rename_all = "lowercase")]
pub(crate) enum What {
    Incident(Incident),
    Finding(Finding),
    Action(Action),
    Event(Event),
    /// So many were passed over.
    Missed(u64),
}

/// A node with the newest sample of it.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) node: Node,
    pub(crate) sample: Option<(i64, Sample)>,
    /// Why the sample that came could not be read.
    pub(crate) unread: Option<String>,
}
