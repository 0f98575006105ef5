//! `dogwatch-agent forecast FILE`: what the rule `disk-time-to-full` would have said, reading by reading, of a filesystem
//! whose history is in a file. The arithmetic is [`Outlook`]'s; here is the file.
//!
//! The file is CSV (RFC 4180, fields quoted or not): `time`, `available`, `capacity` in this order, or in that of a first line
//! that names them. Time is RFC 3339 or seconds since 1970 (a fraction is allowed) and rises from line to line; the others are bytes.
//! Empty lines are passed over. Printed is a heading and, for each row, its time as it stands there and the seconds until
//! nothing is available, or `-`.
//!
//! Limits: a line has at most [`MAX_LINE`] bytes; any number of them is read in constant memory. A quoted field ends on its
//! line: no figure has a line break in it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::detect::{ForecastConfig, Outlook};

/// Bytes of a line: three figures need fewer than a hundred.
const MAX_LINE: usize = 4_096;

/// The columns in the order of a file without a heading.
const COLUMNS: [&str; 3] = ["time", "available", "capacity"];

/// What is asked.
#[derive(Debug, Args)]
pub struct ForecastArgs {
    /// CSV with time (RFC 3339 or Unix seconds), available and capacity (bytes); `-` reads standard input.
    file: PathBuf,
}

/// Later than this (the year 5138) nobody measured anything: such a number is of milliseconds, or of less.
const LATEST: Duration = Duration::from_secs(100_000_000_000);

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("the answer cannot be written: {0}")]
    Write(io::Error),
    #[error("has no row of figures: write {}, one a line", COLUMNS.join(","))]
    Empty,
    #[error("line {line} is longer than {MAX_LINE} bytes: is this CSV?")]
    Long { line: u64 },
    #[error("line {line} has {found} columns, not {}: write {}", COLUMNS.len(), COLUMNS.join(","))]
    Columns { line: u64, found: usize },
    #[error("line {line}: {why}; write each field plainly, or in double quotes with nothing around them")]
    Quotes { line: u64, why: &'static str },
    #[error("line {line}, column {column}: {value:?} {why}")]
    Value { line: u64, column: &'static str, value: String, why: &'static str },
}

/// Answers on standard output, and gives the exit code: 0 done, 1 the file cannot be read or has a mistake, which is said.
pub fn main(config: &ForecastConfig, args: &ForecastArgs) -> ExitCode {
    let input: io::Result<Box<dyn Read>> = if args.file.as_os_str() == "-" {
        Ok(Box::new(io::stdin()))
    } else {
        File::open(&args.file).map(|f| Box::new(f) as Box<dyn Read>)
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let answered = match input {
        Ok(input) => answer(config, &mut BufReader::new(input), &mut out),
        Err(e) => Err(Problem::Read(e)),
    };
    match answered.and_then(|()| out.flush().map_err(Problem::Write)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the answer has seen enough.
        Err(Problem::Write(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            // What was answered before the mistake is an answer.
            let _ = out.flush();
            eprintln!("dogwatch-agent: {}: {e}", args.file.display());
            ExitCode::FAILURE
        }
    }
}

fn answer(config: &ForecastConfig, input: &mut impl BufRead, out: &mut impl Write) -> Result<(), Problem> {
    let mut outlook = Outlook::new(config.clone());
    let mut order = [0, 1, 2];
    let mut before: Option<Duration> = None;
    let mut text = Vec::new();
    writeln!(out, "time,seconds_to_full").map_err(Problem::Write)?;
    for line in 1u64.. {
        text.clear();
        let read = input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text);
        if read.map_err(Problem::Read)? == 0 {
            break;
        }
        if text.len() > MAX_LINE {
            return Err(Problem::Long { line });
        }
        let row = String::from_utf8_lossy(&text);
        let row = row.trim_start_matches('\u{feff}').trim();
        if row.is_empty() {
            continue;
        }
        let fields = fields(row).map_err(|why| Problem::Quotes { line, why })?;
        let found = fields.len();
        let Ok(fields) = <[Cow<'_, str>; COLUMNS.len()]>::try_from(fields) else {
            return Err(Problem::Columns { line, found });
        };
        let fields = fields.each_ref().map(|f| f.trim());
        if before.is_none()
            && let Some(named) = heading(&fields)
        {
            order = named;
            continue;
        }
        let wrong = |column: usize, why| Problem::Value {
            line,
            column: COLUMNS[column],
            value: fields[order[column]].to_owned(),
            why,
        };
        let at = time(fields[order[0]])
            .ok_or_else(|| wrong(0, "is neither an RFC 3339 time nor seconds since 1970"))?;
        if before.replace(at).is_some_and(|before| at <= before) {
            return Err(wrong(0, "is not later than the row before: sort the file, one filesystem in each"));
        }
        let bytes = |column: usize| {
            bytes(fields[order[column]]).ok_or_else(|| wrong(column, "is no number of bytes"))
        };
        let (available, capacity) = (bytes(1)?, bytes(2)?);
        if available > capacity {
            return Err(wrong(1, "is more than the capacity"));
        }
        let left = outlook.push(at, available, capacity);
        let left = left.map_or_else(|| "-".to_owned(), |left| format!("{:.0}", left.as_secs_f64()));
        writeln!(out, "{},{left}", fields[order[0]]).map_err(Problem::Write)?;
    }
    before.map(|_| ()).ok_or(Problem::Empty)
}

/// The fields of a line. Blanks around them do not count, and are no fault around quotes either.
fn fields(mut row: &str) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let mut fields = Vec::new();
    loop {
        let rest = match row.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let (field, rest) = unquoted(quoted)?;
                fields.push(field);
                rest.trim_start()
            }
            None => {
                let (field, rest) = row.split_at(row.find(',').unwrap_or(row.len()));
                if field.contains('"') {
                    return Err("a double quote stands in the middle of a field");
                }
                fields.push(Cow::Borrowed(field));
                rest
            }
        };
        match rest.strip_prefix(',') {
            Some(next) => row = next,
            None if rest.is_empty() => return Ok(fields),
            None => return Err("something stands behind a field's closing quote"),
        }
    }
}

/// What stands before the closing quote, and what behind it; two quotes are one that is meant.
fn unquoted(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let mut from = 0;
    while let Some(at) = text[from..].find('"').map(|at| from + at) {
        if text[at + 1..].starts_with('"') {
            from = at + 2;
            continue;
        }
        let (field, rest) = (&text[..at], &text[at + 1..]);
        let field = if from == 0 { Cow::Borrowed(field) } else { Cow::Owned(field.replace("\"\"", "\"")) };
        return Ok((field, rest));
    }
    Err("a quoted field does not end on its line")
}

/// Where each column stands, if these are the columns' names.
fn heading(fields: &[&str; COLUMNS.len()]) -> Option<[usize; COLUMNS.len()]> {
    let place = |name: &str| fields.iter().position(|f| f.eq_ignore_ascii_case(name));
    Some([place(COLUMNS[0])?, place(COLUMNS[1])?, place(COLUMNS[2])?])
}

/// Since 1970.
fn time(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().filter(|at| *at < LATEST);
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Duration::try_from(at.as_duration()).ok()
}

/// A number of bytes, as Prometheus prints it too (`4.9e+10`).
fn bytes(text: &str) -> Option<u64> {
    if let Ok(bytes) = text.parse::<u64>() {
        return Some(bytes);
    }
    let bytes = text.parse::<f64>().ok()?;
    (0.0..=u64::MAX as f64).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> (String, Option<String>) {
        let mut out = Vec::new();
        let result = answer(&ForecastConfig::default(), &mut text.as_bytes(), &mut out);
        (String::from_utf8(out).unwrap(), result.err().map(|e| e.to_string()))
    }

    #[test]
    fn a_file_without_figures_and_times_in_milliseconds_are_refused() {
        for text in ["", "\n\n", "time,available,capacity\n"] {
            assert!(ask(text).1.unwrap().contains("has no row of figures"), "{text:?}");
        }
        let said = ask("1700000010000,1,2\n").1.unwrap();
        assert!(said.contains("line 1, column time") && said.contains("seconds since 1970"), "{said}");
    }

    /// A row each `every` seconds of a fill of 1 GB in `fills_in`.
    fn fill(every: u64, fills_in: u64) -> Vec<(u64, u64)> {
        (0..fills_in / every)
            .map(|i| (i * every, 1_000_000_000 - 1_000_000_000 / fills_in * i * every))
            .collect()
    }

    #[test]
    fn each_row_has_its_answer() {
        for (every, fills_in) in [(1, 300), (15, 1_800), (60, 7_200)] {
            let rows = fill(every, fills_in);
            let text: String =
                rows.iter().map(|(t, a)| format!("{},{a},1000000000\n", 1_700_000_000 + t)).collect();
            let (out, error) = ask(&text);
            assert_eq!(error, None);
            let lines: Vec<&str> = out.lines().collect();
            assert_eq!((lines.len(), lines[0]), (rows.len() + 1, "time,seconds_to_full"));
            assert_eq!(lines[1], "1700000000,-");
            let (time, left) = lines[lines.len() * 2 / 3].split_once(',').unwrap();
            let truly = fills_in as f64 - (time.parse::<f64>().unwrap() - 1.7e9);
            let left: f64 = left.parse().unwrap();
            assert!((left - truly).abs() <= truly * 0.05, "each {every} s: {left} of {truly}");
        }
    }

    #[test]
    fn what_is_full_stays_so() {
        let text: String = (0..60)
            .map(|m| format!("{},{},100\n", 1_700_000_000 + m * 60, 30_u64.saturating_sub(m)))
            .collect();
        let (out, _) = ask(&text);
        let full: Vec<&str> = out.lines().skip(31).collect();
        assert!(full.len() == 30 && full.iter().all(|row| row.ends_with(",0")), "{out}");
    }

    #[test]
    fn times_numbers_and_columns_are_read_as_people_write_them() {
        let mut text = "\u{feff}Capacity, time ,available\r\n\r\n".to_owned();
        for (t, a) in fill(1, 300) {
            let time = jiff::Timestamp::from_second(1_700_000_000 + t as i64).unwrap();
            text += &format!("1e9,{time},{a}.0\r\n");
        }
        let (out, error) = ask(&text);
        assert_eq!(error, None);
        assert!(out.contains("\n2023-11-14T22:13:20Z,-\n"), "{out}");
        assert!(out.lines().last().unwrap().ends_with("Z,1"), "{out}");
    }

    #[test]
    fn quoted_fields_are_read_as_others() {
        let mut plain = "time,available,capacity\n".to_owned();
        let mut quoted = "\"time\",\"available\", \"capacity\" \r\n".to_owned();
        for (t, a) in fill(1, 300) {
            plain += &format!("{},{a},1000000000\n", 1_700_000_000 + t);
            quoted += &format!("\"{}\",{a},\"1000000000\"\r\n", 1_700_000_000 + t);
        }
        let expected = ask(&plain);
        assert_eq!(expected.1, None);
        assert_eq!(ask(&quoted), expected);
        assert_eq!(fields("\"a \"\"b\"\", c\",,\"\"").unwrap(), ["a \"b\", c", "", ""]);
        assert_eq!(fields("").unwrap(), [""]);
    }

    #[test]
    fn mistakes_name_line_and_column() {
        let long = "1".repeat(MAX_LINE + 1);
        for (text, says) in [
            ("1,2\n", "line 1 has 2 columns, not 3: write time,available,capacity"),
            ("time,available,capacity\n1,2,3,4\n", "line 2 has 4 columns"),
            ("1,1,2\nyesterday,1,2\n", "line 2, column time: \"yesterday\" is neither"),
            ("1,1,2\n1,1,2\n", "line 2, column time: \"1\" is not later"),
            ("-1,1,2\n", "line 1, column time: \"-1\""),
            ("nan,1,2\n", "line 1, column time: \"nan\""),
            ("1,x,2\n", "line 1, column available: \"x\" is no number"),
            ("available,capacity,time\n1,-2,3\n", "line 2, column capacity: \"-2\""),
            ("1,3,2\n", "line 1, column available: \"3\" is more than the capacity"),
            ("1,1,2\n\"2,1,2\n", "line 2: a quoted field does not end on its line"),
            ("1,\"1\"x,2\n", "line 1: something stands behind a field's closing quote"),
            ("1,1\"\",2\n", "line 1: a double quote stands in the middle of a field"),
            (&long, "line 1 is longer than 4096 bytes"),
        ] {
            let error = ask(text).1.unwrap_or_default();
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
    }
}
