//! Archived journals, made by a real journald and compared with what `journalctl` itself would vacuum.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dogwatch::record::ObjectOutcome;
use dogwatch_agent::act::policy::{Cleaner, RootPolicy};

use super::common::{folder, run};
use super::{Cleaning, files, paths, why};

/// A journald of its own in a mount namespace of its own: rotates thrice, is killed while it writes, and runs again, so
/// that there are active, archived and unclean files of the system and of a user. Fewer than 10,000 lines, or journald leaves out
/// the rest.
const JOURNALD: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log /var/log/journal
mount --bind "$1" /var/log/journal
S=/run/systemd/journal.dw
J=
trap '[ -z "$J" ] || kill -9 $J 2>/dev/null || true' EXIT
start() {
  /lib/systemd/systemd-journald dw 2>/dev/null & J=$!
  for i in $(seq 200); do journalctl --namespace=dw --sync 2>/dev/null && return; sleep 0.05; done
  echo "journald does not answer" >&2; exit 1
}
seq -f "line %010g that fills a journal with something to compress" 900 > /run/lines
write() {
  logger -u $S/dev-log -t t -f /run/lines
  setpriv --reuid=1000 logger -u $S/dev-log -t t -f /run/lines
  # Not by syncing: that does not wait for lines on their way, and closes files so that a kill leaves them clean.
  for i in $(seq 400); do
    last=$(journalctl --file "/var/log/journal/*/user-1000.journal" -q -n 1 -o cat 2>/dev/null)
    [ "$last" = "$(tail -n 1 /run/lines)" ] && return
    sleep 0.05
  done
  echo "lines do not arrive" >&2; exit 1
}
start
for i in 1 2 3; do write; journalctl --namespace=dw --rotate 2>/dev/null; done
write
kill -9 $J; wait $J || true
start
write
kill $J; wait $J || true; J=
"#;

/// A folder `journal` with one machine's files.
struct Journals {
    temp: tempfile::TempDir,
    machine: PathBuf,
}

impl Journals {
    fn new() -> Self {
        let temp = folder();
        let base = temp.path().join("journal");
        fs::create_dir(&base).unwrap();
        let made = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", JOURNALD, "sh"])
            .arg(&base)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(
            made.status.success(),
            "this test needs root, systemd-journald, journalctl and logger: {said}"
        );
        let machine = fs::read_dir(&base).unwrap().next().unwrap().unwrap().path();
        // An unclean file without an entry (`n_entries` of the header) `journalctl` removes at any size, and we do not.
        for path in files(&machine) {
            let head = fs::read(&path).unwrap();
            if path.to_str().unwrap().ends_with('~') && head[152..160].iter().all(|b| *b == 0) {
                fs::remove_file(path).unwrap();
            }
        }
        Self { temp, machine }
    }

    fn base(&self) -> PathBuf {
        self.temp.path().join("journal")
    }

    fn names(&self) -> BTreeSet<String> {
        names(&self.machine)
    }

    fn cleaning(&self, keep_bytes: u64) -> Cleaning {
        let root = RootPolicy::of(Cleaner::JournalArchives, self.base());
        Cleaning::of(RootPolicy { min_age_seconds: 0, keep_bytes, ..root })
    }

    /// What `journalctl` would leave of a copy.
    fn vacuumed(&self, keep_bytes: u64, round: usize) -> BTreeSet<String> {
        let peer = self.temp.path().join(format!("peer{round}"));
        run("cp", &["-a".as_ref(), self.machine.as_os_str(), peer.as_os_str()]);
        // 0 would mean no limit.
        let limit = keep_bytes.max(1);
        let directory = format!("--directory={}", peer.display());
        run("journalctl", &[directory, format!("--vacuum-size={limit}")]);
        names(&peer)
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    files(folder).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn is_active(name: &str) -> bool {
    name.ends_with(".journal") && !name.contains('@')
}

#[test]
fn the_same_files_go_as_journalctl_vacuums() {
    let journals = Journals::new();
    let all = journals.names();
    let unclean = all.iter().filter(|n| n.ends_with('~')).count();
    let active = all.iter().filter(|n| is_active(n)).count();
    assert!((1..=2).contains(&unclean), "{all:?}");
    assert_eq!((active, all.len()), (2, 8 + unclean), "{all:?}");
    let total: u64 = all.iter().map(|n| fs::metadata(journals.machine.join(n)).unwrap().blocks() * 512).sum();
    let mut outcomes = BTreeSet::new();
    for (round, keep) in (0..=12).map(|part| total * part / 12).enumerate() {
        let mut cleaning = journals.cleaning(keep);
        let survey = cleaning.survey();
        let plan = cleaning.plan(&survey);
        let go = paths(&plan.objects);
        let stays: BTreeSet<String> =
            all.iter().filter(|n| !go.contains(&journals.machine.join(n))).cloned().collect();
        assert_eq!(stays, journals.vacuumed(keep, round), "{keep} of {total} bytes: {:#?}", plan.refused);
        outcomes.insert(go.len());
    }
    let archived = all.len() - active;
    assert!(outcomes.len() > 5 && outcomes.contains(&0) && outcomes.contains(&archived), "{outcomes:?}");

    // And they really go, while what stays is as readable as before.
    let mut cleaning = journals.cleaning(0);
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    let done = cleaning.apply(&plan);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:#?}", done.refused);
    assert_eq!(done.freed_bytes, Some(plan.planned_bytes));
    let left: BTreeSet<String> = journals.names();
    assert_eq!(left, all.iter().filter(|n| is_active(n)).cloned().collect());
    let directory = format!("--directory={}", journals.machine.display());
    run("journalctl", &[directory.as_str(), "--verify", "--quiet"]);
    let lines = run("journalctl", &[directory.as_str(), "-t", "t", "-o", "cat"]).stdout;
    assert!(lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count() >= 900, "of the active files");
}

/// A reader that holds the files of a journal open, as log shippers do.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_not_what_it_says_stays() {
    let journals = Journals::new();
    let machine = &journals.machine;
    let real = journals.names();
    let archived = real.iter().find(|n| n.starts_with("system@") && n.ends_with(".journal")).unwrap();
    let head = fs::read(machine.join(archived)).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let fake = |n: u32| format!("system@{id}-{n:016x}-{n:016x}.journal");
    let mut odd: Vec<(PathBuf, &str)> = Vec::new();
    let mut put = |name: &OsStr, content: &[u8], reason| {
        fs::write(machine.join(name), content).unwrap();
        odd.push((machine.join(name), reason));
    };
    put(OsStr::new(&fake(1)), b"", "too short");
    put(OsStr::new(&fake(2)), &[0; 8192], "does not begin");
    put(OsStr::new(&fake(3)), &head, "another name");
    let mut online = head.clone();
    online[16] = 1;
    put(OsStr::new(&archived.replace(".journal", "0.journal")), &online, "");
    put(OsStr::new("user-1@0000000000000001-0000000000000002.journal~"), b"garbage", "too short");
    put(OsStr::from_bytes(b"system@new\nline.journal"), &head, "");
    put(OsStr::from_bytes(b"\xff@\xff.journal"), &head, "");
    put(OsStr::new("notes.log.1"), b"x", "");
    let hidden = journals.base().join("no-machine");
    fs::create_dir(&hidden).unwrap();
    fs::copy(machine.join(archived), hidden.join(archived)).unwrap();
    symlink(machine.join(archived), machine.join(fake(4))).unwrap();
    // The one whose header says that it is written to, under its very own name.
    fs::write(machine.join(archived), &online).unwrap();
    odd.push((machine.join(archived), "online"));

    let mut cleaning = journals.cleaning(0);
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    let go = paths(&plan.objects);
    let expected: BTreeSet<PathBuf> =
        real.iter().filter(|n| !is_active(n) && *n != archived).map(|n| machine.join(n)).collect();
    assert_eq!(go, expected, "{:#?}", plan.refused);
    for (path, reason) in odd.iter().filter(|(_, reason)| !reason.is_empty()) {
        assert!(why(&plan, path).contains(reason), "{path:?}: {}", why(&plan, path));
    }

    // Between plan and act: one is opened by a reader, one is said to be online again, one has another's content.
    let mut targets = go.iter();
    let (read, rewritten) = (targets.next().unwrap(), targets.next().unwrap());
    let mut follower = Command::new("sh");
    follower.args(["-c", "exec 3< \"$1\"; echo; exec sleep 600", "sh"]).arg(read);
    let mut follower = Follower(follower.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = [0];
    std::io::Read::read_exact(follower.0.stdout.as_mut().unwrap(), &mut said).unwrap();
    let mut changed = fs::read(rewritten).unwrap();
    changed[16] = 1;
    fs::write(rewritten, &changed).unwrap();
    let done = cleaning.apply(&plan);
    assert!(why(&done, read).starts_with("open elsewhere"), "{}", why(&done, read));
    assert_ne!(why(&done, rewritten), "");
    for object in &done.objects {
        let stays = object.path == *read || object.path == *rewritten;
        assert_eq!(object.outcome == ObjectOutcome::Removed, !stays, "{object:#?}");
        assert_eq!(object.path.exists(), stays);
    }
}

#[test]
fn a_machine_folder_that_became_a_link_is_not_followed() {
    let journals = Journals::new();
    let mut cleaning = journals.cleaning(0);
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    let all = journals.names().len();
    assert_eq!(plan.objects.len(), all - 2);
    let elsewhere = journals.temp.path().join("elsewhere");
    fs::rename(&journals.machine, &elsewhere).unwrap();
    symlink(&elsewhere, &journals.machine).unwrap();
    let done = cleaning.apply(&plan);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped), "{done:#?}");
    assert!(why(&done, &plan.objects[0].path).contains("a link or no folder"));
    assert_eq!(names(&elsewhere).len(), all);
}
