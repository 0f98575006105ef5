//! The command line: verbs after kubectl, times after journalctl.

use std::path::PathBuf;
use std::time::Duration;

mod brake;
mod follow;
mod get;
mod order;
mod select;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::time;
pub(crate) use brake::{BrakeArgs, BrakeReleaseArgs, BrakeSayArgs, BrakeShowArgs, BrakeTripArgs, BrakeVerb};
pub(crate) use follow::{LogFormat, LogsArgs, TopArgs, TopView, WatchArgs};
pub(crate) use get::{Format, GetArgs, Resource};
pub(crate) use order::{
    CompletionArgs, ConfigArgs, ConfigVerb, HoldAddArgs, HoldArgs, HoldListArgs, HoldReleaseArgs, HoldVerb,
    ManArgs, PreservedArgs, StatusArgs, VersionArgs,
};
pub(crate) use select::Selectors;

/// Asks dogwatch's collector what happened on the nodes, and orders what may be ordered.
///
/// Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 verification failed.
/// Times are UTC. NO_COLOR is respected, and a pipe: nothing in it is cut or left out; COLUMNS is for pictures and words alone.
#[derive(Debug, Parser)]
#[command(
    name = "dogwatch",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
At 03:00:
  dogwatch status                           is dogwatch itself well
  dogwatch get incidents --open             what is wrong now
  dogwatch describe incident INC            everything about one of them
  dogwatch top mounts                       what is full next
  dogwatch logs --pod NAMESPACE/NAME        what it said
  dogwatch watch                            what happens from now on"
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where to ask")]
pub(crate) struct Global {
    /// Configuration [default: $DOGWATCH_CLI_CONFIG, ~/.config/dogwatch/cli.yaml, ~/.local/state/dogwatch/cli.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The collector to ask
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = host_port)]
    pub(crate) collector: Option<String>,
    /// Certificate authority of the collector, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Your certificate, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Ask no collector, read the records of a node from this folder
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    /// How long to wait for each answer [default: 10s; plan and top --disk 2min, clean 10min]
    #[arg(long, global = true, value_name = "TIME", value_parser = time::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say which configuration and collector are used
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List nodes, incidents, events, findings, actions or holds
    Get(GetArgs),
    /// Everything about one incident
    Describe(DescribeArgs),
    /// An incident told in order: rise, finding, plan, cleanup, recovery
    Timeline(IncidentArgs),
    /// Figures of nodes, mounts, pods and processes: live on a terminal, a table elsewhere
    Top(TopArgs),
    /// Log lines that the collector holds, or all of a node's own journal
    Logs(LogsArgs),
    /// What happens from now on, a line each
    Watch(WatchArgs),
    /// Ask a node what a cleanup of a mount would touch; touches nothing
    Plan(PlanArgs),
    /// Plan a cleanup of a mount, show the plan, and carry out exactly that plan
    Clean(CleanArgs),
    /// Take an incident: tell the others that you are on it
    Ack(SayArgs),
    /// Say that an incident is over
    Resolve(SayArgs),
    /// Open a resolved incident again
    Reopen(SayArgs),
    /// Add a note to an incident
    Note(NoteArgs),
    /// List what was kept of what a cleanup removed, or write a file's content out
    Preserved(PreservedArgs),
    /// Keep files, a pod's logs, a node or an incident from being cleaned or expired
    Hold(HoldArgs),
    /// Stop cleanups on all nodes at once, let them go on, or show who cleans and who waits
    Brake(BrakeArgs),
    /// How dogwatch itself is: what is wrong with it, and what to do
    Status(StatusArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write one for each verb
    Man(ManArgs),
    /// Show which configuration counts
    Config(ConfigArgs),
    /// Versions of this program and of the collector
    Version(VersionArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch describe incident inc-2026-11-21-001
  dogwatch describe inc inc-2026-11-21-001 -o json")]
pub(crate) struct DescribeArgs {
    /// What to describe: an incident
    #[arg(value_enum)]
    pub(crate) what: Described,
    #[command(flatten)]
    pub(crate) incident: IncidentArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    #[value(aliases = ["incidents", "inc"])]
    Incident,
}

#[derive(Debug, Args)]
pub(crate) struct IncidentArgs {
    /// The incident's id: inc-YYYY-MM-DD-NNN
    pub(crate) id: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  dogwatch plan node-1 --mount /var")]
pub(crate) struct PlanArgs {
    /// The node that makes the plan
    pub(crate) node: String,
    /// The mount to relieve, or a folder on it
    #[arg(long, value_name = "MOUNT")]
    pub(crate) mount: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch clean node-1 --mount /var          shows the plan, asks, applies exactly that plan
  dogwatch clean node-1 --mount /var --yes    for scripts

Exit codes: 0 the mount has the space that is wanted, 1 it has not, also where something was removed; 2 with --yes what
was named is not the mount itself.")]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Do not ask; needed where nobody can answer, and the mount itself must be named
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Although cleanups are paused or stopped on all nodes; needs the role admin
    #[arg(long = "override")]
    pub(crate) over_brake: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SayArgs {
    /// The incident's id
    pub(crate) id: String,
    /// What to say with it
    #[arg(short = 'm', long = "message", value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) text: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct NoteArgs {
    /// The incident's id
    pub(crate) id: String,
    /// What to say
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `host:port` with a host and a port, unresolved.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let wrong =
        || format!("{text:?} is not HOST:PORT; write 127.0.0.1:7443, [::1]:7443 or collector.example:7443");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let plain = bracketed.unwrap_or(host);
    let host_ok = !plain.is_empty()
        && plain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (bracketed.is_some() && b == b':'));
    let port_ok = port.parse::<u16>().is_ok_and(|p| p != 0);
    let literal_ok = bracketed.is_none() || plain.parse::<std::net::Ipv6Addr>().is_ok();
    if host_ok && port_ok && literal_ok { Ok(text.to_owned()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use dogwatch::record::Kind;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:7443", "[::1]:7443", "collector.example:1"] {
            assert_eq!(host_port(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "host",
            "host:",
            ":7443",
            "host:0",
            "host:70000",
            "::1:7443",
            "http://host:80",
            "[x]:1",
            "a b:1",
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_may_begin_with_a_hyphen_and_flags_may_follow_the_verb() {
        let cli = Cli::try_parse_from([
            "dogwatch",
            "get",
            "events",
            "--since",
            "-1h",
            "--kind",
            "log,gap",
            "--severity",
            "high",
            "--collector",
            "h:1",
            "-v",
        ])
        .unwrap();
        let Verb::Get(get) = cli.verb else { panic!("get") };
        assert_eq!(get.when.since.as_deref(), Some("-1h"));
        assert_eq!(get.kind, [Kind::Log, Kind::Gap]);
        assert!(cli.global.verbose && cli.global.collector.as_deref() == Some("h:1"));
        assert!(Cli::try_parse_from(["dogwatch", "get", "inc", "--limit", "0"]).is_err());
        assert!(Cli::try_parse_from(["dogwatch", "get", "pod"]).is_err());
    }
}
