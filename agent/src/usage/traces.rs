//! What shows that a process that has a file open for writing is one that writes it.
//!
//! To have a file open proves nothing: a daemon keeps the log that scripts append to, a parent keeps what its children
//! write. Looked at are the position of the descriptor (`/proc/PID/fdinfo`, proc_pid_fdinfo(5)) and what the process has
//! written altogether (`/proc/PID/io`, proc_pid_io(5)), before and after.
//!
//! Pure but for [`of_descriptor`] and [`of_process`].
//!
//! Limits: what `fallocate`, a write through io_uring and, on a tmpfs, a write to a mapping give to a file is not counted
//! with its process; the process of such a file stays unknown. A process that writes at a place of its choosing
//! (pwrite(2), a mapping) leaves the descriptor's position alone: it is believed only where all that it wrote is about
//! what the file grew by, so that a large process with many files of that kind may stay unknown too.

use std::io::Read as _;
use std::path::Path;

/// Longest of the two files that is read; both have some ten short lines.
const MAX_BYTES: u64 = 4096;
/// Less than this share of a file's growth written is no part in it.
const SHARE: f64 = 0.1;
/// All writers together must have written this share of the growth, else who writes is unknown.
const MOST: f64 = 0.5;
/// A process whose descriptor stands still is believed up to this multiple of the growth.
const ALIKE: f64 = 2.0;

/// What a process has written in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Through system calls, in bytes.
    pub called: u64,
    /// Pages made dirty and direct writes, in bytes; none on a filesystem in memory.
    pub dirtied: u64,
}

/// What is known of a descriptor at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trace {
    /// Its number.
    pub descriptor: u32,
    /// Where it stands in the file, in bytes; `None`: not told.
    pub position: Option<u64>,
    /// Whether each write goes to the file's end.
    pub appends: bool,
    /// By its process; `None`: not told.
    pub written: Option<Written>,
}

/// The trace of descriptor number `descriptor` of the process in the folder `process`, without what the process wrote.
pub(super) fn of_descriptor(process: &Path, descriptor: u32) -> Trace {
    let mut trace = Trace { descriptor, ..Trace::default() };
    let Some(text) = read(&process.join("fdinfo").join(descriptor.to_string())) else { return trace };
    for line in text.lines() {
        if let Some(at) = line.strip_prefix("pos:") {
            trace.position = at.trim().parse().ok();
        } else if let Some(flags) = line.strip_prefix("flags:") {
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap_or(0);
            trace.appends = flags & libc::O_APPEND != 0;
        }
    }
    trace
}

/// What the process in the folder `process` has written.
pub(super) fn of_process(process: &Path) -> Option<Written> {
    let text = read(&process.join("io"))?;
    let figure = |name| text.lines().find_map(|l: &str| l.strip_prefix(name)?.trim().parse().ok());
    Some(Written { called: figure("wchar:")?, dirtied: figure("write_bytes:")? })
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// How much of a file's growth by `grew` bytes the process of a descriptor may have written. `before`: the same descriptor
/// on the same file at the first look; `process_before`: what the process had written then, `None`: it was not seen.
pub(super) fn part(before: Option<&Trace>, process_before: Option<Written>, after: &Trace, grew: u64) -> u64 {
    let (Some(written), Some(position)) = (after.written, after.position) else { return 0 };
    let was = process_before.unwrap_or_default();
    let called = written.called.saturating_sub(was.called);
    let dirtied = written.dirtied.saturating_sub(was.dirtied);
    let moved = position != before.and_then(|b| b.position).unwrap_or(0);
    if moved {
        return called.max(dirtied);
    }
    let alike = dirtied as f64 >= MOST * grew as f64 && dirtied as f64 <= ALIKE * grew as f64;
    // Of one that was not seen before, what it wrote in its life says nothing of now.
    if after.appends || process_before.is_none() || !alike { 0 } else { dirtied }
}

/// Those of `parts`, bytes that each may have written, that count as writers of a file that grew by `grew`.
pub(super) fn writers<T>(parts: Vec<(T, u64)>, grew: u64) -> Vec<T> {
    let grew = grew as f64;
    let of_weight: Vec<(T, u64)> =
        parts.into_iter().filter(|(_, bytes)| *bytes > 0 && *bytes as f64 >= SHARE * grew).collect();
    let all = of_weight.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if (all as f64) < MOST * grew {
        return Vec::new();
    }
    of_weight.into_iter().map(|(who, _)| who).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn trace(position: u64, appends: bool, called: u64, dirtied: u64) -> Trace {
        let written = Some(Written { called, dirtied });
        Trace { descriptor: 3, position: Some(position), appends, written }
    }

    fn part_of(before: &Trace, after: &Trace) -> u64 {
        part(Some(before), before.written, after, 5 * MIB)
    }

    #[test]
    fn a_descriptor_that_moves_is_written_by_whoever_wrote() {
        let was = trace(MIB, true, 10 * MIB, 10 * MIB);
        assert_eq!(part_of(&was, &trace(6 * MIB, true, 15 * MIB, 14 * MIB)), 5 * MIB);
        // Inherited: the position is shared, the writing is not.
        assert_eq!(part_of(&was, &trace(6 * MIB, true, 10 * MIB, 10 * MIB)), 0);
    }

    #[test]
    fn one_that_stands_still_is_idle_unless_its_process_dirties_as_much() {
        let was = trace(0, false, 0, 0);
        assert_eq!(part_of(&was, &trace(0, false, 0, 5 * MIB)), 5 * MIB);
        assert_eq!(part_of(&was, &trace(0, false, 90 * MIB, 90 * MIB)), 0);
        assert_eq!(part_of(&trace(7, true, 0, 0), &trace(7, true, 5 * MIB, 5 * MIB)), 0);
        assert_eq!(part(None, None, &trace(0, false, 5 * MIB, 5 * MIB), 5 * MIB), 0);
    }

    #[test]
    fn writers_must_account_for_most_of_it() {
        assert_eq!(writers(vec![("a", 3 * MIB), ("b", 2 * MIB), ("idle", 100)], 5 * MIB), ["a", "b"]);
        assert!(writers(vec![("a", MIB)], 5 * MIB).is_empty());
        assert!(writers(vec![("a", 0)], 0).is_empty());
    }

    #[test]
    fn the_kernel_tells_both() {
        use std::io::Write as _;
        use std::os::fd::AsRawFd as _;
        let mut file = tempfile::tempfile().unwrap();
        let me = Path::new("/proc/self");
        let before = of_process(me).unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        let trace = of_descriptor(me, file.as_raw_fd().unsigned_abs());
        assert_eq!((trace.position, trace.appends), (Some(100_000), false));
        assert!(of_process(me).unwrap().called >= before.called + 100_000);
    }
}
