//! Text that is safe to show, and figures that people can read.
//!
//! Log lines, file names and process names are hostile: an escape sequence, a carriage return or a bidi override in
//! them must be seen, never obeyed. Everything from a node or a collector passes [`safe`] on its way to a terminal.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Whether a terminal might obey `c`, or show something else than what is there because of it: control characters,
/// bidi controls, invisible and tag characters, line and paragraph separators.
pub(crate) fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` on one line with every dangerous character spelt out (`\n`, `\u{1b}`).
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_dangerous(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut to `columns`, the last of them `…` where something is missing.
pub(crate) fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if taken + w + 1 > columns {
            break;
        }
        taken += w;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    Cow::Owned(out)
}

/// A size in binary units: `12.3 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and above would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The same with a sign.
pub(crate) fn signed_bytes(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "+" };
    format!("{sign}{}", bytes(n.unsigned_abs()))
}

/// A bar of `cells` cells, filled to `fraction` in eighths.
pub(crate) fn bar(fraction: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (fraction * (cells * 8) as f64).round() as usize;
    let mut out = "█".repeat(eighths / 8);
    out.push_str(EIGHTHS[eighths % 8]);
    let drawn = width(&out);
    out.push_str(&"░".repeat(cells.saturating_sub(drawn)));
    out
}

/// The last `cells` of `values` as a line of bars, from 0 to `top` (their greatest where `None`); a blank where a value
/// is not known, and before the first.
pub(crate) fn spark(values: &[Option<f64>], cells: usize, top: Option<f64>) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = |v: &Option<f64>| v.filter(|v| v.is_finite());
    let shown = &values[values.len().saturating_sub(cells)..];
    let top = top.unwrap_or_else(|| shown.iter().filter_map(known).fold(0.0, f64::max));
    let mut out = " ".repeat(cells - shown.len());
    for value in shown.iter().map(known) {
        out.push(match value {
            None => ' ',
            Some(v) if top > 0.0 => LEVELS[((v / top).clamp(0.0, 1.0) * 7.0).round() as usize],
            Some(_) => LEVELS[0],
        });
    }
    out
}

/// `text` on lines of at most `columns`, broken between words where that can be; at least one line.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let line = lines.last().map_or(0, |l| width(l));
            let gap = usize::from(line > 0);
            if line + gap + width(&word) <= columns {
                if let Some(last) = lines.last_mut() {
                    last.push_str(&" ".repeat(gap));
                    last.push_str(&word);
                }
                break;
            }
            if line > 0 {
                lines.push(String::new());
                continue;
            }
            let mut taken = 0;
            let cut = word.char_indices().find(|(_, c)| {
                taken += c.width().unwrap_or(0);
                taken > columns
            });
            // A character that is wider than the whole line has a line of its own nevertheless.
            let first = word.chars().next().map_or(0, char::len_utf8);
            let at = cut.map_or(word.len(), |(i, _)| i).max(first);
            let rest = word.split_off(at);
            if let Some(last) = lines.last_mut() {
                *last = word;
            }
            if rest.is_empty() {
                break;
            }
            lines.push(String::new());
            word = rest;
        }
    }
    lines
}

/// A rate in binary units a second.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    let n = if bytes_per_s.is_finite() { bytes_per_s.max(0.0) as u64 } else { 0 };
    format!("{}/s", bytes(n))
}

/// A number with thousands apart: `12 345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(d);
    }
    out
}

/// How a piece of text is coloured, where colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Notice,
    Bad,
    Worst,
    /// The row that a person stands on.
    Selected,
}

impl Paint {
    /// `text` in this colour, if `color`.
    pub(crate) fn on(self, text: &str, color: bool) -> Cow<'_, str> {
        let code = match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Notice => "33",
            Self::Bad => "31",
            Self::Worst => "1;31",
            Self::Selected => "7",
            Self::Plain => return Cow::Borrowed(text),
        };
        if color && !text.is_empty() {
            Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
        } else {
            Cow::Borrowed(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        for (hostile, shown) in [
            ("plain ü 漢字", "plain ü 漢字"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("exe\u{202e}gpj", "exe\\u{202e}gpj"),
            ("\u{2066}x\u{2069}\u{200b}\u{feff}", "\\u{2066}x\\u{2069}\\u{200b}\\u{feff}"),
            ("a\u{e0041}", "a\\u{e0041}"),
        ] {
            assert_eq!(safe(hostile), shown);
        }
    }

    #[test]
    fn text_is_cut_by_columns_not_by_characters() {
        assert_eq!(fit("漢字漢字", 8), "漢字漢字");
        assert_eq!(fit("漢字漢字", 7), "漢字漢…");
        assert_eq!(fit("漢字漢字", 6), "漢字…");
        assert_eq!(fit("abc", 1), "…");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn sparklines() {
        let values: Vec<_> = [0.0, 0.5, 1.0].map(Some).into();
        assert_eq!(spark(&values, 4, Some(1.0)), " ▁▅█");
        assert_eq!(spark(&[Some(2.0), None, Some(4.0)], 3, None), "▅ █");
        assert_eq!(spark(&[Some(0.0), Some(0.0)], 2, None), "▁▁");
        assert_eq!(spark(&values, 1, Some(1.0)), "█");
        assert_eq!(rate(2048.0), "2.0 KiB/s");
    }

    #[test]
    fn figures() {
        let sizes: Vec<_> = [0, 1023, 1024, 13_207_024_435, 1_048_575, u64::MAX].map(bytes).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "12.3 GiB", "1.0 MiB", "16.0 EiB"]);
        assert_eq!((signed_bytes(-2048), signed_bytes(0)), ("-2.0 KiB".to_owned(), "+0 B".to_owned()));
        assert_eq!(
            (bar(0.5, 4), bar(0.91, 10), bar(f64::NAN, 2)),
            ("██░░".into(), "█████████▏".into(), "░░".into())
        );
        assert_eq!(
            (count(7), count(12_345), count(1_000_000)),
            ("7".into(), "12 345".into(), "1 000 000".into())
        );
    }

    proptest! {
        #[test]
        fn nothing_dangerous_passes_and_nothing_is_wider_than_asked(text in any::<String>(), columns in 0_usize..60) {
            let shown = safe(&text);
            prop_assert!(!shown.chars().any(is_dangerous));
            prop_assert!(width(&fit(&shown, columns)) <= columns);
        }

        #[test]
        fn wrapped_lines_hold_everything_and_fit(text in "[a-z漢 ]{0,60}", columns in 2_usize..30) {
            let lines = wrapped(&text, columns);
            prop_assert!(lines.iter().all(|l| width(l) <= columns), "{lines:?}");
            let without = |t: &str| t.replace(' ', "");
            prop_assert_eq!(without(&lines.concat()), without(&text));
        }

        #[test]
        fn sparklines_have_the_width_asked_for(
            values in prop::collection::vec(prop::option::of(any::<f64>()), 0..40), cells in 0_usize..30
        ) {
            prop_assert_eq!(width(&spark(&values, cells, None)), cells);
        }

        #[test]
        fn bars_have_the_width_asked_for(fraction in any::<f64>(), cells in 0_usize..50) {
            prop_assert_eq!(width(&bar(fraction, cells)), cells);
        }
    }
}
