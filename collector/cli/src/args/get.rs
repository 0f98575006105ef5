//! `get`: what is listed, and how.

use clap::{Args, ValueEnum};
use dogwatch::record::Kind;

use super::select::{Selectors, When};

/// What `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resource {
    /// Nodes, and how full they are (no)
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// Incidents (inc)
    #[value(aliases = ["incident", "inc"])]
    Incidents,
    /// Records: samples, log lines, findings, actions, gaps, notes (ev)
    #[value(aliases = ["event", "ev"])]
    Events,
    /// Findings by their newest state (fi)
    #[value(aliases = ["finding", "fi"])]
    Findings,
    /// Plans and cleanups by their newest state (ac)
    #[value(aliases = ["action", "ac"])]
    Actions,
    /// What may not be cleaned or expired (ho)
    #[value(aliases = ["hold", "ho"])]
    Holds,
}

impl Resource {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Incidents => "incidents",
            Self::Events => "events",
            Self::Findings => "findings",
            Self::Actions => "actions",
            Self::Holds => "holds",
        }
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For people with a wide terminal
    Wide,
    /// One array of objects
    Json,
    /// One object a line, as it comes
    Jsonl,
    /// The same objects as YAML
    Yaml,
    /// Names or ids alone
    Name,
}

impl Format {
    /// Whether people read it.
    pub(crate) fn for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Whether it can go on for ever: an array has an end.
    pub(crate) fn endless(self) -> bool {
        !matches!(self, Self::Json | Self::Yaml)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch get incidents --open                     what is wrong now
  dogwatch get nodes -o wide                        every mount of every node
  dogwatch get node node-1 -o yaml                  one node, with all that is known of it
  dogwatch get findings --active --severity high    only what is bad
  dogwatch get ev --pod shop/api --since 1h         what the pods of shop/api said and did
  dogwatch get ev --kind log --grep 'OOM|oom' --since 02:00 --until 02:30
  dogwatch get actions --since yesterday -o json    each file that went, and why
  dogwatch get nodes --sort-by name -w              list, then what changes")]
pub(crate) struct GetArgs {
    /// What to list; short names as in kubectl (no, inc, ev), singular or plural
    #[arg(value_enum, value_name = "KIND")]
    pub(crate) resource: Option<Resource>,
    /// Only these, by name or id
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[arg(short, long, value_enum, default_value_t, hide_possible_values = false)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) which: Selectors,
    #[command(flatten)]
    pub(crate) when: When,
    /// Events of these kinds only: sample, log, finding, action, gap, note, and file: what was about to go, of which -o json
    /// and yaml have each path with its digest
    #[arg(long, value_name = "KIND", value_delimiter = ',', help_heading = "Which")]
    pub(crate) kind: Vec<Kind>,
    /// Events whose message matches this regular expression
    #[arg(long, value_name = "RE", help_heading = "Which")]
    pub(crate) grep: Option<String>,
    /// Events from this log: its path, or the folders that it begins with
    #[arg(long, value_name = "PATH", help_heading = "Which")]
    pub(crate) source: Option<String>,
    /// In these states only: incidents open, acknowledged, resolved; findings raised, updated, cleared; actions
    /// planned, started, done, failed, refused; nodes connected, silent, never-seen; holds holding, pending, released
    #[arg(long, value_name = "STATE", value_delimiter = ',', help_heading = "Which")]
    pub(crate) state: Vec<String>,
    /// Findings that still hold, incidents that are not resolved, holds that were not released
    #[arg(long, visible_alias = "open", help_heading = "Which")]
    pub(crate) active: bool,
    /// The newest N only; with --sort-by the first N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Which")]
    pub(crate) limit: Option<u32>,
    /// Sort by this field of the JSON form, e.g. name, opened_at, .severity: severities and figures the worst first, names
    /// and times ascending
    #[arg(long, value_name = "FIELD")]
    pub(crate) sort_by: Option<String>,
    /// After listing, go on with what changes
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Nodes: do not ask them for figures of this moment
    #[arg(long)]
    pub(crate) cached: bool,
}
