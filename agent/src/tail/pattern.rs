//! Patterns that cannot see past a line, so that one automaton may search a whole block of lines at once.
//!
//! A rule is written as if it saw one line. Searching line by line costs half of the throughput, so the pattern is
//! rewritten instead: the newline is taken out of every class, and the anchors of the haystack become anchors of the
//! line. After that a match in a block lies within one line, and it is the match that the line alone would give. What
//! cannot be rewritten (a newline asked for, CRLF mode, Unicode word boundaries, which no DFA can decide on foreign
//! bytes) is refused with a remedy.
//!
//! Patterns work on bytes: `.`, `\w`, `\s`, `\b` mean ASCII unless `(?u)` says otherwise, because a log is not
//! necessarily UTF-8.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

/// Longest pattern accepted, in bytes; a longer one is a mistake rather than a rule.
pub(super) const MAX_PATTERN_BYTES: usize = 4096;
/// Deepest nesting accepted: the rewrite recurses that far.
const MAX_NESTING: u32 = 100;

/// Why a pattern is refused, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is wrong, with the position where there is one.
    pub(super) problem: String,
    /// What to write instead.
    pub(super) remedy: String,
}

impl Refused {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// Parses `pattern` and confines it to a line.
pub(super) fn line_pattern(pattern: &str) -> Result<Hir, Refused> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Refused::new(
            format!("{} bytes long, the limit is {MAX_PATTERN_BYTES}", pattern.len()),
            "split it into several rules",
        ));
    }
    let mut parser =
        ParserBuilder::new().utf8(false).unicode(false).multi_line(true).nest_limit(MAX_NESTING).build();
    let hir = parser.parse(pattern).map_err(|e| syntax(pattern, &e))?;
    confine(&hir)
}

/// A syntax error with the place in the pattern.
fn syntax(pattern: &str, error: &regex_syntax::Error) -> Refused {
    let (what, span) = match error {
        regex_syntax::Error::Parse(e) => (e.kind().to_string(), *e.span()),
        regex_syntax::Error::Translate(e) => (e.kind().to_string(), *e.span()),
        other => return Refused::new(other.to_string(), "correct the regular expression"),
    };
    let part: String =
        pattern.get(span.start.offset..span.end.offset).unwrap_or_default().chars().take(40).collect();
    let at = if span.start.line > 1 {
        format!("line {}, character {}", span.start.line, span.start.column)
    } else {
        format!("character {}", span.start.column)
    };
    let near = if part.is_empty() { String::new() } else { format!(" ({part:?})") };
    Refused::new(format!("not a regular expression: {what} at {at}{near}"), "correct it there")
}

/// Rewrites `hir` so that a match stays within a line. Recursion is bounded by the parser's nest limit.
fn confine(hir: &Hir) -> Result<Hir, Refused> {
    Ok(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => {
            if literal.0.contains(&b'\n') {
                return Err(Refused::new(
                    "asks for a newline, but a rule sees one line at a time",
                    "leave the newline out, or match one of the lines and keep the other as context",
                ));
            }
            Hir::literal(literal.0.clone())
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(look) => Hir::look(match look {
            Look::Start => Look::StartLF,
            Look::End => Look::EndLF,
            Look::StartCRLF | Look::EndCRLF => {
                return Err(Refused::new(
                    "uses CRLF mode (?R)",
                    r"write \r?$ where a carriage return may stand",
                ));
            }
            Look::WordUnicode
            | Look::WordUnicodeNegate
            | Look::WordStartUnicode
            | Look::WordEndUnicode
            | Look::WordStartHalfUnicode
            | Look::WordEndHalfUnicode => {
                return Err(Refused::new(
                    r"uses a Unicode word boundary, which is slow on bytes that are not ASCII",
                    r"write (?-u:\b), or leave (?u) out",
                ));
            }
            ascii_or_line => *ascii_or_line,
        }),
        HirKind::Repetition(repetition) => Hir::repetition(repetition.with(confine(&repetition.sub)?)),
        // Nobody asks where a group matched, and captures cost memory.
        HirKind::Capture(capture) => confine(&capture.sub)?,
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(confine).collect::<Result<_, _>>()?),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(confine).collect::<Result<_, _>>()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_stay_within_a_line_is_refused_with_a_remedy() {
        for (pattern, needle) in [
            (r"a\nb", "newline"),
            (r"(?R)a$", "CRLF"),
            (r"(?u)\bword\b", "word boundary"),
            ("(", "character 1"),
            ("a{2,1}", "character 2"),
            (r"ab\q", "character 3"),
        ] {
            let refused = line_pattern(pattern).unwrap_err();
            assert!(refused.problem.contains(needle), "{pattern}: {refused:?}");
            assert!(!refused.remedy.is_empty());
        }
        assert!(line_pattern(&"a".repeat(MAX_PATTERN_BYTES + 1)).is_err());
    }

    #[test]
    fn newlines_in_classes_are_taken_out_silently() {
        for pattern in [r"a\sb", r"a[^b]c", r"(?s)a.b", r"(?u)a\sb", r"\Aa\z"] {
            line_pattern(pattern).unwrap();
        }
    }
}
