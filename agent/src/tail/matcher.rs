//! Finds the lines of a block that rules match.
//!
//! One automaton over all rules runs over the whole block and stops at each hit; only the line around a hit is asked
//! which rules match it. Every other line costs no call at all, and that is where the throughput comes from. Patterns
//! are confined to a line ([`super::pattern`]), so the answer is the one that asking line by line would give.
//!
//! A rule sees at most [`LineLimit`] bytes of a line, however the line reached the block, so that the answer does not
//! depend on where a block happens to end.

use std::ops::Range;

use memchr::{memchr, memrchr};
use regex_automata::meta::{BuildError, Regex};
use regex_automata::{Input, MatchKind, PatternSet};
use regex_syntax::hir::Hir;

/// Bytes of a line that rules see and that are kept.
pub(super) type LineLimit = usize;

/// Memory that one automaton may take, in bytes: a set of rules that needs more is refused when it is read.
const MAX_AUTOMATON_BYTES: usize = 16 * 1024 * 1024;
/// Cache of the lazily built automaton, in bytes.
const LAZY_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Line `range` of a block (newline excluded) and the rules that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// Where the line stands in the block, its newline excluded.
    pub(super) range: Range<usize>,
    /// Positions of the rules in their set, ascending.
    pub(super) rules: Vec<u16>,
}

/// The automata for one selection of rules.
#[derive(Debug)]
pub(super) struct Matcher {
    /// Finds the next hit in a block.
    find: Regex,
    /// Says which rules match a line.
    which: Regex,
    /// Pattern n is rule `rules[n]` of the set.
    rules: Vec<u16>,
}

impl Matcher {
    /// For `patterns`, confined to a line, that stand for `rules` of a set. `None` for no rules.
    pub(super) fn new(patterns: &[&Hir], rules: Vec<u16>) -> Result<Option<Self>, Box<BuildError>> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let config = || {
            Regex::config()
                .utf8_empty(false)
                .nfa_size_limit(Some(MAX_AUTOMATON_BYTES))
                .hybrid_cache_capacity(LAZY_CACHE_BYTES)
        };
        let find = Regex::builder().configure(config()).build_many_from_hir(patterns)?;
        let which =
            Regex::builder().configure(config().match_kind(MatchKind::All)).build_many_from_hir(patterns)?;
        Ok(Some(Self { find, which, rules }))
    }

    /// The lines of `block` that at least one rule matches, in order. `block` begins at the start of a line; a last
    /// line without newline counts as one.
    pub(super) fn hits(&self, block: &[u8], limit: LineLimit, out: &mut Vec<Hit>) {
        let mut set = PatternSet::new(self.rules.len());
        let mut at = 0;
        while at < block.len() {
            let input = Input::new(block).range(at..).earliest(true);
            let Some(found) = self.find.search_half(&input) else { break };
            let start = memrchr(b'\n', &block[at..found.offset()]).map_or(at, |i| at + i + 1);
            let end = memchr(b'\n', &block[start..]).map_or(block.len(), |i| start + i);
            if start >= block.len() {
                // An empty match behind the last newline: there is no line.
                break;
            }
            let rules = self.rules_of(&block[start..end], limit, &mut set);
            if !rules.is_empty() {
                out.push(Hit { range: start..end, rules });
            }
            at = end + 1;
        }
    }

    /// Rules that match `line` (newline excluded), of which only the first `limit` bytes are seen.
    #[cfg(test)]
    pub(super) fn rules_of_line(&self, line: &[u8], limit: LineLimit) -> Vec<u16> {
        self.rules_of(line, limit, &mut PatternSet::new(self.rules.len()))
    }

    fn rules_of(&self, line: &[u8], limit: LineLimit, set: &mut PatternSet) -> Vec<u16> {
        set.clear();
        // One byte more stays visible, so that `$` and `\b` at the cut know that the line goes on.
        let seen = &line[..line.len().min(limit.saturating_add(1))];
        let input = Input::new(seen).range(..seen.len().min(limit));
        self.which.which_overlapping_matches(&input, set);
        set.iter().filter_map(|p| self.rules.get(p.as_usize()).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pattern::line_pattern;
    use super::*;

    const LIMIT: LineLimit = 64;

    /// The (line, rules) pairs that asking each line alone gives, by plain regexes that were never confined.
    fn line_by_line(patterns: &[&str], block: &[u8]) -> Vec<(usize, Vec<u16>)> {
        let regexes: Vec<Regex> = patterns
            .iter()
            .map(|p| {
                Regex::builder()
                    .configure(Regex::config().utf8_empty(false))
                    .syntax(regex_automata::util::syntax::Config::new().unicode(false).utf8(false))
                    .build(p)
                    .unwrap()
            })
            .collect();
        let mut out = Vec::new();
        let mut start = 0;
        for line in block.split_inclusive(|b| *b == b'\n') {
            let bare = line.strip_suffix(b"\n").unwrap_or(line);
            let seen = &bare[..bare.len().min(LIMIT + 1)];
            let rules: Vec<u16> = (0u16..)
                .zip(&regexes)
                .filter(|(_, r)| r.is_match(Input::new(seen).range(..seen.len().min(LIMIT))))
                .map(|(i, _)| i)
                .collect();
            if !rules.is_empty() {
                out.push((start, rules));
            }
            start += line.len();
        }
        out
    }

    fn block_wise(patterns: &[&str], block: &[u8]) -> Vec<(usize, Vec<u16>)> {
        let hirs: Vec<Hir> = patterns.iter().map(|p| line_pattern(p).unwrap()).collect();
        let rules = (0..patterns.len() as u16).collect();
        let matcher = Matcher::new(&hirs.iter().collect::<Vec<_>>(), rules).unwrap().unwrap();
        let mut hits = Vec::new();
        matcher.hits(block, LIMIT, &mut hits);
        for hit in &hits {
            assert_eq!(matcher.rules_of_line(&block[hit.range.clone()], LIMIT), hit.rules);
            assert!(!block[hit.range.clone()].contains(&b'\n'));
        }
        hits.into_iter().map(|h| (h.range.start, h.rules)).collect()
    }

    const ADVERSARIAL: &[&str] = &[
        "^",
        "$",
        "^$",
        "^a",
        "b$",
        "^ab$",
        r"a\s",
        r"\s",
        r"\sb",
        "[^a]",
        "(?s).",
        "(?s)a.b",
        r"\Aab",
        r"ab\z",
        r"\ba",
        r"b\b",
        r"\B",
        "a+b*",
        "(ab|b)+",
        "",
        "a{2,3}",
        r"\x00",
        r"[^\x00-\x7f]",
        "(?i)AB",
        "a|^$",
        r"\W$",
        "(?m:^)b",
        r"\S+\s\S+$",
        "ab",
        "ba|aab",
        "(?-m)^b",
        "(?-m)a$",
        "(?u)é",
        "é",
        r"\xff",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn searching_a_block_finds_what_searching_each_line_finds(
            picks in prop::collection::vec(0..ADVERSARIAL.len(), 1..6),
            block in prop::collection::vec(
                prop::sample::select(b"aaabbbAB \t\r\n\n\n\x00\xff\xc3\xa9x".to_vec()), 0..400),
        ) {
            let patterns: Vec<&str> = picks.iter().map(|i| ADVERSARIAL[*i]).collect();
            prop_assert_eq!(block_wise(&patterns, &block), line_by_line(&patterns, &block));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn patterns_drawn_at_random_agree_too(
            patterns in prop::collection::vec("(\\^)?([ab.]|\\[\\^a\\]|\\\\s|\\\\b|\\(a\\|b\\$\\)){1,6}[*+?]?(\\$)?", 1..4),
            block in prop::collection::vec(prop::sample::select(b"aab \n\n".to_vec()), 0..300),
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            if patterns.iter().all(|p| line_pattern(p).is_ok()) {
                prop_assert_eq!(block_wise(&patterns, &block), line_by_line(&patterns, &block));
            }
        }
    }

    #[test]
    fn every_adversarial_pattern_alone_agrees() {
        let block = b"\nab\n\naab b\nb \n ab\n\xff\xc3\xa9\n\x00\nba\r\n".repeat(3);
        for pattern in ADVERSARIAL {
            assert_eq!(block_wise(&[pattern], &block), line_by_line(&[pattern], &block), "{pattern}");
        }
    }

    #[test]
    fn a_match_behind_the_limit_does_not_count() {
        let mut line = vec![b'x'; LIMIT];
        line.extend_from_slice(b"needle\nneedle\n");
        assert_eq!(block_wise(&["needle"], &line), [(LIMIT + 7, vec![0])]);
        assert_eq!(block_wise(&["x$"], &line), []);
    }
}
