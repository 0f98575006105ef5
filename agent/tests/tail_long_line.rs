//! A line without an end takes bounded memory and time. In a process of its own, since memory is counted by process.

#![expect(clippy::unwrap_used, reason = "tests")]

mod tail_rig;

use std::fs;
use std::os::unix::fs::FileExt;

use tail_rig::{Rig, thread_seconds};

/// What this process takes of memory by a line of its status.
fn memory_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_line_of_256_mebibytes_of_nuls_takes_bounded_memory_and_time() {
    const LONG: u64 = 256 << 20;
    let mut rig = Rig::new("*.log");
    rig.config.max_backlog_bytes = u64::MAX;
    let file = fs::File::create(rig.path("a.log")).unwrap();
    file.write_all_at(b"before\n", 0).unwrap();
    // Written, since a hole would be told as a gap.
    let nuls = vec![0; 1 << 20];
    (0..LONG >> 20).for_each(|n| file.write_all_at(&nuls, 7 + (n << 20)).unwrap());
    file.write_all_at(b"\nHIT after\n", LONG + 7).unwrap();
    let (memory, before) = (memory_bytes("VmRSS:"), thread_seconds());
    rig.turn();
    let took = thread_seconds() - before;
    assert!(took < 20.0, "{took} s of one core");
    let most = memory_bytes("VmHWM:");
    assert!(most.saturating_sub(memory) < 32 << 20, "from {memory} to {most}");
    let lines: Vec<_> = rig.recorded().map(|l| (l.offset, l.line.len(), l.truncated)).collect();
    assert_eq!(lines, [(0, 6, false), (7, 16384, true), (LONG + 8, 9, false)]);
    // A restart within the long line does not hand it on twice.
    let journaled = rig.journaled();
    let checkpoint = rig.commit();
    rig.start(Some(checkpoint), journaled);
    rig.turn();
    assert_eq!(rig.lines().len(), 3);
}
