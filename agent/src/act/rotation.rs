//! What a rotation does to a name: which log a rotated file came from, and which of its kin are the newest.

use std::collections::{HashMap, HashSet};

/// Of one folder's files (name, modification time), the names that stay because they are among the `keep` newest
/// of their family; of equals, the name that sorts last. One whose time `is_ahead` of the clock may be older than the rest: it
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
            logs.sort_unstable_by(|a, b| b.cmp(a));
            let ahead = if keep == 0 { 0 } else { logs.iter().filter(|(at, _)| is_ahead(*at)).count() };
            logs.into_iter().take(keep.saturating_add(ahead)).map(|(_, name)| name)
        })
        .collect()
}

/// The log that a rotated name came from: its rotation's mark (and compression) taken off. Logs of one name are a
/// family, of which the newest stay.
pub(super) fn family(name: &[u8]) -> &[u8] {
    let bare = strip_compression(name);
    let bare = bare.strip_suffix(b".old").unwrap_or(bare);
    // A year begins the mark of most dated names, wherever it stands (app-2024-06-12T10.log, app.log.2024-06-12).
    let dated = (1..bare.len().saturating_sub(3)).find(|&i| {
        matches!(&bare[i..i + 2], b"19" | b"20")
            && bare[i..i + 4].iter().all(u8::is_ascii_digit)
            && !bare[i - 1].is_ascii_alphanumeric()
    });
    let stem = match dated {
        Some(i) => &bare[..i - 1],
        None => {
            let mark = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b':');
            &bare[..bare.iter().rposition(|b| !mark(b)).map_or(0, |i| i + 1)]
        }
    };
    if stem.is_empty() { name } else { stem }
}

/// The live log's name that a sibling pattern demands: `syslog` for `syslog.2.gz`, `messages` for `messages-20240612`.
pub(super) fn live_name(name: &[u8]) -> Option<&[u8]> {
    let bare = strip_compression(name);
    let stem = match bare.strip_suffix(b".old") {
        Some(stem) => stem,
        None => {
            let digits = bare.iter().rev().take_while(|b| b.is_ascii_digit()).count();
            let stem = &bare[..bare.len() - digits];
            stem.strip_suffix(b".").or_else(|| stem.strip_suffix(b"-"))?
        }
    };
    (!stem.is_empty() && stem.len() < name.len()).then_some(stem)
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
            ("Xorg.0.log.old", "Xorg.0.log"),
            ("1.1", "1.1"),
        ] {
            assert_eq!(family(name.as_bytes()), log.as_bytes(), "{name}");
        }
    }
}
