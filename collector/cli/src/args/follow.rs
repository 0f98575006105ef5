//! Verbs that show what goes on: `top`, `logs`, `watch`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::get::Format;
use super::select::{Selectors, When};
use crate::time;

/// What `top` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum TopView {
    /// CPU, memory, pressure and the fullest mount of each node
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// Filesystems, the one that is full soonest first
    #[value(aliases = ["mount", "fs"])]
    Mounts,
    /// Pods, those whose memory grew most first
    #[value(aliases = ["pod", "po"])]
    Pods,
    /// Processes by CPU, with their pods
    #[value(aliases = ["process", "ps"])]
    Processes,
    /// Block devices by utilisation
    #[value(aliases = ["disk"])]
    Disks,
}

impl TopView {
    pub(crate) const ALL: [Self; 5] = [Self::Nodes, Self::Mounts, Self::Pods, Self::Processes, Self::Disks];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Mounts => "mounts",
            Self::Pods => "pods",
            Self::Processes => "processes",
            Self::Disks => "disks",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch top                             all nodes, live; ? shows the keys, q ends it
  dogwatch top mounts                      what is full next
  dogwatch top pods --sort growth          whose memory grows
  dogwatch top pods -n shop --containers   container by container
  dogwatch top --node node-1               all of one node
  dogwatch top disks --once                block devices, as a table
  dogwatch top --disk                      what fills the fullest mount of all nodes: folders, writers, pods
  dogwatch top --disk --node node-1 --mount /var
  dogwatch top processes -o json           for programs")]
pub(crate) struct TopArgs {
    #[arg(
        value_enum,
        value_name = "WHAT",
        help = "What to show [default: nodes; with one --node all of it]"
    )]
    pub(crate) view: Option<TopView>,
    #[command(flatten)]
    pub(crate) which: Selectors,
    /// What fills a mount, asked on its node: a tree of folders, whose they are, who writes, what grows since when
    #[arg(long, conflicts_with_all = ["view", "containers", "sort", "reverse"])]
    pub(crate) disk: bool,
    /// With --disk: this mount, or a folder below one [default: the fullest]
    #[arg(long, value_name = "PATH", requires = "disk")]
    pub(crate) mount: Option<String>,
    /// Pods: each container by itself
    #[arg(long)]
    pub(crate) containers: bool,
    /// Print a table and end, as in a pipe
    #[arg(long)]
    pub(crate) once: bool,
    /// Look this often
    #[arg(long, value_name = "TIME", value_parser = time::duration, default_value = "2s")]
    pub(crate) interval: Duration,
    /// History for growth and sparklines
    #[arg(long, value_name = "TIME", value_parser = time::duration, default_value = "15min")]
    pub(crate) window: Duration,
    /// Sort by this column, e.g. cpu, memory, growth, name
    #[arg(long, visible_alias = "sort-by", value_name = "COLUMN")]
    pub(crate) sort: Option<String>,
    /// The other way round
    #[arg(long)]
    pub(crate) reverse: bool,
    /// The first N rows only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// Time, node, pod and container, then the line
    #[default]
    Text,
    /// The lines alone; in a pipe exactly as they are held, on a terminal made harmless
    Raw,
    /// One array of objects
    Json,
    /// One object a line, as it comes
    Jsonl,
    /// The same objects as YAML
    Yaml,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch logs --pod shop/api                     the pods of shop/api, the last hour
  dogwatch logs --node node-1 --source kmsg        the kernel of node-1
  dogwatch logs --grep 'OOM|oom' --since 02:00     what spoke of it since two o'clock
  dogwatch logs --pod shop/api -f                  and what comes
  dogwatch logs --incident inc-2026-11-21-001      what its nodes said around it
  dogwatch logs --journal /var/lib/dogwatch/journal --since 10min    on the node: every line

The collector holds the lines that matched a rule, and those around them. Every line is in the node's own journal.")]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) which: Selectors,
    #[command(flatten)]
    pub(crate) when: When,
    /// Those around an incident: of its nodes, from 5 min before its first finding to 5 min after its end
    #[arg(long, value_name = "INCIDENT", conflicts_with = "follow", help_heading = "Which")]
    pub(crate) incident: Option<String>,
    /// Lines that match this regular expression
    #[arg(long, value_name = "RE", help_heading = "Which")]
    pub(crate) grep: Option<String>,
    /// Lines of this log: its path, or the folders that it begins with; kmsg for the kernel
    #[arg(long, value_name = "PATH", help_heading = "Which")]
    pub(crate) source: Option<String>,
    /// The newest N only
    #[arg(long, visible_alias = "tail", value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Which")]
    pub(crate) limit: Option<u32>,
    /// Go on with the lines that come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The lines alone: the same as -o raw
    #[arg(long)]
    pub(crate) no_prefix: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: LogFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch watch                                   incidents, findings and actions, as they come
  dogwatch watch --severity high                   only what is bad
  dogwatch watch --kind log --grep 'panic'         log lines that speak of it
  dogwatch watch --node node-1 -o jsonl | tee seen.jsonl")]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) which: Selectors,
    /// Of these kinds: incident, finding, action, and of events sample, log, gap, note, file [default: the first three]
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind, help_heading = "Which")]
    pub(crate) kind: Vec<String>,
    /// Events whose message matches this regular expression; without --kind: log lines
    #[arg(long, value_name = "RE", help_heading = "Which")]
    pub(crate) grep: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// What can be watched.
fn kind(text: &str) -> Result<String, String> {
    const KINDS: [&str; 8] = ["incident", "finding", "action", "sample", "log", "gap", "note", "file"];
    if KINDS.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("it must be one of {}", KINDS.join(", ")))
    }
}
