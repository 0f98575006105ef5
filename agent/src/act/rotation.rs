//! What a rotation does to a name: which log a rotated file came from, and which of its kin are the newest.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// Of one folder's files (name, modification time), the names that stay because they are among the `keep` newest
/// of their family; of equals, the one with the lowest rotation's number, then the name that sorts last. One whose time `is_ahead` of the clock may be older than the rest: it
/// stays besides them and takes nobody's place.
pub(super) fn newest_of_each_family<'n>(
    members: impl IntoIterator<Item = (&'n [u8], i64)>,
    keep: u32,
    is_ahead: impl Fn(i64) -> bool,
    family: impl Fn(&'n [u8]) -> &'n [u8],
) -> HashSet<&'n [u8]> {
    let mut families: HashMap<&[u8], Vec<(i64, &[u8])>> = HashMap::new();
    for (name, mtime_ns) in members {
        families.entry(family(name)).or_default().push((mtime_ns, name));
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    families
        .into_values()
        .flat_map(|mut logs| {
            let newer = |(at, name): &(i64, &'n [u8])| (Reverse(*at), rotations(name), Reverse(*name));
            logs.sort_unstable_by_key(newer);
            let ahead = if keep == 0 { 0 } else { logs.iter().filter(|(at, _)| is_ahead(*at)).count() };
            logs.into_iter().take(keep.saturating_add(ahead)).map(|(_, name)| name)
        })
        .collect()
}

/// How often a name was rotated, where that is in it: `app.log.12.gz`. A longer number is a date or a time.
fn rotations(name: &[u8]) -> u32 {
    let bare = strip_compression(name);
    let (stem, number) = bare.split_at(bare.len() - digits_at_end(bare));
    if !stem.ends_with(b".") || number.len() > 3 {
        return 0;
    }
    number.iter().fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))
}

/// The log that a rotated name came from: its rotation's mark (and compression) taken off. Logs of one name are a
/// family, of which the newest stay.
pub(super) fn family(name: &[u8]) -> &[u8] {
    let bare = strip_compression(name);
    let bare = bare.strip_suffix(b".old").unwrap_or(bare);
    // A year begins the mark of most dated names, wherever it stands (app-2024-06-12T10.log, app.log.2024-06-12).
    let dated = (1..bare.len()).find(|&i| !bare[i - 1].is_ascii_alphanumeric() && is_dated(&bare[i..]));
    let stem = match dated {
        Some(i) => &bare[..i - 1],
        // One number: those before it may be part of the log's own name.
        None => {
            let stem = without_number(bare, |_| true);
            // Behind a date without a year that leads it, of which it is the hour or the place: `app.log-12062024-14`.
            without_number(stem, |digits| digits == 8)
        }
    };
    if stem.is_empty() { name } else { stem }
}

/// A name without the number at its end and what separates it, where that `is` one, by how many digits it has.
fn without_number(name: &[u8], is: impl Fn(usize) -> bool) -> &[u8] {
    let digits = digits_at_end(name);
    let stem = &name[..name.len() - digits];
    let separated = [b".", b"-", b"_", b":"].iter().find_map(|mark| stem.strip_suffix(*mark));
    separated.filter(|_| digits > 0 && is(digits)).unwrap_or(name)
}

/// A name without the compression and all numbers at its end: a core's pid and time (`core-nginx-4711-1718180000`).
pub(super) fn without_numbers(name: &[u8]) -> &[u8] {
    let bare = strip_compression(name);
    let mark = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b':');
    let stem = &bare[..bare.iter().rposition(|b| !mark(b)).map_or(0, |i| i + 1)];
    if stem.is_empty() { name } else { stem }
}

/// Whether it begins with a year and a month, or with day, month (in either order) and year. A year alone may be a port or a
/// shard (`redis-2001.log.1`).
fn is_dated(mark: &[u8]) -> bool {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if let [a, b, b'-' | b'_' | b'.', c, d, b'-' | b'_' | b'.', b'1' | b'2', b'9' | b'0', e, f, ..] = mark {
        return digits(&[*a, *b, *c, *d, *e, *f]);
    }
    let Some((year, rest)) = mark.split_at_checked(4) else { return false };
    let month = match rest {
        [b'-' | b'_', rest @ ..] => rest,
        // With its day: what stands behind one dot may be a rotation's number (`redis-2001.12`).
        [b'.', _, _, b'.', b'0'..=b'3', ..] => &rest[1..],
        _ => rest,
    };
    matches!(&year[..2], b"19" | b"20")
        && digits(year)
        && matches!(month, [b'0', b'1'..=b'9', ..] | [b'1', b'0'..=b'2', ..])
}

/// The live log's name that a sibling pattern demands: `syslog` for `syslog.2.gz`, `messages` for `messages-20240612`.
pub(super) fn live_name(name: &[u8]) -> Option<&[u8]> {
    let bare = strip_compression(name);
    let stem = match bare.strip_suffix(b".old") {
        Some(stem) => stem,
        None => {
            let stem = &bare[..bare.len() - digits_at_end(bare)];
            stem.strip_suffix(b".").or_else(|| stem.strip_suffix(b"-"))?
        }
    };
    (!stem.is_empty() && stem.len() < name.len()).then_some(stem)
}

fn digits_at_end(name: &[u8]) -> usize {
    name.iter().rev().take_while(|b| b.is_ascii_digit()).count()
}

fn strip_compression(name: &[u8]) -> &[u8] {
    [&b".gz"[..], b".bz2", b".xz", b".zst"].iter().find_map(|end| name.strip_suffix(*end)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_of_the_clock_stays_and_takes_no_place_among_the_newest() {
        let logs = [
            ("app.log.1", 40),
            ("app.log.2", 30),
            ("app.log.3", 20),
            ("ahead.log.1", 900),
            ("app.log.9", 950),
        ];
        let stays = |keep| {
            let members = logs.iter().map(|(name, mtime)| (name.as_bytes(), *mtime));
            let stays = newest_of_each_family(members, keep, |at| at > 100, family);
            let mut stays: Vec<&str> = stays.into_iter().map(|n| std::str::from_utf8(n).unwrap()).collect();
            stays.sort_unstable();
            stays
        };
        assert_eq!(stays(1), ["ahead.log.1", "app.log.1", "app.log.9"]);
        assert_eq!(stays(2), ["ahead.log.1", "app.log.1", "app.log.2", "app.log.9"]);
        assert_eq!(stays(0), [""; 0], "where none is kept, its age decides");
        let equal = ["app.log.10", "app.log.2.gz", "app.log.9", "syslog-20240612", "syslog-20240613"]
            .map(|n| (n.as_bytes(), 7));
        let mut stays: Vec<_> = newest_of_each_family(equal, 1, |_| false, family).into_iter().collect();
        stays.sort_unstable();
        assert_eq!(stays, [&b"app.log.2.gz"[..], b"syslog-20240613"], "of equal times");
    }

    #[test]
    fn names_of_one_log_are_one_family() {
        for (name, log) in [
            ("syslog.1", "syslog"),
            ("syslog.2.gz", "syslog"),
            ("app.log.10", "app.log"),
            ("app.log.2024-06-12", "app.log"),
            ("app.log-20240612.gz", "app.log"),
            ("0.log.20240612-101112.gz", "0.log"),
            ("app-2024-06-12T10-11-12.123.log.gz", "app"),
            ("worker-2.log.1", "worker-2.log"),
            ("app_2024_06.log.gz", "app"),
            ("app.2024.06.12.log.gz", "app"),
            ("app-06-12-2024-1.log.gz", "app"),
            ("app.log.12.06.2024", "app.log"),
            ("app.log-12062024-14", "app.log"),
            ("app.log-20240612-14.gz", "app.log"),
            ("redis-2001.12", "redis-2001"),
            ("redis-2001.12.gz", "redis-2001"),
            ("worker-2.1", "worker-2"),
            ("Xorg.0", "Xorg"),
            ("app.log.2024", "app.log"),
            ("redis-2001.log.1", "redis-2001.log"),
            ("redis-2002.log.1", "redis-2002.log"),
            ("worker-2049.log-20240612.gz", "worker-2049.log"),
            ("Xorg.0.log.old", "Xorg.0.log"),
            ("1.1", "1"),
            (".1", ".1"),
            ("7", "7"),
        ] {
            assert_eq!(family(name.as_bytes()), log.as_bytes(), "{name}");
        }
    }
}
