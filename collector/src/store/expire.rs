//! Expiry of rows: what the index forgets when the urgent journal's oldest segments go.
//!
//! The rule is that rows are a fold over what the journal still holds. So rows wholly of expired segments go, and rows
//! that reach across are folded again from the rest; then a rebuild gives the same bytes as going on.

use std::collections::{BTreeSet, HashMap};

use dogwatch::block::Block;
use dogwatch::chain::ChainId;
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{Kind, Kinds, NodeName, Seq};

use super::index::{Checkpoint, Draft, Index, IndexError, Span, decode, each};
use super::indexer::WorkError;
use super::keys::{Key, Table};
use super::view::{Again, ChainFold, Life, fold_record, remove, wanted};

/// Most rows that are dealt with in one batch, so that no batch takes an engine near its deadline.
const STEP_ROWS: usize = 4_096;
/// Most rows that reach across which are folded again together, by one pass over all that the journal still has.
const MAX_ACROSS: usize = 20_000;

/// Brings the rows from the checkpoint's floor up to `floor`, in steps: a node can say so much that more rows expire at once
/// than a batch should hold. In between, and where `stopping` says that it is left for later, the rows are those of the old
/// floor but for some that are gone already; only the last step moves the floor.
pub(super) fn expire(
    index: &dyn Index,
    checkpoint: &mut Checkpoint,
    urgent: &Reader,
    floor: u64,
    stopping: impl Fn() -> bool,
) -> Result<(), WorkError> {
    let mut across: Vec<(Table, Life)> = Vec::new();
    let mut from = Key::of(Table::Segment).number(0).bytes();
    let to = Key::of(Table::Segment).number(floor).bytes();
    loop {
        let mut touched: Vec<Vec<u8>> = Vec::new();
        each(index, &Span { from: from.clone(), to: Some(to.clone()), reverse: false }, |key, _| {
            touched.push(key.to_vec());
            Ok(touched.len() < STEP_ROWS)
        })?;
        let keys: Vec<Vec<u8>> = touched.iter().map(|k| k.get(9..).unwrap_or_default().to_vec()).collect();
        let mut draft = Draft::new(index);
        for (key, row) in keys.iter().zip(index.get_many(&keys)?) {
            let table =
                if key.first() == Some(&(Table::Finding as u8)) { Table::Finding } else { Table::Action };
            let Some(row) = row else {
                return Err(IndexError::Mismatch("a row that should expire is not there".to_owned()).into());
            };
            let life: Life = decode(&row)?;
            if life.at.segment >= floor && life.node.is_some() {
                across.push((table, life));
            } else {
                remove(&mut draft, table, &life);
            }
        }
        if !draft.is_empty() {
            draft.apply(checkpoint)?;
        }
        let more = touched.len() >= STEP_ROWS;
        if across.len() >= MAX_ACROSS || (!more && !across.is_empty()) {
            let mut draft = Draft::new(index);
            fold_across(
                &mut draft,
                urgent,
                std::mem::take(&mut across),
                floor,
                checkpoint.urgent.position(),
            )?;
            draft.apply(checkpoint)?;
        }
        match touched.pop() {
            Some(last) if more => from = [last, vec![0]].concat(),
            _ => break,
        }
        if stopping() {
            return Err(WorkError::Stopping);
        }
    }
    let mut draft = Draft::new(index);
    let mut ended: Vec<Vec<u8>> = Vec::new();
    each(index, &Span::prefix(&Key::of(Table::Chain).bytes()), |key, value| {
        if decode::<ChainFold>(value)?.segment < floor {
            ended.push(key.to_vec());
        }
        Ok(true)
    })?;
    for key in ended {
        draft.set(key, None);
    }
    let mut next = Checkpoint { floor, ..checkpoint.clone() };
    draft.apply(&mut next)?;
    *checkpoint = next;
    Ok(())
}

/// Takes rows that reach across away, and folds them again from what the journal still has.
fn fold_across(
    draft: &mut Draft<'_>,
    urgent: &Reader,
    across: Vec<(Table, Life)>,
    floor: u64,
    upto: Position,
) -> Result<(), WorkError> {
    let mut again = Again::new();
    for (table, life) in across {
        remove(draft, table, &life);
        again.extend(life.node.map(|node| (table as u8, node, life.id)));
    }
    fold_again(draft, urgent, &again, floor, upto)
}

fn fold_again(
    draft: &mut Draft<'_>,
    urgent: &Reader,
    again: &Again,
    floor: u64,
    upto: Position,
) -> Result<(), WorkError> {
    let nodes: BTreeSet<&NodeName> = again.iter().map(|(_, node, _)| node).collect();
    let mut seen: HashMap<ChainId, Seq> = HashMap::new();
    for entry in urgent.scan(Position { segment: floor, offset: 0 }) {
        let entry = entry?;
        if entry.at > upto {
            break;
        }
        if entry.kind != FrameKind::Block || entry.at.segment < floor {
            continue;
        }
        let Ok(block) = Block::decode(entry.payload) else { continue };
        let h = block.header();
        if !nodes.contains(&h.node) {
            continue;
        }
        let chain = ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream };
        let Ok(records) = block.records(Kinds::default().with(Kind::Finding).with(Kind::Action)) else {
            continue;
        };
        let last = seen.entry(chain.clone()).or_default();
        for record in records.iter().filter(|r| r.seq > *last) {
            if wanted(again, &chain.node, record) {
                fold_record(draft, entry.at, &chain, record)?;
            }
        }
        *last = (*last).max(h.last_seq);
    }
    Ok(())
}
