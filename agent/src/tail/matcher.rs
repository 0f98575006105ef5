//! Finds the lines of a block that rules match.
//!
//! Automata over many rules each run over the whole block and stop at each hit; only the line around a hit is asked
//! which rules match it. Every other line costs no call at all, and that is where the throughput comes from. Patterns
//! are confined to a line ([`super::pattern`]), so the answer is the one that asking line by line would give.
//!
//! What is fast is to look for the fixed texts that matches begin with, many bytes at once; but only up to
//! [`FAST_LITERALS`] of them. So rules are dealt into a few automata of so many each: two such passes cost less than
//! half of one pass of an automaton that looks at every byte.
//!
//! A rule sees at most [`LineLimit`] bytes of a line, however the line reached the block, so that the answer does not
//! depend on where a block happens to end.

use std::ops::Range;

use memchr::{memchr, memrchr};
use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::prefilter::Prefilter;
use regex_automata::{Input, MatchKind, PatternSet};
use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::{ExtractKind, Extractor, Seq};

/// Bytes of a line that rules see and that are kept.
pub(super) type LineLimit = usize;

/// Memory that one automaton may take, in bytes: a set of rules that needs more is refused when it is read.
const MAX_AUTOMATON_BYTES: usize = 16 * 1024 * 1024;
/// Cache of the lazily built automaton, in bytes.
const LAZY_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Texts that a vectorised search looks for at once.
const FAST_LITERALS: usize = 64;
/// Passes over a block, at most: more of them would be slower than one that looks at every byte.
const MAX_PASSES: usize = 4;
/// Bytes of a text that are looked for. More would split texts that could be one.
const LITERAL_BYTES: usize = 6;
/// A shorter text is everywhere.
const MIN_LITERAL_BYTES: usize = 3;

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
    /// Each finds the next hit of some of the rules in a block.
    find: Vec<Regex>,
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
        let find = passes(patterns)
            .into_iter()
            .map(|pass| {
                let config = match pass.prefilter {
                    Some(p) => config().prefilter(Some(p)),
                    None => config(),
                };
                Regex::builder().configure(config).build_many_from_hir(&pass.patterns).map_err(Box::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        // It is asked about lines that hit, from their beginning: a search for beginnings would only cost its megabyte.
        let all = config().match_kind(MatchKind::All).auto_prefilter(false);
        let which = Regex::builder().configure(all).build_many_from_hir(patterns)?;
        Ok(Some(Self { find, which, rules }))
    }

    /// The lines of `block` that at least one rule matches, in order. `block` begins at the start of a line; a last
    /// line without newline counts as one.
    pub(super) fn hits(&self, block: &[u8], limit: LineLimit, out: &mut Vec<Hit>) {
        let mut lines = Vec::new();
        for find in &self.find {
            candidates(find, block, &mut lines);
        }
        if self.find.len() > 1 {
            lines.sort_unstable_by_key(|l| l.start);
            lines.dedup();
        }
        let mut set = PatternSet::new(self.rules.len());
        for range in lines {
            let rules = self.rules_of(&block[range.clone()], limit, &mut set);
            if !rules.is_empty() {
                out.push(Hit { range, rules });
            }
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

/// Adds the lines of `block` in which `find` hits.
fn candidates(find: &Regex, block: &[u8], lines: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while at < block.len() {
        let input = Input::new(block).range(at..).earliest(true);
        let Some(found) = find.search_half(&input) else { break };
        let start = memrchr(b'\n', &block[at..found.offset()]).map_or(at, |i| at + i + 1);
        let end = memchr(b'\n', &block[start..]).map_or(block.len(), |i| start + i);
        if start >= block.len() {
            // An empty match behind the last newline: there is no line.
            break;
        }
        lines.push(start..end);
        at = end + 1;
    }
}

/// Patterns that share an automaton, and what looks for the beginnings of their matches.
struct Pass<'p> {
    patterns: Vec<&'p Hir>,
    prefilter: Option<Prefilter>,
}

/// Deals `patterns` into passes; one pass of all where a pattern begins with nothing fixed, or where it would be many.
fn passes<'p>(patterns: &[&'p Hir]) -> Vec<Pass<'p>> {
    let whole = || vec![Pass { patterns: patterns.to_vec(), prefilter: None }];
    let mut dealt: Vec<(Vec<&Hir>, Vec<Vec<u8>>)> = Vec::new();
    for pattern in patterns {
        let Some(begins) = beginnings(pattern) else { return whole() };
        match dealt.last_mut().filter(|(_, texts)| texts.len() + begins.len() <= FAST_LITERALS) {
            Some((some, texts)) => {
                some.push(pattern);
                texts.extend(begins);
            }
            None => dealt.push((vec![pattern], begins)),
        }
    }
    if dealt.len() > MAX_PASSES {
        return whole();
    }
    let mut passes = Vec::new();
    for (patterns, mut texts) in dealt {
        texts.sort();
        texts.dedup();
        let prefilter = Prefilter::new(MatchKind::LeftmostFirst, &texts).filter(Prefilter::is_fast);
        if prefilter.is_none() {
            return whole();
        }
        passes.push(Pass { patterns, prefilter });
    }
    passes
}

/// The texts one of which every match of `pattern` begins with; `None` where there are none, too many or too short ones.
fn beginnings(pattern: &Hir) -> Option<Vec<Vec<u8>>> {
    let mut texts: Seq = Extractor::new().kind(ExtractKind::Prefix).extract(pattern);
    texts.keep_first_bytes(LITERAL_BYTES);
    texts.dedup();
    let texts = texts.literals()?;
    let fit = texts.len() <= FAST_LITERALS && texts.iter().all(|t| t.len() >= MIN_LITERAL_BYTES);
    (fit && !texts.is_empty()).then(|| texts.iter().map(|t| t.as_bytes().to_vec()).collect())
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
    fn more_rules_than_one_pass_takes_find_the_same_lines_once() {
        let texts: Vec<String> =
            (0..150).map(|i| if i % 7 == 0 { format!("^w{i:03}x?$") } else { format!("w{i:03}") }).collect();
        let patterns: Vec<&str> = texts.iter().map(String::as_str).collect();
        let hirs: Vec<Hir> = patterns.iter().map(|p| line_pattern(p).unwrap()).collect();
        assert_eq!(passes(&hirs.iter().collect::<Vec<_>>()).len(), 3);
        let block = b"w000\nw149 w003 w070\nnothing\nw007xy\n\nw1490\nw14\nw021x".repeat(2);
        assert_eq!(block_wise(&patterns, &block), line_by_line(&patterns, &block));
        assert!(block_wise(&patterns, &block).len() > 5);
    }

    #[test]
    fn a_rule_that_begins_with_nothing_fixed_leaves_one_pass() {
        let hirs = ["needle", "[a-z]+thread"].map(|p| line_pattern(p).unwrap());
        assert_eq!(passes(&hirs.iter().collect::<Vec<_>>()).len(), 1);
    }

    #[test]
    fn a_match_behind_the_limit_does_not_count() {
        let mut line = vec![b'x'; LIMIT];
        line.extend_from_slice(b"needle\nneedle\n");
        assert_eq!(block_wise(&["needle"], &line), [(LIMIT + 7, vec![0])]);
        assert_eq!(block_wise(&["x$"], &line), []);
    }
}
