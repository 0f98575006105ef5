//! Chooses the lines of a block that are handed on: matches and their context, or all lines.
//!
//! Pure: the block, how many lines of context the last match left over, and the rules go in; ranges come out.

use std::ops::Range;

use memchr::{memchr, memrchr};

use super::matcher::{Hit, Matcher};
use super::rules::Rule;

/// A line of a block that is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it stands in the block, newline excluded.
    pub(super) range: Range<usize>,
    /// The rules that it matched.
    pub(super) rules: Vec<u16>,
    /// Whether it is a match or context.
    pub(super) evidence: bool,
    /// Lines of context still due behind it.
    pub(super) after: u8,
}

/// The lines of a block that are handed on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// In order.
    pub(super) pieces: Vec<Piece>,
    /// Lines of context still due behind the block.
    pub(super) after: u8,
    /// Lines before the block that are context of a match in it.
    pub(super) earlier: usize,
}

/// Chooses from `block`, which begins at the start of a line, with `after` lines of context due at its start.
pub(super) fn choose(
    block: &[u8],
    matcher: Option<&Matcher>,
    rules: &[Rule],
    limit: usize,
    mut after: u8,
    all: bool,
) -> Chosen {
    let mut hits = Vec::new();
    if let Some(matcher) = matcher {
        matcher.hits(block, limit, &mut hits);
    }
    let mut pieces = Vec::new();
    let mut earlier = 0;
    let mut at = 0;
    for hit in hits {
        at = context_after(block, at..hit.range.start, &mut after, &mut pieces);
        let context = |f: fn(&Rule) -> u8| {
            hit.rules.iter().filter_map(|r| rules.get(usize::from(*r))).map(f).max().unwrap_or(0)
        };
        let before = usize::from(context(|r| r.context_before));
        let taken = context_before(block, at..hit.range.start, before, &mut pieces);
        if at == 0 && taken < before {
            earlier = earlier.max(before - taken);
        }
        after = after.max(context(|r| r.context_after));
        at = hit.range.end + 1;
        let Hit { range, rules } = hit;
        pieces.push(Piece { range, rules, evidence: true, after });
    }
    context_after(block, at..block.len(), &mut after, &mut pieces);
    if all {
        pieces = with_all_others(block, pieces);
    }
    Chosen { pieces, after, earlier }
}

/// Takes up to `after` lines from the front of `range`; returns where it stopped.
fn context_after(block: &[u8], range: Range<usize>, after: &mut u8, pieces: &mut Vec<Piece>) -> usize {
    let mut at = range.start;
    while *after > 0 && at < range.end {
        let end = line_end(block, at);
        *after -= 1;
        pieces.push(Piece { range: at..end, rules: Vec::new(), evidence: true, after: *after });
        at = end + 1;
    }
    at
}

/// Takes up to `before` lines from the back of `range`; returns how many.
fn context_before(block: &[u8], range: Range<usize>, before: usize, pieces: &mut Vec<Piece>) -> usize {
    let first = pieces.len();
    let mut end = range.end;
    while pieces.len() - first < before && end > range.start {
        let start = memrchr(b'\n', &block[range.start..end - 1]).map_or(range.start, |i| range.start + i + 1);
        pieces.push(Piece { range: start..end - 1, rules: Vec::new(), evidence: true, after: 0 });
        end = start;
    }
    pieces[first..].reverse();
    pieces.len() - first
}

fn with_all_others(block: &[u8], pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out = Vec::with_capacity(pieces.len());
    let mut chosen = pieces.into_iter().peekable();
    let mut at = 0;
    while at < block.len() {
        let end = line_end(block, at);
        match chosen.next_if(|p| p.range.start == at) {
            Some(piece) => out.push(piece),
            None => out.push(Piece { range: at..end, rules: Vec::new(), evidence: false, after: 0 }),
        }
        at = end + 1;
    }
    out
}

fn line_end(block: &[u8], at: usize) -> usize {
    memchr(b'\n', &block[at..]).map_or(block.len(), |i| at + i)
}

/// The last `count` lines of `block`, which ends behind a newline: their ranges, in order. The first one is left out
/// unless `whole` says that the block begins at the start of a line.
pub(super) fn last_lines(block: &[u8], count: usize, whole: bool) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut end = block.len();
    while out.len() < count && end > 0 {
        let start = memrchr(b'\n', &block[..end - 1]).map(|i| i + 1);
        if start.is_none() && !whole {
            break;
        }
        let start = start.unwrap_or(0);
        out.push(start..end - 1);
        end = start;
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::super::rules::RuleSet;
    use super::*;

    fn set() -> RuleSet {
        let rule = |name: &str, before: u8, after: u8| {
            format!(
                "  - {{name: {name}, match: '{name}', severity: low, summary: s, context_before: {before}, context_after: {after}}}\n"
            )
        };
        RuleSet::parse("test", &format!("rules:\n{}{}", rule("hit", 2, 1), rule("bare", 0, 0))).unwrap()
    }

    fn chosen(block: &str, after: u8, all: bool) -> (Vec<String>, Chosen) {
        let set = set();
        let matcher = set.matcher(&[0, 1]);
        let out = choose(block.as_bytes(), matcher.as_deref(), set.rules(), 1000, after, all);
        let show = |p: &Piece| {
            format!(
                "{}{}",
                &block[p.range.clone()],
                if !p.evidence {
                    ""
                } else if p.rules.is_empty() {
                    "~"
                } else {
                    "!"
                }
            )
        };
        (out.pieces.iter().map(show).collect(), out)
    }

    #[test]
    fn a_match_takes_its_context_along_once() {
        let (lines, out) = chosen("1\n2\n3\nhit\n4\n5\n6\nhit\nhit\n7\n8\n", 0, false);
        assert_eq!(lines, ["2~", "3~", "hit!", "4~", "5~", "6~", "hit!", "hit!", "7~"]);
        assert_eq!((out.earlier, out.after), (0, 0));
    }

    #[test]
    fn context_reaches_over_the_ends_of_a_block() {
        let (lines, out) = chosen("1\nhit\n", 0, false);
        assert_eq!((lines.join(" "), out.earlier, out.after), ("1~ hit!".to_owned(), 1, 1));
        let (lines, out) = chosen("1\n2\nbare\n", 1, false);
        assert_eq!((lines.join(" "), out.earlier, out.after), ("1~ bare!".to_owned(), 0, 0));
    }

    #[test]
    fn all_lines_come_in_order_and_evidence_is_marked() {
        let (lines, _) = chosen("\n\nbare\n\n3", 0, true);
        assert_eq!(lines, ["", "", "bare!", "", "3"]);
    }

    #[test]
    fn last_lines_are_whole_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2, false), [2..3, 4..5]);
        assert_eq!(last_lines(b"a\nb\n", 5, false).first(), Some(&(2..3)));
        assert_eq!(last_lines(b"a\nb\n", 5, true), [0..1, 2..3]);
        assert!(last_lines(b"", 5, true).is_empty());
    }
}
