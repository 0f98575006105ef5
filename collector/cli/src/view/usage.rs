//! What fills a mount, under the names that `-o json` promises.

use dogwatch::record::Pod;
use serde::Serialize;

use crate::output::Listed;
use crate::output::table::{Cell, Column};
use crate::output::text::bytes;
use crate::time::Utc;

/// What fills a mount of a node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Usage {
    pub(crate) node: String,
    pub(crate) mount: String,
    /// The folder that was walked.
    pub(crate) path: String,
    pub(crate) time: Option<Utc>,
    pub(crate) total_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) available_bytes: u64,
    /// `null` where the filesystem counts none.
    pub(crate) inodes_total: Option<u64>,
    pub(crate) inodes_used: Option<u64>,
    /// Whether all of it was seen in time.
    pub(crate) whole: bool,
    /// Used, and found in no folder; `null` where a part was walked.
    pub(crate) unfound_bytes: Option<u64>,
    pub(crate) tree: Option<Folder>,
    pub(crate) files: Vec<File>,
    /// `null`: see `writers_unknown`.
    pub(crate) writers: Option<Writers>,
    pub(crate) writers_unknown: Option<String>,
    pub(crate) growth: Vec<Growth>,
    pub(crate) growth_unknown: Option<String>,
    pub(crate) remarks: Vec<String>,
    pub(crate) entries: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) allocated_bytes: u64,
    pub(crate) inodes: u64,
    /// Where its parent's is another, or nobody's; `null` else, and where it is unknown.
    pub(crate) owner: Option<Owner>,
    pub(crate) folders: Vec<Folder>,
}

/// Whose something is, by where it lies.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Owner {
    pub(crate) pod: Option<Pod>,
    pub(crate) part: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) allocated_bytes: u64,
    pub(crate) size_bytes: u64,
    pub(crate) uid: u32,
    pub(crate) modified_at: Option<Utc>,
    pub(crate) owner: Option<Owner>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Writers {
    pub(crate) bytes_per_second: f64,
    /// certain, likely, unknown, not growing
    pub(crate) confidence: String,
    pub(crate) explained: f64,
    pub(crate) growing: Vec<Writer>,
    pub(crate) deleted: Vec<Writer>,
    pub(crate) deleted_bytes: u64,
    pub(crate) missed: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Writer {
    pub(crate) path: String,
    pub(crate) pod: Option<Pod>,
    pub(crate) processes: Vec<Process>,
    pub(crate) allocated_bytes: u64,
    pub(crate) bytes_per_second: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// `null`: it is gone.
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Growth {
    pub(crate) path: String,
    pub(crate) grown_bytes: u64,
    pub(crate) at_least: bool,
    pub(crate) since: Option<Utc>,
    pub(crate) bytes_per_second: f64,
    pub(crate) allocated_bytes: u64,
    pub(crate) owner: Option<Owner>,
}

/// A pod as people call it; by its uid where it has no known name.
pub(crate) fn called(pod: &Pod) -> String {
    if pod.name.is_empty() {
        format!("pod {}", pod.uid)
    } else {
        format!("pod {}/{}", pod.namespace, pod.name)
    }
}

/// For programs a list of one; people are shown the picture instead.
impl Listed for Usage {
    const PLURAL: &'static str = "mounts";

    fn columns(_wide: bool) -> Vec<Column> {
        vec![Column::left("NODE"), Column::flexible("PATH"), Column::right("USED"), Column::right("AVAIL")]
    }

    fn rows(&self, _wide: bool) -> Vec<Vec<Cell>> {
        let cells = [&self.node, &self.path].map(Cell::new).into_iter();
        vec![cells.chain([self.used_bytes, self.available_bytes].map(|n| Cell::new(bytes(n)))).collect()]
    }

    fn name(&self) -> Option<&str> {
        None
    }
}
