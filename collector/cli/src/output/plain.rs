//! For terminals that know no Unicode (`LANG=C`): bars, sparklines and arrows become ASCII, every other character `?`.
//!
//! Only what goes to a terminal passes here; in a pipe nothing is lost. Each character keeps its width, so that
//! columns stay in line.

use std::io::{self, Write};

use unicode_width::UnicodeWidthChar as _;

/// `c` in ASCII, as wide as it is; `None` for what is ASCII already.
pub(crate) fn ascii(c: char) -> Option<&'static str> {
    Some(match c {
        '\0'..='\u{7f}' => return None,
        '█' | '▉' | '▊' | '▋' | '●' => "#",
        '▌' | '▍' | '▎' | '▏' => "+",
        '░' => ".",
        '▁' => "_",
        '▂' => ".",
        '▃' => "-",
        '▄' => "=",
        '▅' => "+",
        '▆' => "*",
        '▇' => "%",
        '│' => "|",
        '─' | '–' => "-",
        '┼' => "+",
        '…' => "~",
        '→' => ">",
        '↑' => "^",
        '↓' => "v",
        '×' => "x",
        '·' => "-",
        '○' | '◌' => "o",
        '◆' | '▲' => "*",
        '✓' => "v",
        '✗' => "x",
        '▶' => ">",
        c => match c.width() {
            Some(0) | None => "",
            Some(1) => "?",
            Some(_) => "??",
        },
    })
}

/// Passes text on in ASCII. Bytes that are no UTF-8 become `?`.
#[derive(Debug)]
pub(crate) struct Ascii<W: Write> {
    to: W,
    /// The beginning of a character whose end is yet to come: at most 3 bytes.
    part: Vec<u8>,
}

impl<W: Write> Ascii<W> {
    /// Writes to `to`.
    pub(crate) fn new(to: W) -> Self {
        Self { to, part: Vec::new() }
    }
}

impl<W: Write> Write for Ascii<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        let mut out = String::with_capacity(self.part.len());
        let mut done = 0;
        for chunk in self.part.utf8_chunks() {
            for c in chunk.valid().chars() {
                match ascii(c) {
                    Some(text) => out.push_str(text),
                    None => out.push(c),
                }
            }
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.part.len();
            if at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            if !invalid.is_empty() {
                out.push('?');
            }
            done += invalid.len();
        }
        self.part.drain(..done);
        self.to.write_all(out.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::text::{bar, spark, width};

    #[test]
    fn what_is_drawn_is_drawn_in_ascii_of_the_same_width() {
        for text in
            [bar(0.55, 10), spark(&[Some(0.0), None, Some(0.3), Some(1.0)], 4, None), "漢字 → …".to_owned()]
        {
            let mut out = Ascii::new(Vec::new());
            out.write_all(text.as_bytes()).unwrap();
            let shown = String::from_utf8(out.to).unwrap();
            assert!(shown.is_ascii(), "{shown}");
            assert_eq!(width(&shown), width(&text), "{shown} {text}");
        }
    }

    #[test]
    fn a_character_may_come_in_pieces() {
        let mut out = Ascii::new(Vec::new());
        for byte in "a→b\u{1b}".bytes().chain([0xff, b'c']) {
            out.write_all(&[byte]).unwrap();
        }
        assert_eq!(String::from_utf8(out.to).unwrap(), "a>b\u{1b}?c");
    }
}
