//! The view: how records and decisions become rows. A pure fold.
//!
//! Invariants: a row depends on the order within one journal only, never on how the journals interleave: findings and
//! actions of nodes come from the urgent journal, everything else from the truth journal, and the two tables that both
//! touch ([`Table::Joined`], [`Table::Loose`]) come out the same either way. Folding a record twice changes nothing.
//! A row holds steps and the *place* of its newest record, not the record: values stay small, and a path that is not
//! UTF-8 never meets JSON.
//!
//! Retention: rows are a fold over what the urgent journal still holds. When its oldest segments expire, rows wholly
//! within them go, and rows that reach across are folded again from the rest, so that a rebuild gives the same bytes
//! at any time. Incidents, and which pieces they name, are the truth journal's and stay.
//!
//! Deliberately absent: judging (the decisions did that) and reading clocks.

use std::collections::BTreeSet;

use dogwatch::chain::ChainId;
use dogwatch::journal::Position;
use dogwatch::record::{
    Action, ActionState, Body, Finding, FindingState, NodeName, Record, RecordRef, Seq, Severity, Stream,
};
use serde::{Deserialize, Serialize};

use super::decision::{Decision, Past, Piece, What};
use super::index::{Draft, IndexError, decode, encode};
use super::keys::{Key, Origin, Table};
use super::row::{
    CommandRow, Enrolment, HoldRow, MAX_STEPS, NodeEnrolled, Outcome, Released, Spoke, Step, TokenUse,
    TokenUses,
};
use crate::brake::Ledger;
use crate::incident::Incident;
use crate::wording;

/// Most records that one step cites, its own included: the newest state's record cites all of its own.
const MAX_STEP_EVIDENCE: usize = 16;
/// Longest sentence that a step keeps, in characters.
const MAX_STEP_SUMMARY: usize = 400;
/// Most enrolments kept of one node and uses of one token: the first and the newest stay.
const MAX_USES: usize = 256;

/// The life of a finding or an action, as the index keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Life {
    /// Its id, in full.
    pub(super) id: String,
    /// About or on which node.
    pub(super) node: Option<NodeName>,
    /// Whether the collector said it.
    pub(super) from_collector: bool,
    /// How often it was said.
    pub(super) count: u64,
    /// Whether its newest state is an end.
    pub(super) over: bool,
    /// Its steps, oldest first, at most [`MAX_STEPS`].
    pub(super) steps: Vec<Step>,
    /// Where its newest record or decision stands.
    pub(super) at: Place,
    /// Segment of its oldest record that the journal still has.
    pub(super) first_segment: u64,
}

/// A record's place in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Segment of the frame.
    pub(super) segment: u64,
    /// Its offset.
    pub(super) offset: u64,
    /// The record within; 0 for a decision.
    pub(super) seq: Seq,
}

impl Place {
    pub(super) fn position(self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }
}

impl Life {
    fn first_wall_ns(&self) -> i64 {
        self.steps.first().map_or(0, |s| s.wall_ns)
    }

    /// When its newest step was taken.
    pub(super) fn updated_wall_ns(&self) -> i64 {
        self.steps.last().map_or(0, |s| s.wall_ns)
    }

    /// Who said it.
    pub(super) fn origin(&self) -> Origin {
        match &self.node {
            Some(n) if !self.from_collector => Origin::Node(n.clone()),
            _ => Origin::Collector,
        }
    }
}

/// How far one incarnation's urgent records are folded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChainFold {
    last_seq: Seq,
    /// Segment of the block that holds it.
    pub(super) segment: u64,
}

/// Folds the records of one urgent block that ends with `last_seq`; records of other kinds may be left out. A block that
/// is folded already changes nothing.
pub(super) fn fold_block(
    draft: &mut Draft<'_>,
    at: Position,
    chain: &ChainId,
    last_seq: Seq,
    records: &[Record],
) -> Result<(), IndexError> {
    if chain.stream != Stream::Urgent {
        return Ok(());
    }
    let key = Key::of(Table::Chain).text(chain.node.as_str()).incarnation(chain.incarnation).bytes();
    let folded: Seq = match draft.get(&key)? {
        Some(v) => decode::<ChainFold>(&v)?.last_seq,
        None => 0,
    };
    for record in records.iter().filter(|r| r.seq > folded) {
        fold_record(draft, at, chain, record)?;
    }
    if last_seq > folded {
        draft.set(key, Some(encode(&ChainFold { last_seq, segment: at.segment })?));
    }
    Ok(())
}

/// Folds one record, without asking whether it was folded before.
pub(super) fn fold_record(
    draft: &mut Draft<'_>,
    at: Position,
    chain: &ChainId,
    record: &Record,
) -> Result<(), IndexError> {
    let own = RecordRef {
        node: chain.node.clone(),
        incarnation: chain.incarnation,
        stream: chain.stream,
        seq: record.seq,
    };
    let (table, said) = match &record.body {
        Body::Finding(f) => (Table::Finding, finding_said(f, record.at.wall_ns, Some(own))),
        Body::Action(a) => (Table::Action, action_said(a, record.at.wall_ns, own)),
        _ => return Ok(()),
    };
    let place = Place { segment: at.segment, offset: at.offset, seq: record.seq };
    advance(draft, table, Some(chain.node.clone()), false, said, place, None)
}

/// Folds one decision.
pub(super) fn fold_decision(
    draft: &mut Draft<'_>,
    at: Position,
    decision: &Decision,
) -> Result<(), IndexError> {
    let wall_ns = decision.wall_ns;
    match &decision.what {
        What::NodeEnrolled { node, signing_key, token } => {
            let (key, mut row) = node_row(draft, node)?;
            row.enrolments.push(Enrolment {
                wall_ns,
                signing_key: signing_key.clone(),
                token: token.clone(),
            });
            keep_first_and_newest(&mut row.enrolments, MAX_USES);
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::NodeSpoke { node, agent_version, mode, policy } => {
            let (key, mut row) = node_row(draft, node)?;
            row.spoke =
                Some(Spoke { wall_ns, agent_version: agent_version.clone(), mode: *mode, policy: *policy });
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::TokenSpent { token, node } => {
            let key = Key::of(Table::Token).text(token).bytes();
            let mut row: TokenUses = match draft.get(&key)? {
                Some(v) => decode(&v)?,
                None => TokenUses::default(),
            };
            row.count += 1;
            row.uses.push(TokenUse { wall_ns, node: node.clone() });
            keep_first_and_newest(&mut row.uses, MAX_USES);
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::FindingSaid { node, finding, count } => {
            let said = finding_said(finding, wall_ns, None);
            let place = Place { segment: at.segment, offset: at.offset, seq: 0 };
            advance(draft, Table::Finding, node.clone(), true, said, place, Some(*count))
        }
        What::Commanded { command, node, order } => {
            let key = Key::of(Table::Command).text(command).bytes();
            if draft.get(&key)?.is_some() {
                return Ok(());
            }
            let row = CommandRow {
                command: command.clone(),
                node: node.clone(),
                order: order.clone(),
                actor: decision.actor.clone(),
                wall_ns,
                ended: None,
            };
            let time = Key::of(Table::CommandTime).newest_first(wall_ns).text(command).bytes();
            draft.set(time, Some(key.clone()));
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::CommandEnded { command, ok, outcome } => {
            let key = Key::of(Table::Command).text(command).bytes();
            let Some(row) = draft.get(&key)? else { return Ok(()) };
            let mut row: CommandRow = decode(&row)?;
            row.ended = Some(Outcome { wall_ns, ok: *ok, words: outcome.clone() });
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::HoldAdded { hold, node, target, reason } => {
            let key = Key::of(Table::Hold).text(hold).bytes();
            if draft.get(&key)?.is_some() {
                return Ok(());
            }
            let row = HoldRow {
                id: hold.clone(),
                node: node.clone(),
                target: target.clone(),
                reason: reason.clone(),
                actor: decision.actor.clone(),
                added_wall_ns: wall_ns,
                released: None,
            };
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::HoldReleased { hold, reason } => {
            let key = Key::of(Table::Hold).text(hold).bytes();
            let Some(row) = draft.get(&key)? else { return Ok(()) };
            let mut row: HoldRow = decode(&row)?;
            let released = Released { wall_ns, by: decision.actor.clone(), reason: reason.clone() };
            row.released.get_or_insert(released);
            draft.set(key, Some(encode(&row)?));
            Ok(())
        }
        What::HoldConfirmed { node, holds } => {
            for hold in holds {
                let key = Key::of(Table::HoldConfirmed).text(hold).text(node.as_str()).bytes();
                draft.set(key, Some(encode(node)?));
            }
            Ok(())
        }
        What::BrakePaused { .. }
        | What::BrakeTripped { .. }
        | What::BrakeReleased { .. }
        | What::PermitGranted { .. }
        | What::PermitReturned { .. }
        | What::PermitEnded { .. } => fold_brake(draft, |ledger| ledger.apply(decision)),
        What::IncidentOpened { id, .. }
        | What::IncidentSeverity { id, .. }
        | What::IncidentMoved { id, .. }
        | What::IncidentRetitled { id, .. }
        | What::NoteAdded { id, .. } => fold_incident(draft, id, decision),
        What::IncidentJoined { id, piece, node, .. } => {
            fold_incident(draft, id, decision)?;
            join(draft, id, piece, node)
        }
    }
}

/// Folds a decision that cannot be read and may have been about the fleet brake.
pub(super) fn fold_unread(draft: &mut Draft<'_>, why: &str) -> Result<(), IndexError> {
    fold_brake(draft, |ledger| ledger.apply_unread(why))
}

fn fold_brake(draft: &mut Draft<'_>, step: impl FnOnce(&mut Ledger)) -> Result<(), IndexError> {
    let key = Key::of(Table::Brake).bytes();
    let mut ledger: Ledger = match draft.get(&key)? {
        Some(v) => decode(&v)?,
        None => Ledger::default(),
    };
    let before = (ledger.revision, ledger.told.clone());
    step(&mut ledger);
    if ledger.revision != before.0 {
        // The row keeps the newest alone; a node may have been away for longer.
        for state in ledger.told.iter().filter(|state| !before.1.contains(state)) {
            draft.set(told_key(*state), Some(Vec::new()));
        }
    }
    draft.set(key, Some(encode(&ledger)?));
    Ok(())
}

/// Where it stands that nodes were told a state of the fleet brake.
pub(super) fn told_key(state: Past) -> Vec<u8> {
    Key::of(Table::BrakeTold).number(state.revision).number(state.lineage).bytes()
}

fn node_row(draft: &mut Draft<'_>, node: &NodeName) -> Result<(Vec<u8>, NodeEnrolled), IndexError> {
    let key = Key::of(Table::Node).text(node.as_str()).bytes();
    let row = match draft.get(&key)? {
        Some(v) => decode(&v)?,
        None => NodeEnrolled { node: node.clone(), enrolments: Vec::new(), spoke: None },
    };
    Ok((key, row))
}

fn fold_incident(draft: &mut Draft<'_>, id: &str, decision: &Decision) -> Result<(), IndexError> {
    let key = Key::of(Table::Incident).text(id).bytes();
    let before: Option<Incident> = match draft.get(&key)? {
        Some(v) => Some(decode(&v)?),
        None => None,
    };
    let after = match before {
        None => Incident::open(decision),
        Some(mut incident) => incident.apply(decision).then_some(incident),
    };
    let Some(after) = after else { return Ok(()) };
    let time = Key::of(Table::IncidentTime).newest_first(after.opened_wall_ns).text(id).bytes();
    draft.set(time, Some(key.clone()));
    draft.set(key, Some(encode(&after)?));
    Ok(())
}

/// Remembers to which incident a piece belongs, and that it is no longer loose.
fn join(draft: &mut Draft<'_>, id: &str, piece: &Piece, node: &NodeName) -> Result<(), IndexError> {
    draft.set(joined_key(piece, node), Some(id.as_bytes().to_vec()));
    let (table, piece_id) = table_of(piece);
    for origin in [Origin::Collector, Origin::Node(node.clone())] {
        let Some(row) = draft.get(&life_key(table, piece_id, &origin))? else { continue };
        let life: Life = decode(&row)?;
        if life.node.as_ref() == Some(node) {
            draft.set(loose_key(table, &life), None);
        }
    }
    Ok(())
}

/// What somebody said of a finding or action.
struct Said<'a> {
    id: &'a str,
    step: Step,
    over: bool,
}

fn finding_said(f: &Finding, wall_ns: i64, own: Option<RecordRef>) -> Said<'_> {
    let evidence = own.into_iter().chain(f.citations.iter().cloned()).take(MAX_STEP_EVIDENCE).collect();
    Said {
        id: &f.id,
        step: Step {
            wall_ns,
            state: f.state.as_str().to_owned(),
            severity: f.severity,
            summary: f.summary.chars().take(MAX_STEP_SUMMARY).collect(),
            evidence,
        },
        over: f.state == FindingState::Cleared,
    }
}

fn action_said(a: &Action, wall_ns: i64, own: RecordRef) -> Said<'_> {
    let severity = match a.state {
        ActionState::Planned | ActionState::Started | ActionState::Done => Severity::Info,
        ActionState::Refused => Severity::Low,
        ActionState::Failed => Severity::Medium,
    };
    let summary = match a.state {
        ActionState::Planned | ActionState::Started => {
            format!("{} bytes in {} objects on {}: {}", a.planned_bytes, a.objects.len(), a.mount, a.reason)
        }
        ActionState::Done | ActionState::Failed => {
            let freed = a.freed_bytes.map_or_else(|| "an unknown number of".to_owned(), |b| b.to_string());
            format!("freed {freed} of {} bytes planned on {}: {}", a.planned_bytes, a.mount, a.detail)
        }
        ActionState::Refused => {
            format!("nothing touched on {}: {}", a.mount, wording::refusal(a))
        }
    };
    Said {
        id: &a.id,
        step: Step {
            wall_ns,
            state: a.state.as_str().to_owned(),
            severity,
            summary: summary.chars().take(MAX_STEP_SUMMARY).collect(),
            evidence: vec![own],
        },
        over: matches!(a.state, ActionState::Done | ActionState::Failed | ActionState::Refused),
    }
}

/// Takes a finding or action one step further, with everything that points at it.
fn advance(
    draft: &mut Draft<'_>,
    table: Table,
    node: Option<NodeName>,
    from_collector: bool,
    said: Said<'_>,
    at: Place,
    count: Option<u64>,
) -> Result<(), IndexError> {
    let mut life = Life {
        id: said.id.to_owned(),
        node,
        from_collector,
        count: 0,
        over: false,
        steps: Vec::new(),
        at,
        first_segment: at.segment,
    };
    let origin = life.origin();
    let key = life_key(table, said.id, &origin);
    if let Some(v) = draft.get(&key)? {
        let before: Life = decode(&v)?;
        unlink(draft, table, &before);
        // The collector may learn later which node it is about; a node's own never changes.
        life = Life { node: life.node, ..before };
    }
    life.count = count.unwrap_or(life.count + 1);
    life.over = said.over;
    life.at = at;
    life.steps.push(said.step);
    keep_first_and_newest(&mut life.steps, MAX_STEPS);
    link(draft, table, &life)?;
    draft.set(key, Some(encode(&life)?));
    Ok(())
}

/// Removes a finding or action, and everything that points at it.
pub(super) fn remove(draft: &mut Draft<'_>, table: Table, life: &Life) {
    unlink(draft, table, life);
    draft.set(life_key(table, &life.id, &life.origin()), None);
}

fn link(draft: &mut Draft<'_>, table: Table, life: &Life) -> Result<(), IndexError> {
    let own = life_key(table, &life.id, &life.origin());
    for key in time_keys(table, life) {
        draft.set(key, Some(own.clone()));
    }
    if !life.from_collector {
        draft.set(segment_key(life.first_segment, &own), Some(Vec::new()));
    }
    if let Some(node) = &life.node
        && draft.get(&joined_key(&piece(table, &life.id), node))?.is_none()
    {
        draft.set(loose_key(table, life), Some(own));
    }
    Ok(())
}

fn unlink(draft: &mut Draft<'_>, table: Table, life: &Life) {
    let own = life_key(table, &life.id, &life.origin());
    for key in time_keys(table, life) {
        draft.set(key, None);
    }
    if !life.from_collector {
        draft.set(segment_key(life.first_segment, &own), None);
    }
    draft.set(loose_key(table, life), None);
}

fn time_keys(table: Table, life: &Life) -> Vec<Vec<u8>> {
    match table {
        Table::Finding if life.over => vec![time_key(Table::FindingTime, life)],
        Table::Finding => vec![time_key(Table::FindingTime, life), time_key(Table::FindingActive, life)],
        _ => vec![time_key(Table::ActionTime, life)],
    }
}

/// Where a table by time of newest steps points at a finding or action.
pub(super) fn time_key(table: Table, life: &Life) -> Vec<u8> {
    Key::of(table).newest_first(life.updated_wall_ns()).text(&life.id).origin(&life.origin()).bytes()
}

/// Where a finding's or action's row stands.
pub(super) fn life_key(table: Table, id: &str, origin: &Origin) -> Vec<u8> {
    Key::of(table).text(id).origin(origin).bytes()
}

/// Where it is said to which incident a piece belongs.
pub(super) fn joined_key(piece: &Piece, node: &NodeName) -> Vec<u8> {
    Key::of(Table::Joined).piece(piece).text(node.as_str()).bytes()
}

fn loose_key(table: Table, life: &Life) -> Vec<u8> {
    Key::of(Table::Loose)
        .newest_first(life.first_wall_ns())
        .byte(table as u8)
        .text(&life.id)
        .origin(&life.origin())
        .bytes()
}

/// Where expiry finds a row: its own key after its first segment's number.
pub(super) fn segment_key(segment: u64, life_key: &[u8]) -> Vec<u8> {
    Key::of(Table::Segment).number(segment).raw(life_key).bytes()
}

/// The piece that a row of `table` is.
pub(super) fn piece(table: Table, id: &str) -> Piece {
    match table {
        Table::Finding => Piece::Finding(id.to_owned()),
        _ => Piece::Action(id.to_owned()),
    }
}

fn table_of(piece: &Piece) -> (Table, &str) {
    match piece {
        Piece::Finding(id) => (Table::Finding, id),
        Piece::Action(id) => (Table::Action, id),
    }
}

fn keep_first_and_newest<T>(list: &mut Vec<T>, most: usize) {
    if list.len() > most {
        list.drain(1..=list.len() - most);
    }
}

/// What expiry folds again: ids of findings and actions by node.
pub(super) type Again = BTreeSet<(u8, NodeName, String)>;

/// Whether `record` of `node` belongs to what is folded again.
pub(super) fn wanted(again: &Again, node: &NodeName, record: &Record) -> bool {
    match &record.body {
        Body::Finding(f) => again.contains(&(Table::Finding as u8, node.clone(), f.id.clone())),
        Body::Action(a) => again.contains(&(Table::Action as u8, node.clone(), a.id.clone())),
        _ => false,
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
