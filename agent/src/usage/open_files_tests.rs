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
    let found = scan(&Roots::default(), facts.dev());
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
    assert_eq!(of(&scan(&Roots::default(), other), facts.ino()), Vec::<&OpenFile>::new());
}

#[test]
fn a_process_that_writes_while_it_is_looked_at_is_looked_at_again() {
    let temp = TempDir::new().unwrap();
    let process = temp.path().join("77");
    fs::create_dir_all(process.join("fd")).unwrap();
    fs::create_dir(process.join("fdinfo")).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink(&file, process.join("fd/3")).unwrap();
    let stands_at = |process: &Path, bytes: u64| {
        fs::write(process.join("fdinfo/3"), format!("pos:\t{bytes}\nflags:\t02001\n")).unwrap();
    };
    // Whoever opens it next finds a new one.
    let offer = |process: &Path| {
        let (new, mode) = (process.join("new"), rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(CWD, &new, FileType::Fifo, mode, 0).unwrap();
        fs::rename(new, process.join("io")).unwrap();
    };
    offer(&process);
    let at = process.clone();
    std::thread::spawn(move || {
        for bytes in [1 << 20, 9 << 20, 9 << 20] {
            let mut io = File::options().write(true).open(at.join("io")).unwrap();
            offer(&at);
            // Whoever is told what it wrote finds its descriptor there from then on.
            stands_at(&at, bytes);
            write!(io, "rchar: 0\nwchar: {bytes}\nwrite_bytes: 0\n").unwrap();
        }
    });
    stands_at(&process, 0);
    let roots = Roots { proc: temp.path().to_owned(), ..Roots::default() };
    let found = scan(&roots, fs::metadata(&file).unwrap().dev());
    let traces: Vec<_> =
        found.files.iter().map(|f| (f.trace.position, f.trace.written.unwrap().called)).collect();
    assert_eq!(traces, [(Some(9 << 20), 9 << 20)]);
}

/// An overlay as the runtime mounts one for a container, and processes in mount namespaces of their own.
struct Contained {
    mount: PathBuf,
    children: Vec<Child>,
}

impl Contained {
    fn mount(at: &Path) -> Self {
        for folder in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(at.join(folder)).unwrap();
        }
        let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", at.display());
        let mount = at.join("merged");
        let done = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(&mount)
            .status()
            .unwrap();
        assert!(done.success(), "these tests mount filesystems: run them as root");
        Self { mount, children: Vec::new() }
    }

    /// Writes so many bytes to a file of the container's and keeps it open; the process.
    fn write(&mut self, file: &str, bytes: usize) -> u32 {
        let script = format!(
            "cd '{}' && exec 7>>{file} && head -c {bytes} /dev/zero >&7 && sync -f {file} && echo ready && exec sleep 600",
            self.mount.display()
        );
        self.run(&script)
    }

    fn run(&mut self, script: &str) -> u32 {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut said)
            .unwrap();
        let pid = child.id();
        self.children.push(child);
        assert_eq!(said, "ready\n");
        pid
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

#[test]
fn a_container_writes_to_what_is_beneath_its_overlay() {
    let temp = TempDir::new().unwrap();
    let mut contained = Contained::mount(temp.path());
    let pid = contained.write("spam", 300_000);
    let beneath = fs::metadata(temp.path().join("upper/spam")).unwrap();
    let found = scan(&Roots::default(), beneath.dev());
    // What the process inherited from this test, such as where its errors go, may be a file too.
    let its: Vec<_> = found.files.iter().filter(|f| f.pid == pid && f.upper.is_some()).collect();
    assert_eq!(its.len(), 1, "{its:?}");
    // What it is called beneath the overlay, not what the container calls it.
    assert_eq!(
        node_path(&Roots::default(), None, its[0], holder(Path::new("/proc"), pid).as_ref()),
        Some(temp.path().join("upper/spam"))
    );
    assert_eq!(its[0].upper.as_deref(), Some(temp.path().join("upper").as_path()));
    assert!(its[0].path.ends_with("spam") && its[0].bytes >= 300_000, "{its:?}");
    assert!(!holder(Path::new("/proc"), pid).unwrap().sees_the_host);
}

#[test]
fn copies_of_one_file_of_an_image_are_told_apart() {
    let temp = TempDir::new().unwrap();
    for n in ["a", "b"] {
        fs::create_dir(temp.path().join(n)).unwrap();
    }
    fs::create_dir(temp.path().join("a/lower")).unwrap();
    fs::write(temp.path().join("a/lower/app.log"), "shipped").unwrap();
    std::os::unix::fs::symlink(temp.path().join("a/lower"), temp.path().join("b/lower")).unwrap();
    let (mut one, mut other) =
        (Contained::mount(&temp.path().join("a")), Contained::mount(&temp.path().join("b")));
    let pids = [one.write("app.log", 100_000), other.write("app.log", 900_000)];
    let device = fs::metadata(temp.path()).unwrap().dev();
    let found = scan(&Roots::default(), device);
    let ids: std::collections::BTreeSet<_> = found
        .files
        .iter()
        .filter(|f| pids.contains(&f.pid) && f.upper.is_some())
        .map(|f| (f.device, f.inode))
        .collect();
    assert_eq!(ids.len(), 2, "{:?}", found.files);
}

#[test]
fn an_overlay_that_a_process_made_for_itself_is_nobodys() {
    let temp = TempDir::new().unwrap();
    let folder = temp.path().display();
    let mut contained = Contained::mount(&temp.path().join("real"));
    let script = format!(
        "cd '{folder}' && mkdir lower upper work merged && mount -t overlay overlay -o \
         lowerdir=lower,upperdir={folder}/upper,workdir=work merged && cd merged && exec 7>spam && echo x >&7 && echo ready && \
         exec sleep 600"
    );
    let pid = contained.run(&script);
    let found = scan(&Roots::default(), fs::metadata(temp.path()).unwrap().dev());
    assert_eq!(found.files.iter().filter(|f| f.pid == pid && f.path.ends_with("spam")).count(), 0);
}

#[test]
fn a_name_that_leads_elsewhere_on_the_node_is_not_its_name() {
    let temp = TempDir::new().unwrap();
    let (volume, data) = (temp.path().join("volume"), temp.path().join("data"));
    for folder in [&volume, &data] {
        fs::create_dir(folder).unwrap();
    }
    // The node has a file of the same name where the process sees its volume.
    fs::write(data.join("log"), "another").unwrap();
    let mut contained = Contained::mount(&temp.path().join("real"));
    let script = format!(
        "mount --bind '{}' '{}' && exec 7>'{}/log' && echo x >&7 && echo ready && exec sleep 600",
        volume.display(),
        data.display(),
        data.display()
    );
    let pid = contained.run(&script);
    let found = scan(&Roots::default(), fs::metadata(temp.path()).unwrap().dev());
    let its = found.files.iter().find(|f| f.pid == pid && f.path.ends_with("log")).unwrap();
    assert_eq!(its.path, data.join("log"));
    let who = holder(Path::new("/proc"), pid);
    assert_eq!(node_path(&Roots::default(), None, its, who.as_ref()), Some(volume.join("log")));
    // Renamed since it was looked at: what it is called now is unknown.
    fs::rename(volume.join("log"), volume.join("other")).unwrap();
    assert_eq!(node_path(&Roots::default(), None, its, who.as_ref()), None);
}

#[test]
fn a_process_is_named_with_its_group() {
    let me = holder(Path::new("/proc"), std::process::id()).unwrap();
    assert!(!me.name.is_empty() && me.cgroup.starts_with('/') && me.program.is_some(), "{me:?}");
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
    let roots =
        Roots { proc: temp.path().to_owned(), mountinfo: temp.path().join("none"), ..Roots::default() };
    let found = scan(&roots, device);
    assert!(found.incomplete.unwrap().contains("process 18"));
    let none = scan(&Roots { proc: temp.path().join("none"), ..roots }, device);
    assert!(none.files.is_empty() && none.incomplete.unwrap().contains("cannot be listed"));
}

#[test]
fn what_is_written_in_any_subvolume_of_a_btrfs_fills_it() {
    crate::own_mounts::in_own_mounts(|at| {
        let btrfs = crate::own_mounts::Btrfs::new(at);
        let nested = btrfs.subvolume("nested");
        let roots = Roots { mountinfo: "/proc/thread-self/mountinfo".into(), ..Roots::default() };
        let written =
            [&btrfs.whole, &nested, &btrfs.own].map(|folder| File::create(folder.join("log")).unwrap());
        let st_devs: Vec<u64> = written.iter().map(|f| f.metadata().unwrap().dev()).collect();
        // By another process, since this thread has descriptors of its own.
        let mut writer = std::process::Command::new("sleep");
        let [one, two, three] = written;
        let mut writer = writer.arg("600").stdin(one).stdout(two).stderr(three).spawn().unwrap();
        for place in [&btrfs.whole, &nested, &btrfs.own] {
            let number = crate::sample::superblock::of_path(place).unwrap();
            assert!(!st_devs.contains(&number), "{number} {st_devs:?}");
            let found = scan(&roots, number);
            let mut seen: Vec<u64> = found.files.iter().map(|f| f.device).collect();
            seen.sort_unstable();
            let mut all = st_devs.clone();
            all.sort_unstable();
            assert_eq!(seen, all, "{found:?}");
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
    });
}
