//! The sieve: which records are events that somebody wants, looked at where blocks are read, before any limit counts.
//!
//! A regular expression is a stranger's program: its size is bounded, and it runs in time linear in the line
//! (regex-automata never backtracks). Invariants: what passes does so by the words that are shown
//! ([`crate::wording::message`]).
//!
//! Deliberately absent: time limits (whoever reads has them) and the wire.

use std::fmt;

use dogwatch::record::{Finding, NodeName, Record};
use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::util::syntax;

use crate::select::Select;
use crate::wording;

/// Longest pattern, bytes.
pub const MAX_PATTERN_BYTES: usize = 4096;
/// Largest program that a pattern may become: that of a few hundred alternatives; `\w{100}` passes, `\w{10000}` does not.
const MAX_PROGRAM_BYTES: usize = 2 << 20;
/// Memory for what is built while searching.
const CACHE_BYTES: usize = 2 << 20;
/// Deepest nesting of a pattern.
const MAX_NESTING: u32 = 50;

/// A pattern, ready to search.
#[derive(Clone)]
pub struct Grep {
    pattern: String,
    regex: Regex,
}

impl fmt::Debug for Grep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grep({:?})", self.pattern)
    }
}

impl PartialEq for Grep {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}
impl Eq for Grep {}

/// Why a pattern cannot be searched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} {why}")]
pub struct BadPattern {
    /// It, cut to 80 characters.
    pub pattern: String,
    /// What is wrong with it and where.
    pub why: String,
}

impl Grep {
    /// `pattern` in the syntax of Rust's regex crate.
    ///
    /// # Errors
    /// [`BadPattern`]: it does not parse, or is too large.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let bad = |why: String| BadPattern { pattern: pattern.chars().take(80).collect(), why };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(bad(format!("has {} bytes, the limit is {MAX_PATTERN_BYTES}", pattern.len())));
        }
        let config = Config::new()
            .nfa_size_limit(Some(MAX_PROGRAM_BYTES))
            .onepass_size_limit(Some(MAX_PROGRAM_BYTES))
            .hybrid_cache_capacity(CACHE_BYTES);
        let regex = Regex::builder()
            .configure(config)
            .syntax(syntax::Config::new().nest_limit(MAX_NESTING))
            .build(pattern)
            .map_err(|e: BuildError| {
                bad(match (e.syntax_error(), e.size_limit()) {
                    (Some(e), _) => format!("is no regular expression: {e}"),
                    (None, Some(limit)) => {
                        format!("becomes a program of more than {limit} bytes; use smaller repetitions")
                    }
                    (None, None) => format!("cannot be used: {e}"),
                })
            })?;
        Ok(Self { pattern: pattern.to_owned(), regex })
    }

    /// Whether `text` has a match.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// What events must be like; by default everything passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sieve {
    /// About what.
    pub select: Select,
    /// From where: the whole source, or its beginning up to a `/`; empty: from anywhere.
    pub source: String,
    /// With these words.
    pub grep: Option<Grep>,
}

impl Sieve {
    /// Whether it passes everything.
    pub fn is_open(&self) -> bool {
        self.select.is_all() && self.source.is_empty() && self.grep.is_none()
    }

    /// Whether it passes everything of the nodes that it names.
    pub fn is_open_within_nodes(&self) -> bool {
        self.select.is_about_nodes_alone()
            && self.select.severity.is_none()
            && self.source.is_empty()
            && self.grep.is_none()
    }

    /// Whether a record passes; `finding` looks up the finding that asked for an action.
    pub fn passes(
        &self,
        node: &NodeName,
        record: &Record,
        finding: &dyn Fn(&str) -> Option<Finding>,
    ) -> bool {
        self.select.record(node, record, wording::severity(record), finding)
            && (self.source.is_empty() || beneath(&self.source, &wording::source(record)))
            && self.grep.as_ref().is_none_or(|g| g.is_match(&wording::message(record)))
    }
}

/// Whether `source` is `wanted`, or begins with it up to a `/`.
fn beneath(wanted: &str, source: &str) -> bool {
    source
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || wanted.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{Body, LogLine, Moment};

    use super::*;

    fn line(source: &str, line: &[u8]) -> Record {
        let body = Body::Log(LogLine { source: source.into(), line: line.into(), ..LogLine::default() });
        Record { seq: 1, at: Moment::default(), body }
    }

    fn passes(sieve: &Sieve, record: &Record) -> bool {
        sieve.passes(&"n".parse().unwrap(), record, &|_| None)
    }

    #[test]
    fn a_pattern_that_does_not_parse_or_is_too_large_says_so() {
        let bad = Grep::new("a(b").unwrap_err().to_string();
        assert!(bad.contains("\"a(b\"") && bad.contains("unclosed group"), "{bad}");
        let large = Grep::new(r"(\w{500}){500}").unwrap_err().to_string();
        assert!(large.contains("2097152"), "{large}");
        let long = Grep::new(&"x".repeat(MAX_PATTERN_BYTES + 1)).unwrap_err().to_string();
        assert!(long.contains("4097"), "{long}");
        let deep = Grep::new(&("(".repeat(60) + "a" + &")".repeat(60))).unwrap_err().to_string();
        assert!(deep.contains("nest"), "{deep}");
    }

    #[test]
    fn what_is_not_utf8_is_replaced_before_it_is_searched() {
        let grep = |p: &str| Sieve { grep: Some(Grep::new(p).unwrap()), ..Sieve::default() };
        let record = line("/a.log", b"caf\xff: ERROR 42");
        assert!(passes(&grep("^caf.: ERROR [0-9]+$"), &record));
        assert!(passes(&grep("\u{fffd}"), &record));
        assert!(passes(&grep("(?i)error"), &record));
        assert!(!passes(&grep("error"), &record));
    }

    #[test]
    fn a_source_is_whole_or_ends_at_a_slash() {
        let of = |source: &str| Sieve { source: source.into(), ..Sieve::default() };
        let record = line("/var/log/app/a.log", b"");
        for source in ["/var/log/app/a.log", "/var/log/app", "/var/log/app/", "/var", "/"] {
            assert!(passes(&of(source), &record), "{source}");
        }
        for source in ["/var/log/ap", "/var/log/app/a.lo", "app"] {
            assert!(!passes(&of(source), &record), "{source}");
        }
    }
}
