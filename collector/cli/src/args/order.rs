//! Holds, and verbs about dogwatch itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::get::Format;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch hold add --path /var/log/app -m 'the auditors want it'            on every node
  dogwatch hold add --path /var/log/app --node node-1 -m 'inc-2026-11-21-001'
  dogwatch hold add --pod shop/api -m 'we look at it tomorrow'
  dogwatch hold add --incident inc-2026-11-21-001 -m 'post-mortem on Friday'
  dogwatch hold ls
  dogwatch hold release hold-1a2b3c4d -m 'done'")]
pub(crate) struct HoldArgs {
    #[command(subcommand)]
    pub(crate) verb: HoldVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HoldVerb {
    /// Keep something: a path, a pod's logs, a node, or an incident
    Add(HoldAddArgs),
    /// Let go of a hold
    Release(HoldReleaseArgs),
    /// List holds
    #[command(visible_alias = "list")]
    Ls(HoldListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HoldAddArgs {
    /// A file, or a folder with all beneath it; on every node unless --node says on which
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pod", "incident"])]
    pub(crate) path: Option<String>,
    /// A pod's logs
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "incident")]
    pub(crate) pod: Option<String>,
    /// Only on this node; alone: nothing is cleaned on it
    #[arg(long, value_name = "NODE", conflicts_with = "incident")]
    pub(crate) node: Option<String>,
    /// An incident's evidence
    #[arg(long, value_name = "INCIDENT")]
    pub(crate) incident: Option<String>,
    /// Why
    #[arg(short = 'm', long = "message", visible_alias = "reason", value_name = "REASON")]
    pub(crate) reason: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is written out is verified against the digest that was recorded before the file went; exit code 4 where it does not
hold or is not whole, and then nothing is written.

Examples:
  dogwatch preserved a-0123456789abcdef
  dogwatch preserved a-0123456789abcdef /var/crash/core.4711 -o core.4711")]
pub(crate) struct PreservedArgs {
    /// The cleanup: a-…
    pub(crate) action: String,
    /// The file to write out; without it, the files are listed
    pub(crate) path: Option<PathBuf>,
    /// The node whose cleanup it was; needed where another node gave one the same id
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Write it here, to a file that is not there yet; without it, to standard output
    #[arg(short = 'o', long, value_name = "FILE", requires = "path")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HoldReleaseArgs {
    /// The hold's id: hold-…
    pub(crate) id: String,
    /// Why
    #[arg(short = 'm', long = "message", visible_alias = "reason", value_name = "REASON")]
    pub(crate) reason: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct HoldListArgs {
    /// Released ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all is well, 1 something is wrong (or no collector answered), so that a script can ask.

Examples:
  dogwatch status
  dogwatch status -o wide               what is well, too
  dogwatch status >/dev/null || page-someone")]
pub(crate) struct StatusArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch completion bash > /etc/bash_completion.d/dogwatch
  dogwatch completion zsh > \"${fpath[1]}/_dogwatch\"
  dogwatch completion fish > ~/.config/fish/completions/dogwatch.fish")]
pub(crate) struct CompletionArgs {
    #[arg(value_enum, value_name = "SHELL", help = "For which shell")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch man | man -l -
  dogwatch man --out /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write a page for each verb into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print what counts, flags included, as a cli.yaml
    View,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Of this program alone; ask no collector
    #[arg(long)]
    pub(crate) client: bool,
}
