//! The fleet brake.

use clap::{Args, Subcommand};

use super::get::Format;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch brake pause -m 'a rule looks wrong'    nobody cleans until it is released
  dogwatch brake status                           who cleans, who waits, what stopped it
  dogwatch brake trip --action a-1a2b3c4d5e6f7a8b -m 'it removed what the auditors need'
  dogwatch brake release -m 'the rule is mended'  shows what it ends, and asks where one went wrong")]
pub(crate) struct BrakeArgs {
    #[command(subcommand)]
    pub(crate) verb: BrakeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BrakeVerb {
    /// Stop cleanups on all nodes until they are released
    Pause(BrakeSayArgs),
    /// Let cleanups go on: ends what it shows, and nothing that stopped them since
    Release(BrakeReleaseArgs),
    /// Stop cleanups on all nodes because one went wrong
    Trip(BrakeTripArgs),
    /// Who cleans, who waits, and what stopped it
    Status(BrakeShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BrakeSayArgs {
    /// Why
    #[arg(short = 'm', long = "message", visible_alias = "reason", value_name = "REASON")]
    pub(crate) reason: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct BrakeReleaseArgs {
    /// Do not ask; needed where a cleanup went wrong or a node is stopped alone, and nobody can answer
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) say: BrakeSayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BrakeTripArgs {
    /// The node whose cleanup it was
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// The cleanup: a-…
    #[arg(long, value_name = "ACTION")]
    pub(crate) action: Option<String>,
    #[command(flatten)]
    pub(crate) say: BrakeSayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BrakeShowArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}
