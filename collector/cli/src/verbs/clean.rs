//! `plan` and `clean`. A cleanup is two calls: the node makes a plan and keeps it, a person sees it, and exactly that
//! plan is applied. The node checks everything again; nothing here decides what may go.

mod progress;

use std::collections::HashMap;

use super::incident::heading;
use super::{Here, confirmed};
use crate::args::{CleanArgs, Format, PlanArgs};
use crate::client::Desk;
use crate::error::CliError;
use crate::output::text::{bytes, safe, signed_bytes};
use crate::output::{Io, one};
use crate::view::{Action, Object, Refusal};

/// Refusals that are listed one by one.
const REFUSALS_SHOWN: usize = 20;
/// Of those with like reasons, so many: a hundred young files must not hide the one that is held.
const ALIKE_SHOWN: usize = 3;

pub(super) async fn plan(here: &Here<'_>, args: &PlanArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("make a plan").await?;
    let plan = ask(&mut desk, args).await?;
    if is_elsewhere(args, &plan) {
        io.say(&format!("{} is on {}", args.mount, plan.mount))?;
    }
    match args.output {
        Format::Table | Format::Wide => {
            write_plan(io, &plan)?;
            io.out.flush()?;
        }
        format => one(io, format, &plan)?,
    }
    usable(&plan)
}

pub(super) async fn clean(here: &Here<'_>, args: &CleanArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    if !args.yes && !io.terminal.can_ask {
        return Err(CliError::Usage(
            "nobody can be asked here, because this is not a terminal\n  try: `dogwatch plan` to see what would go, \
             and `dogwatch clean --yes` to let it go"
                .to_owned(),
        ));
    }
    let people = matches!(args.plan.output, Format::Table | Format::Wide);
    let mut desk = here.desk_for("clean a mount").await?;
    let plan = ask(&mut desk, &args.plan).await?;
    let elsewhere = is_elsewhere(&args.plan, &plan);
    if elsewhere && args.yes {
        // What should be mounted there may not be, and then this is a mount that nobody meant.
        return Err(CliError::Usage(format!(
            "{} is on {}: name --mount {} to clean that unasked",
            args.plan.mount, plan.mount, plan.mount
        )));
    }
    if elsewhere {
        io.say(&format!("{} is on {}", args.plan.mount, plan.mount))?;
    }
    show(io, &plan, people)?;
    if let Err(refused) = usable(&plan) {
        // Whoever reads JSON reads why there, too.
        if !people {
            one(io, args.plan.output, &plan)?;
        }
        return Err(refused);
    }
    if plan.objects.is_empty() {
        io.say(&format!("there is nothing to clean on {} of {}", plan.mount, args.plan.node))?;
        return if people { Ok(()) } else { one(io, args.plan.output, &plan) };
    }
    if !args.yes && !agreed(io, &plan, elsewhere.then_some(args.plan.mount.as_str()))? {
        return Err(CliError::Failed(format!("{} was not applied; nothing was touched", plan.id)));
    }
    let asker = desk.clone();
    let applied = desk.apply(&args.plan.node, &plan.id, args.over_brake);
    let applied = async { applied.await.map(Action::from) };
    let done = progress::told(io, asker, &plan, applied).await?;
    if people {
        write_outcome(io, &done)?
    } else {
        one(io, args.plan.output, &done)?
    }
    io.out.flush()?;
    match done.state {
        Some("done") => enough(&done),
        Some("failed" | "refused") => Err(CliError::Outcome(format!("{} {}", done.id, why(&done)))),
        _ => Err(CliError::Outcome(format!(
            "{} is not done yet\n  try: `dogwatch get actions {}` later",
            done.id, done.id
        ))),
    }
}

async fn ask(desk: &mut Desk, args: &PlanArgs) -> Result<Action, CliError> {
    Ok(Action::from(desk.plan(&args.node, &args.mount).await?))
}

/// Whether the plan is for another mount than was named: for that of a folder, or of where a link leads.
fn is_elsewhere(args: &PlanArgs, plan: &Action) -> bool {
    plan.mount != args.mount && plan.mount != args.mount.trim_end_matches('/')
}

/// A cleanup that was carried out and did not reach what it was for is no success.
fn enough(done: &Action) -> Result<(), CliError> {
    let Some(missing) = missing(done) else { return Ok(()) };
    let target = bytes(done.target_available_bytes);
    let helps: Vec<_> = helps(done).into_iter().map(|h| format!("\n  try: {h}")).collect();
    Err(CliError::Outcome(format!(
        "{} is done, but {} are still missing to {target} available on {} of {}{}",
        done.id,
        bytes(missing),
        done.mount,
        done.node,
        helps.concat()
    )))
}

/// What is missing to the low-water mark after a cleanup.
fn missing(done: &Action) -> Option<u64> {
    let after = done.available_after_bytes?;
    done.target_available_bytes.checked_sub(after).filter(|n| *n > 0)
}

/// What gives more room, by what the node says of what it left and why.
fn helps(done: &Action) -> Vec<String> {
    let left =
        |words: &[&str]| done.refused.iter().filter(|r| words.iter().any(|w| r.reason.contains(w))).count();
    let mut helps = Vec::new();
    let mut help = |when: bool, words: String| {
        if when {
            helps.push(words);
        }
    };
    let (held, open) =
        (left(&["held: "]), left(&["open elsewhere", "open in", "nobody can tell whether it is open"]));
    help(held > 0, format!("`dogwatch hold ls`: {held} of what it left are held; `hold release` lets go"));
    help(
        open > 0,
        format!(
            "end or signal whoever has {open} of what it left open: `fuser -v FILE` on the node names them, and the finding who writes"
        ),
    );
    let content = left(&["of content can be kept now"]);
    help(
        content > 0,
        "a larger cleanup.preserve.max_bytes_per_hour on the node, or the next hour: it keeps the content of what goes".to_owned(),
    );
    help(
        left(&["budget: ", "budgets: "]) > content,
        format!(
            "`dogwatch clean {} --mount {}` again, once the hour leaves more: a budget ended this one",
            done.node, done.mount
        ),
    );
    help(
        left(&["younger than", "newest of its log"]) > 0,
        "a lower cleanup.roots.min_age or keep_newest on the node, which spared what is young".to_owned(),
    );
    help(
        done.unexplained_bytes.is_some_and(|n| n < 0),
        format!("`dogwatch top pods --node {} --sort written`: others wrote meanwhile", done.node),
    );
    if helps.is_empty() {
        helps.push(format!(
            "a larger disk, or more under cleanup.roots on the node: what it may remove there is removed; `dogwatch top \
             --node {}` shows who uses it",
            done.node
        ));
    }
    helps
}

/// A plan that the node refused to make is a failure, with the node's reason; that a mount has the space that is wanted
/// is none.
fn usable(plan: &Action) -> Result<(), CliError> {
    match plan.state {
        Some("refused") if needless(plan) => Ok(()),
        Some("refused" | "failed") => Err(CliError::Outcome(format!("{} {}", plan.id, why(plan)))),
        _ => Ok(()),
    }
}

/// The contract has no word of its own for it: a plan without objects is a refused one, and its detail says why. No other
/// field tells it: a plan carries what is wanted and not what is available, and nothing of inodes, so that a mount with
/// room looks like a full one of which nothing may go. With other words of a node this is a failure, never a success.
fn needless(plan: &Action) -> bool {
    plan.objects.is_empty() && plan.detail.as_deref().is_some_and(|d| d.starts_with("nothing needs to go"))
}

fn why(action: &Action) -> String {
    let whole = action.refused.iter().find(|r| r.path.is_none()).map(|r| r.reason.as_str());
    let reason = whole.or(action.detail.as_deref()).unwrap_or("the node gave no reason");
    format!("was {} by {}: {reason}", action.state.unwrap_or("not done"), action.node)
}

fn show(io: &mut Io<'_>, plan: &Action, people: bool) -> Result<(), CliError> {
    if people {
        return write_plan(io, plan);
    }
    let (id, freed) = (&plan.id, bytes(plan.planned_bytes));
    io.say(&format!("plan {id} on {}: {} objects, {freed}", plan.mount, plan.objects.len()))
}

/// Asks a person, by the mount that is cleaned; `named` is what was named where that is not the mount.
fn agreed(io: &mut Io<'_>, plan: &Action, named: Option<&str>) -> Result<bool, CliError> {
    let (count, freed) = (plan.objects.len(), bytes(plan.planned_bytes));
    let question = format!(
        "Remove {count} objects ({freed}) on {} of {}{}? [y/N] ",
        safe(&plan.mount),
        safe(&plan.node),
        named.map_or_else(String::new, |n| format!(", which {} is on", safe(n)))
    );
    confirmed(io, &question)
}

fn write_plan(io: &mut Io<'_>, plan: &Action) -> Result<(), CliError> {
    heading(io, &format!("Plan {} for {} on {}", plan.id, plan.mount, plan.node))?;
    let mut lines = vec![
        ("would free", bytes(plan.planned_bytes)),
        ("target", format!("{} available", bytes(plan.target_available_bytes))),
        ("mode", plan.mode.unwrap_or("-").to_owned()),
    ];
    if let Some(before) = plan.available_before_bytes {
        lines.push(("available", bytes(before)));
    }
    if !plan.reason.is_empty() {
        lines.push(("because", plan.reason.clone()));
    }
    if let Some(at) = plan.expires_at {
        lines.push(("valid until", at.to_the_second()));
    }
    if let Some(detail) = &plan.detail {
        lines.push(("detail", detail.clone()));
    }
    write_lines(io, &lines)?;
    write_objects(io, "\nWould go", plan)?;
    write_refusals(io, plan)
}

/// Every object by its whole path: nobody can agree to a name that is cut.
fn write_objects(io: &mut Io<'_>, title: &str, action: &Action) -> Result<(), CliError> {
    if action.objects.is_empty() {
        return Ok(());
    }
    heading(io, title)?;
    for object in &action.objects {
        let freed = bytes(object.allocated_bytes);
        writeln!(io.out, "  {freed:>10}  {:<7}  {}", object.outcome, safe(&object.path))?;
        writeln!(io.out, "              {}", safe(&reason(object, action)))?;
    }
    Ok(())
}

/// Why an object may go; of one that stayed, why it did.
fn reason(object: &Object, action: &Action) -> String {
    if !matches!(object.outcome, "skipped" | "failed") {
        return object.why_safe.clone();
    }
    let of_it =
        |r: &&Refusal| r.path.as_deref() == Some(object.path.as_str()) && r.path_hex == object.path_hex;
    match action.refused.iter().rev().find(of_it) {
        Some(refusal) => refusal.reason.clone(),
        None => format!("when it was planned: {}", object.why_safe),
    }
}

fn write_outcome(io: &mut Io<'_>, done: &Action) -> Result<(), CliError> {
    let removed = done.objects.iter().filter(|o| matches!(o.outcome, "removed" | "cut")).count();
    heading(
        io,
        &format!("Cleanup {} of {} on {}: {}", done.id, done.mount, done.node, done.state.unwrap_or("?")),
    )?;
    let size = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), bytes);
    let mut lines = vec![
        ("freed", format!("{} of {} planned", size(done.freed_bytes), bytes(done.planned_bytes))),
        ("removed", format!("{removed} of {} objects", done.objects.len())),
        (
            "available",
            format!("{} → {}", size(done.available_before_bytes), size(done.available_after_bytes)),
        ),
    ];
    if let Some(missing) = missing(done) {
        let target = bytes(done.target_available_bytes);
        lines.push(("missing", format!("{} to {target} available", bytes(missing))));
    }
    if let Some(rest) = done.unexplained_bytes {
        let reason = done.unexplained_reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
        lines.push(("unexplained", format!("{}{reason}", signed_bytes(rest))));
    }
    if let Some(detail) = &done.detail {
        lines.push(("detail", detail.clone()));
    }
    write_lines(io, &lines)?;
    write_objects(io, "\nObjects", done)?;
    write_refusals(io, done)
}

fn write_lines(io: &mut Io<'_>, lines: &[(&str, String)]) -> Result<(), CliError> {
    for (key, value) in lines {
        writeln!(io.out, "  {key:<11}  {}", safe(value))?;
    }
    Ok(())
}

fn write_refusals(io: &mut Io<'_>, action: &Action) -> Result<(), CliError> {
    if action.refused.is_empty() {
        return Ok(());
    }
    heading(io, "\nLeft alone")?;
    let (mut shown, mut listed) = (0, 0);
    for group in alike(&action.refused) {
        if shown >= REFUSALS_SHOWN {
            break;
        }
        for refusal in group.iter().take(ALIKE_SHOWN) {
            let path = refusal.path.as_deref().unwrap_or("everything");
            writeln!(io.out, "  {}: {}", safe(path), safe(&refusal.reason))?;
            shown += 1;
        }
        if let (Some(more), Some(first)) =
            (group.len().checked_sub(ALIKE_SHOWN).filter(|n| *n > 0), group.first())
        {
            writeln!(io.out, "  … and {more} more for the like reason: {}", safe(kind(&first.reason)))?;
        }
        listed += group.len();
    }
    if let Some(more) = action.refused.len().checked_sub(listed).filter(|n| *n > 0) {
        writeln!(io.out, "  … and {more} more; -o json lists them all")?;
    }
    Ok(())
}

/// What a reason says before it names whom: `held`, `open elsewhere`.
fn kind(reason: &str) -> &str {
    reason.split(": ").next().unwrap_or(reason)
}

/// Refusals whose reasons are the same but for numbers and names, in the order of the first of each.
fn alike(refused: &[Refusal]) -> Vec<Vec<&Refusal>> {
    let key = |refusal: &Refusal| -> String {
        let kind = kind(&refusal.reason);
        kind.split(|c: char| c.is_ascii_digit()).filter(|piece| !piece.is_empty()).collect()
    };
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<&Refusal>> = Vec::new();
    for refusal in refused {
        let place = *places.entry(key(refusal)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(refusal),
            None => groups.push(vec![refusal]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_stayed_says_why_it_did_and_not_why_it_could_go() {
        use dogwatch::wire;
        let object = |path: &[u8], outcome: wire::ObjectOutcome| wire::PlannedObject {
            path: path.to_vec().into(),
            why_safe: "unchanged for 2 min".to_owned(),
            outcome: outcome.into(),
            ..wire::PlannedObject::default()
        };
        let refusal = |path: &[u8], reason: &str| wire::Refusal {
            path: path.to_vec().into(),
            reason: reason.to_owned(),
        };
        let done = Action::from(wire::ActionRow {
            action: Some(wire::Action {
                objects: vec![
                    object(b"/a", wire::ObjectOutcome::Removed),
                    object(b"/b", wire::ObjectOutcome::Skipped),
                    object(b"/\xff", wire::ObjectOutcome::Failed),
                    object(b"/\xfe", wire::ObjectOutcome::Skipped),
                ],
                refused: vec![
                    refusal(b"", "the whole of it"),
                    refusal(b"/\xff", "it could not be removed: EIO"),
                    refusal(b"/b", "open elsewhere: process 29923 (python3)"),
                ],
                ..wire::Action::default()
            }),
            ..wire::ActionRow::default()
        });
        let said: Vec<String> = done.objects.iter().map(|o| reason(o, &done)).collect();
        let expected = [
            "unchanged for 2 min",
            "open elsewhere: process 29923 (python3)",
            "it could not be removed: EIO",
            "when it was planned: unchanged for 2 min",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_helps_is_said_by_the_budget_that_ended_it() {
        use dogwatch::wire;
        let helps_where = |reasons: &[&str]| {
            let refusal =
                |reason: &&str| wire::Refusal { path: b"/a".to_vec().into(), reason: (*reason).to_owned() };
            let refused = reasons.iter().map(refusal).collect();
            let action = wire::Action { refused, ..wire::Action::default() };
            helps(&Action::from(wire::ActionRow { action: Some(action), ..wire::ActionRow::default() }))
                .join("\n")
        };
        let content = "budget: about 1.0 MiB of content can be kept now: 31.0 MiB were kept in the last hour";
        let node = "budget: 0 objects and 0 B may go now, by cleanup.budgets";
        let said = helps_where(&[content]);
        assert!(said.contains("cleanup.preserve.max_bytes_per_hour") && !said.contains("again"), "{said}");
        let said = helps_where(&[node, content]);
        assert!(
            said.contains("cleanup.preserve") && said.contains("again, once the hour leaves more"),
            "{said}"
        );
        assert!(!helps_where(&[node]).contains("preserve"));
    }

    #[test]
    fn reasons_that_differ_in_numbers_and_names_are_alike() {
        let reasons = [
            "it changed 4 s ago, younger than 24 h",
            "held: hold-00000001 the auditors want it",
            "it changed 12 s ago, younger than 24 h",
            "open elsewhere: pid 77 (java)",
            "held: hold-2 ours",
            "open elsewhere",
        ];
        let refused: Vec<Refusal> =
            reasons.iter().map(|r| Refusal { path: None, path_hex: None, reason: (*r).to_owned() }).collect();
        let groups: Vec<Vec<&str>> =
            alike(&refused).iter().map(|g| g.iter().map(|r| r.reason.as_str()).collect()).collect();
        assert_eq!(groups, [[reasons[0], reasons[2]], [reasons[1], reasons[4]], [reasons[3], reasons[5]]]);
    }
}
