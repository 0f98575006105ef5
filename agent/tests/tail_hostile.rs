//! What hostile or unlucky files can do to the tailer: nothing much.

#![expect(clippy::unwrap_used, reason = "tests")]

mod tail_rig;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_agent::tail::{Checkpoint, CheckpointStore};
use tail_rig::{Rig, append, thread_seconds};

#[test]
fn lines_at_the_limit_and_at_the_ends_of_chunks_are_cut_or_kept_right() {
    let mut rig = Rig::new("*.log");
    let lengths = [16383, 16384, 16385, 262_143, 262_144, 262_145, 1, 0, 500_000, 245_758, 7];
    for (n, length) in (0u8..).zip(lengths) {
        append(&rig.path("a.log"), &format!("{}\n", char::from(b'a' + n).to_string().repeat(length)));
    }
    rig.turn();
    let got: Vec<_> = rig.recorded().map(|l| (l.line.len(), l.truncated)).collect();
    let want: Vec<_> = lengths.iter().map(|l| ((*l).min(16384), *l > 16384)).collect();
    assert_eq!(got, want);
    let mut offset = 0;
    for (line, length) in rig.recorded().zip(lengths) {
        assert_eq!(line.offset, offset);
        offset += length as u64 + 1;
    }
}

#[test]
fn ten_thousand_files_are_followed_within_the_limit_and_the_rest_is_said() {
    let mut rig = Rig::new("*/*.log");
    rig.config.max_files = 800;
    for n in 0..10_000 {
        if n % 1000 == 0 {
            fs::create_dir(rig.path(&format!("{}", n / 1000))).unwrap();
        }
        append(&rig.path(&format!("{}/{n}.log", n / 1000)), "line\n");
    }
    let before = thread_seconds();
    rig.turn();
    let took = thread_seconds() - before;
    assert!(took < 20.0, "{took} s of one core");
    assert_eq!(rig.lines().len(), 800);
    assert_eq!(rig.tailer.as_ref().unwrap().stats().open_files, 800);
    let problems = rig.problems();
    assert!(!problems.is_empty() && problems.len() <= 1100, "{}", problems.len());
    rig.turn();
    assert_eq!(rig.problems().len(), problems.len(), "each is said once");
}

#[test]
fn fifos_links_and_folders_are_said_once_and_never_opened() {
    let mut rig = Rig::new("*.log");
    rig.config.link_roots = Vec::new();
    let fifo = rig.path("fifo.log");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success(), "mkfifo is needed");
    fs::create_dir(rig.path("dir.log")).unwrap();
    symlink("loop.log", rig.path("loop.log")).unwrap();
    symlink("/etc/passwd", rig.path("passwd.log")).unwrap();
    symlink("/dev/zero", rig.path("zero.log")).unwrap();
    fs::create_dir(rig.path("real")).unwrap();
    rig.append("real/target", "through a link\n");
    symlink("real/target", rig.path("good.log")).unwrap();
    for _ in 0..3 {
        rig.turn();
    }
    assert_eq!(rig.lines(), ["through a link"]);
    let problems = rig.problems().join("\n");
    for needle in [
        "fifo.log: is not a regular file",
        "loop.log: ",
        "passwd.log: leads to /etc/passwd",
        "zero.log: is not",
    ] {
        assert_eq!(problems.matches(needle).count(), 1, "{needle} in\n{problems}");
    }
    assert_eq!(rig.problems().len(), 4);
}

#[test]
fn a_file_that_may_not_be_read_is_said_once_and_tried_again_later() {
    // The right to read is dropped for this thread alone, so that other tests keep it.
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "secret\n");
    fs::set_permissions(rig.path("a.log"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    fs::set_permissions(rig.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // SAFETY: setfsuid takes a number and touches no memory; it is undone below, on this thread.
    unsafe { libc::setfsuid(65534) };
    for _ in 0..3 {
        rig.turn();
    }
    // SAFETY: as above.
    unsafe { libc::setfsuid(0) };
    let problems = rig.problems();
    assert!(problems.len() == 1 && problems[0].contains("Permission denied"), "{problems:?}");
    rig.turn();
    assert_eq!(rig.lines().len(), 0);
    rig.turn_after(Duration::from_secs(31));
    assert_eq!(rig.lines(), ["secret"]);
}

#[test]
fn binary_lines_come_as_they_are() {
    let mut rig = Rig::new("*.log");
    let mut bytes: Vec<u8> = (0..=255).filter(|b| *b != b'\n').collect();
    bytes.extend_from_slice(b"\nHIT \xff\x00\n");
    fs::write(rig.path("a.log"), &bytes).unwrap();
    rig.turn();
    let lines: Vec<_> = rig.recorded().map(|l| l.line.clone()).collect();
    assert_eq!(lines, [bytes[..255].to_vec(), b"HIT \xff\x00".to_vec()]);
}

/// A tmpfs of `size`, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        assert!(
            mounted.unwrap().success(),
            "mounting a tmpfs failed: this test needs root and CAP_SYS_ADMIN"
        );
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn checkpoints_are_saved_with_no_byte_free() {
    let disk = Tmpfs::new("512k");
    let path = disk.path().join("tail-checkpoint.json");
    let (mut store, _) = CheckpointStore::open(&path, 64 * 1024).unwrap();
    let fill = fs::File::create(disk.path().join("fill")).unwrap();
    let mut at = 0;
    while fill.write_at(&[1; 4096], at).is_ok_and(|n| n > 0) {
        at += 4096;
    }
    assert_eq!(rustix::fs::statvfs(disk.path()).unwrap().f_bavail, 0);
    for n in 1..=20 {
        let checkpoint = checkpoint(n);
        store.save(&checkpoint).unwrap();
        assert_eq!(CheckpointStore::open(&path, 64 * 1024).unwrap().1, Some(checkpoint));
    }
    // A first start with no room is refused, not half done.
    let error = CheckpointStore::open(&disk.path().join("other"), 64 * 1024).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 2);
}

fn checkpoint(offset: u64) -> Checkpoint {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "line\n");
    rig.turn();
    let mut checkpoint = rig.commit();
    checkpoint.files[0].offset = offset;
    checkpoint
}
