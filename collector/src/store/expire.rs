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

/// Most rows that are dealt with in place; beyond it a rebuild is cheaper than a batch of that size.
const MAX_IN_PLACE: usize = 100_000;

/// Brings the rows from the checkpoint's floor up to `floor`, in one batch.
pub(super) fn expire(
    index: &dyn Index,
    checkpoint: &mut Checkpoint,
    urgent: &Reader,
    floor: u64,
) -> Result<(), WorkError> {
    let mut touched: Vec<Vec<u8>> = Vec::new();
    let span = Span {
        from: Key::of(Table::Segment).number(0).bytes(),
        to: Some(Key::of(Table::Segment).number(floor).bytes()),
        reverse: false,
    };
    each(index, &span, |key, _| {
        touched.push(key.get(9..).unwrap_or_default().to_vec());
        Ok(touched.len() <= MAX_IN_PLACE)
    })?;
    if touched.len() > MAX_IN_PLACE {
        let detail = format!("over {MAX_IN_PLACE} rows expire at once");
        return Err(IndexError::Mismatch(detail).into());
    }
    let mut draft = Draft::new(index);
    let mut again = Again::new();
    for key in touched {
        let table = if key.first() == Some(&(Table::Finding as u8)) { Table::Finding } else { Table::Action };
        let Some(row) = draft.get(&key)? else {
            return Err(IndexError::Mismatch("a row that should expire is not there".to_owned()).into());
        };
        let life: Life = decode(&row)?;
        if life.at.segment >= floor
            && let Some(node) = life.node.clone()
        {
            again.insert((table as u8, node, life.id.clone()));
        }
        remove(&mut draft, table, &life);
    }
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
    if !again.is_empty() {
        fold_again(&mut draft, urgent, &again, floor, checkpoint.urgent.position())?;
    }
    let mut next = checkpoint.clone();
    next.floor = floor;
    draft.apply(&mut next)?;
    *checkpoint = next;
    Ok(())
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
