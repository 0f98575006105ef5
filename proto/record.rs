//! Records and their parts: the words in which dogwatch speaks of a node.
//!
//! Types here hold only values that make sense (a [`NodeName`] is a name, a [`Severity`] is a rank). Wire messages
//! become these through [`crate::convert`], which names the field it refuses. Nothing here reads a clock or a file.

mod action;
mod file;
mod finding;
mod gap;
mod owner;
mod sample;
mod vitals;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use action::{
    Action, ActionState, CleanupMode, Cut, ImageStore, LEASE_GRACE, ObjectOutcome, PlannedImage,
    PlannedObject, Refusal, SHORTEST_LEASE, Unexplained,
};
pub use file::{FileContent, FileSeen, MAX_PIECE_BYTES};
pub use finding::{Fact, Finding, FindingState, Severity, Subject};
pub use gap::{GAP_CLASSES, several_of};
pub use owner::named_after;
pub use sample::{Cpu, Memory, Mount, Pressure, Process, Sample, SelfCost};
pub use vitals::{
    Cgroup, ClockState, CoreCpu, DescriptorUse, Disk, Interface, Limits, NetStack, Pod, Spawner, StuckTask,
    Tasks,
};

/// A value that a name or number may not have, with the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?}: {rule}")]
pub struct InvalidValue {
    /// What the value was meant to be, e.g. `node name`.
    pub what: &'static str,
    /// The value as it came, cut to 80 characters.
    pub value: String,
    /// The rule in words.
    pub rule: &'static str,
}

impl InvalidValue {
    /// Names `value` as a `what` that breaks `rule`.
    pub fn new(what: &'static str, value: impl Into<String>, rule: &'static str) -> Self {
        let value: String = value.into();
        Self { what, value: value.chars().take(80).collect(), rule }
    }
}

/// A node's name: an RFC 1123 subdomain (lower-case letters, digits, `-` and `.`; at most 253 characters), as
/// Kubernetes demands of node names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a DNS subdomain: lower-case letters, digits, '-' and '.', starting and ending \
                            with a letter or digit, at most 253 characters";
        let ok_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok_label = |l: &str| {
            let b = l.as_bytes();
            !b.is_empty()
                && b.len() <= 63
                && ok_char(b[0])
                && ok_char(b[b.len() - 1])
                && b.iter().all(|&c| ok_char(c) || c == b'-')
        };
        if s.len() <= 253 && s.split('.').all(ok_label) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidValue::new("node name", s, RULE))
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<NodeName> for String {
    fn from(n: NodeName) -> Self {
        n.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of an agent on one boot of a node: 16 random bytes, drawn at start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// From wire bytes; anything but 16 of them is refused.
    pub fn from_slice(b: &[u8]) -> Result<Self, InvalidValue> {
        b.try_into()
            .map(Self)
            .map_err(|_| InvalidValue::new("incarnation", format!("{} bytes", b.len()), "must be 16 bytes"))
    }

    /// The first 8 hex digits: enough to tell one node's incarnations apart in text.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl From<Incarnation> for String {
    fn from(v: Incarnation) -> Self {
        v.to_string()
    }
}

impl TryFrom<String> for Incarnation {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        from_hex(&s).map(Self).ok_or_else(|| InvalidValue::new("incarnation", s, "must be 32 hex digits"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

/// SHA-256 of a block's header, or of a section.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What stands where there is no predecessor.
    pub const ZERO: Self = Self([0; 32]);

    /// From wire bytes; anything but 32 of them is refused.
    pub fn from_slice(b: &[u8]) -> Result<Self, InvalidValue> {
        b.try_into()
            .map(Self)
            .map_err(|_| InvalidValue::new("hash", format!("{} bytes", b.len()), "must be 32 bytes"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl From<Hash> for String {
    fn from(v: Hash) -> Self {
        v.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        from_hex(&s).map(Self).ok_or_else(|| InvalidValue::new("hash", s, "must be 64 hex digits"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// `N` bytes from exactly `2N` hex digits.
fn from_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let digits = s.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |d: u8| (d as char).to_digit(16).map(|v| v as u8);
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

/// Position of a record in its stream and incarnation; the first is 1.
pub type Seq = u64;

/// The three streams. Each has its own chain, ring, cursor and gRPC call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Findings, actions, gaps. Sealed at once; never evicted by bulk.
    Urgent,
    /// Matched logs with context, downsampled samples.
    Evidence,
    /// Everything at full rate; stays on the node until an incident asks.
    Recorder,
}

impl Stream {
    /// Every stream, most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Evidence, Self::Recorder];

    /// `urgent`, `evidence` or `recorder`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Evidence => "evidence",
            Self::Recorder => "recorder",
        }
    }

    /// 0, 1, 2 in the order of [`Stream::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of record that exist so far; each has a bit in [`Kinds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Vital signs of one tick.
    Sample,
    /// A log line.
    Log,
    /// A detector's statement.
    Finding,
    /// What a cleanup planned or did.
    Action,
    /// A loss, said.
    Gap,
    /// Words of a person or of the agent about itself.
    Note,
    /// A file that was about to go, or a piece of its content.
    File,
}

impl Kind {
    /// Every kind, in the order of its bit.
    pub const ALL: [Self; 7] =
        [Self::Sample, Self::Log, Self::Finding, Self::Action, Self::Gap, Self::Note, Self::File];

    /// The word used in the CLI and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Log => "log",
            Self::Finding => "finding",
            Self::Action => "action",
            Self::Gap => "gap",
            Self::Note => "note",
            Self::File => "file",
        }
    }
}

impl FromStr for Kind {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|k| k.as_str() == s).ok_or_else(|| {
            InvalidValue::new("kind", s, "must be sample, log, finding, action, gap, note or file")
        })
    }
}

/// A set of [`Kind`]s: bit n stands for `Kind::ALL[n]`. Unknown bits of a newer writer are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kinds(pub u32);

impl Kinds {
    /// This set and `kind`.
    #[must_use]
    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    /// Whether the two sets share a kind.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A moment on a node, by both of its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// CLOCK_REALTIME, nanoseconds since the Unix epoch. May jump.
    pub wall_ns: i64,
    /// CLOCK_BOOTTIME, nanoseconds since boot, suspend included. Never jumps.
    pub boot_ns: u64,
}

/// Where a record stands: enough to find it again on any collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordRef {
    /// The node that wrote it.
    pub node: NodeName,
    /// The run that wrote it.
    pub incarnation: Incarnation,
    /// Its stream.
    pub stream: Stream,
    /// Its position there.
    pub seq: Seq,
}

impl fmt::Display for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.node, self.incarnation.short(), self.stream, self.seq)
    }
}

/// The smallest piece of evidence. Node, incarnation and stream are its block's.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its position in the stream.
    pub seq: Seq,
    /// When it was made, by the node's clocks.
    pub at: Moment,
    /// What it says.
    pub body: Body,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Vital signs of one tick; shared, for it goes to several streams and to whoever shows it.
    Sample(Arc<Sample>),
    /// A log line.
    Log(LogLine),
    /// A detector's statement.
    Finding(Box<Finding>),
    /// What a cleanup planned or did.
    Action(Box<Action>),
    /// A loss, said.
    Gap(Gap),
    /// Words about the node by its agent.
    Note(String),
    /// Files that were about to go, or a piece of the content of one.
    File(Box<FileSeen>),
}

impl Body {
    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sample(_) => Kind::Sample,
            Self::Log(_) => Kind::Log,
            Self::Finding(_) => Kind::Finding,
            Self::Action(_) => Kind::Action,
            Self::Gap(_) => Kind::Gap,
            Self::Note(_) => Kind::Note,
            Self::File(_) => Kind::File,
        }
    }

    /// The section of a block that it belongs to: one a source.
    pub fn source(&self) -> String {
        match self {
            Self::Sample(_) => "sampler".to_owned(),
            Self::Log(l) => format!("log:{}", l.source),
            Self::Finding(_) => "detector".to_owned(),
            Self::Action(_) => "executor".to_owned(),
            Self::File(f) if f.content.is_some() => "content".to_owned(),
            Self::File(_) => "executor".to_owned(),
            Self::Gap(_) | Self::Note(_) => "agent".to_owned(),
        }
    }
}

/// One line of a log, as found and masked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogLine {
    /// The file's path (lossy where it is not UTF-8), or `kmsg`.
    pub source: String,
    /// Offset in bytes of the line's first byte in its file.
    pub offset: u64,
    /// The file's inode, so that a rotated file stays the same source.
    pub inode: u64,
    /// The line without its newline. Not necessarily UTF-8.
    pub line: Vec<u8>,
    /// Whether it was longer than the limit and is cut here.
    pub truncated: bool,
    /// Names of the rules that it matched; none for a line kept as context.
    pub rules: Vec<String>,
    /// Whose container wrote it.
    pub pod: Option<Pod>,
    /// `stdout` or `stderr` of a container; empty elsewhere.
    pub output: String,
    /// How many partial lines of the runtime it was joined from; 0: not a runtime's line.
    pub parts: u32,
    /// When the runtime, or the kernel, says that it was written, wall ns.
    pub written_wall_ns: Option<i64>,
    /// Priority of a kernel message, 0 (emergency) to 7 (debug), syslog(2).
    pub priority: Option<u32>,
}

/// A loss, said: what is missing, how much of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stream that lacks it.
    pub stream: Stream,
    /// What it came from: `sampler`, a log's path, `journal`.
    pub source: String,
    /// The last seq before the hole, where seqs are missing.
    pub after_seq: Option<Seq>,
    /// The first seq after the hole, where known.
    pub before_seq: Option<Seq>,
    /// How many records; `None` when nobody can know.
    pub count: Option<u64>,
    /// Wall time, ns: the hole begins no earlier.
    pub from_wall_ns: i64,
    /// Wall time, ns: the hole ends no later.
    pub to_wall_ns: i64,
    /// Why, in words.
    pub reason: String,
    /// Whose records were lost, when not the writer's own.
    pub incarnation: Option<Incarnation>,
}
