//! Reads the kernel's log: what it says of memory, disks, filesystems and hardware, before and while the agent runs.
//!
//! Modules stand in the order in which a message passes them: [`record`] is one message and the format of `/dev/kmsg`,
//! [`syslog`] the text of syslog(2), [`ring`] reads either, [`report`] knows where a report of the OOM killer begins and
//! ends, [`choose`] says what is kept and for which stream, [`reader`] is the thread around them, [`state`] remembers
//! how far the record of it is durable.
//!
//! `/dev/kmsg` is preferred: each message has a number there, so that nothing comes twice and what was overwritten
//! before it was read is counted. Where it cannot be opened (a container without the device), syslog(2) gives the ring
//! as text, which is asked for again and again; lines are told apart by their times there, and of what was overwritten
//! nobody knows how much it was. Both need the rights of `kernel.dmesg_restrict` (syslog(2)): CAP_SYSLOG, or 0 in it.
//!
//! Invariants
//! - A message is handed on at most once for each stream. Reading begins anew with the whole ring at each start, and
//!   what the checkpoint or the journal have already is passed over ([`Resume`]).
//! - What is lost is said: overwritten in the ring, or over the budget of lines in a second, as a gap with its count.
//! - At the first start on a boot, messages older than [`KernelConfig::history`] are passed over and counted in a note.
//! - The reading thread never touches a disk: it reads on while the disk that it is told about hangs.
//!
//! Limits
//! - The kernel stamps messages by its scheduler's clock, which NTP does not steer and which stops in suspend as
//!   CLOCK_MONOTONIC does. `written_wall_ns` is reckoned from it by the offset of the two clocks when the message is
//!   read; some 10 to 100 ppm of the uptime is its error (up to 9 s a day), and a wall clock that was set since shows
//!   in it whole. The record's own time is when it was read.
//! - A kill within a second of lines dropped for want of budget can leave that gap unsaid.
//!
//! Deliberately absent: the dictionary behind a message (` SUBSYSTEM=`, ` DEVICE=`), joining of fragments (flag `c`:
//! the kernel itself calls it a guess), pstore (what the boot before this one said last).

mod choose;
mod reader;
mod record;
mod report;
mod ring;
mod state;
mod syslog;

use std::time::Duration;

use dogwatch::record::{Gap, LogLine, Stream};

use crate::tail::{Keep, RuleSet};

pub use reader::{Handle, Sent, start};
pub use state::{CHECKPOINT_FILE, Checkpoint, Keeper};

/// The source of every line from here.
pub const SOURCE: &str = "kmsg";

/// What to read the kernel's log from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// `/dev/kmsg`, else syslog(2).
    #[default]
    Auto,
    /// `/dev/kmsg` alone.
    Kmsg,
    /// syslog(2) alone.
    Syslog,
}

impl std::str::FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kmsg" => Ok(Self::Kmsg),
            "syslog" => Ok(Self::Syslog),
            _ => Err("write auto, kmsg or syslog"),
        }
    }
}

/// How the kernel's log is read.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// From what.
    pub origin: Origin,
    /// The device, tried in this order. More than one where the host's root is mounted somewhere in a container.
    pub devices: Vec<std::path::PathBuf>,
    /// How old messages may be at the first start on a boot.
    pub history: Duration,
    /// Messages of this priority and more urgent ones (lower numbers, syslog(2)) are evidence, matched or not.
    pub evidence_priority: u32,
    /// Messages in a second for the recorder stream; ten times as many at once.
    pub lines_per_second: u32,
    /// Messages in a second for the evidence stream; ten times as many at once. Half of these are kept for what rules
    /// match and for reports of the OOM killer.
    pub evidence_lines_per_second: u32,
    /// How often syslog(2) is asked; `/dev/kmsg` tells by itself.
    pub poll: Duration,
    /// The rules and masks of the tail.
    pub rules: RuleSet,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            origin: Origin::Auto,
            devices: vec!["/dev/kmsg".into()],
            history: Duration::from_secs(3600),
            evidence_priority: 4,
            lines_per_second: 1000,
            evidence_lines_per_second: 100,
            poll: Duration::from_secs(1),
            rules: RuleSet::shipped(),
        }
    }
}

/// Everything before `next` is dealt with once the batch that carries it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The first message that is not.
    pub next: u64,
    /// The newest message that went to the evidence stream; context of a later match may lie before it.
    pub evidence_to: Option<u64>,
}

/// What the kernel's log has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A message to keep. Context of a match can come twice, once for each stream.
    Line {
        /// It, masked; `offset` is its number.
        line: Box<LogLine>,
        /// What for.
        keep: Keep,
        /// Whether an earlier run told what is to be told of it: the evidence stream had it, or what came after it, when this
        /// run began, and only the recorder stream lacked it.
        judged: bool,
    },
    /// A loss.
    Gap(Gap),
    /// Something worth knowing about the reading.
    Note(String),
    /// Why the kernel's log cannot be read (any more).
    Unable(String),
}

/// Events in order, and how far they reach.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// What was found.
    pub events: Vec<Event>,
    /// Moves on when all of them are durable; `None`: nothing was read.
    pub mark: Option<Mark>,
}

/// From where to go on.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// This boot, `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// The last checkpoint, of whichever boot.
    pub checkpoint: Option<Checkpoint>,
    /// The newest line of the kernel's in each stream of the journal.
    pub journaled: Vec<(Stream, LogLine)>,
}

/// For a test of the machine's own log: one at a time, for one floods it, and overwrites what the others wait for.
#[cfg(test)]
fn alone_with_the_machine() -> std::sync::MutexGuard<'static, ()> {
    static MACHINE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
