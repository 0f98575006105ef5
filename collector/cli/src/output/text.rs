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
        fn bars_have_the_width_asked_for(fraction in any::<f64>(), cells in 0_usize..50) {
            prop_assert_eq!(width(&bar(fraction, cells)), cells);
        }
    }
}
