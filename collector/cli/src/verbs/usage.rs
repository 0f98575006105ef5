//! `top --disk`: what fills a mount, asked on its node.

use std::time::Duration;

use super::{Here, needs_no_name};
use crate::args::{Format, TopArgs};
use crate::client::Desk;
use crate::error::CliError;
use crate::output::{Io, List};
use crate::top::tree;
use crate::view::usage::Usage;
use crate::view::{Mount, Node};

/// How often somebody who waits is told that it goes on.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn usage(here: &Here<'_>, args: TopArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    needs_no_name(args.output, "trees")?;
    let which = args.which.clone().checked()?;
    if which.of_pods() || which.severity.is_some() || !which.rules.is_empty() {
        return Err(CliError::Usage(
            "--disk is about one mount of one node: --node and --mount choose it".to_owned(),
        ));
    }
    if here.settings.journal_only {
        return Err(CliError::Failed(
            "a node's journal does not hold what fills its disks now\n  try: `dogwatch-agent usage --writers PATH` on \
             that node"
                .to_owned(),
        ));
    }
    let mut desk = here.desk().await?;
    let (node, mount) = match (which.nodes.as_slice(), &args.mount) {
        ([one], Some(mount)) => (one.clone(), mount.clone()),
        ([] | [_], mount) => fullest(&mut desk, &which.nodes, mount.as_deref(), io).await?,
        _ => return Err(CliError::Usage("--disk shows one node at a time: give one --node".to_owned())),
    };
    let found = ask(&mut desk, &node, &mount, io).await?;
    if !args.output.for_people() {
        let mut list = List::begin::<Usage>(io, args.output)?;
        list.push(io, &found)?;
        return list.finish::<Usage>(io);
    }
    let columns = io.terminal.room().filter(|_| args.output == Format::Table);
    for line in tree::lines(&found, columns) {
        let text: String = line.iter().map(|(piece, paint)| paint.on(piece, io.terminal.color)).collect();
        writeln!(io.out, "{}", text.trim_end())?;
    }
    io.out.flush()?;
    Ok(())
}

/// Asks, and says on a terminal that it goes on: a walk takes seconds, on a large disk a minute.
async fn ask(desk: &mut Desk, node: &str, mount: &str, io: &mut Io<'_>) -> Result<Usage, CliError> {
    let tell = io.terminal.shown && io.terminal.can_ask;
    let answer = desk.usage(node, mount);
    tokio::pin!(answer);
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let mut seconds = 0;
    loop {
        tokio::select! {
            answer = &mut answer => return Ok(Usage::of(node, answer?)),
            _ = ticks.tick() => {
                if tell && seconds > 0 {
                    io.say(&format!("{node} looks at {mount}: {seconds} s so far"))?;
                }
                seconds += TELL_EVERY.as_secs();
            }
        }
    }
}

/// The node and mount that are fullest, of those that were left open; said, so that nobody takes it for another.
async fn fullest(
    desk: &mut Desk,
    nodes: &[String],
    mount: Option<&str>,
    io: &mut Io<'_>,
) -> Result<(String, String), CliError> {
    let found: Vec<Node> = desk.nodes(nodes.to_vec(), true).await?.into_iter().map(Node::from).collect();
    if let Some(missing) = nodes.iter().find(|n| !found.iter().any(|f| f.name == **n)) {
        return Err(CliError::NotFound(format!(
            "there is no node {missing}\n  try: `dogwatch get nodes -o name` lists them"
        )));
    }
    let asked = |node: &&Node| node.state.as_deref() == Some("connected");
    let best = |node: &Node| {
        let wanted: Vec<Mount> =
            node.mounts.iter().filter(|m| mount.is_none_or(|path| m.path == path)).cloned().collect();
        let fullest = Mount::fullest(&wanted)?;
        Some((fullest.used_fraction().unwrap_or(0.0), node.name.clone(), fullest.path.clone()))
    };
    let chosen = found.iter().filter(asked).filter_map(best).max_by(|a, b| a.0.total_cmp(&b.0));
    let (_, node, path) = chosen.ok_or_else(|| {
        let what = mount.map_or_else(|| "with a mount".to_owned(), |m| format!("with a mount {m}"));
        CliError::NotFound(format!(
            "no node {what} is connected\n  try: `dogwatch get nodes -o wide`, and --node for a folder below a mount"
        ))
    })?;
    io.say(&format!("the fullest: {path} on {node}"))?;
    Ok((node, path))
}
