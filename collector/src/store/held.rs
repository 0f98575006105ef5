//! What may not expire: spans of time of some nodes, because somebody holds an incident.
//!
//! Retention frees the oldest segments first, so a segment that holds a block of such a span keeps itself and all that
//! came after it. A journal may grow for their sake to [`GROWTH`] times its `max_bytes`; then it takes no more blocks
//! until a hold is released or the limit raised. Nothing that was acked is lost, and nothing held is dropped for room.
//!
//! Whatever was received while the incident lasted belongs to a span, by the collector's clock alone: the first and the
//! last append of each segment. So a node whose clock is wrong keeps its part. A block that came later, of a node that was
//! cut off, belongs to it by its own times, which are the node's.
//!
//! Deliberately absent: which incident spans what ([`crate::holds`] tells).

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use dogwatch::journal::SegmentInfo;
use dogwatch::record::NodeName;

use super::catalog::Catalog;
use super::index::{Span, decode, each};
use super::keys::{Key, Table};
use super::row::HoldRow;
use super::{QueryError, Store};

/// How many times its `max_bytes` a journal may grow for the sake of what is held.
pub const GROWTH: u32 = 2;
/// Most holds in one answer, released ones included: the newest.
const MAX_ROWS: usize = 10_000;

/// A stretch of some nodes' time that may not expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSpan {
    /// Who holds it, for messages: a hold's id.
    pub hold: String,
    /// Whose blocks.
    pub nodes: BTreeSet<NodeName>,
    /// Blocks with records from here on, wall ns of their node, inclusive.
    pub from_wall_ns: i64,
    /// Blocks received from here on, wall ns of the collector, inclusive.
    pub received_from_wall_ns: i64,
    /// Up to here, wall ns, inclusive; `i64::MAX` while the incident lasts.
    pub to_wall_ns: i64,
}

/// The spans that are in force; `None` until somebody told. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans(Arc<RwLock<Option<Arc<[HeldSpan]>>>>);

impl Spans {
    /// Whether something was told, and what.
    pub(super) fn get(&self) -> Option<Arc<[HeldSpan]>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, spans: Vec<HeldSpan>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(spans.into());
    }
}

/// A segment that must stay, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The first one that must stay.
    pub(super) from: u64,
    /// A hold's id, or why nobody can tell.
    pub(super) by: String,
}

/// The first of the segments before `keep_from` that must stay, if one must.
pub(super) fn first_kept(
    spans: Option<&[HeldSpan]>,
    segments: &[SegmentInfo],
    catalog: &Catalog,
    keep_from: u64,
) -> Option<Kept> {
    let going = segments.iter().take_while(|s| s.number < keep_from);
    let Some(spans) = spans else {
        let by = "what is held is not known yet".to_owned();
        return going.map(|s| s.number).next().map(|from| Kept { from, by });
    };
    let mut before: Option<&SegmentInfo> = None;
    for segment in going {
        // Frames keep their numbers when small segments are joined, so a file has those since the one before it.
        let first = before.map_or(0, |b| b.number + 1);
        // Where nobody can tell when it began it may have been at any time.
        let began_wall_ns = match (segment.first_append_wall_ns, before) {
            (0, None) => i64::MIN,
            (0, Some(before)) => before.last_append_wall_ns,
            (first, _) => first,
        };
        let holder = spans.iter().find(|span| {
            let received = segment.last_append_wall_ns > 0
                && began_wall_ns <= span.to_wall_ns
                && segment.last_append_wall_ns >= span.received_from_wall_ns;
            received
                || catalog.has_any(first..=segment.number, &span.nodes, span.from_wall_ns, span.to_wall_ns)
        });
        if let Some(span) = holder {
            return Some(Kept { from: segment.number, by: span.hold.clone() });
        }
        before = Some(segment);
    }
    None
}

impl Store {
    /// Says what may not expire, in full; with [`super::StoreConfig::expires_once_told`] nothing expires before.
    pub fn keep_spans(&self, spans: Vec<HeldSpan>) {
        self.inner.spans.set(spans);
    }

    /// Holds, newest first, with the nodes that confirmed each; released ones only where `released`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn holds(&self, released: bool) -> Result<Vec<(HoldRow, BTreeSet<NodeName>)>, QueryError> {
        self.ask(move |_, index| {
            let mut rows: Vec<HoldRow> = Vec::new();
            each(index, &Span::prefix(&Key::of(Table::Hold).bytes()), |_, value| {
                let row: HoldRow = decode(value)?;
                if released || row.released.is_none() {
                    rows.push(row);
                }
                Ok(true)
            })?;
            rows.sort_by(|a, b| b.added_wall_ns.cmp(&a.added_wall_ns).then_with(|| a.id.cmp(&b.id)));
            rows.truncate(MAX_ROWS);
            let mut out = Vec::with_capacity(rows.len());
            for row in rows {
                let mut confirmed = BTreeSet::new();
                let of_it = Key::of(Table::HoldConfirmed).text(&row.id).bytes();
                each(index, &Span::prefix(&of_it), |_, value| {
                    confirmed.insert(decode::<NodeName>(value)?);
                    Ok(true)
                })?;
                out.push((row, confirmed));
            }
            Ok(out)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::chain::ChainId;
    use dogwatch::journal::{BlockInfo, Position};
    use dogwatch::record::{Hash, Incarnation, Kinds, Stream};

    use super::*;

    fn segments(times: &[i64]) -> Vec<SegmentInfo> {
        let info = |(i, t): (usize, &i64)| SegmentInfo {
            number: 10 + 2 * i as u64,
            used_bytes: 5,
            first_append_wall_ns: *t - 900,
            last_append_wall_ns: *t,
        };
        times.iter().enumerate().map(info).collect()
    }

    /// Node `a` writes into segments 10 to 15, at 100 times the segment's number.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::new(Stream::Evidence, 100);
        for n in 10..16 {
            let chain = ChainId {
                node: "a".parse().unwrap(),
                incarnation: Incarnation([1; 16]),
                stream: Stream::Evidence,
            };
            let info = BlockInfo {
                chain,
                first_seq: n,
                last_seq: n,
                first_wall_ns: n as i64 * 100,
                last_wall_ns: n as i64 * 100 + 9,
                kinds: Kinds(1),
                hash: Hash([0; 32]),
            };
            catalog.add(Position { segment: n, offset: 1 }, &info);
        }
        catalog
    }

    fn span(node: &str, from_wall_ns: i64, to_wall_ns: i64) -> HeldSpan {
        let nodes = [node.parse().unwrap()].into();
        HeldSpan {
            hold: "hold-1".to_owned(),
            nodes,
            from_wall_ns,
            received_from_wall_ns: from_wall_ns,
            to_wall_ns,
        }
    }

    #[test]
    fn a_segment_stays_for_a_block_of_the_span_or_for_what_came_while_it_lasted() {
        let (segments, catalog) = (segments(&[50_000, 51_000, 52_000, 53_000]), catalog());
        let first = |span: HeldSpan| first_kept(Some(&[span]), &segments, &catalog, 16).map(|k| k.from);
        assert_eq!(first(span("a", 1_205, 1_300)), Some(12));
        assert_eq!(first(span("a", 1_100, 1_109)), Some(12), "a frame of segment 11 lies in the file of 12");
        assert_eq!(first(span("a", 1_000, 1_000)), Some(10));
        assert_eq!(first(span("b", 1_000, 1_400)), None, "another node's time");
        assert_eq!(first(span("b", 51_500, 51_600)), Some(14), "received in that time");
        assert_eq!(first(span("a", 1_500, 1_509)), None, "what does not go needs no keeping");
        assert_eq!(first(span("b", 0, 100)), None, "what is over and gone keeps nothing");
        assert_eq!(
            first(span("b", 49_500, 49_600)),
            Some(10),
            "the oldest segment as well, though what was before it is gone"
        );
        assert_eq!(first(span("b", 49_000, 49_050)), None, "before the oldest began");
        let nobody_told = first_kept(None, &segments, &catalog, 16).unwrap();
        assert_eq!(nobody_told.from, 10);
        assert_eq!(first_kept(None, &segments, &catalog, 10), None);
    }

    #[test]
    fn where_nobody_knows_when_the_oldest_segment_began_it_stays() {
        let (mut segments, catalog) = (segments(&[50_000, 51_000]), catalog());
        segments[0].first_append_wall_ns = 0;
        let first = |span: HeldSpan| first_kept(Some(&[span]), &segments, &catalog, 16).map(|k| k.from);
        assert_eq!(first(span("b", 49_000, 49_050)), Some(10));
        assert_eq!(first(span("b", 60_000, 60_050)), None, "it ended before");
    }

    #[test]
    fn when_something_was_received_is_asked_of_the_collectors_clock_alone() {
        let (segments, catalog) = (segments(&[50_000, 51_000]), catalog());
        let first = |span: HeldSpan| first_kept(Some(&[span]), &segments, &catalog, 16).map(|k| k.from);
        let long_ago = HeldSpan { received_from_wall_ns: 50_500, ..span("b", i64::MIN, 60_000) };
        assert_eq!(
            first(long_ago),
            Some(12),
            "a node that lives in the past holds no more than was received"
        );
        let ahead = HeldSpan { received_from_wall_ns: 50_500, ..span("b", i64::MAX, 60_000) };
        assert_eq!(first(ahead), Some(12), "and one that lives in the future no less");
    }
}
