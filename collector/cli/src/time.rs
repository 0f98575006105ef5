//! Times as people type them, and as dogwatch prints them.
//!
//! Arguments follow journalctl: `1h`, `-1h`, `1h ago`, `+5min`, `2026-11-21 02:10`, `02:10`, RFC 3339, `@1795227000`,
//! `now`, `today`, `yesterday`, `tomorrow`. A time without a zone is UTC, because everything that dogwatch prints is. Other than
//! with journalctl, a time of day is the last one that was: soon after midnight, 23:50 is yesterday's.
//!
//! Deliberately absent: time zone names and calendar arithmetic (months have no length).

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// Forms that are understood, for error messages.
const FORMS: &str = "write 1h, \"1h ago\", 2026-11-21, \"2026-11-21 02:10\", 02:10, 2026-11-21T02:10:00Z, today, \
                     yesterday or now (times without a zone are UTC)";

/// A moment in nanoseconds since the Unix epoch; serialises as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Utc(pub(crate) i64);

impl Utc {
    /// `None` for 0, which on the wire means "not known".
    pub(crate) fn known(wall_ns: i64) -> Option<Self> {
        (wall_ns != 0).then_some(Self(wall_ns))
    }

    /// RFC 3339 to the second, as tables show it.
    pub(crate) fn to_the_second(self) -> String {
        Timestamp::from_second(self.0.div_euclid(SECOND_NS))
            .map_or_else(|_| self.0.to_string(), |t| t.to_string())
    }

    /// RFC 3339 with every digit that is not zero.
    pub(crate) fn exact(self) -> String {
        Timestamp::from_nanosecond(i128::from(self.0)).map_or_else(|_| self.0.to_string(), |t| t.to_string())
    }
}

impl Serialize for Utc {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.exact())
    }
}

/// The moment that `text` names, as ns since the epoch. A bare span (`1h`) lies in the past, and so does a time of day.
pub(crate) fn parse(text: &str, now_ns: i64) -> Result<i64, String> {
    let t = text.trim();
    let midnight = now_ns.div_euclid(DAY_NS).saturating_mul(DAY_NS);
    match t.to_ascii_lowercase().as_str() {
        "now" => return Ok(now_ns),
        "today" => return Ok(midnight),
        "yesterday" => return Ok(midnight.saturating_sub(DAY_NS)),
        "tomorrow" => return Ok(midnight.saturating_add(DAY_NS)),
        _ => {}
    }
    absolute(t, now_ns, midnight)
        .or_else(|| relative(t, now_ns))
        .ok_or_else(|| format!("time {text:?} is not understood: {FORMS}"))
}

/// A length of time: `30s`, `1h30m`, `2 days`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let t = text.trim();
    let ns = if !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()) {
        t.parse::<u64>().ok().and_then(|s| s.checked_mul(SECOND_NS as u64))
    } else {
        span_ns(t).and_then(|ns| u64::try_from(ns).ok())
    };
    ns.map(Duration::from_nanos)
        .ok_or_else(|| format!("{text:?} is not a length of time: write 500ms, 30s, 5min or 1h30m"))
}

/// Seconds in words of at most two units, as `3 h 20 min`.
pub(crate) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    let s = seconds.min(1e12) as u64;
    match s {
        ..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

fn two(a: u64, unit: &str, b: u64, lesser: &str) -> String {
    if b == 0 { format!("{a} {unit}") } else { format!("{a} {unit} {b} {lesser}") }
}

fn absolute(t: &str, now_ns: i64, midnight_ns: i64) -> Option<i64> {
    if let Some(seconds) = t.strip_prefix('@') {
        return seconds.parse::<i64>().ok()?.checked_mul(SECOND_NS);
    }
    if let Ok(stamp) = t.parse::<Timestamp>() {
        return ns(stamp);
    }
    let t = t.strip_suffix(" UTC").unwrap_or(t);
    if t.len() <= 10
        && let Ok(date) = t.parse::<Date>()
    {
        return civil(date.at(0, 0, 0, 0));
    }
    if t.contains('-')
        && let Ok(at) = t.parse::<DateTime>()
    {
        return civil(at);
    }
    if t.contains(':')
        && !t.contains('-')
        && let Ok(time) = t.parse::<Time>()
    {
        let since_midnight = time.duration_since(Time::midnight()).as_nanos();
        let today = midnight_ns.checked_add(i64::try_from(since_midnight).ok()?)?;
        return if today > now_ns { today.checked_sub(DAY_NS) } else { Some(today) };
    }
    None
}

fn civil(at: DateTime) -> Option<i64> {
    ns(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn ns(stamp: Timestamp) -> Option<i64> {
    i64::try_from(stamp.as_nanosecond()).ok()
}

fn relative(t: &str, now_ns: i64) -> Option<i64> {
    if let Some(ahead) = t.strip_prefix('+') {
        return now_ns.checked_add(span_ns(ahead)?);
    }
    let back = t.strip_prefix('-').unwrap_or(t);
    let back = if t.len() == back.len() { back.strip_suffix("ago").unwrap_or(back) } else { back };
    now_ns.checked_sub(span_ns(back)?)
}

/// Nanoseconds of one or more numbers with units: `1h`, `1h30m`, `2 days`, `1.5h`.
fn span_ns(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|n| *n > 0)?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(letters);
        let unit_ns = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => SECOND_NS,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND_NS,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * SECOND_NS,
            "d" | "day" | "days" => DAY_NS,
            "w" | "week" | "weeks" => 7 * DAY_NS,
            _ => return None,
        };
        let part = match number.parse::<i64>() {
            Ok(n) => n.checked_mul(unit_ns)?,
            Err(_) => {
                let n = number.parse::<f64>().ok()? * unit_ns as f64;
                (n.is_finite() && n < i64::MAX as f64).then_some(n as i64)?
            }
        };
        total = total.checked_add(part)?;
        rest = next.trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-21T02:10:00Z.
    const NOW: i64 = 1_795_227_000 * SECOND_NS;

    #[test]
    fn times_are_read_as_journalctl_reads_them() {
        for (text, expected) in [
            ("now", "2026-11-21T02:10:00Z"),
            ("today", "2026-11-21T00:00:00Z"),
            ("Yesterday", "2026-11-20T00:00:00Z"),
            ("tomorrow", "2026-11-22T00:00:00Z"),
            ("1h", "2026-11-21T01:10:00Z"),
            ("-1h", "2026-11-21T01:10:00Z"),
            ("1h ago", "2026-11-21T01:10:00Z"),
            (" 1 hour ago ", "2026-11-21T01:10:00Z"),
            ("1h30m", "2026-11-21T00:40:00Z"),
            ("1.5h", "2026-11-21T00:40:00Z"),
            ("2 days", "2026-11-19T02:10:00Z"),
            ("1w 1d ago", "2026-11-13T02:10:00Z"),
            ("+10min", "2026-11-21T02:20:00Z"),
            ("500ms", "2026-11-21T02:09:59.5Z"),
            ("2026-11-21 02:10", "2026-11-21T02:10:00Z"),
            ("2026-11-21 02:10:30", "2026-11-21T02:10:30Z"),
            ("2026-11-21T02:10", "2026-11-21T02:10:00Z"),
            ("2026-11-21 02:10 UTC", "2026-11-21T02:10:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("01:05", "2026-11-21T01:05:00Z"),
            ("01:05:06", "2026-11-21T01:05:06Z"),
            ("02:10", "2026-11-21T02:10:00Z"),
            ("02:10:01", "2026-11-20T02:10:01Z"),
            ("23:50", "2026-11-20T23:50:00Z"),
            ("2026-11-21T03:10:00+01:00", "2026-11-21T02:10:00Z"),
            ("2026-11-21T02:10:00.25Z", "2026-11-21T02:10:00.25Z"),
            ("@1795227000", "2026-11-21T02:10:00Z"),
        ] {
            assert_eq!(parse(text, NOW).map(|t| Utc(t).exact()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_forms() {
        for text in [
            "",
            "-",
            "ago",
            "1",
            "h",
            "1x",
            "1h 5",
            "--1h",
            "-1h ago",
            "+",
            "2026-13-01",
            "2026-02-30 01:00",
            "25:00",
            "99999999999999999999h",
            "1e400h",
            "@",
            "@9999999999999999",
            "noon",
            "2026-11-21 02:10 CET",
            "1M",
        ] {
            let refused = parse(text, NOW).unwrap_err();
            assert!(refused.contains("yesterday or now"), "{text}: {refused}");
        }
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "-3s", "fast", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let words: Vec<_> = [0.4, 59.0, 61.0, 3_600.0, 12_000.0, 180_000.0, f64::NAN].map(span).into();
        assert_eq!(words, ["0 s", "59 s", "1 min 1 s", "1 h", "3 h 20 min", "2 d 2 h", "-"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", now in any::<i64>()) {
            let _ = parse(&text, now);
            let _ = duration(&text);
        }

        #[test]
        fn what_is_printed_is_read_back(ns in -2_000_000_000_000_000_000_i64..8_000_000_000_000_000_000) {
            prop_assert_eq!(parse(&Utc(ns).exact(), NOW), Ok(ns));
        }

        #[test]
        fn a_span_back_and_ahead_are_mirrored(n in 0_i64..10_000, unit in "(s|min|h|d|w)") {
            let back = NOW - parse(&format!("{n}{unit}"), NOW).unwrap();
            let ahead = parse(&format!("+{n}{unit}"), NOW).unwrap() - NOW;
            prop_assert_eq!(back, ahead);
        }
    }
}
