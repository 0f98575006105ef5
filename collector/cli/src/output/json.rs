//! JSON that a terminal cannot obey: what `serde_json` leaves as it stands (DEL, C1 and bidi controls, invisible
//! characters) is written as `\uXXXX` too. It is the same value to every parser.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::text::is_dangerous;
use crate::error::CliError;

/// Writes `value` on one line, without a newline.
pub(crate) fn line(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    finish(value.serialize(&mut Serializer::with_formatter(out, Harmless(CompactFormatter))))
}

/// Writes `value` indented, without a final newline.
pub(crate) fn pretty(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    finish(value.serialize(&mut Serializer::with_formatter(out, Harmless(PrettyFormatter::new()))))
}

fn finish(result: Result<(), serde_json::Error>) -> Result<(), CliError> {
    result.map_err(|e| match e.io_error_kind() {
        Some(kind) => io::Error::from(kind).into(),
        None => CliError::failed("cannot write JSON", &e),
    })
}

/// A formatter whose strings hold nothing dangerous.
struct Harmless<F>(F);

impl<F: Formatter> Formatter for Harmless<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_dangerous(*c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }
    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }
    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_characters_are_escaped_and_the_value_stays() {
        let hostile = "a\u{1b}[2J\u{9b}\u{202e}漢\u{e0041}\"\\\u{7f}";
        let mut out = Vec::new();
        line(&mut out, &[hostile]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(is_dangerous), "{text}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [hostile]);
    }
}
