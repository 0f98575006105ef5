//! `brake`: stops cleanups on all nodes at once, lets them go on, shows who cleans and who waits.

use std::time::Duration;

use super::{Here, confirmed, needs_no_name, worded};
use crate::args::{BrakeReleaseArgs, BrakeSayArgs, BrakeShowArgs, BrakeTripArgs, BrakeVerb, Format};
use crate::ask::{Brake, brake};
use crate::client::Desk;
use crate::error::CliError;
use crate::output::text::{bytes, safe};
use crate::output::{Io, json, yaml};
use crate::time::{Utc, span};
use crate::view::{Alone, FleetBrake};

/// How long the nodes' word is waited for: one that is connected has it in a fraction of a second.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks whether they said it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Who waits, and nodes that have not said that they heard, as many as one reads.
const SHOWN: usize = 20;

pub(super) async fn run(here: &Here<'_>, verb: BrakeVerb, io: &mut Io<'_>) -> Result<(), CliError> {
    match verb {
        BrakeVerb::Pause(args) => set(here, Brake::Pause, &args, io).await,
        BrakeVerb::Release(args) => release(here, &args, io).await,
        BrakeVerb::Trip(BrakeTripArgs { node, action, say }) => {
            set(here, Brake::Trip { node, action }, &say, io).await
        }
        BrakeVerb::Status(args) => status(here, &args, io).await,
    }
}

async fn set(here: &Here<'_>, order: Brake, args: &BrakeSayArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    worded("-m", &args.reason)?;
    needs_no_name(args.output, "brakes")?;
    order_and_tell(here.desk_for("stop cleanups").await?, order, args, io).await
}

/// Ends what stands now, once it was shown: a cleanup that went wrong after somebody paused, or after somebody last looked, is
/// not ended by the way, nor is a node that is stopped alone. A stop that comes while it is shown stays, too, also the first that
/// ever was: where nothing is stopped nothing is ordered. Where something is noted all the same that is no success.
async fn release(here: &Here<'_>, args: &BrakeReleaseArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    worded("-m", &args.say.reason)?;
    needs_no_name(args.say.output, "brakes")?;
    let mut desk = here.desk_for("let cleanups go on").await?;
    let mut stands = FleetBrake::from(desk.brake().await?);
    // A pause is what scripts end, and no node keeps them from that by what it makes up.
    if stands.state == "paused" && !args.yes && !io.terminal.can_ask {
        for of in stands.alone.drain(..) {
            io.say(&format!("this does not end: {}; with `--yes` it does", alone(&of)))?;
        }
    }
    let ends: Vec<String> = stops(&stands).into_iter().chain(stands.alone.iter().map(alone)).collect();
    if ends.is_empty() && stands.notes.is_empty() {
        io.say("nothing is stopped; nothing to release")?;
        return tell(io, args.say.output, &stands);
    }
    if ends.is_empty() {
        tell(io, args.say.output, &stands)?;
        return Err(CliError::Failed(
            "nothing that a release ends; the notes of `dogwatch brake status` say what stays as it is\n  \
             where one says that a release lets a node go on, the collector is older than this CLI and does not name the \
             node: release with the collector's own CLI"
                .to_owned(),
        ));
    }
    for stop in ends {
        io.say(&format!("this ends: {stop}"))?;
    }
    let went_wrong = stands.state == "tripped";
    if (went_wrong || !stands.alone.is_empty()) && !args.yes {
        let (who, why) = if went_wrong {
            ("cleanups", "one went wrong")
        } else {
            ("these nodes", "each says that it was told of a stop that nobody else knows")
        };
        if !io.terminal.can_ask {
            return Err(CliError::Failed(format!(
                "{who} stay stopped: {why}, and nobody can be asked here, because this is not a terminal\n  \
                 try: `dogwatch brake status`, and `dogwatch brake release --yes` once that is dealt with"
            )));
        }
        if !confirmed(io, "Let nodes clean again? [y/N] ")? {
            return Err(CliError::Failed(format!("{who} stay stopped; nothing was changed")));
        }
    }
    let FleetBrake { revision, alone, .. } = stands;
    order_and_tell(desk, Brake::Release { revision, alone }, &args.say, io).await
}

/// A node that is stopped alone.
fn alone(of: &Alone) -> String {
    let why = of.reason.as_deref().unwrap_or("-");
    format!("node {} alone, which says that it was told of a stop: {}", safe(&of.node), safe(why))
}

async fn order_and_tell(
    mut desk: Desk,
    order: Brake,
    args: &BrakeSayArgs,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let answer = desk.set_brake(brake(order, &args.reason)).await?;
    // It is done, though not word for word.
    if !answer.caveat.is_empty() {
        io.say(&safe(&answer.caveat))?;
    }
    let stands = heard(&mut desk, answer.into()).await;
    tell(io, args.output, &stands)
}

fn tell(io: &mut Io<'_>, format: Format, stands: &FleetBrake) -> Result<(), CliError> {
    if !matches!(format, Format::Table | Format::Wide) {
        return print(io, format, stands);
    }
    head(io, stands)?;
    io.out.flush()?;
    tell_unheard(io, stands)
}

/// What is in force, the worst first.
fn stops(stands: &FleetBrake) -> Vec<String> {
    let words = |state: &str, since: Option<Utc>, by: &Option<String>, why: &Option<String>| {
        let since = since.map_or_else(String::new, |t| format!(" since {}", t.to_the_second()));
        let (by, why) = (by.as_deref().unwrap_or("-"), why.as_deref().unwrap_or("-"));
        format!("{}{since} by {}: {}", safe(state), safe(by), safe(why))
    };
    let first = words(&stands.state, stands.since, &stands.actor, &stands.reason);
    let beneath = stands.pause.as_ref().map(|p| words("paused", p.since, &p.actor, &p.reason));
    Some(first).filter(|_| stands.state != "open").into_iter().chain(beneath).collect()
}

/// What a stop is about, and where to look.
fn about(stands: &FleetBrake) -> Vec<String> {
    let (rule, found) = (&stands.cause_rule, &stands.cause_finding);
    let cause =
        rule.as_ref().map(|r| found.as_ref().map_or_else(|| r.clone(), |f| format!("{r}, finding {f}")));
    let of = [
        ("node", &stands.node),
        ("mount", &stands.mount),
        ("action", &stands.action),
        ("cause", &cause),
        ("finding", &stands.finding),
    ];
    let said =
        of.into_iter().filter_map(|(what, value)| Some(format!("{what}  {}", safe(value.as_deref()?))));
    let look = [("findings", found), ("actions", &stands.action)];
    let look = look.into_iter().filter_map(|(what, id)| {
        let id = id.as_deref().filter(|id| is_word(id))?;
        Some(format!("look  dogwatch get {what} {id} -o yaml"))
    });
    said.chain(look).collect()
}

/// Whether a shell takes it for itself alone, and no program for an option: nodes make their ids, and this is copied there.
fn is_word(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// How it stands once all connected nodes said that they have it, if they do so within [`HEARD_WITHIN`].
async fn heard(desk: &mut Desk, stands: FleetBrake) -> FleetBrake {
    let mut newest = stands;
    let wait = async {
        while !newest.unheard.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
            let Ok(stands) = desk.brake().await else { return };
            newest = stands.into();
        }
    };
    // Late is no failure: it is in force on the collector, and each node hears it when it connects.
    let _ = tokio::time::timeout(HEARD_WITHIN, wait).await;
    newest
}

fn tell_unheard(io: &mut Io<'_>, stands: &FleetBrake) -> Result<(), CliError> {
    let unheard = &stands.unheard;
    if unheard.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = unheard.iter().take(SHOWN).map(|n| safe(n).into_owned()).collect();
    let more = unheard.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    io.say(&format!(
        "{} connected nodes have not confirmed it yet: {}{more}; one whose agent is too old for this never does",
        unheard.len(),
        named.join(", ")
    ))?;
    Ok(())
}

async fn status(here: &Here<'_>, args: &BrakeShowArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    needs_no_name(args.output, "brakes")?;
    let mut desk = here.desk_for("say who cleans").await?;
    let stands = FleetBrake::from(desk.brake().await?);
    if !matches!(args.output, Format::Table | Format::Wide) {
        return print(io, args.output, &stands);
    }
    head(io, &stands)?;
    for permit in &stands.permits {
        let canary = if permit.canary { ", the policy is new" } else { "" };
        let (node, mount, state) = (safe(&permit.node), safe(&permit.mount), safe(&permit.state));
        let (planned, action) = (bytes(permit.planned_bytes), safe(&permit.action));
        writeln!(io.out, "  {state}  {node} {mount}  {planned}  {action}{canary}")?;
    }
    for (place, waiting) in stands.waiting.iter().take(SHOWN).enumerate() {
        let full = waiting.seconds_to_full.map(|s| format!(", full in {}", span(s))).unwrap_or_default();
        let severity = waiting.severity.map_or("-", |s| s.as_str());
        let (node, mount) = (safe(&waiting.node), safe(&waiting.mount));
        let waited = span(waiting.waited_seconds);
        writeln!(io.out, "  waits {}  {node} {mount}  {severity}{full}, for {waited}", place + 1)?;
    }
    let more = stands.waiting.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(io.out, "  … and {more} more wait; -o json lists them all")?;
    }
    io.out.flush()?;
    tell_unheard(io, &stands)
}

fn print(io: &mut Io<'_>, format: Format, stands: &FleetBrake) -> Result<(), CliError> {
    match format {
        Format::Yaml => yaml::document(io.out, stands)?,
        Format::Jsonl => {
            json::line(io.out, stands)?;
            writeln!(io.out)?;
        }
        _ => {
            json::pretty(io.out, stands)?;
            writeln!(io.out)?;
        }
    }
    io.out.flush()?;
    Ok(())
}

fn head(io: &mut Io<'_>, stands: &FleetBrake) -> Result<(), CliError> {
    let places: std::collections::BTreeSet<&str> = stands.permits.iter().map(|p| p.node.as_str()).collect();
    let crowd = format!(
        "{} of {} nodes that may clean at a time do or are watched after it, {} waiting",
        places.len(),
        stands.max_nodes,
        stands.waiting.len()
    );
    match stands.state.as_str() {
        "open" => writeln!(io.out, "open: {crowd}")?,
        _ => {
            let stops = stops(stands);
            let (first, beneath) = stops.split_first().map_or(("-", &[][..]), |(f, b)| (f.as_str(), b));
            writeln!(io.out, "{first}")?;
            for also in beneath {
                writeln!(io.out, "  also {also}")?;
            }
            writeln!(io.out, "  {crowd}")?;
            for line in about(stands) {
                writeln!(io.out, "  {line}")?;
            }
            if let Some(why) = &stands.not_kept {
                writeln!(io.out, "  not kept yet: a restart of the collector may forget it ({})", safe(why))?;
            }
        }
    }
    for note in &stands.notes {
        writeln!(io.out, "  note  {}", safe(note))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dogwatch::wire;

    use super::*;

    #[test]
    fn a_stop_is_shown_with_its_cause_and_where_to_look() {
        let tripped = wire::FleetBrake {
            state: "tripped".into(),
            node: "node-1".into(),
            mount: "/var".into(),
            action_id: "a-1".into(),
            cause_rule: "mount-read-only".into(),
            cause_finding: "f-1".into(),
            finding: "f-stop".into(),
            ..Default::default()
        };
        let lines = about(&tripped.clone().into());
        assert_eq!(
            lines,
            [
                "node  node-1",
                "mount  /var",
                "action  a-1",
                "cause  mount-read-only, finding f-1",
                "finding  f-stop",
                "look  dogwatch get findings f-1 -o yaml",
                "look  dogwatch get actions a-1 -o yaml",
            ]
        );
        let json = serde_json::to_value(FleetBrake::from(tripped.clone())).unwrap();
        assert_eq!((&json["mount"], &json["cause_finding"]), (&"/var".into(), &"f-1".into()));
        assert_eq!((&json["cause_rule"], &json["finding"]), (&"mount-read-only".into(), &"f-stop".into()));
        // The cleanup itself, as a collector of any version says it.
        let old = wire::FleetBrake {
            mount: String::new(),
            cause_rule: String::new(),
            cause_finding: String::new(),
            ..tripped
        };
        let lines = about(&old.into());
        assert_eq!(
            lines,
            ["node  node-1", "action  a-1", "finding  f-stop", "look  dogwatch get actions a-1 -o yaml"]
        );
    }

    #[test]
    fn no_command_is_shown_that_a_node_could_have_written() {
        for id in ["f-1; reboot", "$(reboot)", "`id`", "f 1", "--node", "f-1\n", "\u{1b}[2J", "ü", "'", ""] {
            let stop = wire::FleetBrake {
                action_id: id.into(),
                cause_rule: "x".into(),
                cause_finding: id.into(),
                ..Default::default()
            };
            let lines = about(&stop.into());
            assert!(lines.iter().all(|l| !l.starts_with("look")), "{lines:?}");
            assert!(lines.iter().all(|l| !l.contains(char::is_control)), "{lines:?}");
        }
    }
}
