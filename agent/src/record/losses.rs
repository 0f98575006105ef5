//! What was given up and is not told yet: counted by stream, run, source and reason, until a gap record can say it.
//!
//! Invariants
//! - Counts are exact: what is noted comes out of [`Losses::take`] once, in whole gaps, whatever is joined on the way. A
//!   gap's seqs are the span that its losses lie in; what else lies there is not in its count.
//! - A gap record that finds no room itself is noted here again ([`Losses::fold`]), so that no full queue makes anybody
//!   forget what was lost before.
//! - Bounded: [`MAX_APART`] are told apart; beyond that, of each run and stream, sources are told together, and reasons whose
//!   words have no bound by their class. Whoever counts gaps by class counts the same, joined or not.
//! - What was told of a ring's holes keeps its very words: they are read back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dogwatch::record::{Gap, Incarnation, Seq, Stream, several_of};

use super::{NOT_HELD, RING_FULL};

/// Most losses that are told apart; beyond it those of a stream, run and reason are counted together.
const MAX_APART: usize = 64;
/// The source of what is counted together.
const SEVERAL: &str = "several";
/// The class of gaps that are the sampler's own.
const SAMPLER: &str = "sampler";
/// Which losses are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Which {
    stream: Stream,
    /// Whose records, when not this run's.
    incarnation: Option<Incarnation>,
    source: String,
    reason: Cow<'static, str>,
    /// Whether anybody knows how many.
    counted: bool,
}

/// Where and when something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// First and last seq, where seqs are missing.
    pub(crate) seqs: Option<(Seq, Seq)>,
    /// Wall time, ns: no earlier.
    pub(crate) from_wall_ns: i64,
    /// Wall time, ns: no later.
    pub(crate) to_wall_ns: i64,
}

#[derive(Debug, Clone, Copy)]
struct Loss {
    span: Span,
    count: u64,
}

/// What was given up since the last call of [`Losses::take`].
#[derive(Debug, Default)]
pub(crate) struct Losses {
    all: BTreeMap<Which, Loss>,
}

impl Losses {
    /// Notes `count` records of `source` in `stream`, lost for `reason`. `incarnation` where they are another run's.
    pub(crate) fn note(
        &mut self,
        stream: Stream,
        incarnation: Option<Incarnation>,
        source: String,
        reason: &'static str,
        span: Span,
        count: u64,
    ) {
        let which = Which { stream, incarnation, source, reason: Cow::Borrowed(reason), counted: true };
        self.add(which, span, count, |which| which.source = SEVERAL.to_owned());
    }

    /// Notes what a gap says that could not be recorded.
    pub(crate) fn fold(&mut self, gap: Gap) {
        let seqs = gap.after_seq.map(|after| {
            let last = match (gap.before_seq, gap.count) {
                (Some(before), _) => before.saturating_sub(1),
                (None, count) => after.saturating_add(count.unwrap_or(0)),
            };
            (after.saturating_add(1), last)
        });
        let span = Span { seqs, from_wall_ns: gap.from_wall_ns, to_wall_ns: gap.to_wall_ns };
        let class = gap.class();
        let which = Which {
            stream: gap.stream,
            incarnation: gap.incarnation,
            source: gap.source,
            reason: Cow::Owned(gap.reason),
            counted: gap.count.is_some(),
        };
        self.add(which, span, gap.count.unwrap_or(0), |which| {
            // Those are known by their source.
            if class != SAMPLER {
                which.source = SEVERAL.to_owned();
            }
            let kept = [RING_FULL, NOT_HELD].into_iter().find(|kept| which.reason == *kept);
            which.reason = Cow::Borrowed(kept.unwrap_or_else(|| several_of(class)));
        });
    }

    /// Adds a loss; `join` says with which it is counted where no more are told apart.
    fn add(&mut self, mut which: Which, span: Span, count: u64, join: impl FnOnce(&mut Which)) {
        if self.all.len() >= MAX_APART && !self.all.contains_key(&which) {
            join(&mut which);
        }
        let loss = self.all.entry(which).or_insert(Loss { span, count: 0 });
        loss.count = loss.count.saturating_add(count);
        loss.span.seqs = match (loss.span.seqs, span.seqs) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (one, other) => one.or(other),
        };
        loss.span.from_wall_ns = loss.span.from_wall_ns.min(span.from_wall_ns);
        loss.span.to_wall_ns = loss.span.to_wall_ns.max(span.to_wall_ns);
    }

    /// What was noted since the last call, as gaps to be recorded.
    pub(crate) fn take(&mut self) -> Vec<Gap> {
        let gap = |(which, loss): (Which, Loss)| Gap {
            stream: which.stream,
            source: which.source,
            after_seq: loss.span.seqs.map(|(first, _)| first.saturating_sub(1)),
            before_seq: loss.span.seqs.map(|(_, last)| last.saturating_add(1)),
            count: which.counted.then_some(loss.count),
            from_wall_ns: loss.span.from_wall_ns,
            to_wall_ns: loss.span.to_wall_ns,
            reason: which.reason.into_owned(),
            incarnation: which.incarnation,
        };
        std::mem::take(&mut self.all).into_iter().map(gap).collect()
    }

    /// Whether nothing waits to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: Seq, last: Seq) -> Span {
        Span { seqs: Some((first, last)), from_wall_ns: first as i64, to_wall_ns: last as i64 }
    }

    #[test]
    fn losses_are_told_by_source_and_reason_and_counted_exactly() {
        let mut losses = Losses::default();
        losses.note(Stream::Evidence, None, "log:/a".into(), "full", span(5, 9), 3);
        losses.note(Stream::Evidence, None, "log:/a".into(), "full", span(1, 2), 2);
        losses.note(Stream::Evidence, None, "log:/a".into(), "thin", span(10, 10), 1);
        losses.note(Stream::Evidence, None, "sampler".into(), "full", span(7, 8), 2);
        let told: Vec<_> = losses
            .take()
            .into_iter()
            .map(|g| (g.source, g.reason, g.after_seq, g.before_seq, g.count))
            .collect();
        let expected = |source: &str, reason: &str, after, before, count| {
            (source.to_owned(), reason.to_owned(), Some(after), Some(before), Some(count))
        };
        assert_eq!(
            told,
            [
                expected("log:/a", "full", 0, 10, 5),
                expected("log:/a", "thin", 9, 11, 1),
                expected("sampler", "full", 6, 9, 2)
            ]
        );
        assert!(losses.is_empty() && losses.take().is_empty());
    }

    #[test]
    fn many_sources_and_endless_reasons_stay_few_gaps_that_add_up() {
        let mut losses = Losses::default();
        for n in 0..1_000 {
            losses.note(Stream::Evidence, None, format!("log:/{n}"), "full", span(n + 1, n + 1), 1);
            losses.fold(Gap {
                stream: Stream::Evidence,
                source: format!("log:/{n}"),
                after_seq: None,
                before_seq: None,
                count: Some(2),
                from_wall_ns: 0,
                to_wall_ns: 0,
                reason: format!("over a budget (bytes {n} to {n})"),
                incarnation: None,
            });
        }
        let told = losses.take();
        assert!(told.len() <= MAX_APART + 2, "{}", told.len());
        assert_eq!(told.iter().map(|g| g.count.unwrap()).sum::<u64>(), 3_000);
    }

    #[test]
    fn what_is_told_together_stays_of_its_class() {
        let reasons = [
            ("journal", None, "the agent was not running; it had stopped in order (N)"),
            ("uplink", Some(4), "the collector refused the block: N; it could not be kept aside"),
            ("log:/N", None, "over the evidence stream's budget of bytes in a second (N)"),
            ("log:/N", None, "truncated, N bytes"),
            ("sampler", None, "no sample for N s; the node was suspended"),
            ("sampler", Some(4), "the evidence ring is nearly full of N"),
            ("log:/N", Some(4), "the queue to the journal was full and N gave way"),
            ("log:/N", Some(4), "record N does not fit a block"),
            ("log:/N", None, "a comet of N"),
            ("log:/N", Some(4), RING_FULL),
            ("uplink", Some(4), NOT_HELD),
        ];
        let mut losses = Losses::default();
        let (mut before, mut after) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
        for n in 0..1_000_u64 {
            for (source, seq, reason) in reasons {
                let gap = Gap {
                    stream: Stream::Evidence,
                    source: source.replace('N', &n.to_string()),
                    after_seq: seq.map(|seq| seq + n),
                    before_seq: None,
                    count: Some(1),
                    from_wall_ns: 0,
                    to_wall_ns: 0,
                    reason: reason.replace('N', &n.to_string()),
                    incarnation: None,
                };
                *before.entry(gap.class()).or_default() += 1;
                losses.fold(gap);
            }
        }
        let told = losses.take();
        for gap in &told {
            *after.entry(gap.class()).or_default() += gap.count.unwrap();
        }
        assert_eq!(after, before);
        assert!(told.len() <= MAX_APART + reasons.len(), "{}", told.len());
        for kept in [RING_FULL, NOT_HELD] {
            let count = told.iter().filter(|g| g.reason == kept).filter_map(|g| g.count).sum::<u64>();
            assert_eq!(count, 1_000, "{kept}: it is read back by its words");
        }
    }

    #[test]
    fn a_gap_that_found_no_room_comes_out_as_it_was() {
        let gap = |after, before, count| Gap {
            stream: Stream::Evidence,
            source: "uplink".into(),
            after_seq: after,
            before_seq: before,
            count,
            from_wall_ns: 3,
            to_wall_ns: 4,
            reason: "gone".into(),
            incarnation: Some(Incarnation([1; 16])),
        };
        for gap in [gap(Some(2), Some(9), Some(6)), gap(None, None, Some(4)), gap(None, None, None)] {
            let mut losses = Losses::default();
            losses.fold(gap.clone());
            assert_eq!(losses.take(), [gap]);
        }
    }
}
