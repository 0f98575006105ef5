use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;

fn of(found: &OpenFiles, inode: u64) -> Vec<&OpenFile> {
    found.files.iter().filter(|f| f.inode == inode && f.pid == std::process::id()).collect()
}

#[test]
fn what_is_written_and_what_is_deleted_is_found_and_the_rest_left_out() {
    let temp = TempDir::new().unwrap();
    let mut written = File::create(temp.path().join("written")).unwrap();
    written.write_all(&[1; 100_000]).unwrap();
    written.sync_all().unwrap();
    fs::write(temp.path().join("gone"), vec![1u8; 50_000]).unwrap();
    let gone = File::open(temp.path().join("gone")).unwrap();
    fs::remove_file(temp.path().join("gone")).unwrap();
    let read = File::open(temp.path().join("written")).unwrap();
    let facts = written.metadata().unwrap();
    let found = scan(Path::new("/proc"), Path::new("/"), facts.dev());
    let mine = of(&found, facts.ino());
    assert_eq!(mine.len(), 1, "open for reading is no writing: {mine:?}");
    assert!(mine[0].is_written && !mine[0].is_deleted && mine[0].born_ns.is_some(), "{mine:?}");
    assert_eq!((mine[0].bytes, &mine[0].path), (facts.blocks() * 512, &temp.path().join("written")));
    let deleted = of(&found, gone.metadata().unwrap().ino());
    assert!(deleted[0].is_deleted && !deleted[0].is_written, "{deleted:?}");
    assert_eq!(deleted[0].path, temp.path().join("gone"));
    drop(read);
    // Of another filesystem there is nothing.
    let other = fs::metadata("/proc").unwrap().dev();
    assert_eq!(of(&scan(Path::new("/proc"), Path::new("/"), other), facts.ino()), Vec::<&OpenFile>::new());
}

/// A process in a mount namespace of its own, on an overlay as a container's is.
struct Contained(Child);

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_container_writes_to_what_is_beneath_its_overlay() {
    let temp = TempDir::new().unwrap();
    for folder in ["lower", "upper", "work", "merged"] {
        fs::create_dir(temp.path().join(folder)).unwrap();
    }
    // The namespace ends with the process, and the mount with the namespace.
    let script = "mount -t overlay overlay -o lowerdir=lower,upperdir=$PWD/upper,workdir=work merged && cd merged && \
                  exec 7>spam && head -c 300000 /dev/zero >&7 && sync -f spam && echo ready && exec sleep 600";
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .current_dir(temp.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut contained = Contained(child);
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(contained.0.stdout.take().unwrap()), &mut said)
        .unwrap();
    assert_eq!(said, "ready\n", "these tests mount filesystems: run them as root");
    let beneath = fs::metadata(temp.path().join("upper/spam")).unwrap();
    let found = scan(Path::new("/proc"), Path::new("/"), beneath.dev());
    let its: Vec<_> = found.files.iter().filter(|f| f.pid == contained.0.id()).collect();
    assert_eq!(its.len(), 1, "{its:?}");
    assert_eq!(its[0].upper.as_deref(), Some(temp.path().join("upper").as_path()));
    assert!(its[0].path.ends_with("spam") && its[0].bytes >= 300_000, "{its:?}");
}

#[test]
fn a_process_is_named_with_its_group() {
    let me = holder(Path::new("/proc"), std::process::id()).unwrap();
    assert!(!me.name.is_empty() && me.cgroup.starts_with('/'), "{me:?}");
    assert_eq!(holder(Path::new("/proc"), u32::MAX), None);
}

#[test]
fn garbage_costs_nothing_else() {
    let temp = TempDir::new().unwrap();
    fs::create_dir_all(temp.path().join("17/fd")).unwrap();
    fs::write(temp.path().join("17/fd/0"), "no link").unwrap();
    fs::write(temp.path().join("18"), "no folder").unwrap();
    fs::create_dir_all(temp.path().join("x")).unwrap();
    std::os::unix::fs::symlink("/nowhere", temp.path().join("17/fd/1")).unwrap();
    let device = fs::metadata(temp.path()).unwrap().dev();
    let found = scan(temp.path(), Path::new("/"), device);
    assert!(found.incomplete.unwrap().contains("process 18"));
    let none = scan(&temp.path().join("none"), Path::new("/"), device);
    assert!(none.files.is_empty() && none.incomplete.unwrap().contains("cannot be listed"));
}
